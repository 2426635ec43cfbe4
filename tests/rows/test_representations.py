"""Windows, token policies and the forward pass: the right rows, the same in every layer."""

import pytest
import torch

from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.rows.forward import Place, forward_windows
from hf_repgeo.rows.representations import (
    check_policies,
    pooled_representations,
    token_representations,
    windows_for,
)
from hf_repgeo.rows.windows import SHORTEST, Windows, draw_windows, make_windows, resolve_window, window_limit

POLICIES = ["all", "no_special", "sink_robust", "one_per_type"]


@pytest.fixture(scope="module")
def windows(tokenizer, documents):
    return make_windows(tokenizer, documents, 32)


def collect(model, tokenizer, windows, **options):
    return token_representations(model, tokenizer, windows, **{"policies": POLICIES, "rows": 200} | options)


# --- windows --------------------------------------------------------------------------------------------------------


def test_concatenated_windows_hold_every_token_once_between_special_ones(tokenizer, documents, windows):
    plain = [i for ids in tokenizer(documents, add_special_tokens=False)["input_ids"] for i in ids]
    assert [i for ids in windows.ids for i in ids[1:-1]] == plain
    assert all(ids[0] == 2 and ids[-1] == 3 and len(ids) == 32 for ids in windows.ids[:-1])
    assert [len(ids) for ids in windows.ids] == [len(owners) for owners in windows.documents]


def test_document_windows_never_mix_documents(tokenizer, documents):
    windows = make_windows(tokenizer, documents, 32, pack="documents")
    assert all(len(set(owners)) == 1 for owners in windows.documents)
    assert len(windows) == 2 * len(documents)  # 60 words, 30 a window


def test_windows_are_drawn_whole_and_by_the_seed(windows):
    drawn = draw_windows(windows, 5, tokens=300)
    assert len(drawn) == 10 and all(ids in windows.ids for ids in drawn.ids)
    assert drawn == draw_windows(windows, 5, tokens=300) and drawn != draw_windows(windows, 6, tokens=300)
    assert len(draw_windows(windows, 5, count=7)) == 7
    assert draw_windows(windows, 5, tokens=10**9) == windows


@pytest.mark.parametrize("rows", [300, 500, 640])
def test_the_last_window_is_cut_so_that_hardly_more_tokens_run_than_rows_are_wanted(tokenizer, documents, rows):
    windows = make_windows(tokenizer, documents, 128).select(list(range(19)))  # all but the text's short end
    drawn = windows_for(windows, tokenizer, ["all", "no_special"], rows, 1, seed=2)
    *full, last = drawn.ids
    spare = sum(len(ids) - 2 for ids in drawn.ids) - rows
    assert spare == 0 or 0 < spare < SHORTEST == len(last) - 1
    assert len(full) == rows // 126 and all(ids in windows.ids for ids in full)
    assert any(last == ids[: len(last) - 1] + ids[-1:] for ids in windows.ids) and len(drawn.documents[-1]) == len(last)


def test_a_far_shorter_last_window_runs_alone_and_its_rows_are_the_same(encoder, windows):
    ids, documents = windows.ids[:3], windows.documents[:3]
    short = Windows([*ids[:2], ids[2][:12]], [*documents[:2], documents[2][:12]])
    found = list(forward_windows(encoder, short, [-1], "raw", 8, None))
    assert [len(positions) for positions, _ in found] == [64, 12]
    (_, padded), *_ = forward_windows(encoder, Windows(short.ids[::-1], short.documents[::-1]), [-1], "raw", 8, None)
    [alone], [beside] = found[1][1].values(), padded.values()
    assert torch.allclose(alone, beside[:12], atol=1e-5)


def test_every_document_gives_a_window_before_any_gives_a_second(tokenizer, documents):
    windows = make_windows(tokenizer, documents, 12, pack="documents")  # six windows per document
    for count in (7, 40):
        drawn = draw_windows(windows, 3, count=count)
        assert len({owners[0] for owners in drawn.documents}) == count
    twice = [owners[0] for owners in draw_windows(windows, 3, count=80).documents]
    assert sorted(twice) == sorted([*range(40), *range(40)])


