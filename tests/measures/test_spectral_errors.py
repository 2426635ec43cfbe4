"""Standard errors of spectral measures: as large as the scatter over fresh samples, or called a bound, or none."""

import numpy as np
import pytest
import torch

from hf_repgeo.measures import (
    PointCloud,
    anisotropy,
    effective_rank,
    evaluate_all,
    iso_score,
    mean_cosine,
    participation_ratio,
    resolve,
)
from hf_repgeo.measures.spectral_errors import design_effect, second_order_variance
from hf_repgeo.measures.spectrum import participation_ratio_of


def normal(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def scatter_over_error(measure, rows, draws=60) -> float:
    estimates = [measure(PointCloud(rows(seed))) for seed in range(draws)]
    values, errors = ([getattr(e, name) for e in estimates] for name in ("value", "standard_error"))
    return float(np.std(values, ddof=1) / np.mean(errors))


@pytest.mark.parametrize("measure", [participation_ratio, effective_rank, iso_score])
def test_errors_on_a_flat_spectrum_are_right_though_the_first_order_vanishes(measure):
    assert 0.75 < scatter_over_error(measure, lambda seed: normal(600, 12, seed)) < 1.3  # without the correction: 0.7


def test_documents_count_as_fewer_rows_where_they_bend_the_leading_direction():
    documents = torch.arange(600) % 40

    def draw(seed):
        rows = normal(40, 24, seed)[documents] + 0.5 * normal(600, 24, seed + 999)
        return evaluate_all(PointCloud(rows, groups=documents), resolve(["anisotropy", "effective_rank"]))[0]

    estimates = [draw(seed) for seed in range(20)]
    ratio = np.std([e.value for e in estimates], ddof=1) / np.mean([e.standard_error for e in estimates])
    assert 0.45 < ratio < 1.1  # 0.41 where each of a document's rows counts as one
    assert sum(e.se_method.endswith("upper bound") for e in estimates) > 10


@pytest.mark.parametrize("copies", [1, 4, 10])
def test_the_design_effect_of_copies_is_their_number(copies):
    cloud = PointCloud(normal(400, 12, 0).repeat(copies, 1), groups=torch.arange(400 * copies) % 400)
    assert design_effect(cloud) == pytest.approx(copies, rel=0.2)


@pytest.mark.parametrize("measure", [participation_ratio, effective_rank, anisotropy])
def test_errors_on_a_decaying_spectrum_are_right(measure):
    decay = torch.arange(1, 25).rsqrt()
    assert 0.75 < scatter_over_error(measure, lambda seed: normal(600, 24, seed) * decay) < 1.3


def test_the_error_of_mean_cosine_is_right_where_directions_have_no_preference():
    assert 0.75 < scatter_over_error(mean_cosine, lambda seed: normal(600, 12, seed)) < 1.3  # else 0.7
    assert 0.75 < scatter_over_error(mean_cosine, lambda seed: normal(600, 12, seed) + 0.5) < 1.3


def test_the_second_order_is_all_the_variance_of_equal_eigenvalues():
    values = [float(participation_ratio_of(PointCloud(normal(2000, 20, seed)).spectrum)) for seed in range(80)]
    almost_equal = torch.linspace(1.001, 0.999, 20, dtype=torch.float64)
    expected = second_order_variance(participation_ratio_of, almost_equal, 2000) ** 0.5
    assert expected == pytest.approx(np.std(values, ddof=1), rel=0.25)


def test_leading_directions_that_are_not_told_apart_have_an_upper_bound():
    estimate = evaluate_all(PointCloud(normal(500, 40, 0)), resolve(["anisotropy", "iso_score"]))[0]
    assert estimate.se_method == "jackknife(20 groups), upper bound" and "flat_spectrum" in estimate.codes


def test_one_row_that_holds_the_variance_makes_the_error_a_lower_bound():
    rows = normal(2000, 20, 0)
    assert "heavy_tails" not in participation_ratio(PointCloud(rows * torch.arange(1, 21))).codes
    rows[7] *= 12
    for measure in (participation_ratio, anisotropy):
        estimate = measure(PointCloud(rows * torch.arange(1, 21)))
        assert estimate.se_method == "jackknife(20 groups), lower bound" and "heavy_tails" in estimate.codes


def test_effective_rank_of_fewer_rows_than_columns_has_no_error():
    estimate = effective_rank(PointCloud(normal(60, 80, 0)))
    assert estimate.standard_error is None and estimate.codes == ("rank_limited",)


def test_fewer_than_five_documents_have_no_error_but_a_warning():
    groups = torch.arange(200) // 50
    for estimate in evaluate_all(PointCloud(normal(200, 8, 0), groups=groups), resolve(None)):
        assert estimate.standard_error is None
        assert ("few_groups" in estimate.codes) == (estimate.measure[-5:] != "share")
    assert anisotropy(PointCloud(normal(250, 8, 0), groups=torch.arange(250) // 50)).standard_error > 0
