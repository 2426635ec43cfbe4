"""Layers of real architectures: before block 1, after block i, after the final norm; and what is refused."""

import pytest
import torch
from tiny import SIZES, seeded

from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.rows import stacks
from hf_repgeo.rows.capture import copied, read_places
from hf_repgeo.rows.forward import forward_windows, places_of, resolve_layers, stacks_of, text_inputs, text_reader
from hf_repgeo.rows.passes import run
from hf_repgeo.rows.stacks import find_stacks
from hf_repgeo.rows.windows import Windows

IDS = torch.randint(4, 24, (3, 11), generator=torch.Generator().manual_seed(0))
WINDOWS = Windows(IDS.tolist(), [[0] * 11] * 3)
SMALL = SIZES | {"num_hidden_layers": 3}


def make(kind):
    import transformers as t

    configs = {
        "BertModel": t.BertConfig(**SMALL),
        "LlamaModel": t.LlamaConfig(**SMALL),
        "GPT2Model": t.GPT2Config(vocab_size=24, n_embd=32, n_layer=3, n_head=2, n_positions=64),
        "FalconModel": t.FalconConfig(**SMALL, multi_query=True),
        "BloomModel": t.BloomConfig(vocab_size=24, hidden_size=32, n_layer=3, n_head=2),
        "MptModel": t.MptConfig(vocab_size=24, d_model=32, n_layers=3, n_heads=2, max_seq_len=64),
        "GPTNeoModel": t.GPTNeoConfig(
            vocab_size=24, hidden_size=32, num_layers=3, num_heads=2, attention_types=[[["global"], 3]]
        ),
        "MambaModel": t.MambaConfig(vocab_size=24, hidden_size=32, num_hidden_layers=3),
        "RwkvModel": t.RwkvConfig(vocab_size=24, hidden_size=32, num_hidden_layers=3),
        "AlbertModel": t.AlbertConfig(**SMALL, embedding_size=16),
        "XLNetModel": t.XLNetConfig(vocab_size=24, d_model=32, n_layer=3, n_head=2, d_inner=48),
        "XLMModel": t.XLMConfig(vocab_size=24, emb_dim=32, n_layers=3, n_heads=2),
        "CLIPTextModel": t.CLIPTextConfig(**SMALL, max_position_embeddings=64),
        "T5Model": t.T5Config(vocab_size=24, d_model=32, d_kv=16, d_ff=48, num_layers=3, num_heads=2),
    }
    return seeded(getattr(t, kind), configs[kind])


def inputs_of(model):
    return text_inputs(model, IDS, torch.ones_like(IDS))


def read(model):
    """Place -> `(3, 11, features)`."""
    with read_places(model, places_of(model, WINDOWS), copied) as found:
        run(model, **inputs_of(model))
    return {tuple(place): state for place, state in found.items()}


EXPECTED = {  # stack, path of the blocks, path of the final norm
    "BertModel": [("encoder", "encoder.layer", None)],
    "LlamaModel": [("decoder", "layers", "norm")],
    "GPT2Model": [("decoder", "h", "ln_f")],
    "FalconModel": [("decoder", "h", "ln_f")],
    "BloomModel": [("decoder", "h", "ln_f")],
    "MptModel": [("decoder", "blocks", "norm_f")],
    "GPTNeoModel": [("decoder", "h", "ln_f")],
    "MambaModel": [("decoder", "layers", "norm_f")],
    "RwkvModel": [("decoder", "blocks", "ln_out")],
    "AlbertModel": [("encoder", "encoder.albert_layer_groups", None)],
    "XLNetModel": [("encoder", "layer", None)],
    "XLMModel": [("encoder", "attentions", None)],
    "CLIPTextModel": [("decoder", "encoder.layers", "final_layer_norm")],
    "T5Model": [
        ("encoder", "encoder.block", "encoder.final_layer_norm"),
        ("decoder", "decoder.block", "decoder.final_layer_norm"),
    ],
}


@pytest.mark.parametrize("kind", list(EXPECTED))
def test_stacks_are_found_and_named_after_what_tokens_see(kind):
    stacks = stacks_of(make(kind), WINDOWS)
    assert [
        (s.name, s.path.removeprefix("text_model."), s.final_norm and s.final_norm.removeprefix("text_model."))
        for s in stacks
    ] == EXPECTED[kind]
    assert all(stack.layers == [0, 1, 2, 3] for stack in stacks)


