"""Limits: the fewest rows that suffice, sequences that stand still, squares that underflow."""

from itertools import product
from math import comb, inf, log

import pytest
import torch

from hf_repgeo import measure
from hf_repgeo.errors import BadInput
from hf_repgeo.measures import (
    MEASURES,
    PointCloud,
    anisotropy,
    effective_rank,
    interval_of,
    levina_bickel,
    patchiness,
    uniformity,
)
from hf_repgeo.measures.cells import _error_of_cells, cell_count_divergence_code_of
from hf_repgeo.measures.eigen import principal_coordinates
from hf_repgeo.measures.hubs import antihub_share, hubness, local_dimension
from hf_repgeo.measures.kernels.neighbors import _Points, _smallest
from hf_repgeo.measures.kernels.quantizers import refitted_counts
from hf_repgeo.measures.moments import Moments
from hf_repgeo.measures.nulls import _isotropic_moments, gaussian_shrinkage, surrogates
from hf_repgeo.measures.pairs import COMPARISONS, CloudPair, cka_matrix, evaluate_pair, subspace_novelty
from hf_repgeo.measures.pairs.differences import sign_flip_test
from hf_repgeo.measures.rounding import rounding_noise, spectral_loss
from hf_repgeo.measures.spectral_errors import second_order_variance
from hf_repgeo.measures.spectral_shape import differential_entropy, power_law_exponent_of
from hf_repgeo.measures.trajectories import curvature, mean_angle


@pytest.fixture
def rows(generator):
    return torch.randn(200, 5, dtype=torch.float64, generator=generator)


OF_NEIGHBOURS = [hubness, antihub_share, local_dimension, levina_bickel]


@pytest.mark.parametrize("of_neighbours", OF_NEIGHBOURS)
def test_k_neighbours_need_one_row_more_than_k(rows, of_neighbours):
    assert of_neighbours(PointCloud(rows[:31]), k=30).value is not None
    found = of_neighbours(PointCloud(rows[:30]), k=30)
    assert found.value is None and "at least 31 are needed" in found.warnings[0]


@pytest.mark.parametrize("of_neighbours", OF_NEIGHBOURS)
def test_two_neighbours_are_enough_and_one_is_refused(rows, of_neighbours):
    assert of_neighbours(PointCloud(rows), k=2).value is not None
    with pytest.raises(BadInput, match="`k`"):
        of_neighbours(PointCloud(rows), k=1)


@pytest.mark.parametrize("of_neighbours", OF_NEIGHBOURS)
def test_distances_that_underflow_are_counted(rows, of_neighbours):
    """Beside a row of 1e180, rows of 1 are scaled to 1e-180, and the squares of their differences are zero."""
    rows[0] = 1e180
    found = of_neighbours(PointCloud(rows), k=5)
    assert found.value is None and "the distances of 199 distinct rows" in found.warnings[0]


@pytest.mark.parametrize("name", MEASURES)
def test_the_number_of_rows_that_the_table_states_is_the_least_that_gives_a_value(name, generator):
    least = MEASURES[name].minimum_rows
    rows = torch.randn(least, 60, generator=generator)
    low, high = MEASURES[name].range
    value = measure(rows, name).rows[0]["value"]
    assert (-inf if low is None else low) <= value <= (inf if high is None else high)
    if least == 2:  # as of any cloud
        with pytest.raises(BadInput, match="at least 2"):
            measure(rows[:1], name)
    else:
        assert measure(rows[1:], name).rows[0]["value"] is None


def test_a_third_quartile_without_bound_is_none_in_the_details(generator):
    """The twenty neighbours of a row on a regular simplex are at one distance: its dimension has no bound."""
    simplex = torch.cat([10 * torch.eye(100), torch.zeros(100, 1)], 1).double()
    others = torch.randn(150, 101, generator=generator, dtype=torch.float64)
    others[:, :-1] = 0.01 * others[:, :-1] * (torch.arange(100) < 3)
    others[:, -1] += 100
    details = local_dimension(PointCloud(torch.cat([simplex, others]))).details
    assert details["upper"] is None and details["lower"] > 0


def test_a_token_that_stands_still_has_no_part_in_the_curvature():
    square = torch.tensor([[0.0, 0], [1, 0], [1, 0], [1, 1], [0, 1], [0, 0]], dtype=torch.float64)
    assert mean_angle(square) == pytest.approx(torch.pi / 2)


