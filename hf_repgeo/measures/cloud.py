"""PointCloud: rows that were checked once, and what the measures share about them, each computed at most once.

cloud = PointCloud(X)
anisotropy(cloud); intrinsic_dimension(cloud); patchiness(cloud)     # one spectrum, one neighbour search, one quantizer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch

from .eigen import eigenvalues, fold_spectra, principal_coordinates
from .inputs import as_groups, as_matrix, as_seed, finite_peak, in_working_dtype
from .kernels.neighbors import Neighbors, nearest
from .kernels.products import BLOCK_ROWS
from .kernels.quantizers import PRODUCT, Quantization, quantize
from .kernels.row_keys import few_column_keys, maybe_copies, row_keys
from .moments import Moments

Shared = TypeVar("Shared")
JACKKNIFE_GROUPS = 20
REMAINING_SHARE = 1e-6  # of the scatter; below, subtracting the rest would cost more than six digits
SAFE_PEAK = (2.0**-20, 2.0**20)  # outside, float32 squares lose digits or overflow: rows are rescaled by a power of two


class PointCloud:
    """Rows of one representation, checked and ready to be measured.

    Half-precision rows are kept in float32, integers in float64. Rows whose largest entry lies outside 2^-20 ... 2^20
    are rescaled by a power of two, which changes no digit; `unit` undoes it. Nothing else is changed, and the caller's
    array is never written to.

    Args:
        X: `(n_samples, hidden_size)`; a torch tensor on any device, a numpy array, or nested lists.
        groups: `(n_samples,)` integers or names that say which rows belong together, such as each token's document.
            Standard errors by jackknife leave out whole groups. Default: every row stands alone.
        jackknife: whether estimates carry a jackknife standard error.
        seed: for everything random in a measure (the quantizers, the division into jackknife folds).
        argument: the name of `X` in error messages.

    Raises:
        BadInput: not a dense matrix of numbers, fewer than two rows, `groups` of the wrong length, or an invalid seed.
        NonFiniteRows: NaN or infinity; the message counts the rows.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures import PointCloud
        >>> cloud = PointCloud(torch.eye(4))
        >>> cloud.n, cloud.d, cloud.n_distinct
        (4, 4, 4)
    """

    def __init__(self, X: Any, *, groups: Any = None, jackknife: bool = True, seed: int = 0, argument: str = "X"):
        given = as_matrix(X, argument).detach()
        self.given_dtype = given.dtype
        rows = in_working_dtype(given)
        peak = finite_peak(rows, given.dtype, argument)
        self.unit = 1.0
        if peak and not SAFE_PEAK[0] <= peak <= SAFE_PEAK[1]:
            self.unit = 2.0 ** max(int(np.floor(np.log2(peak))), -1000)
            exact = rows.to(torch.float64) * (
                1 / self.unit
            )  # in float32, 1 / unit may be too large, and rows too small
            narrow = exact.to(rows.dtype)
            rows = narrow if bool((narrow == exact).all()) else exact
        self.rows = rows.contiguous()
        self.jackknife = jackknife
        self.streamed = False
        self.origin: tuple[PointCloud, torch.Tensor] | None = None
        self.seed = as_seed(seed)
        self.groups = as_groups(groups, self.n, self.rows.device)

    @property
    def n(self) -> int:
        """Number of rows, copies included."""
        return self.rows.shape[0]

    @property
    def d(self) -> int:
        """Number of columns: the hidden size."""
        return self.rows.shape[1]

    @property
    def n_seen(self) -> int:
        """Number of rows that the moments describe: `n`, or all rows of the stream these were drawn from."""
        return self.moments.count if self.streamed else self.n

    @property
    def unscaled_rows(self) -> torch.Tensor:
        """The rows in the caller's units: `rows`, or in float64 where those had to be rescaled."""
        return self.rows if self.unit == 1 else self.rows.to(torch.float64) * self.unit

    def stream(self, moments: Moments) -> None:
        """Takes the moments of the whole stream that these rows were drawn from."""
        self.moments, self.streamed = moments.scaled(1 / self.unit), True

    @property
    def n_distinct(self) -> int:
        """Number of rows when exact copies count once."""
        return len(self.distinct)

    @cached_property
    def distinct(self) -> torch.Tensor:
        """Positions of the first occurrence of every distinct row, ascending, `(n_distinct,)` int64. O(n d)."""
        return torch.nonzero(self._first_equals == torch.arange(self.n, device=self.rows.device))[:, 0]

    @cached_property
    def _first_equals(self) -> torch.Tensor:
        return first_equals(self.rows)

    @cached_property
    def distinct_rows(self) -> torch.Tensor:
        """The rows without exact copies, `(n_distinct, d)`."""
        return self.rows if self.n_distinct == self.n else self.rows[self.distinct]

    @cached_property
    def moments(self) -> Moments:
        """Count, mean and scatter in float64. O(n d^2)."""
        return Moments.of(self.rows)

    @cached_property
    def column_variances(self) -> torch.Tensor:
        """Variance of each column, `(d,)` float64. O(n d)."""
        blocks = self.rows.split(512)  # small blocks, whose float64 copies stay in the cache
        mean = sum(block.sum(0, dtype=torch.float64) for block in blocks) / self.n
        return sum((block - mean).square().sum(0) for block in blocks) / self.n

    @cached_property
    def spectrum(self) -> torch.Tensor:
        """Eigenvalues of the covariance (divided by n), descending, `(min(n, d),)` float64. O(n d^2 + d^3)."""
        scatter = None if self.n_seen <= self.d else self.moments.scatter
        return eigenvalues(self.rows, scatter, self.n_seen)

    @cached_property
    def fold_spectra(self) -> torch.Tensor:
        """Eigenvalues with one jackknife fold left out each, `(folds, min(n, d))` float64. O(n d^2 + d^3)."""
        if not self.origin:
            return fold_spectra(self.folds, self._coordinates())
        whole, keep = self.origin  # its eigenbasis serves as well, being nearly the same
        folds = torch.full((whole.n,), -1, device=keep.device).index_copy_(0, keep, self.folds)
        return fold_spectra(folds, whole.coordinates.split(BLOCK_ROWS))

    @cached_property
    def neighbors(self) -> Neighbors:
        """Exact nearest neighbours among the distinct rows. O(n^2 d) time, O(n) memory beside blocks."""
        return nearest(self.distinct_rows)

    def once(self, compute: Callable[[PointCloud], Shared]) -> Shared:
        """`compute(self)`, cached from its first use: for what measures share and this class need not know."""
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        return self._computed[compute]

    @cached_property
    def _computed(self) -> dict:
        return {}

    @cached_property
    def norms(self) -> torch.Tensor:
        """Euclidean length of each row, `(n,)` float64, also where squares underflow. O(n d)."""
        blocks = self.rows.split(512)  # small blocks, whose float64 copies stay in the cache
        norms = torch.cat([torch.linalg.vector_norm(block, dim=1, dtype=torch.float64) for block in blocks])
        short = torch.nonzero(norms < torch.finfo(torch.float64).tiny ** 0.5 * 2**24)[:, 0]
        if len(short):
            rows = self.rows[short].to(torch.float64)
            peaks = rows.abs().amax(1, keepdim=True)
            lengths = torch.linalg.vector_norm(rows / peaks.clamp_min(torch.finfo(torch.float64).tiny), dim=1)
            norms[short] = lengths * peaks[:, 0]
        return norms

    @cached_property
    def folds(self) -> torch.Tensor:
        """Jackknife fold of each row, `(n,)` int64 in 0 ... at most 19; a group lies in one fold."""
        return deal_groups(torch.unique(self.groups, return_inverse=True)[1], self.seed)

    @cached_property
    def rows_stand_alone(self) -> bool:
        """Whether every row is its own group."""
        return self.n_groups == self.n

    @cached_property
    def n_groups(self) -> int:
        """Number of groups of rows, such as documents."""
        return len(torch.unique(self.groups))

    @cached_property
    def heaviest_group(self) -> float:
        """The largest share that one group has of the variance, over the mean share of a group. O(n d)."""
        blocks = self.rows.split(512)
        mean = (sum(block.sum(0, dtype=torch.float64) for block in blocks) / self.n).to(self.rows.dtype)
        energies = torch.cat([torch.linalg.vector_norm(block - mean, dim=1) for block in blocks]).square()
        _, group = torch.unique(self.groups, return_inverse=True)
        shares = torch.zeros(self.n_groups, dtype=energies.dtype, device=energies.device).index_add_(0, group, energies)
        return float(shares.max() / shares.mean())

    def codes(
        self,
        quantizer: str = PRODUCT,
        *,
        codebooks: int | None = None,
        bits: int | None = None,
        seed: int | None = None,
    ) -> Quantization:
        """The rows' codes under a quantizer fitted to them; fitted once for each set of options.

        Args:
            quantizer, codebooks, bits: as in `quantize`.
            seed: of the quantizer; default: the cloud's.
        """
        key = (quantizer, codebooks, bits, self.seed if seed is None else seed)
        if key not in self._codes:
            self._codes[key] = quantize(self.rows, quantizer, codebooks=codebooks, bits=bits, seed=key[-1])
        return self._codes[key]

    @cached_property
    def _codes(self) -> dict:
        return {}

    def subset(self, keep: torch.Tensor) -> PointCloud:
        """The cloud of some of the rows; what was computed for all of them is narrowed, not repeated.

        Values are those of the rows alone. Standard errors of spectral measures use the whole cloud's eigenbasis.

        Args:
            keep: positions of the rows to keep, `(m,)` int64, each at most once.
        """
        part = PointCloud(self.rows[keep], groups=self.groups[keep], jackknife=self.jackknife, seed=self.seed)
        part.unit, part.given_dtype = part.unit * self.unit, self.given_dtype
        if "_first_equals" in self.__dict__ and self.unit == 1:
            part._first_equals = self._narrowed_first_equals(keep)
        if "neighbors" in self.__dict__ and part.n_distinct > 2:
            part.neighbors = self._narrowed_neighbors(keep, part)
        if part.unit == self.unit and 0 < self.n - part.n < part.n / 2:
            if "moments" in self.__dict__:
                self._narrow_moments(keep, part)
            elif self.n <= self.d and _energy(part) > REMAINING_SHARE * _energy(self):
                part.origin = (self, keep)
        return part

    def _narrowed_first_equals(self, keep: torch.Tensor) -> torch.Tensor:
        """For each kept row the place of the first kept row that equals it, `(m,)`."""
        here = torch.arange(len(keep), device=keep.device)
        if self.n_distinct == self.n:
            return here
        leader = self._first_equals[keep]
        first = torch.full((self.n,), len(keep), device=keep.device).scatter_reduce_(0, leader, here, "amin")
        return first[leader]

    def _narrow_moments(self, keep: torch.Tensor, part: PointCloud) -> None:
        """Subtracts the moments of the other rows, if these are few and rounding does not spoil the remainder."""
        gone = torch.ones(self.n, dtype=torch.bool, device=keep.device)
        gone[keep] = False
        if part.n <= part.d:
            return
        moments = self.moments - Moments.of(self.rows[gone])
        if float(moments.scatter.trace()) > REMAINING_SHARE * float(self.moments.scatter.trace()):
            part.moments = moments
            part.origin = (self, keep)

    @cached_property
    def coordinates(self) -> torch.Tensor:
        """Coordinates of the rows in the eigenbasis, `(n, min(n, d))`; in float32, enough for standard errors."""
        return torch.cat(list(self._coordinates()))

    def _coordinates(self) -> Iterator[torch.Tensor]:
        return principal_coordinates(self.rows, None if self.n_seen <= self.d else self.moments)

    def _narrowed_neighbors(self, keep: torch.Tensor, part: PointCloud) -> Neighbors:
        place = torch.empty(self.n, dtype=torch.int64, device=keep.device)  # row -> place among distinct rows
        place[self.distinct] = torch.arange(self.n_distinct, device=keep.device)
        kept = place[self._first_equals[keep[part.distinct]]]  # a copy is represented by the row that it copies
        return self.neighbors.narrowed(self.distinct_rows, kept)


