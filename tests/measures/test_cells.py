"""Patchiness and related measures: closed forms, values of chance and of clumps, warnings where there is no value."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.measures import PointCloud, patchiness
from hf_repgeo.measures.cells import (
    cell_count_divergence,
    cell_count_divergence_code_of,
    cell_count_divergence_of,
    cell_count_variance,
    cell_count_variance_of,
    leave_one_out_counts,
    lloyd_patchiness_of,
    marbut_patchiness_of,
    soft_patchiness,
)
from hf_repgeo.measures.kernels.quantizers import quantize
from hf_repgeo.measures.reconstruction import (
    cell_density_variance,
    cell_density_variance_of,
    error_range_of,
    error_skewness_of,
    reconstruction_error,
    reconstruction_error_range,
    reconstruction_error_skewness,
    within_cell_enrichment,
    within_cell_enrichment_of,
)
from hf_repgeo.measures.spectral_shape import early_enrichment_of

SUITE = [
    patchiness,
    cell_count_variance,
    cell_count_divergence,
    reconstruction_error,
    reconstruction_error_range,
    reconstruction_error_skewness,
    cell_density_variance,
    within_cell_enrichment,
]

tables_of_counts = st.integers(1, 5).flatmap(
    lambda books: st.lists(st.permutations([0, 1, 2, 3, 5, 8, 13, 21]), min_size=books, max_size=books)
)


def normal(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def dirichlet_clusters(n, d, n_clusters, seed=0):
    """Clusters with Dirichlet(1) sizes (normalised exponentials), each a fifth as wide as the centres are spread."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.empty(n_clusters).exponential_(generator=generator)
    members = torch.multinomial(sizes, n, replacement=True, generator=generator)
    return torch.randn(n_clusters, d, generator=generator)[members] + 0.2 * torch.randn(n, d, generator=generator)


# --- counts to numbers ----------------------------------------------------------------------------------------------


def test_patchiness_of_hand_counted_cells():
    counts = torch.tensor([[3, 1, 0, 0]])
    assert lloyd_patchiness_of(counts) == 4 * (3 * 2) / 16
    assert lloyd_patchiness_of(torch.tensor([[3, 1, 0, 0], [1, 1, 1, 1]])) == (1.5 + 0) / 2
    assert lloyd_patchiness_of(torch.tensor([[8, 0, 0, 0]])) == 4 * 8 * 7 / 64


@settings(max_examples=50, deadline=None)
@given(tables_of_counts)
def test_lloyd_and_marbut_are_one_number_on_two_scales(table):
    counts = torch.tensor(table)
    books, mean = len(table), counts.double().mean()
    expected = 1 + books**2 * (marbut_patchiness_of(counts) - 1) + (books - 1) / mean
    assert lloyd_patchiness_of(counts) == pytest.approx(float(expected), abs=1e-12)


def test_marbut_with_one_codebook_is_lloyd():
    counts = torch.tensor([[5, 0, 2, 9]])
    assert marbut_patchiness_of(counts) == pytest.approx(float(lloyd_patchiness_of(counts)), abs=1e-14)


def test_lloyd_is_mean_crowding_over_mean_density():
    counts = torch.tensor([[4, 7, 0, 1]])
    mean, variance = counts.double().mean(), counts.double().var(correction=0)
    crowding = mean + variance / mean - 1  # Lloyd 1967
    assert lloyd_patchiness_of(counts) == pytest.approx(float(crowding / mean), abs=1e-14)


def test_poisson_counts_have_patchiness_one():
    counts = torch.poisson(torch.full((2000, 4, 256), 16.0), generator=torch.Generator().manual_seed(0))
    assert float(lloyd_patchiness_of(counts).mean()) == pytest.approx(1, abs=1e-3)


def test_patchiness_is_the_imbalance_factor_of_faiss_minus_cells_over_rows():
    faiss = pytest.importorskip("faiss")
    found = quantize(normal(1000, 12), codebooks=1, bits=5)
    codes = found.codes[:, 0].numpy().astype(np.int64)
    factor = faiss.imbalance_factor(len(codes), 32, faiss.swig_ptr(codes))
    assert lloyd_patchiness_of(found.counts) == pytest.approx(factor - 32 / 1000, abs=1e-9)


def test_count_variance_and_divergence_of_hand_counted_cells():
    counts = torch.tensor([[6, 2]])
    odds = [3.0, 1 / 3]
    assert cell_count_variance_of(counts) == pytest.approx(np.var(odds), abs=1e-12)
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert cell_count_divergence_of(counts) == pytest.approx(expected, abs=1e-12)
    assert cell_count_divergence_of(torch.tensor([[9, 0, 0, 0]])) == pytest.approx(np.log(4), abs=1e-12)


