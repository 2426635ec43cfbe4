"""How a quantizer's cells are filled: patchiness and its relatives. Is a cloud as even as by chance, or in clumps?

The functions ending in `_of` map counts `(codebooks, cells)`, rows in each cell, to a number, tensor to tensor; the
others take a `PointCloud` and return an `Estimate`. `soft_patchiness` is the differentiable form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import hypot, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Unpack

import torch

from ..errors import BadInput, UnknownName
from .conventions import LLOYD, MARBUT, MARBUT_CODE
from .estimate import Estimate, jackknife, missing
from .kernels.quantizers import (
    ADDITIVE,
    FAISS_PQ,
    PRODUCT,
    CellOptions,
    Quantization,
    complete_options,
    refitted_counts,
)
from .rounding import variance_loss
from .spectral_errors import with_heavy_tails

if TYPE_CHECKING:
    from .cloud import PointCloud

FEW_ROWS_PER_CELL = 39  # k-means wants as many to place a centroid; with fewer, cells fit the sample's own accidents
COPIES_SHARE = 0.01
CLUMPED = 1.1  # patchiness from which rows count as clumped
FEW_DIRECTIONS = 0.45  # share of the variance that cells leave; where it is less, a Gaussian reads 1.03 to 1.14
UNCLEAR = (1.02, 1.15)  # range of patchiness that such a Gaussian can have
ADDITIVE_SEEDS = 3  # an additive quantizer's search may move its patchiness as much as the rows do


# --- from counts to a number ----------------------------------------------------------------------------------------


def lloyd_patchiness_of(counts: torch.Tensor) -> torch.Tensor:
    """`K sum_k n_k (n_k - 1) / n^2`, averaged over codebooks, for `(..., codebooks, K)` counts."""
    counts = counts.to(torch.float64)
    pairs = (counts * (counts - 1)).sum(-1)
    return (counts.shape[-1] * pairs / counts.sum(-1).square()).mean(-1)


def marbut_patchiness_of(counts: torch.Tensor) -> torch.Tensor:
    """`1 + V / m^2 - 1 / m` as the paper's authors ran it, for `(..., codebooks, K)` counts.

    V is the population variance of the counts of all cells; `m = codebooks * n / K`, which is `codebooks` times their
    mean. With one codebook it equals `lloyd_patchiness_of`.
    """
    counts = counts.to(torch.float64)
    mean = counts.sum((-1, -2)) / counts.shape[-1]
    return 1 + counts.flatten(-2).var(-1, correction=0) / mean.square() - 1 / mean


def cell_count_variance_of(counts: torch.Tensor) -> torch.Tensor:
    """Variance over the cells of the odds `(K - 1) p_k / (1 - p_k)`, averaged over codebooks."""
    counts = counts.to(torch.float64)
    share = counts / counts.sum(-1, keepdim=True)
    odds = (counts.shape[-1] - 1) * share / (1 - share)
    return odds.var(-1, correction=0).mean(-1)


def cell_count_divergence_of(counts: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence `sum_k p_k log(K p_k)` in nats, averaged over codebooks."""
    counts = counts.to(torch.float64)
    share = counts / counts.sum(-1, keepdim=True)
    return (torch.special.xlogy(share, share * counts.shape[-1])).sum(-1).mean(-1)


def cell_count_divergence_code_of(counts: torch.Tensor) -> torch.Tensor:
    """The divergence from a histogram of n uniform draws, as in the authors' code, in expectation over the draws."""
    n, cells = counts.sum(-1, keepdim=True), counts.shape[-1]  # (..., codebooks, 1)
    different, place = torch.unique(n, return_inverse=True)
    expected = [_expected_log_share(int(one), cells) for one in different]
    against = torch.tensor(expected, dtype=torch.float64, device=n.device)[place]
    share = counts.to(torch.float64) / n
    return (torch.special.xlogy(share, share) - share * against).sum(-1).mean(-1)


