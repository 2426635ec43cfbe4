"""A sentence's embedding as an array, what the packaged sparse VAE reads from it, and what changes with a region of it.

The VAE was trained on embeddings by the packaged encoder, so every sentence has regions and latents. The embeddings of
some sentences are packaged too, so that the page shows something before a model is loaded.
"""

from __future__ import annotations

from functools import cache, lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import BadInput, UnknownName
from ..rows.models import load_model
from ..rows.windows import window_limit
from .figures import COLOURS, _dress, bars, plotly
from .inputs import PACKAGED_MODEL

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from ..sparse_vae import SparseVAEForSentenceEmbedding

CHECKPOINT = Path(__file__).parents[1] / "data" / "sentence-vae"
KNOWN = CHECKPOINT / "sentences.npz"
MAX_SENTENCE = 500
POOLING = "mean"
EDITS = ("none", "ablate", "swap")


@cache
def sparse_vae() -> SparseVAEForSentenceEmbedding:
    """The packaged sparse VAE for embeddings of the packaged encoder."""
    from ..sparse_vae import SparseVAEForSentenceEmbedding

    return SparseVAEForSentenceEmbedding.from_pretrained(CHECKPOINT).eval()


@cache
def known_sentences() -> dict[str, torch.Tensor]:
    """Sentences with packaged embeddings."""
    with np.load(KNOWN, allow_pickle=False) as file:
        return dict(zip(file["sentences"].tolist(), torch.from_numpy(file["rows"]).float()))


def embedding_of(sentence: str) -> torch.Tensor:
    """A sentence's embedding `(384,)`: a packaged one, or the mean of the encoder's last layer.

    Raises:
        BadInput: no or too long a sentence.
    """
    sentence = sentence.strip()
    if not sentence or len(sentence) > MAX_SENTENCE:
        wanted = f"a sentence of at most {MAX_SENTENCE} characters"
        raise BadInput("sentence", came=f"{len(sentence)} characters", wanted=wanted)
    known = known_sentences()
    return known[sentence] if sentence in known else _embed(sentence)


@lru_cache(maxsize=256)
def _embed(sentence: str) -> torch.Tensor:
    from ..sparse_vae import embed_sentences

    loaded = _encoder()
    tokens, limit = len(loaded.tokenizer(sentence)["input_ids"]), window_limit(loaded.model, loaded.tokenizer)
    if limit and tokens > limit:
        raise BadInput("sentence", came=f"{tokens} tokens", wanted=f"at most {limit}, the model's limit")
    return embed_sentences([sentence], loaded.model, loaded.tokenizer, pooling=POOLING).rows[0]


@cache
def _encoder():
    return load_model(PACKAGED_MODEL)


def latents_of(row: torch.Tensor) -> list[float]:
    """Means of the VAE's latents for an embedding."""
    from ..sparse_vae import latents_of as read

    return read(sparse_vae(), row[None])[0].tolist()


@cache
def latent_scales() -> tuple[float, ...]:
    """Standard deviation of each latent over the packaged sentences."""
    values = torch.tensor([latents_of(row) for row in known_sentences().values()])
    return tuple(values.std(0).tolist())


@cache
def regions() -> torch.Tensor:
    """`(regions, 384)` bool: the cells that each of the VAE's kernels sees."""
    from ..sparse_vae import receptive_fields

    return receptive_fields(sparse_vae().config).flatten(1).bool()


def edited(row: torch.Tensor, region: int, edit: str, other: torch.Tensor) -> torch.Tensor:
    """The embedding with one region ablated (the mean of the packaged sentences) or taken from another sentence.

    Raises:
        UnknownName: another edit, or no such region.

    Example:
        >>> import torch
        >>> from hf_repgeo.gradio_app.sentence import edited, regions
        >>> row, other = torch.zeros(384), torch.ones(384)
        >>> bool((edited(row, 2, "swap", other) == regions()[2]).all())
        True
    """
    if edit not in EDITS:
        raise UnknownName("edit", edit, EDITS)
    if not 0 <= region < len(regions()):
        raise UnknownName("region", str(region), [str(place) for place in range(len(regions()))])
    if edit == "none":
        return row
    values = other if edit == "swap" else torch.stack(list(known_sentences().values())).mean(0)
    return torch.where(regions()[region], values, row)


