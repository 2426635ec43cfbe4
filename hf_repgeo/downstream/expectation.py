"""The score to expect of a model without fine-tuning it, from a regression on a table of models that were."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BadInput
from ..rows.models import load_model
from ..rows.small_files import json_value, utf8_text
from .geometry import TokenizedTexts, geometry_of, last_layer
from .prediction import dummies, folds_of, linear, out_of_fold
from .resampling import LEVEL
from .sequences import sample_sequences
from .studies import architecture_of
from .tables import ScoreTable, frame_of, read_scores

if TYPE_CHECKING:
    import pandas
    from transformers import PreTrainedModel

SHIPPED = Path(__file__).parents[1] / "data" / "downstream-study.csv"
DEFAULT_SCORE, SHIPPED_SCORE = "average", "frozen"  # only MiniLM was fine-tuned in the shipped study


@dataclass(frozen=True)
class Expectation:
    """A predicted score.

    Attributes:
        score: name of the score.
        expected, low, high: prediction and its interval of 95 %, from the errors of predicting models that the fit had
            not seen; infinite ends where the table has too few models to give one.
        measure, value: the geometry that predicts, and the model's own.
        known_family: whether the table has the model's architecture.
        warnings: when not to trust the number, a sentence each.
    """

    score: str
    expected: float
    low: float
    high: float
    measure: str
    value: float
    known_family: bool
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        head = f"{self.score}: {self.expected:.3f}, 95 % interval {self.low:.3f} to {self.high:.3f}"
        return "\n".join([f"{head}, from {self.measure} = {self.value:.4g}", *(f"warning: {w}" for w in self.warnings)])


def expect_score(
    model: str | PreTrainedModel,
    fit: str | Path | None = None,
    *,
    score: str | None = None,
    measure: str | None = None,
    tokenizer=None,
    architecture: str | None = None,
) -> Expectation:
    """Predicts a model's downstream score from its geometry alone.

    The model's last layer is measured on the sample of the table's study, and the line through the table's models
    gives the score. If the table has the model's architecture, the line has that architecture's height, and the
    interval comes from predicting doses left out; otherwise it comes from predicting whole architectures left out, and
    is wide. The score is on the table's tasks, and the table's models are perturbed ones: a sound model of another kind
    can fall far off the line.

    Args:
        model: Hub id, folder, `pip:PACKAGE`, or a model in memory.
        fit: `table.csv` of a study, with its `study.json` beside it; default: the table that the package ships.
        score: column of the table; default: `average`, in the shipped table `frozen`.
        measure: column of the table; default: the one whose predictions of unseen models were best.
        tokenizer: for a model in memory.
        architecture: family of the model in the table's terms; default: its type, depth and width.

    Returns:
        Expectation: print it, and read its warnings.

    Raises:
        BadInput: no such table, or one without its study's settings.

    Cost: one forward pass over the sample.
    """
    path = Path(fit) if fit is not None else SHIPPED
    score = score or (SHIPPED_SCORE if fit is None else DEFAULT_SCORE)
    settings = _settings(path)
    known = settings["measures"] if measure is None else [measure]
    frame = frame_of(path)
    table = read_scores(frame, score, measures=[name for name in known if measure or _varies(frame, name)])
    loaded = load_model(model, tokenizer=tokenizer, dtype="float32" if isinstance(model, str) else "auto")
    family = architecture or architecture_of(loaded.model)
    chosen, expected_of, error = _best(table, family)
    value = _measured(loaded, chosen, settings)
    if value is None:
        raise BadInput("model", came=f"{chosen} = None", wanted="a model whose geometry can be measured")
    expected = expected_of(value)
    warnings = _warnings(table, chosen, value, family)
    ends = (expected - error, expected + error)
    return Expectation(score, expected, *ends, chosen, value, family in table.families, warnings)


def _settings(path: Path) -> dict:
    """What the study did, from `study.json` or, for a table `NAME.csv`, `NAME.json` beside it."""
    for place in (path.with_suffix(".json"), path.with_name("study.json")):
        if place.is_file():
            return _checked(json_value(utf8_text(place, "fit"), "fit", str(place)), place)
    wanted = "a study's table.csv with its study.json beside it"
    cure = "The sample on which geometry was measured must be known: numbers on another one do not compare."
    raise BadInput("fit", came=repr(str(path)), wanted=wanted, cure=cure)


def _checked(settings: Any, place: Path) -> dict:
    """The settings, if they have what `_measured` needs."""
    kinds: dict[str, Any] = {"measures": list, "corpora": (str, list, dict, type(None)), "sequences": int, "seed": int}
    for name, kind in kinds.items():
        if not isinstance(settings, dict) or not isinstance(settings.get(name), kind):
            raise BadInput("fit", came=f"{str(place)!r} without {name}", wanted="the study.json of a study")
    return settings


def _varies(frame: pandas.DataFrame, name: str) -> bool:
    """Whether a column exists, is complete and not constant, so that it can predict at all."""
    column = frame.get(name)
    return column is not None and column.notna().all() and column.nunique() > 1


def _measured(loaded, name: str, settings: dict) -> float | None:
    sample = sample_sequences(settings["corpora"], settings["sequences"], seed=settings["seed"]).sequences
    texts = TokenizedTexts.of(sample, loaded.tokenizer, loaded.model)
    rows = last_layer(loaded.model, texts, bf16=settings.get("bf16", False))
    return geometry_of(rows, [name], seed=settings["seed"])[name]


def _best(table: ScoreTable, family: str):
    """The measure with the smallest errors on unseen models, its line for the family, and half the interval's width."""
    candidates = {name: _line(table, name, family) for name in table.measures}
    name = min(candidates, key=lambda one: candidates[one][1])
    return name, candidates[name][0], _half_width(candidates[name][2])


