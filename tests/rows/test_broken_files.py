"""Files under random damage: readers raise their documented one-sentence error, and never another."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_repgeo import measure
from hf_repgeo.errors import BadInput, RepgeoError, UnknownName
from hf_repgeo.report import GeometryReport
from hf_repgeo.rows.files import ParquetRows, read_rows, row_blocks
from hf_repgeo.rows.texts import corpus_of

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DAMAGE = st.lists(st.tuples(st.integers(0, 10**9), st.binary(max_size=12)), min_size=1, max_size=4)


def damaged(content: bytes, damage) -> bytes:
    """Bytes replaced at a place; an empty replacement cuts the file off there."""
    for place, new in damage:
        place %= len(content) + 1
        content = content[:place] + (new + content[place + len(new) :] if new else b"")
    return content


def whole_file(kind: str, folder) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet
    from safetensors.numpy import save_file

    path, X = folder / f"whole{kind}", np.arange(24.0).reshape(6, 4)
    if kind == ".npy":
        np.save(path, X)
    elif kind == ".safetensors":
        save_file({"x": X}, path)
    elif kind == ".parquet":
        pyarrow.parquet.write_table(pa.table({"x": list(X), "text": ["some text"] * 6}), path)
    elif kind == ".json":
        measure(X, "anisotropy").to_json(path)
    else:
        path.write_text("".join(json.dumps({"text": "some text"}) + "\n" for _ in range(6)))
    return path.read_bytes()


def read(kind: str, path) -> None:
    if kind == ".json":
        repr(GeometryReport.from_json(path))
    if kind in (".jsonl", ".parquet", ".json"):
        with suppress(RepgeoError):
            corpus_of(path)
    if kind in (".npy", ".safetensors", ".parquet"):
        measure(path, "anisotropy")


@pytest.mark.parametrize("kind", [".npy", ".safetensors", ".parquet", ".json", ".jsonl"])
def test_a_damaged_file_is_read_or_refused_with_a_message(kind, tmp_path):
    content, path = whole_file(kind, tmp_path), tmp_path / f"damaged{kind}"

    @QUICK
    @given(DAMAGE)
    def check(damage):
        path.write_bytes(damaged(content, damage))
        with suppress(RepgeoError):
            read(kind, path)

    check()


def test_parquet_is_read_block_by_block(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    X = np.random.default_rng(0).normal(size=(1000, 3))
    table = pa.table({"id": range(1000), "x": list(X), "y": list(X.astype(np.float32))})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet", row_group_size=300)
    rows = read_rows(tmp_path / "x.parquet", "x")
    assert rows == ParquetRows(tmp_path / "x.parquet", "x")
    blocks = list(row_blocks(rows, rows=128))
    assert max(map(len, blocks)) <= 128 and np.array_equal(np.concatenate(blocks), X)
    assert measure(rows, "anisotropy").value("anisotropy") == pytest.approx(
        measure(X, "anisotropy").value("anisotropy")
    )
    with pytest.raises(BadInput, match=r"with 2 columns of vectors \(x, y\).*Name it with column="):
        read_rows(tmp_path / "x.parquet")
    with pytest.raises(BadInput, match="column 'id' of 'x.parquet', int64; wanted one column of vectors"):
        read_rows(tmp_path / "x.parquet", "id")
    with pytest.raises(UnknownName, match="unknown column 'z'"):
        read_rows(tmp_path / "x.parquet", "z")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(rows={}),
        lambda content: content.update(provenance=[]),
        lambda content: content.update(rows=[1]),
        lambda content: content["rows"][0].update(value="0.5"),
        lambda content: content["rows"][0].update(warnings=None),
        lambda content: content["rows"][0].update(n=True),
        lambda content: content["rows"][0].pop("details"),
        lambda content: content.update(format="two"),
    ],
)
def test_a_report_with_other_types_is_refused(tmp_path, change):
    path = measure(np.eye(4), "anisotropy").to_json(tmp_path / "report.json")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="wanted a report written by to_json"):
        GeometryReport.from_json(path)
