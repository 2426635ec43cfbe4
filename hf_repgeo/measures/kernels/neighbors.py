"""Exact nearest neighbours, in blocks, on CPU and GPU.

Candidates come from one product per block of the upper triangle (n^2 d flops, half of what a full matrix takes). The
distances of the few best are recomputed as direct differences in float64; and for every row it is proved from the
rounding error of the product that no other row can be nearer. Rows without proof are searched again in a higher
precision: bfloat16 where the processor has fast products of it, float32, float64, and the last of them by direct
differences against all rows.

Rows x are centred, scaled by a power of two and rounded to x'; `e = |x - x'|` is known of each row in bfloat16, and 0
otherwise. With `h = |x'|^2 / 2` and a length R, in the order of the distances sought where e is not 0, the product
gives

    w_ij = h_i + h_j - x'_i . x'_j - (2 R e_i + e_i^2 + 2 R e_j + e_j^2) / 2.

Sums and what else is rounded are of float32 or float64, with unit roundoff u. With s = |x_i| + |x_j|:

    rounding x to float32 or float64 moves a distance by at most u s, so half its square by at most u s^2;
    the product has d + 6 terms at most; their absolute values sum to at most s^2 / 2 + R (e_i + e_j); in any order
    (d + 6) u times that;
    rounding h: u times that;

so 2 w_ij differs from what it stands for by at most `c (s^2 + 2 R (e_i + e_j))` with c = (d + 9) u and terms of second
order: c = 1.01 (d + 20) u covers them up to d = 150,000.
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1, for the sums.)
If a row j is nearer than r to row i, then |x'_i - x'_j| < q + e_j with q = r + e_i, and |x'_j| < |x'_i| + q + e_j, so

    2 w_ij < q^2 + 2 (q - R) e_j - 2 R e_i - e_i^2 + c ((2 |x'_i| + q + e_j)^2 + 2 R (e_i + e_j)).

So when every row outside the candidates of i has w >= t, none of them is nearer than the largest r for which the right
side, with the e_j that makes it largest, is at most 2 t: the *reach* of row i. The term R e_j spares the ordinary rows
the large e of a few massive ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from ...errors import TooFewRows
from .products import bfloat16_is_fast, times_transposed
from .switch import fast

SPARE = 4  # candidates kept beyond the k nearest, for the proof and for narrowed searches
GROUP = 16  # entries of a block that are first compared through their minimum: one cache line of float32
PANEL, STRIP = 2048, 512  # rows and columns of a block, 4 MiB in float32; a panel is a multiple of a strip
GPU_PANEL, GPU_STRIP = 16384, 4096
GATHERED, GPU_GATHERED = 1 << 16, 1 << 26  # entries gathered at a time for direct differences; on CPU they stay cached
CACHED = 512  # rows worked on at a time where nothing is multiplied
DIRECT = 1 << 22  # distances at a time by the definition: 32 MiB
ALIGNED = 32  # columns that bfloat16 products take at a time
NOBODY = 1e38  # half squared distance of padding; those of rows are at most 8 d
ROUGH_ROWS = 1024  # with fewer rows, preparing them for bfloat16 costs more than it saves
SAMPLED_ROWS = 64  # rows sampled to choose the length R
LENGTH = 2.0  # R over the median distance of the sampled rows from their nearest row
FEW_OPEN = 0.5  # share of rows without proof up to which they are searched again one by one
TIE = 1e-10  # relative: distances that are closer than this to each other may be taken for one another

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Neighbors:
    """The k nearest neighbours of every row, and enough beside them to narrow the search to some of the rows.

    Attributes:
        distances: `(m, k)` float64, ascending: direct differences of the given rows, summed in float64.
        indices: `(m, k)` int64 positions among the given rows; never the row itself.
        candidates: `(m, k + 4)` int64, the nearest and some more in no particular order; -1 where there is none.
        reach: `(m,)` float64: no row outside the candidates is nearer than this.
    """

    distances: torch.Tensor
    indices: torch.Tensor
    candidates: torch.Tensor = field(repr=False)
    reach: torch.Tensor = field(repr=False)

    def narrowed(self, rows: torch.Tensor, keep: torch.Tensor) -> Neighbors:
        """The same search among `rows[keep]` only; rows whose stored candidates prove enough are not searched again.

        Args:
            rows: `(m, d)`, the rows that were searched.
            keep: `(p,)` int64 positions of the rows to keep, each at most once, in any order.

        Returns:
            Neighbors: distances equal to those of `nearest(rows[keep], k)`; indices count within `rows[keep]`.

        Raises:
            TooFewRows: fewer than k + 1 rows are kept.

        Cost: O(p d) for the rows that keep their candidates; 2 p d flops for each that does not.

        Example:
            >>> import torch
            >>> from hf_repgeo.measures.kernels.neighbors import nearest
            >>> rows = torch.tensor([[0.0], [1.0], [3.0], [7.0], [15.0]])
            >>> nearest(rows).narrowed(rows, torch.tensor([4, 0, 2, 3])).distances.tolist()
            [[8.0, 12.0], [3.0, 7.0], [3.0, 4.0], [4.0, 7.0]]
        """
        if not fast():
            return nearest(rows[keep], self.indices.shape[1])
        _enough(len(keep), self.indices.shape[1])
        place = torch.full((len(rows) + 1,), -1, dtype=torch.int64, device=rows.device)  # the last: of candidate -1
        place[keep] = torch.arange(len(keep), device=rows.device)
        kept = rows.detach()[keep]
        found = Neighbors(
            self.distances[keep], place[self.indices[keep]], place[self.candidates[keep]], self.reach[keep]
        )
        with torch.no_grad():
            open_rows = torch.nonzero((found.indices < 0).any(1))[:, 0]
            open_rows = open_rows[~_settle(kept, open_rows, found)]
            open_rows = _search_some(kept, open_rows, found, torch.float32)
            open_rows = _search_some(kept, open_rows, found, torch.float64)
            _search_directly(kept, open_rows, found)
        return found


def nearest(rows: torch.Tensor, k: int = 2, progress: Progress | None = None) -> Neighbors:
    """The k nearest other rows of every row, by Euclidean distance, exactly.

    Args:
        rows: `(m, d)` float32 or float64, no two equal, squares within the range of float64; CPU or CUDA.
        k: how many neighbours, at least 1. More than a few cost more.
        progress: called with (blocks done, blocks in all) after each block.

    Returns:
        Neighbors: distances `(m, k)` float64, ascending, and indices `(m, k)` int64.

    Raises:
        TooFewRows: fewer than k + 1 rows.

    Cost: m^2 d flops in float32, or in bfloat16 and more for the rows that this cannot prove; memory: one copy of the
    rows in float32 beside blocks of 4 MiB (on GPU 256 MiB, and up to 1 GiB while distances are recomputed).

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.kernels.neighbors import nearest
        >>> found = nearest(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [3.0, 5.0]]))
        >>> found.distances[0].tolist(), found.indices[0].tolist()
        ([1.0, 5.0], [2, 1])
    """
    _enough(len(rows), k)
    rows = rows.detach()
    found = _nothing_yet(len(rows), k, rows.device)
    open_rows = torch.arange(len(rows), device=rows.device)
    with torch.no_grad():
        if fast():
            open_rows = _search_by_products(rows, open_rows, found, progress)
        _search_directly(rows, open_rows, found)
    return found


def nearest_of(rows: torch.Tensor, which: torch.Tensor, k: int = 2) -> Neighbors:
    """The part of `nearest(rows, k)` that belongs to some of the rows, such as the share of one process.

    Args:
        rows: `(m, d)`, as in `nearest`.
        which: `(w,)` int64 positions of the rows whose neighbours are sought.
        k: how many neighbours.

    Returns:
        Neighbors: of `w` rows; indices are positions among all rows.

    Raises:
        TooFewRows: fewer than k + 1 rows.

    Cost: 2 w m d flops in float32, and more for rows that this cannot prove.

    Example:
        >>> import torch
        >>> from hf_repgeo.measures.kernels.neighbors import nearest_of
        >>> nearest_of(torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([2])).distances.tolist()
        [[2.0, 3.0]]
    """
    _enough(len(rows), k)
    rows = rows.detach()
    found = _nothing_yet(len(rows), k, rows.device)
    open_rows = which
    with torch.no_grad():
        if fast():
            for dtype in (torch.float32, torch.float64):
                open_rows = _search_some(rows, open_rows, found, dtype)
        _search_directly(rows, open_rows, found)
    return Neighbors(found.distances[which], found.indices[which], found.candidates[which], found.reach[which])


def _search_by_products(
    rows: torch.Tensor, open_rows: torch.Tensor, found: Neighbors, progress: Progress | None
) -> torch.Tensor:
    """Every row, in rising precision; returns the rows that none of the searches could prove."""
    if rows.device.type == "cpu" and len(rows) >= ROUGH_ROWS and bfloat16_is_fast():
        open_rows = _search_all(rows, found, torch.bfloat16, progress)
        progress = progress and partial(_report_again, progress)
    if len(open_rows) > FEW_OPEN * len(rows):
        open_rows = _search_all(rows, found, torch.float32, progress)
    else:
        open_rows = _search_some(rows, open_rows, found, torch.float32)
    return _search_some(rows, open_rows, found, torch.float64)


def _report_again(progress: Progress, done: int, total: int) -> None:
    """When all blocks are searched a second time."""
    progress(total + done, 2 * total)


def _enough(n: int, k: int) -> None:
    if n <= k:
        raise TooFewRows("rows", came=f"{n} distinct row(s)", wanted=f"at least {k + 1}, for {k} neighbours of each")


def _nothing_yet(n: int, k: int, device: torch.device) -> Neighbors:
    return Neighbors(
        distances=torch.full((n, k), torch.inf, dtype=torch.float64, device=device),
        indices=torch.full((n, k), -1, device=device),
        candidates=torch.full((n, k + SPARE), -1, device=device),
        reach=torch.zeros(n, dtype=torch.float64, device=device),
    )


# Searches, each for the rows that the previous one could not prove. They write into `found`, and return the rows that
# are still open.


def _search_all(rows: torch.Tensor, found: Neighbors, dtype: torch.dtype, progress: Progress | None) -> torch.Tensor:
    """Every row against every other, each pair once.

    Blocks of a panel of rows (from `top`) by a strip of columns (from `start`) cover the upper triangle. A pair above
    the diagonal squares is met once, so its block serves both sides: each row is offered the columns, each column the
    rows. A square on the diagonal holds every pair twice, so offering to its rows is enough.
    """
    points = _Points(rows, dtype)
    lists = _Lists(len(points.extended), found.candidates.shape[1], points.extended)
    panel, strip = _block_shape(rows)
    n = len(points.extended)
    corners = [(top, start) for top in range(0, n, panel) for start in range(top, n, strip)]
    rough = dtype == torch.bfloat16
    for done, (top, start) in enumerate(corners, 1):
        if start == top:
            left = points.flipped(slice(top, top + panel))
        block = times_transposed(left[: start + strip - top], points.extended[start : start + strip], rough=rough)
        above = min(start - top, panel)  # rows above the diagonal square
        block[above:].fill_diagonal_(torch.inf)
        lists.offer_rows(block, start, first_point=top)
        if above:
            lists.offer_columns(block[:above], top, first_point=start)
        if progress is not None:
            progress(done, len(corners))
    everyone = torch.arange(len(rows), device=rows.device)
    return _accept(rows, everyone, found, points, lists)


def _search_some(rows: torch.Tensor, which: torch.Tensor, found: Neighbors, dtype: torch.dtype) -> torch.Tensor:
    """The rows `which` against every row."""
    if len(which) == 0:
        return which
    points = _Points(rows, dtype)
    panel, strip = _block_shape(rows)
    still_open = []
    for some in which.split(panel):
        left = points.flipped(some)
        lists = _Lists(len(some), found.candidates.shape[1], points.extended)
        for start in range(0, len(points.extended), strip):
            block = times_transposed(left, points.extended[start : start + strip])
            own = torch.nonzero((some >= start) & (some < start + strip))[:, 0]
            block[own, some[own] - start] = torch.inf
            lists.offer_rows(block, start)
        still_open.append(_accept(rows, some, found, points, lists))
    return torch.cat(still_open)


def _search_directly(rows: torch.Tensor, which: torch.Tensor, found: Neighbors) -> None:
    """The rows `which` against every row by direct differences, the definition itself."""
    if len(which) == 0:
        return
    k, width = found.indices.shape[1], min(found.candidates.shape[1], len(rows) - 1)
    everyone = rows.to(torch.float64)
    for some in which.split(max(1, DIRECT // len(rows))):
        distances = torch.cdist(everyone[some], everyone, compute_mode="donot_use_mm_for_euclid_dist")
        distances.scatter_(1, some[:, None], torch.inf)
        found.candidates[some, :width] = distances.topk(width, largest=False).indices
        _settle(rows, some, found)
        found.reach[some] = found.distances[some, k - 1]


def _block_shape(rows: torch.Tensor) -> tuple[int, int]:
    return (GPU_PANEL, GPU_STRIP) if rows.is_cuda else (PANEL, STRIP)


class _Points:
    """Rows made ready for the product: centred, scaled, rounded, and extended by what makes it half a distance.

    `extended` has rows `(x', 1, g)`, where g is `h - R e - e^2 / 2`; `flipped` gives `(-x', g, 1)`. bfloat16 would lose
    digits of g: there g is stored as three numbers that sum to it, and multiplied by three ones. Rows of padding make
    the number of rows a multiple of `GROUP`; they are farther from every row than any row is.
    """

    def __init__(self, rows: torch.Tensor, dtype: torch.dtype):
        n, self.d = rows.shape
        rough = dtype == torch.bfloat16
        stored = torch.float32 if rough else dtype
        exact = torch.promote_types(rows.dtype, stored)  # subtracting the centre rounds no more than `stored` does
        self.roundoff, self.tiny = torch.finfo(stored).eps / 2, torch.finfo(stored).tiny
        self.pieces = 3 if rough else 1
        width = self.d + 2 * self.pieces
        width = -(-width // ALIGNED) * ALIGNED if rough else width
        centre = _robust_centre(rows).to(exact)
        peak = float(torch.maximum(rows.amax(0) - centre, centre - rows.amin(0)).max())
        self.scale = max(_power_of_two(peak), torch.finfo(exact).tiny)
        self.norms = torch.empty(n, dtype=torch.float64, device=rows.device)
        self.errors = torch.zeros(n, dtype=torch.float64, device=rows.device)
        self.extended = torch.zeros(-(-n // GROUP) * GROUP, width, dtype=stored, device=rows.device)
        step = GPU_PANEL if rows.is_cuda else CACHED
        for i in range(0, n, step):
            rounded = self.extended[i : min(i + step, n), : self.d]
            x = (rows[i : i + step].to(exact) - centre).mul_(1 / self.scale)
            rounded.copy_(x.to(dtype))
            self.norms[i : i + step] = torch.linalg.vector_norm(rounded, dim=1, dtype=torch.float64)
            if rough:
                self.errors[i : i + step] = torch.linalg.vector_norm(x - rounded, dim=1) * (1 + 1e-5)
        self.extended[:, self.d : self.d + self.pieces] = 1
        self.length = 0.0
        self._write_halves()
        if rough:
            self.length = LENGTH * self._usual_distance()
            self._write_halves()
        self.least, self.worst = float(self.errors.min()), float(self.errors.max())

    def _write_halves(self) -> None:
        """The g of every row, as the sum of `pieces` numbers."""
        n = len(self.norms)
        left = self.norms.square() / 2 - self.length * self.errors - self.errors.square() / 2
        left = torch.cat([left, left.new_full((len(self.extended) - n,), NOBODY)])
        for column in range(self.d + self.pieces, self.d + 2 * self.pieces):
            piece = left.to(torch.bfloat16 if self.pieces > 1 else self.extended.dtype)
            self.extended[:, column] = piece
            left = left - piece

    def _usual_distance(self) -> float:
        """The approximate median, over a few rows, of the distance to the nearest row."""
        sampled = torch.arange(0, len(self.norms), -(-len(self.norms) // SAMPLED_ROWS), device=self.norms.device)
        block = times_transposed(self.flipped(sampled), self.extended)
        block.scatter_(1, sampled[:, None], torch.inf)
        return float((2 * block.amin(1).clamp_min(0)).sqrt().median())

    def flipped(self, which: slice | torch.Tensor) -> torch.Tensor:
        """Left factors of the product, of the width of `extended`."""
        left = self.extended[which].neg()
        ones, halves = (slice(self.d + i * self.pieces, self.d + (i + 1) * self.pieces) for i in range(2))
        left[:, ones] = -left[:, halves]
        left[:, halves] = 1
        return left

    def reach(self, which: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
        """The largest r such that no row whose w is at least `bound` can be nearer than r to row `which`, float64.

        `which` is `(w,)`, `bound` and the result `(w, c)`. The inequality of the module's docstring is quadratic in
        q = r + e_i; `largest_q` solves it for one e_j. Its term `2 (q - R) e_j` is largest at the largest e_j if q > R,
        and at the smallest if q < R.
        """
        c = 1.01 * (self.d + 20) * self.roundoff
        tiny = 8 * (self.d + 20) * self.tiny  # what underflow may take from w
        e = self.errors[which, None]
        at_0 = 2 * self.norms[which, None] + self.worst
        known = 2 * (bound.to(torch.float64) - tiny) + 2 * self.length * e + e.square()
        room = known - c * (at_0.square() + 2 * self.length * (e + self.worst))

        def largest_q(worst: float) -> torch.Tensor:
            half = worst + c * at_0
            return ((half.square() + (1 + c) * (room + 2 * self.length * worst).clamp(min=0)).sqrt() - half) / (1 + c)

        q = largest_q(self.worst)
        if self.worst > self.least:  # if q < R, the smallest e_j gives the least reach
            q = torch.where(q < self.length, largest_q(self.least).clamp(max=self.length), q)
        return torch.where(bound > tiny, (q - e).clamp(min=0), 0.0) * self.scale


class _Lists:
    """For each of n points the few others of smallest v seen so far, and a bound below which no v was left out.

    Attributes:
        values: `(n, width)` the v.
        others: `(n, width)` int64, whose they are; -1 where there is none.
        bound: `(n,)`: every v that was seen and is not in the list is at least this.
    """

    def __init__(self, n: int, width: int, like: torch.Tensor):
        self.values = like.new_full((n, width), torch.inf)
        self.others = torch.full((n, width), -1, device=like.device)
        self.bound = like.new_full((n,), torch.inf)
        self.looked_at = width - SPARE + 2  # groups whose entries are looked at, per point and block

    def offer_rows(self, block: torch.Tensor, start: int, first_point: int = 0) -> None:
        """Entry (i, j) of `block` is the v of point `first_point + i` and other `start + j`."""
        groups = block.unflatten(1, (GROUP, -1))  # (points, GROUP, groups)
        self._offer(groups.amin(1), lambda some, chosen: groups[some[:, None], :, chosen], start, first_point)

    def offer_columns(self, block: torch.Tensor, start: int, first_point: int) -> None:
        """Entry (i, j) of `block` is the v of other `start + i` and point `first_point + j`."""
        groups = block.unflatten(0, (GROUP, -1))  # (GROUP, groups, points)
        minima = groups.amin(0).T.contiguous()
        self._offer(minima, lambda some, chosen: groups[:, chosen, some[:, None]].movedim(0, 2), start, first_point)

    def _offer(self, minima: torch.Tensor, entries_of: Callable, start: int, first_point: int) -> None:
        """Merge what may be nearer than the bound; the bound falls to the lowest v that is left out.

        Few entries are looked at: the block is first reduced to the minima of groups, a point whose lowest minimum is
        not below its bound is done, and only the groups of lowest minima are merged into its list. The bound is
        the lowest minimum of the other groups or the smallest entry that the merge dropped, whichever is lower.

        `minima` is `(points, groups)`; `entries_of(some, chosen)` gives the `(some, chosen, GROUP)` entries.
        """
        n, n_groups = minima.shape
        some = torch.nonzero(minima.amin(1) < self.bound[first_point : first_point + n])[:, 0]
        if len(some) == 0:
            return
        points = some + first_point
        lows, chosen = _smallest(minima[some], min(self.looked_at + 1, n_groups))
        left_out = lows[:, -1] if n_groups > self.looked_at else torch.inf
        chosen = chosen[:, : self.looked_at]
        entries = entries_of(some, chosen)  # group c holds the others start + c, start + c + n_groups, ...
        others = chosen[:, :, None] + torch.arange(start, start + GROUP * n_groups, n_groups, device=chosen.device)
        others = torch.cat([self.others[points], others.flatten(1)], 1)
        values, best = _smallest(torch.cat([self.values[points], entries.flatten(1)], 1), self.values.shape[1] + 1)
        self.values[points] = values[:, :-1]
        self.others[points] = others.gather(1, best[:, :-1])
        self.bound[points] = self.bound[points].minimum(values[:, -1]).clamp(max=left_out)

    def ranked(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and others, nearest first; other -1 where there is none."""
        values, order = self.values.sort(1)
        others = self.others.gather(1, order)
        return values, others.masked_fill_(values >= NOBODY / 2, -1)


