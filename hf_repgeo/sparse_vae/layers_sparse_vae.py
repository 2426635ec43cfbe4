"""Layers of the sparse VAE: how kernels tile the array, which unit feeds which latent, and the sentence-level VAE.

transformers copies this file beside a checkpoint, so it imports only torch and the configuration. Nothing is drawn in
`__init__`, because checkpoints are loaded onto the meta device; the models' `_init_weights` draws.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def tiling(length, kernel, stride, padding):
    """The places of kernels along one side of the array.

    Args:
        length, kernel, stride: in cells.
        padding: a padding rule of `SparseVAEConfig`.

    Returns:
        `(pad, count, output_padding)`: cells added before the first and after the last, number of kernels, and cells
        the transposed convolution must add at the end to give `length` cells again. Kernel i covers the cells from `i *
        stride - pad` up to (excluding) `i * stride - pad + kernel`, as far as they exist.

    Example:
        >>> tiling(32, 15, 15, "released"), tiling(24, 15, 15, "released"), tiling(32, 8, 8, "released")
        ((13, 3, 13), (6, 2, 6), (0, 4, 0))
    """
    if padding == "symmetric":
        missing = math.ceil((length - kernel) / stride) * stride + kernel - length
        pad = (missing + 1) // 2
    elif padding == "none" or stride == 1 or length % kernel == 0:
        pad = 0
    else:
        pad = kernel - (length - stride * (length // stride))
    count = (length + 2 * pad - kernel) // stride + 1
    output_padding = (length + 2 * pad - kernel) % stride
    return pad, count, output_padding


def array_tiling(config):
    """`tiling` of both sides: `(pads, counts, output_paddings)`, each `(rows, columns)`."""
    sides = zip(config.shape, config.kernel, config.stride, strict=True)
    return tuple(zip(*(tiling(side, kernel, stride, config.padding) for side, kernel, stride in sides), strict=True))


def draw_routing(layout, channels, regions, latents, per_unit=1, seed=0):
    """Which unit feeds which latents. Unit `u = channel * regions + region`.

    Args:
        layout: `"none"`, `"random"`, `"balanced"`, `"per_channel"` or `"per_region"`.
        channels, regions, latents: how many there are.
        per_unit: how many latents each unit feeds.
        seed: of a separate CPU generator; the global one is not touched.

    Returns:
        bool `(channels * regions, latents)` with `per_unit` True in each row (all, for `"none"`).
    """
    units = channels * regions
    if layout == "none":
        return torch.ones(units, latents, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    if layout == "random":
        first = torch.rand(units, latents, generator=generator).argsort(-1)[:, :per_unit]
        return torch.zeros(units, latents, dtype=torch.bool).scatter_(1, first, True)
    groups = {"balanced": units, "per_channel": channels, "per_region": regions}[layout]
    start = torch.randperm(groups, generator=generator)
    if layout == "per_channel":
        start = start.repeat_interleave(regions)
    if layout == "per_region":
        start = start.repeat(channels)
    chosen = (start[:, None] + torch.arange(per_unit)) % latents
    return torch.zeros(units, latents, dtype=torch.bool).scatter_(1, chosen, True)


class FixedRouting(nn.Module):
    """A drawn mask, kept as a persistent buffer so that a checkpoint holds what was used."""

    def __init__(self, config, layout, units, seed):
        super().__init__()
        self.layout, self.seed = layout, seed
        self.channels, self.latents, self.per_unit = config.channels, config.latent_dim, config.latents_per_unit
        self.register_buffer("mask", torch.empty(units, config.latent_dim, dtype=torch.bool))

    def draw(self):
        regions = self.mask.shape[0] // self.channels
        return draw_routing(self.layout, self.channels, regions, self.latents, self.per_unit, self.seed)

    def forward(self):
        """bool `(N, L)`."""
        return self.mask

    def hard(self):
        return self.mask


class LearnedRouting(nn.Module):
    """A mask that learns: one-hot (k-hot) forward, the softmax's gradient backward (straight-through)."""

    def __init__(self, config, units):
        super().__init__()
        self.temperature, self.per_unit = config.mask_temperature, config.latents_per_unit
        self.logits = nn.Parameter(torch.empty(units, config.latent_dim))

    def hard(self):
        """bool `(N, L)`: the `per_unit` largest logits of each row."""
        largest = self.logits.topk(self.per_unit, dim=-1).indices
        return torch.zeros_like(self.logits, dtype=torch.bool).scatter(1, largest, True)

    def forward(self):
        """float `(N, L)`, of zeros and ones."""
        hard = self.hard().to(self.logits.dtype)
        if not self.training:
            return hard
        soft = F.softmax(self.logits / self.temperature, dim=-1)
        return hard + soft - soft.detach()