@lru_cache(maxsize=256)
def _expected_log_share(n: int, cells: int) -> float:
    """`E log(B / n)` for a binomial B of n draws with probability 1 / cells, given that it is not 0."""
    drawn = torch.arange(1, n + 1, dtype=torch.float64)
    law = torch.distributions.Binomial(n, torch.tensor(1 / cells, dtype=torch.float64)).log_prob(drawn).exp()
    return float((law * (drawn / n).log()).sum() / law.sum())


CONVENTIONS = {LLOYD: lloyd_patchiness_of, MARBUT: marbut_patchiness_of}
DIVERGENCES = {MARBUT: cell_count_divergence_of, MARBUT_CODE: cell_count_divergence_code_of}


# --- from a cloud to an estimate ------------------------------------------------------------------------------------


def patchiness(
    cloud: PointCloud,
    convention: str = LLOYD,
    *,
    quantizer_seeds: int | None = None,
    **cells: Unpack[CellOptions],
) -> Estimate:
    """How clumped the rows lie: mean crowding over mean density, counted in the cells of a quantizer.

    For a row, the crowding is the number of other rows in its cell; Lloyd's patchiness is the mean crowding over the
    mean number of rows in a cell, `K sum_k n_k (n_k - 1) / n^2` for the K = 2**bits cells of one codebook, averaged
    over codebooks. 1: rows fall into cells as by chance (Poisson); above 1: clumped, K when all share one cell; below
    1: more even than chance. The cells adapt to the cloud, so compare clouds with the same n, d and cells only.

    With the default, k-means cells of blocks of columns, a Gaussian of at least 2,500 rows and 32 columns reads 0.98 to
    1.03. Where few directions carry the rows it reads more, since k-means leaves more rows in a cell where they are
    dense: up to 1.1 for eigenvalues 1 / i^2, 1.2 in 2 columns. `null="gaussian"` gives the value to compare with.

    Args:
        cloud: rows, n >= 2**bits; better `39 * 2**bits` and more.
        convention: `"lloyd"`, or `"marbut"`: the paper's scale, `1 + V / m^2 - 1 / m`, whose m is `codebooks` times
            the mean. With mu = n / K, `lloyd = 1 + codebooks^2 (marbut - 1) + (codebooks - 1) / mu`.
        quantizer_seeds: quantizers to fit, each with a seed of its own; the value is their mean. Default: 3 for the
            additive quantizer, else 1: our other quantizers use no random numbers.
        cells: `quantizer="product"`, `"residual"`, `"additive"` (the paper's "point patchiness"), or one of the two
            that the paper ran, `"faiss-lsq"` and `"faiss-pq"`; `codebooks=4`, their number, fewer for the product
            quantizer on fewer than 32 columns; `bits=6`: a codebook has `2 ** bits` cells, so that 2,500 rows fill
            them; 8, the paper's, for additive and faiss's. Additive patchiness ranks clouds as faiss's does (Spearman
            0.96 over 23 clouds); its values differ most where faiss fits poorly: token embeddings, few tight clusters.
            Only faiss's are comparable with the paper's numbers.

    Returns:
        Estimate: value in [0, K] for `"lloyd"`. The standard error leaves out one group of rows at a time with the
        codebooks held fixed. Where rows are clumped (above 1.1) and every row is a group of its own, it adds the
        scatter of the cells, from refits to both halves of the rows; other quantizers have no error there, and with
        groups it is rough (`moving_cells`). Over several seeds it contains their scatter,
        `details["seed_standard_deviation"]`. Value `None` for fewer rows than cells (`too_few_rows`) and when all rows
        are equal (`no_spread`). Warnings: `few_rows_per_cell`, `duplicates`, `dead_blocks` (constant columns fill a
        block, which is left out), `few_different_rows` (a block has fewer different rows than cells), `few_directions`
        (the value may be chance), `quantizer_failed` (the quantizer describes the rows worse than a product quantizer
        would, so its cells say little about them).

    Raises:
        UnknownName: no such convention or quantizer.
        BadInput: an option out of range.

    Cost: that of the quantizer, O(n d 2**bits) per round; shared by all measures that use the same cells.

    Source: Lloyd, "Mean crowding", Journal of Animal Ecology 36 (1967), page 4; Marbut, Chandler & Wheeler, "Exploring
    the Impact of a Transformer's Latent Space Geometry on Downstream Task Performance" (2024), point patchiness.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud, patchiness
        >>> clumps = torch.tensor([0.0, 1.0, 2.0, 3.0]).repeat_interleave(torch.tensor([40, 8, 8, 8]))
        >>> cloud = PointCloud(torch.stack([clumps, clumps.square()], dim=1))
        >>> round(patchiness(cloud, codebooks=2, bits=2).value, 4)    # 4 (40 * 39 + 3 * 8 * 7) / 64^2
        1.6875
    """
    if convention not in CONVENTIONS:
        raise UnknownName("convention of patchiness", convention, CONVENTIONS)
    fits = _fits(cloud, cells, quantizer_seeds)
    if isinstance(fits, str):
        return missing("patchiness", convention, fits, n=cloud.n, n_distinct=cloud.n_distinct)
    estimate = _counted(cloud, "patchiness", convention, CONVENTIONS[convention], fits)
    return estimate.warned(*_failure(cloud, fits[0]), *_few_directions(cloud, fits[0]))


