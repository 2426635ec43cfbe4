"""Regressions of a score on measures of geometry, as in arXiv 2406.12159, and the checks that they need.

A correlation over doses of noise says little by itself: noise lowers the score and changes the geometry, so any measure
that follows the dose correlates with the score. The checks ask what is left once the dose is known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from ..errors import BadInput, MissingExtra
from .prediction import Skill, dummies, held_in_predictions, left_out_families
from .resampling import Interval, centred_by, correlation, permutation_p
from .tables import ScoreTable, read_scores

if TYPE_CHECKING:
    from statsmodels.regression.linear_model import RegressionResults

MODELS = ("score ~ measure", "score ~ measure + architecture", "score ~ measure x architecture")
DOSE_DEGREE = 3


@dataclass(frozen=True)
class Association:
    """The correlations of one measure with the score.

    Attributes:
        measure: its name.
        pearson, spearman: over all rows, with bootstrap intervals by (architecture, dose).
        by_family: Pearson within each architecture.
        given_dose: partial correlation given the architecture and a cubic in the logarithm of the dose.
        within_dose: correlation between models of one architecture at one dose, where the dose cannot explain it.
        p, p_corrected: permutation test of the correlation within architectures, alone and corrected for the number of
            measures; `None` where values are missing.
        p_within, p_within_corrected: the same within doses.
    """

    measure: str
    pearson: Interval
    spearman: Interval
    by_family: dict[str, Interval]
    given_dose: Interval
    within_dose: Interval
    p: float | None = None
    p_corrected: float | None = None
    p_within: float | None = None
    p_within_corrected: float | None = None


@dataclass(frozen=True)
class Fit:
    """One least-squares model.

    Attributes:
        formula: of `MODELS`.
        r2, r2_adjusted, aic, residual_sd: of the fit.
        coefficients: name -> (estimate, standard error).
        n: rows.
    """

    formula: str
    r2: float
    r2_adjusted: float
    aic: float
    residual_sd: float
    coefficients: dict[str, tuple[float, float]]
    n: int


@dataclass(frozen=True)
class Prediction:
    """A model that the fit has not seen.

    Attributes:
        label: the row's name.
        score: its true score.
        expected, low, high: prediction with its 95 % interval.
        known_family: whether the fit has its architecture; if not, the model without architecture predicts.
    """

    label: str
    score: float
    expected: float
    low: float
    high: float
    known_family: bool


@dataclass(frozen=True)
class Regression:
    """Everything that a report shows; see `regress`."""

    table: ScoreTable
    headline: str
    associations: list[Association]
    baselines: list[Association]
    fits: list[Fit]
    held_in: list[Skill]
    left_out: list[Skill]
    predictions: list[Prediction]
    notes: list[str] = field(default_factory=list)

    def association(self, name: str) -> Association:
        return next(found for found in [*self.associations, *self.baselines] if found.measure == name)


def regress(
    table,
    score: str,
    *,
    measures: list[str] | None = None,
    baselines: list[str] | None = None,
    architecture: str | None = None,
    dose: str | None = None,
    headline: str | None = None,
    seed: int = 0,
) -> Regression:
    """Regresses a score on measures, and tests whether the measures say more than the dose does.

    Per measure: Pearson and Spearman; partial correlation given the dose; correlation within a dose; permutation tests
    corrected for the number of measures; bootstrap intervals that draw whole (architecture, dose) cells. Over all
    measures: prediction of doses left out of the fit and of families left out, compared with the dose itself. For one
    measure: the paper's linear models with and without architecture, residuals, and predictions of rows marked
    `held_out`.

    Args:
        table: a CSV, TSV or Parquet file or a data frame, wide or long; see `read_scores`.
        score: column of the score.
        measures: columns to compare; default: every numeric column that is not a score, loss, dose, run or seed.
        baselines: columns that are not geometry, such as a validation loss, to compare with.
        architecture: column of the family; default: `architecture`, `arch` or `family`.
        dose: column of the noise's dose; default: `alpha` or `dose`.
        headline: measure of the linear models; default: the one with the largest absolute Pearson correlation, whose
            fit is then optimistic.
        seed: of bootstrap, permutations and folds.

    Raises:
        BadInput, UnknownName: as `read_scores`; a headline that is not a measure.
        MissingExtra: statsmodels or pandas is not installed.

    Cost: seconds for some hundred rows and thirty measures.

    Source: Marbut et al. 2024, arXiv 2406.12159, sections 4 and 5: Pearson, OLS with and without architecture.
    """
    scores = read_scores(table, score, measures=measures, baselines=baselines, architecture=architecture, dose=dose)
    found = associations(scores, scores.measures, seed)
    if headline is not None and headline not in scores.measures:
        raise BadInput("headline", came=repr(headline), wanted=f"one of {', '.join(scores.measures)}")
    best = max(found, key=lambda one: abs(one.pearson.value or 0)).measure
    rivals = dict(scores.baselines)
    if scores.log_dose is not None:
        rivals = {"log dose": scores.log_dose, **rivals}
    fits = fit_models(scores, headline or best)
    return Regression(
        scores,
        headline or best,
        sorted(found, key=lambda one: -abs(one.pearson.value or 0)),
        associations(scores, rivals, seed),
        fits,
        held_in_predictions(scores, seed),
        left_out_families(scores, seed),
        predict_held_out(scores, headline or best),
        scores.notes,
    )


# --- each measure ----------------------------------------------------------------------------------------------------


def associations(table: ScoreTable, columns: dict[str, np.ndarray], seed: int = 0) -> list[Association]:
    """One `Association` per column; p-values are corrected over columns without a missing value."""
    rows = ~table.held_out
    tests = _tests({name: values[rows] for name, values in columns.items()}, table, rows, seed)
    return [_association(name, x[rows], table, rows, tests.get(name, {}), seed) for name, x in columns.items()]


def _association(name: str, x: np.ndarray, table: ScoreTable, rows: np.ndarray, tests: dict, seed: int) -> Association:
    y, cells, families = table.score[rows], table.cells(rows), table.architecture[rows]
    nothing = Interval(None)
    by_family = {f: correlation(x[families == f], y[families == f], cells[families == f]) for f in table.families}
    given = within = nothing
    if table.dose is not None and name != "log dose":
        given = correlation(x, y, cells, design=dose_design(table, rows), seed=seed)
        within = correlation(centred_by(x, cells), centred_by(y, cells), cells, seed=seed)
    return Association(
        name,
        correlation(x, y, cells, seed=seed),
        correlation(_ranks(x), _ranks(y), cells, seed=seed),
        by_family,
        given,
        within,
        **tests,
    )


def _known_dose(table: ScoreTable) -> np.ndarray:
    if table.log_dose is None:
        raise BadInput("dose", came="a table without doses", wanted="a column of doses")
    return table.log_dose


def dose_design(table: ScoreTable, rows: np.ndarray) -> np.ndarray:
    """Constant, architecture, and a cubic in the logarithm of the dose for each architecture: `(n, k)`."""
    dose = _known_dose(table)[rows]
    dose = (dose - dose.mean()) / (dose.std() or 1)
    degree = min(DOSE_DEGREE, len(np.unique(dose)) - 1)
    powers = [dose**power for power in range(1, degree + 1)]
    indicators = dummies(table, rows)
    return np.column_stack([np.ones(len(dose)), *indicators, *powers, *(i * p for i in indicators for p in powers)])


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values, nan_policy="omit")


def _tests(columns: dict[str, np.ndarray], table: ScoreTable, rows: np.ndarray, seed: int) -> dict[str, dict]:
    """p-values of the columns without a missing value."""
    whole = {name: x for name, x in columns.items() if np.isfinite(x).all()}
    if not whole:
        return {}
    x, y, cells = np.column_stack(list(whole.values())), table.score[rows], table.cells(rows)
    families = np.unique(table.architecture[rows], return_inverse=True)[1]
    within_family = np.column_stack([_centred(column, families) for column in x.T])
    p, corrected = permutation_p(within_family, _centred(y, families), families, seed=seed)
    found = {name: {"p": a, "p_corrected": b} for name, a, b in zip(whole, p.tolist(), corrected.tolist())}
    inner = centred_by(y, cells)
    keep = np.isfinite(inner)
    if table.dose is not None and keep.sum() >= 4:
        within = np.column_stack([centred_by(column, cells)[keep] for column in x.T])
        p, corrected = permutation_p(within, inner[keep], cells[keep], seed=seed)
        for name, a, b in zip(whole, p.tolist(), corrected.tolist()):
            found[name] |= {"p_within": a, "p_within_corrected": b}
    return found


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return values - (np.bincount(groups, values) / np.bincount(groups))[groups]


# --- the paper's linear models ---------------------------------------------------------------------------------------


def _statsmodels():
    try:
        import statsmodels.api
    except ImportError:
        raise MissingExtra("statsmodels", "downstream", "Regressions") from None
    return statsmodels.api


def design_of(table: ScoreTable, measure: str, formula: str, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Columns of one of `MODELS` and their names."""
    x, families = table.measures[measure][rows], table.families[1:] if "architecture" in formula else []
    indicators = [(table.architecture[rows] == family).astype(float) for family in families]
    columns, names = [np.ones(len(x)), x, *indicators], ["constant", measure, *families]
    if " x " in formula:
        columns += [x * indicator for indicator in indicators]
        names += [f"{measure} x {family}" for family in families]
    return np.column_stack(columns), names


