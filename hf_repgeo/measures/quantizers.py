"""Quantizers: every row becomes a few small integers, the names of the codewords nearest to it.

    product     (default) contiguous blocks of columns, k-means in each: Jegou et al., TPAMI 33(1), 2011
    residual    full-width codewords whose sum stands for a row, codebook after codebook
    additive    the same, all codebooks at once: local search quantization, Martinez et al., ECCV 2018
    faiss-lsq   the additive quantizer of the authors of arXiv 2406.12159, by faiss: the reference, slow
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import BadInput, MissingExtra, TooFewRows, UnknownName
from .additive import FINAL_SEARCHES, beam_search, fit_additive, fit_residual, local_search
from .kmeans import kmeans, nearest_centroids, squared_errors, with_ones

MAX_TRAINING_ROWS = 65_536
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Quantization:
    """Rows, their codes under a quantizer that was fitted to them, and how well the codes stand for the rows.

    Attributes:
        codes: `(n, codebooks)` int64, the cell of each row in each codebook, in 0 ... cells - 1.
        cells: cells in each codebook, `2 ** bits`.
        errors: `(n,)` float64, squared distance of each row to its reconstruction.
        relative_error: sum of `errors` over the sum of the rows' squared norms (not centred, as the paper has it).
        n_train: rows that the codebooks were fitted to.
        iterations: rounds of fitting; the largest over the codebooks.
        dead_cells: cells without a row, over all codebooks.
        quantizer: the quantizer's name.
        codebooks: one `(cells, width)` tensor of codewords each: the block's columns for the product quantizer, all
            columns for the others.
    """

    codes: torch.Tensor
    cells: int
    errors: torch.Tensor
    relative_error: float
    n_train: int
    iterations: int
    dead_cells: int
    quantizer: str
    codebooks: tuple[torch.Tensor, ...]

    @property
    def counts(self) -> torch.Tensor:
        """Rows in each cell, `(codebooks, cells)` int64."""
        return torch.stack([torch.bincount(column, minlength=self.cells) for column in self.codes.T])


@dataclass(frozen=True)
class _Fit:
    """What a quantizer found on rows from which `shift` was taken."""

    codes: torch.Tensor
    codebooks: tuple[torch.Tensor, ...]
    errors: torch.Tensor
    iterations: int
    n_train: int


@torch.no_grad()
def quantize(
    rows: torch.Tensor,
    quantizer: str = "product",
    *,
    codebooks: int = 4,
    bits: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Quantization:
    """Fit a quantizer to rows and give their codes.

    The rows' mean is taken off before anything else, so that a common offset costs no digits.

    Args:
        rows: `(n, d)` finite float32 or float64, on any device; not written to.
        quantizer: `"product"`, `"residual"`, `"additive"` or `"faiss-lsq"`.
        codebooks: number of codebooks; the product quantizer splits the columns into as many blocks of equal width
            (the first ones a column wider where `d` does not divide).
        bits: each codebook has `2 ** bits` cells.
        seed: same seed, same rows, same machine: same codes. The global random state is neither read nor changed.
        progress: called as `progress(done, total)` after each step of fitting.

    Returns:
        A `Quantization`.

    Raises:
        UnknownName: no such quantizer.
        BadInput: no codebook, no bit, or more codebooks than columns.
        TooFewRows: fewer rows than cells.
        MissingExtra: `"faiss-lsq"` without faiss.

    Cost: O(n d 2**bits) a round of k-means for the product quantizer; memory O(n d) beside bounded blocks.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.quantizers import quantize
        >>> rows = torch.arange(64.0).remainder(4)[:, None] * torch.ones(4)
        >>> found = quantize(rows, codebooks=2, bits=2)
        >>> found.counts.tolist(), found.relative_error
        ([[16, 16, 16, 16], [16, 16, 16, 16]], 0.0)
    """
    if quantizer not in _QUANTIZERS:
        raise UnknownName("quantizer", quantizer, _QUANTIZERS)
    _check(rows, codebooks, bits)
    shift = rows.mean(0, dtype=torch.float64).to(rows.dtype)
    fit = _QUANTIZERS[quantizer](rows - shift, codebooks, 2**bits, seed, progress or _silent)
    energy = float(rows.square().sum(dtype=torch.float64))
    found = Quantization(
        codes=fit.codes,
        cells=2**bits,
        errors=fit.errors,
        relative_error=float(fit.errors.sum()) / energy if energy else 0.0,
        n_train=fit.n_train,
        iterations=fit.iterations,
        dead_cells=0,
        quantizer=quantizer,
        codebooks=fit.codebooks,
    )
    object.__setattr__(found, "dead_cells", int((found.counts == 0).sum()))
    return found


def _silent(done: int, total: int) -> None:
    """The progress of those who did not ask."""


def _check(rows: torch.Tensor, codebooks: int, bits: int) -> None:
    if codebooks < 1 or codebooks > rows.shape[1]:
        raise BadInput("codebooks", came=f"{codebooks}", wanted=f"1 to {rows.shape[1]}, the number of columns")
    if not 1 <= bits <= 16:
        raise BadInput("bits", came=f"{bits}", wanted="1 to 16")
    if len(rows) < 2**bits:
        fits = len(rows).bit_length() - 1
        raise TooFewRows(
            "rows", came=f"{len(rows)} rows", wanted=f"at least {2**bits}, one for each cell", cure=f"Use bits={fits}."
        )


def _training_rows(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if len(rows) <= MAX_TRAINING_ROWS:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:MAX_TRAINING_ROWS].to(rows.device)]


def _product(rows: torch.Tensor, codebooks: int, cells: int, seed: int, progress: Progress) -> _Fit:
    generator = torch.Generator().manual_seed(seed)
    train = _training_rows(rows, generator)
    errors = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    codes, words, iterations = [], [], 0
    for done, (block, sample) in enumerate(
        zip(rows.tensor_split(codebooks, dim=1), train.tensor_split(codebooks, dim=1), strict=True), start=1
    ):
        found = kmeans(sample.contiguous(), cells, generator)
        own = found.cells if train is rows else nearest_centroids(with_ones(block), found.centroids)
        errors += squared_errors(block, found.centroids, own)
        codes.append(own)
        words.append(found.centroids)
        iterations = max(iterations, found.iterations)
        progress(done, codebooks)
    return _Fit(torch.stack(codes, 1), tuple(words), errors, iterations, len(train))


def _faiss_lsq(rows: torch.Tensor, codebooks: int, cells: int, seed: int, progress: Progress) -> _Fit:
    try:
        import faiss
    except ImportError:
        raise MissingExtra("faiss-cpu", "bench", "the reference quantizer 'faiss-lsq'") from None
    array = rows.float().cpu().numpy()
    reference = faiss.LocalSearchQuantizer(rows.shape[1], codebooks, cells.bit_length() - 1)
    reference.random_seed = seed
    reference.train(array)
    progress(1, 2)
    codes = torch.from_numpy(faiss.unpack_bitstrings(reference.compute_codes(array), codebooks, cells.bit_length() - 1).astype("int64"))
    words = torch.from_numpy(faiss.vector_to_array(reference.codebooks).reshape(codebooks, cells, -1)).to(rows)
    codes = codes.to(rows.device)
    progress(2, 2)
    errors = _additive_errors(rows, words, codes)
    return _Fit(codes, tuple(words), errors, reference.train_iters, len(rows))


def _additive_errors(rows: torch.Tensor, words: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """`|x - sum_m c_m|^2` by direct difference in float64, `(n,)`."""
    parts = zip(rows.split(1024), codes.split(1024), strict=True)
    book = torch.arange(len(words), device=rows.device)
    return torch.cat([(x.double() - words[book, own].double().sum(1)).square().sum(1) for x, own in parts])


def _additive(rows: torch.Tensor, codebooks: int, cells: int, seed: int, progress: Progress) -> _Fit:
    generator = torch.Generator().manual_seed(seed)
    train = _training_rows(rows, generator)
    words, codes, iterations = fit_additive(train, codebooks, cells, generator, progress)
    if train is not rows:
        start = torch.randint(cells, (len(rows), codebooks), generator=generator).to(rows.device)
        codes = local_search(rows, words, start, FINAL_SEARCHES, generator)
    return _Fit(codes, tuple(words), _additive_errors(rows, words, codes), iterations, len(train))


def _residual(rows: torch.Tensor, codebooks: int, cells: int, seed: int, progress: Progress) -> _Fit:
    generator = torch.Generator().manual_seed(seed)
    train = _training_rows(rows, generator)
    words, iterations = fit_residual(train, codebooks, cells, generator, progress)
    codes = beam_search(rows, words)
    return _Fit(codes, tuple(words), _additive_errors(rows, words, codes), iterations, len(train))


_QUANTIZERS = {"product": _product, "residual": _residual, "additive": _additive, "faiss-lsq": _faiss_lsq}
