"""A stream of rows in memory that does not grow: moments of every row, and an even draw of the rows themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import torch

from ..errors import BadInput
from ..measures import Estimate, Moments, PointCloud
from ..measures.inputs import as_groups, as_seed
from .processes import current_team

LARGEST = 1e140  # scale of a block up to which squares, summed over any number of rows, do not overflow float64
SMALLEST = 1e-140  # scale of kept rows down to which squares keep all their digits
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # constants of SplitMix64


class RowStream:
    """Moments of all rows of a stream, and an even draw of at most `max_rows` of them.

    Every row has a random key that only the seed and its position decide; the rows with the smallest keys are kept
    ("bottom-k" sampling). So the draw is the same whatever the blocks, and the draws of two parts of a stream are
    joined to that of the whole.

    Args:
        max_rows: rows to keep.
        seed: of the draw, and of the cloud.

    Example:
        >>> import numpy as np
        >>> from hf_repgeo.rows.streams import RowStream
        >>> stream = RowStream(max_rows=3)
        >>> for block in np.split(np.arange(20.0).reshape(10, 2), 5):
        ...     stream.take(block)
        >>> cloud = stream.cloud()
        >>> cloud.n, cloud.n_seen, cloud.moments.mean.tolist()
        (3, 10, [9.0, 10.0])
    """

    def __init__(self, max_rows: int, seed: int = 0):
        self.max_rows, self.seed = max_rows, as_seed(seed)
        self.seen = 0
        self.dtype: torch.dtype | None = None
        self._moments: Moments | None = None  # of all rows, once some of them are not kept
        self.keys = np.empty(0, np.uint64)
        self.positions = np.empty(0, np.int64)
        self.labels: np.ndarray | None = None  # the group of each kept row, where groups were given
        self._rows: list[torch.Tensor] = []  # until `max_rows` are there; then one tensor

    def take(self, block: Any, start: int | np.ndarray | None = None, labels: np.ndarray | None = None) -> None:
        """Takes the next rows.

        Args:
            block: `(b, hidden_size)` array or tensor, of the width of those before.
            start: position of its first row in the whole stream, or of each row; default: after the rows taken so far.
            labels: `(b,)` int64, the group of each row; given always or never.

        Raises:
            BadInput: not finite numbers, or rows of another width.

        Cost: O(b d^2) once the stream is longer than what is kept.
        """
        if len(block) == 0:
            return
        checked = PointCloud(block if len(block) > 1 else block[[0, 0]])  # a cloud has at least two rows
        rows = checked.unscaled_rows[: len(block)]
        self.dtype = torch.promote_types(self.dtype or checked.given_dtype, checked.given_dtype)
        if self._rows and self._rows[0].shape[1] != rows.shape[1]:
            came = f"rows of {self._rows[0].shape[1]} and of {rows.shape[1]} columns"
            raise BadInput("X", came=came, wanted="rows of one width")
        if checked.unit > LARGEST:
            wanted = "entries whose squares float64 can sum, up to 1e140; divide all rows by a constant"
            raise BadInput("X", came=f"entries of {checked.unit:.0e} in a stream", wanted=wanted)
        if self._moments is None and self.seen + len(rows) > self.max_rows:
            self._moments = Moments.of(torch.cat(self._rows)) if self._rows else None
            self._moments = Moments.of(rows) if self._moments is None else self._moments + Moments.of(rows)
        elif self._moments is not None:
            self._moments = self._moments + Moments.of(rows)
        first = self.seen if start is None else start
        self.seen += len(rows)
        self._draw(rows, first if isinstance(first, np.ndarray) else np.arange(first, first + len(rows)), labels)

    def _draw(self, rows: torch.Tensor, positions: np.ndarray, labels: np.ndarray | None) -> None:
        """Keeps those of the rows whose keys are among the smallest."""
        keys = random_keys(self.seed, positions)
        free = self.max_rows - len(self.keys)
        if free > 0:
            own = None if labels is None else labels[:free]
            self._append(rows[:free].to("cpu", copy=True), keys[:free], positions[:free], own)
            rows, keys, positions = rows[free:], keys[free:], positions[free:]
            labels = None if labels is None else labels[free:]
        low = np.flatnonzero(keys < self.keys.max()) if len(keys) else keys
        if len(low) == 0:
            return
        every = np.concatenate([self.keys, keys[low]])
        kept = np.zeros(len(every), bool)
        kept[np.argpartition(every, self.max_rows - 1)[: self.max_rows]] = True
        gone, new = np.flatnonzero(~kept[: self.max_rows]), low[kept[self.max_rows :]]
        whole = self._whole(torch.promote_types(self._rows[0].dtype, rows.dtype))
        whole[torch.from_numpy(gone)] = rows[torch.from_numpy(new).to(rows.device)].to(whole)
        self.keys[gone], self.positions[gone] = keys[new], positions[new]
        if self.labels is not None and labels is not None:
            self.labels[gone] = labels[new]

    def _append(self, rows: torch.Tensor, keys: np.ndarray, positions: np.ndarray, labels: np.ndarray | None) -> None:
        self._rows.append(rows)
        self.keys = np.concatenate([self.keys, keys])
        self.positions = np.concatenate([self.positions, positions])
        if labels is not None:
            self.labels = labels if self.labels is None else np.concatenate([self.labels, labels])

    def _whole(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The kept rows as one tensor, in the order of arrival."""
        if len(self._rows) > 1 or (dtype is not None and self._rows[0].dtype != dtype):
            self._rows = [torch.cat(self._rows).to(dtype or self._rows[0].dtype)]
        return self._rows[0]

    def kept(self) -> torch.Tensor:
        """The kept rows in the order of the stream, `(at most max_rows, hidden_size)`."""
        order = np.argsort(self.positions)
        return self._whole() if bool((np.diff(self.positions) > 0).all()) else self._whole()[torch.from_numpy(order)]

    @property
    def moments(self) -> Moments:
        """Of all rows."""
        return self._moments or Moments.of(self._whole())

    def joined(self, others: Iterable[RowStream]) -> RowStream:
        """The stream of the rows of this one and of others, whose positions differ."""
        parts = [part for part in (self, *others) if part.seen]
        if not parts:
            return self
        whole = RowStream(self.max_rows, self.seed)
        whole.seen = sum(part.seen for part in parts)
        whole.dtype = reduce(torch.promote_types, [part.dtype for part in parts if part.dtype])
        if whole.seen > whole.max_rows:
            moments = [part.moments for part in parts]
            whole._moments = sum(moments[1:], moments[0])
        keys = np.concatenate([part.keys for part in parts])
        positions = np.concatenate([part.positions for part in parts])
        chosen = np.sort(np.argsort(keys)[: whole.max_rows])
        rows = torch.cat([part._whole() for part in parts])
        known = [part.labels for part in parts if part.labels is not None]
        labels = np.concatenate(known)[chosen] if known else None
        whole._append(rows[torch.from_numpy(chosen)], keys[chosen], positions[chosen], labels)
        return whole

    def over_processes(self) -> RowStream:
        """The stream of the rows that all processes took, in each of them; only rows that are kept are sent."""
        team = current_team()
        if team.size == 1:
            return self
        every = np.sort(np.concatenate(team.all_gather(self.keys)))
        if len(every) > self.max_rows:
            self._drop(self.keys > every[self.max_rows - 1])
        first, *others = team.all_gather(self)
        return first.joined(others)

    def _drop(self, gone: np.ndarray) -> None:
        """Drops some of the kept rows; only for a stream that takes no more rows."""
        self._moments = self.moments if self.seen else None
        self._rows = [self._whole()[torch.from_numpy(~gone)]] if self._rows else []
        self.keys, self.positions = self.keys[~gone], self.positions[~gone]
        self.labels = None if self.labels is None else self.labels[~gone]

    def cloud(self, groups: Any = None) -> PointCloud:
        """The cloud of the kept rows, with the moments of all.

        Args:
            groups: `(rows of the stream,)`, as in `PointCloud`; default: the labels taken with the rows, if any.

        Raises:
            BadInput: fewer than two rows, `groups` of another length, or entries whose squares vanish.
        """
        if self.seen == 0:
            raise BadInput("X", came="an empty stream", wanted="at least two rows")
        if groups is not None:
            groups = as_groups(groups, self.seen, torch.device("cpu"))[torch.from_numpy(np.sort(self.positions))]
        elif self.labels is not None:
            groups = self.labels[np.argsort(self.positions)]
        cloud = PointCloud(self.kept(), groups=groups, seed=self.seed)
        cloud.given_dtype = self.dtype or cloud.given_dtype
        if self.seen > cloud.n:
            if cloud.unit < SMALLEST:
                wanted = "entries whose squares float64 can sum, from 1e-140; multiply all rows by a constant"
                raise BadInput("X", came=f"entries of {cloud.unit:.0e} in a stream", wanted=wanted)
            cloud.stream(self.moments.on(cloud.rows.device))
        return cloud


