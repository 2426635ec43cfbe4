"""Tokens: the rows of a layer as points, each with the text around it."""

from __future__ import annotations

import io

import gradio as gr
from gradio import utils

from hf_repgeo.errors import BadInput
from hf_repgeo.gradio_app.inputs import PACKAGED_MODEL
from hf_repgeo.gradio_app.models import admit
from hf_repgeo.gradio_app.page import Address, code_block, described, files_for, in_sentences, whole
from hf_repgeo.gradio_app.tokens import (
    COLOURS,
    TokenMap,
    map_code,
    map_figure,
    map_words,
    packaged_map,
    packaged_names,
    token_map,
)

FIRST, LAYER = "SmolLM2-135M", 12
MOST_LAYERS = 128
QUEUE = {"concurrency_id": "models", "concurrency_limit": 1}
SINKS = [("with sinks", True), ("without", False)]


def build(address: Address, mine: gr.State) -> None:
    """Fills the tab."""
    own = gr.State(None, time_to_live=3600)
    with gr.Row():
        model = gr.Dropdown(packaged_names(), value=FIRST, label="Model", min_width=200)
        layer = gr.Slider(
            0, len(packaged_map(FIRST).rows) - 1, LAYER, step=1, label="Layer (0: embeddings)", min_width=250
        )
    with gr.Row():
        colour = gr.Dropdown(list(COLOURS), value="position", label="Colour", min_width=140)
        space = gr.Radio([("2-D", 2), ("3-D", 3)], value=2, label="Space", min_width=120)
        method = gr.Radio([("PCA", "pca"), ("t-SNE", "tsne")], value="pca", label="Projection", min_width=160)
        sinks = gr.Radio(SINKS, value=True, label="Sinks", min_width=180)
    address.add("map", model, packaged_names())
    address.add("layer", layer, whole(0, MOST_LAYERS))
    address.add("colour", colour, COLOURS)
    address.add("space", space, (2, 3))
    address.add("method", method, ("pca", "tsne"))
    address.add("mapped", sinks, (True, False))
    words, figure, python, files = show(FIRST, LAYER, "position", 2, "pca", True, None)
    said = gr.Markdown(words)
    plot = gr.Plot(figure, show_label=False)
    with gr.Accordion("Your text and model", open=False):
        name = gr.Textbox(PACKAGED_MODEL, label="Model", info="an id on the Hub, as under Your model", max_length=100)
        text = gr.Textbox(
            "", label="Text", lines=4, max_lines=4, max_length=10_000, info="the first 256 tokens are read"
        )
        start = gr.Button("Map these tokens", variant="primary")
    made = code_block(python)
    table = gr.File(files, label="The points as CSV", file_count="multiple", interactive=False)
    controls = [model, layer, colour, space, method, sinks]
    outputs = [said, plot, made, table]
    asked = [*controls, own]
    address.answer(controls, show, asked, outputs, api_name="tokens", trigger_mode="always_last")
    model.change(lambda name, own: slider(name, own), [model, own], layer, api_visibility="private")
    mapped = start.click(in_sentences(measure), [name, text], [own, model], api_name="map_tokens", **QUEUE)
    mapped.success(in_sentences(show), asked, outputs, api_visibility="private")


def show(model: str, layer: int, colour: str, space: int, method: str, sinks: bool, own: tuple | None) -> tuple:
    """The text, figure, code and file of a layer's map."""
    seen, text = found(model, own)
    layer = min(int(layer), len(seen.rows) - 1)
    choice = {"dimensions": space, "method": method, "colour": colour, "sinks": sinks}
    words = map_words(seen, layer)
    figure = described(map_figure(seen, layer, **choice), words.replace("`", ""))
    files = files_for({f"{model}-layer-{layer}.csv": csv_of(figure, seen, layer)}, utils.get_upload_folder())
    return words, figure, map_code(model if text is None else seen.model, text, layer, **choice), files


def found(model: str, own: tuple | None) -> tuple[TokenMap, str | None]:
    """The map with this name, and its text if a visitor made the map."""
    if own is not None and model == own[0]:
        return own[1], own[2]
    if model not in packaged_names():
        raise BadInput("model", came=repr(model), wanted="one of " + ", ".join(packaged_names()))
    return packaged_map(model), None


def slider(model: str, own: tuple | None) -> gr.Slider:
    """The slider with as many layers as the model has."""
    seen, _ = found(model, own)
    return gr.Slider(0, len(seen.rows) - 1)


def measure(model: str, text: str) -> tuple:
    """Maps a visitor's text by a model: the new state, and the list of models with this one added."""
    model, commit = admit(model, text)
    seen = token_map(model, text, tokens=256, revision=commit)
    name = f"{seen.model.removeprefix('pip:')} (your text)"
    return (name, seen, text), gr.Dropdown([*packaged_names(), name], value=name)


def csv_of(figure, seen: TokenMap, layer: int) -> str:
    """The drawn points: place, norm, cell."""
    import pandas

    drawn = figure.data[0]
    axes = {axis: getattr(drawn, axis) for axis in "xyz" if getattr(drawn, axis, None) is not None}
    buffer = io.StringIO()
    pandas.DataFrame(axes | {"told": drawn.text}).to_csv(buffer, index=False)
    return buffer.getvalue()
