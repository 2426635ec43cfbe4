"""Rows from files and data sets, and streams: every split gives the number of the whole."""

import numpy as np
import pytest
import torch

from hf_repgeo import measure
from hf_repgeo.cli.main import main
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.measures import MEASURES, PointCloud, evaluate_all, resolve
from hf_repgeo.rows.files import read_rows
from hf_repgeo.rows.streams import RowStream, cloud_of_stream

FROM_MOMENTS = ["mean_cosine"] + [n for n, m in MEASURES.items() if m.needs == "spectrum" and n != "vasicek_mse"]


@pytest.fixture
def X(generator):
    return (torch.randn(3000, 104, generator=generator) * torch.arange(1, 105) ** -0.5 + 1).numpy()


def test_a_file_of_any_kind_is_measured_as_its_rows(X, tmp_path):
    import datasets
    from safetensors.numpy import save_file

    np.save(tmp_path / "x.npy", X)
    save_file({"embedding": X}, tmp_path / "x.safetensors")
    datasets.Dataset.from_dict({"id": range(len(X)), "embedding": list(X)}).to_parquet(str(tmp_path / "x.parquet"))
    expected = measure(X, ["anisotropy", "intrinsic_dimension", "mean_cosine"])
    for name in ("x.npy", "x.safetensors", "x.parquet"):
        found = measure(tmp_path / name, ["anisotropy", "intrinsic_dimension", "mean_cosine"])
        assert [row["value"] for row in found] == pytest.approx([row["value"] for row in expected], rel=1e-9)


def test_a_stream_longer_than_what_is_kept_still_reads_all_rows_where_moments_are_enough(X):
    pairs = resolve(FROM_MOMENTS)
    cloud = cloud_of_stream(np.array_split(X, 17), max_rows=500)
    assert (cloud.n, cloud.n_seen) == (500, 3000)
    for whole, streamed in zip(evaluate_all(PointCloud(X), pairs), evaluate_all(cloud, pairs), strict=True):
        assert streamed.value == pytest.approx(whole.value, rel=1e-6), whole.measure
        assert streamed.n == 3000 and streamed.standard_error is None


def test_blocks_of_very_different_size_keep_their_size(X):
    """Each block is checked as a cloud of its own; one that is rescaled there must not stay so in the stream."""
    rows = X[:1000].astype(np.float64)
    rows[500:] *= 2.0**30
    pairs = resolve(["anisotropy", "effective_rank", "mean_cosine"])
    cloud = cloud_of_stream(np.split(rows, [500]), max_rows=200)
    for whole, streamed in zip(evaluate_all(PointCloud(rows), pairs), evaluate_all(cloud, pairs), strict=True):
        assert streamed.value == pytest.approx(whole.value, rel=1e-6), whole.measure


def test_rows_that_measures_need_are_drawn_evenly_from_the_stream():
    """Each of 1000 rows must be kept about equally often, whatever the blocks."""
    counts = np.zeros(1000)
    rows = np.arange(1000, dtype=np.float64)[:, None]
    for seed in range(300):
        kept = cloud_of_stream(np.split(rows, [1, 40, 400, 401, 950]), max_rows=100, seed=seed).rows
        counts[kept[:, 0].long().numpy()] += 1
    assert counts.sum() == 300 * 100
    assert np.abs(counts.reshape(10, 100).sum(1) / 3000 - 1).max() < 0.08  # 5 standard deviations


def test_a_stream_that_is_kept_whole_is_the_cloud_itself(X):
    cloud = cloud_of_stream(np.array_split(X, 5), max_rows=10_000)
    assert not cloud.streamed and torch.equal(cloud.rows, torch.from_numpy(X))


def test_the_report_gives_the_number_of_rows_behind_each_value(X):
    import datasets

    data = datasets.Dataset.from_dict({"embedding": list(X)}).with_format("numpy")
    for table in (data, data["embedding"], data.to_iterable_dataset()):
        report = measure(table, ["anisotropy", "intrinsic_dimension:mle"], max_rows=400)
        assert {row["measure"]: row["n"] for row in report} == {"anisotropy": 3000, "intrinsic_dimension": 400}


def test_the_command_line_measures_a_file(X, tmp_path, capsys):
    np.save(tmp_path / "x.npy", X)
    out = tmp_path / "report.json"
    assert main(["measure", str(tmp_path / "x.npy"), "--measures", "anisotropy", "--out", str(out)]) == 0
    assert "anisotropy  razzhigaev" in capsys.readouterr().out and out.exists()
    assert main(["measure", str(tmp_path / "y.npy")]) == 2
    assert "which is not a file; wanted a .npy, .safetensors or .parquet file" in capsys.readouterr().err