def random_keys(seed: int, positions: np.ndarray) -> np.ndarray:
    """A random 64-bit number for each position, `(n,)` uint64; no two of one seed are equal.

    SplitMix64: Steele, Lea & Flood, "Fast splittable pseudorandom number generators" (2014).
    """
    with np.errstate(over="ignore"):
        start = _mixed(np.array([seed], np.uint64) + GOLDEN)
        return _mixed(start + (positions.astype(np.uint64) + np.uint64(1)) * GOLDEN)


def _mixed(z: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit numbers whose output bits all depend on all input bits."""
    with np.errstate(over="ignore"):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def cloud_of_stream(blocks: Iterable[Any], max_rows: int, seed: int = 0, groups: Any = None) -> PointCloud:
    """The cloud of a stream of blocks: moments of every row, and the rows themselves up to `max_rows`.

    Spectral measures and mean cosine cover the whole stream. Measures that need rows see all of them, or an even draw
    of `max_rows` if there are more; `cloud.n` and `cloud.n_seen` tell which. Several processes each take a share of the
    blocks, and all get the cloud of the whole stream.

    Args:
        blocks: `(b, hidden_size)` arrays of one width.
        max_rows: rows to keep.
        seed: of the draw, and of the cloud.
        groups: `(rows of the stream,)`, as in `PointCloud`.
    """
    stream, team, start = RowStream(max_rows, seed), current_team(), 0
    for number, block in enumerate(blocks):
        if number % team.size == team.rank:
            stream.take(block, start)
        start += len(block)
    return stream.over_processes().cloud(groups)


def drawn(estimate: Estimate, cloud: PointCloud) -> Estimate:
    """The estimate; if it saw only a draw of a longer stream, its details name the draw."""
    if not cloud.streamed or (estimate.n or cloud.n) != cloud.n:
        return estimate
    said = f"even, {cloud.n} of {cloud.n_seen} rows, seed {cloud.seed}"
    return replace(estimate, details=estimate.details | {"draw": said})