# --- pictures and words ---------------------------------------------------------------------------------------------


def array_figure(row: torch.Tensor, region: int | None = None) -> Figure:
    """The embedding line by line as a heat map, with the VAE's regions as numbered frames; `region` is marked."""
    rows, columns = sparse_vae().config.shape
    limit = float(row.abs().quantile(0.98)) or 1.0  # one huge coordinate would leave all others pale
    heat = {"z": row.view(rows, columns).tolist(), "zmin": -limit, "zmax": limit, "colorscale": "RdBu"}
    bar = {"title": "value", "thickness": 12}
    hover = "row %{y}, column %{x}: %{z:.3g}<extra></extra>"
    figure = plotly().Figure(plotly().Heatmap(**heat, colorbar=bar, hovertemplate=hover))
    _dress(figure, "row", 400)
    figure.update_yaxes(autorange="reversed", showgrid=False, dtick=4)
    figure.update_xaxes(title="column", showgrid=False, dtick=4)
    for number, cells in enumerate(regions().view(-1, rows, columns)):
        _frame(figure, number, cells.nonzero(), marked=number == region)
    return figure


def _frame(figure: Figure, number: int, cells: torch.Tensor, marked: bool) -> None:
    (top, left), (bottom, right) = cells.min(0).values.tolist(), cells.max(0).values.tolist()
    line = {"color": COLOURS[0] if marked else "#333333", "width": 4 if marked else 1.5}
    # a little inside the cells, so that neighbouring frames do not cover each other
    figure.add_shape(type="rect", x0=left - 0.4, x1=right + 0.4, y0=top - 0.4, y1=bottom + 0.4, line=line)
    # "region" has a light background: the page colours text for its own background
    figure.add_annotation(
        x=left,
        y=top,
        text=f"{number}",
        showarrow=False,
        xanchor="left",
        yanchor="top",
        bgcolor="rgba(128,128,128,0.55)",
    )


def latents_figure(row: torch.Tensor, changed: torch.Tensor, other: torch.Tensor, edit: str) -> Figure:
    """The latents of the sentence, of its edited embedding, and of the other sentence."""
    groups = {"the sentence": latents_of(row)}
    if edit != "none":
        groups["with the region " + ("ablated" if edit == "ablate" else "swapped")] = latents_of(changed)
    if edit == "swap":
        groups["the other sentence"] = latents_of(other)
    return bars(groups, [f"z{place}" for place in range(len(latent_scales()))], "mean of the latent")


def story(row: torch.Tensor, changed: torch.Tensor, region: int, edit: str) -> str:
    """What the edit changed, as a sentence with numbers."""
    size = int(regions()[region].sum())
    if edit == "none":
        return f"**{len(row)} numbers in {len(regions())} regions, read as {len(latent_scales())} latents.**"
    before, after = latents_of(row), latents_of(changed)
    moved = [(b - a) / scale for a, b, scale in zip(before, after, latent_scales())]
    most = max(range(len(moved)), key=lambda place: abs(moved[place]))
    done = "Ablating" if edit == "ablate" else "Swapping"
    if abs(moved[most]) < 0.005:
        return f"**{done} region {region} ({size} numbers) moves no latent.**"
    return (
        f"**{done} region {region} ({size} numbers) moves latent z{most} most, by {moved[most]:+.2f} standard"
        f" deviations** of {len(known_sentences())} sentences; mean over latents {np.mean(np.abs(moved)):.2f}."
    )


def shown(text: str) -> str:
    """A visitor's text for Markdown: nothing in it is read as markup."""
    return escape(text).replace("*", "&#42;").replace("_", "&#95;").replace("`", "&#96;").replace("[", "&#91;")


CODE = """\
from hf_repgeo.gradio_app.sentence import array_figure, edited, embedding_of, latents_figure, latents_of

row = embedding_of({sentence!r})
other = embedding_of({other!r})
changed = edited(row, {region}, {edit!r}, other)
print(latents_of(row), latents_of(changed))
figure, array = latents_figure(row, changed, other, {edit!r}), array_figure(changed, {region})
"""


def sentence_code(sentence: str, other: str, region: int, edit: str) -> str:
    """Python that makes the two figures."""
    return CODE.format(sentence=sentence, other=other, region=region, edit=edit)
