"""Attention to chunks: shares equal those computed by hand, uniform attention gives 1, errors name their cause."""

import copy
import itertools
import json

import pytest
import torch
from transformers import FNetConfig, FNetModel

from hf_repgeo.blm import Sentence, chunk_sentences, complexity_ladder
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.sparse_vae import (
    chunk_attention,
    chunk_spans,
    embed_sentences,
    plot_chunk_attention,
    pooled_states,
    read_by_layer,
)

SUBJECTS = {"s": ["the cat", "the old cat", "a cat"], "p": ["the dog", "the old dog", "a dog"]}
PHRASES = {"s": ["near the house", "under a house"], "p": ["near the river", "under a river"]}


def sentence(pattern: str, row: int) -> Sentence:
    """Singular and plural differ in the nouns only; the verb phrase is the same in both."""
    names = [name.split("-") for name in pattern.split()]
    words = {"np": SUBJECTS, "pp1": PHRASES, "vp": {"s": ["sees old green"], "p": ["sees old green"]}}
    chunks = tuple(words[slot][number][row % len(words[slot][number])] for slot, number in names)
    text = " ".join(chunks)
    return Sentence(f"{text[0].upper()}{text[1:]}.", pattern, row, chunks)


PATTERNS = [f"np-{x} pp1-{y} vp-{x}" for x, y in itertools.product("sp", repeat=2)]
WITH_PHRASE = [sentence(pattern, row) for pattern in PATTERNS for row in range(6)]
SENTENCES = [*WITH_PHRASE, *(sentence(f"np-{x} vp-{x}", row) for x in "sp" for row in range(6))]


@pytest.fixture(scope="module")
def found(encoder, tokenizer):
    return chunk_attention(SENTENCES, encoder, tokenizer, batch_size=5)


