"""Sentence: an embedding as an array, its latents in a sparse VAE, and what a region of the array carries."""

from __future__ import annotations

import json

import gradio as gr
from gradio import utils

from hf_repgeo.gradio_app.page import Address, code_block, described, files_for, whole
from hf_repgeo.gradio_app.sentence import (
    EDITS,
    MAX_SENTENCE,
    array_figure,
    edited,
    embedding_of,
    known_sentences,
    latents_figure,
    latents_of,
    regions,
    sentence_code,
    story,
)

ABOUT = (
    "A sparse variational autoencoder reads the embedding of `all-MiniLM-L6-v2` as an array, region by region, into a"
    " few latents. It was trained on sentences of a small grammar: it shows how such a model works, and is **no"
    " evidence** of where language lies in an embedding."
)
FIRST = "The letters were written by the old gardener.", "The old gardener wrote the letters."
CHOICES = [("leave it", "none"), ("ablate the region", "ablate"), ("swap it with the other's", "swap")]


def build(address: Address, mine: gr.State) -> None:
    """Fills the tab."""
    gr.Markdown(ABOUT)
    offered = list(known_sentences())
    with gr.Row():
        free = {"allow_custom_value": True, "min_width": 300, "info": "choose one, or type your own"}
        one = gr.Dropdown(offered, value=FIRST[0], label="Sentence", **free)
        other = gr.Dropdown(offered, value=FIRST[1], label="Another sentence", **free)
    with gr.Row():
        edit = gr.Radio(CHOICES, value="swap", label="What to do", min_width=320)
        region = gr.Radio(list(range(len(regions()))), value=0, label="Region of the array", min_width=240)
    address.add("sentence", one, _short)
    address.add("other", other, _short)
    address.add("edit", edit, EDITS)
    address.add("region", region, whole(0, len(regions()) - 1))
    words, bars, array, python, files = show(*FIRST, "swap", 0)
    said = gr.Markdown(words)
    with gr.Row():
        with gr.Column(min_width=320):
            latents = gr.Plot(bars, show_label=False)
        with gr.Column(min_width=320):
            picture = gr.Plot(array, show_label=False)
    made = code_block(python)
    numbers = gr.File(files, label="Embedding and latents as JSON", file_count="multiple", interactive=False)
    controls = [one, other, edit, region]
    outputs = [said, latents, picture, made, numbers]
    address.answer(controls, show, controls, outputs, api_name="sentence", trigger_mode="always_last")


def _short(text: str) -> str:
    if len(text) > MAX_SENTENCE:
        raise ValueError(text)
    return text


def show(sentence: str, other: str, edit: str, region: int) -> tuple:
    """The text, latents, array, code and numbers."""
    row, swapped = embedding_of(sentence or ""), embedding_of(other or "")
    changed = edited(row, int(region), edit, swapped)
    words = story(row, changed, int(region), edit)
    plain = words.replace("*", "")
    bars = described(latents_figure(row, changed, swapped, edit), "Latents. " + plain)
    array = described(array_figure(changed, int(region)), "The embedding as an array. " + plain)
    numbers = {"sentence": sentence, "embedding": changed.tolist(), "latents": latents_of(changed)}
    files = files_for({"sentence.json": json.dumps(numbers)}, utils.get_upload_folder())
    return words, bars, array, sentence_code(sentence, other, int(region), edit), files
