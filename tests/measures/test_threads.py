"""Any number of threads gives what one thread gives."""

from __future__ import annotations

import pytest
import torch

from hf_repgeo.measures import PointCloud, patchiness
from hf_repgeo.measures.kernels import neighbors
from hf_repgeo.measures.kernels.neighbors import nearest, nearest_of
from hf_repgeo.measures.kernels.quantizers import quantize


@pytest.fixture
def threads():
    """`torch.set_num_threads`, put back in the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def cloud(n: int = 1500, d: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(n, d, generator=generator) * torch.arange(1, d + 1) ** -0.5
    rows[: n // 5] = rows[: n // 5] * 1e-3 + 7  # a tight cluster
    rows[::97] *= 500  # massive rows
    return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neighbours_are_the_same_to_the_last_bit_on_any_number_of_threads(threads, dtype, monkeypatch):
    monkeypatch.setattr(neighbors, "PANEL", 128)
    monkeypatch.setattr(neighbors, "STRIP", 32)
    rows, some = cloud().to(dtype), torch.arange(0, 1500, 7)
    threads(1)
    alone, part = nearest(rows, 3), nearest_of(rows, some, 3)
    for count in (2, 3, 5):
        threads(count)
        together, part_together = nearest(rows, 3), nearest_of(rows, some, 3)
        assert torch.equal(alone.distances, together.distances) and torch.equal(alone.indices, together.indices)
        assert torch.equal(part.distances, part_together.distances)
        kept = torch.arange(0, 1500, 2)
        assert torch.equal(alone.narrowed(rows, kept).distances, together.narrowed(rows, kept).distances)


def test_cells_are_the_same_to_the_last_bit_on_any_number_of_threads(threads):
    rows = cloud()
    threads(1)
    alone, value = quantize(rows, bits=4), patchiness(PointCloud(rows), bits=4).value
    for count in (2, 3, 4):
        threads(count)
        assert torch.equal(quantize(rows, bits=4).codes, alone.codes)
        assert patchiness(PointCloud(rows), bits=4).value == value
