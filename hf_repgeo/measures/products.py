"""Matrix products, the arithmetic that no measure can avoid, at the best rate the machine offers.

PyTorch sends a float32 product on CPU to MKL, which runs at less than half its rate on AMD processors; oneDNN, built
into the same PyTorch, runs at full rate on either. In float64 there is only MKL and numpy's BLAS, whose `A.T @ A`
computes one triangle only. Everything else is `torch.matmul`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

BLOCK_ROWS = 2048


def _onednn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def _onednn_works() -> bool:
    """Whether this build of PyTorch has oneDNN's float32 product and it multiplies."""
    probe = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    try:
        return torch.backends.mkldnn.is_available() and torch.equal(_onednn(probe, probe), probe @ probe.T)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


_ONEDNN = None


def times_transposed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`a @ b.T` for `a` (n, d) and `b` (m, d) of one dtype; wrap it in `full_precision` where that matters."""
    global _ONEDNN
    if a.dtype == torch.float32 and a.device.type == "cpu" and not (a.requires_grad or b.requires_grad):
        if _ONEDNN is None:
            _ONEDNN = _onednn_works()
        if _ONEDNN:
            return _onednn(a, b)
    return a @ b.T


def gram(rows: torch.Tensor) -> torch.Tensor:
    """`rows.T @ rows` in float64 for `rows` (n, d) in float64, exactly symmetric."""
    if rows.device.type == "cpu":
        array = rows.numpy()
        return torch.from_numpy(array.T @ array)
    product = rows.T @ rows
    return (product + product.T) / 2


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No gradients, and float32 products in float32, where the user's settings may allow TF32 or bfloat16.

    The proofs rest on it. The setting is global, and put back on leaving.
    """
    backend = torch.backends.cuda.matmul if device.type == "cuda" else getattr(torch.backends.mkldnn, "matmul", None)
    with torch.no_grad():
        if hasattr(backend, "fp32_precision"):
            before, backend.fp32_precision = backend.fp32_precision, "ieee"
            try:
                yield
            finally:
                backend.fp32_precision = before
        else:  # PyTorch before 2.9
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(before)
