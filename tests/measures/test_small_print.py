"""Rare cases: errors of seldom used conventions, a single group, grids, one degree of freedom."""

import pytest
import torch

from hf_repgeo.errors import UnknownName
from hf_repgeo.measures import PointCloud, levina_bickel, mean_cosine, patchiness
from hf_repgeo.measures.hubs import local_dimension
from hf_repgeo.measures.kernels.quantizers import complete_options
from hf_repgeo.measures.pairs import CloudPair, linear_cka, linearity_score, redrawn_scatter, subspace_novelty


@pytest.fixture
def rows(generator):
    return torch.randn(200, 5, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("convention", ["levina", "mackay"])
def test_the_error_of_levina_and_bickels_dimension_leaves_out_each_group_of_rows_estimates(rows, convention):
    k, groups = 12, torch.arange(200) % 8
    found = levina_bickel(PointCloud(rows, groups=groups), k=k, convention=convention)
    nearest = torch.cdist(rows, rows).sort(1).values[:, 1 : k + 1]
    inverse = (nearest[:, -1:].log() - nearest[:, :-1].log()).mean(1)  # one over the dimension around each row
    mean = (lambda m: 1 / m.mean()) if convention == "mackay" else (lambda m: (1 / m).mean())
    without = torch.stack([mean(inverse[groups != group]) for group in range(8)])
    assert found.value == pytest.approx(float(mean(inverse)), rel=1e-9)
    assert found.standard_error == pytest.approx(float((7 * without.var(correction=0)).sqrt()), rel=1e-9)


def test_a_linear_map_is_scored_on_the_other_of_two_groups_and_not_at_all_with_one(rows):
    image = rows @ torch.diag(torch.arange(1.0, 6, dtype=torch.float64))
    two = linearity_score(CloudPair(rows, image, groups=torch.arange(200) % 2))
    assert two.value == pytest.approx(1, abs=1e-9)
    one = linearity_score(CloudPair(rows, image, groups=torch.zeros(200, dtype=torch.int64)))
    assert one.value is None and one.codes == ("too_few_groups",)


@pytest.mark.parametrize("comparison", [linear_cka, linearity_score])
def test_an_unknown_convention_of_a_comparison_lists_the_known_ones(rows, comparison):
    with pytest.raises(UnknownName, match="convention of .*'mine'"):
        comparison(CloudPair(rows, rows), convention="mine")


def test_a_grid_has_no_local_dimension_where_all_neighbours_are_at_one_distance():
    ring = torch.eye(40, dtype=torch.float64)  # every row is as far from every other
    found = local_dimension(PointCloud(ring), k=10)
    assert found.value is None and found.codes == ("all_ratios_one",)


def test_an_error_of_two_draws_has_one_degree_of_freedom(rows):
    first, second = (PointCloud(side, groups=torch.arange(200) // 40) for side in (rows, rows + 1))
    [found] = redrawn_scatter(first, second, lambda cloud: [mean_cosine(cloud)], draws=2)
    assert found.freedom == 1


def test_too_few_rows_for_the_cells_say_how_many_cells_there_are(rows):
    found = patchiness(PointCloud(rows[:30]), codebooks=1, bits=5)
    assert found.value is None and found.warnings[0] == "too_few_rows: 30 rows cannot fill 32 cells; use fewer bits"


def test_leading_directions_are_at_most_one_fewer_than_the_rows(rows):
    found = subspace_novelty(CloudPair(rows[:4], rows[4:8]), directions=5)
    assert found.details == {"directions": 3, "chance": pytest.approx(1 - 3 / 5)}


@pytest.mark.parametrize("quantizer, cells", [("product", 64), ("residual", 64), ("additive", 256)])
def test_quantizers_have_the_cells_that_the_documentation_names(rows, quantizer, cells):
    assert complete_options(8, quantizer=quantizer)["bits"] == cells.bit_length() - 1


def test_a_map_fitted_on_one_row_predicts_that_rows_image():
    two = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    assert linearity_score(CloudPair(two, two)).value == pytest.approx(0)


def test_a_huge_outlier_leaves_the_dimension_of_the_other_rows(rows):
    far = rows[:30, :1].clone()
    far[0] = 1e163
    assert levina_bickel(PointCloud(far)).value == pytest.approx(1, abs=0.2)  # the squares of distances underflow
