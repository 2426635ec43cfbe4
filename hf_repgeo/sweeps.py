"""Many models, or many checkpoints of one, on the same rows of the same text: one tidy table.

hf_repgeo.sweep("EleutherAI/pythia-70m", revisions="step*", out="pythia")
hf_repgeo.sweep(checkpoints="runs/my-training", out="my-training")
hf_repgeo.sweep(models=["bert-base-uncased", "gpt2"], out="two")
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BadInput, RepgeoError
from .measures import check_options
from .profiling import profile
from .report import GeometryReport
from .rows.shared_findings import shared_findings
from .rows.small_files import utf8_text
from .rows.texts import corpus_of, packaged_sample
from .writing import write_whole, written_whole

if TYPE_CHECKING:
    import pyarrow

OF_PROFILE = frozenset(inspect.signature(profile).parameters)
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "config.json")


@dataclass(frozen=True)
class Member:
    """One model of a sweep.

    Attributes:
        model: as in `hf_repgeo.profile`.
        revision: branch, tag or commit on the Hub.
        step: the training step of the model, if its name tells it.
        tokenizer: where its tokenizer is, if not beside it.
    """

    model: str
    revision: str | None = None
    step: int | None = None
    tokenizer: str | None = None

    @property
    def name(self) -> str:
        """A short name for figures and tables."""
        return self.revision or Path(self.model.removeprefix("pip:")).name

    @property
    def folder(self) -> str:
        """A file name of its own."""
        digest = hashlib.sha256(f"{self.model}@{self.revision}".encode()).hexdigest()[:8]
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.")[:60] + f"-{digest}"


def sweep(
    model: str | None = None,
    texts: Any = None,
    *,
    revisions: str | list[str] | None = None,
    checkpoints: str | Path | None = None,
    models: Iterable[str | tuple[str, str]] | str | Path | None = None,
    out: str | Path,
    evict: bool = False,
    progress: bool = True,
    **options,
) -> GeometryReport:
    """Profiles many models on the same text, one after the other, into one table.

    Give one of `model` with `revisions`, `checkpoints`, or `models`. Finished models are kept: after an interruption
    the same call measures only the others. A model that cannot be loaded or measured becomes a row with the reason, and
    the next call tries it again. Under `torchrun` or `accelerate launch` each process takes its share of the models.

    `out` holds `sweep.parquet`, one row per number with the columns `member`, `model`, `revision`, `step` in front,
    `sweep.json`, the same as a report, both replaced in one step after every model, and one folder per model below
    `runs`.

    Args:
        model: a Hub id, whose `revisions` are measured.
        texts: as in `hf_repgeo.profile`.
        revisions: a pattern such as `"step*"`, matched with the branches and tags on the Hub, or their names.
        checkpoints: a folder with a model in each of its subfolders, such as a Trainer's output folder.
        models: names as in `hf_repgeo.profile`, `(name, revision)` pairs, or a file with a name and perhaps a revision
            on each line; `#` begins a comment.
        out: the folder for the results.
        evict: delete each model of the Hub from the cache once it is measured.
        progress: show progress bars.
        options: of `hf_repgeo.profile`: `measures`, `tokens`, `rows`, `window`, `seed` ...

    Returns:
        GeometryReport: the rows of all models; `details` has `member`, `model`, `revision`, and `step` where there is
        one. `provenance["failed"]` maps the members that failed to their reasons.

    Raises:
        BadInput: no models, or more than one way to name them; a folder without checkpoints; no revision that matches.

    Cost: for each model its loading, one forward pass, and the measures; memory for one model.

    Example:
        >>> import hf_repgeo
        >>> report = hf_repgeo.sweep(checkpoints="runs/my-training", out="geometry")  # doctest: +SKIP
        >>> hf_repgeo.plot_training(report).savefig("training.png")  # doctest: +SKIP
    """
    members = _members(model, revisions, checkpoints, models)
    _check_options(options)
    corpus = packaged_sample() if texts is None else corpus_of(texts, options.pop("clean", None) or "none")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise BadInput("out", came=f"{str(out)!r}, which is a file", wanted="a folder, which need not exist yet")
    (out / "runs").mkdir(parents=True, exist_ok=True)
    settings = json.dumps({"text": corpus.provenance(), **options}, sort_keys=True, default=str)
    with shared_findings():
        for member in _share(members):
            if _is_done(out, member, settings):
                continue
            _measure(out, member, corpus, settings, progress, options)
            if evict:
                _evict(member)
            collect(out, members, settings)
    return collect(out, members, settings)


# --- the models -----------------------------------------------------------------------------------------------------


def _members(model, revisions, checkpoints, models) -> list[Member]:
    ways = {"model": model, "checkpoints": checkpoints, "models": models}
    chosen = [name for name, value in ways.items() if value is not None]
    if len(chosen) != 1:
        came = " and ".join(chosen) or "none of them"
        raise BadInput("model", came=came, wanted="one of model (with revisions), checkpoints and models")
    if checkpoints is not None:
        return _of_checkpoints(Path(checkpoints))
    if models is not None:
        return _of_list(models)
    if not revisions:
        cure = "For a single model there is hf_repgeo.profile."
        raise BadInput("revisions", came="none", wanted="a pattern such as 'step*'", cure=cure)
    named = _matching(model, revisions) if isinstance(revisions, str) else list(revisions)
    return sorted((Member(model, name, step_of(name)) for name in named), key=_place)


def _of_checkpoints(folder: Path) -> list[Member]:
    found = [each for each in folder.iterdir() if (each / "config.json").is_file()] if folder.is_dir() else []
    if not found:
        came = f"{str(folder)!r}, with no model in a subfolder"
        raise BadInput("checkpoints", came=came, wanted="a folder such as a Trainer's output folder")
    beside = str(folder) if (folder / "tokenizer_config.json").is_file() else None
    members = []
    for each in found:
        own = (each / "tokenizer_config.json").is_file()
        members.append(Member(str(each), None, step_of(each.name), None if own else beside))
    return sorted(members, key=_place)


def _of_list(models) -> list[Member]:
    if isinstance(models, (str, Path)):
        if not Path(models).is_file():
            raise BadInput(
                "models", came=f"{str(models)!r}, which is not a file", wanted="a file with a model on each line"
            )
        lines = (line.partition("#")[0].split() for line in utf8_text(models, "models").split("\n"))
        models = [tuple(line) for line in lines if line]
    for entry in models:
        if not isinstance(entry, (str, tuple, list)):
            came = f"one of type {type(entry).__name__}"
            raise BadInput("models", came=came, wanted="names as in hf_repgeo.profile, or (name, revision) pairs")
    pairs = [(entry,) if isinstance(entry, str) else tuple(entry) for entry in models]
    if not pairs or any(len(pair) not in (1, 2) for pair in pairs):
        came = "no model" if not pairs else f"{max(pairs, key=len)!r}"
        raise BadInput("models", came=came, wanted="a name, and perhaps a revision, for each model")
    named = [(pair[0], pair[1] if len(pair) > 1 else None) for pair in dict.fromkeys(pairs)]
    return [Member(name, revision, step=_step_of_model(name, revision)) for name, revision in named]


def _step_of_model(name: str, revision: str | None = None) -> int | None:
    """The training step in a revision's name; in a model's name a number counts only after "step"."""
    return step_of(revision) if revision else step_of(name) if "step" in name else None


def _matching(model: str, pattern: str) -> list[str]:
    """The branches and tags of a model on the Hub that fit a pattern."""
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(model)
    except Exception as error:  # whatever the Hub or the network raises
        came = f"{pattern!r} of {model!r} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        cure = "Without a network give the revisions' names, or checkpoints=."
        raise BadInput("revisions", came=came, wanted="a model on the Hub", cure=cure) from error
    names = [ref.name for ref in [*refs.branches, *refs.tags]]
    found = [name for name in dict.fromkeys(names) if fnmatchcase(name, pattern)]
    if not found:
        raise BadInput("revisions", came=f"{pattern!r}", wanted=f"a pattern that fits one of {', '.join(names[:8])}")
    return found


def step_of(name: str) -> int | None:
    """The training step that a name tells: the number after "step", `k` for thousands, else the last number.

    Example:
        >>> from hf_repgeo.sweeps import step_of
        >>> step_of("step143000"), step_of("seed_0-step_20k"), step_of("checkpoint-60"), step_of("main")
        (143000, 20000, 60, None)
    """
    told = re.search(r"step[_-]?(\d+)(k?)", name)
    if told:
        return int(told[1]) * (1000 if told[2] else 1)
    numbers = re.findall(r"\d+", name)
    return int(numbers[-1]) if numbers else None


def _place(member: Member) -> tuple:
    return (member.step is None, member.step or 0, member.name)


def _share(members: list[Member]) -> list[Member]:
    """The members that this process measures, as torchrun and `accelerate launch` number their processes."""
    return members[int(os.environ.get("RANK", 0)) :: int(os.environ.get("WORLD_SIZE", 1))]


# --- measuring ------------------------------------------------------------------------------------------------------


def _check_options(options: dict) -> None:
    """Refuses what `profile` does not take, before the first model is loaded."""
    for name in ("model", "texts", "revision", "out", "tokenizer"):
        if name in options:
            raise BadInput(name, came="one for all models", wanted="none: each model of a sweep has its own")
    check_options({name: value for name, value in options.items() if name not in OF_PROFILE})


def _measure(out: Path, member: Member, corpus, settings: str, progress: bool, options: dict) -> None:
    """Measures one model; if that fails, the reason is written down and the sweep continues."""
    folder = out / "runs" / member.folder
    folder.mkdir(exist_ok=True)
    note = {"settings": settings, "weights": _weights(member), "failed": None}
    try:
        asked: dict[str, Any] = {
            "revision": member.revision,
            "tokenizer": member.tokenizer,
            "out": folder,
            "progress": progress,
        }
        profile(member.model, corpus, **options, **asked)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # results cannot be written, so that every later model would fail too
        note["failed"] = f"{type(error).__name__}: {error}".splitlines()[0][:500]
    write_whole(folder / "note.json", json.dumps(note))


def _note(out: Path, member: Member) -> dict:
    """What was written down about a member; nothing if the file is incomplete."""
    try:
        note = json.loads((out / "runs" / member.folder / "note.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return note if isinstance(note, dict) else {}


def _is_done(out: Path, member: Member, settings: str) -> bool:
    note = _note(out, member)
    same = note.get("settings") == settings and note.get("weights") == _weights(member)
    return same and note.get("failed", "") is None


def _weights(member: Member) -> list | None:
    """Sizes and times of a local model's files; they change when another training writes into the same folder."""
    folder = Path(member.model)
    if not folder.is_dir():
        return None
    files = sorted(file for pattern in WEIGHTS for file in folder.glob(pattern))
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _evict(member: Member) -> None:
    """Deletes the files of a Hub model's revision from the cache, except those that other revisions share."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return
    wanted = member.revision or "main"
    hashes = [
        revision.commit_hash
        for repo in cache.repos
        if repo.repo_type == "model" and repo.repo_id == member.model
        for revision in repo.revisions
        if wanted in revision.refs or revision.commit_hash == wanted
    ]
    cache.delete_revisions(*hashes).execute()


# --- the table ------------------------------------------------------------------------------------------------------


def collect(out: Path, members: list[Member], settings: str) -> GeometryReport:
    """Collects what has been measured so far, and writes it.

    Args:
        out: the folder of the sweep.
        members: of the sweep, in order.
        settings: of the sweep; results of another one are left out.

    Returns:
        GeometryReport: see `sweep`.
    """
    whole, failed = GeometryReport(), {}
    for member in members:
        note = _note(out, member)
        if note.get("settings") != settings:
            continue
        labels: dict[str, Any] = {"member": member.name, "model": member.model, "revision": member.revision}
        labels |= {} if member.step is None else {"step": member.step}
        if note.get("failed") is not None:
            failed[member.name] = note["failed"]
            whole.add(protocol="failed", warnings=[f"failed: {note['failed']}"], details=labels)
            continue
        try:
            report = GeometryReport.from_json(out / "runs" / member.folder / "profile.json")
        except RepgeoError as error:
            failed[member.name] = str(error)
            continue
        whole.provenance = whole.provenance or {key: report.provenance.get(key) for key in ("text", "versions")}
        for row in report:
            whole.add(**row | {"details": row["details"] | labels})
    whole.provenance |= {"model": _title(members), "members": [asdict(member) for member in members], "failed": failed}
    if len(whole):
        whole.to_json(out / "sweep.json")
        _write_table(whole, out / "sweep.parquet")
    return whole


def _title(members: list[Member]) -> str:
    names = list(dict.fromkeys(m.model if m.revision else str(Path(m.model).parent) for m in members))
    return names[0] if len(names) == 1 and names[0] != "." else f"{len(members)} models"


def _write_table(report: GeometryReport, path: Path) -> None:
    import pyarrow.parquet

    with written_whole(path) as unfinished:
        pyarrow.parquet.write_table(_tidy(report), unfinished)


def _tidy(report: GeometryReport) -> pyarrow.Table:
    """The report's columns after those that name the model."""
    import pyarrow as pa

    table = report.to_arrow()
    for place, name in enumerate(("member", "model", "revision", "step")):
        kind = pa.int64() if name == "step" else pa.string()
        table = table.add_column(place, name, pa.array([row["details"].get(name) for row in report], kind))
    return table
