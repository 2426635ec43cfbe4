"""Perturbation: the formula, the weights it spares, its random streams, and the weights restored afterwards."""

import copy

import pytest
import torch

from hf_repgeo import BadInput
from hf_repgeo.downstream import Perturbation, apply_perturbation, perturb, save_perturbed
from hf_repgeo.downstream.perturbation import HOWS, block_weights, kind_of
from hf_repgeo.errors import UnknownName


def state(model) -> dict:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict, model) -> set[str]:
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("fixture", ["encoder", "decoder", "encoder_decoder"])
def test_afterwards_every_weight_is_as_before_bit_for_bit(fixture, how, request):
    model = copy.deepcopy(request.getfixturevalue(fixture))
    before = state(model)
    with perturb(model, 0.7, 1, how=how):
        assert changed(before, model)
    assert not changed(before, model)


def test_an_error_inside_restores_the_weights_too(encoder):
    model = copy.deepcopy(encoder)
    before = state(model)
    with pytest.raises(RuntimeError), perturb(model, 0.3):
        raise RuntimeError
    assert not changed(before, model)


def test_the_papers_formula_holds_in_distribution(encoder):
    """W' - (1 - a) W is a times standard normal, whatever W: mean 0, spread a, independent of W."""
    weight = encoder.encoder.layer[0].intermediate.dense.weight
    old = weight.detach().clone()
    noises = []
    for seed in range(30):
        with perturb(encoder, 0.25, seed):
            noises.append((weight.detach() - 0.75 * old) / 0.25)
    noise = torch.stack(noises)
    scatter = noise.numel() ** -0.5
    assert abs(noise.mean()) < 4 * scatter and abs(noise.std() - 1) < 4 * scatter
    assert abs(torch.corrcoef(torch.stack([noise[0].flatten(), old.flatten()]))[0, 1]) < 4 / old.numel() ** 0.5


def test_scaled_noise_has_the_spread_of_the_weight_it_perturbs(encoder):
    weights = block_weights(encoder)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    with perturb(encoder, 1.0, how="scaled_noise"):
        for name, weight in weights.items():
            expected, found = (float(w.detach().std(correction=0)) for w in (before[name], weight))
            assert found == pytest.approx(expected, rel=5 / weight.numel() ** 0.5, abs=1e-7)


def test_biases_embeddings_and_pooler_stay(encoder):
    before = state(encoder)
    with perturb(encoder, 0.5):
        touched = changed(before, encoder)
    weights = {name for name in before if name.startswith("encoder.layer") and name.endswith("weight")}
    assert touched == weights


def test_a_dose_of_zero_changes_nothing_and_a_dose_of_one_replaces_the_weights(encoder):
    before = state(encoder)
    with perturb(encoder, 0.0):
        assert not changed(before, encoder)
    other = copy.deepcopy(encoder)
    torch.nn.init.zeros_(other.encoder.layer[1].output.dense.weight)
    with perturb(encoder, 1.0, 4), perturb(other, 1.0, 4):
        assert torch.equal(encoder.encoder.layer[1].output.dense.weight, other.encoder.layer[1].output.dense.weight)


def test_a_layer_alone_gets_the_noise_that_it_gets_with_all(encoder):
    with perturb(encoder, 0.2, 9):
        whole = state(encoder)
    before = state(encoder)
    with perturb(encoder, 0.2, 9, layers=[1], kinds=["attention"]):
        touched = changed(before, encoder)
        assert all(torch.equal(encoder.state_dict()[name], whole[name]) for name in touched)
    assert touched == {
        name for name in before if name.startswith("encoder.layer.1.attention") and before[name].ndim == 2
    }


def test_the_seed_decides_and_the_global_generator_does_not(encoder):
    def perturbed(seed: int) -> torch.Tensor:
        with perturb(encoder, 0.1, seed):
            return encoder.encoder.layer[0].output.dense.weight.detach().clone()

    first = perturbed(1)
    torch.rand(5)
    assert torch.equal(first, perturbed(1)) and not torch.equal(first, perturbed(2))


