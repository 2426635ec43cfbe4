"""PointCloud: what is accepted, what is refused with which words, and that copies are found."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_repgeo.errors import BadInput, NonFiniteRows, TooFewRows
from hf_repgeo.measures import PointCloud, evaluate_all, resolve
from hf_repgeo.measures.cloud import _first_equals_by_sorting, first_equals, first_occurrences
from hf_repgeo.measures.kernels.row_keys import key_order


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8])
def test_every_usual_dtype_is_taken_and_the_input_is_untouched(dtype, generator):
    X = (torch.randn(50, 8, generator=generator) * 20).to(dtype)
    before = X.clone()
    cloud = PointCloud(X)
    cloud.moments, cloud.distinct, cloud.spectrum
    assert torch.equal(X, before)
    assert torch.equal(cloud.rows.to(torch.float64), X.to(torch.float64))


def test_float32_rows_are_not_copied(generator):
    X = torch.randn(50, 8, generator=generator)
    assert PointCloud(X).rows.data_ptr() == X.data_ptr()
    assert PointCloud(X.numpy()).rows.data_ptr() == X.data_ptr()


def test_read_only_reversed_and_big_endian_arrays_are_taken():
    array = np.arange(12, dtype=np.float64).reshape(4, 3)
    array.setflags(write=False)
    for given_array in (array, array[::-1], array.astype(">f8"), array.tolist()):
        expected = np.asarray(given_array, dtype=np.float64)
        assert np.array_equal(PointCloud(given_array).rows.numpy(), expected)


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        (torch.zeros(3, 4, 5), BadInput, r"`X`: got shape \(3, 4, 5\).*attention_mask"),
        (torch.zeros(5), BadInput, r"shape \(5,\).*stack several"),
        (torch.zeros(4, 0), BadInput, r"shape \(4, 0\)"),
        (torch.zeros(1, 4), TooFewRows, r"got 1 row\(s\); wanted at least 2"),
        (torch.zeros(4, 4, dtype=torch.bool), BadInput, "dtype torch.bool"),
        (torch.zeros(4, 4, dtype=torch.complex64), BadInput, "dtype torch.complex64"),
        (np.array([["a", "b"], ["c", "d"]]), BadInput, "dtype <U1"),
        ([["a", 1]], BadInput, "list that is not a table of numbers"),
        (torch.tensor([[0.0, 1.0], [torch.nan, 2.0], [3.0, torch.inf]]), NonFiniteRows, "in 2 of 3 rows"),
        (torch.tensor([[torch.inf], [0.0]], dtype=torch.float16), NonFiniteRows, "float16 overflows above 65504"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_message(X, error, words):
    with pytest.raises(error, match=words):
        PointCloud(X)


def test_groups_of_the_wrong_length_are_refused():
    with pytest.raises(BadInput, match=r"`groups`: got shape \(3,\).*wanted 4 integers"):
        PointCloud(torch.eye(4), groups=[0, 1, 2])


@pytest.mark.parametrize("scale", [1e-22, 1e-6, 1.0, 1e20])
def test_extreme_values_are_rescaled_by_a_power_of_two_only(scale, generator):
    X = torch.randn(20, 4, generator=generator) * scale
    cloud = PointCloud(X)
    assert np.log2(cloud.unit) == int(np.log2(cloud.unit))
    assert torch.equal(cloud.rows * cloud.unit, X)
    assert 2**-20 <= float(cloud.rows.abs().max()) <= 2**20


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(1, 70), st.integers(1, 3), st.randoms(use_true_random=False))
def test_first_occurrences_are_those_of_a_plain_loop(n, d, values, random):
    rows = torch.tensor([[random.randrange(values) - 1.0 for _ in range(d)] for _ in range(n)])
    seen: dict = {}
    equals = [seen.setdefault(row, i) for i, row in enumerate(map(tuple, rows.tolist()))]
    assert first_equals(rows).tolist() == _first_equals_by_sorting(rows).tolist() == equals
    assert first_occurrences(rows).tolist() == sorted(set(equals))


def test_minus_zero_equals_zero():
    assert PointCloud(torch.tensor([[0.0, 1.0], [-0.0, 1.0]])).n_distinct == 1


def test_rows_that_agree_in_the_key_columns_are_told_apart():
    rows = torch.zeros(6, 640)
    rows[:, 1] = torch.tensor([0.0, 1, 2, 2, 3, 0])  # column 1 is not among the 32 looked at first
    assert first_occurrences(rows).tolist() == [0, 1, 2, 4]


def test_copies_among_rows_that_agree_in_the_key_columns_are_found(generator):
    rows = torch.randn(300, 640, generator=generator)
    rows[100:200] = rows[0]
    rows[100:200, 1] = torch.arange(100.0) // 2  # pairs of copies, all alike in the 32 columns looked at first
    expected = torch.arange(300)
    expected[101:200:2] = expected[100:200:2]
    assert torch.equal(first_equals(rows), expected)


def test_the_order_by_keys_does_not_depend_on_how_rows_came(generator):
    rows = torch.randn(200, 640, generator=generator)
    rows[:80] = rows[0]
    rows[:80, 1] = torch.arange(80.0) % 60  # alike in the 32 columns looked at first, some of them copies
    other = rows[torch.randperm(200, generator=generator)]
    assert torch.equal(rows[key_order(rows)], other[key_order(other)])


@given(st.integers(2, 200), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_a_group_lies_in_one_fold_and_folds_differ_by_one_group(n, n_groups):
    groups = torch.arange(n) % n_groups
    folds = PointCloud(torch.arange(n * 2.0).reshape(n, 2), groups=groups).folds
    assert len(torch.unique(torch.stack([groups, folds]), dim=1).T) == len(torch.unique(groups))
    sizes = torch.tensor([len(torch.unique(groups[folds == fold])) for fold in torch.unique(folds)])
    assert len(sizes) == min(20, n_groups, n) and int(sizes.max() - sizes.min()) <= 1


def test_a_subset_of_few_rows_in_many_columns_takes_its_errors_from_the_whole(generator):
    X = torch.randn(200, 400, generator=generator) * torch.arange(1, 401) ** -0.5
    groups, pairs = torch.arange(200) // 8, resolve(["anisotropy", "participation_ratio"])
    whole, keep = PointCloud(X, groups=groups), torch.arange(5, 200)
    part, alone = whole.subset(keep), PointCloud(X[keep], groups=groups[keep])
    for shared, own in zip(evaluate_all(part, pairs), evaluate_all(alone, pairs), strict=True):
        assert shared.value == pytest.approx(own.value, rel=1e-9)
        assert shared.standard_error == pytest.approx(own.standard_error, rel=0.1)
    assert "coordinates" in whole.__dict__
    giant = PointCloud(torch.cat([X, 1e9 * X[:1]]))
    assert giant.subset(torch.arange(200)).origin is None  # beside that row float32 coordinates would be noise


def test_a_subset_is_measured_like_the_rows_alone(generator):
    X = torch.randn(300, 6, generator=generator)
    X[200:220] = X[:20]  # copies
    cloud = PointCloud(X)
    cloud.neighbors
    for keep in (torch.arange(0, 300, 2), torch.randperm(300, generator=generator)[:190], torch.arange(100, 300)):
        part, alone = cloud.subset(keep), PointCloud(X[keep])
        assert part.n_distinct == alone.n_distinct
        assert torch.equal(part.neighbors.distances, alone.neighbors.distances)


def test_a_copy_whose_original_is_left_out_needs_no_new_search(generator, monkeypatch):
    X = torch.randn(300, 6, generator=generator)
    X[200:220] = X[:20]
    cloud, keep = PointCloud(X), torch.arange(10, 300)
    alone = PointCloud(X[keep]).neighbors
    cloud.neighbors
    monkeypatch.setattr("hf_repgeo.measures.cloud.nearest", lambda rows: pytest.fail("searched again"))
    part = cloud.subset(keep).neighbors
    assert torch.equal(part.distances, alone.distances) and torch.equal(part.indices, alone.indices)
