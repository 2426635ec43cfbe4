"""Quantizers: codes match their definition, are as good as the reference's, and are the same each time."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_repgeo.errors import BadInput, MissingExtra, TooFewRows, UnknownName
from hf_repgeo.measures import PointCloud
from hf_repgeo.measures.kernels import additive, kmeans, quantizers
from hf_repgeo.measures.kernels.quantizers import quantize
from hf_repgeo.measures.kernels.switch import kernels

OURS = ["product", "residual", "additive"]


@pytest.fixture(scope="module")
def rows():
    """A correlated Gaussian, 2000 x 48."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2000, 48, generator=generator) / torch.arange(1, 49).sqrt()


def clusters(n, n_clusters, width, spread=0.01, seed=0):
    """Rows in tight clusters of equal size, far from each other: row i in cluster i % n_clusters."""
    generator = torch.Generator().manual_seed(seed)
    middles = 10 * torch.randn(n_clusters, width, generator=generator, dtype=torch.float64)
    noise = spread * torch.randn(n, width, generator=generator, dtype=torch.float64)
    return middles[torch.arange(n) % n_clusters] + noise


def reconstruction(found):
    words = [book[code] for book, code in zip(found.codebooks, found.codes.T)]
    return (torch.cat(words, dim=1) if found.quantizer == "product" else sum(words)) + found.shift


# --- codes, counts, errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", OURS)
def test_errors_are_those_of_the_reconstruction(rows, quantizer):
    found = quantize(rows, quantizer, bits=5)
    squared = (rows.double() - reconstruction(found).double()).square().sum(1)
    assert torch.allclose(found.errors, squared, rtol=1e-4)
    assert found.relative_error == pytest.approx(float(squared.sum() / rows.double().square().sum()), rel=1e-5)


@pytest.mark.parametrize("quantizer", OURS)
def test_counts_are_histograms_of_the_codes(rows, quantizer):
    found = quantize(rows, quantizer, codebooks=3, bits=4)
    assert found.codes.shape == (2000, 3) and found.codes.dtype == torch.int64
    for m in range(3):
        assert found.counts[m].tolist() == [int((found.codes[:, m] == k).sum()) for k in range(16)]
    assert found.dead_cells == int((found.counts == 0).sum())


def test_every_block_of_a_row_has_its_nearest_codeword(rows):
    found = quantize(rows, bits=6)
    blocks = (rows - found.shift).double().tensor_split(4, dim=1)
    for block, words, codes in zip(blocks, found.codebooks, found.codes.T):
        distances = torch.cdist(block, words.double())
        chosen = distances.gather(1, codes[:, None])[:, 0]
        assert float((chosen - distances.amin(1)).max()) < 1e-5


def test_blocks_are_as_even_as_the_columns_allow(rows):
    found = quantize(rows[:, :10], codebooks=4, bits=3)
    assert [words.shape[1] for words in found.codebooks] == [3, 3, 2, 2]


@pytest.mark.parametrize("quantizer", OURS)
def test_fewer_distinct_rows_than_cells_are_reconstructed_exactly(quantizer):
    distinct = torch.tensor([[0.0, 1.0], [2.0, -1.0], [5.0, 3.0]], dtype=torch.float64)
    found = quantize(distinct.repeat(20, 1), quantizer, codebooks=1, bits=3)
    assert found.relative_error < 1e-20
    assert found.counts[0].sort(descending=True).values.tolist() == [20, 20, 20, 0, 0, 0, 0, 0]
    assert found.dead_cells == 5


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape_gives_codes_in_range_and_finite_errors(data):
    bits = data.draw(st.integers(1, 3))
    n, d = data.draw(st.integers(2**bits, 40)), data.draw(st.integers(1, 9))
    codebooks = data.draw(st.integers(1, d))
    quantizer = data.draw(st.sampled_from(OURS))
    X = torch.randn(n, d, generator=torch.Generator().manual_seed(n * d))
    found = quantize(X, quantizer, codebooks=codebooks, bits=bits)
    assert found.codes.shape == (n, codebooks)
    assert 0 <= int(found.codes.min()) and int(found.codes.max()) < 2**bits
    assert bool(found.errors.isfinite().all()) and found.errors.dtype == torch.float64
    assert found.relative_error < 1


# --- k-means --------------------------------------------------------------------------------------------------------


