"""Every row of the table of measures keeps its promises: range, invariances, minimum rows, dtypes, missing values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_repgeo.errors import NonFiniteRows, UnknownName
from hf_repgeo.measures import MEASURES, PointCloud, check_options, evaluate_all, resolve

pytestmark = pytest.mark.usefixtures("either_kernels")

CASES = resolve("all")
OPTIONS = {"bits": 4}
EVERY_INVARIANCE = {"shift", "scale", "rotation", "columns", "copies"}
TOLERANCE = 1e-5  # rounding stays below, a real change of any measure on these rows above


def value(X, case, **options):
    [estimate] = evaluate_all(PointCloud(X, **options), [case], **OPTIONS)
    return estimate


def cloud(n=400, d=104, seed=0):
    """Rows that no measure finds special: uneven spread, an offset, a few long rows, a few copies."""
    g = torch.Generator().manual_seed(seed)
    X = (torch.randn(n, d, generator=g, dtype=torch.float64) * torch.arange(1, d + 1) ** -0.7 + 0.4) * 0.03
    X[:: max(2, n // 5)] *= 40
    X[-(n // 20) :] = X[: n // 20]
    return X


def transformed(X, name):
    g = torch.Generator().manual_seed(1)
    d = X.shape[1]
    if name == "shift":
        return X + torch.randn(d, generator=g, dtype=X.dtype)
    if name == "scale":
        return X * 3.7
    if name == "rotation":
        return X @ torch.linalg.qr(torch.randn(d, d, generator=g, dtype=X.dtype)).Q
    if name == "columns":
        return X[:, torch.randperm(d, generator=g)]
    return torch.cat([X, X])


BROKEN = {("cell_count_divergence", "marbut_code"): {"copies"}}  # by this convention alone


@pytest.mark.parametrize("case", CASES, ids=":".join)
@pytest.mark.parametrize("invariance", sorted(EVERY_INVARIANCE))
def test_declared_invariances_hold_and_others_break(case, invariance):
    X = cloud()
    before, after = value(X, case).value, value(transformed(X, invariance), case).value
    same = math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=1e-9)
    assert same == (invariance in MEASURES[case[0]].invariances - BROKEN.get(case, set())), (before, after)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(60, 300), d=st.integers(1, 20), seed=st.integers(0, 99))
def test_values_lie_in_the_declared_range(n, d, seed):
    for estimate in evaluate_all(PointCloud(cloud(n, d, seed)), CASES, **OPTIONS):
        low, high = MEASURES[estimate.measure].range
        if estimate.value is None:
            assert estimate.warnings
            continue
        assert math.isfinite(estimate.value)
        assert low is None or estimate.value >= low - 1e-6
        assert high is None or estimate.value <= high + 1e-9
        assert estimate.standard_error is None or estimate.standard_error >= 0
        assert (estimate.standard_error is None) == (estimate.se_method is None)


@pytest.mark.parametrize("case", CASES, ids=":".join)
def test_the_order_of_rows_does_not_matter(case):
    X = cloud()
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(2))
    if MEASURES[case[0]].needs != "cells":  # a quantizer starts from random rows
        assert value(X, case).value == pytest.approx(value(X[order], case).value, rel=1e-9)


@pytest.mark.parametrize("case", CASES, ids=":".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_gives_the_value_of_its_entries_in_float64(case, dtype):
    X = cloud().to(dtype)
    rounding = 2e-6 if MEASURES[case[0]].needs == "cells" else 1e-6  # codewords in float32 move small differences more
    assert value(X, case).value == pytest.approx(value(X.double(), case).value, rel=rounding)


@pytest.mark.parametrize("case", CASES, ids=":".join)
def test_the_same_seed_gives_the_same_number_and_the_input_stays(case):
    X = cloud().float()
    before = X.clone()
    assert value(X, case, seed=5) == value(X, case, seed=5)
    assert torch.equal(X, before)


@pytest.mark.parametrize("case", CASES, ids=":".join)
@pytest.mark.parametrize(
    "X",
    [
        torch.full((300, 5), 2.0),
        torch.zeros(300, 5),
        torch.randn(2, 5),
        torch.arange(2.0)[:, None],
        torch.randn(300, 1),
    ],
    ids=["constant", "zeros", "two rows", "two numbers", "one column"],
)
def test_degenerate_rows_give_a_number_or_a_reason(case, X):
    estimate = value(X, case)
    if estimate.value is None:
        assert estimate.codes and ": " in estimate.warnings[0] and estimate.standard_error is None
    else:
        assert math.isfinite(estimate.value)


@pytest.mark.parametrize("case", CASES, ids=":".join)
def test_a_constant_column_changes_nothing(case):
    X = cloud()
    wide = torch.cat([X, torch.full((len(X), 4), 1.0, dtype=X.dtype)], 1)
    if case[0] in (
        "anisotropy",
        "effective_rank",
        "participation_ratio",
        "intrinsic_dimension",
        "top_coordinate_share",
    ):
        assert value(wide, case).value == pytest.approx(value(X, case).value, rel=1e-9)
    else:
        assert math.isfinite(value(wide, case).value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_are_refused(bad):
    X = cloud()
    X[3, 3] = bad
    with pytest.raises(NonFiniteRows, match="in 1 of 400 rows"):
        PointCloud(X)


@pytest.mark.parametrize("name", MEASURES)
def test_the_table_is_filled_in(name):
    measure = MEASURES[name]
    assert measure.function.__name__ == name and measure.conventions and measure.source and measure.cost
    assert measure.invariances <= EVERY_INVARIANCE
    for section in ("Args:", "Returns:", "Cost:", "Source:", "Example:"):
        assert section in measure.function.__doc__, section


def test_names_resolve_to_conventions_once_each_in_order():
    assert resolve("patchiness") == [("patchiness", "lloyd"), ("patchiness", "marbut")]
    assert resolve(["intrinsic_dimension:mle", "intrinsic_dimension"])[0] == ("intrinsic_dimension", "mle")
    assert len(resolve(["anisotropy", "anisotropy"])) == 1
    with pytest.raises(UnknownName, match="unknown measure 'isoscore'. Did you mean 'iso_score'"):
        resolve("isoscore")
    with pytest.raises(UnknownName, match="unknown option 'quantiser'. Did you mean 'quantizer'"):
        check_options({"quantiser": "product"})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", CASES, ids=":".join)
def test_cuda_gives_the_number_of_the_cpu(case):
    X = cloud().float()
    assert value(X.cuda(), case).value == pytest.approx(value(X, case).value, rel=1e-5)
