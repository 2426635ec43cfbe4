"""Hubs, antihubs and the dimension around each row: closed forms, a slow twin, calibrated errors."""

import pytest
import torch

from hf_repgeo.measures import PointCloud, antihub_share, hubness, levina_bickel, local_dimension
from hf_repgeo.measures.hubs import local_dimensions_of, skewness_of


def counts_by_sorting(X, k):
    """N_k of every row, from the whole table of distances."""
    distances = torch.cdist(X.double(), X.double()).fill_diagonal_(torch.inf)
    return torch.bincount(distances.argsort(dim=1)[:, :k].flatten(), minlength=len(X)).double()


def test_hubness_and_antihubs_equal_their_slow_twins(generator):
    X = torch.randn(300, 30, generator=generator)
    counts = counts_by_sorting(X, 7)
    centred = counts - 7  # every row has 7 neighbours, so that 7 is the mean
    expected = float(centred.pow(3).mean() / centred.square().mean().pow(1.5))
    found = hubness(PointCloud(X), k=7)
    assert found.value == pytest.approx(expected) and found.details == {"k": 7, "largest": int(counts.max())}
    assert antihub_share(PointCloud(X), k=7).value == pytest.approx(float((counts == 0).double().mean()))


def test_a_hub_in_the_middle_of_a_sphere_is_everyones_neighbour(generator):
    sphere = torch.nn.functional.normalize(torch.randn(200, 60, generator=generator), dim=1)
    lone = hubness(PointCloud(sphere))
    found = hubness(PointCloud(torch.cat([sphere, torch.zeros(1, 60)])))
    assert found.details["largest"] == 200 and found.value > 10 > lone.value


def test_equal_counts_are_not_skewed():
    assert float(skewness_of(torch.full((5,), 3.0, dtype=torch.float64))) == 0
    ring = torch.arange(60) * 2 * torch.pi / 60
    rows = torch.stack([ring.cos(), ring.sin()], 1).double()
    assert antihub_share(PointCloud(rows), k=2).value == 0


def test_a_local_estimate_is_as_often_too_large_as_too_small(generator):
    exponent, k = 5.0, 20
    uniform = torch.rand(4000, k - 1, generator=generator, dtype=torch.float64).sort(1).values
    distances = torch.cat([uniform, torch.ones(4000, 1, dtype=torch.float64)], 1) ** (1 / exponent)
    local = local_dimensions_of(distances)
    assert abs(float((local > exponent).double().mean()) - 0.5) < 0.025
    assert float(local.median()) == pytest.approx(exponent, rel=0.02)


def test_quartiles_tell_a_plane_and_a_ball_in_one_cloud_apart(generator):
    plane = torch.cat([torch.rand(600, 2, generator=generator), torch.zeros(600, 10)], 1)
    ball = torch.randn(600, 12, generator=generator) + 20
    found = local_dimension(PointCloud(torch.cat([plane, ball])))
    assert found.details["lower"] == pytest.approx(2, abs=0.4) and found.details["upper"] > 7
    alone = local_dimension(PointCloud(ball)).value
    assert alone == pytest.approx(levina_bickel(PointCloud(ball)).value, rel=0.15)


@pytest.mark.parametrize("measure", [hubness, antihub_share, local_dimension])
def test_standard_errors_are_the_scatter_over_new_samples(measure):
    estimates = []
    for seed in range(40):
        rows = torch.randn(400, 12, generator=torch.Generator().manual_seed(seed)) * torch.arange(1, 13) ** -0.5
        estimates.append(measure(PointCloud(rows)))
    values = torch.tensor([estimate.value for estimate in estimates])
    errors = torch.tensor([estimate.standard_error for estimate in estimates])
    assert 0.7 < float(values.std() / errors.square().mean().sqrt()) < 1.4  # 40 samples estimate their scatter to 11 %


def test_one_search_serves_all_three_and_more_neighbours_are_searched_on_request(generator):
    cloud = PointCloud(torch.randn(100, 5, generator=generator))
    few, many = local_dimension(cloud, k=5), local_dimension(cloud, k=40)
    assert few.details["k"] == 5 and many.details["k"] == 40 and few.standard_error > many.standard_error
    assert hubness(cloud, k=60).value is not None and hubness(cloud, k=100).codes == ("too_few_distinct_rows",)
