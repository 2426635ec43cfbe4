"""A measurement in the form of a training log: numbers by key, and the flagged layers."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..report_text import number
from .log_values import Bands, Flag, flags, log_values, summary_values


@dataclass
class Measurement:
    """One measurement, for every log line that needs it while the weights stay the same.

    Attributes:
        step: where it was taken.
        layers: keys and numbers of every layer.
        summary: the same in a few keys.
        flagged: layers that have collapsed, have sinks, or could not be measured.
        seconds: its duration.
        logged: which log lines already hold it: that of the training (False), of an evaluation (True).
    """

    step: int
    layers: dict[str, float]
    summary: dict[str, float]
    flagged: list[Flag]
    seconds: float
    logged: set[bool] = field(default_factory=set)

    @classmethod
    def of(
        cls,
        rows: list[dict],
        pairs: list[tuple[str, str]],
        step: int,
        seconds: float,
        skipped: int,
        collapse: Bands,
        sink: float,
    ) -> Measurement:
        """The measurement from the rows of a report.

        Args:
            rows: of one measurement.
            pairs: the `(measure, convention)` that are logged.
            step, seconds: see the attributes.
            skipped: planned measurements that the budget has dropped so far.
            collapse, sink: see `GeometryCallback`.
        """
        flagged = flags(rows, collapse, sink)
        counts = {
            "collapsed_layers": sum(kind == "collapse" for kind, *_ in flagged),
            "sink_layers": sum(kind == "sink" for kind, *_ in flagged),
            "seconds": seconds,
        }
        layers = log_values(rows, pairs) | counts | {"skipped": skipped}
        return cls(step, layers, summary_values(rows, pairs) | counts, flagged, seconds)

    def __str__(self) -> str:
        shown = ", ".join(f"{key} {number(value)}" for key, value in self.summary.items())
        return f"geometry at step {self.step}: {shown}"