def cell_count_variance(cloud: PointCloud, **cells: Unpack[CellOptions]) -> Estimate:
    """How unevenly the cells are filled, by the variance of their odds (the paper's PC variance).

    With p_k the share of rows in cell k, the variance over k of `(K - 1) p_k / (1 - p_k)`, averaged over codebooks.
    0: all cells alike; by chance about K / n. For many cells it is about patchiness - 1 + K / n.

    Args:
        cloud: rows, n >= 2**bits.
        cells: `quantizer`, `codebooks`, `bits`, as in `patchiness`.

    Returns:
        Estimate: value >= 0, with its jackknife error; `None` as in `patchiness`, and when one cell has all the rows
        (`one_cell`), where the odds are infinite.

    Cost: that of the quantizer.

    Source: Marbut, Chandler & Wheeler (2024).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.cells import cell_count_variance
        >>> cloud = PointCloud(torch.arange(64.0).remainder(4)[:, None] * torch.ones(4))
        >>> cell_count_variance(cloud, codebooks=2, bits=2).value
        0.0
    """
    return _count_measure(cloud, "cell_count_variance", cell_count_variance_of, cells)


def cell_count_divergence(cloud: PointCloud, convention: str = MARBUT, **cells: Unpack[CellOptions]) -> Estimate:
    """How far the filling of the cells is from uniform, in nats (the paper's PC KL).

    `sum_k p_k log(K p_k)`, averaged over codebooks: `log K` minus the entropy of the codes. By chance (K - 1) / 2n.

    Args:
        cloud: rows, n >= 2**bits.
        convention: `"marbut"`, against exactly 1 / K; `"marbut_code"`, against a histogram u of n uniform draws, as the
            in the released code: `sum_k p_k (log p_k - E log u_k)`, larger by about K / 2n. The code draws u once; this
                is
            the expectation over the draws that leave no cell empty.
        cells: `quantizer`, `codebooks`, `bits`, as in `patchiness`.

    Returns:
        Estimate: value in [0, log K], with its jackknife error; `None` as in `patchiness`.

    Cost: that of the quantizer.

    Source: Marbut, Chandler & Wheeler (2024).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> from hf_repgeo.measures.cells import cell_count_divergence
        >>> cloud = PointCloud(torch.arange(64.0).remainder(2)[:, None] * torch.ones(4))
        >>> round(cell_count_divergence(cloud, codebooks=2, bits=2).value, 6)    # two of four cells: log 2
        0.693147
    """
    if convention not in DIVERGENCES:
        raise UnknownName("convention of cell_count_divergence", convention, DIVERGENCES)
    return _count_measure(cloud, "cell_count_divergence", DIVERGENCES[convention], cells, convention)