def _accept(rows: torch.Tensor, which: torch.Tensor, found: Neighbors, points: _Points, lists: _Lists) -> torch.Tensor:
    """Put the lists of the rows `which` into `found`; returns the rows that are not proved.

    The k of smallest w get exact distances; a further candidate does only if its w leaves open that it is nearer than
    the farthest of these. The row is proved if no row outside the list can be nearer than its k-th neighbour.
    """
    n, k = len(which), found.indices.shape[1]
    values, others = (ranked[:n] for ranked in lists.ranked())
    distances = torch.full(others.shape, torch.inf, dtype=torch.float64, device=rows.device)
    distances[:, :k] = _distances(rows, which, others[:, :k])
    doubtful = points.reach(which, values[:, k:]) < distances[:, :k].amax(1, keepdim=True)
    row, column = torch.nonzero(doubtful, as_tuple=True)
    distances[row, column + k] = _distances(rows, which[row], others[row, column + k, None])[:, 0]
    distances, order = distances.sort(1)
    found.distances[which] = distances[:, :k]
    found.indices[which] = others.gather(1, order[:, :k])
    found.candidates[which] = others
    found.reach[which] = points.reach(which, lists.bound[:n, None].clamp(max=NOBODY))[:, 0]
    tolerance = TIE if points.extended.dtype == torch.float64 else 0.0
    return which[found.distances[which, -1] > found.reach[which] * (1 + tolerance)]