def slow_kmeans(rows, centroids):
    """The iteration of `kmeans` in plain float64 loops, from given centroids; no cell may run empty."""
    best, iteration = float("inf"), 1
    while True:
        cells = torch.tensor([int((row - centroids).square().sum(1).argmin()) for row in rows])
        means = torch.stack([rows[cells == k].mean(0) for k in range(len(centroids))])
        error = float((rows - means[cells]).square().sum())
        if iteration == kmeans.MAX_ITERATIONS or error > best * (1 - kmeans.TOLERANCE):
            return means
        centroids = centroids + kmeans.STEP * (means - centroids)
        best, iteration = error, iteration + 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kmeans_equals_its_slow_twin_from_the_same_start(rows, dtype):
    rows = (rows - rows.mean(0))[:600].to(dtype)
    start = rows[::75]
    found = kmeans.kmeans(rows, len(start), start)
    twin = slow_kmeans(rows.double(), start.double())
    assert torch.allclose(found.centroids.double(), twin, atol=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("quantizer", OURS)
def test_a_common_offset_does_not_change_the_codes(quantizer):
    rows = clusters(800, 16, 12)
    plain, moved = (quantize((rows + offset).float(), quantizer, codebooks=1, bits=3) for offset in (0, 1000))
    if quantizer == "additive":  # its noise is made of rows, which an offset puts in another order
        assert float(moved.errors.sum()) == pytest.approx(float(plain.errors.sum()), rel=0.1)
        return
    assert torch.equal(plain.codes, moved.codes)
    assert torch.allclose(plain.errors, moved.errors, rtol=1e-2)


@pytest.mark.parametrize("quantizer", OURS)
def test_a_massive_dimension_does_not_blur_the_codes_of_the_others(rows, quantizer):
    massive = rows.clone()
    massive[::2, 0] += 1e5  # every other row, as attention sinks do
    single, double = (quantize(X, quantizer, bits=5) for X in (massive, massive.double()))
    assert float(single.errors.sum()) == pytest.approx(float(double.errors.sum()), rel=1e-6)


def test_a_few_far_rows_cause_no_second_fit_in_float64(rows):
    far = rows.clone()
    far[:3] = 1e3 * (1 + 0.01 * rows[:3])  # as attention sinks lie: apart from each other by more than a rounding
    found = quantize(far, bits=5)
    assert found.codebooks[0].dtype == torch.float32
    assert float(found.errors.sum()) == pytest.approx(float(quantize(far.double(), bits=5).errors.sum()), rel=1e-2)


def test_copies_cause_no_second_fit_in_float64(rows):
    copies = rows[:300].repeat_interleave(10, 0).float()
    assert quantize(copies, bits=8).codebooks[0].dtype == torch.float32


def test_tight_clumps_far_out_are_told_apart_in_float64(rows):
    clumps = rows.clone()
    clumps[:100] += 1e5
    single, double = (quantize(X, bits=5) for X in (clumps.float(), clumps.float().double()))
    assert single.codebooks[0].dtype == torch.float64
    assert torch.equal(single.codes, double.codes)


@pytest.mark.parametrize("factor", [1e8, 1e10, 1e16, 1e25])
@pytest.mark.parametrize("n_far", [1, 20])
def test_rows_far_beyond_the_others_leave_those_their_cells(rows, factor, n_far):
    far = rows.clone()
    far[:n_far] *= factor
    found = PointCloud(far).codes()
    near_by = quantize(rows[n_far:], bits=5)
    assert int(found.counts.max()) < 2 * int(near_by.counts.max()) and found.dead_cells == 0
    assert found.lost_share == 0


@pytest.mark.parametrize("distance", [1e3, 1e6, 1e9])
def test_clumps_far_apart_are_each_divided_or_reported_as_lost(rows, distance):
    apart = rows.clone().double()
    apart[:1000] += distance
    found = quantize(apart)
    largest = int(found.counts.max())
    assert (found.lost_share == 0 and largest < 100) if distance < 1e9 else found.lost_share > 0.4


def test_near_rows_with_the_same_codes_are_fitted_again_in_float64_and_copies_are_not(rows):
    copies = rows[:60].repeat_interleave(20, 0)
    assert quantize(copies).codebooks[0].dtype == torch.float32
    assert quantize(copies + 1e-6 * rows[:1200]).codebooks[0].dtype == torch.float64


def test_a_featureless_cloud_of_many_columns_fills_its_cells_evenly(rows):
    normal = torch.randn(4096, 256, generator=torch.Generator().manual_seed(0))
    counts = quantize(normal, codebooks=1).counts.double()
    assert float(counts.std() / counts.mean()) < 0.6  # 2.6 when centroids start at rows


def test_empty_cells_take_half_of_the_rows_of_the_cells_with_the_largest_errors(rows):
    rows = rows - rows.mean(0)
    rows[7], rows[8] = 1e4, 0.999e4  # on one side of their cell's mean, all others on the other side
    cells = torch.arange(2000) // 1000
    counts = torch.tensor([1000.0, 1000, 0, 0])
    before = torch.stack([rows[:1000].mean(0), rows[1000:].mean(0)])
    means, filled = kmeans._fill_empty(rows, cells, torch.cat([before, torch.zeros(2, 48)]), counts)
    others = torch.cat([rows[:7], rows[9:1000]]).mean(0)
    by_size = means[[0, 2]][means[[0, 2]].sum(1).argsort()]
    assert filled and torch.allclose(by_size, torch.stack([others, rows[7:9].mean(0)]), rtol=1e-5, atol=1e-3)
    error = (rows[1000:] - before[1]).square().sum()
    assert torch.cdist(rows[1000:], means[[1, 3]]).amin(1).square().sum() < 0.99 * error


def test_cells_that_no_row_can_fill_stay_empty():
    copies = torch.tensor([[0.0, 0], [3, 0], [0, 4]]).repeat(5, 1)
    assert kmeans.kmeans(copies - copies.mean(0), 8).cells.unique().numel() == 3


# --- residual and additive ------------------------------------------------------------------------------------------


def all_costs(rows, words):
    """Squared error of every row under every pair of codes of two codebooks, `(n, cells, cells)`."""
    sums = words[0][:, None] + words[1][None]
    return (rows[:, None, None] - sums).square().sum(3)


@pytest.fixture
def two_books(rows):
    words = torch.randn(2, 8, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 3
    return rows[:200].double(), words


def test_costs_are_squared_errors_less_squared_norms(two_books):
    rows, words = two_books
    cross, norms = additive._inner_products(words)
    alone = [norm - 2 * rows @ book.T for book, norm in zip(words, norms)]
    codes = torch.randint(8, (200, 2), generator=torch.Generator().manual_seed(2))
    direct = (rows - words[0][codes[:, 0]] - words[1][codes[:, 1]]).square().sum(1) - rows.square().sum(1)
    assert torch.allclose(additive._costs(alone, cross, codes), direct, atol=1e-10)


def test_a_beam_as_wide_as_the_codebook_finds_the_best_of_two_codes(two_books, monkeypatch):
    rows, words = two_books
    monkeypatch.setattr(additive, "BEAM", 8)
    codes = additive.beam_search(rows, words)
    costs = all_costs(rows, words)
    chosen = costs[torch.arange(200), codes[:, 0], codes[:, 1]]
    assert torch.allclose(chosen, costs.amin((1, 2)), atol=1e-10)


def test_local_search_never_worsens_and_mostly_finds_the_best(two_books):
    rows, words = two_books
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(8, (200, 2), generator=generator)
    codes = additive.local_search(rows, words, start, generator)
    costs = all_costs(rows, words)
    before, after = (costs[torch.arange(200), code[:, 0], code[:, 1]] for code in (start, codes))
    assert bool((after <= before + 1e-10).all())
    assert float((after - costs.amin((1, 2)) < 1e-10).double().mean()) > 0.85


def test_least_squares_solves_the_normal_equations(two_books, monkeypatch):
    rows, words = two_books
    codes = torch.randint(8, (200, 2), generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(additive, "SOLVER_SWEEPS", 60)
    one_hot = torch.nn.functional.one_hot(codes + torch.tensor([0, 8]), 16).sum(1).double()
    for pull in (0.0, 5.0):
        found = additive.least_squares(rows, codes, words, pull).reshape(16, -1)
        gradient = one_hot.T @ (one_hot @ found - rows) + pull * (found - words.reshape(16, -1))
        assert float(gradient.abs().max()) < 1e-8


def test_a_codeword_without_rows_stays(two_books):
    rows, words = two_books
    codes = torch.zeros(200, 2, dtype=torch.int64)
    found = additive.least_squares(rows, codes, words, 0.0)
    assert torch.equal(found[:, 1:], words[:, 1:])


def test_splitting_finds_every_clump_whatever_the_order_of_the_rows():
    X = clusters(600, 16, 8)
    found = kmeans.split_start(X, 16)
    middles = torch.stack([X[i::16].mean(0) for i in range(16)])
    nearest = torch.cdist(middles, found).min(1)
    assert float(nearest.values.max()) < 1e-9 and len(set(nearest.indices.tolist())) == 16
    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(kmeans.split_start(X[order], 16), found, atol=1e-12)


def test_splitting_gives_the_same_start_in_numpy_and_in_pytorch_and_writes_to_nobodys_rows():
    """A GPU and the reference kernels take tensors; a few far rows make offsets that float32 must not lose."""
    X = clusters(600, 16, 8).float()
    X[:3] += 1e4
    given = X.clone()
    found = kmeans.split_start(X, 16)
    with kernels("reference"):
        assert torch.allclose(kmeans.split_start(X, 16), found, rtol=1e-5, atol=1e-5)
    assert torch.equal(X, given)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-40, 1e-22, 1e18, 1e25])
def test_splitting_does_not_warn_where_squares_of_float32_leave_its_range(rows, scale):
    """PointCloud keeps its rows in range; whoever calls the kernel with other rows gets the silence of PyTorch."""
    assert kmeans.split_start((rows.double() * scale).float(), 16).shape == (16, rows.shape[1])


def test_splitting_takes_pieces_of_large_error_and_stops_at_copies():
    wide, tight = torch.randn(2, 400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = kmeans.split_start(torch.cat([wide, 20 + 0.1 * tight]), 32)
    assert int((start > 10).all(1).sum()) <= 6  # half the rows, a hundredth of the error
    copies = torch.tensor([[0.0, 0], [3, 0], [0, 4]], dtype=torch.float64).repeat(5, 1)
    start = kmeans.split_start(copies, 8)
    assert start.shape == (8, 2) and {tuple(row) for row in start.tolist()} == {(0, 0), (3, 0), (0, 4)}


def test_more_freedom_brings_a_smaller_error(rows):
    product, residual, summed = (quantize(rows, name, bits=6).relative_error for name in OURS)
    assert summed < residual < product


# --- against faiss --------------------------------------------------------------------------------------------------


@pytest.fixture
def faiss():
    """faiss on one thread: its threads wait for each other by spinning, which takes minutes on a busy machine."""
    faiss = pytest.importorskip("faiss")
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield faiss
    faiss.omp_set_num_threads(threads)


def test_the_product_quantizer_is_as_good_as_that_of_faiss(rows, faiss):
    reference = faiss.ProductQuantizer(48, 4, 6)
    centred = (rows - rows.mean(0)).numpy()
    reference.train(centred)
    error = ((centred - reference.decode(reference.compute_codes(centred))) ** 2).sum() / (rows.numpy() ** 2).sum()
    assert quantize(rows, bits=6).relative_error < 1.01 * error


def test_the_additive_quantizer_beats_that_of_faiss(rows, faiss):
    reference = quantize(rows, "faiss-lsq", bits=5)
    assert quantize(rows, "additive", bits=5).relative_error < reference.relative_error
    squared = (rows - reconstruction(reference)).double().square().sum(1)
    assert torch.allclose(reference.errors, squared, rtol=1e-4)


def test_faiss_pq_is_faiss_itself(rows, faiss):
    reference = faiss.ProductQuantizer(48, 4, 5)
    reference.cp.seed = 1234
    centred = (rows - rows.double().mean(0).float()).numpy()
    reference.train(centred)
    codes = torch.from_numpy(faiss.unpack_bitstrings(reference.compute_codes(centred), 4, 5).astype("int64"))
    found = quantize(rows, "faiss-pq", bits=5, seed=1234)
    assert torch.equal(found.codes, codes)
    squared = (rows - found.shift - torch.from_numpy(reference.decode(reference.compute_codes(centred)))).square()
    assert torch.allclose(found.errors, squared.double().sum(1), rtol=1e-4)
    with pytest.raises(BadInput, match="`codebooks`: got 5; wanted a divisor of 48"):
        quantize(rows, "faiss-pq", codebooks=5)


@pytest.mark.parametrize("quantizer", ["faiss-lsq", "faiss-pq"])
def test_without_faiss_the_reference_names_the_extra(rows, monkeypatch, quantizer):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match=rf"'{quantizer}' needs the package 'faiss-cpu'.*\[bench\]"):
        quantize(rows, quantizer)


# --- the same each time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantizer", OURS)
def test_only_the_additive_quantizer_depends_on_its_seed_and_none_on_the_global_one(rows, quantizer):
    state = torch.random.get_rng_state()
    first, again, other = (quantize(rows, quantizer, bits=5, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.codes, again.codes)
    assert torch.equal(first.codes, other.codes) == (quantizer != "additive")
    assert first.relative_error == pytest.approx(other.relative_error, rel=0.03)


@pytest.mark.parametrize("quantizer", OURS)
def test_the_order_of_the_rows_changes_no_code(quantizer, monkeypatch):
    monkeypatch.setattr(quantizers, "MAX_TRAINING_ROWS", 1500)
    X = clusters(2000, 60, 16, spread=2.0).float()  # clumped: there k-means carries the last digit into the first
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(1))
    given, shuffled = quantize(X, quantizer, bits=6), quantize(X[order], quantizer, bits=6)
    assert torch.equal(given.codes[order], shuffled.codes)
    assert torch.equal(given.errors[order], shuffled.errors)


def test_codes_do_not_depend_on_the_kind_of_8_bit_products(rows, monkeypatch):
    known = quantize(rows).codes
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: not torch.cpu._is_avx2_supported())
    assert torch.equal(quantize(rows).codes, known)


