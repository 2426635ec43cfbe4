"""The table of comparisons: what each compares, its range, what leaves it unchanged, its source. Tests use it too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import torch

from ...errors import UnknownName
from ..estimate import Estimate
from . import neighbourhoods, similarity
from .pair import CloudPair

ALL_RIGID = frozenset({"shift", "scale", "rotation", "columns"})
DRAWS = 9  # random pairings for a chance level


@dataclass(frozen=True)
class Comparison:
    """A row of the table of comparisons.

    Attributes:
        function: `CloudPair -> Estimate`; takes `convention=` when there are several.
        conventions: published variants, the default one first.
        kind: `"similarity"` grows with likeness, `"distance"` shrinks.
        range: lowest and highest possible value; `None` where it is unbounded.
        direction: what a larger value means.
        invariances: what may be done to one of the clouds and leaves it unchanged, of `"shift"`, `"scale"`,
            `"rotation"` and `"columns"` (permuted columns).
        symmetric: whether exchanging the clouds leaves it unchanged.
        one_space: whether the clouds must have the same columns.
        minimum_rows: fewest pairs for which it answers by default.
        cost: arithmetic for n pairs of d columns.
        source: publication and equation.
        takes: options of its function.
        default: whether it is taken unless told otherwise.
    """

    function: Callable[..., Estimate]
    conventions: tuple[str, ...]
    kind: str
    range: tuple[float | None, float | None]
    direction: str
    invariances: frozenset[str]
    symmetric: bool
    minimum_rows: int
    cost: str
    source: str
    one_space: bool = False
    takes: tuple[str, ...] = ()
    default: bool = False


COMPARISONS: dict[str, Comparison] = {
    "linear_cka": Comparison(
        function=similarity.linear_cka,
        conventions=("debiased", "kornblith"),
        kind="similarity",
        range=(None, 1),
        direction="larger: pairs of rows are alike in both clouds or in neither",
        invariances=ALL_RIGID,
        symmetric=True,
        minimum_rows=4,
        cost="three products of 2 n d^2 flops",
        source="Kornblith et al. 2019, equation 2; Song et al. 2012, equation 5",
        default=True,
    ),
    "orthogonal_procrustes": Comparison(
        function=similarity.orthogonal_procrustes,
        conventions=("nuclear",),
        kind="similarity",
        range=(0, 1),
        direction="larger: a rotation makes the clouds coincide",
        invariances=ALL_RIGID,
        symmetric=True,
        minimum_rows=2,
        cost="a product of 2 n d^2 flops and an SVD of d x d",
        source="Schoenemann 1966; Ding et al. 2021, section 2",
    ),
    "linearity_score": Comparison(
        function=similarity.linearity_score,
        conventions=("held_out", "razzhigaev"),
        kind="similarity",
        range=(None, 1),
        direction="larger: the second cloud is a linear function of the first",
        invariances=ALL_RIGID,
        symmetric=False,
        minimum_rows=10,
        cost="two products of 2 n d^2 flops and five d x d systems",
        source="Razzhigaev et al. 2024, Your Transformer is Secretly Linear, equation 1",
        default=True,
    ),
    "neighbourhood_overlap": Comparison(
        function=neighbourhoods.neighbourhood_overlap,
        conventions=("mutual",),
        kind="similarity",
        range=(0, 1),
        direction="larger: rows keep their nearest neighbours",
        invariances=ALL_RIGID,
        symmetric=True,
        minimum_rows=12,
        cost="two neighbour searches of n^2 d flops",
        source="Huh et al. 2024, The Platonic Representation Hypothesis, section 2",
        takes=("k",),
        default=True,
    ),
    "information_imbalance": Comparison(
        function=neighbourhoods.information_imbalance,
        conventions=("glielmo",),
        kind="distance",
        range=(0, 2),
        direction="larger: distances in the first cloud say less about those in the second",
        invariances=ALL_RIGID,
        symmetric=False,
        minimum_rows=4,
        cost="neighbour searches and ranks, 6 n^2 d flops",
        source="Glielmo et al. 2022, equation 2",
    ),
    "subspace_novelty": Comparison(
        function=similarity.subspace_novelty,
        conventions=("leading",),
        kind="distance",
        range=(0, 1),
        direction="larger: the second cloud spreads along other directions than the first",
        invariances=frozenset({"shift", "scale"}),
        symmetric=True,
        minimum_rows=3,
        cost="O(n d^2 + d^3)",
        source="Bjoerck & Golub 1973",
        one_space=True,
        takes=("directions",),
    ),
}


def resolve_comparisons(asked: list[str] | str | None) -> list[tuple[str, str]]:
    """`(name, convention)` pairs; a bare name stands for its default convention, `None` for the default comparisons,
    `"all"` for each in its default convention.

    Raises:
        UnknownName: a comparison or convention that does not exist.
    """
    if asked is None:
        asked = [name for name, comparison in COMPARISONS.items() if comparison.default]
    pairs = []
    for entry in list(COMPARISONS) if asked == "all" else [asked] if isinstance(asked, str) else asked:
        name, _, convention = str(entry).partition(":")
        if name not in COMPARISONS:
            raise UnknownName("comparison", name, COMPARISONS)
        known = COMPARISONS[name].conventions
        if convention and convention not in known:
            raise UnknownName(f"convention of {name}", convention, known)
        pairs.append((name, convention or known[0]))
    return list(dict.fromkeys(pairs))


def evaluate_pair(
    pair: CloudPair, pairs: list[tuple[str, str]], *, null: bool = False, **options: Any
) -> list[Estimate]:
    """The estimates of `(name, convention)` pairs on two clouds, in the order asked; shared sums are taken once.

    Args:
        pair: the two clouds.
        pairs: from `resolve_comparisons`.
        null: put the value of random pairings into the details, as `null` and `null_sd`; ten times the cost.
        options: passed to the comparisons that take them.
    """
    estimates = [_evaluate(pair, name, convention, options) for name, convention in pairs]
    return _with_null(pair, estimates, options) if null else estimates


def _evaluate(pair: CloudPair, name: str, convention: str, options: dict) -> Estimate:
    comparison = COMPARISONS[name]
    arguments = {option: value for option, value in options.items() if option in comparison.takes}
    if len(comparison.conventions) > 1:
        arguments["convention"] = convention
    return comparison.function(pair, **arguments)


def _with_null(pair: CloudPair, estimates: list[Estimate], options: dict) -> list[Estimate]:
    """The values for randomly paired rows, over several draws."""
    generator = torch.Generator().manual_seed(pair.seed)
    found: list[list[float | None]] = [[] for _ in estimates]
    for _ in range(DRAWS):
        order = torch.randperm(pair.n, generator=generator)
        shuffled = CloudPair(pair.x.rows, pair.y.rows[order], jackknife=True, seed=pair.seed)
        for values, estimate in zip(found, estimates, strict=True):
            values.append(_evaluate(shuffled, estimate.measure, estimate.convention, options).value)
    return [_beside(estimate, values) for estimate, values in zip(estimates, found, strict=True)]


def _beside(estimate: Estimate, values: list[float | None]) -> Estimate:
    numbers = [value for value in values if value is not None]
    if len(numbers) < 2:
        return estimate
    null: dict[str, Any] = {"null": fmean(numbers), "null_sd": stdev(numbers), "null_kind": "random pairing"}
    return replace(estimate, details=estimate.details | null)
