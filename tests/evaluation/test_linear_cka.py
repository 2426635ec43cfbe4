"""The comparisons of evaluate: the number of the table, streamed or at once, and errors in sentences."""

import os

os.environ["HF_EVALUATE_OFFLINE"] = "1"

import evaluate  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

import hf_repgeo  # noqa: E402, F401
from hf_repgeo.errors import BadInput  # noqa: E402
from hf_repgeo.measures import PointCloud, anisotropy  # noqa: E402
from hf_repgeo.measures.pairs import CloudPair, linear_cka, paired_differences  # noqa: E402


@pytest.fixture
def clouds():
    g = torch.Generator().manual_seed(0)
    X = torch.randn(80, 5, generator=g)
    return X, X @ torch.randn(5, 7, generator=g) + 0.5 * torch.randn(80, 7, generator=g)


@pytest.fixture
def comparison(monkeypatch):
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    return evaluate.load("linear_cka", module_type="comparison")


def test_it_is_found_by_name_and_gives_the_number_of_the_table(comparison, clouds):
    assert isinstance(comparison, evaluate.Comparison)
    X, Y = clouds
    expected = linear_cka(CloudPair(X, Y))
    for one, other in ((X, Y), (X.numpy(), Y.numpy()), (X.tolist(), Y.tolist())):
        found = comparison.compute(representations1=one, representations2=other)
        assert found["linear_cka"] == pytest.approx(expected.value, abs=1e-6)
    assert found["linear_cka_standard_error"] > 0 and found["linear_cka_n"] == 80


def test_batches_add_up_to_the_whole_and_are_forgotten_afterwards(comparison, clouds):
    X, Y = clouds
    for rows in (slice(0, 30), slice(30, 79)):
        comparison.add_batch(representations1=X[rows], representations2=Y[rows])
    comparison.add(representations1=X[79], representations2=Y[79])
    assert comparison.compute()["linear_cka"] == pytest.approx(linear_cka(CloudPair(X, Y)).value, abs=1e-6)
    with pytest.raises(BadInput, match="add_batch before"):
        comparison.compute()


def test_chance_stands_beside_it_on_request(comparison, clouds):
    found = comparison.compute(representations1=clouds[0], representations2=clouds[1], null=True)
    assert abs(found["linear_cka_null"]) < 0.1 and found["linear_cka_null_sd"] > 0


def test_rows_that_do_not_belong_together_are_refused(comparison, clouds):
    with pytest.raises(BadInput, match="got 79 rows; wanted 80"):
        comparison.compute(representations1=clouds[0], representations2=clouds[1][:79])
    with pytest.raises(BadInput):
        comparison.compute(representations1=clouds[0], representations2=np.full((80, 2), np.nan))


def test_differences_of_measures_are_those_of_the_table_with_interval_and_p(comparison, clouds):
    difference = evaluate.load("geometry_difference", module_type="comparison")
    X, _ = clouds
    Y = X * torch.tensor([3.0, 1, 1, 1, 1])
    found = difference.compute(representations1=X, representations2=Y, measures=["anisotropy", "massive_share"])
    [expected] = paired_differences([anisotropy(PointCloud(X))], [anisotropy(PointCloud(Y))])
    assert found["anisotropy_difference"] == pytest.approx(expected.value)
    for name in ("first", "second", "low", "high", "p"):
        assert found[f"anisotropy_difference_{name}"] == pytest.approx(expected.details[name])
    assert found["massive_share_difference_standard_error"] is None
    assert "no_paired_error" in found["massive_share_difference_warnings"]
