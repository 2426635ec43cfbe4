"""Which cosine marks a duplicate? Compares the pairs above a threshold with those that chance puts there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..downstream.resampling import LEVEL, Interval, cluster_weights
from ..errors import BadInput, MissingExtra
from ..measures import PointCloud
from ..runs.provenance import versions
from .decision import CANNOT_TELL, Curve, Decision, Picture
from .retrieval import unit
from .rows import plain_rows
from .unrelated import BINS, WIDTH, UnrelatedCosines

EDGES = -1 + WIDTH * np.arange(BINS + 1)
THRESHOLDS = (0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
LEAST = 200  # rows
END, BODY = 1 / 4, 5  # pairs per row: the tail of chance is fitted to the cosines that rank between these
DRAWS = 100  # of the interval
LEAST_BINS = 8  # of cosines that the fit needs
MOST_FLAGGED = 500_000  # pairs that are listed for clusters
MOST_MEMBERS = 2000  # of a cluster; in larger ones the least cosine is not computed


def dedup_threshold(
    data: Any,
    texts: Any = None,
    *,
    groups: Any = None,
    false_share: float = 0.1,
    column: str | None = None,
    layer: int = -1,
    pooling: str | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Decision:
    """Which cosine marks a duplicate: the least threshold above which chance puts few of the pairs.

    The cosines of all pairs are counted. With `groups`, rows of different groups are known not to be duplicates, and
    their pairs above a threshold are the false ones. Without groups, the tail of the chance distribution is
    extrapolated: of n distinct rows, the n / 4 pairs of largest cosine may be duplicates and are left out; the
    logarithm of the number of pairs above a cosine x is fitted over the next pairs, up to rank 5 n, by
    a + b x + c log(1 - x^2), the form of the tail on a sphere. If there are more than n / 4 duplicate pairs, some of
    them count as chance, and the threshold is too high. Intervals are bootstraps over rows. The threshold is where the
    pairs by chance fall to `false_share` of all pairs above, if these are more than the upper end of chance's interval
    explains.

    Args:
        data: a matrix of embeddings (array, tensor, `.npy`, `.safetensors`, `.parquet`), or a model: Hub id, folder,
            `pip:PACKAGE`, in memory.
        texts: for a model: a list or file of texts; default: 500 sentences of the packaged text.
        groups: `(n,)` a name or number for each row; rows of different groups are never duplicates.
        false_share: of the flagged pairs that may be chance.
        column: tensor or column of a file of rows.
        layer: 0 is what enters block 1; -1: what leaves the model.
        pooling: `"mean"`, `"mean_without_sinks"`, `"last"` or `"cls"`; default: as the model's folder says, else mean.
        tokenizer: of a model in memory.
        batch_size: texts per forward pass.
        seed: of the interval.

    Returns:
        Decision: `"threshold"` with `numbers["threshold"]`; `"no duplicates"` if no cosine is exceeded by more pairs
        than chance explains; `"cannot tell"` if one is, but chance may make up more than `false_share` of them.

    Raises:
        BadInput: fewer than 200 rows, groups that do not match them, or rows too similar for the fit.

    Cost: n^2 d flops in float32 for all pairs, and again for the flagged ones; memory for one block.

    Example:
        >>> import torch
        >>> from hf_repgeo.decisions import dedup_threshold
        >>> g = torch.Generator().manual_seed(0)
        >>> X = torch.randn(500, 64, generator=g)
        >>> X[:20] = X[20:40] + 0.05 * torch.randn(20, 64, generator=g)  # 20 near copies
        >>> found = dedup_threshold(X)
        >>> found.verdict, found.numbers["flagged"]  # a tenth of them may be chance
        ('threshold', 21)
    """
    if not 0 < false_share < 1:
        raise BadInput("false_share", came=str(false_share), wanted="a share between 0 and 1")
    embedding = {"layer": layer, "pooling": pooling, "tokenizer": tokenizer, "batch_size": batch_size}
    rows, source = plain_rows(data, texts, column=column, least=LEAST, **embedding)
    group = None if groups is None else _groups(groups, len(rows))
    cosines = UnrelatedCosines.of(rows, np.arange(len(rows)))
    chance = _Chance.of(cosines, rows, group, seed)
    return _decided(rows, cosines, chance, false_share, source | {"groups": group is not None}, seed)


def _groups(groups: Any, n: int) -> np.ndarray:
    names = np.asarray(groups)
    if names.shape != (n,):
        raise BadInput("groups", came=f"shape {names.shape}", wanted=f"({n},), one for each row")
    found = np.unique(names, return_inverse=True)[1]
    if found.max() == 0:
        raise BadInput("groups", came="one group", wanted="at least two: their pairs are the false ones")
    return found


# --- chance -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chance:
    """How many pairs chance puts above each edge of the bins, with bootstrap draws.

    Attributes:
        above: `(BINS + 1,)`.
        drawn: `(draws, BINS + 1)`.
        floor: the cosine that 1 in 1,000 pairs exceeds.
    """

    above: np.ndarray
    drawn: np.ndarray
    floor: float

    @classmethod
    def of(cls, cosines: UnrelatedCosines, rows: torch.Tensor, group: np.ndarray | None, seed: int) -> _Chance:
        floor = cosines.quantile(0.999, seed).value or 0.0
        if group is not None:
            apart = UnrelatedCosines.of(rows, group)
            scale = cosines.n_pairs / apart.n_pairs
            return cls(_counted_above(apart.counts.sum(0)) * scale, _drawn_above(apart, seed) * scale, floor)
        distinct = PointCloud(rows).distinct_rows  # exact copies are duplicates, never chance
        if len(distinct) < LEAST:
            came = f"{len(rows)} rows, of which {len(distinct)} are distinct"
            wanted = f"at least {LEAST}, to know what chance does"
            raise BadInput("data", came=came, wanted=wanted, cure="Pass groups=.")
        among = cosines if len(distinct) == len(rows) else UnrelatedCosines.of(distinct, np.arange(len(distinct)))
        scale, n = cosines.n_pairs / among.n_pairs, len(distinct)
        drawn = np.array([_tail_above(counts, n) for counts in _drawn_counts(among, seed)])
        return cls(_tail_above(among.counts.sum(0), n) * scale, drawn * scale, floor)

    def at(self, cosine: float) -> Interval:
        """Pairs above a cosine."""
        place = _edge(cosine)
        low, high = np.quantile(self.drawn[:, place], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        value = float(self.above[place])
        return Interval(value, min(float(low), value), max(float(high), value))

    def high(self) -> np.ndarray:
        """`(BINS + 1,)` upper ends of the intervals at the edges."""
        return np.maximum(np.quantile(self.drawn, (1 + LEVEL) / 2, axis=0), self.above)


def _edge(cosine: float) -> int:
    """The number of the edge at a cosine."""
    return int(np.searchsorted(EDGES, cosine - 1e-9))


def _counted_above(counts: np.ndarray) -> np.ndarray:
    """`(..., BINS)` -> `(..., BINS + 1)` pairs above each edge."""
    above = counts[..., ::-1].cumsum(-1)[..., ::-1]
    return np.concatenate([above, np.zeros((*counts.shape[:-1], 1))], -1)


def _drawn_counts(cosines: UnrelatedCosines, seed: int) -> np.ndarray:
    """`(draws, BINS)` counts of drawn blocks of rows, scaled to all pairs."""
    weights = cluster_weights(np.arange(int(cosines.blocks.max()) + 1), DRAWS, seed)
    first, second = cosines.blocks.T
    products = np.where(first == second, weights[:, first], weights[:, first] * weights[:, second])
    totals = products @ cosines.counts
    return totals * (cosines.n_pairs / totals.sum(1, keepdims=True))


def _drawn_above(cosines: UnrelatedCosines, seed: int) -> np.ndarray:
    return _counted_above(_drawn_counts(cosines, seed))


def _tail_above(counts: np.ndarray, n: int) -> np.ndarray:
    """Pairs of chance among n rows above each edge: counted up to rank 5 n, extrapolated beyond it."""
    above = _counted_above(counts)
    start, stop = (int((above > rank * n).sum()) for rank in (BODY, END))
    if stop - start < LEAST_BINS:
        came = f"rows whose {BODY * n} pairs of largest cosine span {stop - start} bins of {WIDTH}"
        raise BadInput("data", came=came, wanted="rows that differ more, or more of them", cure="Pass groups=.")
    places = np.unique(np.linspace(start, stop, 40).astype(int))
    places = places[above[places] > 0]
    tail = _fitted_tail(EDGES[places], above[places])
    return np.where(EDGES < EDGES[start], np.maximum(above, tail[start]), np.minimum(tail, above[0]))


def _fitted_tail(x: np.ndarray, above: np.ndarray) -> np.ndarray:
    """exp(a + b x - c log(1 / (1 - x^2))) at every edge, fitted to the pairs above the cosines x; c is not negative.

    On the unit sphere in d dimensions the density of a cosine is proportional to (1 - x^2)^((d - 3) / 2): c is about
    half the dimension. c = 0 is an exponential tail.
    """
    columns = _tail_columns(x)
    weights = np.sqrt(above)[:, None]  # counted pairs: the error of their logarithm is 1 / sqrt(above)
    target = np.log(above) * weights[:, 0]
    chosen = np.linalg.lstsq(columns * weights, target, rcond=None)[0]
    if chosen[2] < 0:
        chosen = np.append(np.linalg.lstsq(columns[:, :2] * weights, target, rcond=None)[0], 0.0)
    return np.exp(np.minimum(_tail_columns(EDGES) @ chosen, 700))


def _tail_columns(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, -1 + 1e-9, 1 - 1e-9)
    return np.stack([np.ones_like(x), x, np.log1p(-x * x)], 1)


# --- pairs above a threshold ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Clusters:
    """Rows joined by pairs above a threshold.

    Attributes:
        count: clusters of two rows and more.
        largest: rows of the largest.
        bridged: clusters with two rows whose cosine chance reaches too.
    """

    count: int
    largest: int
    bridged: int


def _flagged(rows: torch.Tensor, threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`(p, 2)` pairs whose cosine is at least the threshold, and their `(p,)` cosines."""
    pairs, found, block = [], [], 2048
    for start in range(0, len(rows), block):
        cosines = rows[start : start + block] @ rows[start:].T
        near = (cosines >= threshold).triu(1).nonzero()
        pairs.append(near + start)
        found.append(cosines[near[:, 0], near[:, 1]])
    return torch.cat(pairs), torch.cat(found)


