"""CloudPair: two clouds whose rows belong together, and what the comparisons share about them.

With row i of X and row i of Y the same token (or text, or sample) in two layers, models or checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ...errors import BadInput
from ..cloud import PointCloud
from ..kernels.products import full_precision, times_transposed


@dataclass(frozen=True)
class FoldSums:
    """Sums over the rows of each fold, from which every leave-one-fold-out value follows exactly.

    `a` and `b` are the rows of two clouds, centred over all folds; `k = |a|^2`, `l = |b|^2`.

    Attributes:
        counts: `(folds,)` rows.
        product: `(folds, d_a, d_b)`, sum of `a b^T`; float32 where the rows are.
        a, b: `(folds, d)` sums of rows, float64.
        la, kb: `(folds, d)` sums of `l a` and of `k b`, float64.
        k, l, kl: `(folds,)` sums, float64.
    """

    counts: torch.Tensor
    product: torch.Tensor
    a: torch.Tensor
    b: torch.Tensor
    la: torch.Tensor
    kb: torch.Tensor
    k: torch.Tensor
    l: torch.Tensor  # noqa: E741  the letter of the formula
    kl: torch.Tensor


class CloudPair:
    """Two clouds with corresponding rows, ready to be compared.

    Args:
        X: `(n, d_x)`, as for `PointCloud`; or a `PointCloud`.
        Y: `(n, d_y)`, its row i belonging to row i of X; or a `PointCloud`.
        groups: `(n,)` integers: rows that belong together, such as tokens of one document. Standard errors leave out
            whole groups. Default: every row stands alone.
        jackknife: whether estimates carry a standard error.
        seed: of the folds of the jackknife.

    Raises:
        BadInput: the two have different numbers of rows, or one of them is not a matrix of finite numbers.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.pairs import CloudPair, linear_cka
        >>> X = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))
        >>> round(linear_cka(CloudPair(X, 3 * X.flip(1) + 1)).value, 6)
        1.0
    """

    def __init__(self, X: Any, Y: Any, *, groups: Any = None, jackknife: bool = True, seed: int = 0):
        options = {"groups": groups, "jackknife": jackknife, "seed": seed}
        self.x = X if isinstance(X, PointCloud) else PointCloud(X, argument="X", **options)
        self.y = Y if isinstance(Y, PointCloud) else PointCloud(Y, argument="Y", **options)
        if self.x.n != self.y.n:
            cure = "Row i of both must be the same token, text or sample."
            raise BadInput("Y", came=f"{self.y.n} rows", wanted=f"{self.x.n}, as many as X has", cure=cure)
        self.jackknife = jackknife
        self.seed = seed

    @property
    def n(self) -> int:
        """Number of pairs of rows."""
        return self.x.n

    @property
    def folds(self) -> torch.Tensor:
        """Jackknife fold of each pair, `(n,)` int64."""
        return self.x.folds

    @cached_property
    def centred(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of both without their means, sorted by fold; in the wider dtype of the two clouds."""
        dtype = torch.promote_types(self.x.rows.dtype, self.y.rows.dtype)
        return self._centred(self.x, dtype), self._centred(self.y, dtype)

    def _centred(self, cloud: PointCloud, dtype: torch.dtype) -> torch.Tensor:
        mean = cloud.rows.mean(0, dtype=torch.float64)
        return (cloud.rows[self.order].to(torch.float64) - mean).to(dtype)

    @cached_property
    def order(self) -> torch.Tensor:
        """Positions of the pairs, sorted by fold; all in one fold if no standard error is wanted."""
        return torch.argsort(self.folds, stable=True) if self.jackknife else torch.arange(self.n)

    @cached_property
    def fold_sizes(self) -> list[int]:
        """Number of pairs in each fold."""
        return torch.bincount(self.folds).tolist() if self.jackknife else [self.n]

    @cached_property
    def xy(self) -> FoldSums:
        """Sums over X and Y. One product of `2 n d_x d_y` flops."""
        return fold_sums_of(*self.centred, self.fold_sizes)

    @cached_property
    def xx(self) -> FoldSums:
        """Sums over X and itself."""
        return fold_sums_of(self.centred[0], self.centred[0], self.fold_sizes)

    @cached_property
    def yy(self) -> FoldSums:
        """Sums over Y and itself."""
        return fold_sums_of(self.centred[1], self.centred[1], self.fold_sizes)


def fold_sums_of(a: torch.Tensor, b: torch.Tensor, sizes: list[int]) -> FoldSums:
    """Sums over each fold of rows that are sorted by fold.

    Args:
        a: `(n, d_a)` centred rows.
        b: `(n, d_b)` centred rows.
        sizes: rows of each fold.
    """
    parts = [_sums(x, y) for x, y in zip(a.split(sizes), b.split(sizes), strict=True)]
    counts = torch.tensor(sizes, dtype=torch.float64, device=a.device)
    return FoldSums(counts, *(torch.stack(column) for column in zip(*parts, strict=True)))


def _sums(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
    k = torch.linalg.vector_norm(a, dim=1, dtype=torch.float64).square()
    l = torch.linalg.vector_norm(b, dim=1, dtype=torch.float64).square()  # noqa: E741
    with full_precision(a.device):
        product = times_transposed(a.T.contiguous(), b.T.contiguous())
    sums = (a.sum(0, dtype=torch.float64), b.sum(0, dtype=torch.float64))
    weighted = (l @ a.to(torch.float64), k @ b.to(torch.float64))
    return (product, *sums, *weighted, k.sum(), l.sum(), (k * l).sum())
