"""A small part of `benchmarks/random_clouds.py`: measures of random clouds are their float64 definitions, or warn."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from hf_repgeo.measures import uniformity

pytest.importorskip("scipy")
PATH = Path(__file__).parents[2] / "benchmarks" / "random_clouds.py"


@pytest.fixture(scope="module")
def random_clouds():
    spec = importlib.util.spec_from_file_location("random_clouds", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("start", range(20_000, 20_100, 25))
def test_values_are_the_definitions_or_come_with_a_warning(random_clouds, start):
    for number in range(start, start + 25):
        silent = [case for case in random_clouds.compare(number) if not case[-1]]
        assert silent == [], number


def test_a_wrong_definition_would_be_seen(random_clouds, monkeypatch):
    monkeypatch.setattr(random_clouds, "_entropy", lambda p: math.log(len(p)))
    assert any("effective_rank" in case for number in range(20) for case in random_clouds.compare(number))


def test_the_clouds_are_of_every_kind(random_clouds):
    clouds = [random_clouds.draw(number) for number in range(120)]
    assert {X.dtype for X in clouds} == set(random_clouds.DTYPES)
    peaks = torch.tensor([float(X.double().abs().max()) for X in clouds])
    assert peaks.min() < 1e-10 and peaks.max() > 1e10
    assert any(len(torch.unique(X.double(), dim=0)) < 0.95 * len(X) for X in clouds)
    assert any(len(X) < X.shape[1] for X in clouds) and any(X.shape[1] == 1 for X in clouds)


def test_uniformity_of_rows_that_nearly_coincide_keeps_its_digits(random_clouds):
    X = torch.randn(200, 5, generator=torch.Generator().manual_seed(0)) * 1e-3 + 7
    expected = random_clouds._directions(X.double().numpy())["uniformity", "wang"]
    assert abs(expected) < 1e-6 and uniformity(X).value == pytest.approx(expected, rel=1e-5)