def _energy(cloud: PointCloud) -> float:
    """Sum of the squared distances of the rows to their mean."""
    return cloud.n * float(cloud.column_variances.sum())


def deal_groups(group: torch.Tensor, seed: int) -> torch.Tensor:
    """Jackknife fold of each row, `(n,)`, at random by its group, `(n,)` int64 numbered from 0."""
    n_groups = int(group.max()) + 1
    order = torch.randperm(n_groups, generator=torch.Generator().manual_seed(seed))
    return (order % min(JACKKNIFE_GROUPS, n_groups)).to(group.device)[group]


def first_occurrences(rows: torch.Tensor) -> torch.Tensor:
    """Positions of rows that equal no earlier row (0.0 equals -0.0), ascending."""
    return torch.nonzero(first_equals(rows) == torch.arange(len(rows), device=rows.device))[:, 0]


def first_equals(rows: torch.Tensor) -> torch.Tensor:
    """For each row the position of the first that equals it (0.0 equals -0.0), `(n,)`; by 64-bit keys, then checked."""
    first = torch.arange(len(rows), device=rows.device)
    alike = maybe_copies(few_column_keys(rows))
    if not len(alike):
        return first
    keys, order = torch.sort(row_keys(rows, alike), stable=True)
    new = torch.ones_like(keys, dtype=torch.bool)
    new[1:] = keys[1:] != keys[:-1]
    row = alike[order]
    leader = row[torch.nonzero(new)[:, 0]][new.cumsum(0) - 1]  # first row with the same key
    if not bool((rows[row[~new]] == rows[leader[~new]]).all()):  # two different rows with one key: 1 in 2^64
        return _first_equals_by_sorting(rows)
    first[row] = leader
    return first


def _first_equals_by_sorting(rows: torch.Tensor) -> torch.Tensor:
    _, group = torch.unique(rows, dim=0, return_inverse=True)
    position = torch.arange(len(rows), device=rows.device)
    first = torch.full((int(group.max()) + 1,), len(rows), device=rows.device)
    return first.scatter_reduce(0, group, position, "amin")[group]