class MaskedLinear(nn.Module):
    """A linear map whose weight counts only where a mask is one. The mask is given at each call; None means all ones.

    A bool mask gives gradients of exactly zero outside it; a float mask (learned) receives one itself.
    """

    def __init__(self, inputs, outputs, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x, mask=None):
        """`x (B, inputs)`, `mask (outputs, inputs)` -> `(B, outputs)`."""
        weight = self.weight if mask is None else self.weight * mask
        return F.linear(x, weight, self.bias)


class ReleasedMaskedLinear(nn.Module):
    """The behaviour of the authors' masked layer: a fixed random one-hot routing with fixed tiny weights.

    Effective weight of unit u on latent l: `W[l,u] * scale[u,l] * softmax(mask_logits[u] / 1e-6)[l]`, detached from the
    graph. The factors are stored as parameters that require a gradient and never receive one. In the decoder
    (`reverse`) the bias is stored and not applied.
    """

    def __init__(self, units, latents, reverse=False):
        super().__init__()
        self.reverse = reverse
        self.weight = nn.Parameter(torch.empty(latents, units))
        self.bias = nn.Parameter(torch.empty(latents))
        self.mask_logits = nn.Parameter(torch.empty(units, latents))
        self.scale = nn.Parameter(torch.empty(units, latents))

    @torch.no_grad()
    def effective_weight(self):
        """`(L, N)`."""
        mask = F.softmax(self.mask_logits.float() / 1e-6, dim=-1).to(self.weight.dtype)
        return self.weight * (self.scale * mask).T

    def forward(self, x):
        if self.reverse:
            return F.linear(x, self.effective_weight().T)
        return F.linear(x, self.effective_weight(), self.bias)


class TiledConv2d(nn.Conv2d):
    """A convolution over one-channel arrays that is a matrix product where kernels do not overlap (stride = kernel).

    Same parameters and same numbers as `nn.Conv2d` up to rounding; several times faster on a CPU for 15 x 15 kernels.
    """

    def forward(self, array):
        """`(B, 1, rows, columns)` -> `(B, C, grid rows, grid columns)`."""
        if self.stride != self.kernel_size:
            return super().forward(array)
        (kr, kc), (rows, columns), (pr, pc) = self.kernel_size, array.shape[-2:], self.padding
        nr, nc = (rows + 2 * pr) // kr, (columns + 2 * pc) // kc
        padded = F.pad(array, (pc, nc * kc - columns - pc, pr, nr * kr - rows - pr))  # negative: crops
        tiles = padded.view(-1, nr, kr, nc, kc).transpose(2, 3).reshape(-1, nr * nc, kr * kc)
        units = F.linear(tiles, self.weight.view(self.out_channels, -1), self.bias)  # (B, regions, C)
        return units.transpose(1, 2).unflatten(2, (nr, nc))


