"""Measures as differentiable training terms: rows in, a scalar tensor with a gradient out.

    loss = task_loss + 0.1 * hf_repgeo.losses.anisotropy_term(hidden[mask])

Each term equals its measure on the same rows. They are computed in float32 at least, on the rows' device.
"""

from __future__ import annotations

import torch

from .measures import direction, spectral_shape, spectrum


def covariance_eigenvalues(rows: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of the rows' covariance, `(min(n, d),)`, with a gradient; from the smaller Gram matrix."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    centred = rows - rows.mean(0)
    n, d = centred.shape
    product = centred @ centred.T if n < d else centred.T @ centred
    return torch.linalg.eigvalsh(product / n).clamp_min(0)


def anisotropy_term(rows: torch.Tensor) -> torch.Tensor:
    """Share of the variance along the leading direction; lower it to spread the cloud.

    Example:
        >>> import torch
        >>> from hf_repgeo.losses import anisotropy_term
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]], requires_grad=True)
        >>> round(float(anisotropy_term(X)), 6)
        0.9
    """
    return spectrum.anisotropy_of(covariance_eigenvalues(rows))


def effective_rank_term(rows: torch.Tensor) -> torch.Tensor:
    """Exponential of the entropy of the singular values; raise it to use more directions."""
    return spectrum.effective_rank_of(covariance_eigenvalues(rows))


def early_enrichment_term(rows: torch.Tensor) -> torch.Tensor:
    """EEE; lower it to even out the eigenvalues."""
    return spectral_shape.early_enrichment_of(covariance_eigenvalues(rows))


def iso_score_star_term(rows: torch.Tensor, shrinkage: float = spectral_shape.SHRINKAGE) -> torch.Tensor:
    """IsoScore*, without any eigenvalue: traces of the shrunk covariance and of its square suffice.

    `PR = trace(C)^2 / trace(C^2)`, `IsoScore = (PR - 1) / (d - 1)`, so the gradient is smooth where eigenvalues cross.
    """
    rows = rows if rows.dtype == torch.float64 else rows.float()
    centred = rows - rows.mean(0)
    n, d = centred.shape
    trace = centred.square().sum() / n
    product = centred @ centred.T if n < d else centred.T @ centred
    squares = (product / n).square().sum()  # trace(C^2)
    keep = 1 - shrinkage
    shrunk = keep**2 * squares + (2 * keep * shrinkage + shrinkage**2) * trace.square() / d
    return (trace.square() / shrunk - 1) / (d - 1)


def mean_cosine_term(rows: torch.Tensor) -> torch.Tensor:
    """Mean cosine of all pairs; lower it to spread directions."""
    return direction.mean_cosine_of(rows if rows.dtype == torch.float64 else rows.float())


def uniformity_term(rows: torch.Tensor) -> torch.Tensor:
    """Uniformity on the sphere; lower is more uniform."""
    return direction.uniformity_of(rows if rows.dtype == torch.float64 else rows.float())


def partition_function_term(rows: torch.Tensor) -> torch.Tensor:
    """Partition-function isotropy; raise it."""
    return direction.partition_function_of(rows if rows.dtype == torch.float64 else rows.float())
