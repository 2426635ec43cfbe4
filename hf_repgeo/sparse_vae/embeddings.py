"""Sentence embeddings of any encoder, cached: texts -> rows, once per model commit, layer, pooling and text."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import BadInput, UnknownName
from ..rows.forward import run
from ..rows.models import load_model
from ..rows.token_inputs import padded, text_inputs
from ..rows.windows import window_limit
from ..writing import written_whole
from .configuration_sparse_vae import POOLINGS
from .modeling_sparse_vae import pool

logger = logging.getLogger(__name__)


@dataclass
class EmbeddingTable:
    """Distinct texts and their embeddings.

    Args:
        texts: n distinct strings.
        rows: `(n, hidden_size)` float32.
        source: what made them: model, layer, pooling.
    """

    texts: list[str]
    rows: torch.Tensor
    source: str

    def __post_init__(self):
        self._places = {text: place for place, text in enumerate(self.texts)}
        if len(self._places) != len(self.texts) or len(self.texts) != len(self.rows):
            raise BadInput(
                "texts",
                came=f"{len(self.texts)} texts, {len(self._places)} of them distinct, for {len(self.rows)} rows",
                wanted="one row per distinct text",
            )

    def places(self, texts: Sequence[str]) -> torch.Tensor:
        """Row numbers of texts, int64.

        Raises:
            BadInput: a text that is not in the table.
        """
        unknown = [text for text in texts if text not in self._places]
        if unknown:
            raise BadInput(
                "texts",
                came=f"{len(unknown)} texts without an embedding, such as {unknown[0]!r}",
                wanted=f"texts among the {len(self.texts)} of this table",
                cure="Embed all texts of the data first: `embed_dataset(data, ...)`.",
            )
        return torch.tensor([self._places[text] for text in texts])

    def of(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings of texts, `(len(texts), hidden_size)`."""
        return self.rows[self.places(texts)]


def model_key(model) -> str:
    """The identity of an encoder: its name and commit on the Hub, or a digest of its weights.

    Args:
        model: a `PreTrainedModel`.

    Returns:
        A short string for file names. A commit hash if the model came from the Hub; else 16 hex digits of a SHA-256
        over the names and bytes of all weights (0.5 s per 100 M parameters).
    """
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return f"{Path(model.name_or_path).name}-{commit[:16]}"
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return f"{type(model).__name__}-{digest.hexdigest()[:16]}"


def embed_sentences(
    sentences: Sequence[str],
    model,
    tokenizer=None,
    *,
    layer: int = -1,
    pooling: Literal["cls", "mean", "first-last"] = "cls",
    batch_size: int = 64,
    cache_dir: str | os.PathLike | None = None,
    trust_remote_code: bool = False,
) -> EmbeddingTable:
    """Embed sentences with an encoder, each distinct text once.

    Args:
        sentences: strings; repeats are allowed. Longer ones than the model takes are cut, with a warning in the log.
        model: a Hub id, a folder, `"pip:PACKAGE"`, or a loaded encoder, in any mode: dropout is off while it runs,
            and every module's own mode is put back. Of an encoder-decoder the encoder is used.
        tokenizer: needed only for a loaded encoder that does not say where it came from.
        layer: index into `hidden_states`, 0 the embedding layer, -1 the last.
        pooling: `"cls"`: the first token; `"mean"`: the mean over tokens, special ones included; `"first-last"`: the
            mean over tokens of the average of layers 1 and -1.
        batch_size: texts per forward pass, grouped by length; it changes the time, and the rows only by rounding.
        cache_dir: folder of cached embeddings, one file per model, layer and pooling; new texts are added.
        trust_remote_code: run code from the model's repository.

    Returns:
        An `EmbeddingTable` of the distinct texts in order of first appearance.

    Raises:
        UnknownName: an unknown pooling.
        BadInput: no sentence; no model or tokenizer found; a layer that does not exist; embeddings that are not finite.
    """
    texts = list(dict.fromkeys(sentences))
    if not texts:
        raise BadInput("sentences", came="none", wanted="at least one")
    if pooling not in POOLINGS:
        raise UnknownName("pooling", pooling, POOLINGS)
    if isinstance(layer, bool) or not isinstance(layer, int):
        raise BadInput("layer", came=repr(layer), wanted="an integer")
    loaded = load_model(model, tokenizer=tokenizer, trust_remote_code=trust_remote_code)
    model, tokenizer = loaded.model, loaded.tokenizer
    key = f"{model_key(model)}-layer{layer}-{pooling}"
    store = _Store(Path(cache_dir) / f"{key}.safetensors") if cache_dir is not None else None
    known = store.read() if store else {}
    missing = [text for text in texts if _text_key(text) not in known]
    if missing:
        fresh = _forward(missing, model, tokenizer, layer, pooling, batch_size)
        known.update(zip(map(_text_key, missing), fresh, strict=True))
        if store:
            store.write(known)
    return EmbeddingTable(texts, torch.stack([known[_text_key(text)] for text in texts]), key)


