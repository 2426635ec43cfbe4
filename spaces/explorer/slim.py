"""Makes the reports that ship with the explorer from full ones: what the page draws, in less than 300 kB.

    python slim.py all-MiniLM-L6-v2=runs/minilm/profile.json SmolLM2=runs/smollm2/profile.json

writes `reports/all-MiniLM-L6-v2.json` and `reports/SmolLM2.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hf_repgeo import GeometryReport
from hf_repgeo.measures import MEASURES
from hf_repgeo.report_table import FORMAT
from hf_repgeo.rows.representations import POLICIES

MEASURES_KEPT = ("anisotropy", "intrinsic_dimension", "patchiness", "effective_rank", "mean_cosine")
DETAILS_KEPT = ("null", "null_sd")
DIGITS = 7
NOTE = f"default conventions of {len(MEASURES_KEPT)} measures, {DIGITS} digits, details left out"


def slim(report: GeometryReport) -> GeometryReport:
    """The rows that the explorer draws, with fewer digits; the provenance whole, and a note of what was done."""
    kept = [row for row in report if row["measure"] in MEASURES_KEPT and row["tokens"] in POLICIES]
    kept = [row for row in kept if row["convention"] == MEASURES[row["measure"]].conventions[0]]
    return GeometryReport([_slim_row(row) for row in kept], report.provenance | {"slimmed": NOTE})


def _slim_row(row: dict) -> dict:
    details = {key: row["details"][key] for key in DETAILS_KEPT if key in row["details"]}
    return {key: _short(value) for key, value in row.items()} | {"details": details}


def _short(value):
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def write(report: GeometryReport, path: Path) -> None:
    """A report that `GeometryReport.from_json` reads, one row a line: small, and its changes readable in a diff."""
    rows = ",\n".join(json.dumps(row, allow_nan=False, separators=(",", ":")) for row in report)
    provenance = json.dumps(report.provenance, allow_nan=False)
    path.write_text(f'{{"format":{FORMAT},"provenance":{provenance},"rows":[\n{rows}\n]}}\n', encoding="utf-8")


def main(pairs: list[str]) -> None:
    """`NAME=PATH` each: the name to show, and the report that `hf-repgeo profile` wrote."""
    folder = Path(__file__).with_name("reports")
    folder.mkdir(exist_ok=True)
    for pair in pairs:
        name, _, path = pair.partition("=")
        write(slim(GeometryReport.from_json(path)), folder / f"{name}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