@pytest.mark.parametrize("kind", ["LlamaModel", "FalconModel", "BloomModel", "MptModel", "GPTNeoModel", "T5Model"])
def test_the_last_layer_is_before_the_final_norm_and_the_norm_of_it_is_a_place_of_its_own(kind):
    model, found = make(kind), read(make(kind))
    for stack in stacks_of(model, WINDOWS):
        norm = model.get_submodule(stack.final_norm)
        last, normed = found[stack.name, 3, "residual"], found[stack.name, 3, "final_norm"]
        assert torch.allclose(norm(last), normed, atol=1e-5) and not torch.allclose(last, normed, atol=1e-3)
    assert torch.allclose(run(model, **inputs_of(model)).last_hidden_state, normed, atol=1e-5)


def test_bert_has_no_norm_after_its_last_block():
    model = make("BertModel")
    found, states = read(model), run(model, **inputs_of(model), output_hidden_states=True).hidden_states
    assert list(found) == [("encoder", layer, "residual") for layer in range(4)]
    assert all(torch.equal(found["encoder", layer, "residual"], states[layer]) for layer in range(4))


def test_layer_0_of_mamba_is_its_embeddings_and_the_last_layer_is_what_leaves_its_last_block():
    model = make("MambaModel")
    found = read(model)
    x = model.embeddings(IDS)
    assert torch.equal(found["decoder", 0, "residual"], x)
    with torch.no_grad():
        for layer, block in enumerate(model.layers, 1):
            x = block(x)
            assert torch.allclose(found["decoder", layer, "residual"], x, atol=1e-5)
    assert torch.allclose(found["decoder", 3, "final_norm"], model.norm_f(x), atol=1e-5)


def test_hidden_states_with_sequences_before_batches_are_transposed():
    model = make("XLNetModel")
    states = run(model, **inputs_of(model), output_hidden_states=True).hidden_states
    assert torch.allclose(read(model)["encoder", 3, "residual"], states[3], atol=1e-6)


def test_the_decoder_of_an_encoder_decoder_reads_the_text_one_token_later():
    model = make("T5Model")
    expected = torch.cat([torch.full((3, 1), model.config.pad_token_id), IDS[:, :-1]], 1)  # T5 starts with its pad
    assert torch.equal(inputs_of(model)["decoder_input_ids"], expected)
    assert torch.equal(read(model)["decoder", 0, "residual"], model.decoder.embed_tokens(expected))


def test_a_causal_bert_is_a_decoder_and_a_model_without_its_mask_is_none():
    from transformers import BertConfig, BertModel

    assert stacks_of(seeded(BertModel, BertConfig(**SMALL, is_decoder=True)), WINDOWS)[0].name == "decoder"
    assert stacks_of(seeded(BertModel, BertConfig(**SMALL)), WINDOWS)[0].name == "encoder"


def test_layers_that_do_not_run_on_text_leave_their_numbers_out():
    """A Mllama-like stack: its second block looks at images and is skipped without one."""
    model = make("LlamaModel")
    skipped = model.layers[1]
    whole = type(model).forward

    def forward(self, *args, **kwargs):
        layers, self.layers = self.layers, torch.nn.ModuleList([self.layers[0], self.layers[2]])
        try:
            return whole(self, *args, **kwargs)
        finally:
            self.layers = layers

    model.forward = forward.__get__(model)
    model.forward.__func__.__signature__ = __import__("inspect").signature(whole)
    stack = stacks_of(model, WINDOWS)[0]
    assert stack.layers == [0, 1, 3] and skipped is model.layers[1]
    with pytest.raises(UnknownName, match=r"unknown layer 2\. Known: 0 \(embeddings\) to 3, without 2, which do not"):
        places_of(model, WINDOWS, [2])


def test_looped_models_number_the_layers_of_every_turn():
    """The same three blocks, twice: six layers."""
    model = make("LlamaModel")
    model.layers = torch.nn.ModuleList(model.layers)
    once = list(model.layers)
    type_of = type(model.layers)

    class Twice(type_of):
        def __getitem__(self, at):
            return [*once, *once][at] if isinstance(at, slice) else super().__getitem__(at)

        def __iter__(self):
            return iter([*once, *once])

    model.layers.__class__ = Twice
    model.config.num_hidden_layers = 6
    stack = find_stacks(model, inputs_of(model))[0]
    assert stack.turns == 2 and stack.layers == list(range(7))


# --- refusals -------------------------------------------------------------------------------------------------------


class Silent(torch.nn.Module):
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.config = type("Config", (), {"is_encoder_decoder": False, "model_type": "bert"})()

    def forward(self, **inputs):
        return object()