def test_the_window_is_the_models_limit_or_512(encoder, tokenizer):
    assert window_limit(encoder, tokenizer) == 64
    assert resolve_window(None, 64) == 64 and resolve_window(None, 4096) == 512 and resolve_window(20, None) == 20
    for bad in (2, 65):
        with pytest.raises(BadInput, match=f"`window`: got {bad}; wanted 4 to 64 tokens"):
            resolve_window(bad, 64)


def test_a_text_without_tokens_is_refused(plain_tokenizer):
    with pytest.raises(BadInput, match="hold no token"):
        make_windows(plain_tokenizer, ["  "], 32)
    with pytest.raises(UnknownName, match="unknown pack 'both'"):
        make_windows(plain_tokenizer, ["a"], 32, pack="both")


# --- token policies -------------------------------------------------------------------------------------------------


def test_each_policy_takes_what_it_says(encoder, tokenizer, windows):
    found = collect(encoder, tokenizer, windows)
    ids = {policy: found.token_ids[positions] for policy, positions in found.policies.items()}
    assert len(ids["all"]) == 200 and set(ids["all"].tolist()) & {2, 3}
    assert len(ids["no_special"]) == 200 and not set(ids["no_special"].tolist()) & {2, 3}
    assert sorted(ids["one_per_type"].tolist()) == sorted({i for window in windows.ids for i in window})
    for positions in found.policies.values():
        assert len(torch.unique(positions)) == len(positions)


def test_rows_are_the_models_own_states_of_those_tokens(decoder, plain_tokenizer, documents):
    windows = make_windows(plain_tokenizer, documents, 32)
    found = collect(decoder, plain_tokenizer, windows, policies=["all"], rows=10**6)
    with torch.no_grad():
        expected = [decoder(torch.tensor([ids]), output_hidden_states=True).hidden_states for ids in windows.ids]
    for layer in range(3):
        place = Place("decoder", layer) if layer < 2 else Place("decoder", 2, "final_norm")
        rows = torch.cat([states[layer][0] for states in expected])
        assert torch.allclose(found.states[place], rows, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_padding_never_counts(encoder, tokenizer, documents, side, batch_size):
    """Windows of many lengths, any batch size, any padding side of the tokenizer: the rows of the text alone."""
    texts = [text[: 15 + 9 * i] for i, text in enumerate(documents[:20])]
    windows = make_windows(tokenizer, texts, 64, pack="documents")
    tokenizer.padding_side = side
    found = collect(encoder, tokenizer, windows, batch_size=batch_size, policies=["all"], rows=10**6)
    with torch.no_grad():
        alone = [encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0] for ids in windows.ids]
    assert torch.allclose(found.states[Place("encoder", 2)], torch.cat(alone), atol=1e-5)
    assert 0 not in found.token_ids


def test_massive_tokens_of_any_layer_are_left_out_of_every_layer(decoder, plain_tokenizer, documents):
    """A planted sink: wherever the token `the` stands, the first layer adds a vector 1000 times longer than usual."""
    windows = make_windows(plain_tokenizer, documents, 32)
    the = plain_tokenizer.convert_tokens_to_ids("the")
    with torch.no_grad():
        usual = decoder.embed_tokens.weight[the].clone()
        decoder.embed_tokens.weight[the] *= 1000
        try:
            found = collect(decoder, plain_tokenizer, windows)
        finally:
            decoder.embed_tokens.weight[the] = usual
    robust = found.token_ids[found.policies["sink_robust"]]
    assert the not in robust and len(robust) == 200
    assert the in found.token_ids[found.policies["all"]]
    assert found.facts["massive_share"] > 0.02


def test_sink_robust_rows_leave_out_the_first_position(decoder, plain_tokenizer):
    windows = Windows([[5, 6, 7, 8]] * 30, [[0] * 4] * 30)
    found = collect(decoder, plain_tokenizer, windows, rows=1000)
    assert 5 in found.token_ids[found.policies["all"]]
    assert 5 not in found.token_ids[found.policies["sink_robust"]]


