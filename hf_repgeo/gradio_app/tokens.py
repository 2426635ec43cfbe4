"""The tokens of a text as a map: one window through a model, every layer's rows in a few principal components.

The picture needs only principal components of a row, so that the maps of two models fit into a small file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import BadInput, UnknownName
from ..measures import PointCloud
from ..measures.cells import unanswerable
from ..measures.diagnostics import MASSIVE_NORM
from ..measures.kernels.quantizers import complete_options
from ..rows.forward import forward_windows
from ..rows.models import load_model
from ..rows.texts import corpus_of, packaged_sample
from ..rows.windows import make_windows, resolve_window, window_limit
from .figures import points

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FOLDER = Path(__file__).parents[1] / "data" / "token-maps"
COMPONENTS = 10
CONTEXT = 5  # tokens shown on either side
COLOURS = {"position": "Viridis", "token": "Rainbow", "norm": "Cividis", "cell": "Rainbow"}
CELLS: dict[str, Any] = {"codebooks": 1, "bits": 3}  # one codebook of eight cells


@dataclass(frozen=True)
class TokenMap:
    """The tokens of one window in every layer of a model.

    Attributes:
        model: its name.
        words: the tokens as text.
        ids: `(n,)` their numbers.
        rows: `(layers, n, COMPONENTS)` principal components of the rows of each layer, float16.
        shares: `(layers, COMPONENTS)` share of the variance along each.
        norms: `(layers, n)` of the rows themselves.
        cells: `(layers, n)` cell of a quantizer with eight cells, or -1.
        copies: `(layers, n)` whether another row is equal to it.
    """

    model: str
    words: np.ndarray
    ids: np.ndarray
    rows: np.ndarray
    shares: np.ndarray
    norms: np.ndarray
    cells: np.ndarray
    copies: np.ndarray

    def sinks(self, layer: int) -> np.ndarray:
        """`(n,)` whether a token's norm exceeds five times the median of the layer."""
        return self.norms[layer] > MASSIVE_NORM * np.median(self.norms[layer])

    def save(self, path: Path) -> None:
        """Writes an `.npz` file that `packaged_map` reads."""
        np.savez_compressed(path, **vars(self))


@cache
def packaged_map(name: str) -> TokenMap:
    """The packaged map of a model, by the name of its file."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
        columns = {key: file[key] for key in file if key != "model"}
        return TokenMap(str(file["model"]), **columns)


def packaged_names() -> list[str]:
    """Models with a packaged map."""
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


def token_map(model, text: str = "", tokens: int = 512, revision: str | None = None) -> TokenMap:
    """The tokens of a text's first window in every layer of a model.

    Args:
        model: Hub id, folder, `pip:PACKAGE`, or a model that `hf_repgeo.profile` takes.
        text: empty: the packaged sample of Wikipedia.
        tokens: the largest number of tokens, special ones included.
        revision: branch, tag or commit on the Hub.

    Raises:
        BadInput: fewer than 16 tokens.
    """
    loaded = load_model(model, revision=revision)
    limit = min(tokens, resolve_window(None, window_limit(loaded.model, loaded.tokenizer)))
    corpus = corpus_of([text], "none", None) if text.strip() else packaged_sample()
    windows = make_windows(loaded.tokenizer, corpus.texts(loaded.tokenizer), limit, "concatenate", corpus.separator)
    window = windows.select([0])
    if len(window.ids[0]) < 16:
        raise BadInput("text", came=f"{len(window.ids[0])} tokens", wanted="at least 16")
    with torch.no_grad():
        (_, states), *_ = forward_windows(loaded.model, window, None, "raw", 1, None)
    last = {stack: max(layer for s, layer, *_ in states if s == stack) for stack, *_ in states}
    stack = max(last, key=lambda name: last[name])
    layers = [rows for (s, *_), rows in sorted(states.items(), key=lambda pair: pair[0][1]) if s == stack]
    columns = [_layer(rows.double()) for rows in layers]
    ids = np.array(window.ids[0])
    words = np.array([loaded.tokenizer.decode([i]) for i in ids])
    name = str(loaded.source["model"])
    return TokenMap(name, words, ids, *(np.stack(column) for column in zip(*columns)))


def _layer(rows: torch.Tensor) -> tuple:
    """Components, their shares, norms, cells and copies of one layer's rows `(n, d)`."""
    cloud = PointCloud(rows)
    centred = rows - rows.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    kept = min(COMPONENTS, len(s))
    places = torch.zeros(len(rows), COMPONENTS, dtype=torch.float64)
    places[:, :kept] = (u * s)[:, :kept]
    scale = places.abs().max().clamp_min(1e-12)  # float16 ends at 65504; only proportions are drawn
    shares = np.zeros(COMPONENTS, np.float32)
    shares[:kept] = (s.square() / s.square().sum().clamp_min(1e-30))[:kept].float().numpy()
    _, owner, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    norms = rows.norm(dim=1).float().numpy()
    return (places / scale).half().numpy(), shares, norms, _cells(cloud), (counts[owner] > 1).numpy()


def _cells(cloud: PointCloud) -> np.ndarray:
    options = complete_options(cloud.d, **CELLS)
    if unanswerable(cloud, options):
        return np.full(cloud.n, -1, np.int8)
    return cloud.codes(**options).codes[:, 0].numpy().astype(np.int8)


# --- the picture ----------------------------------------------------------------------------------------------------


