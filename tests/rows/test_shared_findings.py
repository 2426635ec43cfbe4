"""What models of one sweep share: found once, only where it is certain, and nothing outside of a sweep."""

import pytest
import torch
from tiny import SIZES, seeded
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from hf_repgeo.rows import forward
from hf_repgeo.rows.identity import architecture, tokenizer_fingerprint
from hf_repgeo.rows.models import load_model
from hf_repgeo.rows.shared_findings import found_once, shared_findings
from hf_repgeo.rows.windows import Windows

WINDOWS = Windows([list(range(4, 15))] * 3, [[0] * 11] * 3)
DECODER = GPT2Config(vocab_size=24, n_embd=32, n_layer=2, n_head=2, n_positions=64)


@pytest.fixture
def searches(monkeypatch):
    """The models whose stacks were really searched for."""
    seen, kept = [], forward.find_stacks

    def counted(model, inputs):
        seen.append(model)
        return kept(model, inputs)

    monkeypatch.setattr(forward, "find_stacks", counted)
    return seen


def test_nothing_is_remembered_outside_of_a_sweep_nor_after_it():
    numbers = iter(range(9))
    assert [found_once("kind", lambda: "key", lambda: next(numbers)) for _ in range(2)] == [0, 1]
    for first in (2, 4):
        with shared_findings():
            assert [found_once("kind", lambda: "key", lambda: next(numbers)) for _ in range(2)] == [first, first]
            assert found_once("kind", lambda: "another key", lambda: next(numbers)) == first + 1


def test_models_of_one_architecture_share_their_stacks(searches):
    models = [seeded(BertModel, BertConfig(**SIZES, initializer_range=width)) for width in (0.3, 0.3, 0.5)]
    with shared_findings():
        found = [forward.stacks_of(model, WINDOWS) for model in models]
    assert searches == [models[0], models[2]]  # the third has another configuration
    assert found[0] == found[1] == forward.stacks_of(models[2], WINDOWS)


@pytest.mark.parametrize("change", ["a configuration", "a module", "a shape"])
def test_an_architecture_is_configuration_modules_and_shapes(change):
    model, other = (seeded(BertModel, BertConfig(**SIZES)) for _ in range(2))
    assert architecture(model) == architecture(other)
    if change == "a configuration":
        other.config.is_decoder = True
    elif change == "a module":
        other.encoder.layer[0].output.LayerNorm = torch.nn.RMSNorm(32)
    else:
        other.resize_token_embeddings(30)
        other.config.vocab_size = model.config.vocab_size
    assert architecture(model) != architecture(other)


@pytest.mark.parametrize("part", ["attn.c_proj", "mlp.c_proj", "every weight"])
def test_a_model_at_its_first_step_does_not_decide_for_those_trained_further(part, searches):
    """With attention that adds nothing no token sees another: the stack cannot be told from an encoder's."""
    first, trained = (seeded(GPT2Model, DECODER) for _ in range(2))
    with torch.no_grad():
        for name, weight in first.named_parameters():
            if part in name or part == "every weight":
                weight.zero_()
    with shared_findings():
        forward.stacks_of(first, WINDOWS)
        assert [stack.name for stack in forward.stacks_of(trained, WINDOWS)] == ["decoder"]
    assert len(searches) == (1 if part == "mlp.c_proj" else 2)  # a block still changes the state by its attention


def test_blocks_that_change_nothing_are_not_certain(searches):
    first, trained = (seeded(GPT2Model, DECODER) for _ in range(2))
    with torch.no_grad():
        for name, weight in first.named_parameters():
            if "h.1." in name and "c_proj" in name:
                weight.zero_()
    with shared_findings():
        assert [forward.stacks_of(model, WINDOWS)[0].layers for model in (first, trained)] == [[0, 1, 2]] * 2
    assert len(searches) == 2


def test_a_tokenizer_is_known_by_its_files(encoder_folder, tokenizer, plain_tokenizer, tmp_path):
    for name, other in (("same", tokenizer), ("plain", plain_tokenizer)):
        load_model(str(encoder_folder)).model.save_pretrained(tmp_path / name)
        other.save_pretrained(tmp_path / name)
    (tmp_path / "same" / "trainer_state.json").write_text("{}")
    (tmp_path / "same" / "optimizer.pt").write_bytes(b"")
    with shared_findings():
        first, same, plain = (load_model(str(p)) for p in (encoder_folder, tmp_path / "same", tmp_path / "plain"))
    assert first.tokenizer is same.tokenizer is not plain.tokenizer
    assert plain.tokenizer("the cat")["input_ids"] == plain_tokenizer("the cat")["input_ids"]
    assert load_model(str(encoder_folder)).tokenizer is not first.tokenizer
    assert tokenizer_fingerprint(encoder_folder) == tokenizer_fingerprint(tmp_path / "same")
