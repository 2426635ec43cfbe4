"""Matrix products, the arithmetic that no measure can avoid, at the best rate the machine offers.

PyTorch sends a float32 product on CPU to MKL, which runs at less than half its rate on AMD processors; oneDNN, built
into the same PyTorch, runs at full rate on either. In float64 there is only MKL and numpy's BLAS, whose `A.T @ A`
computes one triangle only. Processors that multiply 8-bit integers at four times the rate of float32 (VNNI) make a
Gram matrix of float32 rows in less time than float64 takes, and without rounding. Everything else is `torch.matmul`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

BLOCK_ROWS = 2048
DIGITS, RADIX = 3, 256.0  # 24 bits, as many as float32 keeps
CACHED_ROWS = 256  # stay in the processor's cache from one step to the next; more would overflow the sum of digits
_ONEDNN_MATMUL = getattr(torch.backends.mkldnn, "matmul", None)
PANEL_COLUMNS = 192  # of a symmetric product, to leave most of the lower triangle out


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


def digit_gram(
    rows: torch.Tensor, centre: torch.Tensor, peaks: torch.Tensor, *, leading: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and Gram matrix of `rows - centre` rounded to fixed point, 23 bits below each column's peak; in float64.

    Each difference becomes `(2^16 H_0 + 2^8 H_1 + H_2) unit` with digits of 8 bits, whose products int32 sums exactly.
    So both results belong, to float64 rounding, to numbers at most `2^-23 peaks` away from the differences: the product
    itself adds no eigenvalue.

    Args:
        rows: `(n, d)` on CPU, of at most 32 bits, n <= 2^16; only where `digits_work()`.
        centre: `(d,)` float32.
        peaks: `(d,)` float32, the largest absolute value of each column of `rows - centre`.
        leading: leave `H_1^T H_2` and `H_2^T H_2` out, a third of the work. The Gram matrix is then right to about 1e-8
            of its largest eigenvalue, and small ones are wrong.

    Source: Ootomo, Ozaki, Yokota, "DGEMM on integer matrix multiplication unit" (2024).
    """
    d = len(peaks)
    unit = torch.exp2(torch.ceil(torch.log2(peaks.clamp_min(2.0**-100) / (127 * 2**16))))
    unit = torch.where(peaks > 0, unit, 1)  # a constant column has differences of 0 in any unit
    pairs = [(i, j) for i in range(DIGITS) for j in range(i, DIGITS) if not leading or i + j < DIGITS]
    products = torch.zeros(len(pairs), d, d, dtype=torch.int32)
    total = torch.zeros(d, dtype=torch.float64)
    for block in rows.split(BLOCK_ROWS):
        digits, block_total = _digits(block, centre, unit)
        total += block_total
        for (i, j), product in zip(pairs, products, strict=True):
            if i == j:
                _add_upper_product(product, digits[i])
            else:
                product += torch._int_mm(digits[i].T, digits[j])
    half = torch.zeros(d, d, dtype=torch.float64)  # with its transpose it adds up to the Gram matrix
    part = torch.empty_like(half)
    for (i, j), product in zip(pairs, products, strict=True):
        part.copy_(product)
        if i == j:
            part.triu_().diagonal().div_(2)
        half.add_(part, alpha=RADIX ** (2 * DIGITS - 2 - i - j))
    unit = unit.to(torch.float64)
    return total * unit, (half + half.T).mul_(unit).mul_(unit[:, None])


def _digits(rows: torch.Tensor, centre: torch.Tensor, unit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers nearest to `(rows - centre) / unit`: their digits in -128 ... 127, highest first, and their sum.

    `(DIGITS, n, d)` int8 and `(d,)` float64.
    """
    digits, total = torch.empty(DIGITS, *rows.shape, dtype=torch.int8), 0
    factor = 1 / unit  # a power of two, which rounds nothing; so `(row - centre) factor` may be had in one step
    shift = -centre * factor
    for some, places in zip(rows.split(CACHED_ROWS), digits.split(CACHED_ROWS, dim=1), strict=True):
        rest = torch.addcmul(shift, some, factor).round_().to(torch.int32)
        total = total + rest.sum(0, dtype=torch.int32).to(torch.float64)  # 2^8 numbers of at most 127 2^16
        for digit in places[1:].unbind()[::-1]:
            digit.copy_(rest)  # keeps the lowest 8 bits, read as a signed number
            rest.add_(128).bitwise_right_shift_(8)
        places[0].copy_(rest)
    return digits, total


def _add_upper_product(product: torch.Tensor, digit: torch.Tensor) -> None:
    """Adds `digit.T @ digit` to `product` on and above the diagonal; what it leaves below is no use."""
    for start in range(0, len(product), PANEL_COLUMNS):
        panel = slice(start, start + PANEL_COLUMNS)
        product[panel, start:].add_(torch._int_mm(digit[:, panel].T, digit[:, start:]))


@cache
def digits_work() -> bool:
    """Whether this machine and this build of PyTorch multiply 8-bit integers fast (VNNI) and without saturation."""
    extremes = torch.tensor([[-128, 127, -128, -127]] * 96, dtype=torch.int8).repeat(1, 8)
    try:
        fast = torch.cpu._is_vnni_supported() and torch.backends.mkldnn.is_available()
        wide = extremes.to(torch.int32)
        return fast and torch.equal(torch._int_mm(extremes.T, extremes), wide.T @ wide)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No gradients, and float32 products in float32, where the user's settings may allow TF32 or bfloat16.

    The proofs rest on it. The setting is global, and put back on leaving.
    """
    backend = torch.backends.cuda.matmul if device.type == "cuda" else _ONEDNN_MATMUL
    with torch.no_grad():
        if hasattr(backend, "fp32_precision"):
            with _set_precision(backend, "ieee"):
                yield
        else:  # PyTorch before 2.9
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            try:
                yield
            finally:
                torch.set_float32_matmul_precision(before)


@contextmanager
def bfloat16_products(wanted: bool = True) -> Iterator[None]:
    """float32 products on CPU round their factors to bfloat16 and sum in float32; only where `bfloat16_is_fast()`.

    Factors that bfloat16 holds exactly lose nothing. The setting is global, and put back on leaving.
    """
    if wanted and hasattr(_ONEDNN_MATMUL, "fp32_precision"):
        with _set_precision(_ONEDNN_MATMUL, "bf16"):
            yield
    else:
        yield


@contextmanager
def _set_precision(backend, precision: str) -> Iterator[None]:
    before, backend.fp32_precision = backend.fp32_precision, precision
    try:
        yield
    finally:
        backend.fp32_precision = before


@cache
def bfloat16_is_fast() -> bool:
    """Whether this processor has tiles for bfloat16 products (AMX), and this build of PyTorch uses them for float32."""
    try:
        if not (torch.cpu._is_amx_tile_supported() and torch.backends.mkldnn.is_available()):
            return False
    except AttributeError:
        return False
    probe = torch.full((64, 64), 1 + 2.0**-12)  # 1 in bfloat16
    with bfloat16_products():
        return bool((times_transposed(probe, probe) == 64).all())