def test_a_model_without_blocks_is_refused():
    with pytest.raises(BadInput, match="Silent, in which none was seen to run; wanted a model with a list of blocks"):
        stacks_of(Silent(), WINDOWS)


def test_a_model_whose_hidden_states_are_not_those_of_its_blocks_is_refused():
    model = make("BertModel")
    whole = model.forward

    def forward(*args, **kwargs):
        output = whole(*args, **kwargs)
        states = list(output.hidden_states or ())
        if states:
            states[2] = states[2] * 2
            output.hidden_states = tuple(states)
        return output

    model.forward = forward
    with pytest.raises(BadInput, match=r"BertModel, whose hidden_states\[2\] is not what passes between its blocks"):
        find_stacks(model, {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)})


def test_another_number_of_blocks_than_the_config_states_is_refused():
    model = make("BertModel")
    model.encoder.layer = model.encoder.layer[:2]
    words = r"BertModel, whose encoder.layer ran 2 blocks where its config says 3; wanted as many .* set the config's"
    with pytest.raises(BadInput, match=words):
        find_stacks(model, inputs_of(model))
    model.config.num_hidden_layers = 2
    assert find_stacks(model, inputs_of(model))[0].layers == [0, 1, 2]


def test_a_forward_pass_that_fails_is_reported_with_its_reason():
    from transformers import CLIPConfig, CLIPModel

    model = make("BertModel")
    model.encoder.layer[1].intermediate.dense = torch.nn.Linear(7, 48)
    words = r"BertModel, whose forward pass on input_ids fails \(RuntimeError: mat1 and mat2 shapes cannot"
    with pytest.raises(BadInput, match=words):
        text_reader(model, WINDOWS)
    tower = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    clip = seeded(CLIPModel, CLIPConfig(text_config=tower | {"vocab_size": 24}, vision_config=tower))
    del clip.text_model
    with pytest.raises(BadInput, match="CLIPModel, no part of which runs on input_ids alone"):
        text_reader(clip, WINDOWS)


def test_layers_are_counted_from_both_ends():
    assert resolve_layers(None, [0, 1, 2]) == [0, 1, 2] and resolve_layers([-1, 0, 2], [0, 1, 2]) == [0, 2]
    with pytest.raises(UnknownName, match=r"unknown layer -4\. Known: 0 \(embeddings\) to 2, -1 to -3"):
        resolve_layers([-4], [0, 1, 2])


# --- compiled models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regional", [False, True])
def test_a_model_that_is_compiled_in_place_gives_the_rows_of_the_plain_one(regional):
    plain, compiled = make("LlamaModel"), make("LlamaModel")
    for part in compiled.layers if regional else [compiled]:
        part.compile(backend="eager")
    with torch.no_grad():
        compiled(**inputs_of(compiled))  # compiled here, without our hooks
    found, expected = read(compiled), read(plain)
    assert list(found) == list(expected)
    assert all(torch.equal(found[place], expected[place]) for place in expected)


# --- padding --------------------------------------------------------------------------------------------------------


