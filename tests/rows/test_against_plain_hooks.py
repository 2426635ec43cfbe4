"""Rows of well-known families equal those of plain hooks on modules named by hand, text by text without padding.

Nothing here uses the search for blocks: the paths of the blocks and of the final norm are written down.
"""

from dataclasses import dataclass

import pytest
import torch
from tiny import seeded

from hf_repgeo.rows.models import load_model
from hf_repgeo.rows.representations import token_representations
from hf_repgeo.rows.windows import make_windows, resolve_window, window_limit

SIZES = {"hidden_size": 24, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 40, "vocab_size": 24}
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 8}
GPT = {"vocab_size": 24, "n_embd": 24, "n_layer": 4, "n_head": 3}
POSITIONS = {"max_position_embeddings": 48}
BART = {
    **{f"{part}_{what}": 3 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")},
    **{"vocab_size": 24, "d_model": 24, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "decoder_start_token_id": 3},
}
T5 = {"vocab_size": 24, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 3, "num_heads": 3}
T5 |= {"decoder_start_token_id": 0, "pad_token_id": 0}
MAMBA = {"vocab_size": 24, "hidden_size": 24, "num_hidden_layers": 4, "state_size": 8}


@dataclass(frozen=True)
class Family:
    """A model, its stacks as (name, blocks, final norm), and how far `hidden_states` go along with our layers."""

    name: str
    options: dict
    stacks: list[tuple[str, str, str | None]]
    turns: int = 1
    listed: str = "normed"  # "normed": the last entry left the final norm; "plain": it is the last layer


DECODER = [("decoder", "layers", "norm")]
FAMILIES = {
    "post-norm": Family("Bert", SIZES | POSITIONS, [("encoder", "encoder.layer", None)], listed="plain"),
    "offset positions": Family("Roberta", SIZES | POSITIONS, [("encoder", "encoder.layer", None)], listed="plain"),
    "disentangled": Family(
        "DebertaV2",
        SIZES | POSITIONS | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        [("encoder", "encoder.layer", None)],
        listed="plain",
    ),
    "local and global": Family(
        "ModernBert", SIZES | {"local_attention": 4, "pad_token_id": 0}, [("encoder", "layers", "final_norm")]
    ),
    "one block many times": Family(
        "Albert",
        SIZES | POSITIONS | {"embedding_size": 16},
        [("encoder", "encoder.albert_layer_groups", None)],
        turns=4,
        listed="plain",
    ),
    "pre-norm": Family("GPT2", GPT | {"n_positions": 48}, [("decoder", "h", "ln_f")]),
    "parallel attention": Family("GPTJ", GPT | {"rotary_dim": 4, "n_positions": 48}, [("decoder", "h", "ln_f")]),
    "alibi": Family(
        "Bloom", {"vocab_size": 24, "hidden_size": 24, "n_layer": 4, "n_head": 3}, [("decoder", "h", "ln_f")]
    ),
    "rotary, grouped": Family("Llama", GROUPED, DECODER),
    "norms of queries and keys": Family("Qwen3", GROUPED, DECODER),
    "scaled embeddings": Family("Gemma", GROUPED | {"pad_token_id": 0}, DECODER),
    "window and two norms": Family("Gemma2", GROUPED | {"sliding_window": 4, "pad_token_id": 0}, DECODER),
    "sliding window": Family("Mistral", GROUPED | {"sliding_window": 4}, DECODER),
    "experts": Family("Mixtral", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}, DECODER),
    "state space": Family("Mamba", MAMBA, [("decoder", "layers", "norm_f")], listed="none"),
    "recurrence": Family(
        "Rwkv",
        {"vocab_size": 24, "hidden_size": 24, "num_hidden_layers": 4, "attention_hidden_size": 24},
        [("decoder", "blocks", "ln_out")],
        listed="none",
    ),
    "two stacks, post-norm": Family(
        "Bart",
        BART | POSITIONS,
        [("encoder", "encoder.layers", None), ("decoder", "decoder.layers", None)],
        listed="plain",
    ),
    "two stacks, pre-norm": Family(
        "T5",
        T5,
        [
            ("encoder", "encoder.block", "encoder.final_layer_norm"),
            ("decoder", "decoder.block", "decoder.final_layer_norm"),
        ],
    ),
}
TEXTS = ["the", "", "a cat sees the old house near the river", "the dog finds a new green river and a house " * 9]