def by_hand(model, tokenizer, one: Sentence, at: int) -> torch.Tensor:
    """`(layers, tokens)` mean over heads of what the token `at` attends to."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        layers = model(**tokenizer(one.text, return_tensors="pt"), output_attentions=True).attentions
    return torch.stack([layer[0, :, at].mean(0) for layer in layers]).double()


def test_one_sentence_of_an_encoder_is_right_by_hand(encoder, tokenizer):
    one = sentence("np-s pp1-s vp-s", 1)
    assert one.text == "The old cat under a house sees old green."
    tokens = ["pooled", *["np"] * 3, *["pp1"] * 3, *["vp"] * 3, "rest", "special"]
    given = chunk_attention([one], encoder, tokenizer)
    assert given.kinds == ["pooled", "special", "np", "pp1", "vp", "rest"] and given.pooled == "first"
    rows = by_hand(encoder, tokenizer, one, 0)
    for column, kind in enumerate(given.kinds):
        places = [i for i, token in enumerate(tokens) if token == kind]
        assert torch.allclose(given.mean[:, column], rows[:, places].sum(-1))
        assert float(given.share[column]) == pytest.approx(len(places) / 12)
        assert torch.allclose(given.relative[:, column], rows[:, places].mean(-1) * 12)


def test_one_sentence_of_a_decoder_is_seen_from_its_last_token(decoder, plain_tokenizer):
    one = sentence("np-s pp1-s vp-s", 1)
    given = chunk_attention([one], decoder, plain_tokenizer)
    assert given.kinds == ["pooled", "first", "np", "pp1", "vp"] and given.pooled == "last"
    rows = by_hand(decoder, plain_tokenizer, one, -1)
    tokens = ["first", *["np"] * 2, *["pp1"] * 3, *["vp"] * 3, "pooled"]
    for column, kind in enumerate(given.kinds):
        assert torch.allclose(given.mean[:, column], rows[:, [i for i, t in enumerate(tokens) if t == kind]].sum(-1))


def test_shares_sum_to_one_and_means_are_those_of_single_sentences(found, encoder, tokenizer):
    assert torch.allclose(found.mean.sum(-1), torch.ones(2, dtype=torch.float64)) and found.layers == [1, 2]
    assert float(found.share.sum()) == pytest.approx(1) and found.sentences == [36, 36, 36, 24, 36, 36]
    assert torch.allclose(found.heads.mean(1), found.mean) and found.heads.shape == (2, 2, 6)
    alone = torch.stack([chunk_attention([one], encoder, tokenizer).mean[:, 2] for one in SENTENCES])
    assert torch.allclose(found.mean[:, 2], alone.mean(0), atol=1e-7)
    assert torch.allclose(found.standard_error[:, 2], alone.std(0) / 6, atol=1e-7)


def test_the_error_of_a_multiple_is_that_of_repeated_draws(encoder, tokenizer):
    """The bootstrap, the slow way, of `mean / share` for a chunk that some sentences do not have."""
    chosen = SENTENCES * 3
    given = chunk_attention(chosen, encoder, tokenizer)
    single = [chunk_attention([one], encoder, tokenizer) for one in SENTENCES]
    places = [one.kinds.index("pp1") if "pp1" in one.kinds else None for one in single]
    mean = torch.tensor([0.0 if at is None else float(one.mean[1, at]) for one, at in zip(single, places)] * 3)
    share = torch.tensor([0.0 if at is None else float(one.share[at]) for one, at in zip(single, places)] * 3)
    draws = torch.randint(len(chosen), (2000, len(chosen)), generator=torch.Generator().manual_seed(0))
    spread = (mean[draws].mean(1) / share[draws].mean(1)).std()
    assert float(given.relative_error[1, given.kinds.index("pp1")]) == pytest.approx(float(spread), rel=0.1)


@pytest.fixture(scope="module")
def even(encoder):
    """Queries of zero make all scores equal."""
    even = copy.deepcopy(encoder)
    for layer in even.encoder.layer:
        torch.nn.init.zeros_(layer.attention.self.query.weight)
        torch.nn.init.zeros_(layer.attention.self.query.bias)
    return even


def test_uniform_attention_gives_every_chunk_a_ratio_of_one(even, tokenizer):
    """Every token gets the same attention, however long its chunk."""
    given = chunk_attention(SENTENCES, even, tokenizer)
    assert torch.allclose(given.relative, torch.ones_like(given.relative))
    names, among = given.among_chunks()
    assert names == ["np", "pp1", "vp"] and torch.allclose(among, torch.ones_like(among))
    assert float(given.relative_error.max()) < 1e-6 and not torch.allclose(given.mean, given.mean[:, :1])


def test_attention_among_chunks_is_proportional_to_that_per_token_and_averages_one(found):
    names, among = found.among_chunks()
    per_token = found.mean[:, 2:5] / found.share[2:5]
    assert torch.allclose(among / among[:, :1], per_token / per_token[:, :1])
    weight = found.share[2:5] / found.share[2:5].sum()
    assert torch.allclose((among * weight).sum(-1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("language", ["en", "fr", "it"])
def test_chunks_are_found_in_every_sentence_of_the_ladder(language):
    for rung in complexity_ladder(language).values():
        for one in rung:
            pieces = [one.text[start:end] for start, end in chunk_spans(one)]
            assert pieces[1:] == list(one.chunks[1:]) and pieces[0][1:] == one.chunks[0][1:]
            assert " ".join(pieces) + "." == one.text


def test_the_attention_implementation_is_restored_afterwards(encoder, tokenizer):
    model = copy.deepcopy(encoder)
    assert model.config._attn_implementation == "sdpa"
    chunk_attention(SENTENCES[:2], model, tokenizer)
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(BadInput):
        chunk_attention([Sentence("No such words.", "np-s vp-s", 1, ("the cat", "sees"))], model, tokenizer)
    assert model.config._attn_implementation == "sdpa"


# ---- the pooled token, layer by layer


def test_pooled_states_of_an_encoder_are_its_embeddings(encoder, tokenizer):
    states = pooled_states(SENTENCES, encoder, tokenizer, batch_size=4)
    texts = [one.text for one in SENTENCES]
    for layer, rows in enumerate(states):
        table = embed_sentences(texts, encoder, tokenizer, layer=layer)
        assert torch.allclose(rows, table.of(texts), atol=1e-5)


def test_pooled_states_of_a_decoder_are_its_last_tokens(decoder, plain_tokenizer):
    with torch.no_grad():
        output = decoder(**plain_tokenizer(SENTENCES[3].text, return_tensors="pt"), output_hidden_states=True)
    states = pooled_states(SENTENCES, decoder, plain_tokenizer)
    assert torch.allclose(states[:, 3], torch.stack([layer[0, -1] for layer in output.hidden_states]), atol=1e-5)


def test_numbers_are_read_above_the_embeddings_and_not_in_them(even, tokenizer):
    """[CLS] is the same in every sentence until it has attended to something: here, to the words for number."""
    results = read_by_layer(WITH_PHRASE, even, tokenizer, test_rows=[3, 4, 5], properties=("pp1",))["pp1"]
    assert [one.accuracy for one in results] == [0.5, 1.0, 1.0]
    assert all(one.control_accuracy < 1.0 for one in results)


def test_bad_properties_and_rows_are_named(encoder, tokenizer):
    with pytest.raises(UnknownName, match="unknown property 'pp2'. Did you mean 'pp1'"):
        read_by_layer(WITH_PHRASE, encoder, tokenizer, test_rows=[3], properties=["pp2"])
    with pytest.raises(BadInput, match="`test_rows`: got 0 rows"):
        read_by_layer(WITH_PHRASE, encoder, tokenizer, test_rows=[], properties=["pp1"])


# ---- what cannot be used


def test_unusable_models_are_named(encoder_decoder, tokenizer):
    with pytest.raises(BadInput, match=r"got a T5Model; wanted an encoder or a decoder. Pass one half"):
        chunk_attention(SENTENCES, encoder_decoder, tokenizer)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48, "vocab_size": 24}
    with pytest.raises(BadInput, match="`model`: got a FNetModel.*no attentions"):
        chunk_attention(SENTENCES, FNetModel(FNetConfig(**sizes, max_position_embeddings=64)), tokenizer)


def test_unusable_tokenizers_are_named(encoder):
    class SlowTokenizer:
        is_fast = False

        def __call__(self, texts): ...

    with pytest.raises(
        BadInput, match="`tokenizer`: got a SlowTokenizer, which does not tell.*wanted a fast tokenizer"
    ):
        chunk_attention(SENTENCES, encoder, SlowTokenizer())


def test_unusable_sentences_are_named(encoder, tokenizer):
    with pytest.raises(BadInput, match="`sentences`: got none"):
        chunk_attention([], encoder, tokenizer)
    with pytest.raises(BadInput, match="one of 102 tokens; wanted at most 64"):
        chunk_attention([Sentence("cat " * 100, "np-s", 1, ("cat",))], encoder, tokenizer)
    swapped = Sentence("Sees the cat.", "np-s vp-s", 1, ("the cat", "sees"))
    short = Sentence("The cat sees.", "np-s pp1-s vp-s", 1, ("the cat", "sees"))
    for one in (swapped, short):
        with pytest.raises(BadInput, match=f"`sentences`: got '{one.text}' with the chunks .* made of its chunks"):
            chunk_attention([SENTENCES[0], one], encoder, tokenizer)


# ---- reports and figures


def test_attention_converts_to_plain_values_and_a_figure(found, encoder, tokenizer):
    told = json.loads(json.dumps(found.as_dict()))
    assert told["kinds"] == found.kinds and len(told["heads"][0]) == 2
    reading = read_by_layer(WITH_PHRASE, encoder, tokenizer, test_rows=[3, 4, 5], properties=("subject",))
    everything, among, read, _ = plot_chunk_attention(found, reading).axes
    assert [text.get_text() for text in everything.texts] == [f"{v:.2g}" for v in found.relative.flatten().tolist()]
    assert [label.get_text().split("\n")[0] for label in among.get_xticklabels()] == ["np", "pp1", "vp"]
    assert list(read.get_lines()[0].get_xdata()) == [one.accuracy for one in reading["subject"]]
    assert len(plot_chunk_attention(found).axes) == 3


def test_columns_keep_the_order_of_chunks(encoder, tokenizer):
    assert chunk_attention(chunk_sentences("en")[::32], encoder, tokenizer).kinds == [
        "pooled",
        "special",
        "np",
        "pp1",
        "pp2",
        "vp",
        "rest",
    ]
