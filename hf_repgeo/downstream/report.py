"""A regression as a report: Markdown with its figures beside it, and one HTML file that holds everything."""

from __future__ import annotations

import base64
import html
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..writing import write_whole
from .figures import (
    plot_associations,
    plot_doses,
    plot_predictions,
    plot_residuals,
    plot_scatter,
    plot_skills,
)
from .prediction import Skill
from .regression import Association, Regression, curvature
from .resampling import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; } img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
@media (prefers-color-scheme: dark) { body { background: #fff; } }
"""


@dataclass(frozen=True)
class Section:
    """A heading, sentences, a table (header first) and a figure with its name."""

    title: str
    text: list[str]
    table: list[list[str]] | None = None
    figure: Figure | None = None
    name: str = ""


def write_report(result: Regression, out: str | Path, title: str = "Geometry and score") -> Path:
    """Writes `report.html` (self-contained), `report.md` with `figures/`, and `report.json` with all numbers.

    Args:
        result: from `regress`.
        out: folder.
        title: of the report.

    Returns:
        The path of `report.html`.
    """
    out = Path(out)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    parts = sections(result)
    pictures = {part.name: _png(part.figure) for part in parts if part.figure is not None}
    for name, picture in pictures.items():
        write_whole(out / "figures" / f"{name}.png", picture)
    write_whole(out / "report.md", _markdown(title, parts))
    write_whole(out / "report.json", json.dumps(as_dict(result), indent=1, allow_nan=False) + "\n")
    return write_whole(out / "report.html", _html(title, parts, pictures))


def as_dict(result: Regression) -> dict:
    """All numbers of a regression, for JSON."""
    parts = ("associations", "baselines", "fits", "held_in", "left_out", "predictions")
    found = {name: [asdict(one) for one in getattr(result, name)] for name in parts}
    facts = {"score": result.table.score_name, "headline": result.headline, "rows": len(result.table.score)}
    return {**facts, "families": result.table.families, "notes": list(result.notes), **found}


# --- its sections ----------------------------------------------------------------------------------------------------


def sections(result: Regression) -> list[Section]:
    """The report's parts in order; those that the table cannot fill are left out."""
    found = [_summary(result), _doses(result), _all_measures(result), _linear(result), _residuals(result)]
    found += [_skills(result), _predictions(result)]
    return [section for section in found if section is not None]


def _summary(result: Regression) -> Section:
    table, head = result.table, result.association(result.headline)
    fitted = int((~table.held_out).sum())
    text = [
        f"{fitted} models of {len(table.families)} architecture(s), {len(table.measures)} measures; the score is "
        f"{table.score_name}.",
        f"{head.measure} correlates with it at {head.pearson} (Spearman {head.spearman}).",
    ]
    text += _dose_sentences(result, head)
    text += [f"Note: {note}" for note in result.notes]
    return Section("In short", text)


def _dose_sentences(result: Regression, head: Association) -> list[str]:
    if result.table.dose is None:
        return []
    dose, within = result.association("log dose"), head.within_dose
    said = [
        f"The logarithm of the dose alone correlates at {dose.pearson}. Given the architecture and the dose, "
        f"{head.measure} correlates at {head.given_dose}."
    ]
    if within.low is None or within.high is None:
        return [*said, "Too few repeats of a dose to say what is left between models at the same dose."]
    said.append(f"Between models of one architecture at the same dose it correlates at {within}:")
    if within.low <= 0 <= within.high:
        return [*said[:-1], f"{said[-1]} within a dose, these data show no correlation with the score."]
    return [*said[:-1], f"{said[-1]} within a dose, too, it goes with the score."]


def _doses(result: Regression) -> Section | None:
    figure = plot_doses(result)
    if figure is None:
        return None
    text = ["Score and geometry against the dose of noise. Whatever follows the dose correlates with the score."]
    return Section("Dose", text, figure=figure, name="dose")


def _all_measures(result: Regression) -> Section:
    head = ["measure", "Pearson", "Spearman", "given the dose", "within a dose", "p", "p corrected"]
    head += ["p within", "p within, corrected"]
    rows = [_association_row(one) for one in [*result.associations, *result.baselines]]
    text = [
        "Intervals: 95 %, bootstrap over (architecture, dose). p: permutations of the score within architectures, and "
        "within doses; corrected for the number of measures by the largest correlation in each permutation.",
    ]
    if result.baselines:
        text.append(f"Not geometry, for comparison: {', '.join(one.measure for one in result.baselines)}.")
    return Section("All measures", text, [head, *rows], plot_associations(result), "measures")


def _association_row(one: Association) -> list[str]:
    intervals = [one.pearson, one.spearman, one.given_dose, one.within_dose]
    within = one.within_dose.value is not None
    ps = [one.p, one.p_corrected, *((one.p_within, one.p_within_corrected) if within else (None, None))]
    return [one.measure, *map(str, intervals), *("-" if p is None else f"{p:.4f}" for p in ps)]


def _linear(result: Regression) -> Section:
    rows = [["model", "n", "r2", "adjusted", "AIC", "residual sd", "coefficients (standard error)"]]
    for fit in result.fits:
        said = "; ".join(f"{name} {a:.3g} ({b:.2g})" for name, (a, b) in fit.coefficients.items())
        numbers = [str(fit.n), f"{fit.r2:.3f}", f"{fit.r2_adjusted:.3f}", f"{fit.aic:.1f}", f"{fit.residual_sd:.3f}"]
        rows.append([fit.formula.replace("measure", result.headline), *numbers, said])
    gain, p = curvature(result.table, result.headline)
    bent = f"A square of {result.headline} adds {gain:.3f} to r2 (F test: p = {p:.2g})"
    text = [f"{bent}: the relation is {'not straight' if p < 0.05 else 'as good as straight'}."]
    by_family = result.association(result.headline).by_family
    if len(by_family) > 1:
        text.append("Pearson by architecture: " + ", ".join(f"{name} {r}" for name, r in by_family.items()) + ".")
    return Section(f"Linear models of {result.headline}", text, rows, plot_scatter(result), "scatter")


def _residuals(result: Regression) -> Section | None:
    if not result.fits:
        return None
    text = ["The standard errors above assume residuals without a pattern and with one variance: check that here."]
    return Section("Residuals", text, figure=plot_residuals(result), name="residuals")


def _gains(skill: Skill, others: list[str]) -> list[Interval]:
    """A predictor's skill, and its skill minus that of the dose and of each baseline."""
    none = Interval(None)
    return [skill.skill, skill.beyond_dose or none, *(skill.beyond.get(other, none) for other in others)]


def _skills(result: Regression) -> Section:
    text = [
        "Skill is 1 minus the squared error over that of a mean. Left: ten folds of doses, the architecture known. "
        "The curve of the dose is the mean score at the nearest doses: the prediction from the dose alone.",
    ]
    others = list(dict.fromkeys(other for one in [*result.held_in, *result.left_out] for other in one.beyond))
    head = ["asked", "predictor", "skill", "beyond the dose", *(f"beyond {other}" for other in others), "RMSE"]
    rows = [
        [asked, one.name, *map(str, _gains(one, others)), f"{one.rmse:.3f}"]
        for asked, skills in (("new doses", result.held_in), ("new families", result.left_out))
        for one in skills
    ]
    if result.left_out:
        text.append("Right: each architecture predicted from the others alone.")
    return Section("Predicting what the fit has not seen", text, [head, *rows], plot_skills(result), "skills")


def _predictions(result: Regression) -> Section | None:
    if not result.predictions:
        return None
    head = ["model", "score", "predicted", "low", "high", "architecture in the fit"]
    rows = [
        [p.label, *(f"{v:.3f}" for v in (p.score, p.expected, p.low, p.high)), "yes" if p.known_family else "no"]
        for p in result.predictions
    ]
    inside = sum(p.low <= p.score <= p.high for p in result.predictions)
    text = [f"{inside} of {len(rows)} true scores lie within their 95 % interval."]
    return Section("Models held out", text, [head, *rows], plot_predictions(result), "held-out")


# --- Markdown and HTML -----------------------------------------------------------------------------------------------


def _markdown(title: str, parts: list[Section]) -> str:
    lines = [f"# {title}", ""]
    for part in parts:
        lines += [f"## {part.title}", ""]
        for sentence in part.text:
            lines += [sentence, ""]
        if part.figure is not None:
            lines += [f"![{part.title}](figures/{part.name}.png)", ""]
        if part.table:
            rows = [[cell.replace("|", "\\|") for cell in row] for row in part.table]
            lines += ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
            lines += ["| " + " | ".join(row) + " |" for row in rows[1:]]
            lines.append("")
    return "\n".join(lines)


def _html(title: str, parts: list[Section], pictures: dict[str, bytes]) -> str:
    body = [f"<h1>{html.escape(title)}</h1>"]
    for part in parts:
        body.append(f"<h2>{html.escape(part.title)}</h2>")
        body += [f"<p>{html.escape(sentence)}</p>" for sentence in part.text]
        if part.figure is not None:
            picture = base64.b64encode(pictures[part.name]).decode()
            body.append(f'<img alt="{html.escape(part.title)}" src="data:image/png;base64,{picture}">')
        if part.table:
            body.append(_html_table(part.table))
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    return f"{head}{view}<style>{STYLE}</style><body>{''.join(body)}</body></html>\n"


def _html_table(rows: list[list[str]]) -> str:
    body = "".join(_html_row(cells, "td") for cells in rows[1:])
    return f"<table>{_html_row(rows[0], 'th')}{body}</table>"


def _html_row(cells: list[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
