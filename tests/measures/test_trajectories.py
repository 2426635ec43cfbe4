"""Trajectories: straight lines, random walks, closed forms, sequences that cannot be measured."""

import math

import pytest
import torch

from hf_repgeo.measures import PointCloud
from hf_repgeo.measures.trajectories import curvature, prompt_entropy, sequences_of


def cloud_of(sequences):
    groups = torch.cat([torch.full((len(tokens),), i) for i, tokens in enumerate(sequences)])
    return PointCloud(torch.cat(sequences), groups=groups)


@pytest.fixture
def walks(generator):
    return [torch.randn(50, 400, generator=generator).cumsum(0) for _ in range(8)]


def test_independent_rows_and_random_walks_give_their_closed_forms(walks, generator):
    found = curvature(cloud_of(walks))
    assert found.value == pytest.approx(found.details["random_walk"], abs=0.01)
    rows = [torch.randn(50, 400, generator=generator) for _ in range(8)]
    found = curvature(cloud_of(rows))
    assert found.value == pytest.approx(found.details["independent_rows"], abs=0.01)


def test_a_polygon_turns_by_its_outer_angle():
    angle = torch.arange(12) * 2 * math.pi / 12
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    assert curvature(cloud_of([circle])).value == pytest.approx(2 * math.pi / 12, abs=1e-6)


def test_turning_back_at_every_step_is_pi():
    back_and_forth = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(5, 1)
    assert curvature(cloud_of([back_and_forth])).value == pytest.approx(math.pi, abs=1e-6)


def test_the_order_of_tokens_matters_and_that_of_sequences_does_not(walks, generator):
    value = curvature(cloud_of(walks)).value
    assert curvature(cloud_of(walks[::-1])).value == pytest.approx(value)
    shuffled = [walk[torch.randperm(50, generator=generator)] for walk in walks]
    assert curvature(cloud_of(shuffled)).value > value + 0.3


def test_interleaved_sequences_are_separated_by_group(walks):
    rows, groups = torch.stack(walks, 1).flatten(0, 1), torch.arange(8).repeat(50)
    mixed = PointCloud(rows, groups=groups)
    assert curvature(mixed).value == pytest.approx(curvature(cloud_of(walks)).value)
    assert [len(part) for part in sequences_of(mixed)] == [50] * 8


@pytest.mark.parametrize(("tokens", "width"), [(6, 40), (40, 6)])
def test_entropy_is_that_of_the_squared_singular_values(tokens, width, generator):
    Z = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    p = torch.linalg.svdvals(Z).square()
    p = p / p.sum()
    found = prompt_entropy(cloud_of([Z, 3 * Z]))
    assert found.value == pytest.approx(float(-(p * p.log()).sum()), rel=1e-9)
    assert found.details["normalised"] == pytest.approx(found.value / math.log(6), rel=1e-9)


def test_tokens_along_one_line_have_no_entropy(generator):
    line = torch.rand(10, 1, generator=generator) @ torch.randn(1, 7, generator=generator)
    assert prompt_entropy(cloud_of([line])).value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("measure", [curvature, prompt_entropy])
def test_errors_are_over_sequences_and_one_sequence_has_none(measure, walks):
    several, one = measure(cloud_of(walks)), measure(cloud_of(walks[:1]))
    assert several.se_method == "over 8 sequences" and several.standard_error > 0
    assert one.standard_error is None and one.codes == ("too_few_groups",)


@pytest.mark.parametrize("measure", [curvature, prompt_entropy])
def test_what_does_not_move_has_no_value(measure):
    found = measure(cloud_of([torch.zeros(5, 3), torch.zeros(2, 3)]))
    assert found.value is None and found.codes == ("too_few_rows",)
