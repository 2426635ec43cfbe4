"""The explorer: how a few tokens change a model's geometry, and the same for your model; `python app.py` starts it.

The page is drawn from numbers in the package: it needs neither a model nor the Hub until a visitor presses a
button. What a visitor measures stays in that visitor's session. One file per tab.
"""

from __future__ import annotations

import sys
from pathlib import Path

import gradio as gr

sys.path.append(str(Path(__file__).parent))  # finds the modules beside this file from any folder

import atlas_tab  # noqa: E402
import compare_tab  # noqa: E402
import finding_tab  # noqa: E402
import model_tab  # noqa: E402
import sentence_tab  # noqa: E402
import tokens_tab  # noqa: E402
import training_tab  # noqa: E402

from hf_repgeo.gradio_app.app import card_body, launch  # noqa: E402
from hf_repgeo.gradio_app.page import Address  # noqa: E402

KEPT_MINUTES = 60  # files and sessions
TABS = {
    "finding": ("Sinks", finding_tab.build),
    "model": ("Your model", model_tab.build),
    "compare": ("Compare", compare_tab.build),
    "tokens": ("Tokens", tokens_tab.build),
    "sentence": ("Sentence", sentence_tab.build),
    "training": ("Training", training_tab.build),
    "atlas": ("Atlas", atlas_tab.build),
}


def build() -> gr.Blocks:
    """The app, not yet launched."""
    address = Address()
    with gr.Blocks(title="The shape of what a transformer thinks in", delete_cache=(60 * KEPT_MINUTES,) * 2) as demo:
        gr.Markdown("# The shape of what a transformer thinks in")
        mine = gr.State({}, time_to_live=60 * KEPT_MINUTES)
        opened = gr.Textbox("finding", visible="hidden")
        address.add("tab", opened, TABS)
        with gr.Tabs() as tabs:
            for name, (title, fill) in TABS.items():
                with gr.Tab(title, id=name) as tab:
                    fill(address, mine)
                tab.select(None, None, opened, js=f"() => '{name}'", api_visibility="private", queue=False)
            with gr.Tab("About"):
                gr.Markdown(card_body(Path(__file__).with_name("README.md")))
        with gr.Row():
            share = gr.Button("Share this view", elem_id="share", size="sm", scale=0, min_width=160)
            link = gr.Textbox(label="Link to this view", visible=False, interactive=False, buttons=["copy"])
        address.attach(demo, tabs, opened, share, link)
    return demo


demo = build()

if __name__ == "__main__":
    launch(demo)
