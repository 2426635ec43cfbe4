"""Matrix products, the arithmetic that no measure can avoid, at the best rate the machine offers.

PyTorch sends a float32 product on CPU to MKL, which runs at less than half its rate on AMD processors; oneDNN, built
into the same PyTorch, runs at full rate on either. A symmetric product in float64 is computed on and above the diagonal
only. Everything else is `torch.matmul`, and so is all of it with the reference kernels (`switch`).

float32 products are taken in float32 whatever the user's settings allow (TF32, bfloat16), because measures and proofs
rest on it. Those settings belong to the process: threads that want the same one share it, others wait their turn.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from .switch import fast

BLOCK_ROWS = 2048
FULL, ROUGH = "ieee", "bf16"


# --- settings of the process -----------------------------------------------------------------------------------------


class _Setting:
    """A setting of the process, such as the float32 precision of one backend of PyTorch, shared by threads.

    The first holder of a value writes it, the last one puts back what it found; a thread that wants another value waits
    until then.
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], Any]):
        self._read, self._write = read, write
        self._turn = threading.Condition()
        self._holders = 0
        self._before = self._held = None

    @contextmanager
    def held(self, value: Any) -> Iterator[None]:
        with self._turn:
            self._turn.wait_for(lambda: self._held in (None, value))
            if not self._holders:
                self._before, self._held = self._read(), value
                self._write(value)
            self._holders += 1
        try:
            yield
        finally:
            with self._turn:
                self._holders -= 1
                if not self._holders:
                    self._write(self._before)
                    self._held = None
                    self._turn.notify_all()

    @classmethod
    def of(cls, backend: Any) -> _Setting | None:
        """The setting of a module such as `torch.backends.cuda.matmul`; `None` before PyTorch 2.9, without it."""
        if not hasattr(backend, "fp32_precision"):
            return None
        return cls(lambda: backend.fp32_precision, lambda value: setattr(backend, "fp32_precision", value))


_WORDS = {FULL: "highest", ROUGH: "medium"}
_BOTH = _Setting(  # before PyTorch 2.9 one setting ruled CPU and GPU
    torch.get_float32_matmul_precision, lambda word: torch.set_float32_matmul_precision(_WORDS.get(word, word))
)
_ON_CPU = _Setting.of(getattr(torch.backends.mkldnn, "matmul", None))
_ON_GPU = _Setting.of(torch.backends.cuda.matmul)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No gradients, and float32 products in float32, where the user's settings may allow TF32 or bfloat16.

    `times_transposed` does so by itself; this is for other products. Safe across threads, in any order of leaving.
    """
    with torch.no_grad(), _precision(device).held(FULL):
        yield


def _precision(device: torch.device) -> _Setting:
    return (_ON_GPU if device.type == "cuda" else _ON_CPU) or _BOTH


@contextmanager
def numpy_as_pytorch(threads: int) -> Iterator[None]:
    """numpy's products take this many threads, and like PyTorch's do not warn of overflow.

    Otherwise they take as many as the environment says, whatever PyTorch was told.
    """
    blas = _numpy_blas()
    with blas.held(threads) if blas else nullcontext(), np.errstate(all="ignore"):
        yield


@cache
def _numpy_blas() -> _Setting | None:
    """The number of threads of numpy's BLAS; `None` where it cannot be set."""
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    if not found:
        return None
    return _Setting(lambda: found[0].num_threads, lambda count: [library.set_num_threads(count) for library in found])


# --- products --------------------------------------------------------------------------------------------------------


def times_transposed(a: torch.Tensor, b: torch.Tensor, *, rough: bool = False) -> torch.Tensor:
    """`a @ b.T` for `a` (n, d) and `b` (m, d) of one dtype.

    Args:
        a, b: the factors.
        rough: on CPU, round float32 factors to bfloat16 and sum in float32; only where `bfloat16_is_fast()`. Factors
            that bfloat16 holds exactly lose nothing.
    """
    if a.dtype != torch.float32:
        return a @ b.T
    with _precision(a.device).held(ROUGH if rough else FULL):
        differentiable = torch.is_grad_enabled() and (a.requires_grad or b.requires_grad)
        if a.device.type == "cpu" and not differentiable and fast() and _onednn_works():
            return _onednn(a, b)
        return a @ b.T


def _onednn(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


@cache
def _onednn_works() -> bool:
    """Whether this build of PyTorch has oneDNN's float32 product, and it multiplies in float32, at full precision."""
    factor = torch.linspace(0.5, 1.5, 64 * 64).reshape(64, 64)
    try:
        with _precision(factor.device).held(FULL):
            product = _onednn(factor, factor)
        wanted = factor.double() @ factor.double().T
        return torch.backends.mkldnn.is_available() and torch.allclose(product.double(), wanted, rtol=1e-6, atol=0)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def gram(rows: torch.Tensor) -> torch.Tensor:
    """`rows.T @ rows` for `rows` (n, d), usually in float64, exactly symmetric; half the work of the whole product."""
    if rows.device.type != "cpu" or not fast():
        product = rows.T @ rows
        return (product + product.T) / 2
    array = rows.detach().numpy()
    with numpy_as_pytorch(torch.get_num_threads()):
        return torch.from_numpy(array.T @ array)  # numpy sees that both factors are one, and calls BLAS's syrk


def eigvalsh(matrix: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of a symmetric matrix `(d, d)`, ascending, without gradient.

    numpy brings an OpenBLAS of its own, which takes 0.7 of the time of PyTorch's MKL on AMD processors.
    """
    if matrix.device.type != "cpu" or not fast():
        return torch.linalg.eigvalsh(matrix)
    with numpy_as_pytorch(torch.get_num_threads()):
        return torch.from_numpy(np.linalg.eigvalsh(matrix.detach().numpy()))


@cache
def _has_bfloat16_tiles() -> bool:
    """Whether this processor has tiles for bfloat16 products (AMX), and this build of PyTorch uses them for float32."""
    try:
        if not (_ON_CPU and torch.cpu._is_amx_tile_supported() and torch.backends.mkldnn.is_available()):
            return False
    except AttributeError:
        return False
    factor = torch.full((64, 64), 1 + 2.0**-12)  # 1 in bfloat16
    return bool((times_transposed(factor, factor, rough=True) == 64).all())


def bfloat16_is_fast() -> bool:
    """Whether rough products are faster than float32 ones here."""
    return fast() and _has_bfloat16_tiles()
