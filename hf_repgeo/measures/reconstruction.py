"""How well a quantizer's codewords describe the rows, and how the rows within a cell are spread.

Together with those in `cells.py` these are the quantization measures of Marbut, Chandler & Wheeler, "Exploring
the Impact of a Transformer's Latent Space Geometry on Downstream Task Performance" (2024). The functions ending in
`_of` map tensors to a tensor; the others take a `PointCloud` and return an `Estimate`. All of them share the
quantizer with `patchiness`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack

import torch

from .cells import cell_warnings, fit_details, unanswerable
from .conventions import MARBUT
from .estimate import Estimate, jackknife, missing
from .kernels.quantizers import CellOptions, Quantization, complete_options
from .spectral_shape import early_enrichment_of

if TYPE_CHECKING:
    from .cloud import PointCloud

NOTHING = 1e-12  # a smaller relative error is rounding


# --- tensor to tensor -----------------------------------------------------------------------------------------------


def error_range_of(errors: torch.Tensor) -> torch.Tensor:
    """75th minus 25th percentile of `|x - xhat|` over its maximum, from `(n,)` squared errors, not all 0."""
    distances = errors.sqrt()
    low, high = torch.quantile(distances, distances.new_tensor([0.25, 0.75]))
    return (high - low) / distances.max()


def error_skewness_of(errors: torch.Tensor) -> torch.Tensor:
    """Third standardised moment of `|x - xhat|`, from `(n,)` squared errors, not all equal."""
    deviations = errors.sqrt() - errors.sqrt().mean()
    return deviations.pow(3).mean() / deviations.square().mean().pow(1.5)


def cell_density_variance_of(codebooks: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Variance of the squared distances from each codeword to the nearest other of its codebook, over their maximum."""
    found = []
    for words in codebooks:
        distances = torch.cdist(words.double(), words.double(), compute_mode="donot_use_mm_for_euclid_dist")
        found.append(distances.fill_diagonal_(float("inf")).amin(1).square())
    gaps = torch.cat(found)
    return (gaps / gaps.max()).var(correction=0)


def within_cell_enrichment_of(rows: torch.Tensor, codes: torch.Tensor, cells: int) -> torch.Tensor:
    """Early enrichment of each cell's rows `(codebooks, cells)`; NaN where a cell has fewer than two different rows."""
    found = torch.full((codes.shape[1], cells), float("nan"), dtype=torch.float64)
    for m, column in enumerate(codes.T):
        order = torch.argsort(column, stable=True)
        sizes = torch.bincount(column, minlength=cells).tolist()
        for k, members in enumerate(rows[order].split(sizes)):
            if bool((members != members[:1]).any()):
                found[m, k] = _enrichment_of_rows(members)
    return found


def _enrichment_of_rows(rows: torch.Tensor) -> torch.Tensor:
    rows = rows.to(torch.float64)
    rows = rows - rows.mean(0)
    scatter = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    return early_enrichment_of(torch.linalg.eigvalsh(scatter).clamp_min(0).flip(0))


# --- from a cloud to an estimate ------------------------------------------------------------------------------------


def reconstruction_error(cloud: PointCloud, **cells: Unpack[CellOptions]) -> Estimate:
    """How much of the rows the codes lose (the paper's RE).

    `sum |x - xhat|^2 / sum |x|^2`, not centred: a common offset makes it small. `details["centred"]` divides by the
    squared distances to the mean instead, so that an offset does not matter.

    Args:
        cloud: rows, n >= 2**bits.
        cells: `quantizer`, `codebooks`, `bits`, as in `patchiness`.

    Returns:
        Estimate: value in [0, 1]: 0, codewords and rows agree; with its jackknife error, codebooks held fixed. `None`
        for fewer rows than cells (`too_few_rows`) and when all rows are equal (`no_spread`).

    Cost: that of the quantizer.

    Source: Marbut, Chandler & Wheeler (2024).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.reconstruction import reconstruction_error
        >>> rows = torch.tensor([[-3.0], [-1.0], [1.0], [3.0]]).repeat(4, 1)
        >>> reconstruction_error(PointCloud(rows), codebooks=1, bits=1).value    # cells {-3, -1} and {1, 3}: 1 of 5
        0.2
    """
    measure = "reconstruction_error"
    fit = _fit(cloud, cells)
    if isinstance(fit, str):
        return _missing(cloud, measure, fit)
    energies = cloud.rows.double().square().sum(1)
    centred = float(fit.errors.sum() / (cloud.n * cloud.column_variances.sum()))
    error, method = None, None
    if cloud.jackknife:
        error, method = jackknife(_left_out_sums(cloud, fit.errors) / _left_out_sums(cloud, energies))
    return _estimate(cloud, measure, fit.relative_error, fit, error, method, centred=centred)


