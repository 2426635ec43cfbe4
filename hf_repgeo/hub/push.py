"""Pushes reports to the Hub and finds them again: files, a card section, rows of a results data set.

push_report(report, "me/model")                              files under repgeo/ and a section in the card
push_report(report, "me/model", results_dataset="me/geo")    and the rows into a data set
push_report(report, "me/model", atlas="them/atlas")          and into an atlas of many models, by pull request
push_report(report, "me/model", to="folder")                 a dry run: only writes what would go up
find_report("me/model")                                      the file of the report, for `hf_repgeo.load_report`

A push is computed from the repository at one commit and committed only if that commit is still its head; otherwise it
is computed again. So nothing is overwritten, and pushing twice changes nothing.
"""

from __future__ import annotations

import logging
import math
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, UnknownName
from ..report_table import CASE, ReportTable
from ..report_text import ABSOLUTE
from ..version import __version__
from .atlas import atlas_files, check_for_atlas
from .cards import summaries, update_card
from .commits import HubError, Snapshot, Upload, dry_run, explain, push, snapshot, with_retries
from .results_dataset import digest, model_of, results_files, run_id, text_of
from .staging import staging_folder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = ["HubError", "Pushed", "find_atlas", "find_report", "push_report"]

logger = logging.getLogger(__name__)

