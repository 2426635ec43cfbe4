"""Tiling, routing and masked layers of the sparse VAE: closed forms, and autograd as the slow twin."""

import pytest
import torch

from hf_repgeo.localization.regions import receptive_fields, region_dimensions
from hf_repgeo.sparse_vae.configuration_sparse_vae import SparseVAEConfig, SparseVAEForBLMConfig, array_shape
from hf_repgeo.sparse_vae.layers_sparse_vae import MaskedLinear, array_tiling, draw_routing, tiling
from hf_repgeo.sparse_vae.modeling_sparse_vae import SparseVAEForSentenceEmbedding


def regions_by_autograd(model):
    """Slow twin of `region_dimensions`: which input dimensions move a unit of each region at all."""
    encoder = model.sentence.encoder
    torch.nn.init.constant_(encoder.convolution.weight, 1.0)
    x = torch.ones(1, model.config.hidden_size, requires_grad=True)
    permuted = x if model.sentence.permutation is None else x[:, model.sentence.permutation.order]
    units = encoder.unit_activations(permuted).view(model.config.channels, -1)[0]
    return torch.stack([torch.autograd.grad(unit, x, retain_graph=True)[0][0] != 0 for unit in units])


def test_the_released_padding_makes_the_six_regions_unequal():
    fields = receptive_fields(SparseVAEConfig.preset("released"))
    assert fields.flatten(1).sum(-1).tolist() == [18, 30, 135, 225, 135, 225]
    assert torch.equal(fields.sum(0), torch.ones(32, 24, dtype=torch.long))  # they tile the array, each cell once
    assert fields[4, 17:32, 0:9].all() and fields[4].sum() == 15 * 9  # unit 4: rows 17-31, columns 0-8


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"padding": "symmetric"},
        {"padding": "none"},
        {"kernel": 8, "stride": 8},
        {"kernel": (16, 12), "stride": (16, 12)},
        {"kernel": 10, "stride": 10},
        {"stride": 5},
        {"stride": 1},
        {"kernel": (1, 24), "stride": (1, 24)},
        {"hidden_size": 384},
        {"hidden_size": 1024},
        {"permutation_seed": 7},
    ],
)
def test_receptive_fields_equal_what_autograd_sees(settings):
    model = SparseVAEForSentenceEmbedding(SparseVAEConfig(channels=2, **settings))
    assert torch.equal(region_dimensions(model), regions_by_autograd(model))
    assert (
        model(inputs_embeds=torch.ones(3, model.config.hidden_size)).reconstruction.shape[1] == model.config.hidden_size
    )


@pytest.mark.parametrize(
    "settings", [{}, {"padding": "symmetric"}, {"padding": "none"}, {"kernel": 8, "stride": 8}, {"hidden_size": 1024}]
)
def test_tiles_as_matrix_products_equal_the_convolutions(settings):
    """Forward and gradients, against torch's own convolutions on the same parameters, in float64."""
    model = SparseVAEForSentenceEmbedding(SparseVAEConfig(**settings)).double()
    encode, decode = model.sentence.encoder.convolution, model.sentence.decoder.convolution
    array = torch.randn(3, 1, *model.config.shape, dtype=torch.float64, requires_grad=True)
    units = encode(array)
    slow = torch.nn.functional.conv2d(array, encode.weight, encode.bias, encode.stride, encode.padding)
    assert torch.allclose(units, slow, atol=1e-12)
    options = {"stride": decode.stride, "padding": decode.padding, "output_padding": decode.output_padding}
    again = torch.nn.functional.conv_transpose2d(slow, decode.weight, decode.bias, **options)
    assert torch.allclose(decode(units), again, atol=1e-12)
    inputs = (array, encode.weight, encode.bias, decode.weight, decode.bias)
    fast_gradients = torch.autograd.grad(decode(units).square().sum(), inputs, retain_graph=True)
    for fast, plain in zip(fast_gradients, torch.autograd.grad(again.square().sum(), inputs), strict=True):
        assert torch.allclose(fast, plain, atol=1e-9)


def test_symmetric_padding_covers_all_cells_with_regions_closer_in_size():
    sizes = receptive_fields(SparseVAEConfig(padding="symmetric")).flatten(1).sum(-1)
    assert sizes.sum() == 768 and sizes.min() > 18


@pytest.mark.parametrize(
    ("size", "shape"),
    [(768, [32, 24]), (384, [16, 24]), (1024, [32, 32]), (512, [32, 16]), (312, [24, 13]), (4096, [64, 64])],
)
def test_the_array_is_the_most_nearly_square_one(size, shape):
    assert array_shape(size) == shape