@pytest.mark.parametrize("size", [1e-150, 1e-158, 1e-161])
def test_the_length_of_a_row_whose_squares_underflow_has_all_its_digits(size):
    cloud = PointCloud(torch.tensor([[1.0, 0, 0], [3 * size, 4 * size, 12 * size]], dtype=torch.float64))
    assert float(cloud.norms[1] / cloud.norms[0]) / size == pytest.approx(13, rel=1e-12)


@pytest.mark.parametrize(("beyond", "told"), [(1.001, "moves this number"), (0.999, "makes this number")])
def test_eigenvalues_up_to_the_edge_of_marchenko_and_pastur_are_rounding_alone(beyond, told, generator):
    n, d = 300, 40
    cloud = PointCloud((1000 + torch.randn(n, d, generator=generator)).to(torch.bfloat16))
    edge = rounding_noise(cloud) / d * (1 + (d / n) ** 0.5) ** 2
    eigenvalues = torch.tensor([beyond * edge], dtype=torch.float64)
    [warning] = spectral_loss(cloud, float(eigenvalues), torch.sum, eigenvalues)
    assert told in warning


def test_effective_rank_has_an_error_from_one_row_more_than_columns(generator):
    rows = torch.randn(31, 30, generator=generator)
    assert effective_rank(PointCloud(rows[:30])).codes == ("rank_limited",)
    assert "rank_limited" not in effective_rank(PointCloud(rows)).codes


def test_two_seeds_of_a_quantizer_tell_how_far_they_are_apart(rows):
    one, two = (patchiness(PointCloud(rows), bits=2, codebooks=1, quantizer_seeds=count) for count in (1, 2))
    assert "seed_standard_deviation" not in one.details and two.details["quantizer_seeds"] == 2
    assert two.details["seed_standard_deviation"] >= 0


@pytest.mark.parametrize("folds", [8, 12])
def test_up_to_twelve_folds_every_pattern_of_signs_is_tried(folds, generator):
    shares = 0.3 + torch.randn(1, folds, dtype=torch.float64, generator=generator)
    means = torch.tensor(
        [sum(s * x for s, x in zip(signs, shares[0].tolist())) for signs in product((1, -1), repeat=folds)]
    )
    wanted = (means.abs() >= means[0].abs() - 1e-6).double().mean()
    for seed in (0, 1):
        assert float(sign_flip_test(shares, seed=seed)[0]) == float(wanted)


def test_in_two_columns_the_shrinkage_has_a_closed_form():
    """`2 (a + b)^2 / (n (a - b)^2)` of the eigenvalues a and b, from Chen et al., equation 23."""
    a, b, n = 5.0, 1.0, 100
    found = gaussian_shrinkage(n, 2, a + b, a**2 + b**2)
    assert found == pytest.approx(2 * (a + b) ** 2 / (n * (a - b) ** 2), rel=1e-12)


def test_a_surrogate_of_fewer_rows_than_columns_keeps_their_leading_direction(generator):
    rows = 0.1 * torch.randn(30, 40, generator=generator)
    rows += 5 * torch.randn(30, 1, generator=generator) * torch.randn(40, generator=generator)
    for drawn in surrogates(PointCloud(rows), "gaussian", draws=3, seed=0):
        assert anisotropy(PointCloud(drawn)).value > 0.8


def test_comparisons_reach_the_ends_of_their_range(generator):
    columns = torch.linalg.qr(torch.randn(60, 9, dtype=torch.float64, generator=generator))[0]
    columns = torch.linalg.qr(columns - columns.mean(0))[0]
    X, Y = columns[:, :4], columns[:, 4:8]  # centred, and every column of X is orthogonal to every column of Y
    for name, comparison in COMPARISONS.items():
        low, high = comparison.range
        [same] = evaluate_pair(CloudPair(X, X), [(name, comparison.conventions[0])])
        if name == "information_imbalance":  # 2 / n times the mean rank, which is 1
            assert same.value == pytest.approx(2 / 60) and high == 2
        else:
            assert same.value == pytest.approx(high if comparison.kind == "similarity" else low, abs=1e-9)
    [apart] = evaluate_pair(CloudPair(X, Y), [("orthogonal_procrustes", "nuclear")])
    assert apart.value == pytest.approx(COMPARISONS["orthogonal_procrustes"].range[0], abs=1e-9)
    sizes = torch.tensor([10.0] * 4 + [0.1] * 4, dtype=torch.float64)
    novel = subspace_novelty(CloudPair(columns[:, :8] * sizes, columns[:, :8] * sizes.flip(0)), directions=4)
    assert novel.value == pytest.approx(COMPARISONS["subspace_novelty"].range[1], abs=1e-9)


