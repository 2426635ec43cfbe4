"""Where in the embedding is a property? Ablates regions, and compares with as many random dimensions.

A region of many dimensions carries much of any property. So every effect is compared with the effect of random sets of
as many dimensions, and the locality index with its interval under shuffled dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from ..errors import BadInput, UnknownName
from .readout import holm
from .regions import random_partition

ABLATIONS = ("mean", "noise", "resample")
LEAST_NULLS = 39  # with fewer, no p-value reaches 2.5 %, the share above the interval
Score = Callable[[torch.Tensor], float]


def ablate(
    x: torch.Tensor,
    dimensions: torch.Tensor,
    how: str = "mean",
    *,
    reference: torch.Tensor,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Embeddings in which some dimensions no longer depend on their sentence.

    Args:
        x: `(n, hidden_size)`; not written to.
        dimensions: bool `(hidden_size,)`, which to ablate.
        how: what replaces their values. `"mean"`: the training rows' mean; `"noise"`: normal noise of their mean and
            standard deviation per dimension; `"resample"`: the values of another, random training row, the same one
            for all the dimensions.
        reference: `(m, hidden_size)`, training rows.
        generator: for `"noise"` and `"resample"`.

    Returns:
        A new tensor.

    Raises:
        UnknownName: an unknown `how`.
    """
    if how not in ABLATIONS:
        raise UnknownName("ablation", how, ABLATIONS)
    if how == "mean":
        filling = reference.mean(0).expand_as(x)
    elif how == "noise":
        filling = reference.mean(0) + reference.std(0) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    else:
        filling = reference[torch.randint(len(reference), (len(x),), generator=generator)]
    return torch.where(dimensions, filling, x)


def ablation_effects(
    score: Score,
    x: torch.Tensor,
    regions: torch.Tensor,
    *,
    reference: torch.Tensor,
    how: str = "mean",
    keep_only: bool = False,
    seed: int = 0,
) -> torch.Tensor:
    """The effect of each region: the score of whole embeddings minus the score without the region.

    Args:
        score: `(n, hidden_size)` -> a number, higher is better.
        x: `(n, hidden_size)`.
        regions: bool `(regions, hidden_size)`.
        reference: training rows.
        how: as in `ablate`.
        keep_only: ablate everything except the region, and return the score itself instead of a difference.
        seed: for random ablations; every region gets the same random numbers.

    Returns:
        `(regions,)` float64.
    """
    whole = 0.0 if keep_only else score(x)
    effects = []
    for region in regions:
        generator = torch.Generator().manual_seed(seed)
        left = score(ablate(x, ~region if keep_only else region, how, reference=reference, generator=generator))
        effects.append(left if keep_only else whole - left)
    return torch.tensor(effects, dtype=torch.float64)


def locality_index(effects: torch.Tensor, sizes: torch.Tensor) -> float | None:
    """How unevenly the ablation effect is spread over cells: the Gini coefficient of effect per cell.

    Each region's effect (a negative one counts as none) is spread evenly over its cells; the coefficient is taken over
    all cells. 0: every cell has the same effect, so that only the size of a region matters. Near 1: a few cells have
    all of the effect.

    Args:
        effects: `(regions,)`.
        sizes: `(regions,)` number of cells.

    Returns:
        A number in [0, 1), or None where no region has any effect.

    Example:
        >>> locality_index(torch.tensor([0.25, 0.75]), torch.tensor([100, 300]))
        0.0
        >>> round(locality_index(torch.tensor([0.25, 0.0]), torch.tensor([10, 90])), 6)
        0.9
    """
    sizes = sizes.double()
    density = effects.double().clamp(min=0) / sizes
    if float(density.sum()) == 0:
        return None
    order = density.argsort()
    size, value = sizes[order], density[order]
    share = size.cumsum(0) / size.sum()
    held = (size * value).cumsum(0) / (size * value).sum()
    before = torch.cat([torch.zeros(1, dtype=torch.float64), held[:-1]])
    width = torch.diff(share, prepend=torch.zeros(1, dtype=torch.float64))
    return max(0.0, float(1 - (width * (held + before)).sum()))  # Lorenz curve by trapezoids; rounding may give -1e-17


@dataclass
class Localization:
    """Whether the property that a score reads is in particular regions.

    Args:
        score: of the whole embeddings.
        floor: of a score that uses no embedding, if one was given.
        how: the ablation.
        regions: one entry per region: `cells`, `effect`, `effect_per_cell`, and `null_mean`, `null_low`, `null_high`,
            the effect of random sets of as many dimensions (95 %), `kept` the score with everything but the region
            taken out.
        index: `locality_index` of these effects.
        null_mean, null_low, null_high: of the index, when dimensions are shuffled (95 % interval).
        n_null: how many shufflings.
        p_value: one-sided: the share of indices, of shufflings and the one found, that reach the one found; None
            without an index. `corrected` corrects it for several properties.
        verdict: `"localised"` when the index lies above the interval (after `corrected`: when `p_value <= 0.05`), `"not
            localised"` when not, `"no effect"` when no region matters, `"not read"` when the whole embedding scores no
            more than `floor`.
    """

    score: float
    floor: float | None
    how: str
    regions: list[dict]
    index: float | None
    null_mean: float | None
    null_low: float | None
    null_high: float | None
    n_null: int
    verdict: str
    p_value: float | None = None

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)

    def effects(self) -> torch.Tensor:
        """`(regions,)` float64."""
        return torch.tensor([region["effect"] for region in self.regions], dtype=torch.float64)