@pytest.mark.parametrize("padding", ["released", "none", "symmetric"])
def test_a_transposed_convolution_undoes_every_tiling(padding):
    for length in range(5, 40):
        for kernel in range(1, length + 1):
            for stride in {1, kernel // 2 or 1, kernel}:
                pad, count, output_padding = tiling(length, kernel, stride, padding)
                assert (count - 1) * stride - 2 * pad + kernel + output_padding == length
                assert 0 <= output_padding < max(stride, 2) and pad <= kernel and count >= 1


def test_every_array_side_comes_back_through_the_transposed_convolution():
    pads, counts, output_paddings = array_tiling(SparseVAEConfig())
    assert (pads, counts, output_paddings) == ((13, 6), (3, 2), (13, 6))


@pytest.mark.parametrize("per_unit", [1, 2, 5])
@pytest.mark.parametrize("layout", ["random", "balanced", "per_channel", "per_region"])
def test_every_unit_feeds_as_many_latents_as_asked(layout, per_unit):
    mask = draw_routing(layout, channels=40, regions=6, latents=5, per_unit=per_unit, seed=3)
    assert mask.shape == (240, 5) and (mask.sum(-1) == per_unit).all()


def test_each_layout_routes_units_as_its_name_says():
    balanced = draw_routing("balanced", 40, 6, 5)
    assert balanced.sum(0).tolist() == [48] * 5
    by_channel = draw_routing("per_channel", 40, 6, 5).view(40, 6, 5)
    assert (by_channel == by_channel[:, :1]).all() and not (by_channel == by_channel[:1]).all()
    by_region = draw_routing("per_region", 40, 6, 5).view(40, 6, 5)
    assert (by_region == by_region[:1]).all() and not (by_region == by_region[:, :1]).all()
    random = draw_routing("random", 40, 6, 5, seed=0)
    assert random.sum(0).tolist() != [48] * 5 and not torch.equal(random, draw_routing("random", 40, 6, 5, seed=1))


def test_drawing_a_mask_leaves_the_global_generator_alone():
    state = torch.random.get_rng_state()
    draw_routing("random", 40, 6, 5, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_masked_linear_map_is_the_dense_one_with_zeros_and_has_no_gradient_outside():
    layer = MaskedLinear(6, 3)
    torch.nn.init.normal_(layer.weight), torch.nn.init.normal_(layer.bias)
    mask, x = torch.rand(3, 6) > 0.5, torch.randn(4, 6)
    y = layer(x, mask)
    assert torch.allclose(y, x @ (layer.weight * mask).T + layer.bias)
    y.square().sum().backward()
    assert (layer.weight.grad[~mask] == 0).all() and (layer.weight.grad[mask] != 0).all()


@pytest.mark.parametrize("layout", ["random", "balanced", "per_channel", "per_region", "learned"])
def test_one_unit_moves_exactly_one_mean(layout):
    model = SparseVAEForSentenceEmbedding(SparseVAEConfig(mask=layout)).eval()
    encoder, routing = model.sentence.encoder, model.sentence.routing()
    for unit in (0, 17, 239):
        low, high = torch.zeros(2, 1, 240)
        high[0, unit] = 1
        moved = encoder.mean_head(high, routing.T) - encoder.mean_head(low, routing.T)
        assert (moved != 0).sum() == 1
        assert moved.abs().argmax() == model.sentence.routing.hard()[unit].float().argmax()


def test_in_the_released_model_two_of_five_means_come_from_the_dense_head():
    torch.default_generator.manual_seed(0)
    encoder = SparseVAEForSentenceEmbedding(SparseVAEConfig.preset("released")).sentence.encoder
    x = torch.rand(4, 768)
    before = encoder(x)
    torch.nn.init.normal_(encoder.log_variance_head.weight)
    after = encoder(x)
    moved_means = [(a != b).any().item() for a, b in zip(before[0].T, after[0].T, strict=True)]
    moved_variances = [(a != b).any().item() for a, b in zip(before[1].T, after[1].T, strict=True)]
    assert moved_means == [False, False, False, True, True]
    assert moved_variances == [False, False, True, True, True]


def test_a_learned_mask_is_hard_forward_and_gets_a_gradient():
    model = SparseVAEForSentenceEmbedding(SparseVAEConfig(mask="learned", latents_per_unit=2)).train()
    routing = model.sentence.routing()
    assert torch.allclose(routing.sum(-1), torch.full((240,), 2.0)) and ((routing - routing.round()).abs() < 1e-6).all()
    model(torch.randn(2, 768), candidates=torch.randn(2, 3, 768), labels=torch.tensor([0, 1])).loss.backward()
    assert model.sentence.routing.logits.grad.abs().sum() > 0


def test_a_mirrored_decoder_connects_the_units_and_latents_that_the_routing_connects():
    model = SparseVAEForSentenceEmbedding(SparseVAEConfig()).eval()
    latents = torch.eye(5)
    units = model.sentence.decoder.linear(latents, model.sentence.routing())  # (5 latents, 240 units), no bias
    assert torch.equal(units != 0, model.sentence.routing().T)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-14), (torch.float32, 5e-6), (torch.bfloat16, 0.05)])