@pytest.mark.parametrize("n", [12, 200])
def test_coordinates_in_the_eigenbasis_have_the_inner_products_of_the_centred_rows(n, generator):
    rows = 3 + 20 * torch.randn(n, 30, dtype=torch.float64, generator=generator)
    found = torch.cat(list(principal_coordinates(rows, Moments.of(rows) if n > 30 else None))).double()
    centred = rows - rows.mean(0)
    assert torch.allclose(
        found @ found.T, centred @ centred.T, rtol=1e-4, atol=1e-4 * float(centred.square().sum() / n)
    )


def test_no_map_is_fitted_to_a_spread_whose_squares_underflow(generator):
    X = torch.tensor([[1.0, -1e-161], [1.0, 1e-161], [1.0, 3.6e-161]], dtype=torch.float64)
    Y = torch.randn(3, 1, dtype=torch.float64, generator=generator)
    [found] = evaluate_pair(CloudPair(X, Y), [("linearity_score", "held_out")])
    assert found.value is None and found.codes == ("no_spread",)
    X[0] = torch.tensor([0.5, 0.5])  # without this row the others differ only by what underflows
    [found] = evaluate_pair(CloudPair(X, Y), [("linearity_score", "held_out")])
    assert found.value is not None and found.value < 1


def test_a_row_is_massive_from_five_times_the_median_norm():
    rows = torch.eye(40, dtype=torch.float64)
    rows[0] *= 4.999
    rows[1] *= 5.001
    assert measure(rows, "massive_share").rows[0]["value"] == 1 / 40


def test_an_interval_is_of_95_percent_unless_asked_otherwise(rows):
    cloud = PointCloud(rows)
    for asked, level in (({}, 0.95), ({"level": 0.5}, 0.5)):
        [found] = interval_of(cloud, [anisotropy(cloud)], **asked)
        assert found.details["interval_level"] == level


def test_the_band_of_nine_surrogates_is_students_with_eight_degrees_of_freedom(rows):
    details = measure(rows, "anisotropy", null=True).rows[0]["details"]
    reach = 2.306004 * details["null_sd"] * (1 + 1 / 9) ** 0.5  # the table's t for 95 % and 8 degrees
    assert details["null_high"] - details["null"] == pytest.approx(reach, rel=1e-6)
    assert details["null"] - details["null_low"] == pytest.approx(reach, rel=1e-6)


@pytest.mark.parametrize("size", [1e-6, 2e-7])
def test_rows_below_float16s_normal_range_are_rounded_to_its_least_step(size, generator):
    cloud = PointCloud((size * torch.randn(300, 10, generator=generator)).half())
    assert rounding_noise(cloud) * (cloud.unit * 2.0**24) ** 2 == pytest.approx(10 / 12, rel=1e-6)


@pytest.mark.parametrize("columns", [3, 2000])
def test_float32_rounds_rows_around_zero_by_a_share_of_zero(columns, generator):
    assert rounding_noise(PointCloud(torch.randn(300, columns, generator=generator))) == 0


def test_the_divergence_of_the_authors_code_expects_binomial_counts():
    """The mean of log(B / n) over a binomial B that is not 0, here by adding up its probabilities."""
    counts = torch.tensor([[4, 1, 0, 2]])
    n, p = 7, 1 / 4
    law = {b: comb(n, b) * p**b * (1 - p) ** (n - b) for b in range(1, n + 1)}
    expected = sum(weight * log(b / n) for b, weight in law.items()) / sum(law.values())
    wanted = sum(c / n * log(c / n) for c in (4, 1, 2)) - expected
    assert float(cell_count_divergence_code_of(counts)) == pytest.approx(wanted, rel=1e-9)


def test_chance_of_a_stream_of_fewer_rows_than_columns_has_the_directions_of_its_rows(generator):
    wide, high = (_isotropic_moments(n, 8, generator).scatter for n in (5, 4000))
    assert torch.linalg.matrix_rank(wide) == 4
    assert torch.allclose(high / 4000, torch.eye(8, dtype=torch.float64), atol=0.1)
    traces = torch.stack([_isotropic_moments(5, 8, generator).scatter.trace() for _ in range(500)])
    assert float(traces.mean()) == pytest.approx(4 * 8, rel=0.05)  # n - 1 degrees of freedom in each of 8 columns


