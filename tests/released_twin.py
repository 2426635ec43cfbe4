"""The released training step restated: masks rebuilt unit by unit, outside the graph, as the authors' code does."""

import torch
from torch import nn

from hf_repgeo.sparse_vae.losses_sparse_vae import kl_divergence, normalised_max_margin


class UnitMask(nn.Module):
    """One CNN unit's mask over the latents, as the released code has it: a module of its own."""

    def __init__(self, logits, scale):
        super().__init__()
        self.logits, self.scale = nn.Parameter(logits.clone()), nn.Parameter(scale.clone())

    def forward(self, weight):
        return weight * self.scale * torch.softmax(self.logits / 1e-6, dim=-1)


class UnitByUnitLinear(nn.Module):
    """A masked layer whose weight is rebuilt at every step, one unit after the other, outside the graph."""

    def __init__(self, layer):
        super().__init__()
        self.reverse, self.weight, self.bias = layer.reverse, layer.weight, layer.bias
        self.masks = nn.ModuleList(UnitMask(*pair) for pair in zip(layer.mask_logits, layer.scale, strict=True))
        self.masked_weights = nn.Parameter(torch.zeros_like(layer.weight.T), requires_grad=False)  # (units, latents)

    def forward(self, x):
        for unit, mask in enumerate(self.masks):
            self.masked_weights.data[unit, :] = mask(self.weight[:, unit])
        if self.reverse:
            return nn.functional.linear(x, self.masked_weights)
        return nn.functional.linear(x, self.masked_weights.T, self.bias)


def restated(model):
    """The released model's step on the weights of ours, `(x, candidates, labels) -> loss`, and its parameters."""
    encoder, decoder = model.sentence.encoder, model.sentence.decoder
    encoder_layer, decoder_layer = UnitByUnitLinear(encoder.mean_head), UnitByUnitLinear(decoder.linear)

    encoder_weights = (encoder.convolution.weight, encoder.convolution.bias)
    decoder_weights = (decoder.convolution.weight, decoder.convolution.bias)

    def step(x, candidates, labels):
        array = x.view(-1, 1, 32, 24)
        units = torch.relu(nn.functional.conv2d(array, *encoder_weights, stride=15, padding=(13, 6))).flatten(1)
        heads = torch.cat([encoder_layer(units), encoder.log_variance_head(units)], dim=-1)
        mean, log_variance = heads.view(-1, 5, 2).unbind(-1)
        latents = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        units = torch.relu(decoder_layer(latents)).view(-1, 40, 3, 2)
        decoded = nn.functional.conv_transpose2d(
            units, *decoder_weights, stride=15, padding=(13, 6), output_padding=(13, 6)
        ).flatten(1)
        return normalised_max_margin(decoded, candidates, labels) + 5 / 768 * kl_divergence(mean, log_variance)

    return step, [*model.parameters(), *encoder_layer.masks.parameters(), *decoder_layer.masks.parameters()]


def made_batch(size=100, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, candidates = torch.randn(size, 768, generator=generator), torch.randn(size, 8, 768, generator=generator)
    return x, candidates, torch.randint(8, (size,), generator=generator)