def localize(
    score: Score,
    x: torch.Tensor,
    regions: torch.Tensor,
    *,
    reference: torch.Tensor,
    how: Literal["mean", "noise", "resample"] = "mean",
    n_null: int = 100,
    seed: int = 0,
    floor: float | None = None,
) -> Localization:
    """Ablate every region, and repeat this with shuffled dimensions to know what chance gives.

    Shuffling the dimensions keeps the sizes of regions, so a score that reads all dimensions equally has the same index
    in both cases. Cost: `(n_null + 2) * regions` evaluations of the score.

    Args:
        score: `(n, hidden_size)` -> a number, higher is better.
        x: `(n, hidden_size)`.
        regions: bool `(regions, hidden_size)`, each with at least one dimension.
        reference: training rows `(m, hidden_size)`.
        how: as in `ablate`.
        n_null: shufflings of the dimensions, at least 39; 100 give a coarse 95 % interval, eight properties need 160.
        seed: of the shufflings and of random ablations.
        floor: the score without any embedding; if the whole embedding gives no more, there is nothing to localise, and
            the verdict says so.

    Returns:
        A `Localization`.

    Raises:
        BadInput: regions of another width than `x`, an empty region, or none; fewer than 39 nulls.

    Example:
        >>> x = torch.randn(500, 40, generator=torch.Generator().manual_seed(0))
        >>> read = lambda rows: float(((rows[:, 0] > 0) == (x[:, 0] > 0)).double().mean())
        >>> regions = torch.arange(40).view(1, -1) // 10 == torch.arange(4).view(-1, 1)
        >>> found = localize(read, x, regions, reference=x, n_null=40)
        >>> found.verdict, int(found.effects().argmax())
        ('not localised', 0)

    Here one dimension holds everything, and any ten dimensions that include it are as good as these ten, so the place
    does not matter. A property is localised if it fills a region and its neighbours hold none of it.
    """
    check_regions(x, regions)
    if isinstance(n_null, bool) or not isinstance(n_null, int) or n_null < LEAST_NULLS:
        raise BadInput("n_null", came=repr(n_null), wanted=f"an integer, at least {LEAST_NULLS}")
    settings: dict[str, Any] = {"reference": reference, "how": how, "seed": seed}
    sizes = regions.sum(-1)
    effects = ablation_effects(score, x, regions, **settings)
    kept = ablation_effects(score, x, regions, keep_only=True, **settings)
    generator = torch.Generator().manual_seed(seed)
    shuffled = [ablation_effects(score, x, random_partition(regions, generator), **settings) for _ in range(n_null)]
    null = torch.stack(shuffled)  # (n_null, regions)
    index = locality_index(effects, sizes)
    chance = [value for value in (locality_index(one, sizes) for one in null) if value is not None]
    low, high = central_interval(chance)
    entries = [_region_entry(i, int(sizes[i]), effects, kept, null) for i in range(len(regions))]
    mean = sum(chance) / len(chance) if chance else None
    whole = score(x)
    verdict = "not read" if floor is not None and whole <= floor else _verdict(index, high)
    p_value = None if index is None else (1 + sum(value >= index for value in chance)) / (1 + n_null)
    return Localization(whole, floor, how, entries, index, mean, low, high, n_null, verdict, p_value)


def corrected(found: Mapping[str, Localization], alpha: float = 0.05) -> dict[str, Localization]:
    """The same with p-values and verdicts corrected for the number of properties (Holm).

    Args:
        found: property -> `Localization`.
        alpha: a property is `"localised"` if its corrected p-value is at most this.

    Returns:
        property -> `Localization`.

    Example:
        >>> one = Localization(-0.2, None, "mean", [], 0.9, 0.1, 0.0, 0.2, 39, "localised", 0.025)
        >>> [each.verdict for each in corrected({"number": one, "tense": replace(one, p_value=0.2)}).values()]
        ['localised', 'not localised']
        >>> corrected({str(i): one for i in range(3)})["0"].verdict
        'not localised'
    """
    tested = {name: one.p_value for name, one in found.items() if one.p_value is not None}
    values = dict(zip(tested, holm(list(tested.values())), strict=True))
    verdicts = {name: "localised" if p <= alpha else "not localised" for name, p in values.items()}
    return {
        name: one
        if name not in values
        else replace(one, p_value=values[name], verdict="not read" if one.verdict == "not read" else verdicts[name])
        for name, one in found.items()
    }


def check_regions(x: torch.Tensor, regions: torch.Tensor) -> None:
    """Checks that regions are as wide as the rows, and that none is empty."""
    if regions.dim() != 2 or regions.shape[1] != x.shape[1] or not len(regions):
        raise BadInput("regions", came=f"shape {tuple(regions.shape)}", wanted=f"(regions, {x.shape[1]})")
    if not bool(regions.any(-1).all()):
        empty = int((~regions.any(-1)).nonzero()[0])
        raise BadInput("regions", came=f"region {empty} without a dimension", wanted="at least one dimension in each")


def central_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The middle 95 % of the values; `(None, None)` without any."""
    if not values:
        return None, None
    bounds = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(bounds[0]), float(bounds[1])


def _verdict(index: float | None, high: float | None) -> str:
    if index is None:
        return "no effect"
    return "localised" if high is None or index > high else "not localised"


def _region_entry(i: int, cells: int, effects: torch.Tensor, kept: torch.Tensor, null: torch.Tensor) -> dict:
    low, high = central_interval(null[:, i].tolist())
    return {
        "region": i,
        "cells": cells,
        "effect": float(effects[i]),
        "effect_per_cell": float(effects[i]) / cells,
        "null_mean": float(null[:, i].mean()),
        "null_low": low,
        "null_high": high,
        "kept": float(kept[i]),
    }
