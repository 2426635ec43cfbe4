"""EEE, VRM, RankMe, partition function, uniformity: closed forms, published values, plain twins."""

import math

import numpy as np
import pytest
import torch

from hf_repgeo.errors import UnknownName
from hf_repgeo.measures import PointCloud
from hf_repgeo.measures.direction import partition_function, uniformity
from hf_repgeo.measures.spectral_shape import (
    differential_entropy,
    early_enrichment,
    iso_score_star,
    power_law_exponent,
    rank_me,
    spectral_entropy,
    stable_rank,
    vasicek_mse,
)
from hf_repgeo.measures.spectrum import anisotropy, iso_score

pytestmark = pytest.mark.usefixtures("either_kernels")


def ball(n, d, generator):
    """Uniform in the unit ball, the `sphere` of the authors' table."""
    directions = torch.nn.functional.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)
    return directions * torch.rand(n, 1, generator=generator, dtype=torch.float64) ** (1 / d)


def test_spread_of_a_ball_is_the_published_value(generator):
    """Marbut et al. 2023 for d = 100, n = 250 d: EEE 0.0353, VRM 0.0009."""
    cloud = PointCloud(ball(25_000, 100, generator))
    assert early_enrichment(cloud).value == pytest.approx(0.0353, abs=0.0015)
    assert vasicek_mse(cloud).value == pytest.approx(0.0009, abs=0.0002)


def test_enrichment_at_its_ends(generator):
    even = torch.cat([torch.eye(6), -torch.eye(6)]).double()
    assert early_enrichment(PointCloud(even)).value == pytest.approx(0, abs=1e-12)
    line = torch.arange(10.0)[:, None] * torch.ones(6)
    assert early_enrichment(PointCloud(line.double())).value == pytest.approx((5 / 6) ** 2)


def test_entropy_of_spacings_equals_scipy(generator):
    differential = pytest.importorskip("scipy.stats").differential_entropy
    for n in (50, 999, 1500):
        columns = torch.randn(n, 5, generator=generator, dtype=torch.float64)
        method = "vasicek" if n > 1000 else "ebrahimi"
        expected = torch.from_numpy(differential(columns.numpy(), method=method, axis=0))
        assert torch.allclose(differential_entropy(columns), expected, rtol=1e-10)


def test_vrm_is_near_zero_for_a_normal_and_not_for_clusters(generator):
    normal = torch.randn(4000, 8, generator=generator, dtype=torch.float64)
    assert vasicek_mse(PointCloud(normal)).value < 0.003
    assert vasicek_mse(PointCloud(normal + 20 * torch.randint(0, 2, (4000, 1), generator=generator))).value > 0.1
    assert vasicek_mse(PointCloud(normal[:8])).codes == ("too_few_rows",)


def test_rank_me_counts_the_mean_and_effective_rank_does_not(generator):
    X = torch.randn(500, 10, generator=generator, dtype=torch.float64)
    s = torch.linalg.svdvals(X + 5)
    p = s / s.sum() + 1e-7
    assert rank_me(PointCloud(X + 5)).value == pytest.approx(float(torch.exp(-(p * p.log()).sum())), rel=1e-9)
    assert rank_me(PointCloud(X + 500)).value < 1.3
    assert rank_me(PointCloud(torch.zeros(20, 4))).codes == ("no_spread",)


def test_stable_rank_is_the_inverse_of_anisotropy(generator):
    cloud = PointCloud(torch.randn(100, 6, generator=generator))
    assert stable_rank(cloud).value == pytest.approx(1 / anisotropy(cloud).value)


def test_entropy_of_equal_directions_is_the_logarithm_of_their_number():
    even = torch.cat([torch.eye(7), -torch.eye(7)])
    assert spectral_entropy(PointCloud(even)).value == pytest.approx(math.log(7))


def test_a_power_law_gives_back_its_exponent(generator):
    d = 200
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    X = torch.cat([basis, -basis]) @ torch.diag(torch.arange(1, d + 1, dtype=torch.float64) ** -0.6)
    assert power_law_exponent(PointCloud(X)).value == pytest.approx(1.2, abs=1e-6)
    assert power_law_exponent(PointCloud(X[:40])).codes == ("too_few_eigenvalues",)


def test_shrinkage_lies_between_the_score_and_one(generator):
    X = torch.randn(300, 20, generator=generator) * torch.arange(1, 21) ** -1.0
    assert iso_score(PointCloud(X)).value < iso_score_star(PointCloud(X)).value < 1


def test_partition_function_by_its_definition_in_both_signs(generator):
    X = torch.randn(200, 5, generator=generator, dtype=torch.float64) * 0.3 + 0.2
    vectors = torch.linalg.eigh(X.T @ X).eigenvectors
    z = torch.cat([(X @ vectors).exp().sum(0), (-X @ vectors).exp().sum(0)])
    assert partition_function(PointCloud(X)).value == pytest.approx(float(z.min() / z.max()), rel=1e-10)


def test_partition_function_of_long_rows_does_not_overflow(generator):
    estimate = partition_function(PointCloud(torch.randn(200, 5, generator=generator) * 1e4 + 1e4))
    assert estimate.value == 0 and -math.inf < estimate.details["log"] < -1e4


def test_uniformity_over_blocks_is_the_mean_over_all_pairs(generator):
    X = torch.randn(2500, 6, generator=generator)
    unit = torch.nn.functional.normalize(X.double(), dim=1)
    expected = torch.nn.functional.pdist(unit).square().mul(-2).exp().mean().log()
    assert uniformity(PointCloud(X)).value == pytest.approx(float(expected), rel=1e-6)
    assert uniformity(PointCloud(torch.ones(50, 3))).value == pytest.approx(0, abs=1e-6)
    assert uniformity(PointCloud(torch.zeros(5, 3))).codes == ("zero_rows",)


def test_the_released_fit_weighs_ranks_by_their_inverse(generator):
    """Weighted normal equations by hand, on a spectrum that is no power law; equal to the other on one that is."""
    d = 150
    basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q
    values = torch.linspace(1, 0.1, d, dtype=torch.float64) ** 2
    cloud = PointCloud(torch.cat([basis, -basis]) @ torch.diag(values.sqrt()))
    rank = np.arange(4, 101)
    x = np.stack([-np.log(rank), np.ones(97)], 1)
    y, w = np.log(cloud.spectrum.numpy()[3:100]), 1 / rank
    alpha = np.linalg.solve(x.T @ (x * w[:, None]), (x * w[:, None]).T @ y)[0]
    assert power_law_exponent(cloud, "agrawal_code").value == pytest.approx(alpha, rel=1e-9)
    power = torch.cat([basis, -basis]) @ torch.diag(torch.arange(1, d + 1, dtype=torch.float64) ** -0.6)
    assert power_law_exponent(PointCloud(power), "agrawal_code").value == pytest.approx(1.2, abs=1e-6)
    assert power_law_exponent(PointCloud(power[:, :80]), "agrawal_code").codes == ("too_few_eigenvalues",)
    with pytest.raises(UnknownName):
        power_law_exponent(cloud, "stringer")


def test_the_released_vrm_divides_by_the_columns(generator):
    few, many = (torch.randn(n, 60, generator=generator, dtype=torch.float64) for n in (20, 80))
    assert vasicek_mse(PointCloud(few), "marbut_code").value == pytest.approx(vasicek_mse(PointCloud(few)).value / 3)
    assert vasicek_mse(PointCloud(many), "marbut_code").value == pytest.approx(vasicek_mse(PointCloud(many)).value)
    with pytest.raises(UnknownName):
        vasicek_mse(PointCloud(many), "marbut_2023")
