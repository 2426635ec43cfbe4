"""Which cosine means related? The one that few unrelated texts reach, and how many true pairs lie above it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..downstream.resampling import LEVEL, Interval, cluster_weights
from ..errors import BadInput
from ..runs.provenance import versions
from .decision import CANNOT_TELL, Curve, Decision, Picture
from .embeddings import embed
from .inputs import GroupedTexts, Pairs, is_matrix, read_groups, read_matrix, read_pairs
from .intervals import DRAWS, LEAST_CLUSTERS, halves, mean_interval, surely_above, surely_below
from .repair import Centred, Repair, Whitened
from .retrieval import unit
from .unrelated import UnrelatedCosines

MOST_ROWS = 6000  # whose pairs are counted
LEVELS = {"q99": 0.99, "q99.9": 0.999}
HALF = 0.5  # share of the true pairs that must lie above a useful threshold
SHARE = 100  # one of this many directions is removed, as the authors of the repair advise


@dataclass(frozen=True)
class _Variant:
    """The rows as they are, or repaired: cosines of unrelated pairs, and of true ones where there are any."""

    name: str
    unrelated: UnrelatedCosines
    true: np.ndarray | None = None
    mismatched: torch.Tensor | None = None


def cosine_floor(
    model: Any,
    texts: Any = None,
    *,
    pairs: Any = None,
    layer: int = -1,
    pooling: str | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Decision:
    """Which cosine means related: what unrelated texts reach, and how many true pairs lie above that.

    Pairs of texts of different groups are unrelated. The threshold is the cosine that 1 in 100 of them exceeds (q99).
    Four variants of the rows: as they are, centred, without their strongest directions (one of each hundred, at least
    one), and whitened. The repairs are fitted on one half of the groups and used on the other, in turn; unrelated pairs
    are counted inside the halves. Where true pairs are given they decide: a query with another query's document is then
    an unrelated pair, and its q99 the threshold.

    Args:
        model: Hub id, folder, `pip:PACKAGE`, a model or SentenceTransformer in memory; or a matrix of embeddings
            (array, tensor, `.npy`, `.safetensors` or `.parquet`), a row for each of the texts.
        texts: a file with the columns `text` and `group` (`.csv`, `.tsv`, `.jsonl`), or a mapping from a group to its
            texts; default: 500 sentences of the packaged text from 20 unrelated articles.
        pairs: a file with a column of queries and one of documents that belong to them, or such tuples.
        layer: 0 is what enters block 1; -1: what leaves the model.
        pooling: `"mean"`, `"mean_without_sinks"`, `"last"` or `"cls"`; default: as the model's folder says, else mean.
        tokenizer: of a model in memory.
        batch_size: texts per forward pass.
        seed: of halves, draws and intervals.

    Returns:
        Decision: `"threshold"`, with the cosine in `numbers["threshold"]`; `"no threshold"` where fewer than half of
        the true pairs lie above what 1 in 100 unrelated ones reaches; or `"cannot tell"`.

    Raises:
        BadInput: fewer than 10 groups, too few to generalize from two halves; rows that do not match the texts;
            unusable files.

    Cost: one forward pass over the texts; at most 6,000 rows are compared, an even draw.

    Example:
        >>> import torch
        >>> from hf_repgeo.decisions import cosine_floor
        >>> X = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
        >>> texts = {f"group {i}": ["a text"] * 20 for i in range(20)}
        >>> print(cosine_floor(X, texts).verdict)
        threshold
    """
    if texts is None and is_matrix(model):
        wanted = "the group of each row: a file with the columns text and group, or a mapping from a group to its texts"
        raise BadInput("texts", came="none beside a matrix", wanted=wanted)
    grouped = read_groups(texts)
    if grouped.n_groups < 2 * LEAST_CLUSTERS:
        came, wanted = f"{grouped.n_groups} groups", f"at least {2 * LEAST_CLUSTERS}: five in each half"
        raise BadInput("texts", came=came, wanted=wanted)
    true = None if pairs is None else read_pairs(pairs)
    rows, true_rows, source = _rows(model, grouped, true, layer, pooling, tokenizer, batch_size)
    keep = _even_draw(grouped.groups, seed)
    variants = _variants(rows[keep], grouped.groups[keep], true_rows, true, seed)
    provenance = {"embeddings": source, "texts": grouped.name, "pairs": true and true.name, "seed": seed} | versions()
    if true is None:
        return _from_groups(variants, provenance, seed)
    return _from_pairs(variants, true, provenance, seed)


def _rows(model, grouped: GroupedTexts, true: Pairs | None, layer, pooling, tokenizer, batch_size):
    """Rows of the texts, of queries and documents, and where they came from."""
    if is_matrix(model):
        rows = read_matrix(model)
        if len(rows) != len(grouped.texts):
            raise BadInput("texts", came=f"{len(grouped.texts)} texts for {len(rows)} rows", wanted="one for each row")
        if true is not None:
            raise BadInput("pairs", came="pairs of texts beside a matrix", wanted="a model, which can embed them")
        return rows, None, {"rows": tuple(rows.shape)}
    options = {"layer": layer, "pooling": pooling, "tokenizer": tokenizer, "batch_size": batch_size}
    queries, documents = (true.queries, true.documents) if true else ([], [])
    found = embed(model, [*grouped.texts, *queries, *documents], **options)
    ends = np.cumsum([len(grouped.texts), len(queries)])
    rows, query_rows, document_rows = found.rows.tensor_split(torch.as_tensor(ends))
    return rows, (query_rows, document_rows) if true else None, found.facts()


def _even_draw(groups: np.ndarray, seed: int) -> np.ndarray:
    """At most `MOST_ROWS` rows, drawn evenly from all groups that still have some."""
    if len(groups) <= MOST_ROWS:
        return np.arange(len(groups))
    order = np.random.default_rng(seed).permutation(len(groups))
    turn = np.empty(len(groups), dtype=np.int64)  # how many rows of its group come before a row
    for group in np.unique(groups):
        mine = order[groups[order] == group]
        turn[mine] = np.arange(len(mine))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:MOST_ROWS])


def _variants(rows: torch.Tensor, groups: np.ndarray, true_rows, true: Pairs | None, seed: int) -> list[_Variant]:
    strongest = min(max(1, rows.shape[1] // SHARE), rows.shape[1] - 1, len(rows) // 2 - 1)
    fits: dict[str, Callable[[torch.Tensor], Repair] | None] = {
        "raw": None,
        "centred": Centred.fit,
        f"centred, {strongest} directions out": lambda fitted: Centred.fit(fitted, strongest),
        "whitened": Whitened.fit,
    }
    one, other = halves(groups, seed)
    variants = []
    for name, fit in fits.items():
        counted = [
            UnrelatedCosines.of(_repaired(rows[mine], rows[fitted], fit), groups[mine])
            for mine, fitted in ((one, other), (other, one))
        ]
        if true is None:
            variants.append(_Variant(name, counted[0] + counted[1]))
            continue
        queries, documents = (unit(_repaired(part, rows, fit)) for part in true_rows)
        cosines = queries @ documents.T
        own = cosines[torch.arange(len(queries)), torch.as_tensor(true.target)]
        variants.append(_Variant(name, counted[0] + counted[1], own.double().numpy(), cosines))
    return variants


def _repaired(rows: torch.Tensor, fitted: torch.Tensor, fit: Callable[[torch.Tensor], Repair] | None) -> torch.Tensor:
    return rows if fit is None or (fitted == fitted[0]).all() else fit(fitted).apply_to(rows)


# --- without pairs ----------------------------------------------------------------------------------------------------


def _from_groups(variants: list[_Variant], provenance: dict, seed: int) -> Decision:
    evidence = [_evidence(variant, seed) for variant in variants]
    floor = evidence[0]["q99"]
    answer = (
        f"1 in 100 pairs of unrelated texts has a cosine above {floor}, so a cosine below that says nothing. "
        "How many related texts lie above it only pairs can tell."
    )
    return Decision(
        "Which cosine means related?",
        "threshold",
        answer,
        evidence,
        "pairs of texts that belong together (pairs=, --pairs); texts nearer to your own than these.",
        _picture(variants, {"q99": floor.value}),
        numbers={"threshold": floor.value, "threshold_low": floor.low, "threshold_high": floor.high},
        provenance=provenance,
    )


def _evidence(variant: _Variant, seed: int) -> dict[str, Any]:
    quantiles = {name: variant.unrelated.quantile(level, seed) for name, level in LEVELS.items()}
    return {"rows": variant.name, "mean of unrelated": variant.unrelated.mean(seed), **quantiles}


# --- with pairs -------------------------------------------------------------------------------------------------------


def _from_pairs(variants: list[_Variant], true: Pairs, provenance: dict, seed: int) -> Decision:
    evidence = [_evidence(variant, seed) for variant in variants]
    mismatched = [_mismatched_quantile(variant, true, seed) for variant in variants]
    above = []
    for row, variant, threshold in zip(evidence, variants, mismatched):
        above.append(mean_interval(_true(variant) > threshold.value, true.target, seed))
        row["true above q99"] = mean_interval(_true(variant) > row["q99"].value, true.target, seed)
        row["q99 of mismatched pairs"], row["true above it"] = threshold, above[-1]
    threshold, share, floor = mismatched[0], above[0], evidence[0]["q99"]
    useful = "threshold" if surely_above(share, HALF) else "no threshold" if surely_below(share, HALF) else CANNOT_TELL
    said = f"{_percent(share)} of {len(true)} true pairs lie above {threshold.value:.2f}, "
    answer = said + "which 1 in 100 queries with another query's document exceeds."
    agree = not (surely_above(floor, threshold.high or 1.0) or surely_below(floor, threshold.low or -1.0))
    geometry = (
        f"unrelated texts put the threshold at {floor}; {'the same' if agree else 'another one'} within the intervals."
    )
    return Decision(
        "Which cosine means related?",
        useful,
        answer,
        evidence,
        "pairs of your own domain; harder unrelated documents, such as those of the same subject.",
        _picture(variants, {"q99": threshold.value}),
        geometry=geometry,
        numbers={"threshold": threshold.value, "share_above": share.value, "floor_of_groups": floor.value},
        notes=[_gain(variants, true, seed)],
        provenance=provenance,
    )


def _true(variant: _Variant) -> np.ndarray:
    assert variant.true is not None
    return variant.true


def _mismatched(variant: _Variant, target: np.ndarray) -> torch.Tensor:
    """`(n, m)` cosines of queries and documents, NaN for a query's own."""
    assert variant.mismatched is not None
    cosines = variant.mismatched.clone()
    cosines[torch.arange(len(target)), torch.as_tensor(target)] = torch.nan
    return cosines


