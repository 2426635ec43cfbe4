"""Nearest neighbours are exact: equal to direct differences in float64, on the data that breaks other searches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_repgeo.errors import TooFewRows
from hf_repgeo.measures.kernels import neighbors
from hf_repgeo.measures.kernels.neighbors import nearest


def by_definition(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Distances to the k nearest, the slow way: every difference, in float64."""
    rows = rows.to(torch.float64)
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(torch.inf).topk(k, largest=False).values


def assert_exact(rows: torch.Tensor, k: int = 2) -> None:
    found, true = nearest(rows, k), by_definition(rows, k)
    torch.testing.assert_close(found.distances, true, rtol=1e-12, atol=0)
    assert (found.indices != torch.arange(len(rows))[:, None]).all()
    differences = rows.to(torch.float64)[:, None] - rows.to(torch.float64)[found.indices]
    torch.testing.assert_close(differences.square().sum(2).sqrt(), true, rtol=1e-12, atol=0)


def manifold(n: int = 500, d: int = 64, dimension: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(n, dimension, generator=generator)
    return flat @ torch.randn(dimension, d, generator=generator)


def massive_dimension_in_half_the_rows() -> torch.Tensor:
    rows = manifold()
    rows[::2, 3] += 3000
    return rows


def massive_rows() -> torch.Tensor:
    """A few rows of norm 24,000 among rows of norm 135: the first tokens of a language model."""
    rows = manifold()
    rows *= 135 / torch.linalg.vector_norm(rows, dim=1).median()
    rows[::100] *= 24_000 / 135
    return rows


def twins() -> torch.Tensor:
    """Every row with a neighbour a millionth away."""
    rows = manifold(250)
    return torch.cat([rows, rows + 1e-6 * manifold(250, seed=1)])


def knot() -> torch.Tensor:
    """Two rows in five lie in a tight cluster at the centre of the others."""
    rows = manifold()
    rows[:200] *= 1e-3
    return rows[torch.randperm(500, generator=torch.Generator().manual_seed(2))]


def grid() -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(7.0)] * 3)


DATA = {
    "manifold": manifold,
    "full dimension": lambda: torch.randn(500, 64, generator=torch.Generator().manual_seed(0)),
    "offset 1000": lambda: manifold() + 1000,
    "offset 1000 in float64": lambda: manifold().double() + 1000,
    "offset 1e6 in float64": lambda: manifold().double() + 1e6,
    "offset 1000 from bfloat16": lambda: torch.unique((30 * manifold() + 1000).bfloat16().float(), dim=0),
    "massive dimension in half the rows": massive_dimension_in_half_the_rows,
    "massive rows": massive_rows,
    "times 1e-22": lambda: manifold() * 1e-22,
    "times 1e18": lambda: manifold() * 1e18,
    "twins": twins,
    "knot": knot,
    "grid": grid,
    "one column": lambda: torch.randn(300, 1, generator=torch.Generator().manual_seed(0)),
    "three rows": lambda: torch.tensor([[0.0, 1.0], [5.0, 5.0], [1.0, 1.0]]),
}


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def small_blocks(monkeypatch, request):
    """Several panels and strips at a few hundred rows; searched first in the precision that the parameter names.

    bfloat16 gives the same result, only slower, where the processor has no fast products of it.
    """
    monkeypatch.setattr(neighbors, "PANEL", 128)
    monkeypatch.setattr(neighbors, "STRIP", 32)
    begin_with(request.param, monkeypatch)


def begin_with(dtype, monkeypatch):
    monkeypatch.setattr(neighbors, "ROUGH_ROWS", 0)
    monkeypatch.setattr(neighbors, "bfloat16_is_fast", lambda: dtype == torch.bfloat16)


@pytest.mark.parametrize("name", DATA)
def test_distances_equal_direct_differences_in_float64(name, small_blocks):
    assert_exact(DATA[name]())


@pytest.mark.parametrize("k", [1, 3, 20, 64])
def test_any_number_of_neighbors_is_exact(k, small_blocks):
    assert_exact(manifold(), k)
    assert_exact(manifold(65, d=3), k)


