"""The neighbour search of one cloud, shared among processes: each searches the neighbours of its share of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..measures.kernels.neighbors import Neighbors, nearest_of
from .processes import current_team


def shared_search(rows: torch.Tensor, k: int = 2) -> Neighbors:
    """`nearest(rows, k)`, in every process; each row's neighbours are exact, whichever process searched for them.

    Args:
        rows: `(m, d)`, the same in all processes.
        k: how many neighbours.

    Cost: 2 m^2 d flops over the number of processes.
    """
    team = current_team()
    found = nearest_of(rows, torch.arange(team.rank, len(rows), team.size, device=rows.device), k)
    parts = team.all_gather([found.distances, found.indices, found.candidates, found.reach])
    return Neighbors(*(_interleaved(shares) for shares in zip(*parts)))


def _interleaved(shares: Sequence[torch.Tensor]) -> torch.Tensor:
    """Puts the rows that `Team.share` gave the processes back into their order."""
    whole = shares[0].new_empty(sum(map(len, shares)), *shares[0].shape[1:])
    for rank, share in enumerate(shares):
        whole[rank :: len(shares)] = share
    return whole
