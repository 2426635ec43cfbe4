"""64-bit keys of rows, to find copies and to sort rows into an order that does not depend on the given one."""

from __future__ import annotations

import torch

from .products import BLOCK_ROWS

KEY_COLUMNS = 32


def row_keys(rows: torch.Tensor, which: torch.Tensor | None = None) -> torch.Tensor:
    """A number for each row, `(n,)` int64: equal for equal rows (0.0 equals -0.0), else with a chance of 1 in 2^64.

    With `which`, `(w,)` int64 positions: of these rows only.
    """
    blocks = rows.split(BLOCK_ROWS) if which is None else (rows[some] for some in which.split(BLOCK_ROWS))
    return torch.cat([_keys(block) for block in blocks])


def few_column_keys(rows: torch.Tensor) -> torch.Tensor:
    """`row_keys` of at most about 64 of the columns: rows whose keys differ are different."""
    return _keys(rows[:, :: max(1, rows.shape[1] // KEY_COLUMNS)].contiguous())


def maybe_copies(keys: torch.Tensor) -> torch.Tensor:
    """Positions of the keys that occur more than once, ascending; of `few_column_keys`, all other rows are distinct."""
    _, key, counts = torch.unique(keys, return_inverse=True, return_counts=True)
    return torch.nonzero(counts[key] > 1)[:, 0]


def key_order(rows: torch.Tensor) -> torch.Tensor:
    """Positions that sort the rows by their keys, in an order as good as random whatever the given one, `(n,)` int64.

    Sums of floating-point numbers depend on their order in the last digits, and if rows form tight clumps, k-means
    amplifies that to the first digits. In this order the sums are always the same. float64 rows take the order of their
    float32 values.
    """
    order = torch.argsort(_distinct_keys(rows), stable=True)
    if rows.dtype == torch.float32:
        return order
    return order[torch.argsort(_distinct_keys(rows.float())[order], stable=True)]


def _distinct_keys(rows: torch.Tensor) -> torch.Tensor:
    """Keys of few columns; only rows that agree in these pay for the key of all their columns, which is added."""
    keys = few_column_keys(rows)
    alike = maybe_copies(keys)
    keys[alike] += row_keys(rows, alike)
    return keys


def _keys(rows: torch.Tensor) -> torch.Tensor:
    """Multilinear hash: the bits of the entries as integers, times a random odd number per column, summed modulo 2^64.

    The random numbers depend on the number of columns only. Adding 0.0 turns -0.0 into 0.0.
    """
    words = (rows + 0.0).view(torch.int32 if rows.dtype == torch.float32 else torch.int64).to(torch.int64)
    generator = torch.Generator().manual_seed(words.shape[1])
    odd = torch.randint(-(2**62), 2**62, (words.shape[1],), generator=generator) * 2 + 1
    return (words * odd.to(words.device)).sum(1)