def reconstruction_error_range(cloud: PointCloud, **cells: Unpack[CellOptions]) -> Estimate:
    """How unequally well the rows are reconstructed: interquartile range of their errors (the paper's RI).

    75th minus 25th percentile of `|x - xhat|`, over its maximum. The maximum makes it sensitive to one outlier.

    Args:
        cloud: rows, n >= 2**bits.
        cells: `quantizer`, `codebooks`, `bits`, as in `patchiness`.

    Returns:
        Estimate: value in [0, 1], with its jackknife error; `None` as in `reconstruction_error`, and when every row is
        met exactly (`no_error`).

    Cost: that of the quantizer.

    Source: Marbut, Chandler & Wheeler (2024).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.reconstruction import reconstruction_error_range
        >>> rows = torch.tensor([[-3.0], [-1.0], [1.0], [3.0]]).repeat(4, 1)
        >>> reconstruction_error_range(PointCloud(rows), codebooks=1, bits=1).value    # all are 1 away
        0.0
    """
    return _of_errors(cloud, "reconstruction_error_range", error_range_of, cells)


def reconstruction_error_skewness(cloud: PointCloud, **cells: Unpack[CellOptions]) -> Estimate:
    """Whether few rows are reconstructed much worse than most: skewness of `|x - xhat|` (the paper's RS).

    Args:
        cloud: rows, n >= 2**bits.
        cells: `quantizer`, `codebooks`, `bits`, as in `patchiness`.

    Returns:
        Estimate: 0 for symmetric errors, above 0 when a few rows are far from their codewords; with its jackknife
        error. `None` as in `reconstruction_error`, and when all errors are equal (`no_error`).

    Cost: that of the quantizer.

    Source: Marbut, Chandler & Wheeler (2024).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.reconstruction import reconstruction_error_skewness
        >>> rows = torch.tensor([[-5.0], [-4.0], [-4.0], [4.0], [4.0], [5.0]])
        >>> round(reconstruction_error_skewness(PointCloud(rows), codebooks=1, bits=1).value, 4)    # 1/3 and 2/3
        0.7071
    """
    return _of_errors(cloud, "reconstruction_error_skewness", error_skewness_of, cells)


def cell_density_variance(cloud: PointCloud, **cells: Unpack[CellOptions]) -> Estimate:
    """How unequal the gaps between neighbouring cells are (the paper's CD variance).

    The squared distance of every codeword to the nearest other of its codebook, over the largest of them; the variance
    over all codewords. 0 for codewords on a regular grid.

    Args:
        cloud: rows, n >= 2**bits.
        cells: `quantizer`, `codebooks`, `bits`, as in `patchiness`.

    Returns:
        Estimate: value in [0, 1/4], without standard error, since it depends on codewords alone; `None` as in
        `reconstruction_error`.

    Cost: that of the quantizer, and O(codebooks 4**bits d).

    Source: Marbut, Chandler & Wheeler (2024).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.reconstruction import cell_density_variance
        >>> cloud = PointCloud(torch.arange(64.0).remainder(4)[:, None] * torch.ones(4))
        >>> round(cell_density_variance(cloud, codebooks=2, bits=2).value, 6)
        0.0
    """
    measure = "cell_density_variance"
    fit = _fit(cloud, cells)
    if isinstance(fit, str):
        return _missing(cloud, measure, fit)
    return _estimate(cloud, measure, float(cell_density_variance_of(fit.codebooks)), fit)