def make(family, **more):
    import transformers

    config = getattr(transformers, f"{family.name}Config")(**{**family.options, "initializer_range": 0.2, **more})
    return seeded(getattr(transformers, f"{family.name}Model"), config)


def our_rows(model, tokenizer, texts=TEXTS, batch_size=3):
    """Place -> rows of every token, in the order of the windows; and the windows."""
    loaded = load_model(model, tokenizer=tokenizer)
    window = resolve_window(None, window_limit(loaded.model, tokenizer))
    windows = make_windows(tokenizer, texts, window, "documents")
    choice = {"policies": ["all"], "rows": 10_000, "batch_size": batch_size}
    found = token_representations(loaded.model, tokenizer, windows, **choice)
    return {tuple(place): rows for place, rows in found.states.items()}, windows


def plain_rows(model, family, ids):
    """The same places of one text, through hooks on modules named by hand."""
    found, handles = {}, []
    for stack, path, norm in family.stacks:
        blocks = list(model.get_submodule(path))
        seen = found.setdefault(stack, [])

        def enter(module, args, kwargs, seen=seen):
            if not seen:
                seen.append((args[0] if args else kwargs["hidden_states"]).clone())

        def leave(module, args, output, seen=seen):
            seen.append((output[0] if isinstance(output, tuple) else output).clone())

        handles.append(blocks[0].register_forward_pre_hook(enter, with_kwargs=True))
        handles += [block.register_forward_hook(leave) for block in blocks]
        if norm:
            handles.append(model.get_submodule(norm).register_forward_hook(leave))
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.cat([torch.tensor([[model.config.decoder_start_token_id]]), ids[:, :-1]], 1)
    with torch.no_grad():
        output = model(**inputs, use_cache=False, output_hidden_states=True)
    for handle in handles:
        handle.remove()
    return {stack: [state[0] for state in states] for stack, states in found.items()}, output


def listed_rows(output, stack):
    """transformers' own list for a stack."""
    for name in (f"{stack}_hidden_states", "hidden_states"):
        if getattr(output, name, None) is not None:
            return [entry[0] for entry in getattr(output, name)]
    return None


def compare(model, family, tokenizer, texts=TEXTS, tolerance=2e-5):
    found, windows = our_rows(model, tokenizer, texts)
    inner = load_model(model, tokenizer=tokenizer).model
    model.eval()
    of_texts = [plain_rows(inner, family, torch.tensor([ids])) for ids in windows.ids]
    depth = len(list(inner.get_submodule(family.stacks[0][1]))) * family.turns
    places = 0
    for stack, _, norm in family.stacks:
        for layer in range(depth + 1 + bool(norm)):
            place = (stack, layer, "residual") if layer <= depth else (stack, depth, "final_norm")
            expected = torch.cat([states[stack][layer] for states, _ in of_texts])
            torch.testing.assert_close(found[place].float(), expected.float(), rtol=tolerance, atol=tolerance)
            places += 1
        if family.listed != "none" and (entries := listed_rows(of_texts[-1][1], stack)):
            check_listed(entries, of_texts[-1][0][stack], depth, family.listed)
    assert len(found) == places, sorted(found)


