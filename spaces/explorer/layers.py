"""The *Layers* tab: reports that ship, a model measured now, their curves, and the code that makes them again.

Nothing here knows of Gradio or keeps anything between calls.
"""

from __future__ import annotations

import inspect
import tempfile
from itertools import chain, count
from pathlib import Path

from hf_repgeo import GeometryReport, profile
from hf_repgeo.errors import BadInput
from hf_repgeo.gradio_app.app import MODEL_ROWS, check_request
from hf_repgeo.measures import MEASURES, resolve
from hf_repgeo.plots import DEFAULT_PANELS
from hf_repgeo.report_text import number
from hf_repgeo.rows.representations import DEFAULT_POLICIES, oversample_for
from hf_repgeo.rows.texts import SAMPLE

Reports = dict[str, GeometryReport]

FOLDER = Path(__file__).with_name("reports")
PANELS = DEFAULT_PANELS
COLUMNS = ["model", "depth", "value", "layer", "standard error", "rows"]
MAX_WARNINGS = 6


# --- where reports come from ----------------------------------------------------------------------------------------


def shipped(folder: Path = FOLDER) -> Reports:
    """The reports in a folder by the names of their files."""
    return {path.stem: GeometryReport.from_json(path) for path in sorted(folder.glob("*.json"))}


def measure_model(model: str, text: str, tokens: str) -> GeometryReport:
    """A model measured now, on about 4096 tokens.

    Args:
        model: Hub id, or the packaged model; weights are read as safetensors, and no code is run.
        text: what the model reads; empty: the packaged sample of Wikipedia.
        tokens: a token policy.

    Raises:
        BadInput: no such model, too large a one, or too long a text.
    """
    model = check_request(model, text)
    return profile_panels(model, text, tokens)


def profile_panels(model: str | Path, text: str, tokens: str) -> GeometryReport:
    """`measure_model` after its checks: the measures that the page draws, one token policy."""
    texts = [text] if text.strip() else None
    settings = {"rows": MODEL_ROWS, "oversample": 1, "progress": False}
    return profile(model, texts, measures=list(PANELS), tokens=[tokens], **settings)


def pick(names: list[str], known: Reports) -> Reports:
    """The named reports, each once; empty names are left out.

    Raises:
        BadInput: none named, or one that is not there.
    """
    wanted = list(dict.fromkeys(name for name in names if name))
    for name in wanted:
        if name not in known:
            raise BadInput("report", came=repr(name), wanted="one of " + ", ".join(known))
    if not wanted:
        raise BadInput("report", came="none", wanted="one of " + ", ".join(known))
    return {name: known[name] for name in wanted}


def name_of(report: GeometryReport, known: Reports) -> str:
    """A name for a report measured now that no known one has."""
    name = f"{report.provenance['model'].removeprefix('pip:')} (measured now)"
    return next(free for free in chain([name], (f"{name} {i}" for i in count(2))) if free not in known)


# --- what the page shows of them --------------------------------------------------------------------------------------


def curve(reports: Reports, measure: str, tokens: str) -> list[tuple]:
    """Rows of a line plot, with the columns of `COLUMNS`; layers without a value are left out.

    Depth is 0 for the embeddings and 1 for the last layer, so that models of different depth lie over each other.
    """
    rows = []
    for name, report in reports.items():
        for stack, part in _stacks(report, measure, tokens).items():
            last = max(row["layer"] for row in part) or 1
            title = f"{name} {stack}" if len(report.unique("stack")) > 1 else name
            for row in part:
                if row["value"] is not None:
                    rows.append((title, row["layer"] / last, row["value"], row["layer"], row["se"], row["n"]))
    return rows


def _stacks(report: GeometryReport, measure: str, tokens: str) -> dict[str, list[dict]]:
    """Stack -> rows of the default convention in order of layers."""
    rows = report.stream().select(measure=measure, convention=MEASURES[measure].conventions[0], tokens=tokens).rows
    stacks = dict.fromkeys(row["stack"] for row in rows)
    return {stack: sorted((r for r in rows if r["stack"] == stack), key=lambda r: r["layer"]) for stack in stacks}


def table(reports: Reports, tokens: str) -> list[list[str]]:
    """A line a layer: model, layer, and each panel's value with its standard error."""
    lines: dict[tuple[str, str, int], dict[str, str]] = {}
    for name, report in reports.items():
        for measure in PANELS:
            for stack, part in _stacks(report, measure, tokens).items():
                title = f"{name} {stack}" if len(report.unique("stack")) > 1 else name
                for row in part:
                    lines.setdefault((title, stack, row["layer"]), {})[measure] = _cell(row)
    return [[title, str(layer), *(cells.get(m, "") for m in PANELS)] for (title, _, layer), cells in lines.items()]


