"""The results data set: reports of many models as one tidy table, one row per model, commit, layer, measure,
convention.

Rows are identified by `KEY`. If something was measured twice in the same way, only the first row is kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..report_table import CASE, COLUMNS, ReportTable

if TYPE_CHECKING:
    import pyarrow

    from .commits import Snapshot

KEY = ("model", "commit", "run", *CASE)
ABOUT = {
    "model": str,
    "commit": str,
    "run": str,
    "text": str,
    "text_fingerprint": str,
    "dtype": str,
    "window": int,
    "seed": int,
    "hf_repgeo": str,
    "measured": str,
    "report": str,
}
# What was asked for, when, and on which machine; the numbers of a row do not depend on these.
_NOT_IDENTITY = set("layers tokens measures finished pool versions device processor revision request".split())

TAG = "hf_repgeo-results"
CARD = f"""\
---
pretty_name: Geometry of transformer representations
tags:
- {TAG}
configs:
- config_name: default
  data_files: "data/**/*.parquet"
---

# Geometry of transformer representations

One row per model, commit, layer, measure and convention, measured and written by `hf_repgeo`.
Rows with the same `run` were measured on the same text in the same way; `report` names the repository and file with the
whole report and its provenance. If a measure cannot be computed, `value` is null and the first of the `warnings` says
why.
"""


def run_id(report: ReportTable) -> str:
    """What decides the numbers, as 12 hexadecimal digits: model, commit, text, protocol, seed, version of hf_repgeo.

    Which layers, policies and measures were asked for does not matter, nor when and on which device they were measured.
    Without a commit nobody can tell whether a model of the same name is the same: then the numbers themselves decide.

    Args:
        report: any report of finite numbers.
    """
    facts = {key: value for key, value in report.provenance.items() if key not in _NOT_IDENTITY}
    numbers = None if facts.get("commit") else digest(report.rows)
    return digest([facts, _version(report), numbers])[:12]


def digest(content: Any) -> str:
    """A hash of JSON content; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def model_of(report: ReportTable, repo_id: str) -> str:
    """The name of the measured model: its Hub id or `pip:PACKAGE`; for a local one, the repository pushed to."""
    name = report.provenance.get("model")
    if isinstance(name, str) and (report.provenance.get("commit") or name.startswith("pip:")):
        return name
    return repo_id


def text_of(report: ReportTable) -> dict[str, Any]:
    """The provenance of the text: `name`, and `fingerprint` (its SHA-256 or the data set's own)."""
    text = report.provenance.get("text")
    text = text if isinstance(text, dict) else {}
    return {"name": text.get("name"), "fingerprint": text.get("sha256") or text.get("fingerprint")}


def results_table(report: ReportTable, repo_id: str, path: str) -> pyarrow.Table:
    """The rows of a report, each with the columns that make it readable by itself.

    Args:
        report: what was measured.
        repo_id: the repository that the report is pushed to.
        path: the report's file there.

    Returns:
        pyarrow.Table: columns `ABOUT` and those of a report; the same types whatever the values.
    """
    import pyarrow as pa

    flat = flat_rows(report, repo_id, path)
    types = {int: pa.int64(), float: pa.float64(), str: pa.string(), list: pa.list_(pa.string()), dict: pa.string()}
    schema = pa.schema([(column, types[kind]) for column, kind in {**ABOUT, **COLUMNS}.items()])
    return pa.Table.from_pylist(flat, schema=schema)


def flat_rows(report: ReportTable, repo_id: str, path: str) -> list[dict[str, Any]]:
    """The rows with the columns `ABOUT` before them, each key once, `details` as JSON text."""
    about = _about(report, repo_id, path)
    rows = {_key({**about, **row}): {**about, **row} for row in reversed(report.rows)}
    return [{**row, "details": json.dumps(row["details"], sort_keys=True)} for row in reversed(rows.values())]


def _about(report: ReportTable, repo_id: str, path: str) -> dict[str, Any]:
    facts, text = report.provenance, text_of(report)
    return {
        "model": model_of(report, repo_id),
        "commit": facts.get("commit"),
        "run": run_id(report),
        "text": text["name"],
        "text_fingerprint": text["fingerprint"],
        "dtype": facts.get("dtype"),
        "window": facts.get("window"),
        "seed": facts.get("seed"),
        "hf_repgeo": _version(report),
        "measured": facts.get("finished"),
        "report": f"{repo_id}/{path}",
    }


def _version(report: ReportTable) -> str | None:
    return (report.provenance.get("versions") or {}).get("hf_repgeo")


def _key(row: dict[str, Any]) -> tuple:
    return tuple(row.get(column) for column in KEY)  # tables of format 1 have no points


def new_rows(table: pyarrow.Table, files: Iterable[bytes]) -> pyarrow.Table:
    """The rows of `table` that none of these Parquet files holds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    known = {_key(row) for file in files for row in pq.read_table(io.BytesIO(file), columns=list(KEY)).to_pylist()}
    fresh = [place for place, row in enumerate(table.to_pylist()) if _key(row) not in known]
    return table.take(pa.array(fresh, pa.int64()))


def results_files(there: Snapshot, *, report: ReportTable, repo_id: str, path: str) -> dict[str, bytes]:
    """The files to add to the data set: one with the rows that it lacks, and a card if it has none.

    Args:
        there: the data set as it is.
        report: what was measured.
        repo_id: the repository that the report is pushed to.
        path: the report's file there.

    Returns:
        dict: content by path; empty if all rows are there.

    Raises:
        BadInput: the data set holds something else.
    """
    _check_results_dataset(there)
    folder = _folder(model_of(report, repo_id))
    known = [there.read(file) for file in sorted(there.paths) if _is_ours(file, re.escape(folder))]
    table = new_rows(results_table(report, repo_id, path), known)
    if not len(table):
        return {}
    file, content = _file(table, folder)
    return {file: content} | ({} if "README.md" in there.paths else {"README.md": CARD.encode()})


def _check_results_dataset(there: Snapshot) -> None:
    """Refuses a data set that holds something else: our rows in it would break it for its readers."""
    others = [path for path in there.paths if path not in (".gitattributes", "README.md")]
    if others and not any(map(_is_ours, others)) and TAG not in there.read("README.md").decode():
        came = f"a data set that holds other things, such as {min(others)!r}"
        raise BadInput("results_dataset", came=came, wanted="a new one, or one of reports")


def _is_ours(path: str, folder: str = "data/[^/]+") -> bool:
    return re.fullmatch(rf"{folder}/repgeo-[0-9a-f]+\.parquet", path) is not None


def _folder(model: str) -> str:
    slug = re.sub(r"[^\w.-]+", "--", model, flags=re.ASCII).strip(".-")
    return f"data/{slug or 'model'}"


def _file(table: pyarrow.Table, folder: str) -> tuple[str, bytes]:
    """Path and bytes of a Parquet file, named after its content: no two files collide."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return f"{folder}/repgeo-{digest(table.to_pylist())[:16]}.parquet", buffer.getvalue()