class TiledConvTranspose2d(nn.ConvTranspose2d):
    """The reverse of `TiledConv2d`, to one channel; where tiles do not overlap, each is written to its place once."""

    def forward(self, units):
        """`(B, C, grid rows, grid columns)` -> `(B, 1, rows, columns)`."""
        if self.stride != self.kernel_size:
            return super().forward(units)
        (kr, kc), (nr, nc), (pr, pc) = self.kernel_size, units.shape[-2:], self.padding
        tiles = units.flatten(2).transpose(1, 2) @ self.weight.flatten(1)  # (B, regions, kr * kc)
        array = tiles.view(-1, nr, nc, kr, kc).transpose(2, 3).reshape(-1, 1, nr * kr, nc * kc)
        end_r, end_c = self.output_padding[0] - pr, self.output_padding[1] - pc
        return F.pad(array, (-pc, end_c, -pr, end_r)) + self.bias.view(1, 1, 1, 1)


class SentenceEncoder(nn.Module):
    """Array -> convolution -> units -> masked means and log-variances."""

    def __init__(self, config):
        super().__init__()
        self.shape, self.scope = tuple(config.shape), config.mask_scope
        pads, counts, _ = array_tiling(config)
        self.units = config.channels * counts[0] * counts[1]
        self.convolution = TiledConv2d(1, config.channels, tuple(config.kernel), tuple(config.stride), pads)
        self.mean_head = MaskedLinear(self.units, config.latent_dim)
        self.log_variance_head = MaskedLinear(self.units, config.latent_dim)

    def unit_activations(self, x):
        """`(B, D)` -> `(B, N)`, unit `channel * regions + region`, >= 0."""
        array = x.view(-1, 1, *self.shape)  # (B, 1, rows, columns)
        return F.relu(self.convolution(array)).flatten(1)

    def forward(self, x, routing):
        """`x (B, D)`, `routing (N, L)` or None -> mean and log-variance, `(B, L)` each."""
        units = self.unit_activations(x)
        mask = None if routing is None else routing.T
        return self.mean_head(units, mask), self.log_variance_head(units, mask if self.scope != "mean" else None)


class ReleasedSentenceEncoder(SentenceEncoder):
    """The authors' sparse encoder: frozen routing, means and log-variances interleaved, a dense layer without use."""

    def __init__(self, config):
        super().__init__(config)
        self.mean_head = ReleasedMaskedLinear(self.units, config.latent_dim)
        self.unused = nn.Linear(self.units, 2 * config.latent_dim)

    def forward(self, x, routing=None):
        units = self.unit_activations(x)
        heads = torch.cat([self.mean_head(units), self.log_variance_head(units)], dim=-1)  # (B, 2L)
        mean, log_variance = heads.view(len(heads), -1, 2).unbind(-1)
        return mean, log_variance


class SentenceDecoder(nn.Module):
    """Latents -> masked units -> transposed convolution -> array, flattened."""

    def __init__(self, config, latent_dim=None, channels=None):
        super().__init__()
        pads, counts, output_paddings = array_tiling(config)
        channels = channels or config.channels
        self.grid = (channels, *counts)
        self.hidden_activation, self.output_activation = config.decoder_activation, config.output_activation
        self.linear = MaskedLinear(latent_dim or config.latent_dim, math.prod(self.grid), bias=config.decoder_bias)
        self.convolution = TiledConvTranspose2d(
            channels, 1, tuple(config.kernel), tuple(config.stride), pads, output_padding=output_paddings
        )

    def forward(self, latents, routing=None):
        """`latents (B, L)`, `routing (N, L)` or None -> `(B, D)`."""
        if self.hidden_activation:
            array = self._array(latents, routing)
        else:  # an affine map: its values at L + 1 latents determine all others
            origin = latents.new_zeros(1, latents.shape[1])
            corners = torch.cat([origin, torch.eye(latents.shape[1], dtype=latents.dtype, device=latents.device)])
            at_origin, at_units = self._array(corners, routing).split([1, latents.shape[1]])
            array = torch.addmm(at_origin, latents, at_units - at_origin)
        return F.relu(array) if self.output_activation else array

    def _array(self, latents, routing):
        """`(B, L)` -> `(B, D)`, before the activation of the output."""
        units = self.linear(latents) if routing is None else self.linear(latents, routing)
        units = F.relu(units) if self.hidden_activation else units
        return self.convolution(units.view(-1, *self.grid)).flatten(1)


