"""Results of a study: one JSON line per job, appended as it ends; read back as a tidy or a wide table."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BadInput
from ..rows.small_files import json_value, utf8_text
from ..writing import write_whole, written_whole
from .glue_files import TASKS, glue_average
from .probes import OWN, PROBES

KEYS = ("model", "architecture", "how", "alpha", "run", "seed")
TIDY = (*KEYS, "task", "quantity", "value")
FINETUNED = (*TASKS, *OWN)
AVERAGES = {"average": (*FINETUNED, *PROBES), "finetuned": FINETUNED, "frozen": PROBES}


@dataclass(frozen=True)
class Result:
    """The result of one job.

    Attributes:
        model, architecture: the unperturbed model, and the family that it belongs to.
        how, alpha, run, seed: the perturbation.
        task: `"geometry"`, a GLUE task or a probing task.
        values: quantity -> number, or `None` where there is none.
        error: what went wrong; then `values` is empty.
        seconds: duration of the job.
    """

    model: str
    architecture: str
    how: str
    alpha: float
    run: int
    seed: int
    task: str
    values: dict[str, float | None] = field(default_factory=dict)
    error: str | None = None
    seconds: float | None = None

    @property
    def key(self) -> tuple:
        """The identity of a job: the same job is not run twice."""
        return (self.model, self.how, self.alpha, self.run, self.task)

    @property
    def point(self) -> tuple:
        """The perturbed model: a row of the wide table."""
        return tuple(getattr(self, name) for name in KEYS)


class ResultStore:
    """A folder of results. Every process appends to its own file; reading joins them all.

    Args:
        folder: created if needed.
        settings: what the numbers depend on; a folder of another study is refused.
        rank: of this process.

    Raises:
        BadInput: the folder holds a study with other settings.
    """

    def __init__(self, folder: str | Path, settings: dict | None = None, rank: int = 0):
        self.folder = Path(folder)
        self.path = self.folder / f"results-{rank}.jsonl"
        if settings is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check(settings, rank)

    def _check(self, settings: dict, rank: int) -> None:
        path, wanted = self.folder / "study.json", json.loads(json.dumps(settings))
        if path.exists():
            found = json_value(utf8_text(path, "out"), "out", str(path))
            found = found if isinstance(found, dict) else {}
            changed = [key for key in wanted if found.get(key) != wanted[key]]
            if changed:
                came = f"{str(self.folder)!r}, a study with another {changed[0]}: {found.get(changed[0])}"
                cure = "Use another folder, or the settings in its study.json."
                raise BadInput("out", came=came, wanted=str(wanted[changed[0]]), cure=cure)
            return
        write_whole(path, json.dumps(wanted, indent=1) + "\n")

    def append(self, result: Result) -> None:
        """Appends a line; if a crash cut the last one short, it is ended first."""
        with self.path.open("ab+") as file:
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                file.write(b"\n")
            file.write(json.dumps(vars(result), allow_nan=False).encode() + b"\n")

    def read(self) -> list[Result]:
        """All results, the last of each job; a line cut short by a crash, or damaged, is left out."""
        found = {}
        for path in sorted(self.folder.glob("results-*.jsonl")):
            for result in filter(None, map(_result_of, path.read_bytes().split(b"\n"))):
                if result.key not in found or result.error is None:
                    found[result.key] = result
        return list(found.values())

    def done(self) -> set[tuple]:
        """Keys of the jobs that need not be run again; failed ones are tried again."""
        return {result.key for result in self.read() if result.error is None}

    def write_tables(self) -> tuple[Path, Path]:
        """Writes `tidy.csv`, a number per line, and `table.csv`, a perturbed model per line; returns their paths."""
        results = self.read()
        tidy, wide = self.folder / "tidy.csv", self.folder / "table.csv"
        in_order = sorted(results, key=lambda result: result.key)  # whichever process did them
        _write_csv(tidy, list(TIDY), tidy_rows(in_order))
        rows = wide_rows(results)
        columns = list(dict.fromkeys(column for row in rows for column in row))
        _write_csv(wide, columns, rows)
        return tidy, wide


def _result_of(line: bytes) -> Result | None:
    """The result in a line; `None` if it holds none."""
    try:
        result = Result(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    plain = all(isinstance(part, (str, int, float)) for part in (*result.point, result.task))
    numbers = isinstance(result.values, dict) and all(
        value is None or isinstance(value, (int, float)) for value in result.values.values()
    )
    return result if plain and numbers else None


def _write_csv(path: Path, columns: list[str], rows) -> None:
    with written_whole(path) as unfinished, unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def tidy_rows(results: list[Result]) -> Iterator[dict]:
    """One dict per number, with the columns of `TIDY`; a failed job gives a row with the error and no value."""
    for result in results:
        head = {name: getattr(result, name) for name in KEYS} | {"task": result.task}
        for quantity, value in result.values.items():
            yield head | {"quantity": quantity, "value": value}
        if result.error is not None:
            yield head | {"quantity": f"error: {result.error}", "value": None}


def wide_rows(results: list[Result]) -> list[dict]:
    """One dict per perturbed model: its keys, its geometry, a score and a loss per task, and the averages of GLUE.

    A score's column has the task's name, its validation loss the name `loss_TASK`. `average` is over all tasks of the
    study. If both kinds are present, `finetuned` and `frozen` are over those of one kind. `glue` is the paper's average
    over eight tasks and `glue_with_wnli` over nine, if all of them are present.
    """
    points: dict[tuple, dict] = {}
    scores: dict[tuple, dict[str, float | None]] = {}
    for result in results:
        row = points.setdefault(result.point, dict(zip(KEYS, result.point)))
        if result.task == "geometry":
            row |= result.values
        elif "score" in result.values:
            row |= {result.task: result.values["score"], f"loss_{result.task}": result.values.get("loss")}
            scores.setdefault(result.point, {})[result.task] = result.values["score"]
    tasks = {task for found in scores.values() for task in found}
    for point, row in points.items():
        found = {task: score for task, score in scores.get(point, {}).items() if score is not None}
        row |= _averages(found, tasks)
        if set(TASKS) - {"wnli"} <= tasks:
            row |= {"glue": glue_average(found), "glue_with_wnli": glue_average(found, wnli=True)}
    return [points[point] for point in sorted(points)]


def _averages(found: dict[str, float], tasks: set[str]) -> dict[str, float]:
    """Means over all tasks of the study and over each kind of them, if the row has all of these scores."""
    kinds = {name: tasks & set(members) for name, members in AVERAGES.items()}
    if not (kinds["finetuned"] and kinds["frozen"]):
        kinds = {"average": tasks}
    whole = {name: kind for name, kind in kinds.items() if kind and kind <= set(found)}
    return {name: sum(found[task] for task in kind) / len(kind) for name, kind in whole.items()}
