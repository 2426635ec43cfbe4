"""Chance levels and intervals: what they are calibrated to do."""

import pytest
import torch

from hf_repgeo import measure
from hf_repgeo.errors import UnknownName
from hf_repgeo.measures import PointCloud, evaluate_all, interval_of, resolve, with_chance
from hf_repgeo.measures.nulls import marchenko_pastur_anisotropy, surrogate


@pytest.fixture
def cloud(generator):
    X = torch.randn(600, 10, generator=generator) * torch.arange(1, 11) ** -0.5 + 2
    return PointCloud(X)


def test_noise_reads_its_chance_level(generator):
    """Rows without structure lie within the null's spread, for measures of every kind."""
    X = torch.randn(800, 12, generator=generator)
    report = measure(X, ["anisotropy", "iso_score", "intrinsic_dimension:mle", "patchiness:lloyd"], null=True, bits=4)
    for row in report:
        details = row["details"]
        assert abs(row["value"] - details["null"]) < 5 * details["null_sd"] + 0.02 * abs(row["value"]), row["measure"]


def test_structure_stands_out_from_chance(generator):
    clusters = torch.randn(5, 12, generator=generator)[torch.randint(5, (800,), generator=generator)] * 4
    X = clusters + torch.randn(800, 12, generator=generator)
    rows = {row["measure"]: row for row in measure(X, ["anisotropy", "intrinsic_dimension:mle"], null=True)}
    for row in rows.values():
        assert abs(row["value"] - row["details"]["null"]) > 5 * row["details"]["null_sd"]
    assert rows["anisotropy"]["details"]["null_kind"] == "isotropic"
    assert rows["intrinsic_dimension"]["details"]["null_kind"] == "gaussian"


def test_the_isotropic_null_of_anisotropy_is_the_marchenko_pastur_edge(generator):
    [row] = measure(torch.randn(2000, 100, generator=generator), "anisotropy", null=True)
    assert row["details"]["null"] == pytest.approx(marchenko_pastur_anisotropy(2000, 100), rel=0.03)


def test_surrogates_keep_what_they_promise(cloud):
    gaussian, shuffled, isotropic = (surrogate(cloud, kind, 1) for kind in ("gaussian", "shuffled", "isotropic"))
    covariance = torch.cov(cloud.rows.T)
    assert torch.allclose(torch.cov(gaussian.T), covariance, atol=0.1)
    assert torch.allclose(gaussian.mean(0), cloud.rows.mean(0), atol=0.15)
    assert torch.equal(shuffled.sort(0).values, cloud.rows.sort(0).values)
    assert torch.allclose(torch.cov(isotropic.T), torch.eye(10), atol=0.25)
    with pytest.raises(UnknownName, match="unknown null 'gaussain'. Did you mean 'gaussian'"):
        surrogate(cloud, "gaussain", 1)


def test_chance_is_the_same_for_the_same_seed(cloud):
    pairs = resolve(["anisotropy", "intrinsic_dimension:facco", "mean_cosine"])
    first, again = (with_chance(cloud, evaluate_all(cloud, pairs)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("name", ["anisotropy", "intrinsic_dimension:mle", "mean_cosine"])
def test_intervals_cover_the_truth_as_often_as_they_say(name):
    """80 clouds of 60 documents; the mean over all stands for the truth; 80 % intervals should hold it that often."""
    generator = torch.Generator().manual_seed(5)
    pairs, found = resolve(name), []
    for _ in range(80):
        lean = torch.randn(60, 1, 5, generator=generator) * torch.arange(1, 6) ** -0.5
        X = (lean + 0.8 * torch.randn(60, 4, 5, generator=generator)).reshape(240, 5) + 0.5
        cloud = PointCloud(X, groups=torch.arange(240) // 4)
        [estimate] = interval_of(cloud, evaluate_all(cloud, pairs), level=0.8)
        found.append((estimate.details["low"], estimate.value, estimate.details["high"]))
    truth = sum(value for _, value, _ in found) / len(found)
    covered = sum(low <= truth <= high for low, _, high in found) / len(found)
    assert 0.65 <= covered <= 0.93


def test_too_few_documents_give_no_interval(cloud):
    alone = PointCloud(cloud.rows, groups=torch.zeros(600, dtype=torch.int64))
    [estimate] = interval_of(alone, evaluate_all(alone, resolve("anisotropy")))
    assert "low" not in estimate.details


def test_a_missing_value_gets_neither_null_nor_interval():
    [row] = measure(torch.ones(100, 3), "anisotropy", null=True, interval=0.9)
    assert row["value"] is None and "low" not in row["details"]
