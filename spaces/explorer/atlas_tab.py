"""The atlas: a table with one row per model, layer, tokens and measure, and a plot of any two measures."""

from __future__ import annotations

import gradio as gr

from hf_repgeo import load_atlas
from hf_repgeo.gradio_app.curves import TOKENS, WITH
from hf_repgeo.gradio_app.finding import NAMES
from hf_repgeo.gradio_app.map_of_models import pivot, scatter, scatter_code
from hf_repgeo.gradio_app.page import Address, code_block, described
from hf_repgeo.hub.atlas import PACKAGED

COLUMNS = ["model", "stack", "layer", "tokens", "measure", "convention", "value", "se", "null", "n"]
JOIN = """\
report = hf_repgeo.profile("OWNER/MODEL")              # the default protocol, on the packaged text
report.push_to_hub("YOU/MODEL", atlas="OWNER/ATLAS")   # checked, then a pull request
"""


def build(address: Address, mine: gr.State) -> None:
    """Fills the tab."""
    atlas = load_atlas()
    measures = sorted(atlas.measure.unique())
    gr.Markdown(f"{atlas.model.nunique()} models, {len(atlas):,} numbers, one protocol: 4,096 tokens of Wikipedia.")
    with gr.Row():
        tokens = gr.Dropdown(list(TOKENS.items()), value=WITH, label="Tokens", min_width=180)
        x = gr.Dropdown(measures, value="anisotropy", label="Across", min_width=180)
        y = gr.Dropdown(measures, value="intrinsic_dimension", label="Up", min_width=180)
        known = [("every model", "every model"), *((NAMES.get(name, name), name) for name in atlas.model.unique())]
        model = gr.Dropdown(known, value="every model", label="Model", min_width=180)
    address.add("of", tokens, TOKENS.values())
    address.add("x", x, measures)
    address.add("y", y, measures)
    figure, table, python = show(WITH, "anisotropy", "intrinsic_dimension", "every model")
    plot = gr.Plot(figure, show_label=False)
    info = "Click a heading to sort; type in the search field to filter."
    numbers = gr.Dataframe(table, interactive=False, max_height=420, label=info, show_search="filter")
    made = code_block(python + "\n# add your model to an atlas on the Hub\n" + _commented(JOIN))
    gr.File(str(PACKAGED), label="The atlas as Parquet", interactive=False)
    controls = [tokens, x, y, model]
    address.answer(controls, answer, controls, [plot, numbers, made], api_name="atlas", show_progress="hidden")


def answer(tokens: str, x: str, y: str, model: str) -> tuple:
    """Figure, table and code."""
    figure, table, python = show(tokens, x, y, model)
    return figure, table, python + "\n# add your model to an atlas on the Hub\n" + _commented(JOIN)


def show(tokens: str, x: str, y: str, model: str) -> tuple:
    """The layers of the models as points, the rows behind them, the code."""
    atlas = load_atlas()
    part = atlas[atlas.tokens == tokens]
    part = part if model == "every model" else part[part.model == model]
    figure = described(scatter(pivot(part, x, y), x, y), f"{y} against {x}, one point per layer")
    rows = part[part.measure.isin([x, y])][COLUMNS].round(4)
    return figure, rows.assign(model=rows.model.replace(NAMES)), scatter_code(tokens, x, y)


def _commented(code: str) -> str:
    return "".join(f"# {line}\n" for line in code.splitlines())