# --- the other formulas of the paper --------------------------------------------------------------------------------


def trapezoid_enrichment(eigenvalues):
    """The authors' route: cumulative shares from 0, less the straight line, by the trapezoid rule, over k / 2."""
    share = np.concatenate([[0], np.cumsum(eigenvalues) / np.sum(eigenvalues)])
    k = len(eigenvalues)
    line = np.arange(k + 1) / k
    return np.trapezoid((share - line)[1:]) / (k / 2)


def test_early_enrichment_by_the_trapezoid_rule_and_at_its_ends():
    values = torch.sort(torch.rand(17, generator=torch.Generator().manual_seed(0)).double(), descending=True).values
    assert early_enrichment_of(values) == pytest.approx(trapezoid_enrichment(values.numpy()), abs=1e-14)
    assert early_enrichment_of(torch.ones(9).double()) == pytest.approx(0, abs=1e-14)
    assert early_enrichment_of(torch.tensor([2.0, 0, 0, 0]).double()) == pytest.approx((3 / 4) ** 2)


def test_two_rows_in_a_cell_have_an_enrichment_of_a_quarter_and_copies_none():
    rows = torch.tensor([[0.1, 2.7], [0.3, 5.0], [0.7, 0.7], [0.7, 0.7]])
    found = within_cell_enrichment_of(rows, torch.tensor([[0], [0], [1], [1]]), 3)
    assert float(found[0, 0]) == pytest.approx(0.25) and bool(found[0, 1:].isnan().all())


