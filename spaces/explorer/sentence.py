"""The *Sentence* tab: a sentence's embedding as an array, and what the packaged sparse VAE reads from it.

Nothing here knows of Gradio or keeps anything between calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.gradio_app.inputs import PACKAGED_MODEL, check_model_id, check_model_size
from hf_repgeo.rows.models import Loaded, load_model
from hf_repgeo.rows.windows import window_limit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from hf_repgeo.sparse_vae import SparseVAEForSentenceEmbedding

MAX_SENTENCE = 500
SPARSE_ENCODER = "sentence-transformers/all-mpnet-base-v2"  # the packaged sparse VAE was trained on its embeddings
MODELS = [PACKAGED_MODEL, SPARSE_ENCODER]
POOLINGS = ["cls", "mean"]


@dataclass(frozen=True)
class Embedded:
    """A sentence's embedding, and the sparse VAE if it was trained on embeddings of this kind.

    Args:
        row: `(hidden_size,)` float32.
        model: the encoder's name.
        pooling: `"cls"` or `"mean"`.
        sparse: `None` where its reading would mean nothing.
    """

    row: torch.Tensor
    model: str
    pooling: str
    sparse: SparseVAEForSentenceEmbedding | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the array: the sparse VAE's, or `array_shape`."""
        return tuple(self.sparse.config.shape) if self.sparse else array_shape(len(self.row))

    def latents(self) -> list[float]:
        """Latent means; empty without the sparse VAE."""
        if self.sparse is None:
            return []
        from hf_repgeo.sparse_vae import latents_of

        return latents_of(self.sparse, self.row[None])[0].tolist()

    def numbers(self) -> dict:
        """All of it as plain numbers."""
        given = {"model": self.model, "pooling": self.pooling, "shape": list(self.shape)}
        return given | {"embedding": self.row.tolist(), "latents": self.latents()}


def read_sentence(sentence: str, model: str, pooling: str) -> Embedded:
    """Embeds a visitor's sentence.

    Args:
        sentence: at most 500 characters.
        model: Hub id, or the packaged model; weights are read as safetensors, and no code is run.
        pooling: `"cls"`, the first token's state in the last layer, or `"mean"`, the mean of all tokens.

    Raises:
        BadInput: no or too long a sentence, no such model, or too large a one.
        UnknownName: another pooling.
    """
    if not sentence.strip() or len(sentence) > MAX_SENTENCE:
        wanted = f"a sentence of at most {MAX_SENTENCE} characters"
        raise BadInput("sentence", came=f"{len(sentence.strip())} characters", wanted=wanted)
    if pooling not in POOLINGS:
        raise UnknownName("pooling", pooling, POOLINGS)
    model = check_model_id(model)
    check_model_size(model)
    return Embedded(embed(sentence, model, pooling), model, pooling, sparse_for(model, pooling))


def embed(sentence: str, model: str | Path, pooling: str) -> torch.Tensor:
    """The sentence's embedding, `(hidden_size,)` float32."""
    from hf_repgeo.sparse_vae import embed_sentences

    loaded = load_model(model)
    _check_length(sentence, loaded)
    return embed_sentences([sentence], loaded.model, loaded.tokenizer, pooling=pooling).rows[0]


def _check_length(sentence: str, loaded: Loaded) -> None:
    tokens, limit = len(loaded.tokenizer(sentence)["input_ids"]), window_limit(loaded.model, loaded.tokenizer)
    if limit and tokens > limit:
        raise BadInput("sentence", came=f"{tokens} tokens", wanted=f"at most {limit}, the model's limit")


def sparse_for(model: str, pooling: str) -> SparseVAEForSentenceEmbedding | None:
    """The packaged sparse VAE, if it was trained on embeddings of this model and pooling.

    Any other embedding of 768 numbers would give latents too, and they would mean nothing.
    """
    if model != SPARSE_ENCODER:
        return None
    from hf_repgeo.sparse_vae import SparseVAEForSentenceEmbedding, example_checkpoint

    sparse = SparseVAEForSentenceEmbedding.from_pretrained(example_checkpoint()).eval()
    return sparse if sparse.config.pooling == pooling else None


def array_shape(d: int) -> tuple[int, int]:
    """Rows and columns of a nearly square array of d numbers, no fewer rows than columns.

    Example:
        >>> array_shape(384), array_shape(768)
        ((24, 16), (32, 24))
    """
    columns = next(c for c in range(isqrt(d), 0, -1) if d % c == 0)
    return d // columns, columns


