"""How well scores of unseen models are predicted: cross-validation by dose and by family, and a curve of the dose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from .resampling import LEVEL, Interval, cluster_weights
from .tables import ScoreTable

Predictor = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows to fit, rows to predict -> predictions


def linear(columns: list[np.ndarray], y: np.ndarray) -> Predictor:
    """Least squares on columns and a constant."""
    design = np.column_stack([np.ones(len(y)), *columns])

    def predict(fit: np.ndarray, new: np.ndarray) -> np.ndarray:
        return design[new] @ np.linalg.lstsq(design[fit], y[fit], rcond=None)[0]

    return predict


def dose_curve(log_dose: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Predictor:
    """Mean score at each dose of the fit, interpolated between doses and flat beyond them, separately in each group."""
    groups = np.zeros(len(y), dtype=int) if groups is None else groups

    def predict(fit: np.ndarray, new: np.ndarray) -> np.ndarray:
        found = np.full(len(new), y[fit].mean())
        for group in np.unique(groups[new]):
            mine, wanted = fit[groups[fit] == group], groups[new] == group
            if len(mine):
                doses, at = np.unique(log_dose[mine], return_inverse=True)
                means = np.bincount(at, y[mine]) / np.bincount(at)
                found[wanted] = np.interp(log_dose[new][wanted], doses, means)
        return found

    return predict


def out_of_fold(predict: Predictor, folds: Iterator[tuple[np.ndarray, np.ndarray]], n: int) -> np.ndarray:
    """`(n,)` predictions, each from a fit that did not see the row; NaN for rows in no fold."""
    found = np.full(n, np.nan)
    for fit, new in folds:
        found[new] = predict(fit, new)
    return found


def _errors(y: np.ndarray, folds: list, predict: Predictor) -> np.ndarray:
    return y - out_of_fold(predict, iter(folds), len(y))


def folds_of(clusters: np.ndarray, count: int = 10, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit and to predict, whole clusters on one side."""
    names = np.random.default_rng(seed).permutation(np.unique(clusters))
    parts = [np.isin(clusters, part) for part in np.array_split(names, min(count, len(names)))]
    return [(np.flatnonzero(~part), np.flatnonzero(part)) for part in parts]


@dataclass(frozen=True)
class Skill:
    """How well something predicts scores that the fit has not seen.

    Attributes:
        name: of the predictor.
        skill: 1 minus its squared error over that of the reference (each family's mean, or that of other families).
        beyond_dose: its skill minus the dose curve's; `None` without doses.
        rmse: root of the mean squared error, in units of the score.
        beyond: baseline, such as a validation loss -> its skill minus that baseline's.
    """

    name: str
    skill: Interval
    beyond_dose: Interval | None
    rmse: float
    beyond: dict[str, Interval] = field(default_factory=dict)


def skill_of(
    name: str,
    errors: np.ndarray,
    reference: np.ndarray,
    dose: np.ndarray | None,
    clusters: np.ndarray,
    seed: int = 0,
    baselines: dict[str, np.ndarray] | None = None,
) -> Skill:
    """Skills with bootstrap intervals over clusters.

    Args:
        name: of the predictor.
        errors: `(n,)` score minus prediction.
        reference: the same of the reference.
        dose: the same of the dose curve.
        clusters: `(n,)`.
        seed: of the bootstrap.
        baselines: the same of each baseline.
    """
    keep = np.isfinite(errors)
    weights = cluster_weights(clusters[keep], 1000, seed)
    square, base = errors[keep] ** 2, reference[keep] ** 2
    beyond = None
    if dose is not None:
        beyond = skill_ratio(dose[keep] ** 2 - square, base, weights)
    less = {
        other: skill_ratio(errors_of[keep] ** 2 - square, base, weights)
        for other, errors_of in (baselines or {}).items()
        if other != name
    }
    return Skill(name, skill_ratio(base - square, base, weights), beyond, float(np.sqrt(square.mean())), less)


def skill_ratio(top: np.ndarray, bottom: np.ndarray, weights: np.ndarray) -> Interval:
    """`sum(top) / sum(bottom)` with a bootstrap interval under `(draws, n)` weights."""
    drawn = (weights @ top) / np.maximum(weights @ bottom, 1e-300)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(top.sum() / bottom.sum()), float(low), float(high), len(top))


def dummies(table: ScoreTable, rows: np.ndarray) -> list[np.ndarray]:
    """An indicator for every family but the first."""
    return [(table.architecture[rows] == family).astype(float) for family in table.families[1:]]


def held_in_predictions(table: ScoreTable, seed: int = 0) -> list[Skill]:
    """Skill in ten folds by dose of every measure, the dose and the baselines, each together with the architecture.

    The reference is the mean of the row's own family. All families are in the fit, so this is about new doses of known
    families.
    """
    rows = ~table.held_out
    y, cells = table.score[rows], table.cells(rows)
    families = np.unique(table.architecture[rows], return_inverse=True)[1]
    indicators, folds = dummies(table, rows), folds_of(cells, seed=seed)
    errors = partial(_errors, y, folds)
    reference, dose = errors(linear(indicators, y)), None
    rivals = {name: linear([values[rows], *indicators], y) for name, values in _columns(table)}
    if table.log_dose is not None:
        log_dose = table.log_dose[rows]
        curve = dose_curve(log_dose, y, families)
        dose = errors(curve)
        rivals |= {"log dose": linear([log_dose, *indicators], y), "curve of the dose": curve}
    return _ranked(rivals, errors, reference, dose, cells, seed, list(table.baselines))


def left_out_families(table: ScoreTable, seed: int = 0) -> list[Skill]:
    """Each family predicted from the others alone; the reference is the mean of the others. Empty for one family."""
    if len(table.families) < 2:
        return []
    rows = ~table.held_out
    y, cells, names = table.score[rows], table.cells(rows), table.architecture[rows]
    folds = [(np.flatnonzero(names != family), np.flatnonzero(names == family)) for family in table.families]
    errors = partial(_errors, y, folds)
    rivals = {name: linear([values[rows]], y) for name, values in _columns(table)}
    dose = None
    if table.log_dose is not None:
        log_dose = table.log_dose[rows]
        dose = errors(dose_curve(log_dose, y))
        rivals |= {"log dose": linear([log_dose], y), "curve of the dose": dose_curve(log_dose, y)}
    return _ranked(rivals, errors, errors(linear([], y)), dose, cells, seed, list(table.baselines))


def _columns(table: ScoreTable) -> Iterator[tuple[str, np.ndarray]]:
    """Measures and baselines without a missing value: predictors are compared on the same rows."""
    rows = ~table.held_out
    for name, values in {**table.measures, **table.baselines}.items():
        if np.isfinite(values[rows]).all():
            yield name, values


def _ranked(rivals: dict, errors: Callable, reference, dose, cells, seed: int, baselines: list[str]) -> list[Skill]:
    missed = {name: errors(predict) for name, predict in rivals.items()}
    others = {name: missed[name] for name in baselines if name in missed}
    found = [skill_of(name, each, reference, dose, cells, seed, others) for name, each in missed.items()]
    return sorted(found, key=lambda skill: skill.skill.descending)
