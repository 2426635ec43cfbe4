"""Measures of trajectories: how a sequence of tokens moves through representation space.

Here the order of the rows counts: rows of one group are the tokens of one sequence, in their order.

cloud = PointCloud(states, groups=sequence_of_each_row)
curvature(cloud), prompt_entropy(cloud)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log, sqrt

import torch

from .cloud import PointCloud
from .estimate import Estimate, missing

FEWEST_TOKENS = 3  # two steps make an angle


def curvature(cloud: PointCloud) -> Estimate:
    """Mean angle, in radians, between one step of a sequence and the next.

    `v_t = x_(t+1) - x_t`; the angle of `v_t` and `v_(t+1)`, averaged over the steps of a sequence and then over
    sequences. Steps of length 0 have no direction and are left out.

    Args:
        cloud: rows in the order of their sequences, `groups` naming the sequence of each.

    Returns:
        Estimate: 0 for a straight line, pi for turning back at every step. Independent rows in many dimensions give
        2 pi / 3 = 2.094, a random walk pi / 2 = 1.571; both are in the details. Standard error over sequences.

    Cost: `O(n d)`.

    Source: Hosseini & Fedorenko 2023, "Large language models implicitly learn to straighten neural sentence
    trajectories", equation 1; by layer in Skean et al. 2025, "Layer by Layer".

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.trajectories import curvature
        >>> line = torch.arange(10.0)[:, None] * torch.tensor([[1.0, 2.0]])
        >>> round(curvature(PointCloud(line, groups=torch.zeros(10, dtype=torch.int64))).value, 3)
        0.0
    """
    return _of_cloud("curvature", cloud)


def prompt_entropy(cloud: PointCloud) -> Estimate:
    """How many directions the tokens of one sequence use: entropy of its Gram matrix, in nats.

    `-sum p log p` with p the eigenvalues of `Z Z^T` over their sum, Z the tokens of a sequence, not centred; averaged
    over sequences.

    Args:
        cloud: rows in the order of their sequences, `groups` naming the sequence of each.

    Returns:
        Estimate: 0 where all tokens of a sequence lie along one line through the origin, `log min(T, d)` where T tokens
        are orthogonal and equally long. Values of sequences of different lengths are not comparable; `normalised` in
        the details is the mean of the entropy over `log min(T, d)`. Standard error over sequences.

    Cost: `O(T^2 d)` per sequence of T tokens.

    Source: Skean et al. 2025, "Layer by Layer: Uncovering Hidden Representations in Language Models", section 3.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.trajectories import prompt_entropy
        >>> cloud = PointCloud(torch.eye(8), groups=torch.zeros(8, dtype=torch.int64))
        >>> round(prompt_entropy(cloud).value, 4)  # log 8
        2.0794
    """
    return _of_cloud("prompt_entropy", cloud)


def sequences_of(cloud: PointCloud) -> list[torch.Tensor]:
    """The rows of each sequence, `(T, d)` float64, in order; those of fewer than three tokens are left out."""
    _, place, counts = torch.unique(cloud.groups, return_inverse=True, return_counts=True)
    order = torch.argsort(place, stable=True)
    parts = cloud.rows[order].to(torch.float64).split(counts.tolist())
    return [part for part in parts if len(part) >= FEWEST_TOKENS]


def mean_angle(tokens: torch.Tensor) -> float | None:
    """Curvature of one sequence, `(T, d)`; `None` where it does not move."""
    steps = tokens.diff(dim=0)
    lengths = steps.norm(dim=1)
    products = (steps[:-1] * steps[1:]).sum(1)
    moving = (lengths[:-1] > 0) & (lengths[1:] > 0)
    if not bool(moving.any()):
        return None
    cosines = products[moving] / (lengths[:-1] * lengths[1:])[moving]
    return float(torch.arccos(cosines.clamp(-1, 1)).mean())


def gram_entropy(tokens: torch.Tensor) -> float | None:
    """Entropy of one sequence's Gram matrix, `(T, d)`; `None` where all its tokens are zero."""
    small = tokens @ tokens.T if len(tokens) <= tokens.shape[1] else tokens.T @ tokens
    values = torch.linalg.eigvalsh(small).clamp_min(0)
    if float(values.sum()) <= 0:
        return None
    return float(torch.special.entr(values / values.sum()).sum())


OF_SEQUENCE: dict[str, Callable[[torch.Tensor], float | None]] = {
    "curvature": mean_angle,
    "prompt_entropy": gram_entropy,
}
CONVENTIONS = {"curvature": "hosseini", "prompt_entropy": "skean"}
UNITS = {"curvature": "radians", "prompt_entropy": "nats"}


def _of_cloud(name: str, cloud: PointCloud) -> Estimate:
    parts = sequences_of(cloud)
    shapes = [(len(part), cloud.d) for part in parts]
    return over_sequences(name, [OF_SEQUENCE[name](part) for part in parts], shapes, range(len(parts)), cloud.n)


def over_sequences(
    name: str,
    values: Sequence[float | None],
    shapes: Sequence[tuple[int, int]],
    owners: Sequence[int],
    n: int,
) -> Estimate:
    """The mean over sequences, with the standard error over documents.

    Args:
        name: `"curvature"` or `"prompt_entropy"`.
        values: of each sequence; `None` where it has none.
        shapes: tokens and width of each.
        owners: the document of each; sequences of one document are drawn together.
        n: tokens in all.
    """
    known = [
        (value, shape, owner) for value, shape, owner in zip(values, shapes, owners, strict=True) if value is not None
    ]
    if not known:
        reason = f"too_few_rows: no sequence of at least {FEWEST_TOKENS} tokens that move"
        return missing(name, CONVENTIONS[name], reason, n=n)
    found = torch.tensor([value for value, *_ in known], dtype=torch.float64)
    group = torch.unique(torch.tensor([owner for *_, owner in known]), return_inverse=True)[1]
    error, method = _clustered_error(found, group)
    warnings = () if error is not None else ("too_few_groups: sequences of one document give no standard error",)
    details: dict[str, float] = {"sequences": len(found)}
    if name == "curvature":
        details |= {"independent_rows": 2 * torch.pi / 3, "random_walk": torch.pi / 2}
    else:
        largest = [log(max(2, min(shape))) for _, shape, _ in known]
        details["normalised"] = float((found / torch.tensor(largest, dtype=torch.float64)).mean())
    return Estimate(name, CONVENTIONS[name], float(found.mean()), error, method, n, None, warnings, details)


def _clustered_error(values: torch.Tensor, group: torch.Tensor) -> tuple[float | None, str | None]:
    """Standard error of the mean when whole groups are drawn, `(s,)` values and the group of each."""
    groups = int(group.max()) + 1
    if groups < 2:
        return None, None
    sums = torch.zeros(groups, dtype=values.dtype).index_add_(0, group, values - values.mean())
    error = sqrt(float(sums.square().sum()) * groups / (groups - 1)) / len(values)
    alone = groups == len(values)
    return error, f"over {groups} sequences" if alone else f"over {groups} documents"