def test_rows_are_drawn_by_the_seed(encoder, tokenizer, windows):
    first, again, other = (collect(encoder, tokenizer, windows, seed=seed, policies=["all"]) for seed in (0, 0, 1))
    assert torch.equal(first.policies["all"], again.policies["all"])
    assert torch.equal(first.states[Place("encoder", 1)], again.states[Place("encoder", 1)])
    assert not torch.equal(first.token_ids[first.policies["all"]], other.token_ids[other.policies["all"]])


def test_unknown_policies_and_layers_are_refused(encoder, tokenizer, windows):
    with pytest.raises(UnknownName, match="unknown token policy 'no_specials'. Did you mean 'no_special'"):
        check_policies("all,no_specials".split(","))
    with pytest.raises(UnknownName, match=r"unknown layer 3\. Known: 0 \(embeddings\) to 2, -1 to -3"):
        collect(encoder, tokenizer, windows, layers=[0, 3])


# --- models ---------------------------------------------------------------------------------------------------------


def test_negative_layers_count_from_the_end(encoder, tokenizer, windows):
    assert list(collect(encoder, tokenizer, windows, layers=[-1, 0]).states) == [
        Place("encoder", 0),
        Place("encoder", 2),
    ]


def test_both_stacks_of_an_encoder_decoder_are_measured(encoder_decoder, tokenizer, windows):
    found = collect(encoder_decoder, tokenizer, windows)
    stream = [place for place in found.states if place.point == "residual"]
    assert stream == [Place(stack, layer) for stack in ("encoder", "decoder") for layer in range(3)]
    assert set(found.states) - set(stream) == {Place("encoder", 2, "final_norm"), Place("decoder", 2, "final_norm")}


def test_pooled_rows_are_first_tokens_and_means(encoder, tokenizer, documents):
    windows = make_windows(tokenizer, [text[: 20 + i] for i, text in enumerate(documents)], 32, pack="documents")
    with torch.no_grad():
        states = [encoder(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0] for ids in windows.ids]
    for pooling, expected in (("cls", [s[0] for s in states]), ("mean", [s.mean(0) for s in states])):
        found = pooled_representations(encoder, windows, pooling, batch_size=7)
        assert torch.allclose(found.states[Place("encoder", 1)], torch.stack(expected), atol=1e-5)
        assert found.documents.tolist() == [owners[0] for owners in windows.documents]


def test_policies_of_a_decoder_in_an_encoder_decoder_go_by_its_own_tokens(encoder_decoder, tokenizer, windows):
    found = collect(encoder_decoder, tokenizer, windows, layers=[0])
    read = [[0, *ids[:-1]] for ids in windows.ids]  # 0: its start token
    table = encoder_decoder.decoder.embed_tokens.weight
    for stack, inputs in (("encoder", windows.ids), ("decoder", read)):
        place = Place(stack, 0)
        tokens = torch.cdist(found.states[place], table).argmin(1)
        policies = {policy: tokens[rows].tolist() for policy, rows in found.policies_of(place).items()}
        assert set(policies["all"]) & {0, 2, 3}
        for policy in ("no_special", "sink_robust"):
            assert len(policies[policy]) == 200 and not set(policies[policy]) & {0, 2, 3}
        assert sorted(policies["one_per_type"]) == sorted({i for ids in inputs for i in ids})


def test_policies_of_a_decoder_are_kept_with_the_rows(encoder_decoder, tokenizer, windows):
    from hf_repgeo.runs.kept_rows import _named, _restored

    found = collect(encoder_decoder, tokenizer, windows, layers=[0])
    facts = {"places": [list(place) for place in found.states], "policies": list(found.policies)}
    again = _restored(_named(found), facts)
    for policy, rows in found.decoder_policies.items():
        assert torch.equal(again.decoder_policies[policy], rows)


def test_an_unknown_word_is_a_token_like_others_and_a_separator_is_none(encoder, tokenizer):
    windows = make_windows(tokenizer, ["the zebra sees a zebra"] * 8, 32)  # 1 is [UNK], 2 and 3 are [CLS] and [SEP]
    found = token_representations(encoder, tokenizer, windows, policies=["all", "no_special"], rows=200)
    kept = {policy: set(found.token_ids[positions].tolist()) for policy, positions in found.policies.items()}
    assert 1 in kept["no_special"] and kept["all"] - kept["no_special"] == {2, 3}
