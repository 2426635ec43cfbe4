"""Training terms: each equals its measure, and its gradient is the numerical one."""

import pytest
import torch

from hf_repgeo import losses
from hf_repgeo.errors import BadInput
from hf_repgeo.measures import PointCloud, resolve
from hf_repgeo.measures import evaluate_all as evaluate

TERMS = {
    "anisotropy": losses.anisotropy_term,
    "effective_rank": losses.effective_rank_term,
    "early_enrichment": losses.early_enrichment_term,
    "iso_score_star": losses.iso_score_star_term,
    "mean_cosine": losses.mean_cosine_term,
    "uniformity": losses.uniformity_term,
    "partition_function": losses.partition_function_term,
}


@pytest.fixture
def rows(generator):
    return torch.randn(14, 4, generator=generator, dtype=torch.float64) * torch.arange(1, 5) ** -0.8 + 0.2


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_its_measure(name, rows):
    [estimate] = evaluate(PointCloud(rows), resolve(name))
    assert float(TERMS[name](rows)) == pytest.approx(estimate.value, rel=1e-9)


@pytest.mark.parametrize("name", TERMS)
def test_the_gradient_is_the_numerical_one(name, rows):
    assert torch.autograd.gradcheck(TERMS[name], rows.requires_grad_(), eps=1e-7, atol=1e-5)


def test_a_step_against_the_gradient_spreads_the_cloud(rows):
    X = rows.clone().requires_grad_()
    before = losses.anisotropy_term(X)
    before.backward()
    assert float(losses.anisotropy_term(X.detach() - 0.5 * X.grad)) < float(before)


@pytest.mark.parametrize("name", TERMS)
def test_half_precision_rows_get_a_gradient_in_half_precision(name, rows):
    X = rows.to(torch.bfloat16).requires_grad_()
    TERMS[name](X).backward()
    assert X.grad.dtype == torch.bfloat16 and bool(torch.isfinite(X.grad).all())


def test_fewer_rows_than_columns_give_the_value_of_the_measure(generator):
    X = torch.randn(5, 9, generator=generator, dtype=torch.float64)
    [estimate] = evaluate(PointCloud(X), resolve("anisotropy"))
    assert float(losses.anisotropy_term(X)) == pytest.approx(estimate.value, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in TERMS if name != "partition_function"])
@pytest.mark.parametrize("unit", [1, 1e-15, 1e15])
def test_rows_without_spread_along_one_direction_have_a_finite_gradient_in_any_unit(name, unit, generator):
    X = torch.randn(96, 8, generator=generator)
    X = ((X - X.mean(1, keepdim=True)) * unit).requires_grad_()  # as a LayerNorm leaves them
    TERMS[name](X).backward()
    assert bool(torch.isfinite(X.grad).all()) and float(X.grad.abs().max()) > 0


def test_rows_of_zeros_have_no_direction_and_equal_rows_no_shape(generator):
    X = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    padded = torch.cat([X, torch.zeros(3, 4, dtype=torch.float64)])
    assert float(losses.mean_cosine_term(padded)) == pytest.approx(float(losses.mean_cosine_term(X)))
    with pytest.raises(BadInput, match="`rows`: got 9 equal rows; wanted rows that differ. The model has collapsed"):
        losses.effective_rank_term(X[:1].repeat(9, 1))
    with pytest.raises(BadInput, match="0 rows that are not zero"):
        losses.uniformity_term(torch.zeros(5, 4))


# --- rows at the edge -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in losses.TERMS if name != "partition_function"])
def test_a_term_does_not_depend_on_the_unit_of_rows_that_float32_holds(name, generator):
    X = torch.randn(64, 16, generator=generator)
    found = [float(losses.TERMS[name](X * unit)) for unit in (1.0, 2.0**-100, 2.0**100)]
    assert found[0] == pytest.approx(found[1], rel=1e-5) == pytest.approx(found[2], rel=1e-5)


def test_the_partition_function_of_long_rows_is_zero_and_of_short_ones_one(generator):
    X = torch.randn(64, 16, generator=generator)
    assert float(losses.partition_function_term(X * 1e25)) == 0
    assert float(losses.partition_function_term(X * 1e-25)) == pytest.approx(1)


def test_soft_patchiness_leaves_constant_columns_out(generator):
    X = torch.randn(200, 8, generator=generator)
    beside = torch.cat([X, torch.ones(200, 8)], 1).requires_grad_()
    term = losses.soft_patchiness_term(beside)
    term.backward()
    assert float(term) == pytest.approx(float(losses.soft_patchiness_term(X)), rel=1e-4)
    assert bool(torch.isfinite(beside.grad).all()) and float(beside.grad[:, 8:].abs().max()) == 0
    cells = losses.quantize(beside.detach(), bits=3)
    with pytest.raises(BadInput, match="cells that were fitted to rows like these"):
        losses.soft_patchiness_term(torch.randn(200, 16, generator=generator), cells=cells)


@pytest.mark.parametrize("name", losses.TERMS)
def test_rows_that_are_no_numbers_are_refused(name):
    X = torch.randn(64, 16)
    X[3, 2] = torch.nan
    with pytest.raises(BadInput, match="NaN or infinity in 1 of 64 rows"):
        losses.TERMS[name](X)