def soft_patchiness(rows: torch.Tensor, codebook: torch.Tensor, temperature: float) -> torch.Tensor:
    """Lloyd's patchiness of one codebook with soft assignments: differentiable, so that it can be a training term.

    `q_i = softmax_k(-|x_i - c_k|^2 / temperature)` and `K / n^2 sum_{i != j} <q_i, q_j>`. As the temperature tends to 0
    it tends to the patchiness of the nearest-codeword cells. Its gradient vanishes for rows deep inside a cell: choose
    a temperature near the mean squared distance between a row and its codeword.

    Args:
        rows: `(n, width)`, floating.
        codebook: `(K, width)` codewords, such as `cloud.codes().codebooks[0]`, usually detached.
        temperature: > 0, in squared units of the rows.

    Returns:
        A tensor `()` in [0, K], with gradients to rows and codebook.

    Raises:
        BadInput: shapes that do not fit, or a temperature that is not positive.

    Cost: O(n K width) time, O(n K) memory.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.cells import soft_patchiness
        >>> rows = torch.tensor([[0.0], [0.0], [0.0], [1.0]], dtype=torch.float64)
        >>> soft_patchiness(rows, torch.tensor([[0.0], [1.0]], dtype=torch.float64), temperature=0.01).item()
        0.75
    """
    if rows.ndim != 2 or codebook.ndim != 2 or rows.shape[1] != codebook.shape[1]:
        came = f"shapes {tuple(rows.shape)} and {tuple(codebook.shape)}"
        raise BadInput("codebook", came=came, wanted="rows (n, width) and a codebook (cells, width)")
    if not temperature > 0:
        raise BadInput("temperature", came=f"{temperature}", wanted="a positive number")
    middle = codebook.mean(0).detach()  # keeps distances, and a common offset then costs no precision
    x, c = rows - middle, codebook - middle
    q = torch.softmax((2 * x @ c.T - c.square().sum(1)) / temperature, dim=1)  # (n, K)
    pairs = q.sum(0).square().sum() - q.square().sum()
    return len(c) * pairs / len(x) ** 2


# --- shared by the measures -----------------------------------------------------------------------------------------


def unanswerable(cloud: PointCloud, cells: CellOptions) -> str | None:
    """Why this cloud has no such cells, as the warning of a missing value; `None` when it has. `cells`: complete."""
    codebooks, bits = cells["codebooks"], cells["bits"]
    if cloud.n_distinct == 1:
        return "no_spread: all rows are equal, so there is nothing to divide into cells"
    if codebooks > cloud.d:
        return f"too_few_columns: {cloud.d} columns cannot be split among {codebooks} codebooks; use fewer codebooks"
    if cloud.n < 2**bits:
        return f"too_few_rows: {cloud.n} rows cannot fill {2**bits} cells; use fewer bits"
    return None