def test_error_range_and_skewness_are_those_of_numpy_and_scipy():
    squared = torch.rand(101, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distances = squared.sqrt().numpy()
    low, high = np.percentile(distances / distances.max(), [25, 75])
    assert error_range_of(squared) == pytest.approx(high - low, abs=1e-14)
    stats = pytest.importorskip("scipy.stats")
    assert error_skewness_of(squared) == pytest.approx(stats.skew(distances), abs=1e-12)


def test_cell_density_variance_of_four_points():
    words = torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # squared gaps to the nearest 1, 1, 4, 16
    assert cell_density_variance_of((words,)) == pytest.approx(np.var(np.array([1, 1, 4, 16]) / 16), abs=1e-14)


# --- clouds ---------------------------------------------------------------------------------------------------------


def test_a_normal_cloud_gives_one_and_clusters_more():
    even = patchiness(PointCloud(normal(20000, 64)))
    shifted = patchiness(PointCloud(normal(20000, 64) + 5))
    clumped = patchiness(PointCloud(dirichlet_clusters(20000, 64, 50)))
    assert even.value == pytest.approx(1.006, abs=0.01)  # faiss on the same kind of cloud: 1.006
    assert shifted.value == pytest.approx(even.value, abs=0.005)
    assert clumped.value > 1.1
    assert even.codes == () and clumped.codes == ()


def rotated_power_law(n, d):
    q = torch.linalg.qr(normal(d, d, seed=9)).Q
    return (normal(n, d) / torch.arange(1, d + 1).sqrt()) @ q


@pytest.mark.parametrize("n", [2500, 6000])
@pytest.mark.parametrize("rows", [normal, rotated_power_law])
@pytest.mark.parametrize("d", [64, 256, 768])
def test_chance_gives_one_at_any_number_of_rows_and_columns(n, d, rows):
    assert patchiness(PointCloud(rows(n, d), jackknife=False)).value == pytest.approx(1, abs=0.025)


@pytest.mark.parametrize("d", [4, 64])
def test_few_directions_that_crowd_rows_by_chance_give_a_warning(d):
    q = torch.linalg.qr(normal(d, d, seed=9)).Q
    estimate = patchiness(PointCloud((normal(3000, d) / torch.arange(1, d + 1)) @ q))
    assert 1.05 < estimate.value < 1.14 and "few_directions" in estimate.codes
    assert patchiness(PointCloud(normal(3000, 64))).warnings == ()


@pytest.mark.parametrize("d", [8, 13, 16, 24])
def test_few_columns_get_fewer_codebooks_so_that_chance_gives_one(d):
    assert patchiness(PointCloud(normal(3000, d))).value == pytest.approx(1, abs=0.03)
    assert patchiness(PointCloud(normal(3000, d)), codebooks=4).value > 1.05


def test_the_order_of_the_rows_changes_no_digit():
    rows = dirichlet_clusters(3000, 64, 50)
    shuffled = rows[torch.randperm(3000, generator=torch.Generator().manual_seed(1))]
    assert patchiness(PointCloud(rows)).value == patchiness(PointCloud(shuffled)).value


@pytest.mark.parametrize("quantizer", ["residual", "additive"])
def test_quantizers_of_whole_rows_distinguish_clumps_from_chance(quantizer):
    even = patchiness(PointCloud(normal(3000, 16)), quantizer=quantizer, bits=6)
    clumped = patchiness(PointCloud(dirichlet_clusters(3000, 16, 50)), quantizer=quantizer, bits=6)
    assert even.value == pytest.approx(1, abs=0.01) and clumped.value > even.value + 0.1


def test_the_conventions_share_one_quantizer_and_agree_up_to_their_scale():
    cloud = PointCloud(normal(2000, 16))
    lloyd, marbut = (patchiness(cloud, convention, bits=5) for convention in ("lloyd", "marbut"))
    assert lloyd.value == pytest.approx(1 + 4 * (marbut.value - 1) + 1 / (2000 / 32), abs=1e-10)  # two codebooks
    assert lloyd.details == marbut.details
    assert len(cloud._codes) == 1


def test_details_report_what_the_quantizer_did():
    estimate = patchiness(PointCloud(normal(2000, 16)), bits=5)
    found = quantize(normal(2000, 16), bits=5)
    assert estimate.details["relative_error"] == found.relative_error
    assert estimate.details["rows_per_cell"] == 2000 / 32
    assert estimate.details["dead_cells"] == found.dead_cells
    assert (estimate.details["n_train"], estimate.details["iterations"]) == (2000, found.iterations)


def test_additive_patchiness_is_the_mean_over_three_starts():
    cloud = PointCloud(normal(600, 8), seed=5)
    estimate = patchiness(cloud, quantizer="additive", bits=4)
    fits = [quantize(cloud.rows, "additive", bits=4, seed=seed) for seed in (5, 6, 7)]
    values = [float(lloyd_patchiness_of(fit.counts)) for fit in fits]
    assert estimate.value == pytest.approx(np.mean(values), abs=1e-12)
    assert estimate.details["seed_standard_deviation"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert patchiness(cloud, quantizer="additive", bits=4, quantizer_seeds=1).value == pytest.approx(values[0])
    assert estimate.se_method == "jackknife(20 groups) and 3 seeds"
    assert estimate.standard_error > np.std(values, ddof=1) / 3**0.5


def test_centred_reconstruction_error_ignores_an_offset_and_the_papers_does_not():
    rows = normal(1000, 8).double()
    plain, moved = (reconstruction_error(PointCloud(rows + offset), bits=4) for offset in (0, 10))
    assert moved.details["centred"] == pytest.approx(plain.details["centred"], rel=0.01)
    assert moved.value < plain.value / 50


# --- standard errors ------------------------------------------------------------------------------------------------


def test_leave_one_out_counts_are_recounted_without_the_fold():
    cloud = PointCloud(normal(300, 8))
    found = cloud.codes(codebooks=2, bits=3)
    left = leave_one_out_counts(cloud, found)
    kept = found.codes[cloud.folds != 4]
    assert torch.equal(left[4], torch.stack([torch.bincount(column, minlength=8) for column in kept.T]))


def test_the_jackknife_error_is_the_spread_over_fresh_rows_in_fixed_cells():
    shares = torch.tensor([8.0, 4, 2, 1, 1, 1, 1, 1])
    values, errors = [], []
    for seed in range(200):
        draws = torch.multinomial(shares, 800, replacement=True, generator=torch.Generator().manual_seed(seed))
        cloud = PointCloud(torch.eye(8)[draws])
        estimate = patchiness(cloud, codebooks=1, bits=3)
        values.append(estimate.value)
        errors.append(estimate.standard_error)
    assert estimate.se_method == "jackknife(20 groups) and cells of halves"
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def test_where_clumps_share_cells_the_error_contains_the_scatter_of_the_cells():
    values, errors = [], []
    for seed in range(12):
        members = torch.randint(30, (2600,), generator=torch.Generator().manual_seed(seed))
        rows = normal(30, 32, seed=99)[members] + normal(2600, 32, seed=seed) / 3
        estimate = patchiness(PointCloud(rows))
        values.append(estimate.value)
        errors.append(estimate.standard_error)
    assert 0.5 < np.std(values, ddof=1) / np.mean(errors) < 1.6  # with the cells held fixed: 2 to 3


def test_other_quantizers_give_no_error_for_clumped_rows_that_stand_alone():
    rows = dirichlet_clusters(1500, 16, 50)
    estimate = patchiness(PointCloud(rows), quantizer="residual", bits=5)
    assert estimate.standard_error is None and "moving_cells" in estimate.codes


@pytest.mark.parametrize("quantizer", ["product", "residual"])
def test_a_warning_calls_the_error_of_clumped_documents_rough(quantizer):
    rows, groups = dirichlet_clusters(1500, 16, 50), torch.arange(1500) // 50
    estimate = patchiness(PointCloud(rows, groups=groups), quantizer=quantizer, bits=5)
    assert estimate.standard_error > 0 and estimate.se_method == "jackknife(20 groups), rough"
    assert "moving_cells" in estimate.codes
    assert "rough" not in patchiness(PointCloud(normal(1500, 16), groups=groups), bits=5).se_method


def test_without_jackknife_there_is_no_error():
    cloud = PointCloud(normal(300, 8), jackknife=False)
    for measure in SUITE:
        assert measure(cloud, bits=3).standard_error is None


@pytest.mark.parametrize("measure", [reconstruction_error, reconstruction_error_range, reconstruction_error_skewness])
def test_errors_of_reconstruction_have_a_jackknife_error(measure):
    estimate = measure(PointCloud(normal(500, 8)), bits=4)
    assert 0 < estimate.standard_error < 0.5 and estimate.se_method == "jackknife(20 groups)"


def test_the_error_of_a_reconstruction_error_leaves_out_fold_after_fold():
    cloud = PointCloud(normal(500, 8).double() + 1)
    found = cloud.codes(codebooks=1, bits=4)
    kept = [cloud.folds != fold for fold in range(20)]
    left_out = [float(found.errors[keep].sum() / cloud.rows[keep].square().sum()) for keep in kept]
    expected = np.sqrt(19 / 20 * np.sum((left_out - np.mean(left_out)) ** 2))
    assert reconstruction_error(cloud, bits=4).standard_error == pytest.approx(expected, rel=1e-9)


# --- warnings and missing values ------------------------------------------------------------------------------------


def test_few_rows_per_cell_give_a_warning_with_their_number():
    assert "few_rows_per_cell: 16.0 rows per cell" in patchiness(PointCloud(normal(512, 8)), bits=5).warnings[0]
    assert patchiness(PointCloud(normal(39 * 32, 8)), bits=5).codes == ()


def test_copies_give_a_warning():
    rows = normal(1300, 8)
    rows[:20] = rows[20]
    estimate = patchiness(PointCloud(rows), bits=5)
    assert estimate.codes == ("duplicates",) and "20 of 1300" in estimate.warnings[0]
    assert estimate.n_distinct == 1280


def test_a_quantizer_that_failed_gives_a_warning(monkeypatch):
    cloud = PointCloud(normal(700, 8))
    bad = cloud.codes("residual", codebooks=4, bits=4)
    key = next(iter(cloud._codes))
    cloud._codes[key] = type(bad)(**{**{f: getattr(bad, f) for f in bad.__dataclass_fields__}, "relative_error": 0.9})
    assert patchiness(cloud, quantizer="residual", bits=4).codes == ("quantizer_failed",)


@pytest.mark.parametrize("measure", SUITE)
def test_too_few_or_equal_rows_have_no_value_but_a_reason(measure):
    few, equal = measure(PointCloud(normal(50, 8))), measure(PointCloud(torch.ones(300, 8)))
    assert (few.value, few.codes) == (None, ("too_few_rows",))
    assert (equal.value, equal.codes) == (None, ("no_spread",))


def test_rows_equal_to_their_codewords_have_no_spread_of_errors():
    cloud = PointCloud(torch.eye(4).repeat(10, 1))
    for measure in (reconstruction_error_range, reconstruction_error_skewness):
        assert measure(cloud, codebooks=1, bits=2).codes == ("no_error",)
    assert within_cell_enrichment(cloud, codebooks=1, bits=2).codes == ("no_spread",)
    assert reconstruction_error(cloud, codebooks=1, bits=2).value == pytest.approx(0, abs=1e-12)


def test_all_rows_in_one_cell_give_a_reason_instead_of_a_variance():
    cloud = PointCloud(torch.arange(80.0).reshape(40, 2))
    fit = cloud.codes(codebooks=1, bits=2, seed=0)
    key = next(iter(cloud._codes))
    cloud._codes[key] = replace(fit, codes=torch.zeros_like(fit.codes))
    assert cell_count_variance(cloud, codebooks=1, bits=2).codes == ("one_cell",)


def test_constant_columns_are_left_out_with_a_warning():
    rows = normal(3000, 64)
    dead = rows.clone()
    dead[:, 16:32] = 0.1
    estimate = patchiness(PointCloud(dead))
    assert estimate.value == pytest.approx(1, abs=0.02) and estimate.codes == ("dead_blocks",)
    assert "1 of 4 blocks" in estimate.warnings[0] and estimate.details["codebooks"] == 3
    assert patchiness(PointCloud(rows)).codes == ()


def test_a_block_with_fewer_different_rows_than_cells_gives_a_warning():
    rows = normal(3000, 64)
    rows[:, 16:32] = (rows[:, 16:17] > 0).float()  # two values
    estimate = patchiness(PointCloud(rows))
    assert estimate.codes == ("few_different_rows",) and "1 of 4 blocks" in estimate.warnings[0]


def test_unknown_names_and_bad_options_are_refused():
    cloud = PointCloud(normal(300, 8))
    with pytest.raises(UnknownName, match="unknown convention of patchiness 'loyd'. Did you mean 'lloyd'"):
        patchiness(cloud, "loyd")
    with pytest.raises(UnknownName, match="unknown quantizer"):
        patchiness(cloud, quantizer="pq")
    with pytest.raises(BadInput, match="`quantizer_seeds`: got 0; wanted at least 1"):
        patchiness(cloud, quantizer_seeds=0)


# --- the differentiable form ----------------------------------------------------------------------------------------


def test_soft_patchiness_tends_to_the_hard_one():
    rows = normal(500, 6).double()
    found = quantize(rows, codebooks=1, bits=4)
    hard = float(lloyd_patchiness_of(found.counts))
    gaps = [abs(float(soft_patchiness(rows - found.shift, found.codebooks[0], t)) - hard) for t in (1.0, 0.1, 1e-4)]
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-3


def test_soft_patchiness_counts_every_pair_by_the_product_of_its_assignments():
    rows, words = normal(20, 3).double(), normal(4, 3, seed=1).double()
    q = torch.softmax(-torch.cdist(rows, words).square() / 0.7, dim=1)
    pairs = sum(float(q[i] @ q[j]) for i in range(20) for j in range(20) if i != j)
    assert float(soft_patchiness(rows, words, 0.7)) == pytest.approx(4 * pairs / 400, rel=1e-10)
    assert float(soft_patchiness(rows + 1e4, words + 1e4, 0.7)) == pytest.approx(4 * pairs / 400, rel=1e-6)


def test_soft_patchiness_has_right_gradients():
    rows = normal(7, 3).double().requires_grad_()
    words = normal(4, 3, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, c: soft_patchiness(x, c, 0.5), (rows, words))


def test_lowering_soft_patchiness_spreads_the_rows():
    rows = (0.3 * normal(64, 2).double() + 0.4).requires_grad_()
    words = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]], dtype=torch.float64)
    optimizer = torch.optim.SGD([rows], lr=2.0)
    steps = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = soft_patchiness(rows, words, 0.5)
        loss.backward()
        optimizer.step()
        steps.append(loss.item())
    assert steps[-1] < steps[0] - 0.1