def within_cell_enrichment(cloud: PointCloud, **cells: Unpack[CellOptions]) -> Estimate:
    """How much the rows of one cell stretch along few directions (the paper's PD EEE).

    Eigenvalue early enrichment of the rows in each cell, over all columns, averaged over the cells with two different
    rows or more. A cell of k rows has only k - 1 directions, and two rows always give 1/4: with few rows per cell it
    measures their number.

    Args:
        cloud: rows, n >= 2**bits.
        cells: `quantizer`, `codebooks`, `bits`, as in `patchiness`.

    Returns:
        Estimate: value in [0, 1]: 0, the same variance along all directions; without standard error.
        `details["n_cells"]` counts the cells averaged. `None` as in `reconstruction_error`, and when no cell has two
        different rows (`no_spread`).

    Cost: that of the quantizer, and an eigendecomposition for each cell, O(codebooks n d min(d, n / 2**bits)) in all.

    Source: Marbut, Chandler & Wheeler (2024).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.reconstruction import within_cell_enrichment
        >>> rows = torch.tensor([[-9.0, 0.0], [-8.0, 0.0], [8.0, 0.0], [8.0, 1.0]])
        >>> within_cell_enrichment(PointCloud(rows), codebooks=1, bits=1).value
        0.25
    """
    measure = "within_cell_enrichment"
    fit = _fit(cloud, cells)
    if isinstance(fit, str):
        return _missing(cloud, measure, fit)
    values = within_cell_enrichment_of(cloud.rows, fit.codes, fit.cells)
    values = values[values.isfinite()]
    if not len(values):
        return _missing(cloud, measure, "no_spread: no cell has two different rows")
    return _estimate(cloud, measure, float(values.mean()), fit, n_cells=len(values))


# --- shared ---------------------------------------------------------------------------------------------------------


def _fit(cloud: PointCloud, cells: CellOptions) -> Quantization | str:
    """The quantizer that fits the cloud, or why there is none."""
    cells = complete_options(cloud.d, **cells)
    return unanswerable(cloud, cells) or cloud.codes(**cells)


def _missing(cloud: PointCloud, measure: str, reason: str) -> Estimate:
    return missing(measure, MARBUT, reason, n=cloud.n, n_distinct=cloud.n_distinct)


def _estimate(
    cloud: PointCloud,
    measure: str,
    value: float,
    fit: Quantization,
    error: float | None = None,
    method: str | None = None,
    **more: Any,
) -> Estimate:
    warnings, details = cell_warnings(cloud, fit), fit_details(cloud, fit) | more
    return Estimate(measure, MARBUT, value, error, method, cloud.n, cloud.n_distinct, warnings, details)


def _of_errors(cloud: PointCloud, measure: str, function: Callable, cells: CellOptions) -> Estimate:
    fit = _fit(cloud, cells)
    if isinstance(fit, str):
        return _missing(cloud, measure, fit)
    value = float(function(fit.errors))
    if value != value or fit.relative_error < NOTHING:
        return _missing(cloud, measure, "no_error: every row is reconstructed equally well")
    error, method = None, None
    if cloud.jackknife:
        folds = range(int(cloud.folds.max()) + 1)
        error, method = jackknife(torch.stack([function(fit.errors[cloud.folds != fold]) for fold in folds]))
    return _estimate(cloud, measure, value, fit, error, method)


def _left_out_sums(cloud: PointCloud, values: torch.Tensor) -> torch.Tensor:
    """Sums of `(n,)` values with one fold left out each, `(folds,)`."""
    sums = torch.stack([values[cloud.folds == fold].sum() for fold in range(int(cloud.folds.max()) + 1)])
    return sums.sum() - sums
