"""Retrieval by cosine: ranks of true documents, and how many neighbours two sets of rows share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

NEIGHBOURS = 10
BLOCK = 512  # queries at a time
SAME = 1e-6  # cosines in float32 that differ by less count as tied


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows of length 1, of any scale that float32 holds; rows of zeros stay."""
    rows = rows if rows.dtype == torch.float64 else rows.float()
    peaks = rows.abs().amax(1, keepdim=True)
    return torch.nn.functional.normalize(rows / peaks.clamp_min(torch.finfo(rows.dtype).tiny), dim=1)


def reciprocal_ranks(queries: torch.Tensor, documents: torch.Tensor, target: np.ndarray) -> np.ndarray:
    """`(n,)` one over the rank of each query's own document among all, by cosine; ties count half.

    Args:
        queries: `(n, d)`.
        documents: `(m, d)`.
        target: `(n,)` position of each query's document.
    """
    documents, wanted = unit(documents), torch.as_tensor(target)
    found = [
        inverse_ranks(block @ documents.T, wanted[start : start + len(block)])
        for start, block in _blocks(unit(queries))
    ]
    return torch.cat(found).double().numpy()


def inverse_ranks(scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`(n,)` one over the rank of each row's target among its `(n, m)` scores; ties count half."""
    own = scores.gather(1, target[:, None])
    ties = (scores == own).sum(1) - 1
    return 1 / (1 + (scores > own).sum(1) + ties / 2)


def nearest_rows(queries: torch.Tensor, rows: torch.Tensor, own: torch.Tensor, k: int = NEIGHBOURS) -> torch.Tensor:
    """`(m, k)` the rows of largest cosine with each query, except the query itself.

    Args:
        queries: `(m, d)`.
        rows: `(n, d)`.
        own: `(m,)` position of each query among the rows.
        k: how many.
    """
    rows = unit(rows)
    found = []
    for start, block in _blocks(unit(queries)):
        scores = block @ rows.T
        scores.scatter_(1, own[start : start + len(block), None], -torch.inf)
        found.append(scores.topk(k, dim=1).indices)
    return torch.cat(found)


def overlap(a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    """`(m,)` share of the neighbours in `a` that are in `b` too; `(m, k)` and `(m, l)` positions, none twice."""
    shared = (a[:, :, None] == b[:, None, :]).any(2)
    return shared.double().mean(1).numpy()


def tied_share(queries: torch.Tensor, rows: torch.Tensor, own: torch.Tensor) -> float:
    """The share of queries whose ten nearest rows have equal cosines, to the precision of float32."""
    cosines = unit(queries) @ unit(rows).T
    cosines.scatter_(1, own[:, None], -torch.inf)
    best = cosines.topk(NEIGHBOURS, dim=1).values
    return float((best[:, 0] - best[:, -1] < SAME).double().mean())


def drawn_queries(n: int, most: int, seed: int) -> torch.Tensor:
    """At most `most` of n rows, an even seeded draw in order."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[:most].sort().values


def _blocks(queries: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    for start in range(0, len(queries), BLOCK):
        yield start, queries[start : start + BLOCK]