def check_listed(entries, states, depth, listed):
    """Entries before the last are our layers; the last one is the last layer, or what the final norm makes of it.

    Which of the two it is differs between releases of transformers: ModernBERT's was not normed in 5.0.
    """
    assert len(entries) == depth + 1
    for entry, state in zip(entries[:-1], states):
        torch.testing.assert_close(entry, state, rtol=1e-5, atol=1e-5)
    ends = states[depth:] if listed == "normed" else states[depth : depth + 1]
    assert any(torch.allclose(entries[-1], end, rtol=1e-5, atol=1e-5) for end in ends)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_layer_of_a_family_holds_the_rows_of_plain_hooks(name, tokenizer):
    """Among the texts: one token, none, and one longer than the model's positions, which becomes several windows."""
    family = FAMILIES[name]
    compare(make(family), family, tokenizer)


@pytest.mark.parametrize("name", ["post-norm", "rotary, grouped", "two stacks, pre-norm", "state space"])
def test_models_of_one_layer(name, tokenizer):
    family = FAMILIES[name]
    one = {"num_layers": 1} if family.name == "T5" else {"num_hidden_layers": 1}
    compare(make(family, **one), family, tokenizer)


def test_rows_in_bfloat16_are_those_of_the_model_in_bfloat16(tokenizer):
    family = FAMILIES["rotary, grouped"]
    compare(make(family).bfloat16(), family, tokenizer, tolerance=0.05)


@pytest.mark.parametrize("name", ["post-norm", "pre-norm", "rotary, grouped", "experts"])
def test_checkpointed_gradients_and_dropout_of_a_model_in_training_change_nothing(name, tokenizer):
    family = FAMILIES[name]
    model = make(family)
    expected, _ = our_rows(model, tokenizer)
    model.gradient_checkpointing_enable()
    model.train()
    found, _ = our_rows(model, tokenizer)
    assert model.training
    assert all(torch.equal(found[place], expected[place]) for place in expected)


def test_a_compiled_model_gives_the_rows_of_plain_hooks(tokenizer):
    family = FAMILIES["rotary, grouped"]
    model = make(family)
    expected, _ = our_rows(model, tokenizer)
    found, _ = our_rows(torch.compile(model, backend="eager"), tokenizer)
    assert all(torch.equal(found[place], expected[place]) for place in expected)


def test_a_tied_head_changes_no_row(tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    family = FAMILIES["rotary, grouped"]
    whole = seeded(LlamaForCausalLM, LlamaConfig(**GROUPED, tie_word_embeddings=True, initializer_range=0.2))
    found, windows = our_rows(whole, tokenizer)
    states = [plain_rows(whole.model, family, torch.tensor([ids]))[0]["decoder"] for ids in windows.ids]
    for layer in range(5):
        expected = torch.cat([one[layer] for one in states])
        torch.testing.assert_close(found["decoder", layer, "residual"], expected, rtol=2e-5, atol=2e-5)


def test_an_adapter_is_in_the_rows(tokenizer):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    family = FAMILIES["rotary, grouped"]
    plain, _ = our_rows(make(family), tokenizer)
    wrapped = peft.get_peft_model(make(family), peft.LoraConfig(target_modules=["q_proj", "down_proj"], r=2))
    for name, weight in wrapped.named_parameters():
        if "lora_" in name:  # peft draws the first factor from the global generator, and makes the second zero
            torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(0))
    found, windows = our_rows(wrapped, tokenizer)
    states = [plain_rows(wrapped.base_model.model, family, torch.tensor([ids]))[0]["decoder"] for ids in windows.ids]
    for layer in range(5):
        expected = torch.cat([one[layer] for one in states])
        torch.testing.assert_close(found["decoder", layer, "residual"], expected, rtol=2e-5, atol=2e-5)
    assert not torch.allclose(found["decoder", 4, "residual"], plain["decoder", 4, "residual"], atol=1e-3)


@pytest.mark.parametrize(("side", "pad"), [("left", "[PAD]"), ("right", None), ("left", None)])
def test_the_tokenizers_padding_side_and_token_change_nothing(side, pad):
    from tiny import make_tokenizer

    tokenizer = make_tokenizer(special=False)
    tokenizer.padding_side = side
    tokenizer.pad_token = pad
    for name in ("rotary, grouped", "offset positions"):
        compare(make(FAMILIES[name]), FAMILIES[name], tokenizer)