def test_soft_patchiness_refuses_what_does_not_fit():
    with pytest.raises(BadInput, match="`codebook`: got shapes"):
        soft_patchiness(torch.zeros(5, 3), torch.zeros(4, 2), 1.0)
    with pytest.raises(BadInput, match="`temperature`: got 0; wanted a positive number"):
        soft_patchiness(torch.zeros(5, 3), torch.zeros(4, 3), 0)


def test_divergence_from_a_drawn_histogram_is_the_expectation_of_the_released_one(generator):
    """The released code draws n uniform numbers and takes scipy's kl_div with their histogram; here its mean."""
    rng, n, cells = np.random.default_rng(0), 600, 16
    counts = torch.multinomial(torch.linspace(1, 3, cells), n, replacement=True, generator=generator).bincount()
    p, found = counts.numpy() / n, []
    for _ in range(3000):
        u = np.histogram(rng.uniform(size=n), bins=cells, range=(0, 1))[0] / n
        found.append(float((p * np.log(p / u)).sum()))
    expected = float(cell_count_divergence_code_of(counts[None]))
    assert expected == pytest.approx(np.mean(found), abs=4 * np.std(found) / 3000**0.5)
    assert expected - float(cell_count_divergence_of(counts[None])) == pytest.approx(cells / (2 * n), rel=0.1)
    both = torch.stack([counts, counts * 2])[:, None]  # two folds of different size
    assert cell_count_divergence_code_of(both).shape == (2,)
