"""Measures as differentiable training terms: rows in, a scalar tensor with a gradient out.

    loss = task_loss + 0.1 * hf_repgeo.losses.anisotropy_term(hidden[mask])

Each term equals its measure on the same rows; soft patchiness approaches its measure as the temperature falls. They are
computed in float32 at least, on the rows' device. Rows that are all equal are refused, rows of zeros have no direction
and are left out of cosines. `hf_repgeo.GeometryLoss` adds one of them to a model's own loss.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from .errors import BadInput, NonFiniteRows
from .measures import direction, spectral_shape, spectrum
from .measures.kernels.quantizers import Quantization, live_blocks, quantize


def covariance_eigenvalues(rows: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of the rows' covariance, `(min(n, d),)`, with a gradient; from the smaller Gram matrix.

    The rows are scaled so that the largest centred entry is 1: then squares neither vanish nor overflow.

    Raises:
        BadInput: all rows are equal, so that nothing has a direction.
    """
    centred = _centred(rows)
    n, d = centred.shape
    product = centred @ centred.T if n < d else centred.T @ centred
    return torch.linalg.eigvalsh(product / n).clamp_min(0)


def _wide(rows: torch.Tensor) -> torch.Tensor:
    """Rows in float32 at least.

    Raises:
        NonFiniteRows: NaN or infinity among them.
    """
    rows = rows if rows.dtype == torch.float64 else rows.float()
    bad = int((~torch.isfinite(rows.detach())).any(1).sum())
    if bad:
        cure = "The model has diverged: lower the learning rate, or the term's weight."
        raise NonFiniteRows("rows", came=f"NaN or infinity in {bad} of {len(rows)} rows", wanted="numbers", cure=cure)
    return rows


def _centred(rows: torch.Tensor) -> torch.Tensor:
    """Rows without their mean, the largest entry 1; every term that uses them does not depend on the rows' scale."""
    rows = _wide(rows)
    largest = rows.detach().abs().amax().clamp_min(torch.finfo(rows.dtype).tiny)
    centred = rows / largest
    centred = centred - centred.mean(0)
    peak = centred.detach().abs().amax()
    if not peak > torch.finfo(centred.dtype).eps:
        cure = "The model has collapsed: lower the learning rate, or the term's weight."
        raise BadInput("rows", came=f"{len(rows)} equal rows", wanted="rows that differ", cure=cure)
    return centred / peak


def _directed(rows: torch.Tensor) -> torch.Tensor:
    """Rows that have a direction: those of zeros are left out."""
    rows = _wide(rows)
    found = rows[rows.detach().abs().amax(1) > 0]
    if len(found) < 2:
        raise BadInput("rows", came=f"{len(found)} rows that are not zero", wanted="at least 2")
    return found


def _scaled(rows: torch.Tensor) -> torch.Tensor:
    """Rows that have a direction, each scaled so that its squares neither vanish nor overflow."""
    rows = _directed(rows)
    return rows / rows.detach().abs().amax(1, keepdim=True)


def anisotropy_term(rows: torch.Tensor) -> torch.Tensor:
    """Share of the variance along the leading direction; lower it to spread the cloud.

    Example:
        >>> import torch
        >>> from hf_repgeo.losses import anisotropy_term
        >>> X = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]], requires_grad=True)
        >>> round(anisotropy_term(X).item(), 6)
        0.9
    """
    return spectrum.anisotropy_of(covariance_eigenvalues(rows))


def effective_rank_term(rows: torch.Tensor) -> torch.Tensor:
    """Exponential of the entropy of the singular values; raise it to use more directions.

    Eigenvalues of the size of rounding are left out: after a LayerNorm one is always zero, and the square root has no
    derivative there.
    """
    eigenvalues = covariance_eigenvalues(rows)
    rounding = max(rows.shape) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.detach().amax()
    return spectrum.effective_rank_of(eigenvalues[eigenvalues > rounding])


def early_enrichment_term(rows: torch.Tensor) -> torch.Tensor:
    """EEE; lower it to even out the eigenvalues."""
    return spectral_shape.early_enrichment_of(covariance_eigenvalues(rows))


def iso_score_star_term(rows: torch.Tensor, shrinkage: float = spectral_shape.SHRINKAGE) -> torch.Tensor:
    """IsoScore*, without any eigenvalue: traces of the shrunk covariance and of its square suffice.

    `PR = trace(C)^2 / trace(C^2)`, `IsoScore = (PR - 1) / (d - 1)`, so the gradient is smooth where eigenvalues cross.
    """
    centred = _centred(rows)
    n, d = centred.shape
    trace = centred.square().sum() / n
    product = centred @ centred.T if n < d else centred.T @ centred
    squares = (product / n).square().sum()  # trace(C^2)
    keep = 1 - shrinkage
    shrunk = keep**2 * squares + (2 * keep * shrinkage + shrinkage**2) * trace.square() / d
    return (trace.square() / shrunk - 1) / (d - 1)


