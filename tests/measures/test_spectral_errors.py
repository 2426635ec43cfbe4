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
from hf_repgeo.measures.spectral_errors import second_order_variance
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
