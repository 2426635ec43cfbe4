"""The effect of a property on the rows: its cross-covariance with them, on disjoint parts of the groups, and its nulls.

A linear classifier can read a property only as far as the means of its values differ (Belrose et al., LEACE, NeurIPS
2023, theorem 3.1). So everything here starts from one matrix: the cross-covariance of the rows with the values, written
as vectors of unit covariance. Its squared norm is the variance of the rows between the values. Products of two such
matrices, from parts that share no group, estimate it without bias: their noise is independent and averages to zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import BadInput, NonFiniteRows, TooFewRows

PARTS = 3
LEAST_GROUPS = 6
PAIRS_AT_ONCE = 2**24
MANY_VALUES = 16
LEAST_NOISE = 0.1  # of a dimension's standard deviation: a dimension that determines the value would have no noise
NO_VALUE = ("None", "nan", "<NA>", "NaT")


@dataclass(frozen=True)
class Values:
    """The values of one property on the rows that have one.

    Args:
        at: `(n,)` int64, positions of these rows.
        codes: `(n,)` int64, number of each row's value.
        names: the values themselves, as text.
        shares: `(C,)` float64, how frequent each value is.
        vectors: `(C, C - 1)` float32: the values as vectors of mean 0 and unit covariance.
        groups: `(n,)` int64, number of each row's group.
    """

    at: torch.Tensor
    codes: torch.Tensor
    names: list[str]
    shares: torch.Tensor
    vectors: torch.Tensor
    groups: torch.Tensor

    @property
    def several_a_group(self) -> bool:
        """Whether every group holds several values, so that it can be compared with itself."""
        cells = torch.unique(torch.stack([self.groups, self.codes]), dim=1)[0]
        return bool((torch.bincount(cells, minlength=int(self.groups.max()) + 1) > 1).all())


def check_rows(rows: torch.Tensor) -> torch.Tensor:
    """The rows in float32 and in units of each dimension's standard deviation; a constant dimension is 0.

    Raises:
        BadInput: rows that do not form a matrix, or do not differ.
        NonFiniteRows: NaN or infinity.
    """
    if not isinstance(rows, torch.Tensor) or rows.dim() != 2:
        shape = tuple(rows.shape) if isinstance(rows, torch.Tensor) else type(rows).__name__
        raise BadInput("rows", came=f"{shape}", wanted="a tensor (n, hidden_size)")
    bad = int((~rows.isfinite()).any(-1).sum())
    if bad:
        raise NonFiniteRows("rows", came=f"NaN or infinity in {bad} rows", wanted="finite rows")
    centred = rows.detach().cpu().double() - rows.detach().cpu().double().mean(0)
    deviation = centred.square().mean(0).sqrt()
    moves = deviation > 1e-9 * rows.abs().amax(0).double().clamp(min=1e-300)
    if not moves.any():
        raise BadInput("rows", came=f"{len(rows)} rows that are all the same", wanted="rows that differ")
    return torch.where(moves, centred / deviation.clamp(min=1e-300), 0.0).float()


def read_values(labels: Sequence, groups: Sequence[Hashable] | None, name: str) -> Values:
    """The values of a property; rows whose label is None, NaN or empty do not have it.

    Args:
        labels: one per row.
        groups: one per row; None: every row is a group of its own.
        name: of the property, for errors.

    Raises:
        BadInput: fewer than two values, or a value that occurs in fewer than three groups.
        TooFewRows: fewer than six groups.
    """
    held = [i for i, label in enumerate(labels) if not lacks(label)]
    told = [str(labels[i]) for i in held]
    names = sorted(set(told))
    if len(names) < 2:
        came = f"only the value {names[0]!r}" if names else "no value"
        raise BadInput(f"labels[{name!r}]", came=came, wanted="at least two", cure="Leave this property out.")
    numbers: dict[Hashable, int] = {}
    own = [numbers.setdefault(groups[i] if groups is not None else i, len(numbers)) for i in held]
    if len(numbers) < LEAST_GROUPS:
        raise TooFewRows("groups", came=f"{len(numbers)} with {name!r}", wanted=f"at least {LEAST_GROUPS}")
    _check_spread(told, own, name)
    codes = torch.tensor([names.index(label) for label in told])
    shares = torch.bincount(codes).double() / len(codes)
    return Values(torch.tensor(held), codes, names, shares, _unit_vectors(shares), torch.tensor(own))


def as_list(values: Any) -> list:
    """Plain values: equal numbers of a tensor would count as different ones."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def lacks(label: object) -> bool:
    """Whether a label says that a row has no value: None, NaN (of Python, numpy or pandas) or nothing but spaces."""
    told = str(label).strip()
    return told == "" or (not isinstance(label, str) and told in NO_VALUE)


