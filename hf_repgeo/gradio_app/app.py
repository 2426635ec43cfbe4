"""The Gradio app of a measurement, shared by the three Spaces: rows or a model in, value, error, null and picture out.

The functions that measure know nothing of Gradio and keep nothing between calls: visitors do not disturb one another.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import torch

from ..errors import BadInput, MissingExtra, RepgeoError
from ..evaluation.base import flat
from ..evaluation.streams import estimates_of
from ..measures import MEASURES, PointCloud
from ..profiling import profile
from ..rows.cleaning import split_documents
from ..rows.models import load_model
from .inputs import MAX_BYTES, PACKAGED_MODEL, check_model_id, check_model_size, read_table, read_upload
from .pictures import AXES, Points, points_of

try:
    import gradio as gr
    import pandas
except ImportError:
    raise MissingExtra("gradio", "spaces", "The app of a Space") from None

logger = logging.getLogger(__name__)

MODEL_ROWS = 4096
MAX_TEXT = 200_000
Result = dict[str, float | int | str | None]


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
    result = flat(name, estimates_of(name, cloud, options))
    result[f"{name}_null"] = null_of(name, cloud.n, cloud.d)
    with torch.no_grad():
        return result, points_of(name, cloud, **options)


def measure_model(name: str, model: str, text: str, **options) -> tuple[Result, list[tuple[str, int, float | None]]]:
    """The result for a model's last layer, and `(stack, layer, value)` for all of them.

    Args:
        name: of the measurement.
        model: Hub id, or the packaged model; weights are read as safetensors, and no code is run.
        text: the model reads its first 4096 tokens; empty: the packaged sample of Wikipedia.
        options: of the measure.

    Raises:
        BadInput: no such model, too large a one, or too long a text.
    """
    model = check_request(model, text)
    return profile_layers(name, model, text, **options)


def check_request(model: str, text: str) -> str:
    """The model's id, when it and the text are what an app takes; before anything is loaded.

    Raises:
        BadInput: no such model, too large a one, or too long a text.
    """
    model = check_model_id(model)
    if len(text) > MAX_TEXT:
        raise BadInput("text", came=f"{len(text)} characters", wanted=f"at most {MAX_TEXT}")
    check_model_size(model)
    return model


def profile_layers(name: str, model: str | Path, text: str, **options) -> tuple[Result, list]:
    """`measure_model` after its checks."""
    loaded = load_model(model)
    texts = [*split_documents(text)] or None
    settings: dict[str, Any] = {"tokens": ["all"], "rows": MODEL_ROWS, "oversample": 1, "progress": False}
    report = profile(loaded.model, texts, tokenizer=loaded.tokenizer, measures=[name], **settings, **options)
    rows = report.stream().select(measure=name, convention=MEASURES[name].conventions[0], tokens="all").rows
    last, width = rows[-1], loaded.model.config.get_text_config().hidden_size
    result = {name: last["value"], f"{name}_standard_error": last["se"], f"{name}_n": last["n"]}
    result |= {f"{name}_null": null_of(name, last["n"], width), "layer": last["layer"]}
    if last["warnings"]:
        result[f"{name}_reason" if last["value"] is None else f"{name}_warnings"] = "; ".join(last["warnings"])
    return result, [(row["stack"], row["layer"], row["value"]) for row in rows]


def null_of(name: str, n: int, d: int) -> float | None:
    """What n rows of an isotropic Gaussian in d dimensions give; `None` where no closed form is known.

    Anisotropy: `(1 + sqrt(d / n))^2 / d`, at most 1: the edge of the Marchenko-Pastur law over the total variance.

    Example:
        >>> from hf_repgeo.gradio_app.app import null_of
        >>> null_of("anisotropy", n=400, d=100)
        0.0225
    """
    return min(1.0, (1 + sqrt(d / n)) ** 2 / d) if name == "anisotropy" else None


def sentence_of(name: str, result: Result) -> str:
    """The result in words, as Markdown."""
    title, value, error = name.replace("_", " "), result[name], result[f"{name}_standard_error"]
    where = f" in layer {result['layer']}" if "layer" in result else ""
    if value is None:
        return f"**No {title}{where}.** {result[f'{name}_reason']}"
    spread = f" ± {error:.2g} (standard error)" if error is not None else " (no standard error)"
    null = result[f"{name}_null"]
    chance = f"An isotropic Gaussian gives about {null:.3g}." if null is not None else "No chance level is known."
    warnings = f"\n\n*{result[f'{name}_warnings']}*" if f"{name}_warnings" in result else ""
    return f"**{title} {value:.4g}**{spread}{where}, {result[f'{name}_n']} rows. {chance}{warnings}"


# --- the page -------------------------------------------------------------------------------------------------------


def build(name: str, card: str | Path) -> gr.Blocks:
    """The app of a measurement, not yet launched.

    Args:
        name: `"anisotropy"`, `"intrinsic_dimension"` or `"patchiness"`.
        card: the Space's `README.md`, shown under "About".
    """
    title = name.replace("_", " ").capitalize()
    with gr.Blocks(title=title) as demo:
        gr.Markdown(f"# {title}\n{MEASURES[name].direction}.")
        with gr.Tab("Rows"):
            _rows_tab(name)
        with gr.Tab("A model"):
            _model_tab(name)
        with gr.Tab("About"):
            gr.Markdown(card_body(card))
    return demo


def launch(demo: gr.Blocks, **options) -> tuple:
    """Starts the app; uploads over 64 MiB are refused before they are stored, and errors are shown as sentences."""
    return demo.launch(max_file_size=MAX_BYTES, **{"show_error": True, **options})


def card_body(card: str | Path) -> str:
    """A card without its front matter."""
    return Path(card).read_text(encoding="utf-8").split("\n---\n", 1)[1]


def example_table() -> str:
    """300 rows of 6 columns, stretched along the first."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 6, generator=generator) * torch.tensor([3.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    return "\n".join(", ".join(f"{number:.2f}" for number in row) for row in rows.tolist())