def test_windows_of_different_lengths_run_apart_where_padding_would_change_them():
    """FNet mixes all positions with a Fourier transform: padding changes every row."""
    from transformers import FNetConfig, FNetModel

    from hf_repgeo.rows.forward import runs_unpadded

    model = seeded(FNetModel, FNetConfig(**{k: v for k, v in SMALL.items() if k != "num_attention_heads"}))
    windows = Windows([row[: 4 + i] for i, row in enumerate(IDS.tolist() * 2)], [[0] * (4 + i) for i in range(6)])
    assert runs_unpadded(model, windows) and not runs_unpadded(make("BertModel"), windows)
    assert not runs_unpadded(model, WINDOWS)  # one length: nothing is padded
    together = [found for _, found in forward_windows(model, windows, [-1], "raw", 4, None)]
    alone = [run(model, input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in windows.ids]
    rows = torch.cat([state for found in together for state in found.values()])
    assert torch.allclose(rows, torch.cat(alone), atol=1e-5)


@pytest.mark.parametrize(("entry", "refused"), [(-1, False), (1, True)])
def test_only_the_last_entry_of_hidden_states_may_be_what_a_head_has_made(decoder, monkeypatch, entry, refused):
    """Some models end their list with a transformed last layer; the entries before it must equal the layers."""
    returned = stacks.hidden_states

    def changed(output):
        lists = [list(states) for states in returned(output)]
        lists[-1][entry] = 3 * lists[-1][entry].tanh()
        return lists

    monkeypatch.setattr(stacks, "hidden_states", changed)
    ids = torch.arange(1, 9)[None]
    inputs = text_inputs(decoder, ids, torch.ones_like(ids))
    if refused:
        with pytest.raises(BadInput, match=r"hidden_states\[1\] is not what passes between"):
            find_stacks(decoder, inputs)
    else:
        [stack] = find_stacks(decoder, inputs)
        assert stack.layers == [0, 1, 2]


def test_a_stack_without_a_row_for_every_token_is_left_out_of_texts():
    """CANINE reads characters, then groups of four, then characters again."""
    from transformers import CanineConfig, CanineModel

    model = seeded(CanineModel, CanineConfig(**SMALL, max_position_embeddings=64))
    assert [stack.name for stack in find_stacks(model, inputs_of(model))] == [
        "initial_char_encoder",
        "encoder",
        "final_char_encoder",
    ]
    found = stacks_of(model, WINDOWS)
    assert [(stack.name, stack.layers) for stack in found] == [
        ("initial_char_encoder", [0, 1]),
        ("final_char_encoder", [0, 1]),
    ]
    assert read(model)["final_char_encoder", 1, "residual"].shape == (3, 11, 32)


def test_a_model_without_a_row_for_every_token_is_refused():
    """Funnel's base halves the text at every stage."""
    from transformers import FunnelBaseModel, FunnelConfig

    sizes = {"block_sizes": [1, 1], "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 48, "vocab_size": 24}
    model = seeded(FunnelBaseModel, FunnelConfig(**sizes))
    with pytest.raises(BadInput, match="FunnelBaseModel, whose encoder.blocks has fewer rows than the text has tokens"):
        stacks_of(model, WINDOWS)


def test_rows_of_a_prompt_that_the_model_puts_before_the_text_are_left_out():
    from transformers import CpmAntConfig, CpmAntModel

    sizes = {"vocab_size": 24, "hidden_size": 32, "num_attention_heads": 2, "dim_head": 16, "dim_ff": 48}
    model = seeded(CpmAntModel, CpmAntConfig(**sizes, num_hidden_layers=2, prompt_length=5))
    found, states = read(model), run(model, input_ids=IDS, output_hidden_states=True).hidden_states
    assert torch.equal(found["encoder", 0, "residual"], states[0])
    assert torch.equal(found["encoder", 2, "final_norm"], states[2])


def test_tokens_that_see_nothing_of_each_other_make_no_decoder():
    """Identity in place of attention: as MRA is on a CPU, where its kernel is missing."""
    model = make("BertModel")
    for block in model.encoder.layer:
        block.attention.self.value.weight.data.zero_()
    assert stacks_of(model, WINDOWS)[0].name == "encoder"


def test_a_decoder_reads_its_own_start_token_and_not_its_classes_default():
    """BART's text configuration holds the default, 2."""
    from transformers import BartConfig, BartModel

    sizes = {
        f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")
    }
    model = seeded(BartModel, BartConfig(vocab_size=24, d_model=8, **sizes, decoder_start_token_id=3))
    assert set(inputs_of(model)["decoder_input_ids"][:, 0].tolist()) == {3}


# --- half precision -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.002, 0.2])
def test_rounding_to_half_precision_does_not_hide_which_tokens_a_token_attends_to(dtype, scale):
    """With small weights a token changes other tokens' rows by less than bfloat16 rounds, in either direction."""
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

    sizes = SIZES | {"initializer_range": scale}
    found = {}
    for model in (seeded(BertModel, BertConfig(**sizes)), seeded(LlamaModel, LlamaConfig(**sizes))):
        ids = torch.arange(5, 13)[None]
        [stack] = find_stacks(model.to(dtype), text_inputs(model, ids, torch.ones_like(ids)))
        found[type(model).__name__] = stack.name
    assert found == {"BertModel": "encoder", "LlamaModel": "decoder"}


def test_a_text_too_short_for_a_model_is_refused_in_a_sentence():
    from transformers import CanineConfig, CanineModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = seeded(CanineModel, CanineConfig(**sizes, max_position_embeddings=64, num_hash_buckets=16))
    windows = Windows([[5] * 11, [6] * 11, [7, 8, 9]], [[0] * 11, [0] * 11, [1] * 3])
    with pytest.raises(BadInput, match=r"windows of 3 tokens, on which CanineModel fails .* Pass window=, or longer"):
        list(forward_windows(model, windows, None, "raw", 8, None))
