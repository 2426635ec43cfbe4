"""Your model: any id on the Hub, measured now, with and without its sinks."""

from __future__ import annotations

from functools import partial

import gradio as gr
from gradio import utils

from hf_repgeo.gradio_app.code import code_of
from hf_repgeo.gradio_app.curves import WITH, WITHOUT, layer_rows, measure_figure
from hf_repgeo.gradio_app.inputs import MAX_TEXT, PACKAGED_MODEL
from hf_repgeo.gradio_app.jobs import Job, Stopped
from hf_repgeo.gradio_app.models import MAX_PARAMETERS, measure_model, name_of
from hf_repgeo.gradio_app.page import Address, code_block, described, files_for, in_sentences, plots_in_pairs
from hf_repgeo.plots import DEFAULT_PANELS

ABOUT = f"an id on the Hub; safetensors, at most {MAX_PARAMETERS // 10**6} million parameters"
MOST_REPORTS = 8  # in one session
QUEUE = {"concurrency_id": "models", "concurrency_limit": 1}  # one model in memory at a time
_running: dict[str, Job] = {}  # session -> its job


def build(address: Address, mine: gr.State) -> None:
    """Fills the tab."""
    with gr.Row():
        choices = [PACKAGED_MODEL, "distilbert/distilgpt2", "google-bert/bert-base-uncased", "EleutherAI/pythia-160m"]
        model = gr.Dropdown(
            choices, value=PACKAGED_MODEL, label="Model", info=ABOUT, allow_custom_value=True, min_width=300
        )
        info = "empty: a sample of Wikipedia"
        text = gr.Textbox("", label="Text", info=info, lines=2, max_lines=4, max_length=MAX_TEXT, min_width=300)
    address.add("model", model, str)
    with gr.Row():
        start = gr.Button("Measure", variant="primary", min_width=120)
        stop = gr.Button("Stop", min_width=120)
    status = gr.Markdown("About half a minute for a small model: 4,096 tokens.", elem_classes="status")
    with gr.Column(visible=False) as results:
        plots = plots_in_pairs([None] * len(DEFAULT_PANELS))
        made = code_block("")
        files = gr.File(label="The report as JSON", file_count="multiple", interactive=False)
    outputs = [status, results, *plots, made, files, mine]
    start.click(
        in_sentences(measure),
        [model, text, mine],
        outputs,
        api_name="measure_model",
        show_progress="hidden",
        **QUEUE,
    )
    stop.click(cancel, None, status, api_visibility="private", queue=False)


def measure(model: str, text: str, mine: dict, request: gr.Request):
    """Yields the progress, and at the end the contents of the tab."""
    job = _running[request.session_hash] = Job(partial(measure_model, model, text))
    try:
        for news in job:
            yield _waiting(f"*{news}*")
        report = job.result
    except Stopped:
        yield _waiting("Stopped.")
        return
    finally:
        _running.pop(request.session_hash, None)
    name = name_of(report)
    mine = dict(list(mine.items())[1 - MOST_REPORTS :]) | {name: report}
    named = {name: report}
    words = story(name, report)
    figures = [described(measure_figure(named, m, [WITH, WITHOUT]), f"{m} by layer. {words}") for m in DEFAULT_PANELS]
    code = code_of(named, [WITH, WITHOUT], text)
    files = files_for({f"{name}.json": report.as_json()}, utils.get_upload_folder())
    yield [words, gr.Column(visible=True), *figures, code, files, mine]


def _waiting(said: str) -> list:
    return [said, *[gr.skip()] * (len(DEFAULT_PANELS) + 4)]


def cancel(request: gr.Request) -> str:
    """Stops this visitor's job at its next step."""
    job = _running.get(request.session_hash)
    if job is None:
        return "Nothing is running."
    job.stop()
    return "Stopping."


def story(name: str, report) -> str:
    """Anisotropy at its peak, with and without sinks, as a sentence."""
    rows = next(iter(layer_rows(report, "anisotropy", WITH).values()))
    peak = max(rows, key=lambda row: row["value"])
    without = report.stream().value("anisotropy", tokens=WITHOUT, layer=peak["layer"], stack=peak["stack"])
    after = f"{without:.0%}" if without is not None else "unknown"
    return (
        f"**{name.replace('*', '')}: anisotropy is highest in layer {peak['layer']}, {peak['value']:.0%}; without sinks"
        f" {after}.** *Compare* can show this model, too."
    )