def story(seen: Embedded) -> str:
    """What is shown, in words, as Markdown."""
    rows, columns = seen.shape
    where = "the first token's state" if seen.pooling == "cls" else "the mean of all tokens' states"
    low, high = float(seen.row.min()), float(seen.row.max())
    told = (
        f"**{len(seen.row)} numbers** from {low:.3g} to {high:.3g}, {where} in the last layer of `{seen.model}`,"
        f" written line by line into {rows} x {columns} cells. Neighbours in the array are neighbours in the vector,"
        " no more."
    )
    if seen.sparse is None:
        return f"{told}\n\nRegions and latents are left out: the packaged sparse VAE knows {_TRAINED_ON}."
    return f"{told}\n\n{_CAUTION}"


_TRAINED_ON = f"only embeddings of `{SPARSE_ENCODER}` pooled as `cls`"
_CAUTION = (
    "Frames are the regions that the sparse VAE's kernels see; bars are its latents. It was trained on sentences of a"
    " small grammar and shows how such a model works. It is **no evidence** of where language lies in an embedding."
)


# --- pictures -------------------------------------------------------------------------------------------------------


def array_figure(seen: Embedded) -> Figure:
    """The embedding as a heat map, with the sparse VAE's regions as numbered frames where there is one."""
    from matplotlib.figure import Figure

    rows, columns = seen.shape
    figure = Figure(figsize=(4.4, 3.8 * min(rows / columns, 3) + 1.3), layout="constrained")
    axis = figure.subplots()
    limit = float(seen.row.abs().quantile(0.99)) or 1.0  # one huge coordinate would leave all others pale
    picture = axis.imshow(seen.row.view(seen.shape).numpy(), cmap="coolwarm", vmin=-limit, vmax=limit)
    figure.colorbar(picture, ax=axis, location="bottom", shrink=0.8, aspect=30, extend="both", label="value")
    for number, (top, left, height, width) in enumerate(regions(seen)):
        _frame(axis, number, top, left, height, width)
    axis.set_xlabel("column")
    axis.set_ylabel("row")
    for side in (axis.xaxis, axis.yaxis):
        side.get_major_locator().set_params(integer=True)
    figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)  # inches; the page cuts figures close
    return figure


def regions(seen: Embedded) -> list[tuple[int, int, int, int]]:
    """Top, left, height and width of every region of the sparse VAE in the array."""
    if seen.sparse is None:
        return []
    from hf_repgeo.sparse_vae import receptive_fields

    cells = [field.nonzero() for field in receptive_fields(seen.sparse.config)]
    corners = [(*c.min(0).values.tolist(), *c.max(0).values.tolist()) for c in cells]
    return [(top, left, bottom - top + 1, right - left + 1) for top, left, bottom, right in corners]


def _frame(axis, number: int, top: int, left: int, height: int, width: int) -> None:
    from matplotlib.patches import Rectangle

    # half a line inside the cells, so that neighbouring frames do not cover each other
    axis.add_patch(Rectangle((left - 0.4, top - 0.4), width - 0.2, height - 0.2, fill=False, linewidth=1.2))
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0}
    axis.text(left + width / 2 - 0.5, top + height / 2 - 0.5, f"region {number}", ha="center", va="center", bbox=box)


def wiring_figure(sparse: SparseVAEForSentenceEmbedding) -> Figure:
    """How strongly each region feeds each latent: sums of absolute weights, the same for every sentence."""
    from matplotlib.figure import Figure

    from hf_repgeo.sparse_vae import region_to_latent

    weight = region_to_latent(sparse)["weight"]
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.imshow(weight.numpy(), cmap="Blues", aspect="auto")
    for (region, latent), value in zip(torch.cartesian_prod(*map(torch.arange, weight.shape)), weight.flatten()):
        colour = "white" if value > 0.6 * weight.max() else "black"
        axis.text(latent, region, f"{value:.1f}", ha="center", va="center", color=colour)
    axis.set_xticks(range(weight.shape[1]), [f"z{latent}" for latent in range(weight.shape[1])])
    axis.set_yticks(range(weight.shape[0]), [f"region {region}" for region in range(weight.shape[0])])
    axis.set_title("Weights from regions to latents", fontsize="medium")
    return figure