def map_figure(
    seen: TokenMap,
    layer: int = -1,
    *,
    dimensions: int = 2,
    method: str = "pca",
    colour: str = "position",
    sinks: bool = True,
) -> Figure:
    """A layer's tokens as points; pointing at one shows it in its context. Sinks are crosses, copies hollow.

    Args:
        seen: from `token_map` or `packaged_map`.
        layer: 0 is what enters block 1, i what leaves block i, -1 the last.
        dimensions: 2 or 3.
        method: `"pca"`, or `"tsne"` of the ten leading components.
        colour: `"position"`, `"token"`, `"norm"` or `"cell"`.
        sinks: whether tokens of huge norm are drawn; without them, components are those of the others.

    Raises:
        UnknownName: another method or colour, or a layer that is not there.

    Example:
        >>> from hf_repgeo.gradio_app.tokens import map_figure, packaged_map
        >>> len(map_figure(packaged_map("all-MiniLM-L6-v2"), 3).data[0].x)
        256
    """
    layer = _checked(seen, layer, method, colour)
    kept = np.flatnonzero(np.ones(len(seen.ids), bool) if sinks else ~seen.sinks(layer))
    rows = seen.rows[layer][kept].astype(np.float64)
    places, titles = _tsne(rows, dimensions) if method == "tsne" else _pca(seen, layer, rows, dimensions)
    values = {
        "position": np.arange(len(seen.ids)),
        "token": seen.ids % 97,  # a colour for each token, not an order
        "norm": np.log10(seen.norms[layer].clip(1e-12)),
        "cell": seen.cells[layer],
    }[colour]
    unit = {"position": "position", "norm": "log10 norm"}.get(colour)
    symbols = _symbols(seen, layer)
    return points(
        places.tolist(),
        [context_of(seen, int(place), layer) for place in kept],
        values[kept].tolist(),
        [symbols[place] for place in kept],
        unit=unit,
        colorscale=COLOURS[colour],
        titles=titles,
    )


def _checked(seen: TokenMap, layer: int, method: str, colour: str) -> int:
    for what, given, known in (("method", method, ("pca", "tsne")), ("colour", colour, tuple(COLOURS))):
        if given not in known:
            raise UnknownName(what, given, known)
    count = len(seen.rows)
    if not -count <= layer < count:
        raise UnknownName("layer", str(layer), [str(place) for place in range(count)])
    return layer % count


def _pca(seen: TokenMap, layer: int, rows: np.ndarray, dimensions: int) -> tuple[np.ndarray, list[str]]:
    whole = len(rows) == len(seen.ids)
    if whole:
        places, shares = rows[:, :dimensions], seen.shares[layer]
    else:
        u, s, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
        places, shares = (u * s)[:, :dimensions], s**2 / (s**2).sum()
    return places, [f"component {i + 1}: {shares[i]:.0%}" for i in range(dimensions)]


def _tsne(rows: np.ndarray, dimensions: int) -> tuple[np.ndarray, list[str]]:
    from sklearn.manifold import TSNE

    perplexity = min(30, (len(rows) - 1) / 3)
    places = TSNE(dimensions, perplexity=perplexity, init="pca", random_state=0).fit_transform(rows)
    return places, [f"t-SNE {i + 1}" for i in range(dimensions)]


def _symbols(seen: TokenMap, layer: int) -> list[str]:
    sinks = seen.sinks(layer)
    return ["x" if sink else "circle-open" if copy else "circle" for sink, copy in zip(sinks, seen.copies[layer])]


def context_of(seen: TokenMap, place: int, layer: int) -> str:
    """A token in bold between its neighbours, its position and norm, as HTML."""
    before, after = seen.words[max(0, place - CONTEXT) : place], seen.words[place + 1 : place + 1 + CONTEXT]
    join = [escape(" ".join(map(str, part))) for part in (before, after)]
    norm = seen.norms[layer][place]
    kind = ", sink" if seen.sinks(layer)[place] else ", copy" if seen.copies[layer][place] else ""
    shown = escape(repr(str(seen.words[place])))
    return f"...{join[0]} <b>{shown}</b> {join[1]}...<br>position {place}, norm {norm:.3g}{kind}"


def map_words(seen: TokenMap, layer: int) -> str:
    """What the map shows, in a sentence with its numbers."""
    layer %= len(seen.rows)
    sinks, copies = int(seen.sinks(layer).sum()), int(seen.copies[layer].sum())
    first = seen.shares[layer][0]
    told = f"Layer {layer}: {len(seen.ids)} tokens; with all of them, one direction holds {first:.0%} of the variance; "
    told += f"{sinks} sink{'s' * (sinks != 1)} (crosses)"
    if sinks:
        plain = str.maketrans("`|", "' ")  # a token must not end the code that it is shown as
        named = [f"`{repr(str(seen.words[i])).translate(plain)}` at {i}" for i in np.flatnonzero(seen.sinks(layer))[:4]]
        told += f": {', '.join(named)}"
    return told + f"; {copies} copies of other rows (hollow)."


CODE = """\
from hf_repgeo.gradio_app.tokens import map_figure, {loader}

figure = map_figure({call}, {layer}, {choice})
"""


def map_code(model: str, text: str | None, layer: int, **choice) -> str:
    """Python that draws the map: of a packaged one (`text=None`), or of a model on a text."""
    call = f"packaged_map({model!r})" if text is None else f"token_map({model!r}, {text!r})"
    chosen = ", ".join(f"{key}={value!r}" for key, value in choice.items())
    return CODE.format(loader=call.split("(")[0], call=call, layer=layer, choice=chosen)
