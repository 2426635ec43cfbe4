"""Reports as text for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import GeometryReport

HEADINGS = {
    "anisotropy": "anisotropy",
    "intrinsic_dimension": "dimension",
    "patchiness": "patchiness",
    "effective_rank": "eff. rank",
    "participation_ratio": "part. ratio",
    "iso_score": "IsoScore",
    "mean_cosine": "mean cosine",
}


def describe(report: GeometryReport) -> str:
    """A heading with the provenance, a table a token policy, and the warnings with how often they occur."""
    blocks = [_heading(report)]
    for stack in report.unique("stack"):
        for tokens in report.unique("tokens"):
            part = report.select(stack=stack, tokens=tokens)
            if len(part):
                blocks.append(_table(part, stack, tokens))
    blocks += _warnings(report)
    return "\n\n".join(block for block in blocks if block)


def _heading(report: GeometryReport) -> str:
    facts = report.provenance
    parts = [facts.get("model"), facts.get("text", {}).get("name") if isinstance(facts.get("text"), dict) else None]
    parts += [
        f"window {facts['window']}" if facts.get("window") else None,
        f"seed {facts['seed']}" if "seed" in facts else None,
    ]
    return "GeometryReport: " + " · ".join(str(part) for part in [*parts, f"{len(report)} rows"] if part)


def _table(report: GeometryReport, stack: str | None, tokens: str | None) -> str:
    """Layers down, measures across, each in its default convention, with standard errors."""
    measures = [measure for measure in report.unique("measure") if measure in HEADINGS]
    if not measures:
        return ""
    layers = report.unique("layer")
    lines = [["layer", *(HEADINGS[measure] for measure in measures)]]
    for layer in layers:
        part = report.select(layer=layer)
        lines.append(["-" if layer is None else str(layer), *(_cell(part, measure) for measure in measures)])
    title = ", ".join(part for part in (stack, f"tokens: {tokens}" if tokens else None, _counts(report)) if part)
    return title + "\n" + _aligned(lines)


def _counts(report: GeometryReport) -> str:
    row = next((row for row in report if row["measure"] in HEADINGS), report.rows[0])
    batches = f" in {row['n_batches']} batches" if (row["n_batches"] or 1) > 1 else ""
    return f"n = {row['n']}{batches}" if row["n"] else ""


def _cell(report: GeometryReport, measure: str) -> str:
    found = report.select(measure=measure).rows
    if not found:
        return ""
    value, error = found[0]["value"], found[0]["se"]
    if value is None:
        return found[0]["warnings"][0].split(":")[0] if found[0]["warnings"] else "none"
    return number(value) + (f" ± {number(error, 2)}" if error is not None else "")


def number(value: float, digits: int = 4) -> str:
    """A number with so many significant digits, without exponent where that reads well."""
    if value != 0 and not 1e-4 <= abs(value) < 1e5:
        return f"{value:.{digits - 1}e}"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text else text


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rows = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([rows[0], "  ".join("─" * width for width in widths), *rows[1:]])


def _warnings(report: GeometryReport) -> list[str]:
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
