"""How many dimensions of the given basis carry a property, are they neighbours, is this basis better than others?

What dimensions hold is estimated on two parts of the groups, and they are ranked on all other parts, so a dimension
that ranked first by chance adds nothing. The same in randomly rotated bases gives the chance level. Noise disturbs the
ranks, so that a faint property seems to need more dimensions than hold it: simulations tell how many a property in few
dimensions would seem to need.
"""

from __future__ import annotations

import torch


def cumulative_shares(parts: torch.Tensor) -> torch.Tensor:
    """What the best k dimensions hold, k = 1 ... d, not divided by the total: one curve for each pair of parts.

    What a dimension holds is its product over the pair; the sum over all dimensions is the total. The other parts rank
    the dimensions.

    Args:
        parts: cross-covariances `(..., parts, d, C - 1)`.

    Returns:
        `(..., pairs, d)` float64.
    """
    first, second = torch.combinations(torch.arange(parts.shape[-3])).T
    one, other = parts[..., first, :, :], parts[..., second, :, :]  # (..., pairs, d, C - 1)
    ranking = (parts.sum(-3, keepdim=True) - one - other).square().sum(-1)
    held = (one * other).sum(-1)
    return held.gather(-1, ranking.argsort(-1, descending=True)).double().cumsum(-1)


def mean_curve(lines: torch.Tensor) -> torch.Tensor:
    """Share held by the best k dimensions, `(d,)`, from curves `(m, d)` that end at their totals; it ends at 1."""
    return lines.sum(0) / lines[:, -1].sum()


def smallest_set(curve: torch.Tensor, keep: float) -> int:
    """The fewest dimensions whose share reaches `keep`.

    Example:
        >>> smallest_set(torch.tensor([0.5, 0.8, 0.95, 1.0]), 0.9)
        3
    """
    return int((curve >= keep).nonzero()[0]) + 1 if bool((curve >= keep).any()) else len(curve)


def dimension_energies(divisions: torch.Tensor) -> torch.Tensor:
    """What each dimension holds, `(d,)` float64: the mean over all pairs of disjoint parts; noise may make it negative.

    Their sum is the variance of the rows between the values of the property, in units of the dimensions' variances.

    Args:
        divisions: cross-covariances `(divisions, parts, d, C - 1)`.
    """
    parts = divisions.shape[1]
    of_pairs = divisions.double().sum(1).square() - divisions.double().square().sum(1)  # each pair twice
    return of_pairs.sum(-1).mean(0) / (parts * (parts - 1))


def random_set_shares(energies: torch.Tensor, size: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """What random sets of as many dimensions hold, as shares of the whole: `(count,)`."""
    sets = torch.rand(count, len(energies), generator=generator).argsort(-1)[:, :size]
    return energies[sets].sum(-1) / energies.sum()


def rotated_curves(divisions: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """The curve in `count` randomly rotated bases, `(count, d)`.

    A rotation acts on the few columns of the cross-covariances alone: their frame is replaced by a random one of as
    many orthonormal columns, which is what a random rotation makes of it.

    Args:
        divisions: cross-covariances `(divisions, parts, d, C - 1)`.
        count: of rotations.
        generator: of their frames.
    """
    d = divisions.shape[2]
    triangle = torch.linalg.qr(divisions.movedim(2, 0).flatten(1)).R  # (r, divisions * parts * (C - 1))
    curves = []
    for _ in range(count):
        frame = torch.linalg.qr(torch.randn(d, len(triangle), generator=generator)).Q
        turned = (frame @ triangle).view(d, *divisions.shape[:2], -1).movedim(0, 2)
        curves.append(mean_curve(cumulative_shares(turned).flatten(0, -2)))
    return torch.stack(curves)


def sizes_if_few(
    parts: torch.Tensor, factor: torch.Tensor, few: float, keep: float, count: int, generator
) -> torch.Tensor:
    """How large the smallest set would seem if `few` dimensions held `keep` of a property as strong, under equal noise.

    The property is spread evenly over random dimensions, the hardest case to find; the noise has the covariance of the
    rows and the variance that the parts differ by.

    Args:
        parts: cross-covariances `(parts, d, C - 1)` of one division.
        factor: `(d, d)` float32 with `factor @ factor.T` the covariance of the rows' noise.
        few: how many dimensions.
        keep: the share that they hold.
        count: of simulations.
        generator: of dimensions, directions and noise.

    Returns:
        `(count,)` float64.
    """
    d, width = parts.shape[1:]
    held = max(1, min(d, round(few / keep)))
    strength = max(0.0, float(cumulative_shares(parts)[:, -1].mean()))
    noise = float(parts.var(0).mean() / factor.square().sum(-1).mean()) ** 0.5
    sizes = []
    for _ in range(count):
        directions = torch.nn.functional.normalize(torch.randn(held, width, generator=generator), dim=-1)
        at = torch.randperm(d, generator=generator)[:held]
        drawn = noise * (torch.randn(len(parts), width, d, generator=generator) @ factor.T).mT
        drawn[:, at] += (strength / held) ** 0.5 * directions
        sizes.append(smallest_set(mean_curve(cumulative_shares(drawn)), keep))
    return torch.tensor(sizes, dtype=torch.float64)


def neighbour_share(held: torch.Tensor, columns: int | None = None, reach: int = 2) -> torch.Tensor:
    """Which part of what chosen dimensions hold lies in such as have a chosen neighbour; 0 to 1.

    Args:
        held: `(..., d)`, what each chosen dimension holds, 0 where it is not chosen; bool: all the same.
        columns: of the array that the embedding is seen as, row by row: dimensions above and below are neighbours too.
            None: only dimensions before and after.
        reach: how far apart neighbours may be; in a block some dimensions carry next to nothing, and the smallest set
            leaves these out.

    Returns:
        `(...)` float64.

    Example:
        >>> neighbour_share(torch.tensor([1, 0, 1, 0, 0, 1]).bool()).item()
        0.6666666666666666
    """
    chosen = held > 0
    beside = torch.zeros_like(chosen)
    for step in {*range(1, reach + 1), columns or 1}:
        beside[..., step:] |= chosen[..., :-step]
        beside[..., :-step] |= chosen[..., step:]
    return (held * beside).sum(-1).double() / held.sum(-1)


def neighbour_reach(size: int, d: int) -> int:
    """How far apart neighbours may be, so that an eighth of `size` dimensions at random have one; at least two."""
    return max(2, round(d / (16 * size)))


def nearness(chosen: torch.Tensor, columns: int | None = None) -> torch.Tensor:
    """How close together chosen dimensions lie: the sum of 1 / distance over their pairs.

    Args:
        chosen: `(..., d)` bool.
        columns: as in `neighbour_share`; distances on the array count where they are the shorter ones.

    Returns:
        `(...)` float64.

    Example:
        >>> nearness(torch.tensor([1, 0, 1, 0, 1]).bool()).item()
        1.25
    """
    at = torch.arange(chosen.shape[-1])
    apart = (at[:, None] - at).abs().double()
    if columns:
        rows, places = at // columns, at % columns
        apart = apart.minimum(torch.hypot((rows[:, None] - rows).double(), (places[:, None] - places).double()))
    close = (1 / apart).fill_diagonal_(0.0)
    chosen = chosen.double()
    return ((chosen @ close) * chosen).sum(-1) / 2


def random_places(held: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """The same numbers `(d,)` in `count` random orders, `(count, d)`."""
    return held[torch.rand(count, len(held), generator=generator).argsort(-1)]