def _rows_tab(name: str) -> None:
    table = gr.Textbox(label="Numbers, a row a line", lines=8, max_lines=8)
    gr.Button("Fill in an example", size="sm").click(example_table, None, table, api_visibility="private")
    file = gr.File(label="or a .npy or .safetensors file", file_types=[".npy", ".safetensors"], type="filepath")
    options = _option_inputs(name)
    button = gr.Button("Measure", variant="primary")
    x_title, y_title = AXES[name]
    outputs = [*_result_outputs(), gr.LinePlot(x="x", y="y", x_title=x_title, y_title=y_title)]

    def answer(table: str, file: str | None, *values: float):
        result, points = measure_rows(name, table, file, **_chosen(options, values))
        return sentence_of(name, result), result, pandas.DataFrame(points, columns=["x", "y"], dtype="float64")

    button.click(in_sentences(answer), [table, file, *options.values()], outputs, api_name="measure_rows")


def _model_tab(name: str) -> None:
    model = gr.Textbox(PACKAGED_MODEL, label="Model", info="an id on the Hub; safetensors, at most 2 GiB")
    text = gr.Textbox("", label="Text", info="empty: a sample of Wikipedia; 4096 tokens are read", lines=6, max_lines=6)
    options = _option_inputs(name)
    button = gr.Button("Measure", variant="primary")
    plot = gr.LinePlot(x="layer", y="value", color="stack", x_title="layer (0: embeddings)", y_title=name)
    outputs = [*_result_outputs(), plot]

    def answer(model: str, text: str, *values: float):
        result, layers = measure_model(name, model, text, **_chosen(options, values))
        return sentence_of(name, result), result, pandas.DataFrame(layers, columns=["stack", "layer", "value"])

    button.click(in_sentences(answer), [model, text, *options.values()], outputs, api_name="measure_model")


def _result_outputs() -> list[gr.components.Component]:
    return [gr.Markdown(), gr.JSON(label="Result")]


def _option_inputs(name: str) -> dict[str, gr.components.Component]:
    if name != "patchiness":
        return {}
    return {
        "codebooks": gr.Slider(1, 16, 4, step=1, label="Codebooks", info="at most as many as columns"),
        "bits": gr.Slider(1, 10, 6, step=1, label="Bits", info="2 ** bits cells; needs as many rows, better 39 times"),
    }


def _chosen(options: dict, values: tuple) -> dict[str, int]:
    return {option: int(value) for option, value in zip(options, values)}


def in_sentences(function: Callable) -> Callable:
    """Errors of ours become their own sentence on the page; of anything else the page says only that it happened."""

    @functools.wraps(function)
    def answer(*arguments):
        try:
            return function(*arguments)
        except RepgeoError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Exception:
            logger.exception("unforeseen")
            raise gr.Error("Something went wrong here, not with your input.", print_exception=False) from None

    return answer
