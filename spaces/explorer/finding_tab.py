"""The first screen: a decoder against an encoder, and a switch for the sinks."""

from __future__ import annotations

import gradio as gr

from hf_repgeo.gradio_app.finding import code, finding_figure, finding_words
from hf_repgeo.gradio_app.page import Address, code_block, described

ON, OFF = "on", "off"
WHAT = (
    "*Anisotropy*: the share of all variance that lies along one single direction. *Sinks*: tokens, the first of a text"
    " above all, whose vectors are many times longer than all others. Each curve is of 4,096 tokens of Wikipedia."
)


def build(address: Address, mine: gr.State) -> None:
    """Fills the tab."""
    words, figure, python = show(ON)
    said = gr.Markdown(words, elem_classes="finding")
    choices = [("sinks on", ON), ("sinks off", OFF)]
    sinks = gr.Radio(choices, value=ON, label="Sinks", show_label=False, container=False, elem_id="sinks")
    address.add("sinks", sinks, (ON, OFF))
    plot = gr.Plot(figure, label="Anisotropy by depth", show_label=False)
    made = code_block(python, "The code: this figure, and your own model")
    gr.Markdown(WHAT)
    address.answer([sinks], show, [sinks], [said, plot, made], api_name="finding", show_progress="hidden")


def show(sinks: str) -> tuple:
    """The text, figure and code with the sinks on or off."""
    words = finding_words(sinks == ON)
    return words, described(finding_figure(sinks == ON), words.replace("*", "")), code(sinks == ON)
