"""Points inside a block: what attention and MLP add, heads, queries; the sums that a pre-norm block obeys."""

import pytest
import torch
from tiny import seeded

import hf_repgeo
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.rows.forward import Place, forward_windows
from hf_repgeo.rows.windows import Windows

IDS = torch.randint(4, 24, (3, 11), generator=torch.Generator().manual_seed(0)).tolist()
WINDOWS = Windows(IDS, [[0] * 11] * 3)


def read(model, *points):
    [(_, found)] = forward_windows(model, WINDOWS, None, "applied", 8, None, points=list(points))
    return found


def gpt2():
    from transformers import GPT2Config, GPT2Model

    return seeded(GPT2Model, GPT2Config(vocab_size=24, n_embd=32, n_layer=2, n_head=2, n_positions=64))


def experts():
    """The first block has an ordinary MLP, the second experts and one that all tokens share."""
    from transformers import Qwen2MoeConfig, Qwen2MoeModel

    sizes = {"vocab_size": 24, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    widths = {"intermediate_size": 48, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}
    counts = {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2, "mlp_only_layers": [0]}
    return seeded(Qwen2MoeModel, Qwen2MoeConfig(**sizes, **widths, **counts))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "experts"])
def test_attention_and_mlp_are_what_a_block_adds_to_the_stream(kind, decoder):
    model = {"gpt2": gpt2, "experts": experts}[kind]() if kind != "llama" else decoder
    found = read(model, "residual", "attention", "mlp")
    for layer in (1, 2):
        before, after = found[Place("decoder", layer - 1)], found[Place("decoder", layer)]
        added = found[Place("decoder", layer, "attention")] + found[Place("decoder", layer, "mlp")]
        assert torch.allclose(after - before, added, atol=1e-4)


def test_heads_together_are_what_the_output_projection_mixes(decoder):
    found = read(decoder, "heads", "attention")
    heads = torch.cat([found[Place("decoder", 1, f"head_{head}")] for head in range(2)], -1)
    with torch.no_grad():
        mixed = decoder.layers[0].self_attn.o_proj(heads)
    assert torch.allclose(mixed, found[Place("decoder", 1, "attention")], atol=1e-5)


def test_bert_adds_its_parts_before_its_norms(encoder):
    found = read(encoder, "residual", "attention", "mlp", "queries", "keys", "values")
    block = encoder.encoder.layer[0]
    with torch.no_grad():
        x = found[Place("encoder", 0)]
        middle = block.attention.output.LayerNorm(x + found[Place("encoder", 1, "attention")])
        after = block.output.LayerNorm(middle + found[Place("encoder", 1, "mlp")])
        queries = block.attention.self.query(x)
    assert torch.allclose(after, found[Place("encoder", 1)], atol=1e-5)
    assert torch.allclose(queries, found[Place("encoder", 1, "queries")], atol=1e-5)


def test_both_stacks_of_an_encoder_decoder_have_their_own_attention(encoder_decoder):
    found = read(encoder_decoder, "attention")
    assert {place.stack for place in found} == {"encoder", "decoder"} and len(found) == 4


def test_a_module_is_named_by_its_path_in_the_block(decoder, plain_tokenizer, documents):
    report = hf_repgeo.profile(
        decoder, documents, tokenizer=plain_tokenizer, points=["mlp.gate_proj", "residual"], measures="anisotropy",
        tokens="all", rows=100, batch_rows=50, progress=False,
    )  # fmt: skip
    assert [row["layer"] for row in report.select(point="mlp.gate_proj")] == [1, 2]
    assert report.unique("point") == ["residual", "mlp.gate_proj"] and report.value("anisotropy", layer=1) is not None


def test_points_that_do_not_exist_are_refused_with_those_that_do(decoder, tokenizer, documents):
    with pytest.raises(UnknownName, match=r"unknown point 'attentoin'\. Did you mean 'attention'"):
        read(decoder, "attentoin")
    with pytest.raises(BadInput, match=r"got 'queries', for which the blocks of GPT2Model .* ln_1, .*attn\.c_attn"):
        read(gpt2(), "queries")
    with pytest.raises(BadInput, match="`points`: got .* beside pooling='sentence'; wanted points of single tokens"):
        hf_repgeo.profile(decoder, documents, tokenizer=tokenizer, points="mlp", pooling="sentence", progress=False)