def test_blocks_of_the_default_size_are_exact_beyond_one_panel():
    rows = manifold(neighbors.PANEL + neighbors.STRIP + 77, d=24)
    assert_exact(rows)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 150), d=st.integers(1, 40), k=st.integers(1, 4), double=st.booleans(), seed=st.integers(0, 99))
def test_any_shape_is_exact(n, d, k, double, seed):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    if k < n:
        assert_exact(rows.double() if double else rows, k)


def test_every_search_is_needed_and_each_is_reached(monkeypatch):
    """float32 cannot prove the neighbours of these rows, and not even float64 those of ties far from the centre."""
    open_rows = []
    searches = {name: getattr(neighbors, name) for name in ("_search_some", "_search_directly")}

    def spy(name):
        def search(rows, which, *rest):
            open_rows.append((name, len(which)))
            return searches[name](rows, which, *rest)

        return search

    for name in searches:
        monkeypatch.setattr(neighbors, name, spy(name))

    assert_exact(manifold())
    assert dict(open_rows) == {"_search_some": 0, "_search_directly": 0}
    assert_exact(manifold() + 1000)
    assert dict(open_rows)["_search_some"] < 25, "centring keeps an offset from costing digits"
    assert_exact(massive_dimension_in_half_the_rows())
    assert dict(open_rows)["_search_some"] > 200
    far = grid().double()
    far[::2] += 1e9
    assert_exact(far)
    assert dict(open_rows)["_search_directly"] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_error_of_the_product_stays_within_the_proved_bound(dtype):
    """The bound on 2 w in the module's docstring, against exact distances; the largest error is at least 1e-5 of it."""
    for rows in (manifold(200), manifold(200) + 100, massive_dimension_in_half_the_rows()[:200]):
        points = neighbors._Points(rows, dtype)
        factors = points.flipped(slice(None)), points.extended
        w = neighbors.times_transposed(*factors, rough=dtype == torch.bfloat16)[: len(rows), : len(rows)]
        x, e, R = rows.double() / points.scale, points.errors, points.length
        if dtype == torch.bfloat16:
            x = points.extended[: len(rows), : points.d].double()
        true = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
        true -= (2 * R * e + e.square())[:, None] + 2 * R * e + e.square()
        size = (points.norms[:, None] + points.norms).square() + 2 * R * (e[:, None] + e)
        c = 1.01 * (rows.shape[1] + 20) * points.roundoff
        off_diagonal = ~torch.eye(len(rows), dtype=torch.bool)
        share = ((2 * w.double() - true).abs() / (c * size))[off_diagonal]
        assert 1e-5 < share.max() < 1


def test_the_distance_that_rounding_to_bfloat16_moves_each_row_is_recorded():
    rows = massive_rows()
    points = neighbors._Points(rows, torch.bfloat16)
    x = (rows.double() - neighbors._robust_centre(rows).double()) / points.scale
    moved = (x - points.extended[: len(rows), : points.d].double()).norm(dim=1)
    assert (moved <= points.errors + 1e-7 * points.norms).all() and (moved > 0.9 * points.errors).all()
    assert points.worst > 5 * float(points.errors.median())
    assert points.length == pytest.approx(2 * float(by_definition(rows, 1).median()) / points.scale, rel=0.3)


def test_nothing_beyond_the_reach_is_nearer(small_blocks):
    rows = manifold()
    found = nearest(rows)
    distances = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances.fill_diagonal_(torch.inf).scatter_(1, found.candidates, torch.inf)
    assert (distances.amin(1) >= found.reach).all()
    assert (found.reach >= found.distances[:, -1]).all()