def test_a_decoder_without_activation_is_an_affine_map_and_computed_as_one(dtype, tolerance):
    torch.default_generator.manual_seed(0)
    model = SparseVAEForSentenceEmbedding(SparseVAEConfig.preset("base", output_activation=None)).to(dtype)
    latents, decoder = torch.randn(9, 5, dtype=dtype, requires_grad=True), model.sentence.decoder
    direct = decoder.convolution(decoder.linear(latents).view(-1, *decoder.grid)).flatten(1)
    ours = decoder(latents)
    torch.testing.assert_close(ours, direct, rtol=0, atol=tolerance * direct.abs().max().item())
    weights = torch.randn_like(direct)
    asked = (latents, decoder.linear.weight, decoder.linear.bias, decoder.convolution.weight)
    wanted = torch.autograd.grad((direct * weights).sum(), asked)
    for one, other in zip(torch.autograd.grad((ours * weights).sum(), asked), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * one.abs().max().item())


def test_a_random_decoder_mask_is_drawn_apart_from_the_encoders():
    vae = SparseVAEForSentenceEmbedding(SparseVAEConfig(decoder_mask="random")).sentence
    assert not torch.equal(vae.routing(), vae.decoder_routing()) and (vae.decoder_routing().sum(-1) == 1).all()


def test_masking_the_log_variance_head_is_a_choice():
    x = torch.randn(1, 768)
    for scope, n_moving in (("mean", 5), ("mean+logvar", 1)):
        encoder = SparseVAEForSentenceEmbedding(SparseVAEConfig(mask_scope=scope)).sentence.encoder
        unit = encoder.unit_activations(x)[0].argmax()
        mask = draw_routing("random", 40, 6, 5)
        gradient = torch.stack(
            [
                torch.autograd.grad(v, encoder.log_variance_head.weight, retain_graph=True)[0][:, unit]
                for v in encoder(x, mask)[1][0]
            ]
        )
        assert (gradient != 0).sum() == n_moving


def test_frozen_masked_weights_get_no_gradient():
    vae = SparseVAEForSentenceEmbedding(SparseVAEConfig(trainable_masked_weights=False)).sentence
    assert not vae.encoder.mean_head.weight.requires_grad and not vae.decoder.linear.weight.requires_grad
    assert vae.encoder.log_variance_head.weight.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 769}, "769 factors only into 769 x 1"),
        ({"shape": (30, 24)}, "30 x 24 = 720 cells cannot hold an embedding of `hidden_size` 768"),
        ({"shape": (768,)}, "`shape`: got .*two of them"),
        ({"kernel": 40}, "stride <= kernel <= array"),
        ({"kernel": 8}, "a larger stride would skip cells"),
        ({"mask": "half"}, "`mask`: got 'half'; wanted one of 'none', 'random'"),
        ({"padding": "same"}, "`padding`: got 'same'"),
        ({"latents_per_unit": 6}, "wanted at most 5"),
        ({"beta": float("nan")}, "`beta`: got nan; wanted a non-negative number"),
        ({"mask": "learned", "mask_temperature": 0}, "`mask_temperature`: got 0; wanted a positive number"),
        ({"channels": 0}, "`channels`: got 0; wanted a positive integer"),
        ({"pooling": "max"}, "`pooling`: got 'max'"),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        SparseVAEConfig(**settings)


def test_bad_settings_of_the_two_level_model_are_named():
    with pytest.raises(ValueError, match="`sequence_kernel`: got .*wanted at most"):
        SparseVAEForBLMConfig(sequence_length=3)
    with pytest.raises(ValueError, match="`preset`: got 'tiny'; wanted one of 'base'"):
        SparseVAEForBLMConfig.preset("tiny")