def cell_warnings(cloud: PointCloud, fit: Quantization) -> tuple[str, ...]:
    """Warnings on what makes the cells of this cloud less informative than they look."""
    warnings, cells = [], fit.cells
    if cloud.n < FEW_ROWS_PER_CELL * cells:
        said = f"{cloud.n / cells:.1f} rows per cell; below {FEW_ROWS_PER_CELL} the cells fit accidents of the sample"
        warnings.append(f"few_rows_per_cell: {said}, and patchiness is biased")
    if cloud.n_distinct < (1 - COPIES_SHARE) * cloud.n:
        copies = cloud.n - cloud.n_distinct
        warnings.append(f"duplicates: {copies} of {cloud.n} rows are copies, which are clumps by themselves")
    if fit.dead_blocks:
        blocks = fit.dead_blocks + len(fit.codebooks)
        warnings.append(f"dead_blocks: all columns of {fit.dead_blocks} of {blocks} blocks are constant; left out")
    warnings += variance_loss(cloud)
    if fit.lost_share > COPIES_SHARE:
        said = f"{fit.lost_share:.0%} of the rows lie so far out, or so near together beside others that do"
        warnings.append(f"rounding: {said}, that rounding hides their nearest codeword")
    unfilled = int((fit.counts == 0).any(1).sum()) if fit.quantizer == PRODUCT and cloud.n_distinct >= cells else 0
    if unfilled:
        said = f"{unfilled} of {len(fit.counts)} blocks hold fewer than {cells} different rows"
        warnings.append(f"few_different_rows: {said}; their cells count copies")
    return tuple(warnings)


def fit_details(cloud: PointCloud, fit: Quantization) -> dict[str, float | int | str]:
    """Details about the quantizer, for an estimate."""
    return {
        "quantizer": fit.quantizer,
        "codebooks": len(fit.codebooks),
        "cells": fit.cells,
        "relative_error": fit.relative_error,
        "rows_per_cell": cloud.n / fit.cells,
        "dead_cells": fit.dead_cells,
        "iterations": fit.iterations,
        "n_train": fit.n_train,
    }


def _fits(cloud: PointCloud, cells: CellOptions, quantizer_seeds: int | None) -> list[Quantization] | str:
    """The quantizers from each seed, or why there are none."""
    cells = complete_options(cloud.d, **cells)
    usual = ADDITIVE_SEEDS if cells["quantizer"] == ADDITIVE else 1
    n_seeds = usual if quantizer_seeds is None else quantizer_seeds
    if n_seeds < 1:
        raise BadInput("quantizer_seeds", came=f"{n_seeds}", wanted="at least 1")
    reason = unanswerable(cloud, cells)
    if reason:
        return reason
    seeds = range(cloud.seed, cloud.seed + n_seeds)
    return [cloud.codes(**cells, seed=seed) for seed in seeds]


def _count_measure(
    cloud: PointCloud, measure: str, function: Callable, cells: CellOptions, convention: str = MARBUT
) -> Estimate:
    fits = _fits(cloud, cells, 1)
    if isinstance(fits, str):
        return missing(measure, convention, fits, n=cloud.n, n_distinct=cloud.n_distinct)
    if not bool(torch.isfinite(function(fits[0].counts))):
        reason = "one_cell: one cell has all the rows, so its odds are infinite"
        return missing(measure, convention, reason, n=cloud.n, n_distinct=cloud.n_distinct)
    return _counted(cloud, measure, convention, function, fits)


def _counted(
    cloud: PointCloud, measure: str, convention: str, function: Callable, fits: list[Quantization]
) -> Estimate:
    """The mean over fits of a function of the counts, with its jackknife error."""
    values = [float(function(fit.counts)) for fit in fits]
    error, method, doubts = None, None, ()
    if cloud.jackknife:
        error, method, doubts = _error(cloud, function, fits)
    details = fit_details(cloud, fits[0])
    if len(fits) > 1:
        scatter = stdev(values)
        details |= {"quantizer_seeds": len(fits), "seed_standard_deviation": scatter}
        if error is not None:
            error, method = hypot(error, scatter / sqrt(len(fits))), f"{method} and {len(fits)} seeds"
    warnings = cell_warnings(cloud, fits[0]) + doubts
    return Estimate(
        measure, convention, fmean(values), error, method, cloud.n, cloud.n_distinct, warnings=warnings, details=details
    )


