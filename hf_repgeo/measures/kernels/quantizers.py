"""Quantizers: every row becomes a few small integers, the names of the codewords nearest to it.

product     contiguous blocks of columns, k-means in each: Jegou, Douze & Schmid, TPAMI 33 (2011); the default
residual    full-width codewords whose sum stands for a row, codebook after codebook
additive    the same, then all codebooks at once: local search quantization, Martinez et al., ECCV 2018
faiss-pq, faiss-lsq   the product and the additive quantizer that the authors of arXiv 2406.12159 ran, by faiss

The product and the residual quantizer use no random numbers, and none depends on the order of the rows: rows are first
sorted by keys of their values (`row_keys`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import TypedDict

import torch

from ...errors import BadInput, MissingExtra, TooFewRows, UnknownName
from .additive import beam_search, fit_additive, fit_residual, local_search
from .kmeans import kmeans, nearest_centroids, squared_errors
from .row_keys import key_order, row_keys

PRODUCT, RESIDUAL, ADDITIVE, FAISS_PQ, FAISS_LSQ = "product", "residual", "additive", "faiss-pq", "faiss-lsq"
CODEBOOKS = 4
BITS = {PRODUCT: 6, RESIDUAL: 6, ADDITIVE: 8, FAISS_PQ: 8, FAISS_LSQ: 8}  # 8 is the paper's; 2,500 rows fill 64 cells
NARROWEST_BLOCK = 8  # columns; in fewer, k-means crowds even a Gaussian (1.10 at 4 columns, 1.2 at 2)
MAX_TRAINING_ROWS = 65_536
MAX_BITS = 12  # more would need tables of codeword pairs beyond a gigabyte, and 160,000 rows to fill the cells
COARSE = {torch.float32: 1e-5, torch.float64: 2e-14}  # of a row's squared norm: a smaller error is lost in rounding
COPIES = {torch.float32: 1e-10, torch.float64: 1e-27}  # of a row's squared norm: a smaller error may be rounding alone
COARSE_SHARE = 0.01  # of the rows: with more of them lost in rounding, the fit is repeated in float64
CENTRE_ROWS = 128  # their median is the centre if a few rows drag the mean away,
DRAGGED_SHARE = 0.9  # farther than this share of the rows are from it
BLOCK_ROWS = 1024  # rows worked on at a time in float64
FIRST_FEW = 8  # rows that usually suffice to see that some differ
Progress = Callable[[int, int], None]


class CellOptions(TypedDict, total=False):
    """Which cells the measures of cells count in: the options they share, each with `quantize`'s default.

    Attributes:
        quantizer: `"product"` (default), `"residual"`, `"additive"`, `"faiss-pq"` or `"faiss-lsq"`.
        codebooks: number of codebooks; default 4, for the product quantizer fewer on fewer than 32 columns.
        bits: a codebook has `2 ** bits` cells; default 6, and 8 for additive and faiss's.
    """

    quantizer: str
    codebooks: int
    bits: int


@dataclass(frozen=True)
class Quantization:
    """The codes of rows under a quantizer that was fitted to them, and how well the codes describe the rows.

    Attributes:
        codes: `(n, codebooks)` int64, the cell of each row in each codebook, in 0 ... cells - 1.
        cells: cells in each codebook, `2 ** bits`.
        errors: `(n,)` float64, squared distance of each row to its reconstruction.
        relative_error: sum of `errors` over the sum of the rows' squared norms: not centred, as in the paper, so that
            a common offset shrinks it.
        n_train: rows that the codebooks were fitted to.
        iterations: rounds of fitting, the most over the codebooks.
        quantizer: the quantizer's name.
        codebooks: for each codebook its codewords `(cells, width)`, minus the mean of the rows: a block of the columns
            for the product quantizers, all columns for the others.
        shift: `(d,)`, what was subtracted from the rows before fitting: their mean, or a median if a few rows drag the
            mean so far away that the others lose precision.
        dead_blocks: blocks of columns in which all rows are equal; they have no codebook.
        lost_share: share of the rows whose nearest codeword rounding hides, since they or a few others lie far out; 0
            for up to one row in a hundred.
    """

    codes: torch.Tensor
    cells: int
    errors: torch.Tensor
    relative_error: float
    n_train: int
    iterations: int
    quantizer: str
    codebooks: tuple[torch.Tensor, ...]
    shift: torch.Tensor
    dead_blocks: int = 0
    lost_share: float = 0.0

    @cached_property
    def counts(self) -> torch.Tensor:
        """Rows in each cell, `(codebooks, cells)` int64."""
        return torch.stack([torch.bincount(column, minlength=self.cells) for column in self.codes.T])

    @property
    def dead_cells(self) -> int:
        """Cells without a row, over all codebooks."""
        return int((self.counts == 0).sum())


def complete_options(d: int, quantizer: str = PRODUCT, **given: int | None) -> CellOptions:
    """All options of the cells of rows with d columns: those given, and the quantizer's defaults for the others.

    Raises:
        UnknownName: no such quantizer.
        BadInput: an option that is not a whole number.

    Example:
        >>> from hf_repgeo.measures.kernels.quantizers import complete_options
        >>> complete_options(768), complete_options(20)["codebooks"], complete_options(20, "additive")["codebooks"]
        ({'quantizer': 'product', 'codebooks': 4, 'bits': 6}, 2, 4)
    """
    if quantizer not in _QUANTIZERS:
        raise UnknownName("quantizer", quantizer, _QUANTIZERS)
    wide_enough = d // NARROWEST_BLOCK if quantizer == PRODUCT else CODEBOOKS
    options = {"codebooks": max(1, min(CODEBOOKS, wide_enough)), "bits": BITS[quantizer]}
    options |= {name: value for name, value in given.items() if value is not None}
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadInput(name, came=repr(value), wanted="a whole number")
    return CellOptions(quantizer=quantizer, codebooks=options["codebooks"], bits=options["bits"])


@torch.no_grad()
def quantize(
    rows: torch.Tensor,
    quantizer: str = PRODUCT,
    *,
    codebooks: int | None = None,
    bits: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Quantization:
    """Fit a quantizer to rows and give their codes.

    The rows' mean is subtracted first, so that a common offset costs no precision. If float32 cannot tell the nearest
    codewords of many rows, since these rows or a few others lie far out, the fit is made in float64.
    Codebooks are fitted to at most 65,536 rows, chosen by their keys; codes are given for all.

    Args:
        rows: `(n, d)` finite float32 or float64, on any device; not written to.
        quantizer: `"product"`, `"residual"`, `"additive"`, `"faiss-pq"` or `"faiss-lsq"`.
        codebooks: number of codebooks. The product quantizer splits the columns into that many blocks of equal width,
            the first ones a column wider where the number of columns does not divide; a block in which all rows are
            equal gets no codebook. Default: 4; for the product quantizer fewer where blocks would be narrower than 8
            columns.
        bits: a codebook has `2 ** bits` cells; 1 to 12. Default: 6; 8, the paper's, for additive and faiss's.
        seed: of the additive quantizer's noise and of faiss (whose own seeds are 0x12345 for `"faiss-lsq"` and 1234 for
            `"faiss-pq"`). The global random state is neither read nor changed.
        progress: called as `progress(done, total)` after each step of fitting.

    Returns:
        A `Quantization`: for our quantizers the same on the same machine whatever the order of the rows.

    Raises:
        UnknownName: no such quantizer.
        BadInput: no codebook, more codebooks than columns, or bits out of range.
        TooFewRows: fewer rows than cells.
        MissingExtra: one of faiss's without faiss.

    Cost: a round of k-means is O(n d cells) for the product quantizer, `codebooks` times that for the residual and
    additive ones. Memory O(n d) and bounded blocks.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.kernels.quantizers import quantize
        >>> rows = torch.arange(64.0).remainder(4)[:, None] * torch.ones(4)
        >>> found = quantize(rows, codebooks=2, bits=2)
        >>> found.counts.tolist(), found.relative_error
        ([[16, 16, 16, 16], [16, 16, 16, 16]], 0.0)
    """
    options = complete_options(rows.shape[1], quantizer, codebooks=codebooks, bits=bits)
    codebooks, bits = options["codebooks"], options["bits"]
    _check(rows, codebooks, bits)
    cells, report = 2**bits, progress or _silent
    order = torch.arange(len(rows)) if quantizer in _BY_FAISS else key_order(rows)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    ordered = rows[order]
    mean = _mean(ordered)
    shift = mean.to(rows.dtype)
    centred = ordered - shift
    fit = _QUANTIZERS[quantizer](centred, codebooks, cells, seed, report)
    lost = _lost_share(centred, ordered, fit)
    if lost > COARSE_SHARE and quantizer not in _BY_FAISS:  # faiss computes in float32 whatever it is given
        shift = _steady_centre(ordered, mean)
        centred = ordered.double() - shift
        fit = _QUANTIZERS[quantizer](centred, codebooks, cells, seed, report)
        lost = _lost_share(centred, ordered, fit)
    energy = float(_squared_norms(ordered).sum())
    return Quantization(
        codes=fit.codes[place],
        cells=cells,
        errors=fit.errors[place],
        relative_error=float(fit.errors.sum()) / energy if energy else 0.0,
        n_train=min(len(rows), MAX_TRAINING_ROWS if quantizer != FAISS_LSQ else len(rows)),
        iterations=fit.iterations,
        quantizer=quantizer,
        codebooks=fit.codebooks,
        shift=shift,
        dead_blocks=codebooks - len(fit.codebooks),
        lost_share=lost,
    )


@dataclass(frozen=True)
class _Fit:
    """The result of a quantizer on centred rows."""

    codes: torch.Tensor
    codebooks: tuple[torch.Tensor, ...]
    errors: torch.Tensor
    iterations: int


def _silent(done: int, total: int) -> None:
    """The default `progress`: does nothing."""


def _check(rows: torch.Tensor, codebooks: int, bits: int) -> None:
    if not 1 <= codebooks <= rows.shape[1]:
        raise BadInput("codebooks", came=f"{codebooks}", wanted=f"1 to {rows.shape[1]}, the number of columns")
    if not 1 <= bits <= MAX_BITS:
        raise BadInput("bits", came=f"{bits}", wanted=f"1 to {MAX_BITS}")
    if len(rows) < 2**bits:
        wanted = f"at least {2**bits}, one for each cell"
        cure = f"With this number of rows, bits={len(rows).bit_length() - 1} is the most that can be fitted."
        raise TooFewRows("rows", came=f"{len(rows)} rows", wanted=wanted, cure=cure)


def _lost_share(centred: torch.Tensor, rows: torch.Tensor, fit: _Fit) -> float:
    """Share of the rows whose nearest codeword is lost in the rounding of the distances.

    Distances come from a product, whose rounding grows with the row's squared norm: a squared error below `COARSE` of
    that norm is lost in it. An error below `COPIES` of the norm means that the row is a copy of its codeword, which
    loses nothing, unless a different row has the same codes.
    """
    norms = _squared_norms(centred)
    lost = fit.errors < COARSE[centred.dtype] * norms
    copies = fit.errors <= COPIES[centred.dtype] * norms
    if int(lost.sum()) <= COARSE_SHARE * len(rows):
        return 0.0
    return float((lost & ~(copies & _alone(rows, fit.codes))).double().mean())


def _alone(rows: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """`(n,)` bool: rows that share all their codes only with copies of themselves."""
    group = torch.unique(row_keys(codes.double()), return_inverse=True)[1]
    pairs = torch.unique(torch.stack([group, row_keys(rows)]), dim=1)
    return torch.bincount(pairs[0])[group] == 1


def _steady_centre(rows: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """The mean; or the median of some rows, if nearly all of them are nearer to it than the mean is. float64 `(d,)`."""
    some = rows[:: -(-len(rows) // CENTRE_ROWS)].double()
    median = some.median(0).values
    distances = torch.linalg.vector_norm(some - median, dim=1)
    dragged = distances < torch.linalg.vector_norm(mean - median)
    return median if float(dragged.double().mean()) > DRAGGED_SHARE else mean


def _mean(rows: torch.Tensor) -> torch.Tensor:
    return sum(block.sum(0, dtype=torch.float64) for block in rows.split(BLOCK_ROWS)) / len(rows)


def _squared_norms(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.linalg.vector_norm(block, dim=1) for block in rows.split(BLOCK_ROWS)]).double().square()


def _product(rows: torch.Tensor, codebooks: int, cells: int, seed: int, progress: Progress) -> _Fit:
    blocks, fits = live_blocks(rows, codebooks), []
    for done, block in enumerate(blocks, start=1):
        fits.append(_of_block(block.contiguous(), cells))
        progress(done, len(blocks))
    return _Fit(
        codes=torch.stack([fit.codes for fit in fits], dim=1),
        codebooks=tuple(fit.codebooks[0] for fit in fits),
        errors=torch.stack([fit.errors for fit in fits]).sum(0),
        iterations=max(fit.iterations for fit in fits),
    )


def _of_block(block: torch.Tensor, cells: int) -> _Fit:
    """k-means of some of the columns."""
    found = kmeans(block[:MAX_TRAINING_ROWS], cells)
    codes = found.cells if len(block) <= MAX_TRAINING_ROWS else nearest_centroids(block, found.centroids)
    return _Fit(codes, (found.centroids,), squared_errors(block, found.centroids, codes), found.iterations)


def live_blocks(rows: torch.Tensor, blocks: int) -> list[torch.Tensor]:
    """The blocks of columns that the product quantizer fits: those in which rows differ, or the last one if none do."""
    parts = rows.tensor_split(blocks, dim=1)
    return [part for part in parts if _differ(part)] or [parts[-1]]


def _differ(rows: torch.Tensor) -> bool:
    """Whether some rows differ; usually the first few show it."""
    return any(bool((part != rows[:1]).any()) for part in (rows[:FIRST_FEW], *rows[FIRST_FEW:].split(BLOCK_ROWS)))


@torch.no_grad()
def refitted_counts(rows: torch.Tensor, fit: Quantization, chosen: torch.Tensor) -> torch.Tensor:
    """Counts of all rows in cells of the product quantizer that are fitted to the chosen ones, `(codebooks, cells)`."""
    counts = []
    for block in live_blocks(rows - fit.shift, fit.dead_blocks + len(fit.codebooks)):
        block = block.contiguous()
        centroids = kmeans(block[chosen][:MAX_TRAINING_ROWS], fit.cells).centroids
        counts.append(torch.bincount(nearest_centroids(block, centroids), minlength=fit.cells))
    return torch.stack(counts)


def _residual(rows: torch.Tensor, codebooks: int, cells: int, seed: int, progress: Progress) -> _Fit:
    words, iterations = fit_residual(rows[:MAX_TRAINING_ROWS], codebooks, cells, progress)
    return _summed(rows, words, beam_search(rows, words), iterations)


def _additive(rows: torch.Tensor, codebooks: int, cells: int, seed: int, progress: Progress) -> _Fit:
    generator = torch.Generator().manual_seed(seed)
    words, codes, iterations = fit_additive(rows[:MAX_TRAINING_ROWS], codebooks, cells, generator, progress)
    if len(rows) > MAX_TRAINING_ROWS:
        codes = local_search(rows, words, beam_search(rows, words), generator)
    return _summed(rows, words, codes, iterations)


def _faiss(quantizer: str) -> ModuleType:
    try:
        import faiss
    except ImportError:
        raise MissingExtra("faiss-cpu", "bench", f"the reference quantizer {quantizer!r}") from None
    return faiss


def _faiss_pq(rows: torch.Tensor, codebooks: int, cells: int, seed: int, progress: Progress) -> _Fit:
    faiss = _faiss(FAISS_PQ)
    if rows.shape[1] % codebooks:
        wanted = f"a divisor of {rows.shape[1]}, the number of columns"
        raise BadInput("codebooks", came=f"{codebooks}", wanted=wanted, cure="Only faiss asks for it.")
    array = rows.float().cpu().contiguous().numpy()
    reference = faiss.ProductQuantizer(rows.shape[1], codebooks, cells.bit_length() - 1)
    reference.cp.seed = seed
    reference.train(array)
    progress(1, 1)
    packed = reference.compute_codes(array)
    codes = faiss.unpack_bitstrings(packed, codebooks, cells.bit_length() - 1).astype("int64")
    words = torch.from_numpy(faiss.vector_to_array(reference.centroids).reshape(codebooks, cells, -1)).to(rows)
    codes = torch.from_numpy(codes).to(rows.device)
    blocks = rows.tensor_split(codebooks, dim=1)
    errors = [squared_errors(*block) for block in zip(blocks, words, codes.T, strict=True)]
    return _Fit(codes, tuple(words), torch.stack(errors).sum(0), reference.cp.niter)


def _faiss_lsq(rows: torch.Tensor, codebooks: int, cells: int, seed: int, progress: Progress) -> _Fit:
    faiss = _faiss(FAISS_LSQ)
    array, bits = rows.float().cpu().contiguous().numpy(), cells.bit_length() - 1
    reference = faiss.LocalSearchQuantizer(rows.shape[1], codebooks, bits)
    reference.random_seed = seed
    reference.train(array)
    progress(1, 2)
    codes = faiss.unpack_bitstrings(reference.compute_codes(array), codebooks, bits)
    words = faiss.vector_to_array(reference.codebooks).reshape(codebooks, cells, -1)
    progress(2, 2)
    words, codes = torch.from_numpy(words).to(rows), torch.from_numpy(codes.astype("int64")).to(rows.device)
    return _summed(rows, words, codes, reference.train_iters)


def _summed(rows: torch.Tensor, words: torch.Tensor, codes: torch.Tensor, iterations: int) -> _Fit:
    """The fit of quantizers whose codewords `(codebooks, cells, d)` are summed; errors by direct difference."""
    book = torch.arange(len(words), device=rows.device)
    parts = zip(rows.split(1024), codes.split(1024), strict=True)
    errors = [(x.double() - words[book, own].double().sum(1)).square().sum(1) for x, own in parts]
    return _Fit(codes, tuple(words), torch.cat(errors), iterations)


_BY_FAISS = {FAISS_PQ: _faiss_pq, FAISS_LSQ: _faiss_lsq}
_QUANTIZERS = {PRODUCT: _product, RESIDUAL: _residual, ADDITIVE: _additive} | _BY_FAISS
