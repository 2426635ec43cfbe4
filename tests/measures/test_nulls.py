"""Chance levels and intervals: what they are calibrated to do."""

import pytest
import torch

from hf_repgeo import measure
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.hub.cards import section
from hf_repgeo.measures import PointCloud, evaluate_all, interval_of, resolve, with_chance
from hf_repgeo.measures.nulls import DRAWS, gaussian_shrinkage, marchenko_pastur_anisotropy, surrogates
from hf_repgeo.measures.student import central, tail, two_sided
from hf_repgeo.plots import plot_layers
from hf_repgeo.report import GeometryReport

SURROGATES_TESTED = ("gaussian", "shuffled", "isotropic")


@pytest.fixture
def cloud(generator):
    X = torch.randn(600, 10, generator=generator) * torch.arange(1, 11) ** -0.5 + 2
    return PointCloud(X)


def test_noise_has_the_value_of_its_chance_level(generator):
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


def test_surrogates_keep_what_their_kind_preserves(cloud):
    gaussian, shuffled, isotropic = (next(surrogates(cloud, kind, 1, 1)) for kind in SURROGATES_TESTED)
    covariance = torch.cov(cloud.rows.T)
    assert torch.allclose(torch.cov(gaussian.T), covariance, atol=0.1)
    assert torch.allclose(gaussian.mean(0), cloud.rows.mean(0), atol=0.15)
    assert torch.equal(shuffled.sort(0).values, cloud.rows.sort(0).values)
    assert torch.allclose(torch.cov(isotropic.T), torch.eye(10), atol=0.25)
    with pytest.raises(UnknownName, match="unknown null 'gaussain'. Did you mean 'gaussian'"):
        next(surrogates(cloud, "gaussain", 1, 1))


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
    assert "low" not in estimate.details and "no interval from 1 groups" in estimate.warnings[-1]
    assert estimate.codes[-1] == "too_few_groups"


@pytest.mark.parametrize("level", [True, 0, 1, 95, -1, "0.95", float("nan")])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(BadInput, match=r"`interval`: got .*wanted a share between 0 and 1, or None.*interval=0.95"):
        measure(torch.eye(8), "anisotropy", interval=level)


def test_a_missing_value_gets_neither_null_nor_interval():
    [row] = measure(torch.ones(100, 3), "anisotropy", null=True, interval=0.9)
    assert row["value"] is None and "low" not in row["details"]


# --- p and the band ---------------------------------------------------------------------------------------------------


def test_students_law_is_that_of_scipy():
    law = pytest.importorskip("scipy.stats").t
    for freedom in (1, 2, 3, 8, 9, 30):
        for t in (0.0, 0.3, 1.7, 12.0):
            assert central(t, freedom) == pytest.approx(1 - 2 * law.sf(t, freedom), abs=1e-12)
        assert tail(0.95, freedom) == pytest.approx(law.ppf(0.975, freedom), rel=1e-9)
    assert two_sided(-2.306004, 8) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(("n", "d", "decay"), [(120, 120, 0.0), (60, 180, 0.0), (120, 120, 0.5), (300, 40, 0.5)])
def test_normal_rows_are_significant_as_often_as_p_says(n, d, decay):
    """Also where rows are fewer than columns, and the sample's covariance is far more uneven than the true one."""
    ps = []
    for seed in range(40):
        X = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.arange(1, d + 1) ** -decay
        [row] = measure(X, "intrinsic_dimension:mle", null=True, seed=seed)
        ps.append(row["details"]["p"])
    assert sum(p < 0.1 for p in ps) <= 10 and sum(p < 0.5 for p in ps) >= 10


def test_the_band_and_p_and_z_agree(cloud):
    for estimate in with_chance(cloud, evaluate_all(cloud, resolve(["anisotropy", "mean_cosine", "duplicate_share"]))):
        details = estimate.details
        if estimate.measure == "duplicate_share":  # no surrogate has a copy: nothing to compare a spread with
            assert details["null"] == details["null_low"] == 0 and "p" not in details
            continue
        outside = not details["null_low"] <= estimate.value <= details["null_high"]
        assert outside == (details["p"] < 0.05) and (details["z"] > 0) == (estimate.value > details["null"])
        assert details["null_draws"] == DRAWS


