"""Compare: two models, one token policy, four measures."""

from __future__ import annotations

import gradio as gr
from gradio import utils

from hf_repgeo.errors import BadInput
from hf_repgeo.gradio_app.code import code_of
from hf_repgeo.gradio_app.curves import TOKENS, WITH, WORDS, layer_rows, measure_figure, measured_curves
from hf_repgeo.gradio_app.finding import DECODER, ENCODER, NAMES, packaged_reports
from hf_repgeo.gradio_app.page import Address, code_block, described, files_for, in_sentences, plots_in_pairs
from hf_repgeo.plots import DEFAULT_PANELS
from hf_repgeo.report_text import number

NOBODY = "nothing"
MAX_CAVEATS = 4
HEADERS = ["model", "layer", *(measure.replace("_", " ") for measure in DEFAULT_PANELS)]


def build(address: Address, mine: gr.State) -> None:
    """Fills the tab."""
    shipped = list(packaged_reports())
    with gr.Row():
        free = {"allow_custom_value": True, "min_width": 220}  # names of what this visitor measured
        first = gr.Dropdown(shipped, value=NAMES[DECODER], label="Model", **free)
        second = gr.Dropdown([NOBODY, *shipped], value=NAMES[ENCODER], label="Compared with", **free)
        tokens = gr.Dropdown(list(TOKENS.items()), value=WITH, label="Tokens", min_width=220)
    address.add("first", first, shipped)
    address.add("second", second, [NOBODY, *shipped])
    address.add("tokens", tokens, TOKENS.values())
    values = show(NAMES[DECODER], NAMES[ENCODER], WITH, {})
    words = gr.Markdown(values[0])
    plots = plots_in_pairs(values[1:])
    with gr.Accordion("Numbers, with standard errors", open=False):
        numbers = gr.Dataframe(values[5], headers=HEADERS, interactive=False, show_label=False, max_height=400)
    made = code_block(values[6])
    files = gr.File(values[7], label="Reports as JSON", file_count="multiple", interactive=False)
    asked, outputs = [first, second, tokens, mine], [words, *plots, numbers, made, files]
    address.answer([tokens], show, asked, outputs, api_name="compare", show_progress="hidden")
    chosen_now = gr.on([first.input, second.input], in_sentences(policies), asked, tokens, **_QUIET)
    chosen_now.success(in_sentences(show), asked, outputs, **_QUIET)  # once the tokens fit both models
    mine.change(policies, asked, tokens, **_QUIET)
    mine.change(names, [first, second, mine], [first, second], **_QUIET)


_QUIET = {"api_visibility": "private", "show_progress": "hidden"}


def names(first: str, second: str, mine: dict) -> tuple:
    """The lists of models, with what this visitor measured."""
    known = [*packaged_reports(), *mine]
    return gr.Dropdown(known, value=first), gr.Dropdown([NOBODY, *known], value=second)


def policies(first: str, second: str, tokens: str, mine: dict) -> gr.Dropdown:
    """The token policies that both models were measured with."""
    both = [report.unique("tokens") for report in chosen(first, second, mine).values()]
    known = [policy for policy in TOKENS.values() if all(policy in one for one in both)]
    missing = len(known) < len(TOKENS)
    info = "one of the models was measured with and without sinks only" if missing else None
    value = tokens if tokens in known else WITH
    return gr.Dropdown([(WORDS[policy], policy) for policy in known], value=value, info=info)


def chosen(first: str, second: str, mine: dict) -> dict:
    """The reports of the chosen names, without repetition."""
    known = packaged_reports() | mine
    wanted = list(dict.fromkeys(name for name in (first, second) if name and name != NOBODY))
    for name in wanted:
        if name not in known:
            raise BadInput("model", came=repr(name), wanted="one of " + ", ".join(known))
    return {name: known[name] for name in wanted}


def show(first: str, second: str, tokens: str, mine: dict) -> list:
    """The text, one figure per panel, the table, the code, the files."""
    reports = chosen(first, second, mine)
    for name, report in reports.items():
        if tokens not in report.unique("tokens"):
            measured = ", ".join(WORDS[policy] for policy in report.unique("tokens"))
            raise BadInput("tokens", came=f"{WORDS[tokens]!r}, not measured for {name}", wanted=f"one of {measured}")
    words = "\n".join([*(facts(name, report) for name, report in reports.items()), *caveats(reports, tokens)])
    figures = [described(measure_figure(reports, m, [tokens]), f"{m} by layer of {first}") for m in DEFAULT_PANELS]
    files = {f"{name}.json": report.as_json() for name, report in reports.items()}
    code = code_of(reports, [tokens])
    return [words, *figures, table(reports, tokens), code, files_for(files, utils.get_upload_folder())]


def facts(name: str, report) -> str:
    """What was measured, as a line of Markdown."""
    given, text = report.provenance, report.provenance.get("text") or {}
    depth = max(layer for layer in report.unique("layer") if layer is not None)
    read = "your text" if text.get("name") == "texts in memory" else text.get("name", "a text")
    return f"- **{name}**: `{given['class']}`, {depth} layers, {given['rows']} tokens of {read}"


def caveats(reports: dict, tokens: str) -> list[str]:
    """The kinds of warnings among the drawn values, each once."""
    kinds: dict[str, str] = {}
    for name, report in reports.items():
        drawn = [row for m in DEFAULT_PANELS for rows in layer_rows(report, m, tokens).values() for row in rows]
        for row in drawn:
            for warning in row["warnings"]:
                code, _, said = warning.partition(": ")
                kinds.setdefault(f"{name} {code}", f"- *{name}, layer {row['layer']}: {said}*")
    return list(kinds.values())[:MAX_CAVEATS]


def table(reports: dict, tokens: str) -> list[list[str]]:
    """One line per layer: model, layer, and each panel's value with its standard error."""
    lines: dict[tuple[str, int], dict[str, str]] = {}
    for measure in DEFAULT_PANELS:
        for curve in measured_curves(reports, measure, [tokens])[0]:
            for layer, value, error in zip(curve.layers, curve.values, curve.errors):
                cell = number(value) + (f" ± {number(error, 2)}" if error is not None else "")
                lines.setdefault((curve.name, layer), {})[measure] = cell
    return [[name, str(layer), *(cells.get(m, "") for m in DEFAULT_PANELS)] for (name, layer), cells in lines.items()]
