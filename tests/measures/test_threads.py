"""Work spread over threads gives what one thread gives, and leaves PyTorch's settings as they were."""

from __future__ import annotations

import threading

import pytest
import torch

from hf_repgeo.measures import PointCloud, patchiness
from hf_repgeo.measures.kernels import neighbors
from hf_repgeo.measures.kernels.neighbors import nearest, nearest_of
from hf_repgeo.measures.kernels.quantizers import quantize
from hf_repgeo.measures.kernels.switch import family, kernels
from hf_repgeo.measures.kernels.threads import in_threads, side_by_side


@pytest.fixture
def threads():
    """`torch.set_num_threads`, put back in the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def cloud(n: int = 1500, d: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(n, d, generator=generator) * torch.arange(1, d + 1) ** -0.5
    rows[: n // 5] = rows[: n // 5] * 1e-3 + 7  # a knot
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


def test_fewer_blocks_than_threads_give_the_exact_neighbours(threads):
    threads(4)
    assert nearest(torch.tensor([[0.0], [1.0], [3.0]])).distances.tolist() == [[1.0, 3.0], [1.0, 2.0], [2.0, 3.0]]


def test_parts_run_without_gradients_on_their_share_of_the_cores_and_with_the_kernels_of_the_caller(threads):
    threads(4)
    seen = in_threads(lambda _: (torch.get_num_threads(), torch.is_grad_enabled()), [0, 1], 4)
    assert seen == [(2, False)] * 2 and torch.is_grad_enabled()
    with kernels("reference"):
        assert in_threads(lambda _: family(), [0, 1], 2) == ["reference"] * 2
        assert side_by_side(torch.zeros(1)) == 1
    assert side_by_side(torch.zeros(1)) == 4


def test_threads_that_begin_later_have_the_number_of_the_process(threads):
    threads(3)
    in_threads(lambda _: None, [0, 1, 2], 3)
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [3] and torch.get_num_threads() == 3


def test_an_error_of_one_part_reaches_the_caller_and_settings_are_put_back(threads):
    threads(2)
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda part: 1 / part, [1, 0], 2)
    assert torch.get_num_threads() == 2


def test_progress_that_raises_ends_the_work(threads):
    threads(2)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(cloud(), bits=3, progress=stop)
