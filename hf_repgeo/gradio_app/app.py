"""The Gradio app of a measurement, shared by three Spaces: from rows or a model to value, error, chance and picture.

The functions that measure do not depend on Gradio and keep no state: visitors do not disturb one another.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import BadInput, MissingExtra
from ..evaluation.base import flat
from ..evaluation.streams import estimates_of
from ..measures import MEASURES, PointCloud
from ..profiling import profile
from ..rows.cleaning import split_documents
from ..rows.models import load_model
from .code import code_of
from .curves import measure_figure
from .inputs import MAX_BYTES, PACKAGED_MODEL, read_table, read_upload
from .models import admit
from .page import LOOK, Address, code_block, described, in_sentences
from .pictures import Points, points_of
from .scale import points_figure, scale_figure

try:
    import gradio as gr
except ImportError:
    raise MissingExtra("gradio", "spaces", "The app of a Space") from None

if TYPE_CHECKING:
    from ..report import GeometryReport

MODEL_ROWS = 4096
CHEAP = 4096 * 1024  # entries of a cloud up to which the chance level, from nine further clouds, takes seconds
Result = dict[str, float | int | str | None]

MEANING = {
    "anisotropy": "How much of the spread of your rows lies along one single direction: near 0 a ball, 1 a line.",
    "intrinsic_dimension": "In how many directions your rows really spread: 2 for a crumpled sheet in any space.",
    "patchiness": "How clumped your rows are: 1 as by chance, 3 if a row has three times as many others around it.",
}
EXAMPLE_ROWS = 400
EXAMPLE_CELLS = {"codebooks": 2, "bits": 3}  # 8 cells, so that 400 rows put fifty into each


# --- measuring ------------------------------------------------------------------------------------------------------


def measure_rows(name: str, table: str, file: str | None, **options) -> tuple[Result, Points]:
    """The result and the picture for a pasted table or an uploaded file; the file wins.

    Args:
        name: of the measurement.
        table: numbers as text, see `read_table`.
        file: path of a `.npy` or `.safetensors` file, see `read_upload`.
        options: of the measure.

    Raises:
        BadInput: nothing given, or nothing that can be measured.
    """
    if not file and not (table or "").strip():
        raise BadInput("table", came="nothing", wanted="numbers, or an uploaded file")
    cloud = PointCloud(read_upload(file) if file else read_table(table), argument="file" if file else "table")
    chance = "isotropic" if cloud.n * cloud.d <= CHEAP else False
    result = flat(name, estimates_of(name, cloud, options, chance))
    with torch.no_grad():
        return result, points_of(name, cloud, **options)


def measure_model(name: str, model: str, text: str, **options) -> tuple[Result, GeometryReport]:
    """The result for a model's last layer, and the report of all of them.

    Args:
        name: of the measurement.
        model: Hub id, or the packaged model; weights are read as safetensors, and no code is run.
        text: the model reads its first 4096 tokens; empty: the packaged sample of Wikipedia.
        options: of the measure.

    Raises:
        BadInput: no such model, too large a one, or too long a text.
    """
    model, commit = admit(model, text)
    return profile_layers(name, model, text, commit, **options)


def profile_layers(
    name: str, model: str | Path, text: str, revision: str | None = None, **options
) -> tuple[Result, GeometryReport]:
    """`measure_model` after its checks."""
    loaded = load_model(model, revision=revision)
    texts = [*split_documents(text)] or None
    settings: dict[str, Any] = {"tokens": ["all"], "rows": MODEL_ROWS, "oversample": 1, "progress": False}
    settings["null"] = "isotropic"
    report = profile(loaded.model, texts, tokenizer=loaded.tokenizer, measures=[name], **settings, **options)
    report.provenance["model"] = str(model)
    last = report.stream().select(measure=name, convention=MEASURES[name].conventions[0], tokens="all").rows[-1]
    result = {name: last["value"], f"{name}_standard_error": last["se"], f"{name}_n": last["n"]}
    known = [key for key in ("null", "null_low", "null_high") if key in last["details"]]
    result |= {f"{name}_{key}": last["details"][key] for key in known}
    result["layer"] = last["layer"]
    if last["warnings"]:
        result[f"{name}_reason" if last["value"] is None else f"{name}_warnings"] = "; ".join(last["warnings"])
    return result, report


def sentence_of(name: str, result: Result) -> str:
    """The result in words, as Markdown."""
    title, value, error = name.replace("_", " "), result[name], result[f"{name}_standard_error"]
    where = f" in layer {result['layer']}" if "layer" in result else ""
    if value is None:
        return f"**No {title}{where}.** {result[f'{name}_reason']}"
    spread = f" ± {error:.2g} (standard error)" if error is not None else " (no standard error)"
    null = result.get(f"{name}_null")
    chance = (
        f"As many rows of an isotropic Gaussian give {null:.3g}." if null is not None else "Chance was not computed."
    )
    warnings = f"\n\n*{result[f'{name}_warnings']}*" if f"{name}_warnings" in result else ""
    return f"**{title} {value:.4g}**{spread}{where}, {result[f'{name}_n']} rows. {chance}{warnings}"


# --- the page -------------------------------------------------------------------------------------------------------


def build(name: str, card: str | Path) -> gr.Blocks:
    """The app of a measurement, not yet launched; it opens with an example measured.

    Args:
        name: `"anisotropy"`, `"intrinsic_dimension"` or `"patchiness"`.
        card: the Space's `README.md`, shown under "About".
    """
    title, address = name.replace("_", " ").capitalize(), Address()
    with gr.Blocks(title=title) as demo:
        gr.Markdown(f"# {title}\n{MEANING[name]}")
        with gr.Tab("Rows"):
            _rows_tab(name)
        with gr.Tab("A model"):
            _model_tab(name, address)
        with gr.Tab("About"):
            gr.Markdown(card_body(card))
    return demo


def launch(demo: gr.Blocks, **options) -> tuple:
    """Starts the app; uploads over 64 MiB are refused before they are stored, and errors are shown as sentences."""
    return demo.launch(max_file_size=MAX_BYTES, **{"show_error": True, **LOOK, **options})


def card_body(card: str | Path) -> str:
    """A card without its front matter."""
    return Path(card).read_text(encoding="utf-8").split("\n---\n", 1)[1]


def example_table() -> str:
    """400 rows of 24 columns, stretched along the first; half of them lie close together."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(EXAMPLE_ROWS, 24, generator=generator)
    rows[:, 0] *= 3
    rows[: EXAMPLE_ROWS // 2] *= 0.3
    return "\n".join(", ".join(f"{number:.2f}" for number in row) for row in rows.tolist())


def _rows_tab(name: str) -> None:
    example = example_table()
    with gr.Row():
        with gr.Column(min_width=320):
            table = gr.Textbox(example, label="Numbers, one row per line (here: an example)", lines=7, max_lines=7)
            file = gr.File(label="or a .npy or .safetensors file", file_types=[".npy", ".safetensors"], height=140)
            options = _option_inputs(name, EXAMPLE_CELLS)
            button = gr.Button("Measure", variant="primary")
        filled = _answer_rows(name, example, None, {key: EXAMPLE_CELLS[key] for key in options})
        with gr.Column(min_width=320):
            words = gr.Markdown(filled[0])
            scale = gr.Plot(filled[1], show_label=False)
            picture = gr.Plot(filled[2], show_label=False)
    with gr.Accordion("Numbers", open=False):
        numbers = gr.JSON(filled[3], show_label=False)

    def answer(table: str, file: str | None, *values: float):
        return _answer_rows(name, table, file, _chosen(options, values))

    outputs = [words, scale, picture, numbers]
    button.click(in_sentences(answer), [table, file, *options.values()], outputs, api_name="measure_rows")


def _answer_rows(name: str, table: str, file: str | None, options: dict[str, int]) -> tuple:
    result, points = measure_rows(name, table, file, **options)
    words = sentence_of(name, result)
    plain = words.replace("*", "")
    picture = described(points_figure(name, points), f"What {name} was read from. {plain}") if points else None
    return words, described(scale_figure(name, result), plain), picture, result


def _model_tab(name: str, address: Address) -> None:
    with gr.Row():
        info = "an id on the Hub; safetensors"
        model = address.add("model", gr.Textbox(PACKAGED_MODEL, label="Model", info=info, min_width=300), str)
        info = "empty: a sample of Wikipedia; 4,096 tokens are read"
        text = gr.Textbox("", label="Text", info=info, lines=2, max_lines=4, min_width=300)
    options = _option_inputs(name, {"codebooks": 4, "bits": 6})
    button = gr.Button("Measure", variant="primary")
    words = gr.Markdown()
    plot = gr.Plot(show_label=False, visible=False)
    made = code_block("import hf_repgeo\n")
    with gr.Accordion("Numbers", open=False):
        numbers = gr.JSON(show_label=False)

    def answer(model: str, text: str, *values: float):
        result, report = measure_model(name, model, text, **_chosen(options, values))
        words = sentence_of(name, result)
        figure = described(measure_figure({"layers": report}, name, ["all"]), words.replace("*", ""))
        return words, gr.Plot(figure, visible=True), code_of({model: report}, ["all"], text), result

    outputs = [words, plot, made, numbers]
    inputs = [model, text, *options.values()]
    button.click(in_sentences(answer), inputs, outputs, api_name="measure_model", concurrency_limit=1)


def _option_inputs(name: str, values: dict[str, int]) -> dict[str, gr.components.Component]:
    if name != "patchiness":
        return {}
    about = "2 ** bits cells; needs at least that many rows, better 39 times as many"
    return {
        "codebooks": gr.Slider(1, 16, values["codebooks"], step=1, label="Codebooks", info="at most one a column"),
        "bits": gr.Slider(1, 10, values["bits"], step=1, label="Bits", info=about),
    }


def _chosen(options: dict, values: tuple) -> dict[str, int]:
    return {option: int(value) for option, value in zip(options, values)}
