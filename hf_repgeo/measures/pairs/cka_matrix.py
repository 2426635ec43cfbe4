"""Debiased linear CKA of every layer with every layer, at the cost of the products that cannot be avoided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...errors import BadInput
from ..cloud import PointCloud
from ..kernels.products import full_precision, times_transposed


def cka_matrix(X: Sequence, Y: Sequence | None = None) -> torch.Tensor:
    """Debiased linear CKA of each cloud of one list with each of another, or of one list with itself.

    The numbers of `linear_cka`, without standard errors. With centred rows, `k_i = |x_i|^2` and `l_i = |y_i|^2`,

        HSIC = (|X^T Y|_F^2 - sum k l + sum k sum l / ((n - 1)(n - 2)) - 2 / (n - 2) sum k l) / (n (n - 3)),

    so one product `X^T Y` per pair suffices; for one list with itself, half of the pairs.

    Args:
        X: clouds `(n, d)` with corresponding rows: the layers of a model.
        Y: the clouds of another model on the same rows, of any width.

    Returns:
        torch.Tensor: `(len(X), len(Y))` float64; not a number where all rows of a cloud are equal.

    Raises:
        BadInput: clouds of different numbers of rows, or fewer than four rows.

    Cost: `2 n d^2` flops per pair. Memory: the centred rows of all clouds and `d x d` for one row of the matrix.

    Source: as `linear_cka`.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.pairs import cka_matrix
        >>> g = torch.Generator().manual_seed(0)
        >>> X = torch.randn(200, 8, generator=g)
        >>> cka_matrix([X, torch.randn(200, 8, generator=g)]).round(decimals=1).abs().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    x = [_centred(cloud, "X") for cloud in X]
    y = x if Y is None else [_centred(cloud, "Y") for cloud in Y]
    _check_rows([*x, *y])
    own_x = torch.tensor([_squared_product(a, a) for a in x], dtype=torch.float64)
    own_y = own_x if Y is None else torch.tensor([_squared_product(b, b) for b in y], dtype=torch.float64)
    products = torch.zeros(len(x), len(y), dtype=torch.float64)
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            if Y is None and j <= i:
                products[i, j] = products[j, i] if j < i else own_x[i]
            else:
                products[i, j] = _squared_product(a, b)
    k, l = _squared_norms(x), _squared_norms(y)  # noqa: E741  (layers, n)
    joint = _hsic(products, k @ l.T, torch.outer(k.sum(1), l.sum(1)), k.shape[1])
    of_x = _hsic(own_x, k.square().sum(1), k.sum(1).square(), k.shape[1])
    of_y = _hsic(own_y, l.square().sum(1), l.sum(1).square(), l.shape[1])
    return joint / torch.outer(of_x, of_y).sqrt()


def _hsic(products: torch.Tensor, joint: torch.Tensor, totals: torch.Tensor, n: int) -> torch.Tensor:
    """The formula above, up to the factor that all share; values at rounding are 0."""
    found = products - joint + totals / ((n - 1) * (n - 2)) - 2 / (n - 2) * joint
    return torch.where(found.abs() > 1e-14 * products.abs(), found, 0.0)


def _centred(cloud: Any, argument: str) -> torch.Tensor:
    """The centred rows, transposed, `(d, n)`, which is the layout that the product reads."""
    rows = PointCloud(cloud, jackknife=False, argument=argument).rows
    return (rows - rows.mean(0, dtype=torch.float64).to(rows.dtype)).T.contiguous()


def _check_rows(clouds: list[torch.Tensor]) -> None:
    counts = sorted({cloud.shape[1] for cloud in clouds})
    if len(counts) > 1:
        raise BadInput("Y", came=f"clouds of {' and '.join(map(str, counts))} rows", wanted="the same rows in all")
    if counts[0] < 4:
        raise BadInput("X", came=f"{counts[0]} rows", wanted="at least 4")


def _squared_norms(clouds: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([cloud.to(torch.float64).square().sum(0).cpu() for cloud in clouds])


def _squared_product(a: torch.Tensor, b: torch.Tensor) -> float:
    """`|A^T B|_F^2` for clouds as `(d, n)`, summed in float64."""
    dtype = torch.promote_types(a.dtype, b.dtype)
    with full_precision(a.device):
        product = times_transposed(a.to(dtype), b.to(dtype))
    return float(torch.linalg.vector_norm(product, dtype=torch.float64).square())
