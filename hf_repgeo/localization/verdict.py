"""Where is it? A verdict that tells a block from scattered dimensions, a rotated subspace and a distributed code."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import torch

from ..errors import BadInput
from .ablation import locality_index
from .dimensions import (
    cumulative_shares,
    dimension_energies,
    mean_curve,
    nearness,
    neighbour_reach,
    neighbour_share,
    random_places,
    random_set_shares,
    rotated_curves,
    sizes_if_few,
    smallest_set,
)
from .effects import (
    Levelled,
    Values,
    agreement,
    as_list,
    check_rows,
    cross_covariance,
    divided,
    kernel_between_groups,
    read_values,
    relative_to_group,
    shrunk_covariance,
    shuffled_codes,
    thirds,
)
from .readout import holm
from .subspaces import carried, inlp_rank, left_after_erasing, spectrum, subspace_rank

VERDICTS = ("block", "scattered few", "many dimensions", "rotated subspace", "distributed", "absent", "cannot tell")
LEAST_NULLS = 200
MOST_ROWS = 8192
NEIGHBOURLY = 0.5  # a block lies at least this share of the way from random sets to a set of neighbours only
SPARSER = 0.5  # at most this share of the dimensions that rotated bases take: the property prefers this basis
PLACES = 2000  # random orders of the dimensions, which cost little
MOST_COLUMNS = 12  # columns of cross-covariances rotated together; more divisions hardly change the curve
SIXTHS = 12  # least groups and most values for six parts instead of three: twice as many rows then rank the dimensions
BEYOND = 3.0  # standard deviations above chance: from there a property is present, and is divided among dimensions


@dataclass(frozen=True)
class Interval:
    """An estimate, and the interval that goes with it: over divisions of the groups, or over draws of chance."""

    value: float
    low: float
    high: float


@dataclass
class Where:
    """Where a linear reader finds one property.

    Args:
        verdict: one of `VERDICTS`: `"block"` few dimensions, most of them neighbours; `"scattered few"` few dimensions
            here and there; `"many dimensions"` more than a few, and at most half as many as in rotated bases;
            `"rotated subspace"` few directions, not along the dimensions; `"distributed"` many directions in any basis;
            `"absent"` no linear reader tells it; `"cannot tell"` read, but too faint to say where.
        n, groups, values: rows and groups that have the property, and its different values.
        accuracy: of a linear reader on groups it was not fitted to, and over divisions of these.
        chance: accuracy of always saying the most frequent value.
        dimensions: the fewest dimensions that hold `keep` of the variance between values, and over divisions; rows in
            units of their noise, with directions of very large noise scaled down.
        few_dimensions: what `dimensions` would seem to be if `few` dimensions held `keep`, under as much noise (with
            95 % of the simulations); None if `dimensions` is few.
        chosen: these dimensions, the strongest first.
        random_share: what random sets of as many dimensions hold.
        rotated_dimensions: how many dimensions it takes in randomly rotated bases.
        area: under the curve of share against number of dimensions; 0.5 is an even spread.
        rotated_area: the same in randomly rotated bases, with 95 % of them.
        neighbours: share of what the smallest set holds that lies in dimensions with a neighbour in the set. Neighbours
            are at most two dimensions apart, or so near that an eighth of as many random dimensions would have one.
        random_neighbours: the same if these dimensions lay at random.
        rank: the fewest directions of any basis that hold `keep` of a reader's signal, and over divisions.
        left: share of a reader's signal that is left on new groups when these directions are erased.
        inlp: directions that iterated projection removes before a reader has less than `1 - keep` of its signal; None:
            too many rounds.
        exchange: how far a reader's answer changes if part of a row is exchanged, as a share of the change by
            exchanging the whole row: `"subspace"` the best `rank` directions, `"dimensions"` the smallest set,
            `"random"` as many dimensions at random.
        tiles: locality index of the regions given (`locality_index` of what each holds), with the 95 % of shuffled
            dimensions; None without regions.
        p_present, p_basis, p_neighbours, p_many: one-sided p-values, corrected by Holm over the properties of the call:
            of the property being there, of this basis being better than a rotated one, of the smallest set being
            neighbours, of it taking more than `few` dimensions.
        curve: share held by the best 1, 2, 4 ... dimensions, as `[k, share, rotated low, rotated high]`.
        n_null: draws of chance behind each p-value; that of neighbours has 2,000 at least.
    """

    verdict: str
    n: int
    groups: int
    values: int
    accuracy: Interval
    chance: float
    p_present: float
    dimensions: Interval | None = None
    few_dimensions: Interval | None = None
    chosen: list[int] = field(default_factory=list)
    random_share: Interval | None = None
    rotated_dimensions: Interval | None = None
    area: float | None = None
    rotated_area: Interval | None = None
    neighbours: float | None = None
    random_neighbours: Interval | None = None
    rank: Interval | None = None
    left: float | None = None
    inlp: int | None = None
    exchange: dict[str, float] = field(default_factory=dict)
    tiles: Interval | None = None
    p_basis: float | None = None
    p_neighbours: float | None = None
    p_many: float | None = None
    curve: list[list[float]] = field(default_factory=list)
    n_null: int = LEAST_NULLS

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def where_is(
    rows: torch.Tensor,
    labels: Mapping[str, Sequence],
    groups: Sequence[Hashable] | None = None,
    *,
    n_null: int = LEAST_NULLS,
    divisions: int = 10,
    keep: float = 0.9,
    few: float = 1 / 16,
    alpha: float = 0.05,
    columns: int | None = None,
    regions: torch.Tensor | None = None,
    seed: int = 0,
) -> dict[str, Where]:
    """Where each property lies in the rows: how many dimensions, are they neighbours, is the basis special?

    Every number is of linear readers and of groups that they were not fitted to. The verdict:

    - *absent* unless a reader does better than with labels shuffled over groups (`p_present <= alpha`), and that by
      three standard deviations of these or with an accuracy three standard errors above chance, counting each group as
      one draw: of a hundred absent properties fewer than one is called present
    - *block* or *scattered few* if `few` of the dimensions hold `keep` of the variance between the values and a rotated
      basis needs more (`p_basis <= alpha`); or if they do in one division of the groups at least, and a rotated basis
      needs twice as many dimensions. A block if the dimensions lie closer together than random ones
      (`p_neighbours <= alpha`) and have neighbours, at least half of the way from random sets to neighbours throughout
    - else, if it takes more dimensions than a property in `few` would seem to take under as much noise
      (`p_many <= alpha`): *many dimensions* if a rotated basis needs more (`p_basis <= alpha`), twice as many at least;
      *rotated subspace* if `few` directions of another basis hold it; *distributed* if it takes more of those too
    - else *cannot tell*: the property is there, and too faint to say where

    A property of two values lies in one direction, for any linear reader: spread over all dimensions, it is a rotated
    subspace of rank 1. Only many values can be distributed.

    Args:
        rows: `(n, hidden_size)`, such as sentence embeddings. Dimensions count in units of the standard deviation
            among rows of one value. Directions in which such rows vary more than white noise would by chance are scaled
            down to this limit, so that noise which dimensions share hides none of them.
        labels: property -> one value per row; None, NaN or `""` where a row does not have the property.
        groups: one per row: rows of a group share material, such as a lexical frame, and never stand on both sides of a
            division. If every group holds several values, rows are taken relative to their group's mean. None: every
            row is a group of its own.
        n_null: how many shufflings, rotations and random sets; at least 200, and `properties / alpha`, or no corrected
            p-value could reach `alpha`.
        divisions: how often the groups are divided into parts; intervals are over these divisions.
        keep: the share that the smallest set has to hold.
        few: the share of the dimensions that counts as few; 1/16 of 768 is 48.
        alpha: the level of the corrected p-values.
        columns: of the array that the embedding is seen as (24 for 768 dimensions); None: neighbours are the dimensions
            before and after.
        regions: bool `(regions, hidden_size)`, such as `receptive_fields(config).flatten(1)`: their locality index is
            reported too; the verdict does not use it.
        seed: of divisions and nulls.

    Returns:
        property -> `Where`, in the order of `labels`.

    Raises:
        BadInput: rows, labels, groups, columns or regions that do not fit; too few nulls; a value in fewer than three
            groups.
        TooFewRows: fewer than six groups.
        NonFiniteRows: NaN or infinity.

    Cost: 8 properties of 2,000 rows of 768 dimensions with 200 nulls: see `docs/sparse-vae.md`; memory `n^2` floats. Of
    more than 8,192 rows a seeded draw of groups is taken.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> y = torch.arange(600) % 2
        >>> x = torch.randn(600, 128, generator=generator)
        >>> x[:, 40:46] += 1.5 * y[:, None]
        >>> found = where_is(x, {"number": ["sp"[i] for i in y]})["number"]
        >>> found.verdict, sorted(found.chosen)
        ('block', [40, 41, 42, 43, 44, 45])
    """
    x = check_rows(rows)
    if not isinstance(labels, Mapping):
        raise BadInput("labels", came=f"a {type(labels).__name__}", wanted="property -> one value per row")
    labels = {name: as_list(values) for name, values in labels.items()}
    groups = None if groups is None else as_list(groups)
    _check(rows, labels, groups, n_null, divisions, keep, few, alpha, seed)
    _check_array(x.shape[1], columns, regions)
    x, labels, groups = _drawn(x, labels, groups, seed)
    finder = _Finder(x, n_null, divisions, keep, few * x.shape[1], columns, regions, seed)
    read = {name: read_values(values, groups, name) for name, values in labels.items()}
    found = {name: finder.find(values) for name, values in read.items()}
    for which in ("p_present", "p_basis", "p_neighbours", "p_many"):
        tested = [one for one in found.values() if getattr(one, which) is not None]
        for one, corrected in zip(tested, holm([getattr(one, which) for one in tested]), strict=True):
            setattr(one, which, corrected)
    for one in found.values():
        one.verdict = _verdict(one, few * rows.shape[1], alpha)
    return found


def _check(rows, labels, groups, n_null, divisions, keep, few, alpha, seed) -> None:
    for name, value, least in (("n_null", n_null, LEAST_NULLS), ("divisions", divisions, 2)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BadInput(name, came=repr(value), wanted=f"an integer, at least {least}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise BadInput("seed", came=repr(seed), wanted="an integer")
    for name, share in (("keep", keep), ("few", few), ("alpha", alpha)):
        if not 0 < share < 1:
            raise BadInput(name, came=repr(share), wanted="a number between 0 and 1")
    if not labels:
        raise BadInput("labels", came="no property", wanted="at least one")
    needed = -(-len(labels) // alpha) - 1
    if n_null < needed:
        came = f"{n_null} for {len(labels)} properties"
        wanted = f"at least {needed:.0f}: with fewer, no p-value reaches {alpha} once corrected for all properties"
        raise BadInput("n_null", came=came, wanted=wanted)
    lists = {f"labels[{name!r}]": values for name, values in labels.items()}
    for name, values in (lists | ({"groups": groups} if groups is not None else {})).items():
        if len(values) != len(rows):
            raise BadInput(name, came=f"{len(values)} entries for {len(rows)} rows", wanted="one for each row")


def _check_array(d: int, columns, regions) -> None:
    if columns is not None and (isinstance(columns, bool) or not isinstance(columns, int) or not 1 <= columns <= d):
        raise BadInput("columns", came=repr(columns), wanted=f"an integer from 1 to {d}, or None")
    if regions is not None and (regions.dim() != 2 or regions.shape[1] != d or regions.dtype != torch.bool):
        came = f"{regions.dtype} of shape {tuple(regions.shape)}"
        raise BadInput("regions", came=came, wanted=f"torch.bool of shape (regions, {d})")


def _drawn(rows, labels, groups, seed: int):
    """At most `MOST_ROWS` rows, in whole groups, since a matrix of all pairs of rows is held in memory."""
    if len(rows) <= MOST_ROWS:
        return rows, labels, groups
    groups = list(range(len(rows))) if groups is None else list(groups)
    names = list(dict.fromkeys(groups))
    kept: set[Hashable] = set()
    sizes = {name: 0 for name in names}
    for group in groups:
        sizes[group] += 1
    total = 0
    for i in torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist():
        if total + sizes[names[i]] <= MOST_ROWS:
            kept.add(names[i])
            total += sizes[names[i]]
    at = [i for i, group in enumerate(groups) if group in kept]
    return rows[at], {name: [values[i] for i in at] for name, values in labels.items()}, [groups[i] for i in at]


@dataclass(frozen=True)
class _Space:
    """Rows that properties share, and what follows from them alone."""

    x: torch.Tensor
    covariance: torch.Tensor
    white: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor) -> _Space:
        covariance = shrunk_covariance(x)
        return cls(x, covariance, x @ _whitener(covariance))

    @cached_property
    def factor(self) -> torch.Tensor:
        return torch.linalg.cholesky(self.covariance)


class _Finder:
    """What the properties of one call share: rows, their whitened form, settings."""

    def __init__(self, x, n_null: int, divisions: int, keep: float, few: float, columns, regions, seed: int):
        self.x, self.n_null, self.divisions, self.keep, self.few, self.seed = x, n_null, divisions, keep, few, seed
        self.columns, self.regions = columns, regions
        self.spaces: dict[bytes, _Space] = {}
        self.kernels: dict[bytes, torch.Tensor] = {}

    def space(self, values: Values, paired: bool) -> _Space:
        """The rows that have the property; relative to their group's mean where groups are compared with themselves."""
        groups = values.groups if paired else torch.empty(0)
        key = values.at.numpy().tobytes() + groups.numpy().tobytes()
        if key not in self.spaces:
            x = self.x[values.at]
            self.spaces[key] = _Space.of(relative_to_group(x, values.groups) if paired else x)
        return self.spaces[key]

    def white_kernel(self, space: _Space, values: Values) -> torch.Tensor:
        """Kept for the last property's rows and groups, which the next property often shares."""
        key = id(space).to_bytes(8, "little") + values.groups.numpy().tobytes()
        if key not in self.kernels:
            self.kernels = {key: kernel_between_groups(space.white, values.groups)}
        return self.kernels[key]

    def find(self, values: Values) -> Where:
        """One property, its p-values not corrected yet."""
        generator = torch.Generator().manual_seed(self.seed)
        space = self.space(values, values.several_a_group)
        level = Levelled.of(space.x, values)
        nulls = torch.cat([values.codes[None], shuffled_codes(values, self.n_null, generator)])
        read = agreement(self.white_kernel(space, values), values, nulls)  # in whitened rows, where readers read
        between = agreement(kernel_between_groups(level.rows, values.groups), values, nulls)
        parts = 6 if len(values.names) <= SIXTHS <= int(values.groups.max()) + 1 else 3
        parted = [divided(values.groups, parts, generator) for _ in range(self.divisions)]
        white = self.space(values, paired=False).white
        accuracy = _interval([_accuracy(white, values, thirds(parts)) for parts in parted])
        counts = (len(values.codes), int(values.groups.max()) + 1, len(values.names))
        chance = float(values.shares.max())
        found = Where("cannot tell", *counts, accuracy, chance, _p_value(read), n_null=self.n_null)
        if not _stands_out(read) and not _well_read(accuracy.value, chance, counts[1]):
            found.verdict = "absent"
        elif _stands_out(between):
            self._divide(found, level, values, parted, generator)
            self._subspaces(found, space, values, [thirds(parts) for parts in parted])
        return found

    def _divide(self, found: Where, level: Levelled, values: Values, parted, generator) -> None:
        """Adds dimensions, neighbours and rotations."""
        effects = torch.stack([_effects(level.rows, values, parts) for parts in parted])
        lines = cumulative_shares(effects)  # (divisions, pairs, d)
        curve = mean_curve(lines.flatten(0, 1))
        size = smallest_set(curve, self.keep)
        each = [smallest_set(mean_curve(own), self.keep) for own in lines]
        found.dimensions = Interval(size, min(each), max(each))
        energies = dimension_energies(effects)
        found.chosen = energies.argsort(descending=True)[:size].tolist()
        found.random_share = _chance(random_set_shares(energies, size, self.n_null, generator))
        self._rotate(found, effects, curve, generator)
        self._neighbours(found, energies, generator)
        if size > self.few:
            sizes = sizes_if_few(effects[0], level.factor, self.few, self.keep, self.n_null, generator)
            found.few_dimensions, found.p_many = _chance(sizes), _p_value(torch.cat([torch.tensor([size]), sizes]))
        if self.regions is not None:
            found.tiles = _tile_index(energies, self.regions, self.n_null, generator)

    def _neighbours(self, found: Where, energies: torch.Tensor, generator) -> None:
        held = torch.zeros_like(energies)
        held[found.chosen] = energies[found.chosen].clamp(min=1e-300)
        placed = torch.cat([held[None], random_places(held, max(self.n_null, PLACES), generator)])
        shares = neighbour_share(placed, self.columns, neighbour_reach(len(found.chosen), len(held)))
        found.neighbours, found.random_neighbours = float(shares[0]), _chance(shares[1:])
        near = nearness(placed > 0, self.columns)
        near = near.round(decimals=9)  # equal distances that were added in another order count as equal
        found.p_neighbours = _p_value(near)

    def _subspaces(self, found: Where, space: _Space, values: Values, parted) -> None:
        """Directions are counted in whitened rows: there noise is alike in all, and no basis is special."""
        plain, white = ([_effects(x, values, parts) for parts in parted] for x in (space.x, space.white))
        ranks = [subspace_rank(spectrum([parts]), self.keep) for parts in white]
        rank = subspace_rank(spectrum(white), self.keep)
        found.rank = Interval(rank, min(ranks), max(ranks))
        found.left = left_after_erasing(white, rank)
        found.inlp = inlp_rank(plain[0], space.covariance, 1 - self.keep)
        size = len(found.chosen)
        exchanged = torch.tensor([carried(parts, space.factor, rank, size) for parts in plain]).mean(0).tolist()
        found.exchange = dict(zip(("subspace", "dimensions", "random"), exchanged, strict=True))

    def _rotate(self, found: Where, effects: torch.Tensor, curve: torch.Tensor, generator) -> None:
        """Compares the curve with that of rotated bases, over the first divisions, up to `MOST_COLUMNS` columns."""
        _, parts, d, width = effects.shape
        some = effects[: max(1, MOST_COLUMNS // (parts * width))]
        own = mean_curve(cumulative_shares(some).flatten(0, 1))
        turned = rotated_curves(some, self.n_null, generator)
        found.area, found.rotated_area = float(own.mean()), _chance(turned.mean(-1))
        found.p_basis = _p_value(torch.cat([own.mean()[None], turned.mean(-1)]))
        sizes = [smallest_set(one, self.keep) for one in turned]
        found.rotated_dimensions = _chance(torch.tensor(sizes, dtype=torch.float64))
        at = sorted({*(2**i for i in range(d.bit_length()) if 2**i < d), d})
        bounds = turned.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
        found.curve = [[k, float(curve[k - 1]), *bounds[:, k - 1].tolist()] for k in at]


def _effects(x: torch.Tensor, values: Values, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Cross-covariances `(parts, d, C - 1)`."""
    return torch.stack([cross_covariance(x, values, part) for part in parts])


def _whitener(covariance: torch.Tensor) -> torch.Tensor:
    """`(d, d)` float32: rows times this have unit covariance."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    return (vectors * eigenvalues.rsqrt()).float()


def _accuracy(white: torch.Tensor, values: Values, parts: Sequence[torch.Tensor]) -> float:
    """Accuracy of linear discriminant analysis: each of three parts is tested with a fit to the other two."""
    hits = 0
    for which, tested in enumerate(parts):
        fitted = torch.cat([part for i, part in enumerate(parts) if i != which])
        count = torch.bincount(values.codes[fitted], minlength=len(values.names))
        means = torch.zeros(len(count), white.shape[1]).index_add_(0, values.codes[fitted], white[fitted])
        means = means / count[:, None].clamp(min=1)
        scores = white[tested] @ means.T - means.square().sum(-1) / 2 + count.clamp(min=1e-3).log()
        hits += int((scores.argmax(-1) == values.codes[tested]).sum())
    return hits / len(values.codes)


def _tile_index(energies: torch.Tensor, regions: torch.Tensor, count: int, generator) -> Interval | None:
    """The locality index of what regions hold, and the interval of 95 % of shuffled dimensions."""
    sizes = regions.sum(-1)
    index = locality_index(regions.double() @ energies, sizes)
    orders = [torch.randperm(len(energies), generator=generator) for _ in range(count)]
    shuffled = [locality_index(regions.double() @ energies[order], sizes) for order in orders]
    null = torch.tensor([value for value in shuffled if value is not None], dtype=torch.float64)
    if index is None or not len(null):
        return None
    return Interval(index, *null.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist())


def _stands_out(statistics: torch.Tensor) -> bool:
    """Whether the first entry lies `BEYOND` standard deviations above the others."""
    return float(statistics[0] - statistics[1:].mean()) >= BEYOND * float(statistics[1:].std())


def _well_read(accuracy: float, chance: float, groups: int) -> bool:
    """Whether new groups are read `BEYOND` standard deviations better than by chance, were each group one draw."""
    return accuracy - chance >= BEYOND * (chance * (1 - chance) / groups) ** 0.5


def _p_value(statistics: torch.Tensor) -> float:
    """One-sided: the share of entries, the first one included, that reach the first; the others are draws of chance."""
    return float((statistics >= statistics[0]).double().mean())


def _interval(values: Sequence[float]) -> Interval:
    return Interval(sum(values) / len(values), min(values), max(values))


def _chance(draws: torch.Tensor) -> Interval:
    low, high = draws.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(float(draws.double().mean()), low, high)


def _neighbourly(found: Where) -> bool:
    if found.neighbours is None or found.random_neighbours is None:
        return False
    chance = found.random_neighbours.value
    return found.neighbours - chance >= NEIGHBOURLY * (1 - chance)


def _verdict(found: Where, few: float, alpha: float) -> str:
    if found.verdict == "absent" or found.p_present > alpha:
        return "absent"
    if found.dimensions is None or found.rank is None or found.p_basis is None or found.p_neighbours is None:
        return "cannot tell"
    rotated = found.rotated_dimensions
    sparser = found.p_basis <= alpha and rotated is not None and found.dimensions.value <= SPARSER * rotated.value
    if (found.p_basis <= alpha and found.dimensions.value <= few) or (sparser and found.dimensions.low <= few):
        neighbourly = _neighbourly(found) and found.p_neighbours <= alpha
        return "block" if neighbourly else "scattered few"
    if found.p_many is None or found.p_many > alpha:
        return "cannot tell"
    if sparser:
        return "many dimensions"
    return "rotated subspace" if found.rank.value <= few else "distributed"
