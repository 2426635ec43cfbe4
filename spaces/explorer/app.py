"""The explorer: the geometry of models layer by layer, and a sentence's embedding; `python app.py` starts it.

The page is painted from the reports in `reports/`: neither a model nor the Hub is needed before a button is pressed.
What a visitor measures stays in that visitor's session.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gradio as gr
import pandas
from gradio import utils

sys.path.append(str(Path(__file__).parent))  # for the two modules beside this one, wherever it is started from

import layers  # noqa: E402
import sentence  # noqa: E402

from hf_repgeo.gradio_app.app import MAX_TEXT, card_body, launch  # noqa: E402
from hf_repgeo.gradio_app.app import in_sentences as in_sentences  # noqa: E402
from hf_repgeo.gradio_app.inputs import PACKAGED_MODEL  # noqa: E402
from hf_repgeo.measures import MEASURES  # noqa: E402

SHIPPED = layers.shipped()
FIRST, SECOND = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct-Q4_1"
NOBODY = "nothing"
TOKENS = {
    "every token": "all",
    "without special tokens": "no_special",
    "without sinks": "sink_robust",
    "one of each type": "one_per_type",
}
KEPT_MINUTES = 60  # files and sessions
MOST_REPORTS = 8  # measured now, in one session
MODEL_QUEUE = {"concurrency_id": "models", "concurrency_limit": 1}  # one model in memory at a time
HEAVY = "an id on the Hub; safetensors, at most 2 GiB"


def build() -> gr.Blocks:
    """The app, not yet launched."""
    with gr.Blocks(title="hf_repgeo explorer", delete_cache=(60 * KEPT_MINUTES, 60 * KEPT_MINUTES)) as demo:
        gr.Markdown("# The shape of what a transformer thinks in")
        with gr.Tab("Layers"):
            _layers_tab()
        with gr.Tab("Sentence"):
            _sentence_tab()
        with gr.Tab("About"):
            gr.Markdown(card_body(Path(__file__).with_name("README.md")))
    return demo


# --- layers ---------------------------------------------------------------------------------------------------------


def show(first: str, second: str, tokens: str, mine: layers.Reports, folder: str) -> list:
    """What the *Layers* tab shows: words, a frame a panel, warnings, the table, the code, the files.

    Args:
        first, second: names of reports; `second` may be `NOBODY`.
        tokens: a token policy.
        mine: what this visitor measured.
        folder: where files for downloading are written.
    """
    reports = layers.pick([first, "" if second == NOBODY else second], SHIPPED | mine)
    words = layers.facts(reports, tokens)
    plots = [pandas.DataFrame(layers.curve(reports, m, tokens), columns=layers.COLUMNS) for m in layers.PANELS]
    files = layers.files_of(reports, folder)
    mind, table = layers.mind(reports, tokens), layers.table(reports, tokens)
    return [words, *plots, mind, table, layers.code_of(reports, tokens), files]


def _layers_tab() -> None:
    gr.Markdown(
        "Real models on WikiText-2 (its `test.txt`), measured beforehand. Choose one or two, or measure another below."
        " A few huge tokens, the sinks, can make a whole curve: compare with *without sinks* under *Tokens*."
    )
    mine = gr.State({}, time_to_live=60 * KEPT_MINUTES)
    with gr.Row():
        first = gr.Dropdown(list(SHIPPED), value=FIRST, label="Model", min_width=250)
        second = gr.Dropdown([NOBODY, *SHIPPED], value=SECOND, label="Compared with", min_width=250)
        tokens = gr.Dropdown(list(TOKENS.items()), value="all", label="Tokens", min_width=250)
    outputs = _layers_outputs(show(FIRST, SECOND, "all", {}, utils.get_upload_folder()))
    chosen = [first, second, tokens, mine]

    def answer(first: str, second: str, tokens: str, mine: layers.Reports) -> list:
        return show(first, second, tokens, mine, utils.get_upload_folder())

    redraw = {"fn": in_sentences(answer), "inputs": chosen, "outputs": outputs}
    gr.on([first.input, second.input, tokens.input], **redraw, api_name="layers", concurrency_limit=4)
    measured = _measure_now(first, second, tokens, mine)
    measured.success(**redraw, api_visibility="private")


def _layers_outputs(values: list) -> list[gr.components.Component]:
    """The components that show what `show` returns, filled with it."""
    words = gr.Markdown(values[0])
    panels = list(zip(layers.PANELS, values[1:5]))
    plots = []
    for pair in (panels[:2], panels[2:]):
        with gr.Row():
            plots += [_line_plot(measure, frame) for measure, frame in pair]
    mind = gr.Markdown(values[5])
    with gr.Accordion("Numbers, with standard errors", open=False):
        headers = ["model", "layer", *(measure.replace("_", " ") for measure in layers.PANELS)]
        table = gr.Dataframe(values[6], headers=headers, interactive=False, show_label=False, max_height=400)
    code = gr.Code(values[7], language="python", label="Measure it yourself", interactive=False, wrap_lines=True)
    files = gr.File(values[8], label="Reports as JSON", file_count="multiple", interactive=False)
    return [words, *plots, mind, table, code, files]


def _line_plot(measure: str, frame: pandas.DataFrame) -> gr.LinePlot:
    title = f"{measure.replace('_', ' ').capitalize()} ({MEASURES[measure].unit})"
    limits = {"y_lim": [0, 1]} if MEASURES[measure].range == (0, 1) else {}
    tooltip = ["model", "layer", "value", "standard error", "rows"]
    shown = {"title": title, "x_title": "depth: 0 embeddings, 1 last layer", "y_title": " ", "color_title": " "}
    return gr.LinePlot(frame, "depth", "value", color="model", tooltip=tooltip, min_width=300, **shown, **limits)


def _measure_now(first: gr.Dropdown, second: gr.Dropdown, tokens: gr.Dropdown, mine: gr.State) -> gr.events.Dependency:
    with gr.Accordion("Measure another model now", open=False):
        gr.Markdown("About a minute for a small model; it reads 4096 tokens, chosen as above under *Tokens*.")
        model = gr.Textbox(PACKAGED_MODEL, label="Model", info=HEAVY, max_length=100)
        about = "empty: a sample of Wikipedia"
        text = gr.Textbox("", label="Text", info=about, lines=4, max_lines=4, max_length=MAX_TEXT)
        button = gr.Button("Measure", variant="primary")

    def answer(model: str, text: str, tokens: str, mine: layers.Reports):
        report = layers.measure_model(model, text, tokens)
        name = layers.name_of(report, SHIPPED | mine)
        mine = dict(list(mine.items())[1 - MOST_REPORTS :]) | {name: report}
        names = [*SHIPPED, *mine]
        return mine, gr.Dropdown(names, value=name), gr.Dropdown([NOBODY, *names], value=NOBODY)

    inputs, outputs = [model, text, tokens, mine], [mine, first, second]
    return button.click(in_sentences(answer), inputs, outputs, api_name="measure_model", **MODEL_QUEUE)


# --- sentence -------------------------------------------------------------------------------------------------------


def _sentence_tab() -> None:
    gr.Markdown("Type a sentence and see its embedding as an array.")
    text = gr.Textbox(
        "The letters were written by the old gardener.", label="Sentence", max_length=sentence.MAX_SENTENCE
    )
    with gr.Row():
        info = "the packaged one, or " + HEAVY
        model = gr.Dropdown(
            sentence.MODELS, value=PACKAGED_MODEL, label="Model", info=info, allow_custom_value=True, min_width=300
        )
        choices = [("first token", "cls"), ("mean of tokens", "mean")]
        pooling = gr.Radio(
            choices, value="cls", label="Pooling", info="the sparse VAE reads the first token", min_width=300
        )
    button = gr.Button("Show", variant="primary")
    outputs = _sentence_outputs()
    inputs = [text, model, pooling]
    gr.on([button.click, text.submit], in_sentences(look), inputs, outputs, api_name="sentence", **MODEL_QUEUE)


def _sentence_outputs() -> list:
    words = gr.Markdown()
    with gr.Row():
        array = gr.Plot(show_label=False, min_width=300, visible=False)
        with gr.Column(min_width=300, visible=False) as reading:
            latents = gr.BarPlot(x="latent", y="mean", title="Latents", y_title=" ", x_title=" ")
            wiring = gr.Plot(show_label=False)
    with gr.Accordion("Numbers", open=False):
        numbers = gr.JSON(show_label=False)
    return [words, array, latents, wiring, reading, numbers]


def look(text: str, model: str, pooling: str) -> list:
    """What the *Sentence* tab shows: words, the array, latents and wiring of the sparse VAE if it applies, numbers."""
    seen = sentence.read_sentence(text, model, pooling)
    array = gr.Plot(sentence.array_figure(seen), visible=True)
    bars = [(f"z{place}", value) for place, value in enumerate(seen.latents())]
    latents = pandas.DataFrame(bars, columns=["latent", "mean"])
    wiring = sentence.wiring_figure(seen.sparse) if seen.sparse else None
    return [sentence.story(seen), array, latents, wiring, gr.Column(visible=bool(bars)), seen.numbers()]


demo = build()

if __name__ == "__main__":
    launch(demo)