@pytest.mark.parametrize("n", [11, 1000, 1001])
def test_entropy_from_spacings_changes_its_ends_where_scipy_does(n, generator):
    columns = torch.randn(n, 2, dtype=torch.float64, generator=generator)
    stats = pytest.importorskip("scipy.stats")
    wanted = stats.differential_entropy(columns.numpy(), axis=0)
    assert differential_entropy(columns).tolist() == pytest.approx(wanted.tolist(), rel=1e-9)


def test_three_tokens_are_enough_for_a_curvature_and_two_are_not():
    corner = torch.tensor([[0.0, 0], [1, 0], [1, 1], [5, 5], [6, 6]])
    found = curvature(PointCloud(corner, groups=torch.tensor([0, 0, 0, 1, 1])))
    assert found.value == pytest.approx(torch.pi / 2)


def test_two_rows_whose_difference_underflows_have_no_local_dimension(rows):
    rows[:2] = torch.tensor([[1e-170], [2e-170]], dtype=torch.float64)
    found = local_dimension(PointCloud(rows), k=5)
    assert found.value is None and "the distances of 2 distinct rows" in found.warnings[0]


def test_without_rounding_an_eigenvalue_is_smaller_by_the_noise(generator):
    cloud = PointCloud((1000 + torch.randn(300, 40, generator=generator)).to(torch.bfloat16))
    noise = rounding_noise(cloud) / 40
    eigenvalues = torch.tensor([4 * noise], dtype=torch.float64)
    [warning] = spectral_loss(cloud, float(eigenvalues), torch.sum, eigenvalues)
    told = float(warning.partition("about ")[2].partition(" ")[0])
    assert told == pytest.approx(3 * noise, rel=5e-3)


@pytest.mark.parametrize("n", [5, 7])
def test_the_matrix_of_layers_is_the_unbiased_hsic_of_few_rows(n, generator):
    """From kernels with an empty diagonal, centred so that rows and columns of either sum to zero (Szekely, Rizzo)."""
    layers = [torch.randn(n, width, dtype=torch.float64, generator=generator) for width in (3, 9)]
    centred = []
    for layer in layers:
        kernel = (layer @ layer.T).fill_diagonal_(0)
        sums = kernel.sum(0)
        kernel = kernel - (sums[:, None] + sums) / (n - 2) + kernel.sum() / ((n - 1) * (n - 2))
        centred.append(kernel.fill_diagonal_(0))
    hsic = torch.stack([torch.stack([(K * L).sum() for L in centred]) for K in centred])
    wanted = hsic / torch.outer(hsic.diagonal(), hsic.diagonal()).sqrt()
    assert torch.allclose(cka_matrix(layers), wanted, rtol=1e-9)


@pytest.mark.parametrize("size", [1e-5, 1e5])
def test_cka_does_not_depend_on_the_unit_of_the_rows(size, rows):
    X, Y = rows, rows[:, :2].square()
    [one] = evaluate_pair(CloudPair(X, Y), [("linear_cka", "debiased")])
    [other] = evaluate_pair(CloudPair(size * X, size * Y), [("linear_cka", "debiased")])
    assert other.value == pytest.approx(one.value, rel=1e-9)


def test_the_imbalance_in_reverse_is_that_of_the_clouds_exchanged(rows):
    X, Y = rows, rows[:, :2]
    asked = [("information_imbalance", "glielmo")]
    [one], [other] = evaluate_pair(CloudPair(X, Y), asked), evaluate_pair(CloudPair(Y, X), asked)
    assert one.details["reverse"] == other.value != one.value == other.details["reverse"]


@pytest.mark.parametrize(("convention", "first", "last"), [("agrawal", 11, 50), ("agrawal_code", 4, 100)])
def test_a_power_law_is_fitted_to_the_published_ranks_and_no_others(convention, first, last):
    eigenvalues = torch.arange(1, 151, dtype=torch.float64) ** -1.3
    eigenvalues[: first - 1] *= 7
    eigenvalues[last:] /= 7
    assert float(power_law_exponent_of(eigenvalues, convention)) == pytest.approx(1.3, rel=1e-12)


def clumped(n, generator):
    places = 20 * torch.randn(6, 16, generator=generator)
    return places[torch.arange(n) % 6] + torch.randn(n, 16, generator=generator)