@pytest.mark.parametrize("name", [name for name in DATA if name != "three rows"])
@pytest.mark.parametrize("share", [0.98, 0.7, 0.1])
def test_a_narrowed_search_equals_a_fresh_one(name, share, small_blocks):
    rows = DATA[name]()
    keep = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[: int(share * len(rows))]
    narrowed, fresh = nearest(rows).narrowed(rows, keep), nearest(rows[keep])
    assert torch.equal(narrowed.distances, fresh.distances)
    differences = rows[keep].double()[:, None] - rows[keep].double()[narrowed.indices]
    torch.testing.assert_close(differences.square().sum(2).sqrt(), fresh.distances, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("data", "whole"), [(manifold, 1), (lambda: grid() + 1000, 2)])
def test_bfloat16_proves_most_rows_of_most_clouds_and_float32_the_others(data, whole, monkeypatch):
    """Rows on a grid have many neighbors of one distance, which bfloat16 cannot tell from those beyond."""
    begin_with(torch.bfloat16, monkeypatch)
    searches, seen, search_all = [], [], neighbors._search_all
    monkeypatch.setattr(neighbors, "_search_all", lambda *a: searches.append(a[2]) or search_all(*a))
    assert_exact(data())
    assert searches == [torch.bfloat16, torch.float32][:whole]
    nearest(data(), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1)) and seen[-1] == (len(seen), len(seen))


def test_a_search_can_be_narrowed_again(small_blocks):
    rows = manifold()
    first, second = torch.arange(0, 500, 2), torch.arange(0, 250, 3)
    twice = nearest(rows).narrowed(rows, first).narrowed(rows[first], second)
    assert torch.equal(twice.distances, nearest(rows[first][second]).distances)


def test_narrowing_recomputes_few_rows(monkeypatch):
    rows, searched = manifold(2000, d=24), []
    search = neighbors._search_some
    monkeypatch.setattr(neighbors, "_search_some", lambda *a: searched.append(len(a[1])) or search(*a))
    found = nearest(rows)
    searched.clear()
    found.narrowed(rows, torch.arange(20, 2000))
    assert sum(searched) == 0
    found.narrowed(rows, torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:1400])
    assert 0 < sum(searched) < 0.03 * 1400


def test_rows_are_not_written_to_and_need_not_be_leaves():
    rows = manifold(60).requires_grad_()
    before = rows.detach().clone()
    found = nearest(rows)
    found.narrowed(rows, torch.arange(30))
    assert torch.equal(rows.detach(), before) and not found.distances.requires_grad


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_a_lower_matmul_precision_changes_nothing_and_is_put_back(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    backends = [getattr(torch.backends.mkldnn, "matmul", None), torch.backends.cuda.matmul]
    try:
        set_by_user = [getattr(backend, "fp32_precision", None) for backend in backends]
        assert_exact(manifold())
        assert torch.get_float32_matmul_precision() == precision
        assert [getattr(backend, "fp32_precision", None) for backend in backends] == set_by_user
    finally:
        torch.set_float32_matmul_precision(before)


def test_progress_ends_at_its_total(small_blocks):
    seen = []
    nearest(manifold(), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1)) and seen[-1] == (len(seen), len(seen))


def test_too_few_rows_are_refused():
    with pytest.raises(TooFewRows, match=r"`rows`: got 2 distinct row\(s\); wanted at least 3"):
        nearest(torch.eye(2))
    with pytest.raises(TooFewRows, match="at least 3"):
        nearest(torch.eye(5)).narrowed(torch.eye(5), torch.tensor([0, 3]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("name", [name for name in DATA if name != "times 1e18"])
def test_a_gpu_gives_the_same_distances(name, tf32, monkeypatch):
    monkeypatch.setattr(neighbors, "GPU_PANEL", 128)
    monkeypatch.setattr(neighbors, "GPU_STRIP", 32)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        rows = DATA[name]()
        found = nearest(rows.cuda())
        assert torch.backends.cuda.matmul.allow_tf32 == tf32
        torch.testing.assert_close(found.distances.cpu(), by_definition(rows, 2), rtol=1e-12, atol=0)
        keep = torch.arange(0, len(rows), 2) if len(rows) > 5 else torch.arange(len(rows))
        assert torch.equal(found.narrowed(rows.cuda(), keep.cuda()).distances, nearest(rows[keep].cuda()).distances)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