class ReleasedSentenceDecoder(SentenceDecoder):
    """The authors' sparse decoder: a second frozen routing, drawn apart from the encoder's."""

    def __init__(self, config):
        super().__init__(config)
        self.linear = ReleasedMaskedLinear(math.prod(self.grid), config.latent_dim, reverse=True)

    def forward(self, latents, routing=None):
        return super().forward(latents)


class Permutation(nn.Module):
    """A fixed reordering of the D dimensions and its inverse, persistent."""

    def __init__(self, size, seed):
        super().__init__()
        self.seed = seed
        self.register_buffer("order", torch.empty(size, dtype=torch.long))
        self.register_buffer("inverse", torch.empty(size, dtype=torch.long))

    def draw(self):
        return torch.randperm(self.order.shape[0], generator=torch.Generator().manual_seed(self.seed))


def reparameterize(mean, log_variance):
    """`mean + exp(log_variance / 2) * noise` with noise of the global generator, `(B, L)`."""
    return mean + (log_variance / 2).exp() * torch.randn_like(mean)


class SentenceVAE(nn.Module):
    """The sentence level: encoder, routing and decoder, with the permutation of the input if there is one."""

    def __init__(self, config):
        super().__init__()
        released = config.compat == "released"
        self.sample_in_eval = config.sample_in_eval
        self.encoder = (ReleasedSentenceEncoder if released else SentenceEncoder)(config)
        self.decoder = (ReleasedSentenceDecoder if released else SentenceDecoder)(config)
        self.permutation = None
        if config.permutation_seed is not None:
            self.permutation = Permutation(config.hidden_size, config.permutation_seed)
        self.routing = None if released else self._routing(config)
        self.decoder_routing = None
        if not released and config.decoder_mask == "random":
            layout = "random" if config.mask in ("none", "learned") else config.mask
            self.decoder_routing = FixedRouting(config, layout, self.encoder.units, config.mask_seed + 1)
        self.mirrored = not released and config.decoder_mask == "mirror"
        if not config.trainable_masked_weights:
            self.freeze_masked_weights()

    def _routing(self, config):
        if config.mask == "none":
            return None
        if config.mask == "learned":
            return LearnedRouting(config, self.encoder.units)
        return FixedRouting(config, config.mask, self.encoder.units, config.mask_seed)

    def freeze_masked_weights(self):
        """Leave the weights under a mask as they were drawn."""
        self.encoder.mean_head.weight.requires_grad_(False)
        if self.decoder_routing is not None or self.mirrored:
            self.decoder.linear.weight.requires_grad_(False)

    def encode(self, x):
        """`(B, D)` -> mean and log-variance, `(B, L)` each."""
        if self.permutation is not None:
            x = x[:, self.permutation.order]
        return self.encoder(x, None if self.routing is None else self.routing())

    def sample(self, mean, log_variance):
        """Latents `(B, L)`: drawn in training, the means in evaluation (unless `sample_in_eval`)."""
        if self.training or self.sample_in_eval:
            return reparameterize(mean, log_variance)
        return mean

    def decode(self, latents):
        """`(B, L)` -> `(B, D)`."""
        routing = self.decoder_routing if self.decoder_routing is not None else self.routing if self.mirrored else None
        decoded = self.decoder(latents, None if routing is None else routing())
        return decoded if self.permutation is None else decoded[:, self.permutation.inverse]

    def forward(self, x):
        """`(B, D)` -> `(reconstruction (B, D), latents, mean, log_variance (B, L))`."""
        mean, log_variance = self.encode(x)
        latents = self.sample(mean, log_variance)
        return self.decode(latents), latents, mean, log_variance