def _check_spread(told: list[str], groups: list[int], name: str) -> None:
    found: dict[str, set[int]] = {}
    for label, group in zip(told, groups, strict=True):
        found.setdefault(label, set()).add(group)
    rare = min(found, key=lambda label: len(found[label]))
    if len(found[rare]) < PARTS:
        came = f"the value {rare!r} in {len(found[rare])} group(s)"
        many = len(found) * PARTS > len(told)
        cure = "Sort them into a few values." if many else "Add sentences of it, or leave its rows' label empty."
        raise BadInput(f"labels[{name!r}]", came=came, wanted=f"every value in at least {PARTS} groups", cure=cure)


def _unit_vectors(shares: torch.Tensor) -> torch.Tensor:
    """`(C, C - 1)`: rows f_c with sum_c p_c f_c = 0 and sum_c p_c f_c f_c^T = I."""
    root = shares.sqrt()
    basis = torch.linalg.qr(torch.cat([root[:, None], torch.eye(len(root), dtype=torch.float64)[:, 1:]], dim=1)).Q
    return (basis[:, 1:] / root[:, None]).float()


def relative_to_group(x: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Rows minus the mean of their group."""
    count = int(groups.max()) + 1
    sums = torch.zeros(count, x.shape[1]).index_add_(0, groups, x)
    return x - (sums / torch.bincount(groups, minlength=count)[:, None])[groups]


def shrunk_covariance(x: torch.Tensor) -> torch.Tensor:
    """Covariance `(d, d)` float64, shrunk towards the identity as its own noise asks for (Ledoit & Wolf 2004)."""
    n, d = x.shape
    x = x.double() - x.double().mean(0)
    sample = x.T @ x / n
    level = float(sample.trace()) / d
    target = level * torch.eye(d, dtype=torch.float64)
    distance = float((sample - target).square().sum())
    noise = float((x.square().sum(-1).square().sum() / n - sample.square().sum()) / n)
    weight = min(1.0, max(noise, 0.0) / distance) if distance > 0 else 1.0
    # a constant dimension has variance 0 and has no effect; the smallest weight keeps the matrix invertible
    return weight * target + (1 - weight) * sample + 1e-6 * max(level, 1e-12) * torch.eye(d, dtype=torch.float64)


@dataclass(frozen=True)
class Levelled:
    """Rows in units of their noise, with the directions of very large noise scaled down.

    Noise that dimensions share adds up over them: a few directions of large noise would decide how much of the property
    all dimensions seem to hold, and so how many of them hold 90 % of it. Directions in which rows of one value vary
    more than white noise would by chance (Marchenko & Pastur's edge) are scaled down to this limit; no other is
    changed. This decorrelates dimensions only as far as needed (in full: Zuber & Strimmer, Bioinformatics 2009), so
    each keeps its meaning but for its part in those directions. Limits closer to the average would fit the noise of
    these very rows.

    Args:
        rows: `(n, d)` float32; rows of one value have standard deviation 1 in each dimension before the scaling.
        factor: `(d, d)` float32 with `factor @ factor.T` the covariance of their noise.
    """

    rows: torch.Tensor
    factor: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, values: Values) -> Levelled:
        """The levelled form of rows `x` that have these values."""
        noise = relative_to_group(x, values.codes)
        unit = noise.square().mean(0).sqrt().clamp(min=LEAST_NOISE)
        eigenvalues, vectors = torch.linalg.eigh(shrunk_covariance(noise / unit))
        groups = int(values.groups.max()) + 1
        draws = len(x) - groups if values.several_a_group else groups
        limit = float(eigenvalues.mean()) * (1 + (x.shape[1] / draws) ** 0.5) ** 2
        turned = vectors * (limit / eigenvalues).clamp(max=1).sqrt()
        return cls((x / unit) @ (turned @ vectors.T).float(), (turned * eigenvalues.sqrt()).float())


def divided(groups: torch.Tensor, parts: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Parts of the rows that share no group, as positions of rows; the groups are drawn at random."""
    count = int(groups.max()) + 1
    part = (torch.randperm(count, generator=generator) % parts)[groups]
    return [(part == which).nonzero().flatten() for which in range(parts)]


def thirds(parts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Three parts, made by joining 3 or 6."""
    return [torch.cat(list(parts[which::PARTS])) for which in range(PARTS)]


def cross_covariance(x: torch.Tensor, values: Values, part: torch.Tensor) -> torch.Tensor:
    """`(d, C - 1)`: covariance of the rows of a part with the vectors of their values."""
    rows, vectors = x[part], values.vectors[values.codes[part]]
    return (rows - rows.mean(0)).T @ vectors / len(part)


def shuffled_codes(values: Values, count: int, generator: torch.Generator) -> torch.Tensor:
    """`(count, n)`: shuffled labels; each group gets those of another group, in random order.

    A group with a single value gets a single value, a group with several values gets several.
    """
    order = values.groups.argsort(stable=True)
    sizes = torch.bincount(values.groups)
    drawn = torch.empty(count, len(order), dtype=torch.long)
    if bool((sizes == sizes[0]).all()):
        table = values.codes[order].view(len(sizes), -1)
        for null in drawn:
            swapped = table[torch.randperm(len(sizes), generator=generator)]
            within = torch.rand(table.shape, generator=generator).argsort(-1)
            null[order] = swapped.gather(1, within).flatten()
        return drawn
    held = values.codes[order].split(sizes.tolist())
    places = order.split(sizes.tolist())
    for null in drawn:
        for place, other in zip(places, torch.randperm(len(sizes), generator=generator).tolist()):
            lent = held[other][torch.randperm(len(held[other]), generator=generator)]
            null[place] = lent.repeat(-(-len(place) // len(lent)))[: len(place)]
    return drawn


def agreement(kernel: torch.Tensor, values: Values, codes: torch.Tensor) -> torch.Tensor:
    """Squared cross-covariance over pairs of rows of different groups, one for each labelling `(k, n)`: `(k,)` float64.

    `tr(F^T K F) / n^2`, F the vectors of the labels; K has zeros where two rows share a group, so the expectation is
    that of the products of disjoint parts, over all divisions at once.
    """
    n = len(values.codes)
    told = _over_values if len(values.names) > MANY_VALUES else _over_vectors
    return told(kernel, values, codes) / n**2


def _over_vectors(kernel: torch.Tensor, values: Values, codes: torch.Tensor) -> torch.Tensor:
    """One matrix product over all labellings: the way for few values."""
    n, width = len(values.codes), values.vectors.shape[1]
    found = []
    for some in codes.split(max(1, PAIRS_AT_ONCE // (n * width))):
        vectors = values.vectors[some].transpose(0, 1).flatten(1)  # (n, k * (C - 1))
        vectors = vectors - vectors.mean(0)
        sums = (vectors * (kernel @ vectors)).sum(0).double()
        found.append(sums.view(len(some), width).sum(-1))
    return torch.cat(found)


def _over_values(kernel: torch.Tensor, values: Values, codes: torch.Tensor) -> torch.Tensor:
    """The same sum over pairs of equal values: `sum_ij K_ij ([y_i = y_j] / p - 1)`, n^2 / C terms per labelling."""
    whole = kernel.double().sum()
    found = []
    for labels in codes:
        order = labels.argsort()
        parts = order.split(torch.bincount(labels, minlength=len(values.names)).tolist())
        sums = torch.stack([kernel[part[:, None], part].sum() for part in parts]).double()
        found.append((sums / values.shares).sum() - whole)
    return torch.stack(found)


def kernel_between_groups(x: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Inner products of rows `(n, n)` float32, zero where two rows share a group."""
    x = x - x.mean(0)
    kernel = x @ x.T
    return kernel.masked_fill_(groups[:, None] == groups[None], 0.0)