def embed_dataset(data, model, tokenizer=None, **options) -> EmbeddingTable:
    """Embed every text of a data set of `hf_repgeo.blm`.

    Args:
        data: a `Dataset` or `DatasetDict` with `candidates` and `input` or `context`.
        model, tokenizer, **options: as in `embed_sentences`.

    Returns:
        An `EmbeddingTable` of all distinct texts.
    """
    return embed_sentences(dataset_texts(data), model, tokenizer, **options)


def dataset_texts(data) -> list[str]:
    """All distinct texts of a data set, in order of first appearance."""
    texts: dict[str, None] = {}
    for part in data.values() if isinstance(data, dict) else [data]:
        for column in ("input", "context", "candidates"):
            if column in part.column_names:
                for value in part[column]:
                    texts.update(dict.fromkeys([value] if isinstance(value, str) else value))
    return list(texts)


def _text_key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _forward(texts: list[str], model, tokenizer, layer: int, pooling: str, batch_size: int) -> torch.Tensor:
    """`(len(texts), hidden_size)` float32, in the order of `texts`."""
    ids = _token_ids(texts, model, tokenizer)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    rows: list[torch.Tensor] = [torch.empty(0)] * len(texts)
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        tokens, mask = padded([ids[i] for i in batch])
        states = _hidden_states(model, tokens, mask)
        if not -len(states) <= layer < len(states):
            raise BadInput(
                "layer", came=str(layer), wanted=f"{-len(states)} to {len(states) - 1}: {len(states)} hidden states"
            )
        for i, row in zip(batch, pool(states, mask.to(model.device), pooling, layer).float().cpu(), strict=True):
            rows[i] = row
    embeddings = torch.stack(rows)
    bad = (~embeddings.isfinite()).any(-1)
    if bad.any():
        text = texts[int(bad.nonzero()[0])]
        raise BadInput(
            "model", came=f"NaN or infinity for {int(bad.sum())} texts, such as {text!r}", wanted="finite embeddings"
        )
    return embeddings


def _token_ids(texts: list[str], model, tokenizer) -> list[list[int]]:
    """Token ids of each text, cut at the model's limit."""
    limit = window_limit(model, tokenizer)
    cut = {} if limit is None else {"truncation": True, "max_length": limit}
    ids = tokenizer(texts, verbose=False, **cut)["input_ids"]
    empty = next((text for text, one in zip(texts, ids, strict=True) if not one), None)
    if empty is not None:
        raise BadInput("sentences", came=f"{empty[:40]!r}, which holds no token", wanted="texts with words in them")
    long = sum(len(one) == limit for one in ids)
    if long:
        logger.warning(
            "%d of %d texts reach the model's limit of %d tokens; longer ones are cut", long, len(ids), limit
        )
    return ids


def _hidden_states(model, tokens: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`(B, T, hidden_size)` of every layer; of an encoder-decoder, those of its encoder."""
    inputs = text_inputs(model, tokens, mask)
    if model.config.is_encoder_decoder:
        model, inputs = model.get_encoder(), {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return run(model, **inputs, output_hidden_states=True).hidden_states


class _Store:
    """One safetensors file: a matrix of rows, and the hashes of their texts."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[str, torch.Tensor]:
        if not self.path.is_file():
            return {}
        try:
            with safe_open(self.path, "pt") as file:
                hashes, rows = file.get_tensor("text_hashes"), file.get_tensor("rows")
            return {bytes(line).hex(): row for line, row in zip(hashes.numpy(), rows, strict=True)}
        except (OSError, SafetensorError, TypeError, ValueError) as error:
            logger.warning("the cache %s cannot be read (%s): its texts are embedded again", self.path, error)
            return {}

    def write(self, known: dict[str, torch.Tensor]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        hashes = torch.frombuffer(bytearray(bytes.fromhex("".join(known))), dtype=torch.uint8).view(-1, 32)
        with written_whole(self.path) as unfinished:
            save_file({"text_hashes": hashes, "rows": torch.stack(list(known.values()))}, unfinished)
