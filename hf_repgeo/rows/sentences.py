"""Sentence embeddings of every layer: a SentenceTransformer's own modules over the token states of each place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from ..errors import BadInput
from .capture import Place, copied, read_places
from .devices import input_device
from .forward import places_of
from .passes import undisturbed
from .representations import Representations, joined
from .windows import Windows

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel


def check_sentence_transformer(given: Any) -> SentenceTransformer:
    """The object itself.

    Raises:
        BadInput: not a SentenceTransformer, whose modules would turn a text into one row.
    """
    if not all(hasattr(given, name) for name in ("encode", "preprocess", "prompts")):
        cure = "Pass SentenceTransformer(...), or choose 'cls', 'last' or 'mean'."
        came = f"'sentence' with a {type(given).__name__}"
        raise BadInput("pooling", came=came, wanted="a SentenceTransformer in memory", cure=cure)
    return given


def sentence_facts(transformer: SentenceTransformer) -> dict:
    """What `encode` does beside running its modules, for the report."""
    prompt = _default_prompt(transformer)
    facts = {"prompt": prompt, "max_seq_length": transformer.max_seq_length, "truncate_dim": transformer.truncate_dim}
    return {"sentence": facts}


def sentence_representations(
    transformer: SentenceTransformer,
    model: PreTrainedModel,
    texts: list[str],
    windows: Windows,
    *,
    rows: int,
    layers: list[int] | None = None,
    final_norm: str = "applied",
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[Iterator, int], Iterator] | None = None,
) -> Representations:
    """One row per text, as `encode` makes it: its prompt, its cut at `max_seq_length`, its pooling and what follows.

    The modules after the encoder get the token states of each place in turn. Those of the last place give what
    `encode` gives.

    Args:
        transformer: in any mode; it is left as it was.
        model: the transformers model inside it.
        texts: one row each; if there are more than `rows`, a seeded draw of them.
        windows: tokens to try the model with.
        rows, layers, final_norm, batch_size, seed, progress: as in `token_representations`.
    """
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
    drawn = sorted(order[:rows].tolist())
    taps = places_of(model, windows, layers, final_norm)
    starts = range(0, len(drawn), batch_size)
    parts: dict[Place, list[torch.Tensor]] = {}
    for start in progress(iter(starts), len(starts)) if progress else starts:
        batch = _features(transformer, [texts[i] for i in drawn[start : start + batch_size]], model)
        with undisturbed(transformer), read_places(model, taps, copied) as found:
            features = transformer[0](batch)
            for place, states in found.items():
                parts.setdefault(place, []).append(_embedded(transformer, features, states))
    return Representations(
        states=joined(parts),
        documents=torch.tensor(drawn),
        policies={"sentence": torch.arange(len(drawn))},
        facts={"n_documents": len(drawn)},
    )


def _default_prompt(transformer: SentenceTransformer) -> str | None:
    """What `encode` puts before each text, if anything."""
    name = transformer.default_prompt_name
    return None if name is None else transformer.prompts.get(name)


def _features(transformer: SentenceTransformer, texts: list[str], model: PreTrainedModel) -> dict[str, Any]:
    """What the first module takes; with the prompt that `encode` would put before each text."""
    features = transformer.preprocess(texts, prompt=_default_prompt(transformer))
    device = input_device(model)
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in features.items()}


def _embedded(transformer: SentenceTransformer, features: dict[str, Any], states: torch.Tensor) -> torch.Tensor:
    """`(batch, tokens, hidden_size)` -> `(batch, d)` through every module but the first."""
    features = {**features, "token_embeddings": states}
    for module in list(transformer)[1:]:
        features = module(features)
    return features["sentence_embedding"][:, : transformer.truncate_dim].cpu()
