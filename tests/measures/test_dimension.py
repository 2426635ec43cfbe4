"""TwoNN and related estimators: published formulas, scikit-dimension, closed forms, data that other code gets wrong."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch

from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.measures import PointCloud, ball, intrinsic_dimension
from hf_repgeo.measures.dimension import CONVENTIONS, SHARED_NEIGHBORS, two_nn_authors, two_nn_likelihood, two_nn_line
from hf_repgeo.measures.scales import gride, levina_bickel, levina_bickel_loss, scale_curve


def manifold(n: int = 1500, d: int = 48, dimension: int = 8, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(n, dimension, generator=generator)
    return flat @ torch.randn(dimension, d, generator=generator)


def ratios(n: int = 4000, dimension: float = 7.0, seed: int = 0) -> torch.Tensor:
    """Logarithms of independent ratios r2 / r1 in exactly this dimension, ascending."""
    exponential = torch.empty(n, dtype=torch.float64).exponential_(1, generator=torch.Generator().manual_seed(seed))
    return exponential.sort().values / dimension


def plain_distances(X: torch.Tensor) -> np.ndarray:
    """r1 and r2 of every row, the slow way in float64, `(n, 2)`."""
    X = X.to(torch.float64).numpy()
    return np.stack([np.sort(np.sqrt(((X - row) ** 2).sum(1)))[1:3] for row in X])


def plain_facco(X: torch.Tensor) -> float:
    r1, r2 = plain_distances(X).T
    x = np.sort(np.log(r2 / r1))
    n_used = int(0.9 * len(x))
    y = [-math.log(1 - rank / len(x)) for rank in range(1, n_used + 1)]
    return sum(a * b for a, b in zip(x, y)) / sum(a * a for a in x[:n_used])


def plain_razzhigaev(X: torch.Tensor) -> float:
    """What the authors of "The Shape of Learning" describe and their code does, in one Python loop."""
    X = X.to(torch.float64) - X.to(torch.float64).mean(0)
    X = X / torch.linalg.vector_norm(X, dim=1).mean()
    mu, removed = [], 0
    for r1, r2 in plain_distances(X):
        if r1 < 1e-8 or r2 / r1 <= 1 + 1e-8:
            removed += 1
        else:
            mu.append(r2 / r1)
    points = []
    for i, value in enumerate(sorted(mu)[: min(len(mu) // 5, len(mu) - 1)], 1):
        points.append((math.log(value), -math.log(1 - (i + removed) / (len(mu) + removed))))
    return sum(x * y for x, y in points) / sum(x * x for x, y in points)


# --- conventions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [200, 1501])
@pytest.mark.parametrize("convention, plain", [("facco", plain_facco), ("razzhigaev", plain_razzhigaev)])
def test_the_lines_equal_their_plain_restatements(convention, plain, n):
    X = manifold(n)
    assert intrinsic_dimension(PointCloud(X), convention).value == pytest.approx(plain(X), rel=1e-9)


def test_razzhigaev_removes_what_is_nearer_than_his_epsilon_times_the_mean_norm():
    X = torch.randn(200, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))  # of mean norm 10
    X[1::4] = X[::4] + 5e-9  # 5e-8 apart
    estimate = intrinsic_dimension(PointCloud(X), "razzhigaev")
    assert estimate.value == pytest.approx(plain_razzhigaev(X), rel=1e-6)


def test_razzhigaev_counts_removed_ratios_in_f():
    """Half of a grid's rows have mu = 1: they stay in F, which is where this convention differs from all others."""
    generator = torch.Generator().manual_seed(0)
    X = torch.cartesian_prod(*[torch.arange(6.0)] * 3) * 3
    X[::3] += torch.randn(len(X[::3]), 3, generator=generator)
    estimate = intrinsic_dimension(PointCloud(X), "razzhigaev")
    assert estimate.details["n_ties"] > 20 and "ties" in estimate.codes
    assert estimate.value == pytest.approx(plain_razzhigaev(X), rel=1e-9)


@pytest.mark.parametrize("convention, method", [("facco", "linear"), ("mle", "mle")])
def test_scikit_dimension_agrees_on_distinct_rows(convention, method):
    skdim = pytest.importorskip("skdim")
    for X in (manifold(), manifold(d=12), torch.rand(800, 5, generator=torch.Generator().manual_seed(0))):
        theirs = skdim.id.TwoNN(method=method).fit(X.double().numpy()).dimension_
        assert intrinsic_dimension(PointCloud(X.double()), convention).value == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("dimension", [0.5, 2, 30])