FOLDER = "repgeo"
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
PATH = re.compile(r"(?<![\w.:/\\~-])(?:~|[A-Za-z]:)?(?:[/\\][^\s/\\'\"`,;:()]+){2,}[/\\]?")  # inside a sentence


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        folder: of a dry run, which holds everything as `models/OWNER/NAME/...` and `datasets/OWNER/NAME/...`.
        commits: the address of the commit that holds it, by repository; an earlier one if there was nothing new.
        pull_requests: the address of the pull request, by repository, if there is one instead of a commit.
    """

    folder: Path | None = None
    commits: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.folder:
            return f"written to {self.folder}, nothing pushed"
        places = {**self.commits, **{repo: f"pull request {url}" for repo, url in self.pull_requests.items()}}
        return "\n".join(f"{repo}: {place}" for repo, place in places.items())


def push_report(
    report: ReportTable,
    repo_id: str,
    *,
    name: str | None = None,
    to: str | Path | None = None,
    results_dataset: str | None = None,
    atlas: str | None = None,
    private: bool | None = None,
    create_pr: bool | None = None,
    card: bool = True,
    license: str | None = None,
    overwrite: bool = False,
    token: str | bool | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Pushed:
    """Puts a report into a model repository and, if asked, its rows into a results data set.

    In the model repository: `repgeo/NAME.json`, `.parquet` and, if there are layers to draw, `.png`; a section of the
    card between two markers; the summary in the card's `model-index`. In the data set: one row per model, commit,
    layer, measure and convention, none of them twice, whoever else pushes at the same time. Everything in the report is
    pushed, the name of the model and of the text included.

    Args:
        report: finite numbers only.
        repo_id: the model repository, `OWNER/NAME`; created if it does not exist and is yours.
        name: of the files; default: the text's name and a hash of what was measured.
        to: a folder: a dry run that writes what would go up and pushes nothing.
        results_dataset: a data set, `OWNER/NAME`, to append the rows to.
        atlas: a data set, `OWNER/NAME`, of many models, see `hf_repgeo.load_atlas`: the rows are checked and proposed
            by pull request.
        private: visibility of a repository that is created here; default: your account's. Existing ones keep theirs.
        create_pr: by pull request or by commit; default: by pull request where the repository is not yours.
        card: whether to write the section and the summary.
        license: of the model, such as `"apache-2.0"`, for a card that states none.
        overwrite: replace results in the card's `model-index` that an earlier push of the same run gave otherwise.
        token: as in `huggingface_hub`; default: the one you logged in with.
        api: a client to use instead of `HfApi(token=token)`.
        sleep: waits the given number of seconds between two attempts.

    Returns:
        Pushed: the folder of a dry run, or the addresses of commits and pull requests.

    Raises:
        BadInput: a name that cannot be one, numbers that are not finite, a card that cannot be merged.
        HubError: the Hub refused, or could not be reached in several attempts. `error.folder` holds the files, and
            the message says how to try again.

    Example:
        >>> import tempfile, torch, hf_repgeo
        >>> report = hf_repgeo.measure(torch.eye(4), measures=["participation_ratio"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pushed = hf_repgeo.push_report(report, "me/model", name="identity", to=folder)
        ...     hf_repgeo.load_report(folder) == report
        True
    """
    report = plain(report)
    path = f"{FOLDER}/{_file_name(report, name)}.json"
    api = api or client(token)
    for argument, repo in (("repo_id", repo_id), ("results_dataset", results_dataset), ("atlas", atlas)):
        check_id(argument, repo)
    uploads = [_to_model(report, repo_id, path, api.endpoint, card, overwrite, license)]
    if results_dataset is not None:
        uploads.append(_to_dataset(report, repo_id, path, results_dataset))
    if atlas is not None:
        check_for_atlas(report)
        uploads.append(_to_atlas(report, repo_id, path, atlas))
    if to is not None:
        return Pushed(folder=dry_run(api, uploads, checked_folder(to)))
    asked = {"results_dataset": results_dataset, "atlas": atlas, "private": private, "create_pr": create_pr}
    with staging_folder() as folder:
        retry = _retry_command(_save(report, folder / uploads[0].place / path), repo_id, card, overwrite, **asked)
        landed = push(api, uploads, folder, private=private, create_pr=create_pr, sleep=sleep, retry=retry)
    return Pushed(
        commits={repo: there.url for repo, there in landed.items() if not there.by_request},
        pull_requests={repo: there.url for repo, there in landed.items() if there.by_request},
    )


def find_report(
    repo_id: str | Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """The JSON file of a report that `push_report` put into a model repository; see `hf_repgeo.load_report`.

    Raises:
        BadInput: there is no report, or there are several and no `name`.
        UnknownName: no report of this name.
        HubError: the repository cannot be read.
    """
    folder = Path(repo_id)
    if folder.is_dir():
        files = {
            file.stem: file for pattern in ("", "models/*/*/") for file in folder.glob(f"{pattern}{FOLDER}/*.json")
        }
        return files[_chosen(repo_id, files, name)]
    repo_id = str(repo_id)
    check_id("repo_id", repo_id)
    api = api or client(token)
    try:
        return with_retries(partial(_download, api, repo_id, name, revision), sleep)
    except (OSError, RuntimeError) as error:
        raise HubError(f"{repo_id!r} cannot be read: {explain(error, api)}") from error


def _download(api: HfApi, repo_id: str, name: str | None, revision: str | None) -> Path:
    there = snapshot(api, repo_id, "model", revision)
    files = {Path(path).stem: path for path in there.paths if re.fullmatch(rf"{FOLDER}/[^/]+\.json", path)}
    return Path(there.local(files[_chosen(repo_id, files, name)]))


def find_atlas(
    repo_id: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    api: HfApi | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Path]:
    """The Parquet files of an atlas on the Hub, or in a folder; see `hf_repgeo.load_atlas`.

    Raises:
        HubError: the data set cannot be read.
    """
    folder = Path(repo_id)
    if folder.is_dir():
        return sorted(folder.rglob("*.parquet"))
    check_id("repo_id", str(repo_id))
    api = api or client(token)

    def download() -> list[Path]:
        there = snapshot(api, str(repo_id), "dataset", revision)
        return [there.local(path) for path in sorted(there.paths) if re.fullmatch(r"data/.+\.parquet", path)]

    try:
        return with_retries(download, sleep)
    except (OSError, RuntimeError) as error:
        raise HubError(f"{str(repo_id)!r} cannot be read: {explain(error, api)}") from error


def _chosen(repo_id: str | Path, files: dict[str, Any], name: str | None) -> str:
    if name is not None and name not in files:
        raise UnknownName("report", name, sorted(files))
    if name is None and len(files) != 1:
        came = f"{str(repo_id)!r}, which holds " + (f"{len(files)}: {', '.join(sorted(files))}" if files else "none")
        raise BadInput("repo_id", came=came, wanted="one report", cure="Pass name=." if files else "")
    return name if name is not None else next(iter(files))


# --- the files of each repository -------------------------------------------------------------------------------------


def _to_model(
    report: ReportTable, repo_id: str, path: str, endpoint: str, card: bool, overwrite: bool, license: str | None
) -> Upload:
    files = _files(report, path)
    figure = next((file for file in files if file.endswith(".png")), None)
    url = f"{endpoint}/{repo_id}/blob/main/{path}"
    about: dict[str, Any] = {"report": report, "repo_id": repo_id, "path": path, "url": url, "figure": figure}
    text = partial(update_card, **about, overwrite=overwrite, license=license)
    files_for = partial(_model_files, files=files, card=text if card else None)
    return Upload(repo_id, "model", f"Add geometry measured by hf_repgeo: {path}", files_for)


def _to_dataset(report: ReportTable, repo_id: str, path: str, results_dataset: str) -> Upload:
    files_for = partial(results_files, report=report, repo_id=repo_id, path=path)
    title = f"Add geometry of {model_of(report, repo_id)}, run {run_id(report)}"
    return Upload(results_dataset, "dataset", title, files_for)


def _to_atlas(report: ReportTable, repo_id: str, path: str, atlas: str) -> Upload:
    files_for = partial(atlas_files, report=report, repo_id=repo_id, path=path)
    title = f"Add {model_of(report, repo_id)}, run {run_id(report)}"
    return Upload(atlas, "dataset", title, files_for, by_request=True)


def _files(report: ReportTable, path: str) -> dict[str, bytes]:
    """Path and content of the report's own files."""
    stem = path.removesuffix(".json")
    figure = _figure(report)
    files = {path: _written(report.to_json), f"{stem}.parquet": _written(report.to_parquet)}
    return files | ({f"{stem}.png": figure} if figure is not None else {})


def _model_files(
    there: Snapshot, *, files: dict[str, bytes], card: Callable[[str | None], str] | None
) -> dict[str, bytes]:
    """Those files, and the repository's card with our section in it."""
    if card is None:
        return files
    readme = there.read("README.md").decode() if "README.md" in there.paths else None
    written = card(readme)
    if readme is None and "\nlicense:" not in written:
        logger.warning("the new model card states no licence; pass license=, such as license='apache-2.0'")
    return {**files, "README.md": written.encode()}


def _written(write: Callable[[Path], Path]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder) / "file").read_bytes()


def _figure(report: ReportTable) -> bytes | None:
    """The curves over layers, or over the steps of a training, as PNG; `None` where there is nothing to draw."""
    from ..plots import DEFAULT_PANELS, plot_layers, plot_training
    from ..report_text import has_steps

    first = next(summaries(report), None)
    panels = {f"{summary.measure}:{summary.convention}": summary.measure for summary in summaries(report)}
    headline = [panel for panel, measure in panels.items() if measure in DEFAULT_PANELS] or list(panels)
    try:
        if has_steps(report):
            figure = plot_training(report, headline)
        else:  # one policy, that of the table
            figure = plot_layers(report, headline, [first.tokens] if first and first.tokens else None)
    except BadInput:
        return None
    # Without metadata that names matplotlib's version, equal curves give equal bytes.
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    return picture.getvalue()


# --- arguments --------------------------------------------------------------------------------------------------------


def plain(report: ReportTable) -> ReportTable:
    """The report in JSON's types: numpy's scalars as Python's, tuples as lists. Without local paths and tokens.

    Raises:
        BadInput: no row, a number that is not finite, or something that JSON does not know.
    """
    if not len(report):
        raise BadInput("report", came="no rows", wanted="at least one measured number")
    rows = [_plain(row, f"{row['measure']}, layer {row['layer']}") for row in report.rows]
    return type(report)(rows, _plain(report.provenance, "provenance"))


def _without_secrets(text: str) -> str:
    """Without what belongs to this machine: a path, alone or in a sentence, becomes its last name; a token goes."""
    if "\n" not in text and ABSOLUTE.match(text):
        text = _last_name(text)
    return TOKEN.sub("hf_...", PATH.sub(lambda found: _last_name(found[0]), text))


def _last_name(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {_without_secrets(str(key)): _plain(item, f"{where}, {key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput("report", came=f"{value} ({where})", wanted="finite numbers, or None where there is none")
    if isinstance(value, str):
        return _without_secrets(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise BadInput("report", came=f"{type(value).__name__} ({where})", wanted="numbers, strings, lists and dicts")


def _file_name(report: ReportTable, name: str | None) -> str:
    if name is None:
        text = re.sub(r"[^\w.-]+", "-", str(text_of(report)["name"] or "rows"), flags=re.ASCII).strip(".-")
        cases = [[row[column] for column in CASE] for row in report]
        return f"{text or 'text'}-{digest([run_id(report), cases])[:8]}"
    if not re.fullmatch(r"\w[\w.-]{0,95}", name, flags=re.ASCII):
        raise BadInput("name", came=repr(name), wanted="letters, digits, '-', '_' and '.'")
    return name


def check_id(argument: str, repo_id: str | None) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if repo_id is None:
        if argument in ("results_dataset", "atlas"):
            return
        raise BadInput(argument, came="none", wanted="OWNER/NAME")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise BadInput(argument, came=f"{repo_id!r} ({error})", wanted="OWNER/NAME") from None
    if "/" not in repo_id:
        raise BadInput(argument, came=repr(repo_id), wanted="OWNER/NAME", cure="Whose repository is it?")


def checked_folder(to: str | Path) -> Path:
    folder = Path(to)
    if folder.exists() and not folder.is_dir():
        raise BadInput("to", came=f"{str(to)!r}, which is a file", wanted="a folder")
    return folder


def client(token: str | bool | None) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="hf_repgeo", library_version=__version__)


def _save(report: ReportTable, file: Path) -> Path:
    """Writes the report to disk before anything else can fail."""
    file.parent.mkdir(parents=True)
    return report.to_json(file)


def _retry_command(file: Path, repo_id: str, card: bool, overwrite: bool, **asked: Any) -> str:
    """The command that does the same push, for the message of a failed one."""
    import shlex

    words = ["hf-repgeo", "report", "push", str(file), repo_id, "--name", file.stem]
    for option in ("results_dataset", "atlas"):
        if asked[option]:
            words += ["--" + option.replace("_", "-"), asked[option]]
    for option in ("private", "create_pr"):
        if asked[option] is not None:
            words.append(("--" if asked[option] else "--no-") + option.replace("_", "-"))
    return shlex.join([*words, *["--no-card"] * (not card), *["--overwrite"] * overwrite])
