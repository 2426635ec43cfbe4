"""Measures of trajectories: how a sequence of tokens moves through representation space.

Here the order of the rows counts: rows of one group are the tokens of one sequence, in their order.

cloud = PointCloud(states, groups=sequence_of_each_row)
curvature(cloud), prompt_entropy(cloud)
"""

from __future__ import annotations

from math import sqrt

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
    found = [angle for angle in map(_mean_angle, sequences_of(cloud)) if angle is not None]
    details = {"independent_rows": 2 * torch.pi / 3, "random_walk": torch.pi / 2}
    return _over_sequences("curvature", "hosseini", found, cloud, details)


def prompt_entropy(cloud: PointCloud) -> Estimate:
    """How many directions the tokens of one sequence use: entropy of its Gram matrix, in nats.

    `-sum p log p` with p the eigenvalues of `Z Z^T` over their sum, Z the tokens of a sequence, not centred; averaged
    over sequences.

    Args:
        cloud: rows in the order of their sequences, `groups` naming the sequence of each.

    Returns:
        Estimate: 0 where all tokens of a sequence lie along one line through the origin, `log min(T, d)` where T tokens
        are orthogonal and equally long. Sequences of other lengths do not compare; `normalised` in the details is the
        mean of the entropy over `log min(T, d)`. Standard error over sequences.

    Cost: `O(T^2 d)` a sequence of T tokens.

    Source: Skean et al. 2025, "Layer by Layer: Uncovering Hidden Representations in Language Models", section 3.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.trajectories import prompt_entropy
        >>> cloud = PointCloud(torch.eye(8), groups=torch.zeros(8, dtype=torch.int64))
        >>> round(prompt_entropy(cloud).value, 4)  # log 8
        2.0794
    """
    pairs = [pair for pair in map(_entropy, sequences_of(cloud)) if pair is not None]
    details = {"normalised": sum(share for _, share in pairs) / len(pairs)} if pairs else {}
    return _over_sequences("prompt_entropy", "skean", [entropy for entropy, _ in pairs], cloud, details)


def sequences_of(cloud: PointCloud) -> list[torch.Tensor]:
    """The rows of each sequence, `(T, d)` float64, in order; those of fewer than three tokens are left out."""
    _, place, counts = torch.unique(cloud.groups, return_inverse=True, return_counts=True)
    order = torch.argsort(place, stable=True)
    parts = cloud.rows[order].to(torch.float64).split(counts.tolist())
    return [part for part in parts if len(part) >= FEWEST_TOKENS]


def _mean_angle(tokens: torch.Tensor) -> float | None:
    steps = tokens.diff(dim=0)
    lengths = steps.norm(dim=1)
    products = (steps[:-1] * steps[1:]).sum(1)
    moving = (lengths[:-1] > 0) & (lengths[1:] > 0)
    if not bool(moving.any()):
        return None
    cosines = products[moving] / (lengths[:-1] * lengths[1:])[moving]
    return float(torch.arccos(cosines.clamp(-1, 1)).mean())


def _entropy(tokens: torch.Tensor) -> tuple[float, float] | None:
    """The entropy of a sequence, and its share of the largest possible."""
    small = tokens @ tokens.T if len(tokens) <= tokens.shape[1] else tokens.T @ tokens
    values = torch.linalg.eigvalsh(small).clamp_min(0)
    if float(values.sum()) <= 0:
        return None
    entropy = float(torch.special.entr(values / values.sum()).sum())
    return entropy, entropy / torch.tensor(len(values), dtype=torch.float64).log().item() if len(values) > 1 else 0.0


def _over_sequences(name: str, convention: str, values: list[float], cloud: PointCloud, details: dict) -> Estimate:
    if not values:
        reason = f"too_few_rows: no sequence of at least {FEWEST_TOKENS} tokens that move"
        return missing(name, convention, reason, n=cloud.n)
    found = torch.tensor(values, dtype=torch.float64)
    error = float(found.std()) / sqrt(len(found)) if len(found) > 1 else None
    method = f"over {len(found)} sequences" if len(found) > 1 else None
    warnings = () if error is not None else ("too_few_groups: one sequence gives no standard error",)
    details = details | {"sequences": len(found)}
    return Estimate(name, convention, float(found.mean()), error, method, cloud.n, None, warnings, details)