def test_exact_quantiles_give_the_dimension_back(dimension):
    rank = torch.arange(1, 1001, dtype=torch.float64)
    log_mu = -torch.log1p(-rank.clamp(max=999.5) / 1000) / dimension
    assert float(two_nn_line(log_mu)) == pytest.approx(dimension, rel=1e-12)
    assert float(two_nn_authors(log_mu, 0)) == pytest.approx(dimension, rel=1e-12)
    assert float(two_nn_likelihood(log_mu)[0]) == pytest.approx(dimension, rel=5e-3)


def test_ten_dimensional_gauss_is_just_below_ten():
    """Over 10 seeds of 4,096 rows: 9.83 (0.20) by facco, 9.84 (0.18) by likelihood, 9.82 (0.32) by razzhigaev."""
    cloud = PointCloud(manifold(4096, 64, 10))
    for convention, spread in (("facco", 0.2), ("mle", 0.18), ("razzhigaev", 0.32)):
        assert abs(intrinsic_dimension(cloud, convention).value - 9.83) < 4 * spread


def test_an_unknown_convention_is_refused():
    with pytest.raises(UnknownName, match="Did you mean 'facco'"):
        intrinsic_dimension(PointCloud(manifold(50)), "faco")


# --- standard errors --------------------------------------------------------------------------------------------------


def mean_error_over_spread(fit) -> float:
    """The standard errors that `fit` reports over the spread of its values, on 150 independent draws of ratios."""
    values, errors = zip(*(fit(ratios(2000, seed=seed), seed) for seed in range(150)))
    return float(np.mean(errors) / np.std(values, ddof=1))


class Fold:
    """The part of a cloud that the jackknife uses."""

    def __init__(self, n: int, seed: int):
        self.jackknife, self.n_distinct = True, n
        self.folds = torch.randperm(n, generator=torch.Generator().manual_seed(seed)) % 20
        self.distinct = torch.arange(n)


def test_the_jackknife_error_is_the_spread_of_repeated_draws():
    from hf_repgeo.measures.dimension import _by_line

    def fit(log_mu, seed):
        return _by_line(Fold(len(log_mu), seed), log_mu, torch.arange(len(log_mu)))[:2]

    assert 0.85 < mean_error_over_spread(fit) / SHARED_NEIGHBORS < 1.15


def test_the_likelihood_error_is_the_spread_of_repeated_draws():
    def fit(log_mu, seed):
        value, n_used = two_nn_likelihood(log_mu)
        return float(value), float(value) / n_used**0.5

    assert 0.85 < mean_error_over_spread(fit) < 1.15


FURTHER = {
    "levina_bickel": levina_bickel,
    "gride": lambda cloud: gride(cloud, 4, 8),
}


@pytest.mark.parametrize("estimator", [*CONVENTIONS, *FURTHER])
def test_reported_errors_are_about_the_spread_over_fresh_clouds(estimator):
    """Neighbourhoods overlap, for which a tenth is added; Levina-Bickel's of 20 neighbours overlap more."""
    embedding = torch.randn(4, 8, generator=torch.Generator().manual_seed(999))
    clouds = [torch.randn(400, 4, generator=torch.Generator().manual_seed(seed)) @ embedding for seed in range(50)]
    measure = FURTHER.get(estimator, lambda cloud: intrinsic_dimension(cloud, estimator))
    estimates = [measure(PointCloud(X)) for X in clouds]
    spread = np.std([estimate.value for estimate in estimates], ddof=1)
    assert 0.55 < np.mean([estimate.standard_error for estimate in estimates]) / spread < 1.3