def fitted(table: ScoreTable, measure: str, formula: str) -> RegressionResults:
    """statsmodels' fit of one of `MODELS` to the rows that are not held out.

    Raises:
        BadInput: no more rows than parameters.
    """
    rows = ~table.held_out & np.isfinite(table.measures[measure])
    design, names = design_of(table, measure, formula, rows)
    if len(design) <= design.shape[1]:
        wanted = f"more than the {design.shape[1]} parameters of {formula}"
        raise BadInput("table", came=f"{len(design)} rows", wanted=wanted)
    return _statsmodels().OLS(table.score[rows], design).fit()


def fit_models(table: ScoreTable, measure: str) -> list[Fit]:
    """The paper's two models and the one with interaction; those that need more rows or families are left out."""
    found = []
    for formula in MODELS:
        parameters = {0: 2, 1: 1 + len(table.families), 2: 2 * len(table.families)}[MODELS.index(formula)]
        if "architecture" in formula and len(table.families) < 2:
            continue
        if int((~table.held_out).sum()) < parameters + 2:
            table.notes.append(f"{formula} is left out: it has {parameters} parameters.")
            continue
        result = fitted(table, measure, formula)
        rows = ~table.held_out & np.isfinite(table.measures[measure])
        names = design_of(table, measure, formula, rows)[1]
        pairs = zip(result.params.tolist(), result.bse.tolist())
        spread = float(np.sqrt(result.scale))
        found.append(
            Fit(
                formula,
                float(result.rsquared),
                float(result.rsquared_adj),
                float(result.aic),
                spread,
                dict(zip(names, pairs)),
                int(result.nobs),
            )
        )
    return found


