"""The Space of this measurement; `python app.py` starts it on this machine."""

from pathlib import Path

from hf_repgeo.gradio_app.app import build, launch

demo = build("intrinsic_dimension", card=Path(__file__).with_name("README.md"))

if __name__ == "__main__":
    launch(demo)
