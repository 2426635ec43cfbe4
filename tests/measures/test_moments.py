"""Moments against the singular values of the float64 rows, on rows that are hard for any precision."""

import math

import pytest
import torch

from hf_repgeo.measures import Moments, PointCloud
from hf_repgeo.measures.spectrum import anisotropy_of, effective_rank_of, participation_ratio_of

pytestmark = pytest.mark.usefixtures("either_kernels")

N, D = 3000, 160


def clouds():
    g = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=g)

    normal, direction = random(N, D), random(D)
    turned = (normal * torch.arange(1, D + 1) ** -0.5) @ torch.linalg.qr(random(D, D)).Q
    place = torch.arange(N)[:, None]
    seventh = torch.arange(D) == 7
    which = torch.randint(0, D, (N,), generator=g)
    return {
        "power law": turned,
        "flat": normal,
        "bfloat16": turned.bfloat16(),
        "float16": turned.half(),
        "offset 1000": turned + 1000 * direction,
        "massive column": torch.where(seventh, 1e4 * turned, turned),
        "massive column in half the rows": turned + 1e4 * seventh * (place % 2),
        "sinks": turned + 1e4 * direction * (place % 128 == 0),
        "one long row, the first": turned + 1e6 * direction * (place == 0),
        "copies": torch.cat([turned, turned[:600]]),
        "constant columns": torch.cat([turned, torch.tensor([7.3, 1e9]).expand(N, 2)], 1),
        "rows of tiny numbers": torch.where(place % 50 == 0, 1e-25 * turned, turned),
        "column of tiny numbers": torch.where(seventh, 1e-9 * turned, turned),
        "rank 1": random(N, 1) @ random(1, D),
        "rank 3": random(N, 3) @ random(3, D),
        "rank 3 and an offset": random(N, 3) @ random(3, D) + 100 * direction,
        "rank 3 under 1e-4 of noise": random(N, 3) @ random(3, D) + 1e-4 * normal,
        "rank 2, integers": (random(N, 2) * 4).round() @ (random(2, D) * 4).round(),
        "four points": random(4, D)[torch.randint(0, 4, (N,), generator=g)],
        "one-hot": 0.7 * torch.eye(D)[which],
        "mostly zeros": (turned - 0.2).relu(),
        "rows of zeros": turned * (place % 50 != 0),
        "drift": turned + 0.01 * place * direction,
        "times 1e-8": turned * 1e-8,
        "times 1e-30": turned * 1e-30,
        "times 1e15": turned * 1e15,
        "heavy tails": normal / random(N, 1).abs().clamp_min(1e-6),
    }


def exact_spectrum(X):
    exact = X.to(torch.float64)
    return torch.linalg.svdvals(exact - exact.mean(0)).square()


def without_rounding(eigenvalues):
    return torch.where(eigenvalues > eigenvalues.max() * D * torch.finfo(torch.float64).eps, eigenvalues, 0)


@pytest.mark.parametrize("name", clouds())
def test_anisotropy_from_moments_is_right_to_eight_digits(name):
    X = clouds()[name]
    expected = float(anisotropy_of(exact_spectrum(X)))
    scatter = Moments.of(X).scatter
    assert float(torch.linalg.eigvalsh(scatter)[-1] / scatter.trace()) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", clouds())
def test_small_eigenvalues_are_those_of_the_rows(name):
    X = clouds()[name]
    exact, found = (without_rounding(v) for v in (exact_spectrum(X), torch.linalg.eigvalsh(Moments.of(X).scatter)))
    assert int((found > 0).sum()) == int((exact > 0).sum())
    for function in (effective_rank_of, participation_ratio_of):
        assert float(function(found)) == pytest.approx(float(function(exact)), rel=1e-6), function.__name__


@pytest.mark.parametrize("name", clouds())
def test_mean_and_mean_cosine(name):
    X = clouds()[name]
    moments, exact = Moments.of(X), X.to(torch.float64)
    norms = exact.norm(dim=1, keepdim=True)
    cosine, expected = (
        float((u.square().sum() - len(X)) / (len(X) * (len(X) - 1)))
        for u in (moments.unit_sum, torch.where(norms > 0, exact / norms, 0).sum(0))
    )
    spread = exact.std(0).clamp_min(1e-300)
    assert float(((moments.mean - exact.mean(0)).abs() / (spread + 1e-9 * exact.mean(0).abs())).max()) < 1e-7
    assert cosine == pytest.approx(expected, rel=1e-6)
    assert (moments.count, moments.zeros) == (len(X), int((norms == 0).sum()))


def test_equal_rows_have_no_spread():
    X = torch.full((N, D), 3.3)
    assert PointCloud(X).spectrum.sum() == 0 and Moments.of(X).scatter.trace() < 1e-20


def test_long_rows_leave_the_digits_of_the_others_alone(generator):
    """Taking the long rows away again leaves the moments of the rest."""
    X = torch.randn(N, D, generator=generator) * torch.arange(1, D + 1) ** -0.5
    long = torch.arange(N) % 128 == 0
    X[long] *= 1000
    remaining = (Moments.of(X) - Moments.of(X[long])).scatter
    exact = X[~long].double() - X[~long].double().mean(0)
    found, expected = (torch.linalg.eigvalsh(matrix) for matrix in (remaining, exact.T @ exact))
    assert torch.allclose(found, expected, rtol=1e-7)


def test_any_split_gives_the_same_answer(generator):
    X = torch.randn(6000, D, generator=generator).cumsum(1) + 50
    whole = Moments.of(X)
    for sizes in ((6000 - 1, 1), (2048, 2048, 1904), (5, 5995)):
        parts = [Moments.of(part) for part in X.split(sizes)]
        merged = sum(parts[1:], start=parts[0])
        assert merged.count == whole.count
        assert float((merged.mean - whole.mean).abs().max()) < 1e-7
        assert float((merged.scatter - whole.scatter).norm() / whole.scatter.norm()) < 1e-8


def test_spectral_measures_of_a_cloud_agree_with_its_float64_copy(generator):
    X = torch.randn(4000, 200, generator=generator) * torch.arange(1, 201) ** -1.0 + 3
    single, double = (PointCloud(rows).spectrum for rows in (X, X.double()))
    assert torch.allclose(single, double, rtol=1e-6)
    assert math.isclose(float(single.sum()), float(double.sum()), rel_tol=1e-8)
