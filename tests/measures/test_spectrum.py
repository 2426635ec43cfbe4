"""Spectral measures against closed forms, a float64 singular value decomposition, and theory."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_repgeo.measures import (
    Moments,
    PointCloud,
    anisotropy,
    effective_rank,
    iso_score,
    mean_cosine,
    participation_ratio,
)
from hf_repgeo.measures.eigen import lanczos, leading_share
from hf_repgeo.measures.estimate import jackknife

pytestmark = pytest.mark.usefixtures("either_kernels")


def twin(X):
    """The definitions, slowly, in float64: anisotropy, effective rank, participation ratio, IsoScore."""
    X = X.to(torch.float64)
    s = torch.linalg.svdvals(X - X.mean(0))
    lam, p = s**2, s / s.sum()
    d, ones = X.shape[1], torch.ones(X.shape[1], dtype=torch.float64)
    full = torch.zeros(d, dtype=torch.float64)
    full[: len(lam)] = lam
    normalised = full / full.norm() * math.sqrt(d)
    delta = (normalised - ones).norm() / math.sqrt(2 * (d - math.sqrt(d)))
    phi = ((d - delta**2 * (d - math.sqrt(d))) ** 2) / d**2
    return {
        anisotropy: float(lam[0] / lam.sum()),
        effective_rank: float(torch.exp(-(p[p > 1e-9] * p[p > 1e-9].log()).sum())),
        participation_ratio: float(lam.sum() ** 2 / (lam**2).sum()),
        iso_score: float((d * phi - 1) / (d - 1)),
    }


def clouds():
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(3000, 96, generator=g)
    power = normal * torch.arange(1, 97) ** -0.5
    coordinate = (torch.arange(96) == 7) * 3000.0
    sink = (torch.arange(3000) % 128 == 0)[:, None] * torch.randn(96, generator=g) * 24000
    return {
        "power law": power,
        "float64": power.double(),
        "bfloat16": power.bfloat16(),
        "float16": power.half(),
        "offset 1000": power + 1000,
        "offset 1e5 in float64": power.double() + 1e5,
        "massive coordinate in half the rows": power + coordinate * (torch.arange(3000) % 2)[:, None],
        "massive rows": power * 5 + sink,
        "20 % copies": torch.cat([power, power[:750]]),
        "constant column": torch.cat([power, torch.full((3000, 1), 7.0)], 1),
        "fewer rows than columns": normal[:40],
        "times 1e-22": power * 1e-22,
        "times 1e20": power * 1e20,
        "flat": normal,
        "rank 3": normal[:, :3].double() @ torch.randn(3, 96, generator=g).double(),
        "two rows": normal[:2],
    }


@pytest.mark.parametrize("name", clouds())
def test_spectral_measures_equal_their_definitions(name):
    X = clouds()[name]
    exact = X.to(torch.float64) / float(X.abs().max())
    for function, expected in twin(exact).items():
        cloud = PointCloud(X)
        cloud.spectrum
        assert function(cloud).value == pytest.approx(expected, rel=1e-6, abs=1e-9), function.__name__


@pytest.mark.parametrize("name", clouds())
def test_anisotropy_alone_equals_anisotropy_from_the_whole_spectrum(name):
    X = clouds()[name]
    together = PointCloud(X)
    together.spectrum
    assert anisotropy(PointCloud(X)).value == pytest.approx(anisotropy(together).value, rel=1e-7)


def test_lanczos_finds_the_leading_direction(generator):
    X = torch.randn(500, 30, generator=generator, dtype=torch.float64) * torch.arange(1, 31) ** -0.5
    direction = lanczos(X, X.mean(0))
    vectors = torch.linalg.svd(X - X.mean(0)).Vh
    assert abs(float(direction @ vectors[0])) == pytest.approx(1, abs=1e-9)


def test_isotropic_noise_gives_the_marchenko_pastur_edge(generator):
    n, d = 4096, 256
    value = anisotropy(PointCloud(torch.randn(n, d, generator=generator))).value
    assert value == pytest.approx((1 + math.sqrt(d / n)) ** 2 / d, rel=0.02)


def test_iso_score_of_noise_falls_with_too_few_rows(generator):
    few, many = (iso_score(PointCloud(torch.randn(n, 128, generator=generator))).value for n in (128, 8192))
    assert few == pytest.approx(0.5, abs=0.03) and many > 0.95
    assert "rank_limited" in iso_score(PointCloud(torch.randn(64, 128, generator=generator))).codes


@pytest.mark.parametrize("function", [anisotropy, effective_rank, participation_ratio, iso_score])
def test_rows_without_spread_have_no_value_and_say_why(function):
    for X in (torch.full((50, 8), 3.0), torch.zeros(50, 8), torch.full((50, 8), 1e20)):
        estimate = function(PointCloud(X))
        assert estimate.value is None and estimate.codes == ("no_spread",)


def test_one_column_has_no_iso_score():
    assert iso_score(PointCloud(torch.arange(5.0)[:, None])).codes == ("one_dimension",)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 12), st.sampled_from([0.0, 1e4]))
def test_moments_of_any_split_merge_to_the_moments_of_all(sizes, d, offset):
    rows = torch.randn(sum(sizes), d, generator=torch.Generator().manual_seed(sum(sizes)), dtype=torch.float64) + offset
    merged = None
    for part in rows.split(sizes):
        merged = Moments.of(part) if merged is None else merged + Moments.of(part)
    centred = rows - rows.mean(0)
    assert merged.count == len(rows)
    assert torch.allclose(merged.mean, rows.mean(0), rtol=1e-12)
    assert torch.allclose(merged.scatter, centred.T @ centred, rtol=1e-8, atol=1e-8)


def test_moments_in_blocks_equal_moments_at_once(generator):
    rows = torch.randn(5000, 6, generator=generator) + 3000
    exact = rows.double() - rows.double().mean(0)
    assert torch.allclose(Moments.of(rows).scatter, exact.T @ exact, rtol=1e-10)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        torch.ones(300),
        torch.arange(300.0),
        torch.cat([torch.tensor([1.0, 1 - 1e-9]), torch.rand(298)]),
        torch.eye(300)[0],
    ],
    ids=["all equal", "close together", "two leading ones", "rank one"],
)
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_the_leading_share_of_a_scatter_is_that_of_all_its_eigenvalues(eigenvalues, scale, generator):
    basis = torch.linalg.qr(torch.randn(300, 300, generator=generator, dtype=torch.float64)).Q
    scatter = basis * (scale * eigenvalues.double()) @ basis.T
    wanted = float(eigenvalues.double().max() / eigenvalues.double().sum())
    assert leading_share((scatter + scatter.T) / 2) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("function", [anisotropy, effective_rank, participation_ratio, mean_cosine])
def test_the_jackknife_error_is_the_spread_over_fresh_samples(function):
    """Each of 100 documents has its own mean: an error that counts rows as independent would be far too small."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.arange(1, 9) ** -0.5
    values, errors = [], []
    for _ in range(150):
        lean = torch.randn(100, 1, 8, generator=generator) * scale + 0.5
        X = (lean + 0.3 * torch.randn(100, 10, 8, generator=generator) * scale).reshape(1000, 8)
        cloud = PointCloud(X, groups=torch.arange(1000) // 10)
        cloud.spectrum
        estimate = function(cloud)
        values.append(estimate.value)
        errors.append(estimate.standard_error)
    spread, error = torch.tensor(values).std(), torch.tensor(errors).mean()
    assert 0.8 < float(error / spread) < 1.25
    by_rows = function(PointCloud(X)).standard_error
    assert by_rows < 0.7 * float(spread)


def test_no_standard_error_from_a_single_group():
    estimate = anisotropy(PointCloud(torch.eye(5), groups=torch.zeros(5, dtype=torch.int64)))
    assert estimate.standard_error is None and estimate.value is not None
    assert jackknife(torch.tensor([1.0, float("nan")])) == (None, None)


def test_mean_cosine_is_the_mean_over_all_pairs(generator):
    X = torch.randn(60, 5, generator=generator, dtype=torch.float64) + 0.3
    cosines = torch.nn.functional.cosine_similarity(X[:, None], X[None], dim=2)
    expected = (cosines.sum() - 60) / (60 * 59)
    assert mean_cosine(PointCloud(X)).value == pytest.approx(float(expected), rel=1e-12)


def test_mean_cosine_and_anisotropy_measure_different_things(generator):
    X = torch.randn(2000, 100, generator=generator)
    assert mean_cosine(PointCloud(X + 3)).value > 0.85
    assert anisotropy(PointCloud(X + 3)).value < 0.02


def test_a_row_of_zeros_has_no_cosine():
    estimate = mean_cosine(PointCloud(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])))
    assert estimate.value is None and estimate.codes == ("zero_rows",) and "1 of 3 rows" in estimate.warnings[0]


def test_a_subset_takes_its_moments_from_the_whole_to_rounding(generator):
    """Also when the rows left out are a thousand times longer than those that stay."""
    X = torch.randn(1000, 20, generator=generator) * torch.arange(1, 21) ** -0.5 + 3
    X[::50] *= 1000
    cloud = PointCloud(X)
    cloud.moments
    for keep in (torch.arange(30, 1000), torch.tensor([i for i in range(1000) if i % 50])):
        part, alone = cloud.subset(keep), PointCloud(X[keep])
        alone.spectrum
        for function in (anisotropy, effective_rank, participation_ratio):
            narrowed, fresh = function(part), function(alone)
            assert narrowed.value == pytest.approx(fresh.value, rel=1e-6)
            assert narrowed.standard_error == pytest.approx(fresh.standard_error, rel=0.1)


def test_a_subset_that_is_lost_in_rounding_is_computed_afresh(generator):
    X = torch.randn(1000, 8, generator=generator)
    X[:10] *= 1e6
    cloud = PointCloud(X)
    cloud.moments
    part = cloud.subset(torch.arange(10, 1000))
    assert part.origin is None
    assert effective_rank(part).value == pytest.approx(effective_rank(PointCloud(X[10:])).value, rel=1e-12)