def predict_held_out(table: ScoreTable, measure: str) -> list[Prediction]:
    """Rows marked `held_out`, with 95 % intervals; with the architecture where the fit knows it."""
    found = []
    for at in np.flatnonzero(table.held_out & np.isfinite(table.measures[measure])):
        known = table.architecture[at] in table.families and len(table.families) > 1
        formula = MODELS[1] if known else MODELS[0]
        row = np.arange(len(table.score)) == at
        design, _ = design_of(table, measure, formula, row)
        frame = fitted(table, measure, formula).get_prediction(design).summary_frame(alpha=0.05)
        label = next((str(table.frame[c].iloc[at]) for c in ("model", "name") if c in table.frame.columns), f"row {at}")
        expected, low, high = (float(frame[c].iloc[0]) for c in ("mean", "obs_ci_lower", "obs_ci_upper"))
        found.append(Prediction(label, float(table.score[at]), expected, low, high, bool(known)))
    return found


def residuals_of(table: ScoreTable, measure: str, formula: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fitted scores, residuals and architectures of the rows in the fit."""
    rows = ~table.held_out & np.isfinite(table.measures[measure])
    result = fitted(table, measure, formula)
    return result.fittedvalues, result.resid, table.architecture[rows]


def curvature(table: ScoreTable, measure: str) -> tuple[float, float]:
    """Is the relation straight? Gain in r2 by a square of the measure, with architecture, and its p (F test)."""
    rows = ~table.held_out & np.isfinite(table.measures[measure])
    formula = MODELS[1] if len(table.families) > 1 else MODELS[0]
    design, _ = design_of(table, measure, formula, rows)
    x = design[:, 1]
    bent = np.column_stack([design, ((x - x.mean()) / (x.std() or 1)) ** 2])
    if len(bent) <= bent.shape[1]:
        raise BadInput("table", came=f"{len(bent)} rows", wanted=f"more than {bent.shape[1]} parameters")
    straight, curved = (_statsmodels().OLS(table.score[rows], d).fit() for d in (design, bent))
    return float(curved.rsquared - straight.rsquared), float(curved.compare_f_test(straight)[1])
