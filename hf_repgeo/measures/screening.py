"""Candidates for nearest neighbours from products of 8-bit integers, and what such products prove.

Row x becomes `x' = u q`: integers q up to 127 in a unit u of its own, and e = |x - x'| is known. With `h = |x'|^2 / 2`
a product gives

    w_ij = h_i + h_j - x'_i . x'_j - R e_j - e_j^2 / 2,    2 w_ij = |x'_i - x'_j|^2 - 2 R e_j - e_j^2,

up to rounding, which c (|x'_i| + |x'_j|)^2 bounds: integers are summed exactly and four float32 roundings follow. R is
a length, in the order of the distances sought. If row j is nearer than r to row i, then |x'_i - x'_j| < s + e_j with
s = r + e_i, so that

    2 w_ij < s^2 + 2 (s - R) e_j + c (2 |x'_i| + s + e_j)^2.

So when every row outside the candidates of i has w >= t, none of them is nearer than r where 2 t is at least
`s^2 + 2 max(0, s - R) e + c (2 |x'_i| + s + e)^2` with the largest of all e: the *reach* of row i. The term R e_j
spares the ordinary rows the large e of a few massive ones. On states of language models 8 bits cannot tell three
candidates apart in the median, ten for nine rows of ten; they are few enough to be looked at one by one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from .products import ZERO, PackedDigits, packing_works

WIDTH = 16  # candidates of each row
GROUP = 16  # entries of a block that are first looked at through their minimum
LOOKED_AT = WIDTH  # groups whose entries are looked at
BLOCK_ENTRIES = 2**21  # of the product at a time: 8 MiB
CACHED = 512  # rows prepared at a time
PROBES = 64
PROVED = 0.75  # of the probes; with fewer, a search in float32 is the shorter way
LENGTH = 2.0  # times the probes' median distance, the R above
ROUNDING = 2.0**-21  # the c above, for half a dozen roundings
WORTHWHILE = (1024, 32)  # rows and columns
ALIKE = 1.25  # ratio of the largest peak of a panel to its smallest
FAR = 1e30  # w of what is no candidate


@dataclass(frozen=True)
class DigitPoints:
    """Rows in 8-bit integers, as right factors and, in the order of their peaks, as left ones.

    Attributes:
        rows: `(n, d)`, the rows themselves; `(rows - centre) / scale` is what is rounded.
        k: how many neighbours are sought.
        packed: the right factors `-x'`; there are a few more than rows, to fill the last group.
        bias: what `w` has beside the product and `h_i`, one for each right factor.
        order: `(n,)` rows by peak.
        left_units: `(n,)` float64, a unit for each row as a left factor; `left_norms` and `left_errors`: |x'|, e.
        worst: the largest e of the right factors.
        length: R.
    """

    rows: torch.Tensor
    k: int
    centre: torch.Tensor
    scale: float
    packed: PackedDigits
    bias: torch.Tensor
    order: torch.Tensor
    left_units: torch.Tensor
    left_norms: torch.Tensor
    left_errors: torch.Tensor
    worst: float
    length: float

    @classmethod
    def of(cls, rows: torch.Tensor, k: int) -> DigitPoints | None:
        """`None` where 8-bit integers cannot be had, do not pay, or prove too little of these rows."""
        (n, d), few = rows.shape, WORTHWHILE
        if rows.device.type != "cpu" or n < few[0] or not few[1] <= d < 2**16 or k > WIDTH // 2 or not packing_works():
            return None
        centre = robust_centre(rows)
        peak = float(torch.maximum(rows.amax(0) - centre, centre - rows.amin(0)).max())
        if not math.isfinite(peak):
            return None
        frame = (rows, centre, max(power_of_two(peak), torch.finfo(rows.dtype).tiny))
        filled = -(-n // GROUP) * GROUP
        digits, units = torch.zeros(filled, d, dtype=torch.int8), torch.ones(filled)
        norms, errors = torch.zeros(filled, dtype=torch.float64), torch.zeros(filled, dtype=torch.float64)
        for part in torch.arange(n).split(CACHED):
            x = _centred(*frame, part)
            units[part] = (torch.maximum(x.amax(1), -x.amin(1)) / 127).clamp_min(torch.finfo(torch.float32).tiny)
            q, norms[part], errors[part] = _rounded(x, units[part])
            digits[part] = q.neg_().to(torch.int8)
        halves = norms.square() / 2
        halves[n:] = FAR
        packed, order = PackedDigits.of(digits, units), units[:n].sort().indices
        empty = torch.zeros(n, dtype=torch.float64)
        rough = cls(
            *frame[:1], k, *frame[1:], packed, halves.float(), order, units[order].double(), empty, empty, 0.0, 0.0
        )
        return rough._measured(errors)

    def _measured(self, errors: torch.Tensor) -> DigitPoints | None:
        """With the length R and the bias that goes with it, from a few rows against all."""
        n = len(self.rows)
        probes = self.order[:: -(-n // PROBES)]
        plain = torch.cat([torch.add(*self._block(one)) for one in probes.split(1)])
        near = smallest(plain, self.k)[0][:, -1].double()
        length = LENGTH * float((2 * near).sqrt().median())
        shift = (length * errors + errors.square() / 2).float()
        points = replace(
            self,
            bias=self.bias - shift,
            left_norms=torch.zeros(n, dtype=torch.float64),
            left_errors=torch.zeros(n, dtype=torch.float64),
            worst=float(errors.max()),
            length=length,
        )
        for one in probes.split(1):
            points._block(one)
        beyond = smallest(plain - shift, WIDTH + 1)[0][:, -1:]
        proved = points.reach(beyond, probes)[:, 0] > (2 * near).sqrt() * self.scale
        return points if float(proved.double().mean()) >= PROVED else None

    def panels(self) -> list[torch.Tensor]:
        """Positions of the rows in portions that may share a unit: of like peaks, and as many as a block holds."""
        most, start, found = max(1, BLOCK_ENTRIES // len(self.bias)), 0, []
        alike = torch.searchsorted(self.left_units, self.left_units * ALIKE, right=True).tolist()
        while start < len(self.order):
            stop = min(start + most, max(alike[start], start + 1))
            found.append(self.order[start:stop])
            start = stop
        return found

    def _block(self, some: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """w of the rows `some` against all, less h_i, with the rows themselves far away; and h_i. Notes |x'| and e."""
        x = _centred(self.rows, self.centre, self.scale, some)
        unit = max(float(torch.maximum(x.amax(), -x.amin())) / 127, torch.finfo(torch.float32).tiny)
        unit = float(torch.tensor(unit, dtype=torch.float32))
        q, norms, errors = _rounded(x, torch.full((len(x),), unit))
        self.left_norms[some], self.left_errors[some] = norms, errors
        block = self.packed.times(q.add_(ZERO).to(torch.uint8), unit, self.bias)
        block[torch.arange(len(some)), some] = FAR
        return block, norms.square().div(2).float()[:, None]

    def reach(self, bound: torch.Tensor, which: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The r within which row i has no neighbour whose w is at least `bound`, for `(n, c)` bounds; float64."""
        double = 2 * bound.double().clamp(0, FAR)
        norms, errors = self.left_norms[which, None], self.left_errors[which, None]
        room = double - ROUNDING * (2 * norms + double.sqrt() + self.worst).square()
        room.clamp_min_(0)
        s = room.sqrt()
        far = (self.worst**2 + 2 * self.length * self.worst + room).sqrt() - self.worst
        return (torch.where(s > self.length, far, s) - errors).clamp_min_(0) * self.scale


def screen(
    points: DigitPoints, progress: Callable[[int, int], None] | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each row its `WIDTH` candidates of smallest w, ascending, who they are, and a bound on the w of all others.

    `(n, WIDTH)` float32, `(n, WIDTH)` int64 and `(n,)` float32. Cost: 2 n^2 d operations on 8-bit integers.
    """
    n, filled = len(points.rows), len(points.bias)
    values, bound = torch.empty(n, WIDTH), torch.empty(n)
    others = torch.empty(n, WIDTH, dtype=torch.int64)
    members, panels = torch.arange(0, filled, filled // GROUP), points.panels()
    for done, some in enumerate(panels, 1):
        block, half = points._block(some)
        groups = block.unflatten(1, (GROUP, -1))  # group c holds the others c, c + filled / GROUP, ...
        lows, chosen = smallest(groups.amin(1).add_(half), LOOKED_AT + 1)
        entrants = (chosen[:, :LOOKED_AT, None] + members).flatten(1)
        found, best = smallest(block.gather(1, entrants).add_(half), WIDTH + 1)
        bound[some] = torch.minimum(found[:, WIDTH], lows[:, LOOKED_AT])
        values[some], ranks = found[:, :WIDTH].sort(1)
        others[some] = entrants.gather(1, best[:, :WIDTH].gather(1, ranks))
        if progress is not None:
            progress(done, len(panels))
    return values, others, bound


def _centred(rows: torch.Tensor, centre: torch.Tensor, scale: float, which: torch.Tensor) -> torch.Tensor:
    return (rows[which] - centre).mul_(1 / scale).to(torch.float32)


def _rounded(x: torch.Tensor, units: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Integers q, |units q| and a bound on the distance between that and the row itself, for rows x `(b, d)`."""
    q = (x / units[:, None]).round_()
    norms = torch.linalg.vector_norm(q, dim=1, dtype=torch.float64) * units.double()
    left = torch.linalg.vector_norm(x - q * units[:, None], dim=1, dtype=torch.float64)
    return q, norms, left + 2.0**-22 * torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)


def smallest(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
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


def robust_centre(rows: torch.Tensor) -> torch.Tensor:
    """The median of at most 128 rows, `(d,)` in their dtype: a mean would be dragged away by massive rows."""
    step = -(-len(rows) // 128)
    return rows[::step].median(0).values


def power_of_two(peak: float) -> float:
    """The power of two at or below `peak`; 1 for 0."""
    return 2.0 ** (math.frexp(peak)[1] - 1) if peak else 1.0