@pytest.mark.parametrize("how", HOWS)
def test_the_global_generator_is_left_as_it_was(encoder, how):
    before = torch.random.get_rng_state()
    with perturb(encoder, 0.5, how=how):
        pass
    assert torch.equal(before, torch.random.get_rng_state())


def test_shuffled_embeddings_keep_every_row_once(encoder):
    table = encoder.get_input_embeddings().weight
    before = table.detach().clone()
    with perturb(encoder, 1.0, how="shuffle_embeddings"):
        after = table.detach().clone()
    order = (after[:, None] == before[None]).all(-1)
    assert torch.equal(order.sum(0), torch.ones(len(table))) and torch.equal(order.sum(1), torch.ones(len(table)))
    with perturb(encoder, 0.25, how="shuffle_embeddings"):
        assert (table != before).any(1).sum() <= round(0.25 * len(table))


def test_reinitialised_weights_are_those_of_an_untrained_model(encoder):
    with perturb(encoder, 1.0, how="reinitialize"):
        assert torch.equal(encoder.encoder.layer[0].output.LayerNorm.weight, torch.ones(encoder.config.hidden_size))
        spread = float(encoder.encoder.layer[0].intermediate.dense.weight.detach().std())
    assert spread == pytest.approx(encoder.config.initializer_range, rel=0.1)


def test_half_precision_is_perturbed_and_restored_in_its_own_type(encoder):
    model = copy.deepcopy(encoder).to(torch.bfloat16)
    before = state(model)
    with perturb(model, 0.5):
        assert model.encoder.layer[0].output.dense.weight.dtype == torch.bfloat16 and changed(before, model)
    assert not changed(before, model)


def test_kinds_of_weight_follow_from_name_and_shape(encoder, decoder):
    kinds = {name: kind_of(name, weight) for name, weight in block_weights(encoder).items()}
    assert kinds["encoder.layer.0.attention.self.key.weight"] == "attention"
    assert kinds["encoder.layer.0.attention.output.LayerNorm.weight"] == "norm"
    assert kinds["encoder.layer.0.intermediate.dense.weight"] == "feed_forward"
    assert kind_of("layers.0.self_attn.q_proj.weight", torch.ones(2, 2)) == "attention"
    assert all(name.startswith("layers.") for name in block_weights(decoder))


def test_embeddings_that_stand_inside_an_encoder_are_no_block_weights(encoder_decoder):
    assert not [name for name in block_weights(encoder_decoder) if "embed" in name or name.startswith("shared")]


def test_a_saved_perturbed_model_loads_and_the_original_stays(encoder, tokenizer, tmp_path):
    from transformers import AutoModel

    before, recipe = state(encoder), Perturbation(0.3, 5)
    folder = save_perturbed(encoder, tmp_path / "noisy", recipe, tokenizer)
    assert not changed(before, encoder)
    loaded = AutoModel.from_pretrained(folder)
    expected = apply_perturbation(copy.deepcopy(encoder), recipe)
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), expected.state_dict().values()))
    assert '"alpha": 0.3' in (folder / "perturbation.json").read_text()


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"alpha": 1.5}, BadInput, "Per cent\\? Write 0.015"),
        ({"alpha": -0.1}, BadInput, "a share from 0 to 1"),
        ({"alpha": float("nan")}, BadInput, "a share from 0 to 1"),
        ({"alpha": 0.1, "how": "nois"}, UnknownName, "Did you mean 'noise'"),
        ({"alpha": 0.1, "kinds": ["attn"]}, UnknownName, "attention, feed_forward, norm"),
        ({"alpha": 0.1, "layers": [7]}, BadInput, "block 7; wanted blocks 0 to 1"),
        ({"alpha": 0.1, "layers": []}, BadInput, "without such a weight"),
        ({"alpha": 0.1, "how": "shuffle_embeddings", "layers": [0]}, BadInput, "neither layers nor kinds"),
    ],
)
def test_impossible_recipes_are_refused(encoder, arguments, error, message):
    with pytest.raises(error, match=message), perturb(encoder, **arguments):
        pass