def test_blocks_of_constant_columns_get_no_codebook(rows):
    dead = rows.clone()
    dead[:, 12:24] = 3.3
    found, live = quantize(dead, bits=5), quantize(rows, bits=5)
    assert (found.dead_blocks, len(found.codebooks), found.codes.shape) == (1, 3, (2000, 3))
    assert torch.allclose(found.counts.double().mean(), live.counts.double().mean())
    assert found.dead_cells == 0


def test_rows_of_clumps_have_the_same_default_codes_whatever_the_seed():
    X = clusters(3000, 90, 64, spread=3.0).float()
    assert torch.equal(quantize(X, seed=0).codes, quantize(X, seed=9).codes)


@pytest.mark.parametrize("quantizer", OURS)
def test_float32_and_float64_agree(rows, quantizer):
    single, double = (quantize(X, quantizer, bits=5) for X in (rows, rows.double()))
    assert single.relative_error == pytest.approx(double.relative_error, rel=5e-3)


@pytest.mark.parametrize("quantizer", OURS)
def test_rows_are_not_written_to_and_may_want_gradients(rows, quantizer):
    wanting = rows.clone().requires_grad_()
    found = quantize(wanting, quantizer, bits=4)
    assert torch.equal(wanting, rows) and not found.errors.requires_grad