def _cell(row: dict) -> str:
    if row["value"] is None:
        return row["warnings"][0].split(":")[0] if row["warnings"] else "none"
    return number(row["value"]) + (f" ± {number(row['se'], 2)}" if row["se"] is not None else "")


def facts(reports: Reports, tokens: str) -> str:
    """What was measured, as Markdown.

    Raises:
        BadInput: a report without these tokens.
    """
    lines = [_fact(name, report, tokens) for name, report in reports.items()]
    if len({(report.provenance.get("text") or {}).get("sha256") for report in reports.values()}) > 1:
        lines.append("- *Different texts: part of the difference is theirs.*")
    return "\n".join(lines)


def mind(reports: Reports, tokens: str) -> str:
    """The warnings that the drawn values carry, as Markdown; empty without any."""
    lines = [line for name, report in reports.items() for line in _warnings(name, report, tokens)]
    more = [f"- and {len(lines) - MAX_WARNINGS} more in the reports"] if len(lines) > MAX_WARNINGS else []
    return "\n".join(["**Caveats**\n", *lines[:MAX_WARNINGS], *more]) if lines else ""


def _fact(name: str, report: GeometryReport, tokens: str) -> str:
    rows = report.select(tokens=tokens).rows
    if not rows:
        measured = ", ".join(report.unique("tokens"))
        raise BadInput("tokens", came=f"{tokens!r}, not measured for {name}", wanted=f"one of {measured}")
    given, text = report.provenance, report.provenance.get("text") or {}
    depth = max(row["layer"] for row in rows)
    return (
        f"- **{name}**: `{given['class']}`, {depth} layers after the embeddings, {rows[0]['n']} tokens of"
        f" {text.get('name', 'a text')} in windows of {given['window']}"
    )


def _warnings(name: str, report: GeometryReport, tokens: str) -> list[str]:
    """Each kind of warning among the drawn values once: the words of the first, and how many values have it."""
    drawn = [row for m in PANELS for part in _stacks(report, m, tokens).values() for row in part]
    kinds: dict[str, list[str]] = {}
    for warning in (warning for row in drawn for warning in row["warnings"]):
        code, _, words = warning.partition(": ")
        kinds.setdefault(code, []).append(words)
    return [f"- {name}: {found[0]} ({len(found)} of {len(drawn)} values)" for found in kinds.values()]


def files_of(reports: Reports, folder: str | Path) -> list[str]:
    """The reports as JSON files in a new folder of their own inside `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(dir=folder))
    safe = {name: "".join(c if c.isalnum() or c in "-._" else "-" for c in name) for name in reports}
    return [str(report.to_json(own / f"{safe[name]}.json")) for name, report in reports.items()]


# --- the code that makes them again -----------------------------------------------------------------------------------


def code_of(reports: Reports, tokens: str) -> str:
    """Python that measures the reports again and draws them."""
    lines = ["import hf_repgeo", ""]
    lines += [f"report_{place} = {call_of(report)}" for place, report in enumerate(reports.values(), 1)]
    named = ", ".join(f"{name!r}: report_{place}" for place, name in enumerate(reports, 1))
    return "\n".join([*lines, f"figure = hf_repgeo.plot_layers({{{named}}}, tokens=[{tokens!r}])"])


def call_of(report: GeometryReport) -> str:
    """The call of `profile` that made a report, without the arguments that have their default.

    A model's commit becomes its `revision`; `text` stands for what a visitor typed in.
    """
    given, text = report.provenance, report.provenance.get("text") or {}
    arguments = [repr(given["model"])] + {SAMPLE.name: [], "texts in memory": ["[text]"]}.get(
        text.get("name"), [repr(text.get("name"))]
    )
    asked = {key: given[key] for key in ("layers", "window", "pack", "oversample", "rows", "batch_rows", "seed")}
    asked |= {"clean": text.get("clean", "none"), "revision": given.get("commit") or given.get("revision")}
    asked |= {"tokens": None if given["tokens"] == list(DEFAULT_POLICIES) else given["tokens"]}
    asked["oversample"] = None if given["oversample"] == oversample_for(given["tokens"]) else given["oversample"]
    asked |= {"measures": _measures(given["measures"]), "null": given.get("null", False)}
    asked |= {"final_norm": "raw" if given["final_norm"] == "raw" else "applied"}
    defaults = inspect.signature(profile).parameters
    chosen = [f"{key}={value!r}" for key, value in asked.items() if value != defaults[key].default]
    return f"hf_repgeo.profile({', '.join(arguments + chosen)})"


def _measures(pairs: list[str]) -> list[str] | None:
    """The shortest `measures` that asks for these `name:convention`."""
    names = list(dict.fromkeys(pair.partition(":")[0] for pair in pairs))
    for shorter in (None, names):
        if [f"{name}:{convention}" for name, convention in resolve(shorter)] == pairs:
            return shorter
    return pairs