def test_shrinkage_is_near_one_for_noise_and_near_zero_for_many_rows(generator):
    for n, d, decay, low, high in ((100, 300, 0.0, 0.9, 1.0), (4000, 20, 1.0, 0.0, 0.01)):
        X = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.arange(1, d + 1) ** -decay
        S = torch.cov(X.T, correction=0)
        assert low <= gaussian_shrinkage(n, d, float(S.trace()), float((S @ S).trace())) <= high
    massive = torch.randn(1000, 50, generator=generator, dtype=torch.float64)
    massive[:5] *= 1000
    S = torch.cov(massive.T, correction=0)
    assert gaussian_shrinkage(1000, 50, float(S.trace()), float((S @ S).trace())) < 0.02


def test_a_kind_may_be_named_and_an_unknown_one_is_refused(cloud):
    [row] = measure(cloud.rows, "anisotropy", null="gaussian")
    assert row["details"]["null_kind"] == "gaussian" and abs(row["details"]["z"]) < 4
    for kind in ("gausian", 3, ["gaussian"]):
        with pytest.raises(UnknownName, match="unknown null .* Known: True, False, isotropic, gaussian, shuffled"):
            measure(cloud.rows, "anisotropy", null=kind)


def test_isotropic_rows_of_one_shape_are_measured_once(monkeypatch, generator):
    asked = []
    monkeypatch.setattr("hf_repgeo.measures.nulls._bare", lambda rows, seed: asked.append(1) or PointCloud(rows))
    for _ in range(3):
        measure(torch.randn(77, 5, generator=generator), ["effective_rank", "iso_score"], null=True)
    assert len(asked) == DRAWS


# --- where chance is shown --------------------------------------------------------------------------------------------


def test_a_stream_is_compared_with_noise_of_all_its_rows(generator):
    X = torch.randn(3000, 40, generator=generator)
    whole, part = PointCloud(X), PointCloud(X[:200])
    part.stream(whole.moments)
    pairs = resolve(["effective_rank", "iso_score"])
    for one, all_rows in zip(*(with_chance(cloud, evaluate_all(cloud, pairs)) for cloud in (part, whole))):
        assert one.details["null"] == pytest.approx(all_rows.details["null"], rel=0.002)
        assert one.details["p"] > 0.01


def test_the_table_shows_chance_and_p(generator):
    X = torch.randn(300, 6, generator=generator) * torch.arange(1, 7) ** -1.0
    printed = str(measure(X, ["anisotropy", "duplicate_share"], null=True))
    head, row = printed.split("\n")[3], printed.split("\n")[5]
    assert head.split() == ["measure", "convention", "value", "chance", "p"]
    assert row.split()[0] == "anisotropy" and row.endswith("< 0.001") and "[" in row
    assert "chance" not in str(measure(X, "anisotropy"))


def test_a_table_by_layer_shows_chance_in_brackets():
    report = GeometryReport()
    for layer in (0, 1):
        details = {"null": 0.25, "null_low": 0.2, "null_high": 0.3}
        report.add(measure="anisotropy", convention="razzhigaev", layer=layer, value=0.5, n=9, details=details)
    assert "in brackets: by chance" in str(report) and "0.5 [0.25]" in str(report)


def test_the_card_and_the_figure_show_chance():
    report = GeometryReport(provenance={"model": "m"})
    for layer in (0, 1):
        details = {"null": 0.25 + layer / 10, "null_low": 0.2, "null_high": 0.35}
        report.add(measure="anisotropy", convention="razzhigaev", layer=layer, tokens="all", value=0.5, details=details)
    assert "by chance |" in section(report, "me/m", "report.json", None) and "| 0.3 |" in section(report, "", "", None)
    figure = plot_layers(report)
    band = figure.axes[0].collections[-1].get_paths()[0].vertices[:, 1]
    assert "by chance" in figure.get_suptitle() and (band.min(), band.max()) == (0.2, 0.35)
