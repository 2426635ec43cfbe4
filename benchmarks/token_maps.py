"""The packaged maps of tokens: one window of the packaged sample of Wikipedia through two models.

python benchmarks/token_maps.py        # hf_repgeo/data/token-maps/*.npz
"""

from hf_repgeo.gradio_app.finding import DECODER, ENCODER, NAMES
from hf_repgeo.gradio_app.tokens import FOLDER, token_map

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for model in (DECODER, ENCODER):
        place = FOLDER / f"{NAMES[model]}.npz"
        token_map(model, tokens=256).save(place)
        print(place, place.stat().st_size)