def _mismatched_quantile(variant: _Variant, true: Pairs, seed: int, level: float = 0.99) -> Interval:
    """The cosine that 1 in 100 queries with another query's document exceeds; interval over drawn queries.

    The interval takes the quantiles of histograms, one a query, added up as often as a draw holds the query.
    """
    cosines = _mismatched(variant, true.target)
    edges = np.linspace(-1, 1, 1001)
    places = np.clip(np.searchsorted(edges, cosines.numpy().ravel(), side="right") - 1, 0, 999)
    owner = np.repeat(np.arange(len(true)), cosines.shape[1])
    known = ~np.isnan(cosines.numpy().ravel())
    counts = np.bincount(owner[known] * 1000 + places[known], minlength=len(true) * 1000).reshape(len(true), 1000)
    value = float(np.nanquantile(cosines.numpy(), level))
    if len(np.unique(true.target)) < LEAST_CLUSTERS:
        return Interval(value, n=int(known.sum()))
    totals = cluster_weights(true.target, DRAWS // 2, seed) @ counts
    shares = totals.cumsum(1) / totals.sum(1, keepdims=True)
    low, high = np.quantile(edges[(shares < level).sum(1) + 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, min(float(low), value), max(float(high), value), int(known.sum()))


def _gain(variants: list[_Variant], true: Pairs, seed: int) -> str:
    """The gain of the better repair: chosen on one half of the pairs, scored on the other."""
    choosing, scoring = halves(true.target, seed)

    def above(variant: _Variant, half: np.ndarray) -> np.ndarray:
        others = _mismatched(variant, true.target)[torch.as_tensor(half)]
        return (_true(variant)[half] > np.nanquantile(others.numpy(), 0.99)).astype(float)

    best = max(variants[1:], key=lambda variant: above(variant, choosing).mean())
    gain = mean_interval(above(best, scoring) - above(variants[0], scoring), true.target[scoring], seed)
    helps = (
        "helps"
        if surely_above(gain, 0)
        else "harms"
        if surely_below(gain, 0)
        else "makes no difference that can be shown"
    )
    return f"Repair: {best.name} {helps}: share of held-out true pairs above q99 changes by {gain}."


def _percent(share: Interval) -> str:
    if share.value is None or share.low is None or share.high is None:
        return f"{share}"
    return f"{share.value:.0%} [{share.low:.0%}, {share.high:.0%}]"


def _picture(variants: list[_Variant], marks: dict) -> Picture:
    """Share of the pairs above each cosine: unrelated ones of every variant, and the true ones as they are."""
    x = np.linspace(-1, 1, 101)
    curves = []
    for variant in variants:
        shares = variant.unrelated.counts.sum(0).cumsum() / variant.unrelated.n_pairs
        below = np.concatenate([[0.0], shares])[np.round((x + 1) / 2 * len(shares)).astype(int)]
        curves.append(Curve(f"unrelated, {variant.name}", x.tolist(), (1 - below).tolist()))
    if variants[0].true is not None:
        above = (variants[0].true[None] > x[:, None]).mean(1)
        curves.append(Curve("true pairs, raw", x.tolist(), above.tolist()))
    return Picture(curves, "cosine", "share of pairs above", marks)