@pytest.mark.parametrize("convention", ["facco", "razzhigaev"])
def test_the_jackknife_leaves_out_whole_documents(convention):
    """Its definition, fold by fold: the same fit on the ratios of the other folds."""
    X = manifold(600)
    cloud = PointCloud(X, groups=torch.arange(600) // 12)
    log_mu, order = (cloud.neighbors.distances[:, 1] / cloud.neighbors.distances[:, 0]).log().sort()
    fit = two_nn_line if convention == "facco" else lambda left: two_nn_authors(left, 0)
    left_out = [float(fit(log_mu[cloud.folds[order] != fold])) for fold in range(20)]
    expected = math.sqrt(19 * np.var(left_out))
    estimate = intrinsic_dimension(cloud, convention)
    assert estimate.standard_error == pytest.approx(SHARED_NEIGHBORS * expected, rel=1e-9)
    assert estimate.se_method == "jackknife(20 groups)"


@pytest.mark.parametrize("measure", [gride, lambda cloud: intrinsic_dimension(cloud, "mle")])
def test_likelihoods_leave_out_whole_documents_too(measure):
    """Documents differ in dimension; the likelihood's own error would count every row as independent."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(24, 1, 1, generator=generator) * 20
    rows = (torch.randn(24, 25, 10, generator=generator) * (torch.arange(10) < 3 + scales.round() % 6)).flatten(0, 1)
    alone, grouped = measure(PointCloud(rows)), measure(PointCloud(rows, groups=torch.arange(24).repeat_interleave(25)))
    assert (alone.se_method, grouped.se_method) == ("likelihood", "jackknife(20 groups)")
    assert grouped.value == alone.value and grouped.standard_error > 1.3 * alone.standard_error


def test_a_cloud_without_jackknife_reports_no_error_of_the_lines():
    cloud = PointCloud(manifold(100), jackknife=False)
    assert intrinsic_dimension(cloud).standard_error is None
    assert intrinsic_dimension(cloud, "mle").se_method == "likelihood"


# --- traps ------------------------------------------------------------------------------------------------------------


def assert_right(X, true: float, rel: float = 1e-6) -> None:
    assert intrinsic_dimension(PointCloud(X)).value == pytest.approx(true, rel=rel)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_offset_of_1000_changes_nothing_but_the_rounding_of_the_rows(dtype):
    X = (30 * manifold(700) + 1000).to(dtype)
    assert_right(X, plain_facco(torch.unique(X, dim=0)))


def test_a_massive_dimension_in_half_the_rows_is_exact():
    X = manifold(700)
    X[::2, 5] += 3000
    assert_right(X, plain_facco(X))


def test_massive_rows_are_exact():
    X = manifold(700)
    X[::100] *= 180
    assert_right(X, plain_facco(X))


@pytest.mark.parametrize("factor", [1e-22, 1e-30, 1e20, 1e30])
def test_scale_changes_nothing(factor):
    X = manifold(700)
    cloud = PointCloud(X * factor)
    estimate = intrinsic_dimension(cloud)
    assert estimate.value == pytest.approx(intrinsic_dimension(PointCloud(X)).value, rel=1e-5)
    assert estimate.details["mean_r1"] == pytest.approx(factor * plain_distances(X)[:, 0].mean(), rel=1e-5)


def test_copies_count_once_and_are_reported():
    """Every fifth row occurs twice: other libraries give 0.09 to 62.5 for a dimension of 8."""
    X = manifold(1000)
    cloud = PointCloud(torch.cat([X, X[:200]]))
    for convention in CONVENTIONS:
        estimate = intrinsic_dimension(cloud, convention)
        assert estimate.value == intrinsic_dimension(PointCloud(X), convention).value
        assert (estimate.n, estimate.n_distinct) == (1200, 1000)
        assert estimate.codes[0] == "duplicates" and "200 of 1200 rows" in estimate.warnings[0]
        assert ("differs_from_authors_code" in estimate.codes) == (convention == "razzhigaev")


def test_a_cloud_of_mostly_copies_gives_a_warning():
    estimate = intrinsic_dimension(PointCloud(manifold(100).repeat(3, 1)))
    assert estimate.codes == ("duplicates", "few_distinct_rows")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_grid_has_no_value_and_a_reason(convention):
    estimate = intrinsic_dimension(PointCloud(torch.cartesian_prod(*[torch.arange(7.0)] * 3)), convention)
    assert estimate.value is None and estimate.codes == ("all_ratios_one",)
    assert estimate.details["n_ties"] == 343


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_equal_rows_have_no_value_and_a_reason(convention):
    estimate = intrinsic_dimension(PointCloud(torch.ones(50, 3)), convention)
    assert estimate.value is None and estimate.codes == ("no_spread",)


def test_too_few_distinct_rows_have_no_value_and_a_reason():
    estimate = intrinsic_dimension(PointCloud(manifold(19).repeat(4, 1)))
    assert estimate.value is None and estimate.codes == ("too_few_distinct_rows",)
    assert "19 of 76" in estimate.warnings[0]
    assert intrinsic_dimension(PointCloud(manifold(20))).value > 0


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_rigid_motions_and_row_order_change_nothing(convention):
    X = manifold(500, 12).double()
    value = intrinsic_dimension(PointCloud(X), convention).value
    turn = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).Q
    order = torch.randperm(500, generator=torch.Generator().manual_seed(3))
    for same in (X @ turn, 3.7 * X + 11, X[order], X.flip(1)):
        assert intrinsic_dimension(PointCloud(same), convention).value == pytest.approx(value, rel=1e-9)


def test_details_say_what_was_used():
    details = intrinsic_dimension(PointCloud(manifold(1000))).details
    assert (details["n_used"], details["used_share"], details["n_ties"]) == (900, 0.9, 0)
    assert intrinsic_dimension(PointCloud(manifold(1000)), "razzhigaev").details["n_used"] == 200


# --- further estimators -----------------------------------------------------------------------------------------------


def k_distances(X: torch.Tensor, k: int) -> torch.Tensor:
    distances = torch.cdist(X.double(), X.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return distances.fill_diagonal_(torch.inf).topk(k, largest=False).values


@pytest.mark.parametrize("convention", ["mackay", "levina"])
def test_levina_bickel_equals_its_formula(convention):
    X, k = manifold(400), 12
    inverses = []
    for row in k_distances(X, k).tolist():
        inverses.append(sum(math.log(row[-1] / distance) for distance in row[:-1]) / (k - 1))
    expected = 1 / np.mean(inverses) if convention == "mackay" else np.mean(1 / np.array(inverses))
    estimate = levina_bickel(PointCloud(torch.cat([X, X[:40]])), k, convention)
    assert estimate.value == pytest.approx(expected, rel=1e-9)
    assert estimate.codes == ("duplicates",) and estimate.standard_error > 0


def test_the_loss_is_the_measure_and_its_gradient_is_right():
    X = manifold(60, 6, 3).double().requires_grad_()
    assert levina_bickel_loss(X, 5).item() == pytest.approx(levina_bickel(PointCloud(X.detach()), 5).value, rel=1e-12)
    assert torch.autograd.gradcheck(lambda rows: levina_bickel_loss(rows, 5), (X,), eps=1e-7, atol=1e-5)


def test_copies_leave_the_gradient_of_the_loss_finite():
    X = manifold(60, 6, 3)
    rows = torch.cat([X, X[:10]]).requires_grad_()
    levina_bickel_loss(rows, 5).backward()
    assert torch.isfinite(rows.grad).all()


@pytest.mark.parametrize("n1, n2", [(1, 2), (1, 3), (4, 8), (16, 32)])
def test_scikit_dimension_agrees_on_gride(n1, n2):
    skdim = pytest.importorskip("skdim")
    X = manifold(600, 24).double()
    theirs = skdim.id.GRIDE(n1=n1, n2=n2).fit(X.numpy())
    ours = gride(PointCloud(X), n1, n2)
    assert ours.value == pytest.approx(theirs.dimension_, rel=1e-6)
    assert ours.standard_error == pytest.approx(SHARED_NEIGHBORS * theirs.error_, rel=1e-6)


def test_gride_of_the_first_two_neighbours_is_the_uncensored_likelihood():
    X = manifold(400)
    log_mu = np.log(np.divide(*plain_distances(X).T[::-1]))
    assert gride(PointCloud(X)).value == pytest.approx(399 / log_mu.sum(), rel=1e-9)


def test_further_estimators_say_why_they_have_no_value():
    lattice = PointCloud(torch.arange(30.0)[:, None].repeat(1, 2) * torch.tensor([1.0, 0.0]))
    assert gride(PointCloud(torch.cartesian_prod(*[torch.arange(5.0)] * 3))).codes == ("all_ratios_one",)
    assert gride(lattice, 40, 80).codes == levina_bickel(lattice, 40).codes == ("too_few_distinct_rows",)
    simplex = PointCloud(torch.eye(64))
    assert levina_bickel(simplex).codes == gride(simplex, 3, 9).codes == ("all_ratios_one",)
    with pytest.raises(BadInput, match="1 <= n1 < n2"):
        gride(lattice, 2, 2)
    with pytest.raises(UnknownName, match="levina_bickel"):
        levina_bickel(lattice, convention="other")


def test_the_scale_curve_halves_the_rows_and_uses_all_of_them():
    X = manifold(1024, 12, 4)
    curve = scale_curve(PointCloud(torch.cat([X, X[:100]])))
    assert [point.n for point in curve] == [1024, 512, 256]
    assert curve[0].value == intrinsic_dimension(PointCloud(X)).value
    assert curve[0].mean_distance < curve[1].mean_distance < curve[2].mean_distance
    assert all(point.standard_error > 0 for point in curve)
    assert scale_curve(PointCloud(torch.ones(50, 2))) == []


def test_noise_shows_in_the_scale_curve():
    """A plane with a little noise in twenty directions: near 2 at large scales, more at small ones."""
    generator = torch.Generator().manual_seed(0)
    X = torch.rand(4096, 2, generator=generator) @ torch.randn(2, 20, generator=generator)
    curve = scale_curve(PointCloud(X + 0.01 * torch.randn(4096, 20, generator=generator)))
    values = [point.value for point in curve]
    assert values == sorted(values, reverse=True) and values[0] > 1.3 * values[-1]


# --- the ball as reference --------------------------------------------------------------------------------------------


def uniform_ball(n, k, seed):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(n, k, generator=generator, dtype=torch.float64)
    radius = torch.rand(n, 1, generator=generator, dtype=torch.float64) ** (1 / k)
    return radius * directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)


@pytest.mark.parametrize(("k", "n"), [(1, 300), (3, 300), (12, 700), (40, 300), (150, 300)])
def test_a_ball_gives_its_own_dimension(k, n):
    estimates = [intrinsic_dimension(PointCloud(uniform_ball(n, k, seed)), "ball") for seed in range(12)]
    mean = statistics.fmean(estimate.value for estimate in estimates)
    error = statistics.fmean(estimate.standard_error for estimate in estimates) / 12**0.5
    assert abs(mean - k) < 3 * error + 0.01 * k
    assert 0.5 < statistics.stdev(estimate.value for estimate in estimates) / (error * 12**0.5) < 2


def test_the_reference_curve_is_monotone_in_dimension_and_rows_and_never_above_the_dimension():
    rows, dimensions, table = ball._curve()
    assert (table[:, 1:] >= table[:, :-1]).all() and (table[1:] > table[:-1]).all()
    assert (table <= dimensions[:, None] * 1.0001).all() and len(rows) == table.shape[1]
    assert abs(table[0] - 1)[1:].max() < 0.02


@pytest.mark.parametrize("n", [20, 2500, 10**7])
def test_the_inverse_of_the_curve_is_continuous_and_its_slope_is_its_derivative(n):
    for reading in (0.3, 0.98, 1.02, 5.0, 33.0):
        k, slope = ball.ball_dimension(reading, n)
        nearby, _ = ball.ball_dimension(reading * 1.001, n)
        assert nearby - k == pytest.approx(slope * reading * 0.001, rel=0.1)


def test_a_value_beyond_that_of_every_ball_is_missing_with_its_reason():
    shells = torch.zeros(60, 60)
    shells.fill_diagonal_(1.0)
    shells += 1e-5 * torch.randn(60, 60, generator=torch.Generator().manual_seed(0))
    estimate = intrinsic_dimension(PointCloud(shells.double()), "ball")
    assert estimate.value is None and estimate.codes[0] == "beyond_reference" and estimate.standard_error is None


def test_few_fitted_ratios_give_a_warning():
    cloud = PointCloud(torch.randn(60, 10, generator=torch.Generator().manual_seed(0)))
    codes = {convention: intrinsic_dimension(cloud, convention).codes for convention in ("facco", "mle", "razzhigaev")}
    assert codes == {"facco": (), "mle": (), "razzhigaev": ("few_ratios",)}
    assert "12 ratios are fitted; the value scatters by about 29%" in str(intrinsic_dimension(cloud, "razzhigaev"))