def mean_cosine_term(rows: torch.Tensor) -> torch.Tensor:
    """Mean cosine of all pairs; lower it to spread directions."""
    return direction.mean_cosine_of(_scaled(rows))


def uniformity_term(rows: torch.Tensor) -> torch.Tensor:
    """Uniformity on the sphere; lower is more uniform."""
    return direction.uniformity_of(_scaled(rows))


def partition_function_term(rows: torch.Tensor) -> torch.Tensor:
    """Partition-function isotropy; raise it."""
    return direction.partition_function_of(_directed(rows))


def participation_ratio_term(rows: torch.Tensor) -> torch.Tensor:
    """`(sum of eigenvalues)^2 / sum of squares`; raise it to share the variance among more directions."""
    return spectrum.participation_ratio_of(covariance_eigenvalues(rows))


def iso_score_term(rows: torch.Tensor) -> torch.Tensor:
    """IsoScore; raise it to use all directions evenly."""
    return spectrum.iso_score_of(covariance_eigenvalues(rows), rows.shape[1])


SOFT_CELL_ROWS = 16  # rows per cell, from which the number of cells of soft patchiness follows


def soft_patchiness_term(
    rows: torch.Tensor, *, temperature: float = 0.05, cells: Quantization | None = None
) -> torch.Tensor:
    """Patchiness with soft cells, which has a gradient; lower it towards 1 to spread clumps.

    A row belongs to cell k of a codebook with weight `p_k = softmax(-|x - c_k|^2 / (2 temperature D))`, D the mean
    squared distance of the rows to their nearest codeword. With `n_k = sum_i p_ik` the term is
    `K sum_k (n_k^2 - sum_i p_ik^2) / n^2`, the mean over codebooks: Lloyd's patchiness once the weights are 0 or 1.

    Args:
        rows: `(n, d)`, with a gradient.
        temperature: above 0; 0.05 keeps most weights near 0 or 1.
        cells: the codebooks to use; default: fitted to these rows, with at least 16 rows per cell.

    Raises:
        BadInput: a temperature that is not above 0, too few rows for two cells, rows that are all equal, or cells that
            were fitted to rows with other constant columns.

    Example:
        >>> import torch
        >>> from hf_repgeo.losses import soft_patchiness_term
        >>> clumps = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)) * 0.1
        >>> clumps[:48] += 5  # three quarters of the rows in one of two cells
        >>> round(float(soft_patchiness_term(clumps)), 1) > 1
        True
    """
    if not temperature > 0:
        raise BadInput("temperature", came=repr(temperature), wanted="a number above 0")
    if len(rows) < 2 * SOFT_CELL_ROWS:
        raise BadInput("rows", came=f"{len(rows)} rows", wanted=f"at least {2 * SOFT_CELL_ROWS}, for two cells")
    if cells is None:
        rows = _centred(rows)
        cells = quantize(rows.detach(), bits=min(6, (len(rows) // SOFT_CELL_ROWS).bit_length() - 1))
    centred = _wide(rows) - cells.shift.to(rows)
    blocks = zip(_live_blocks(centred, cells), cells.codebooks)
    return torch.stack([_soft_lloyd(x, words.to(x), temperature) for x, words in blocks]).mean()


def _live_blocks(rows: torch.Tensor, cells: Quantization) -> list[torch.Tensor]:
    """The columns that each codebook stands for: all of them, or its block of the product quantizer."""
    if all(words.shape[1] == rows.shape[1] for words in cells.codebooks):
        return [rows] * len(cells.codebooks)
    live = live_blocks(rows, cells.dead_blocks + len(cells.codebooks))
    if [block.shape[1] for block in live] != [words.shape[1] for words in cells.codebooks]:
        came = f"codebooks for {len(cells.codebooks)} blocks, of rows that vary in {len(live)}"
        raise BadInput("cells", came=came, wanted="cells that were fitted to rows like these")
    return live


def _soft_lloyd(rows: torch.Tensor, words: torch.Tensor, temperature: float) -> torch.Tensor:
    distances = torch.cdist(rows, words).square()  # (n, K)
    scale = 2 * temperature * distances.detach().amin(1).mean().clamp_min(torch.finfo(rows.dtype).tiny)
    weights = torch.softmax(-distances / scale, 1)
    crowding = weights.sum(0).square().sum() - weights.square().sum()
    return words.shape[0] * crowding / len(rows) ** 2


TERMS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "anisotropy": anisotropy_term,
    "early_enrichment": early_enrichment_term,
    "effective_rank": effective_rank_term,
    "iso_score": iso_score_term,
    "iso_score_star": iso_score_star_term,
    "mean_cosine": mean_cosine_term,
    "participation_ratio": participation_ratio_term,
    "partition_function": partition_function_term,
    "patchiness": soft_patchiness_term,
    "uniformity": uniformity_term,
}
