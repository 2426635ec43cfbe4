"""How many dimensions of the given basis carry a property, are they neighbours, is this basis better than others?

Dimensions are ranked on one part of the groups, and what they hold is read off the two others, so a dimension that
came first by chance brings nothing. The same is done in randomly rotated bases: there lies what chance gives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Parts = Sequence[torch.Tensor]  # cross-covariances (d, C - 1) of the three parts of one division


def cumulative_shares(parts: Parts) -> torch.Tensor:
    """What the best k dimensions hold, k = 1 ... d, not divided by the whole: `(3, d)`, one line for each ranking part.

    The best by one part; what they hold by the product of the two others, whose sum over all dimensions is the whole.
    """
    lines = []
    for ranking in range(3):
        first, second = (parts[i] for i in range(3) if i != ranking)
        order = parts[ranking].square().sum(-1).argsort(descending=True)
        lines.append((first * second).sum(-1)[order].cumsum(0))
    return torch.stack(lines).double()


def mean_curve(lines: torch.Tensor) -> torch.Tensor:
    """Share held by the best k dimensions, `(d,)`; of lines `(m, d)` that end at their wholes. 1 at the end."""
    return lines.sum(0) / lines[:, -1].sum()


def smallest_set(curve: torch.Tensor, keep: float) -> int:
    """The fewest dimensions whose share reaches `keep`.

    Example:
        >>> smallest_set(torch.tensor([0.5, 0.8, 0.95, 1.0]), 0.9)
        3
    """
    return int((curve >= keep).nonzero()[0]) + 1 if bool((curve >= keep).any()) else len(curve)


def dimension_energies(divisions: Sequence[Parts]) -> torch.Tensor:
    """What each dimension holds, `(d,)` float64: the mean over all pairs of disjoint parts; noise may make it negative.

    Their sum is the variance of the rows between the values of the property, in units of the dimensions' variances.
    """
    pairs = ((0, 1), (0, 2), (1, 2))
    total = torch.stack([(parts[a] * parts[b]).sum(-1).double() for parts in divisions for a, b in pairs])
    return total.mean(0)


def random_set_shares(energies: torch.Tensor, size: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """What random sets of as many dimensions hold, as shares of the whole: `(count,)`."""
    sets = torch.rand(count, len(energies), generator=generator).argsort(-1)[:, :size]
    return energies[sets].sum(-1) / energies.sum()


def rotated_curves(divisions: Sequence[Parts], count: int, generator: torch.Generator) -> torch.Tensor:
    """The curve in `count` randomly rotated bases, `(count, d)`.

    A rotation acts on the few columns of the cross-covariances alone: their frame is replaced by a random one of as
    many orthonormal columns, which is what a random rotation makes of it.
    """
    stack = torch.cat([part for parts in divisions for part in parts], dim=1)
    triangle = torch.linalg.qr(stack).R  # (r, columns)
    curves = []
    for _ in range(count):
        frame = torch.linalg.qr(torch.randn(len(stack), len(triangle), generator=generator)).Q
        turned = (frame @ triangle).unflatten(1, (len(divisions), 3, -1))  # (d, divisions, 3, C - 1)
        held = turned.square().sum(-1)
        shared = (turned.roll(1, 2) * turned.roll(-1, 2)).sum(-1)
        lines = shared.gather(0, held.argsort(0, descending=True)).double().cumsum(0).flatten(1)
        curves.append(mean_curve(lines.T))
    return torch.stack(curves)


def neighbour_share(chosen: torch.Tensor, columns: int | None = None) -> torch.Tensor:
    """Which part of the chosen dimensions has a neighbour among them, at most two dimensions away; 0 to 1.

    Two, because in a block some dimensions carry next to nothing, and the smallest set leaves these out.

    Args:
        chosen: bool `(..., d)`.
        columns: of the array that the embedding is seen as, row by row: dimensions above and below are neighbours too.
            None: only dimensions before and after.

    Returns:
        `(...)` float64.

    Example:
        >>> neighbour_share(torch.tensor([1, 0, 1, 0, 0, 1]).bool()).item()
        0.6666666666666666
    """
    beside = torch.zeros_like(chosen)
    for step in {1, 2, columns or 1}:
        beside[..., step:] |= chosen[..., :-step]
        beside[..., :-step] |= chosen[..., step:]
    return (chosen & beside).sum(-1).double() / chosen.sum(-1)


def random_sets(d: int, size: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """bool `(count, d)` with `size` dimensions each."""
    sets = torch.rand(count, d, generator=generator).argsort(-1)[:, :size]
    return torch.zeros(count, d, dtype=torch.bool).scatter_(1, sets, True)
