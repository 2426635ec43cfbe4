"""Is a binary or 8-bit index safe? Counts the neighbours, or true documents, that coded rows still find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..downstream.resampling import Interval
from ..measures.kernels.quantizers import quantize
from ..runs.provenance import versions
from .decision import CANNOT_TELL, Curve, Decision, Picture
from .intervals import best_of_each_size, halves, mean_interval, surely_above, surely_below
from .retrieval import NEIGHBOURS, inverse_ranks, nearest_rows, overlap, unit
from .rows import SearchedRows, searched_rows

SAFE = {"MRR": 0.98, "overlap@10": 0.95}  # share of the score of floats that a safe coding keeps
OVERSAMPLE = 4  # candidates for each neighbour, if they are scored again with floats
WIDTH, BITS = 8, 8  # columns and bits of a product code: one bit per column
LEAST_CODED = 1 << BITS  # rows that product codes are fitted to

Coded = tuple[torch.Tensor, torch.Tensor]  # queries and rows, whose inner products the coded search compares


@dataclass(frozen=True)
class Coding:
    """A way to store rows.

    Attributes:
        name: for the table.
        bits: per column.
        apply: `(queries, rows)` -> coded queries and rows; both come as unit rows.
        rescored: the search keeps four candidates for each neighbour wanted, and scores these with floats.
    """

    name: str
    bits: float
    apply: Callable[[torch.Tensor, torch.Tensor], Coded]
    rescored: bool = False


def check_index(
    data: Any,
    texts: Any = None,
    *,
    pairs: Any = None,
    column: str | None = None,
    layer: int = -1,
    pooling: str | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Decision:
    """Whether an index of binary codes, product codes or 8-bit numbers finds what one of floats finds.

    Codings: 8 bits per column (256 even steps between a column's least and largest value); product codes of 8 columns
    in 8 bits; the sign of each column. All are also tried after subtracting the rows' mean, and signs also with four
    candidates per neighbour that are scored again with floats. The score is the share of the ten nearest rows by cosine
    that the coded search finds, or with pairs the mean reciprocal rank of the true document. Queries are coded too,
    except with product codes.

    Args:
        data: a matrix of embeddings (array, tensor, `.npy`, `.safetensors`, `.parquet`), or a model: Hub id, folder,
            `pip:PACKAGE`, in memory.
        texts: for a model: a list or file of texts; default: 500 sentences of the packaged text.
        pairs: for a model, instead of texts: a file with a column of queries and one of documents, or such tuples.
        column: tensor or column of a file of rows.
        layer: 0 is what enters block 1; -1: what leaves the model.
        pooling: `"mean"`, `"mean_without_sinks"`, `"last"` or `"cls"`; default: as the model's folder says, else mean.
        tokenizer: of a model in memory.
        batch_size: texts per forward pass.
        seed: of queries and intervals.

    Returns:
        Decision: for each size the coding that is best on one half of the queries is tested. The verdict is the
            smallest
        coding that surely keeps 95 % of the neighbours (98 % of the reciprocal rank of floats) on both halves, such as
        `"binary, centred, rescored"`; or `"floats only"`; or `"cannot tell"`.

    Raises:
        BadInput: fewer than 50 rows.

    Cost: a search of at most 1,000 queries per coding, 2 n d 1,000 flops each, and the fit of the product codes.

    Example:
        >>> import torch
        >>> from hf_repgeo.decisions import check_index
        >>> X = torch.randn(300, 32, generator=torch.Generator().manual_seed(0))
        >>> check_index(X).verdict
        '8 bits'
    """
    embedding = {"layer": layer, "pooling": pooling, "tokenizer": tokenizer, "batch_size": batch_size}
    searched = searched_rows(data, texts, pairs, column=column, seed=seed, **embedding)
    scores = _scores(searched)
    return _decided(searched, scores, seed)


# --- codings ----------------------------------------------------------------------------------------------------------


def _codings(rows: torch.Tensor) -> list[Coding]:
    """The codings that can be tried on these rows, the largest first."""
    found = [
        Coding("floats", 32, _as_they_are),
        Coding("floats, centred", 32, _centred(_as_they_are)),
        Coding("8 bits", 8, _eight_bits),
        Coding("8 bits, centred", 8, _centred(_eight_bits)),
    ]
    constant = (rows == rows[0]).all(0).any()  # product codes leave out blocks of constant columns
    if len(rows) >= 2 * LEAST_CODED and rows.shape[1] >= WIDTH and not constant:
        found += [
            Coding("product codes", 1, _product_codes),
            Coding("product codes, rescored", 1, _product_codes, True),
        ]
    centred_signs = _centred(_signs)
    for rescored in (False, True):
        end = ", rescored" if rescored else ""
        found += [
            Coding("binary" + end, 1, _signs, rescored),
            Coding("binary, centred" + end, 1, centred_signs, rescored),
        ]
    return found


def _as_they_are(queries: torch.Tensor, rows: torch.Tensor) -> Coded:
    return queries, rows


def _centred(coding: Callable[[torch.Tensor, torch.Tensor], Coded]) -> Callable[[torch.Tensor, torch.Tensor], Coded]:
    def code(queries: torch.Tensor, rows: torch.Tensor) -> Coded:
        mean = rows.mean(0)
        return coding(unit(queries - mean), unit(rows - mean))

    return code


def _eight_bits(queries: torch.Tensor, rows: torch.Tensor) -> Coded:
    low, high = rows.amin(0), rows.amax(0)
    step = ((high - low) / 255).clamp_min(1e-30)

    def code(x: torch.Tensor) -> torch.Tensor:
        return ((x - low) / step).round().clamp(0, 255) * step + low

    return code(queries), code(rows)


def _signs(queries: torch.Tensor, rows: torch.Tensor) -> Coded:
    return torch.sign(queries), torch.sign(rows)


def _product_codes(queries: torch.Tensor, rows: torch.Tensor) -> Coded:
    found = quantize(rows, codebooks=rows.shape[1] // WIDTH, bits=BITS)
    blocks = [words.to(rows.dtype)[codes] for words, codes in zip(found.codebooks, found.codes.T)]
    return queries, torch.cat(blocks, 1) + found.shift


# --- scores -----------------------------------------------------------------------------------------------------------


def _scores(searched: SearchedRows) -> dict[Coding, np.ndarray]:
    """Coding -> `(m,)` what the coded search finds for each query; rows are coded once for both kinds of search."""
    queries, rows = unit(searched.queries), unit(searched.rows)
    own = torch.as_tensor(searched.target)
    wanted = None if searched.has_pairs else nearest_rows(queries, rows, own)
    coded: dict[Callable, Coded] = {}
    found = {}
    for coding in _codings(searched.rows):
        if coding.apply not in coded:
            coded[coding.apply] = coding.apply(queries, rows)
        coded_queries, coded_rows = coded[coding.apply]
        if wanted is None:
            found[coding] = _ranks(searched, coded_queries, coded_rows, coding.rescored)
            continue
        kept = NEIGHBOURS * (OVERSAMPLE if coding.rescored else 1)  # scored again, each true neighbour is found
        found[coding] = overlap(wanted, nearest_rows(coded_queries, coded_rows, own, min(kept, len(rows) - 1)))
    return found


def _ranks(searched: SearchedRows, queries: torch.Tensor, rows: torch.Tensor, rescored: bool) -> np.ndarray:
    """Reciprocal ranks; if `rescored`, by floats among 40 candidates, 0 where the true document is not among them."""
    target = torch.as_tensor(searched.target)
    coded = unit(queries) @ unit(rows).T
    if rescored:
        candidates = coded.topk(min(NEIGHBOURS * OVERSAMPLE, len(rows)), dim=1).indices
        floats = unit(searched.queries) @ unit(searched.rows).T
        coded = torch.full_like(floats, -2.0).scatter_(1, candidates, floats.gather(1, candidates))
    own = coded.gather(1, target[:, None])[:, 0]
    return torch.where(own > -2, inverse_ranks(coded, target), 0.0).double().numpy()


def _decided(searched: SearchedRows, scores: dict[Coding, np.ndarray], seed: int) -> Decision:
    name = searched.score_name
    found = {coding: mean_interval(score, searched.target, seed) for coding, score in scores.items()}
    verdict, answer = _said(searched, scores, found, seed)
    return Decision(
        "Is a binary or 8-bit index safe?",
        verdict,
        answer,
        [{"coding": coding.name, "bits a column": coding.bits, name: found[coding]} for coding in scores],
        "true pairs of your own (pairs=, --pairs): a lost neighbour matters less than a lost document; "
        "more candidates to score again.",
        Picture([Curve.of(name, [(coding.name, interval) for coding, interval in found.items()])], "coding", name),
        numbers={coding.name: interval.value for coding, interval in found.items()},
        provenance={"embeddings": searched.source, "seed": seed} | versions(),
    )


def _said(searched: SearchedRows, scores: dict, found: dict[Coding, Interval], seed: int) -> tuple[str, str]:
    """The verdict and its sentence: the smallest coding that is safe on both halves of the queries, chosen on one."""
    share = SAFE[searched.score_name]
    floats = max((coding for coding in scores if coding.bits == 32), key=lambda coding: scores[coding].mean())
    compact = [coding for coding in scores if coding.bits < 32]
    choosing, scoring = halves(searched.target, seed)

    def on(half: np.ndarray, values: np.ndarray) -> Interval:
        return mean_interval(values[half], searched.target[half], seed)

    beyond = {coding: scores[coding] - share * scores[floats] for coding in compact}  # 0 on average is enough
    kept = f"{share:.0%} of the {searched.score_name} of floats"
    score = {coding: scores[coding][choosing].mean() for coding in compact}
    for coding in best_of_each_size(score, lambda one: (one.bits, one.rescored)):  # scored again counts as larger
        if all(surely_above(on(half, beyond[coding]), 0) for half in (choosing, scoring)):
            again = ", with floats kept to score candidates again" if coding.rescored else ""
            bits = "1 bit" if coding.bits == 1 else f"{coding.bits} bits"
            said = f"{bits} a column{again} keep {kept} on held-out queries: {on(scoring, scores[coding])}."
            return coding.name, said
    may = [coding for coding in compact if not surely_below(on(scoring, beyond[coding]), 0)]
    if may:
        named = ", ".join(f"{coding.name} {found[coding]}" for coding in may)
        return CANNOT_TELL, f"these may keep {kept}, within the error: {named}."
    return "floats only", f"no coding that was tried keeps {kept}."
