"""The report that a run fills layer by layer, and its file: written after each layer, resumed after a stop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ..errors import RepgeoError
from ..report import GeometryReport
from ..rows.processes import current_team
from .lock import locked

FILE = "profile.json"
REQUEST = "request"  # in the provenance
PLACE = ("stack", "layer", "point")  # the columns that name a place; a place is a tuple of their values


class Run:
    """A report, its file, and which of its layers are done.

    A place is done when the file holds as many rows of it as its measurement made; rows of other places are dropped.
    """

    def __init__(self, report: GeometryReport, path: Path | None, identity: dict):
        self.report, self.path, self.identity = report, path, identity
        self.counts: dict[str, int] = report.provenance.setdefault("layer_rows", {})
        held = [_key(tuple(row[column] for column in PLACE if column in row)) for row in report]
        whole = {key for key, count in self.counts.items() if held.count(key) == count}
        report.rows = [row for row, key in zip(report.rows, held) if key in whole]
        if whole != set(self.counts):
            report.provenance.pop("finished", None)
        for key in set(self.counts) - whole:
            del self.counts[key]

    @property
    def finished(self) -> bool:
        return "finished" in self.report.provenance

    def has(self, place: tuple) -> bool:
        """Whether a place is measured."""
        return _key(place) in self.counts

    def add(self, place: tuple, rows: list[dict]) -> None:
        """Takes the rows of a place and writes the file."""
        for row in rows:
            self.report.add(**dict(zip(PLACE, place)), **row)
        self.counts[_key(place)] = len(rows)
        self.save()

    def answers(self, request: str | None) -> None:
        """Notes the request that the report answers; a finished one is written again if it was another."""
        if request and self.report.provenance.get(REQUEST) != request:
            self.report.provenance[REQUEST] = request
            if self.finished:
                self.save()

    def finish(self) -> None:
        """Marks the report as finished and writes the file."""
        self.report.provenance["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.save()

    def save(self) -> None:
        if self.path is not None:
            self.report.to_json(self.path)


def finished_report(out: str | Path, request: str) -> GeometryReport | None:
    """The report in a folder, if it is finished, whole, and answers this request; see `runs.request`."""
    path = Path(out) / FILE
    try:
        report = GeometryReport.from_json(path)
    except RepgeoError:
        return None
    return report if report.provenance.get(REQUEST) == request and Run(report, path, {}).finished else None


@contextmanager
def open_run(out: str | Path | None, provenance: dict, request: str | None = None) -> Iterator[Run]:
    """The run with this provenance: one left unfinished in `out`, else a new one. No other enters `out` meanwhile.

    Files of another run are moved aside, never overwritten. If several processes share the run, the first has the
    file.

    Args:
        out: folder; `None` keeps the report in memory.
        provenance: what decides the numbers; an earlier report is resumed only if every entry is equal.
        request: what the report will answer when it is finished, if files alone tell it.
    """
    if out is None or not current_team().first:
        yield Run(GeometryReport(provenance=dict(provenance)), None, provenance)
        return
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        path = folder / FILE
        report = _earlier(path, provenance)
        if report is None:
            _move_aside(path)
            report = GeometryReport(provenance=dict(provenance))
        run = Run(report, path, provenance)
        run.answers(request)
        yield run


def _earlier(path: Path, provenance: dict) -> GeometryReport | None:
    """The report in the file, if it is of the same run."""
    if not path.exists():
        return None
    try:
        report = GeometryReport.from_json(path)
    except RepgeoError:
        return None
    same = {key: report.provenance.get(key) for key in provenance} == json.loads(json.dumps(provenance))
    return report if same else None


def _move_aside(path: Path) -> None:
    """Renames the report and the files made from it to a name with its time, which no other file has."""
    if not path.exists():
        return
    made = datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y%m%d-%H%M%S")
    name, number = f"profile-{made}", 1
    while list(path.parent.glob(f"{name}.*")):
        number += 1
        name = f"profile-{made}-{number}"
    for file in path.parent.glob(f"{path.stem}.*"):
        file.rename(file.with_name(name + file.suffix))


def _key(place: tuple) -> str:
    return " ".join(map(str, place))
