"""The file with the history of a training, beside its checkpoints."""

from __future__ import annotations

from pathlib import Path

from ..report import GeometryReport

KEPT = ("counts", "skipped")  # counters that continue from the earlier training


def save_history(history: GeometryReport, file: Path) -> None:
    """Writes the history, if its folder exists."""
    if file.parent.is_dir():
        history.to_json(file)


def earlier_history(files: list[Path], now: GeometryReport) -> tuple[GeometryReport | None, str]:
    """The first history that can be read and was measured on the same texts, else `None` and the reason."""
    why = f"no {files[-1].name} in {files[-1].parent}" if files else "no folder to read it from"
    for path in files:
        if path.exists():
            try:
                return _checked(GeometryReport.from_json(path), now), ""
            except Exception as error:  # an incomplete file, or another kind of file: training continues without it
                why = f"{path}: {error}"
    return None, why


def _checked(earlier: GeometryReport, now: GeometryReport) -> GeometryReport:
    """The earlier rows with the provenance of the resumed training.

    Raises:
        ValueError: it is damaged, or of other texts.
    """
    facts = earlier.provenance if isinstance(earlier.provenance, dict) else {}
    texts = facts.get("texts", facts.get("probe"))
    if texts is None:
        raise ValueError("it does not say what was measured")
    if texts != now.provenance["texts"]:
        raise ValueError("it is of other texts; callbacks side by side need a name= each")
    if not isinstance(facts.get("counts", {}), dict) or not isinstance(facts.get("skipped", []), list):
        raise ValueError("its provenance is damaged")
    whole = GeometryReport(provenance=now.provenance | {key: facts.get(key, now.provenance[key]) for key in KEPT})
    for row in earlier.rows:
        int(row["details"]["step"])
        whole.add(**row)
    return whole