def _clusters(rows: torch.Tensor, pairs: torch.Tensor, floor: float) -> _Clusters:
    try:
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components
    except ImportError:
        raise MissingExtra("scipy", "downstream", "the clusters of duplicates") from None
    if len(pairs) == 0:
        return _Clusters(0, 1, 0)
    first, second = pairs.T.numpy()
    joined = coo_array((np.ones(len(first)), (first, second)), shape=(len(rows), len(rows)))
    _, label = connected_components(joined, directed=False)
    sizes = np.bincount(label)
    several = np.flatnonzero(sizes > 1)
    order = np.argsort(label, kind="stable")
    ends = sizes.cumsum()
    bridged = 0
    for cluster in several[sizes[several] > 2]:
        members = rows[torch.as_tensor(order[ends[cluster] - sizes[cluster] : ends[cluster]][:MOST_MEMBERS])]
        bridged += bool((members @ members.T).min() < floor)
    return _Clusters(len(several), int(sizes.max()), bridged)


def _decided(rows, cosines: UnrelatedCosines, chance: _Chance, false_share: float, source: dict, seed: int) -> Decision:
    rows, counts = unit(rows), _counted_above(cosines.counts.sum(0))
    verdict, threshold = _threshold(counts, chance, false_share)
    shown = sorted({*THRESHOLDS, threshold})
    listed = [cosine for cosine in shown if counts[_edge(cosine)] <= MOST_FLAGGED]
    flags = _flagged(rows, listed[0]) if listed else None
    evidence = [_at(rows, counts, chance, cosine, flags if cosine in listed else None) for cosine in shown]
    chosen = next(line for line in evidence if line["cosine from"] == threshold)
    flagged, expected = chosen["pairs"], chosen["by chance"]
    curves = {"pairs": counts, "by chance": chance.above}
    return Decision(
        "Which cosine marks a duplicate?",
        verdict,
        f"from a cosine of {threshold:.3f} on, {flagged} pairs; chance puts {expected} there.",
        evidence,
        "rows known not to be duplicates (groups=, --groups); another share of false pairs (--false-share).",
        Picture(
            [Curve(name, EDGES.tolist(), np.log10(np.maximum(above, 0.1)).tolist()) for name, above in curves.items()],
            "cosine",
            "log10 of the pairs above",
            {"threshold": threshold},
        ),
        numbers={
            **{"threshold": threshold, "flagged": flagged, "clusters": chosen["clusters"]},
            **{"false_pairs": expected.value, "false_pairs_high": expected.high},
        },
        provenance={"embeddings": source, "seed": seed} | versions(),
    )


