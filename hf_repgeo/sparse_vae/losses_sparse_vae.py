"""The losses and the choice of an answer (Nastase & Merlo 2024, section 3; numbers follow the authors' code).

transformers copies this file beside a checkpoint, so it imports only torch. All sums run in float32 (float64 stays),
whatever the model's dtype. Shapes: B instances, K candidates, D dimensions, L latents. Instances of fewer than K
candidates are filled up with any rows; `candidate_mask` `(B, K)` is False there, and these rows count for nothing.
"""

import torch
from torch.nn import functional as F


def _wide(x):
    return x if x.dtype == torch.float64 else x.float()


def _dot_products(decoded, candidates):
    """`(B, D)` with each of `(B, K, D)`: `(B, K)`."""
    return torch.einsum("bd,bkd->bk", _wide(decoded), _wide(candidates))


def _margin_of(scores, labels, margin):
    """Hinge of each wrong candidate's score against the right one's: `(B, K)`, 0 at the right one."""
    right = scores.gather(1, labels[:, None])
    hinge = (margin - right + scores).clamp(min=0)
    return hinge.scatter(1, labels[:, None], 0.0)


def _kept(scores, candidate_mask):
    """Scores with 0 where there is no candidate, and how many wrong candidates each instance has."""
    if candidate_mask is None:
        return scores, scores.shape[1] - 1
    return scores.masked_fill(~candidate_mask, 0.0), candidate_mask.sum(-1) - 1


def normalised_max_margin(
    decoded: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor,
    margin: float = 1.0,
    candidate_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sentence-level max-margin: dot products with all candidates, scaled to a vector of length one.

    `s = scores / ||scores||`, loss `mean_B max(0, margin - s_right + mean of the wrong s)`.

    Args:
        decoded: `(B, D)`.
        candidates: `(B, K, D)`, one of them right.
        labels: `(B,)` int64, the index of the right one.
        margin: the margin.
        candidate_mask: `(B, K)` bool, False where an instance has fewer candidates; default: all have K.

    Returns:
        The mean over the batch, a scalar >= 0.

    Example:
        >>> import torch
        >>> decoded, candidates = torch.tensor([[1.0, 0.0]]), torch.tensor([[[3.0, 0.0], [0.0, 1.0], [4.0, 0.0]]])
        >>> round(normalised_max_margin(decoded, candidates, torch.tensor([0])).item(), 6)
        0.8
    """
    scores, wrong_ones = _kept(_dot_products(decoded, candidates), candidate_mask)
    scores = F.normalize(scores, dim=-1)
    right = scores.gather(1, labels[:, None]).squeeze(1)
    wrong = (scores.sum(-1) - right) / wrong_ones
    return (margin - right + wrong).clamp(min=0).mean()


def max_margin(
    decoded: torch.Tensor,
    candidates: torch.Tensor,
    labels: torch.Tensor,
    margin: float = 1.0,
    candidate_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Answer-level max-margin on raw dot products; each wrong candidate is compared with the right one separately.

    `1/(K-1) * sum over wrong j of mean_B max(0, margin - <right, o> + <j, o>)`.

    Args:
        decoded: `(B, D)`.
        candidates: `(B, K, D)`, one of them right.
        labels: `(B,)` int64, the index of the right one.
        margin: the margin.
        candidate_mask: as in `normalised_max_margin`.

    Returns:
        A scalar >= 0.

    Example:
        >>> import torch
        >>> decoded, candidates = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0], [2.0, 0.0], [1.5, 0.0]]])
        >>> max_margin(decoded, candidates, torch.tensor([1])).item()
        0.25
    """
    hinges, wrong_ones = _kept(_margin_of(_dot_products(decoded, candidates), labels, margin), candidate_mask)
    return (hinges.sum(-1) / wrong_ones).mean()


def kl_divergence(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
    """KL of N(mean, exp(log_variance)) from N(0, 1), summed over latents, mean over the batch: nats, >= 0.

    Args:
        mean: `(B, L)`.
        log_variance: `(B, L)`.

    Returns:
        A scalar.
    """
    mean, log_variance = _wide(mean), _wide(log_variance)
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1).mean()


def instance_negatives(sentences: torch.Tensor) -> torch.Tensor:
    """Candidates for the sentence level of a matrix: each sentence's own input first, then the others of its instance.

    Args:
        sentences: `(B, S, D)`.

    Returns:
        `(B * S, S, D)`: candidate 0 of row `b * S + i` is sentence i of instance b.
    """
    size = sentences.shape[1]
    steps = torch.arange(size, device=sentences.device)
    order = (steps[:, None] + steps) % size  # row i: i, i+1, ... around the instance
    return sentences[:, order].flatten(0, 1)


def cyclic_negatives(sentences: torch.Tensor, count: int = 3) -> torch.Tensor:
    """The negatives of the released code: the next `count` sentences of the flattened batch, across instances.

    Args:
        sentences: `(B, S, D)`.
        count: negatives per sentence.

    Returns:
        `(B * S, 1 + count, D)`.
    """
    flat = sentences.flatten(0, 1)
    return torch.stack([flat.roll(-step, 0) for step in range(count + 1)], dim=1)


def cosine_scores(decoded: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Cosine of the decoded vector with each candidate; 0 where the decoded vector is zero.

    Args:
        decoded: `(B, D)`.
        candidates: `(B, K, D)`.

    Returns:
        `(B, K)` in [-1, 1].
    """
    decoded, candidates = _wide(decoded), _wide(candidates)
    lengths = torch.linalg.vector_norm(candidates, dim=-1) * torch.linalg.vector_norm(decoded, dim=-1, keepdim=True)
    return torch.einsum("bd,bkd->bk", decoded, candidates) / lengths.clamp(min=1e-30)


def choose(scores: torch.Tensor) -> torch.Tensor:
    """The index of the highest score, or -1 where there is no single one: a tie, or a score that is NaN or infinity.

    A decoder whose output is all zero gives equal scores; taking the first would get every answer right that comes
    first.

    Args:
        scores: `(B, K)`; minus infinity where there is no candidate.

    Returns:
        `(B,)` int64 in -1 ... K-1. Minus one equals no label, so it counts as an error.

    Example:
        >>> import torch
        >>> choose(torch.tensor([[0.1, 0.7], [0.0, 0.0], [float("nan"), 1.0]])).tolist()
        [1, -1, -1]
    """
    best, index = scores.max(-1)
    single = (scores == best[:, None]).sum(-1) == 1
    return torch.where(single & best.isfinite(), index, -1)