def test_files_that_hold_no_matrix_are_refused(tmp_path):
    from safetensors.numpy import save_file

    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput, match="objects.npy' .*wanted an array of numbers"):
        read_rows(tmp_path / "objects.npy")
    save_file({"a": np.eye(3), "b": np.eye(3)}, tmp_path / "two.safetensors")
    with pytest.raises(UnknownName, match="unknown tensor None. Known: a, b"):
        read_rows(tmp_path / "two.safetensors")
    for name in ("bad.safetensors", "bad.parquet"):
        (tmp_path / name).write_bytes(b"not what the name says")
        with pytest.raises(BadInput, match=f"`file`: got '{name}'"):
            read_rows(tmp_path / name)
    with pytest.raises(BadInput, match="an empty stream"):
        cloud_of_stream([], 10)


def test_the_draw_depends_on_seed_and_position_alone(X):
    cuts = ([1000], [1, 40, 400, 401, 950], [2999])
    kept = [cloud_of_stream(np.split(X, cut), max_rows=200, seed=5).rows for cut in cuts]
    assert torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2])
    assert not torch.equal(kept[0], cloud_of_stream([X], max_rows=200, seed=6).rows)


@pytest.mark.parametrize("max_rows", [200, 1700, 3000])
def test_parts_of_a_stream_are_joined_to_the_whole(X, max_rows):
    parts = [RowStream(max_rows, 3) for _ in range(2)]
    for number, start in enumerate(range(0, 3000, 100)):
        parts[number % 2].take(X[start : start + 100], start)
    joined, whole = parts[0].joined(parts[1:]).cloud(), cloud_of_stream([X], max_rows, 3)
    assert torch.equal(joined.rows, whole.rows) and joined.n_seen == whole.n_seen == 3000
    assert torch.allclose(joined.moments.scatter, whole.moments.scatter, rtol=1e-12, atol=1e-9)
    assert joined.streamed == (max_rows < 3000)


def test_groups_follow_the_rows_that_are_drawn(X, tmp_path):
    np.save(tmp_path / "x.npy", X)
    cloud = cloud_of_stream(np.array_split(X, 7), max_rows=200, groups=np.arange(3000))
    assert torch.equal(cloud.rows, torch.from_numpy(X)[cloud.groups])
    with pytest.raises(BadInput, match="wanted 3000 integers, one per row"):
        measure(tmp_path / "x.npy", "anisotropy", groups=[0, 1])
    by_file, by_rows = (measure(x, "anisotropy", groups=np.arange(3000) // 50).rows[0] for x in (tmp_path / "x.npy", X))
    assert by_file["se"] == by_rows["se"] is not None


def test_a_row_names_the_draw_it_was_computed_on(X):
    import datasets

    data = datasets.Dataset.from_dict({"embedding": list(X)})
    report = measure(data, ["anisotropy", "intrinsic_dimension:mle"], max_rows=400, seed=7)
    assert "draw" not in report.rows[0]["details"]
    assert report.rows[1]["details"]["draw"] == "even, 400 of 3000 rows, seed 7"
    assert "draw" not in measure(data, "intrinsic_dimension:mle", max_rows=3000).rows[0]["details"]


@pytest.mark.parametrize("ending", ["npy", "safetensors"])
def test_a_stream_keeps_the_dtype_of_the_file_and_its_warnings(X, tmp_path, ending):
    from safetensors.numpy import save_file

    path, coarse = tmp_path / f"x.{ending}", (X / 1000 + 1).astype(np.float16)
    save_file({"x": coarse}, path) if ending == "safetensors" else np.save(path, coarse)
    for max_rows in (500, 5000):
        row = measure(path, "effective_rank", max_rows=max_rows).rows[0]
        assert row["warnings"][0].startswith("rounding: rounding to float16")


def test_blocks_of_another_width_are_refused(X):
    with pytest.raises(BadInput, match="rows of 104 and of 3 columns"):
        cloud_of_stream([X, X[:, :3]], 10)


def test_entries_whose_squares_float64_cannot_sum_are_refused_in_a_stream(X):
    with pytest.raises(BadInput, match="entries of .e.16. in a stream; wanted entries whose squares"):
        cloud_of_stream([X[:50].astype(float), X[50:100].astype(float) * 1e163], max_rows=10)
    tiny = X[:100].astype(float) * 1e-160
    with pytest.raises(BadInput, match="entries of .e-16. in a stream; wanted .* multiply all rows by a constant"):
        cloud_of_stream([tiny], max_rows=10)
    assert cloud_of_stream([tiny], max_rows=100).n == 100  # all rows are kept, and rescaled


def test_the_spectrum_of_a_stream_does_not_depend_on_the_unit_of_its_entries(X):
    rows = X[:400].astype(float)
    shares = [
        evaluate_all(cloud_of_stream([rows * scale], max_rows=50), [("anisotropy", "razzhigaev")])[0].value
        for scale in (1.0, 1e-135, 1e135)
    ]
    assert shares == pytest.approx([shares[0]] * 3, rel=1e-12)
