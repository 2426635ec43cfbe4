"""The atlas: one table of many models measured by many people, one row per model, revision, layer, policy and measure.

Rows are added by pull request and checked before (`check_for_atlas`), so that every number says what it was measured
on, and how. The package ships its own small atlas, `hf_repgeo/data/atlas.parquet`.
"""

from __future__ import annotations

import io
import json
import re
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..measures import MEASURES
from ..report_table import COLUMNS, ReportTable
from ..rows.representations import POLICIES
from .results_dataset import ABOUT, KEY, digest, flat_rows, model_of, run_id

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from .commits import Snapshot

PACKAGED = Path(__file__).parents[1] / "data" / "atlas.parquet"
TAG = "hf_repgeo-atlas"
EXTRA = {"revision": str, "null": float, "provenance": str}
TYPES = {**ABOUT, **COLUMNS, **EXTRA}
LEAST_ROWS = 1024
ROUNDING = 1e-6
CARD = f"""\
---
pretty_name: Atlas of representation geometry
tags:
- {TAG}
- interpretability
configs:
- config_name: default
  data_files: "data/**/*.parquet"
---

# Atlas of representation geometry

One row per model, revision, stack, layer, point, token policy, measure and convention. `value` comes with its standard
error `se`, the number of rows `n`, what chance gives (`null`, where it was measured) and `provenance`, the JSON of how
it was measured: text, windows, seed, dtype, versions. Rows of one `run` belong together.

```python
import hf_repgeo

atlas = hf_repgeo.load_atlas("OWNER/NAME")    # a pandas table of this data set
```

A model joins by `report.push_to_hub("you/your-model", atlas="OWNER/NAME")`, which opens a pull request here.
"""


# --- checks ---------------------------------------------------------------------------------------------------------


def check_for_atlas(report: ReportTable) -> None:
    """Refuses a report that others could not read, compare or measure again.

    Raises:
        BadInput: rows that are not a public model's layers on a named text, unknown names, values outside the range of
            their measure, or too few rows to compare.
    """
    facts, text = report.provenance, report.provenance.get("text") or {}
    model = str(facts.get("model", ""))
    if not (facts.get("commit") or model.startswith("pip:")):
        cure = "Push the model to the Hub, and profile it from there."
        raise BadInput("atlas", came=f"model {model!r} without a commit", wanted="a model others can load", cure=cure)
    if text.get("name") in (None, "texts in memory") or not (text.get("sha256") or text.get("fingerprint")):
        cure = "Profile on the packaged sample (texts=None), or on a data set of the Hub."
        raise BadInput("atlas", came=f"text {text.get('name')!r}", wanted="a text others can read", cure=cure)
    for fact in ("dtype", "window", "seed", "fingerprint"):
        if facts.get(fact) is None:
            raise BadInput("atlas", came=f"no {fact} in the provenance", wanted="a report of hf_repgeo.profile")
    if facts.get("random_weights"):
        raise BadInput("atlas", came="weights that are random", wanted="those of the checkpoint")
    for row in report:
        _check_row(row)


def _check_row(row: dict[str, Any]) -> None:
    where = f"{row['measure']}, layer {row['layer']}"
    measure = MEASURES.get(row["measure"])
    if measure is None or row["convention"] not in measure.conventions:
        raise BadInput("atlas", came=f"{row['measure']}:{row['convention']}", wanted="a measure of hf_repgeo.MEASURES")
    if row["layer"] is None or row["stack"] is None or row["point"] is None:
        raise BadInput("atlas", came=f"a row without layer, stack or point ({where})", wanted="layers of a model")
    if row["tokens"] not in POLICIES:
        raise BadInput("atlas", came=f"tokens {row['tokens']!r}", wanted="one of " + ", ".join(POLICIES))
    if row["n"] is None or row["n"] < LEAST_ROWS:
        raise BadInput("atlas", came=f"{row['n']} rows ({where})", wanted=f"at least {LEAST_ROWS}")
    low, high = (bound if end is None else end for end, bound in zip(measure.range, (-inf, inf)))
    if row["value"] is not None and not low - ROUNDING <= row["value"] <= high + ROUNDING:
        raise BadInput("atlas", came=f"{row['value']} ({where})", wanted=f"a value in {list(measure.range)}")


# --- the table ------------------------------------------------------------------------------------------------------


def atlas_table(report: ReportTable, repo_id: str, path: str) -> pyarrow.Table:
    """The rows of a report with columns `TYPES`, the same types whatever the values."""
    import pyarrow as pa

    facts = report.provenance
    extra = {"revision": facts.get("revision") or facts.get("commit"), "provenance": json.dumps(facts, sort_keys=True)}
    rows = [row | extra | {"null": json.loads(row["details"]).get("null")} for row in flat_rows(report, repo_id, path)]
    return pa.Table.from_pylist(rows, schema=_schema(TYPES))


def _schema(types: dict[str, type]) -> pyarrow.Schema:
    import pyarrow as pa

    kinds = {int: pa.int64(), float: pa.float64(), str: pa.string(), list: pa.list_(pa.string()), dict: pa.string()}
    return pa.schema([(name, kinds[kind]) for name, kind in types.items()])


def atlas_files(there: Snapshot, *, report: ReportTable, repo_id: str, path: str) -> dict[str, bytes]:
    """The files to add to the atlas: one with the rows that it lacks, and a card if it has none.

    Raises:
        BadInput: the data set holds something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check_is_atlas(there)
    folder = f"data/{re.sub(r'[^A-Za-z0-9._-]+', '--', model_of(report, repo_id)).strip('.-')}"
    old = [there.read(file) for file in sorted(there.paths) if file.startswith(folder + "/")]
    known = {key for file in old for key in _keys(pq.read_table(io.BytesIO(file)))}
    table = atlas_table(report, repo_id, path)
    keys = _keys(table)
    table = table.take(pa.array([place for place, key in enumerate(keys) if key not in known], pa.int64()))
    if not len(table):
        return {}
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    name = f"{folder}/atlas-{run_id(report)}-{digest(keys)[:8]}.parquet"
    return {name: buffer.getvalue()} | ({} if "README.md" in there.paths else {"README.md": CARD.encode()})


def _keys(table: pyarrow.Table) -> list[tuple]:
    return [tuple(row[column] for column in KEY) for row in table.select(list(KEY)).to_pylist()]


def _check_is_atlas(there: Snapshot) -> None:
    others = [path for path in there.paths if path not in (".gitattributes", "README.md")]
    if others and TAG not in there.read("README.md").decode():
        came = f"a data set that is not an atlas, with {min(others)!r}"
        raise BadInput("atlas", came=came, wanted=f"a new data set, or one tagged {TAG}")


# --- reading --------------------------------------------------------------------------------------------------------


def read_atlas(files: list[Path]) -> pandas.DataFrame:
    """The rows of these Parquet files as one table; `details` and `provenance` stay JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not files:
        raise BadInput("repo_id", came="a data set without rows", wanted="an atlas")
    return pa.concat_tables([pq.read_table(file).select(list(TYPES)) for file in files]).to_pandas()


def plain_rows(atlas: pandas.DataFrame) -> list[dict[str, Any]]:
    """The rows of a report out of an atlas: Python's own numbers, and `None` where pandas says NaN."""
    import pyarrow as pa

    return pa.Table.from_pandas(atlas[list(COLUMNS)], schema=_schema(COLUMNS), preserve_index=False).to_pylist()