def _threshold(counts: np.ndarray, chance: _Chance, false_share: float) -> tuple[str, float]:
    """The verdict, and the least cosine above which chance has at most its share; else at most one pair."""
    high = chance.high()
    more = np.array([count > _most_by_chance(most) for count, most in zip(counts, high)])
    few = more & (chance.above <= false_share * counts)
    if few.any():
        return "threshold", float(EDGES[few.argmax()])
    return (CANNOT_TELL if more.any() else "no duplicates"), float(EDGES[min(int((high > 1).sum()), BINS)])


def _most_by_chance(expected: float) -> float:
    """A count that a Poisson variable of this mean exceeds in about one of a thousand draws."""
    return expected + 3 * np.sqrt(expected) + 1


def _at(
    rows: torch.Tensor,
    counts: np.ndarray,
    chance: _Chance,
    cosine: float,
    flags: tuple[torch.Tensor, torch.Tensor] | None,
) -> dict[str, Any]:
    """One line of the evidence; without clusters where there are too many pairs to list."""
    line = {"cosine from": cosine, "pairs": int(counts[_edge(cosine)]), "by chance": chance.at(cosine)}
    if flags is None:
        return line | {"clusters": None, "largest": None, "bridged": None}
    pairs, cosines = flags
    found = _clusters(rows, pairs[cosines >= cosine], chance.floor)
    return line | {"clusters": found.count, "largest": found.largest, "bridged": found.bridged}
