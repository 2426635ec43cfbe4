"""Embeddings of texts: of every layer and pooling from one forward pass, or as the model's users get them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import BadInput, UnknownName
from ..rows.forward import Place, forward_windows
from ..rows.models import Loaded, load_model
from ..rows.small_files import json_value, utf8_text
from ..rows.windows import Windows, resolve_window, window_limit

POOLINGS = ("mean", "mean_without_sinks", "last", "cls")
MASSIVE = 5.0  # a token is massive when its norm exceeds this many times the median of its text
WINDOW = 256  # tokens of a text that are read
SENTENCE_POOLINGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


@dataclass(frozen=True)
class Embeddings:
    """Rows of texts, and how they were made.

    Attributes:
        rows: `(n, d)` float32.
        place: of the forward pass; `None` where a SentenceTransformer made them.
        pooling: of tokens to a row.
        source: provenance of the model.
    """

    rows: torch.Tensor
    place: Place | None
    pooling: str
    source: dict

    def facts(self) -> dict:
        """For provenance."""
        where = {} if self.place is None else {"layer": self.place.layer, "point": self.place.point}
        return {**self.source, **where, "pooling": self.pooling}


def embed(
    model: Any,
    texts: Sequence[str],
    *,
    layer: int = -1,
    pooling: str | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
) -> Embeddings:
    """One row per text, as the model's users get it.

    Args:
        model: as in `hf_repgeo.profile`, or a SentenceTransformer in memory, whose `encode` is called.
        texts: one row each, cut at 256 tokens or the model's limit.
        layer: 0 is what enters block 1; -1: what leaves the model, after its final norm.
        pooling: `"mean"`, `"mean_without_sinks"`, `"last"` or `"cls"`; default: what the model's folder says for
            sentence-transformers, else `"mean"`.
        tokenizer: of a model in memory.
        batch_size: texts per forward pass.

    Raises:
        BadInput: the model cannot be loaded, or a text has no token.
        UnknownName: a pooling or layer that does not exist.
    """
    if hasattr(model, "encode") and hasattr(model, "prompts"):
        return _encoded(model, texts, layer, pooling, batch_size)
    loaded = model if isinstance(model, Loaded) else load_model(model, tokenizer=tokenizer)
    pooling = pooling or sentence_pooling(loaded.place)
    layers = None if layer == -1 else [layer]
    found = every_pooling(loaded, texts, [pooling], layers, batch_size=batch_size)
    place, _ = list(found)[-1]
    return Embeddings(found[place, pooling], place, pooling, loaded.source)


def _encoded(model: Any, texts: Sequence[str], layer: int, pooling: str | None, batch_size: int) -> Embeddings:
    if layer != -1 or pooling is not None:
        came = f"layer={layer}, pooling={pooling!r} with a SentenceTransformer"
        wanted = "neither: its own modules make the rows"
        raise BadInput("model", came=came, wanted=wanted, cure="Pass the folder of the model instead.")
    rows = model.encode(list(texts), batch_size=batch_size, convert_to_tensor=True, show_progress_bar=False)
    name = getattr(model.model_card_data, "base_model", None) or type(model).__name__
    return Embeddings(rows.detach().float().cpu(), None, "sentence", {"model": name})


def sentence_pooling(folder: str | None) -> str:
    """The pooling that a folder's sentence-transformers configuration names; `"mean"` if it names none that we know."""
    file = Path(folder or "", "1_Pooling", "config.json")
    if folder is None or not file.is_file():
        return "mean"
    settings = json_value(utf8_text(file, "model"), "model", str(file))
    if not isinstance(settings, dict):
        return "mean"
    named = settings.get("pooling_mode")
    chosen = [ours for key, ours in SENTENCE_POOLINGS.items() if settings.get(key)]
    chosen += [{"lasttoken": "last"}.get(named, named)] if isinstance(named, str) else []
    return chosen[0] if len(chosen) == 1 and chosen[0] in POOLINGS else "mean"


def every_pooling(
    loaded: Loaded,
    texts: Sequence[str],
    poolings: Sequence[str] = POOLINGS,
    layers: list[int] | None = None,
    batch_size: int = 32,
) -> dict[tuple[Place, str], torch.Tensor]:
    """Rows of the texts at every place and pooling, `(n, d)` float32 each, from one forward pass.

    Places come in the order of the forward pass, the final norm last.

    Raises:
        BadInput: no text, or one without a token.
        UnknownName: a pooling or layer that does not exist.
    """
    for pooling in poolings:
        if pooling not in POOLINGS:
            raise UnknownName("pooling", pooling, POOLINGS)
    windows, order = _windows(loaded, texts)
    ends = torch.tensor([len(ids) for ids in windows.ids]).cumsum(0)
    take = partial(_pooled, ends, tuple(poolings))
    parts: dict[tuple[Place, str], list[torch.Tensor]] = {}
    for _, found in forward_windows(loaded.model, windows, layers, "applied", batch_size, None, take=take):
        for place, rows in found.items():
            for pooling, pooled in rows.items():
                parts.setdefault((place, pooling), []).append(pooled)
    last = [key for key in parts if key[0].point == "final_norm"]
    keys = [key for key in parts if key not in last] + last
    return {key: torch.cat(parts[key])[order] for key in keys}


def _windows(loaded: Loaded, texts: Sequence[str]) -> tuple[Windows, torch.Tensor]:
    """One window per text, sorted by length so that little is padded, and the place of each text among them."""
    if not texts:
        raise BadInput("texts", came="none", wanted="at least one text")
    limit = min(WINDOW, resolve_window(None, window_limit(loaded.model, loaded.tokenizer)))
    ids = loaded.tokenizer(list(texts), truncation=True, max_length=limit, verbose=False)["input_ids"]
    empty = next((i for i, one in enumerate(ids) if not one), None)
    if empty is not None:
        raise BadInput("texts", came=f"text {empty}, which holds no token", wanted="texts with words in them")
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    windows = Windows([ids[i] for i in order], [[i] * len(ids[i]) for i in order])
    return windows, torch.argsort(torch.tensor(order))


def _pooled(ends: torch.Tensor, poolings: tuple[str, ...], positions: torch.Tensor) -> Callable:
    owner = torch.searchsorted(ends, positions, right=True)
    counts = torch.unique_consecutive(owner, return_counts=True)[1].tolist()

    def pool(_: Place, states: torch.Tensor) -> dict[str, torch.Tensor]:
        texts = states.float().split(counts)
        return {pooling: torch.stack([ROW[pooling](text) for text in texts]).cpu() for pooling in poolings}

    return pool


def _mean_without_sinks(text: torch.Tensor) -> torch.Tensor:
    """The mean over the tokens after the first one that are not massive."""
    rest = text[1:] if len(text) > 1 else text
    norms = rest.norm(dim=1)
    return rest[norms <= MASSIVE * norms.median()].mean(0)


ROW: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda text: text.mean(0),
    "mean_without_sinks": _mean_without_sinks,
    "last": lambda text: text[-1],
    "cls": lambda text: text[0],
}