def _error(cloud: PointCloud, function: Callable, fits: list[Quantization]) -> tuple:
    """Standard error with the cells held fixed, its method and warnings; for clumped rows also the cells' scatter.

    If rows are clumped and have no groups, the value depends more on which clumps share a cell than on the counts, so
    the scatter of the cells is added. With documents it depends even more on these, and their share in the scatter of
    the cells cannot be separated: that error is called rough.
    """
    error, method = jackknife(torch.stack([function(leave_one_out_counts(cloud, fit)) for fit in fits]).mean(0))
    if not error or method is None:
        return error, method, ()
    method, doubts = with_heavy_tails(cloud, method)
    if float(lloyd_patchiness_of(fits[0].counts)) <= CLUMPED:
        return error, method, doubts
    if not cloud.rows_stand_alone:
        said = "moving_cells: the error holds the cells fixed, which other documents would move; it is rough"
        return error, method if doubts else f"{method}, rough", (*doubts, f"{said}, 0.6 to 1.5 times the true one")
    if fits[0].quantizer != PRODUCT or cloud.n < 2 * fits[0].cells + len(cloud.folds.unique()):
        said = "moving_cells: the cells move with the sample, more than can be said at the cost of one fit"
        return None, None, (f"{said}; ask for an interval",)
    groups, _, bound = method.partition(", ")
    method = ", ".join(filter(None, [f"{groups} and cells of halves", bound]))
    return hypot(error, _error_of_cells(cloud, function, fits[0])), method, doubts


def _error_of_cells(cloud: PointCloud, function: Callable, fit: Quantization) -> float:
    """Scatter of a function of the counts by that of the cells, from cells fitted to either half of the rows.

    Each codebook gives one difference, whose square over 2 is the variance with half of the rows, over 4 with all.
    """
    first = cloud.folds % 2 == 0
    one, other = refitted_counts(cloud.rows, fit, first), refitted_counts(cloud.rows, fit, ~first)
    variance = 0.0
    for m in range(len(fit.counts)):
        swapped = [torch.cat([fit.counts[:m], counts[m : m + 1], fit.counts[m + 1 :]]) for counts in (one, other)]
        variance += float(function(swapped[0]) - function(swapped[1])) ** 2 / 4
    return sqrt(variance)


def leave_one_out_counts(cloud: PointCloud, fit: Quantization) -> torch.Tensor:
    """Counts with one fold of the rows left out each, `(folds, codebooks, cells)` int64; the codebooks stay."""
    n_folds = int(cloud.folds.max()) + 1
    slots = n_folds * fit.cells
    by_fold = [torch.bincount(cloud.folds * fit.cells + codes, minlength=slots) for codes in fit.codes.T]
    counts = torch.stack(by_fold).reshape(-1, n_folds, fit.cells).transpose(0, 1)  # (folds, codebooks, cells)
    return counts.sum(0) - counts


def _few_directions(cloud: PointCloud, fit: Quantization) -> tuple[str, ...]:
    """A warning if k-means fills cells unevenly though rows have no clumps: in few directions 64 cells are many."""
    left = float(fit.errors.sum()) / (cloud.n * float(cloud.column_variances.sum()))
    unclear = UNCLEAR[0] < float(lloyd_patchiness_of(fit.counts)) < UNCLEAR[1]
    if fit.quantizer != PRODUCT or left > FEW_DIRECTIONS or not unclear:
        return ()
    said = f"cells explain {1 - left:.0%} of the variance; rows without clumps then read up to {UNCLEAR[1] - 0.01:.2f}"
    return (f'few_directions: {said}; null="gaussian" gives the number to compare with',)


def _failure(cloud: PointCloud, fit: Quantization) -> list[str]:
    """A warning when a quantizer of whole rows does worse than blocks of columns do."""
    if fit.quantizer in (PRODUCT, FAISS_PQ):
        return []
    codebooks, bits = len(fit.codebooks), fit.cells.bit_length() - 1
    bound = cloud.codes(PRODUCT, codebooks=codebooks, bits=bits).relative_error
    if fit.relative_error <= bound:
        return []
    return [f"quantizer_failed: relative error {fit.relative_error:.3g}, a product quantizer's is {bound:.3g}"]