def _settle(rows: torch.Tensor, which: torch.Tensor, found: Neighbors) -> torch.Tensor:
    """Choose the k nearest from all candidates of the rows `which`; returns which of them are proved, `(w,)` bool."""
    k = found.indices.shape[1]
    candidates = found.candidates[which]
    distances, order = _distances(rows, which, candidates).sort(1)
    found.distances[which] = distances[:, :k]
    found.indices[which] = candidates.gather(1, order[:, :k])
    return distances[:, k - 1] <= found.reach[which]


def _distances(rows: torch.Tensor, which: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """`|rows[which[i]] - rows[others[i, j]]|`, `(w, c)` float64; infinite where `others` is -1."""
    distances = torch.empty(others.shape, dtype=torch.float64, device=rows.device)
    chunk = max(1, (GPU_GATHERED if rows.is_cuda else GATHERED) // (rows.shape[1] * others.shape[1]))
    for i in range(0, len(which), chunk):
        one, many = rows[which[i : i + chunk]].to(torch.float64), rows[others[i : i + chunk]]  # (c, d), (c, k, d)
        distances[i : i + chunk] = torch.linalg.vector_norm(one[:, None] - many, dim=2)
    return distances.masked_fill_(others < 0, torch.inf)


def _smallest(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k smallest values of each row, the largest of them last, the others in any order, and their positions.

    The position is written into the last bits of the value, so that one partition of integers (which order as
    non-negative floats do) moves both; the values come back with those bits cleared, that is, rounded down.
    """
    integers = torch.int32 if values.dtype == torch.float32 else torch.int64
    last_bits = (1 << (values.shape[1] - 1).bit_length()) - 1
    keys = values.clamp(min=0).view(integers).bitwise_and_(~last_bits)
    keys |= torch.arange(values.shape[1], dtype=integers, device=values.device)
    if keys.is_cuda:
        keys = keys.topk(k, largest=False).values
    else:
        keys = torch.from_numpy(np.partition(keys.numpy(), k - 1, axis=1)[:, :k])  # 5 times as fast as torch.topk
    return (keys & ~last_bits).view(values.dtype), (keys & last_bits).to(torch.int64)


def _robust_centre(rows: torch.Tensor) -> torch.Tensor:
    """The median of at most 128 rows, `(d,)` in their dtype: a mean would be dragged away by massive rows."""
    step = -(-len(rows) // 128)
    return rows[::step].median(0).values


def _power_of_two(peak: float) -> float:
    """The power of two at or below `peak`; 1 for 0."""
    return 2.0 ** (math.frexp(peak)[1] - 1) if peak else 1.0