@pytest.mark.parametrize(("n", "enough"), [(35, False), (36, True)])
def test_cells_are_fitted_to_halves_from_two_rows_a_cell_and_one_a_fold(n, enough, generator):
    """Sixteen rows for 8 cells and 20 for 20 folds; three rows in four are one clump."""
    rows = torch.randn(n, 16, generator=generator)
    rows[torch.arange(n) % 4 > 0] *= 0.01
    found = patchiness(PointCloud(rows), bits=3)
    assert (found.standard_error is not None) == enough == ("moving_cells" not in found.codes)
    assert ("cells of halves" in (found.se_method or "")) == enough


def test_the_error_of_the_cells_is_the_scatter_of_each_codebook_between_halves(generator):
    """Of a mean over M codebooks: root of the sum of `(difference / M)^2 / 4`."""
    cloud = PointCloud(clumped(300, generator))
    fit = cloud.codes(quantizer="product", codebooks=3, bits=3)
    first = cloud.folds % 2 == 0
    one, other = (refitted_counts(cloud.rows, fit, half).double().square().sum(1) for half in (first, ~first))
    found = _error_of_cells(cloud, lambda counts: counts.double().square().sum(1).mean(), fit)
    assert found == pytest.approx(float((one - other).square().sum().sqrt()) / 3 / 2) and found > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smallest_values_of_a_row_are_all_found_and_the_largest_of_them_is_last(dtype, generator):
    values = torch.rand(2000, 300, dtype=torch.float64, generator=generator)
    values = (values.argsort(1) + 1).to(dtype) / 300  # none so near another that a position in the last bits hides it
    found, places = _smallest(values, 150)
    wanted = values.sort(1)
    assert torch.equal(places.sort(1).values, wanted.indices[:, :150].sort(1).values)
    assert torch.equal(places[:, -1], wanted.indices[:, 149])
    assert torch.allclose(found, values.gather(1, places), rtol=1e-3) and (found <= values.gather(1, places)).all()


def test_no_row_is_farther_from_its_rounding_than_the_search_believes(generator):
    """Whole numbers, so that subtracting the centre is exact."""
    rows = torch.randint(-3000, 3000, (400, 30), generator=generator).float()
    points = _Points(rows, torch.bfloat16)
    centre = rows[::4].double().median(0).values
    away = (rows.double() - centre) / points.scale - points.extended[: len(rows), :30].double()
    assert (points.errors >= away.norm(dim=1)).all()
    assert (points.errors <= 1.001 * away.norm(dim=1)).all()


@pytest.mark.parametrize(("angle", "end"), [(0.0, 1), (torch.pi, 0)])
def test_uniformity_of_two_rows_reaches_both_ends_of_its_range(angle, end):
    """`log exp(-2 |x - y|^2)`, and two directions are between 0 and 2 apart."""
    rows = torch.tensor([[1.0, 0], [torch.tensor(angle).cos(), torch.tensor(angle).sin()]], dtype=torch.float64)
    assert uniformity(PointCloud(rows)).value == pytest.approx(MEASURES["uniformity"].range[end], abs=1e-9)


def test_an_eigenvalue_at_rounding_of_the_largest_has_no_part_in_an_error():
    values = torch.tensor([1.0, 1e-4, 1e-13], dtype=torch.float64)
    with_it, without = (second_order_variance(lambda v: v.log().sum(), part, 100) for part in (values, values[:2]))
    assert with_it == without > 0


def test_four_documents_give_an_interval_and_three_do_not(rows):
    for count in (3, 4):
        cloud = PointCloud(rows, groups=torch.arange(len(rows)) % count)
        [found] = interval_of(cloud, [anisotropy(cloud)])
        assert ("low" in found.details) == (count == 4) == ("too_few_groups" not in found.codes)


@pytest.mark.parametrize(("shape", "cure"), [((2, 3, 4), "flatten them"), ((3,), "stack several")])
def test_rows_of_another_number_of_dimensions_are_refused_with_a_cure(shape, cure):
    with pytest.raises(BadInput, match=cure):
        measure(torch.ones(shape), "anisotropy")


@pytest.mark.parametrize(("length", "narrowed"), [(1, True), (1e4, False)])
def test_few_rows_without_a_giant_one_have_errors_in_their_own_eigenbasis(length, narrowed, generator):
    """Beside a row of ten thousand, coordinates in float32 would leave the others no digits."""
    rows = torch.randn(25, 40, generator=generator)
    rows[0] *= length
    assert (PointCloud(rows).subset(torch.arange(1, 25)).origin is not None) == narrowed
