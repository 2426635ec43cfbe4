"""Training: the layers of a small GPT over the steps of its training."""

from __future__ import annotations

import gradio as gr

from hf_repgeo.gradio_app.curves import WORDS
from hf_repgeo.gradio_app.history import PACKAGED, layers_at, packaged_run, training_code, training_map, training_words
from hf_repgeo.gradio_app.page import Address, code_block, described


def build(address: Address, mine: gr.State) -> None:
    """Fills the tab."""
    run = packaged_run()
    measures, policies = run.unique("measure"), run.unique("tokens")
    steps = sorted({row["details"]["step"] for row in run})
    shown = [steps[0], 100, steps[-1]]  # anisotropy is highest at 100
    gr.Markdown(
        "A GPT of 4 layers of 128, trained for 1,000 steps on WikiText-2 and measured as it trained, on 4,096 held-out"
        " tokens. It is far smaller than any model in use and serves to show what the callback records."
    )
    with gr.Row():
        choices = [(name.replace("_", " "), name) for name in measures]
        measure = gr.Dropdown(choices, value="anisotropy", label="Measure", min_width=200)
        tokens = gr.Dropdown([(WORDS[p], p) for p in policies], value=policies[0], label="Tokens", min_width=200)
        wanted = gr.Dropdown(
            steps, value=shown, multiselect=True, max_choices=6, label="Steps of the curves", min_width=200
        )
    address.add("measure", measure, measures)
    address.add("policy", tokens, policies)
    words, heat, curves, python = show("anisotropy", policies[0], shown)
    said = gr.Markdown(words)
    with gr.Row():
        with gr.Column(min_width=320):
            first = gr.Plot(heat, show_label=False)
        with gr.Column(min_width=320):
            second = gr.Plot(curves, show_label=False)
    made = code_block(python, "The code that made this, and code for your own training")
    gr.File(str(PACKAGED), label="The history as Parquet", interactive=False)
    controls = [measure, tokens, wanted]
    outputs = [said, first, second, made]
    address.answer(controls, show, controls, outputs, api_name="training", show_progress="hidden")


def show(measure: str, tokens: str, steps: list[int]) -> tuple:
    """The text, heat map, curves and code."""
    run = packaged_run()
    words = training_words(run, measure, tokens)
    heat = described(training_map(run, measure, tokens), words.replace("*", ""))
    curves = described(layers_at(run, measure, sorted(steps), tokens), f"{measure} by layer at steps {steps}")
    return words, heat, curves, training_code(measure, tokens)