@pytest.mark.parametrize("quantizer", OURS)
def test_many_rows_are_coded_by_codebooks_fitted_to_some(rows, quantizer, monkeypatch):
    whole = quantize(rows, quantizer, bits=4)
    monkeypatch.setattr(quantizers, "MAX_TRAINING_ROWS", 800)
    part = quantize(rows, quantizer, bits=4)
    assert (whole.n_train, part.n_train) == (2000, 800) and len(part.codes) == 2000
    assert whole.relative_error < part.relative_error < 1.1 * whole.relative_error


def test_scores_by_blocks_are_those_of_the_whole(rows, monkeypatch):
    whole = kmeans.nearest_centroids(rows, rows[:32])
    monkeypatch.setattr(kmeans, "BLOCK_SCORES", 32 * 7)
    assert torch.equal(kmeans.nearest_centroids(rows, rows[:32]), whole)


@pytest.mark.parametrize("quantizer", OURS)
def test_progress_counts_up_to_its_total(rows, quantizer):
    calls = []
    quantize(rows, quantizer, bits=3, progress=lambda done, total: calls.append((done, total)))
    total = calls[-1][1]
    assert calls == [(done, total) for done in range(1, total + 1)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("quantizer", OURS)
def test_a_gpu_gives_codes_as_good_and_the_same_each_time(rows, quantizer):
    first, again = (quantize(rows.cuda(), quantizer) for _ in range(2))
    assert torch.equal(first.codes, again.codes) and first.codes.is_cuda
    assert first.relative_error == pytest.approx(quantize(rows, quantizer).relative_error, rel=0.02)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_refusals_name_the_argument_and_the_way_out(rows):
    with pytest.raises(BadInput, match="`bits`: got '8'; wanted a whole number"):
        quantize(rows, bits="8")
    with pytest.raises(BadInput, match="`codebooks`: got 4.0; wanted a whole number"):
        quantize(rows, codebooks=4.0)
    with pytest.raises(UnknownName, match="unknown quantizer 'aditive'. Did you mean 'additive'"):
        quantize(rows, "aditive")
    with pytest.raises(BadInput, match="`codebooks`: got 49; wanted 1 to 48, the number of columns"):
        quantize(rows, codebooks=49)
    with pytest.raises(BadInput, match="`bits`: got 0; wanted 1 to 12"):
        quantize(rows, bits=0)
    with pytest.raises(TooFewRows, match="`rows`: got 100 rows; wanted at least 256.*bits=6 is the most"):
        quantize(rows[:100], bits=8)