def _line(table: ScoreTable, name: str, family: str):
    """Prediction as a function of the measure, the root mean squared error on unseen models, and those errors."""
    rows = ~table.held_out
    x, y, names = table.measures[name][rows], table.score[rows], table.architecture[rows]
    known = family in table.families
    indicators = dummies(table, rows) if known else []
    if known or len(table.families) < 2:
        folds = folds_of(table.cells(rows))
    else:
        folds = [(np.flatnonzero(names != other), np.flatnonzero(names == other)) for other in table.families]
    errors = y - out_of_fold(linear([x, *indicators], y), iter(folds), len(y))
    beta = np.linalg.lstsq(np.column_stack([np.ones(len(y)), x, *indicators]), y, rcond=None)[0]
    height = beta[0] + (dict(zip(table.families[1:], beta[2:])).get(family, 0.0) if known else 0.0)
    return lambda value: float(height + beta[1] * value), float(np.sqrt((errors**2).mean())), errors


def _half_width(errors: np.ndarray) -> float:
    """The conformal quantile of the absolute errors: a new, exchangeable model stays below it with probability 95 %."""
    n = len(errors)
    rank = math.ceil((n + 1) * LEVEL)
    return float(np.sort(np.abs(errors))[rank - 1]) if rank <= n else float("inf")


def _warnings(table: ScoreTable, name: str, value: float, family: str) -> list[str]:
    rows, said = ~table.held_out, []
    low, high = table.measures[name][rows].min(), table.measures[name][rows].max()
    if not low <= value <= high:
        said.append(
            f"{name} = {value:.4g} is outside the fit's range, {low:.4g} to {high:.4g}: the line is extrapolated."
        )
    if family not in table.families:
        families = ", ".join(table.families)
        said.append(f"the fit has no {family}, only {families}: scores of other architectures lie at other heights.")
    if len(table.families) == 1 and family not in table.families:
        said.append("with one architecture in the fit, the interval does not contain what architectures differ by.")
    return said
