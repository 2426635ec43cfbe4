"""Plain models for Blackbird Language Matrices, with the interface of `SparseVAEForBLM`: what do two levels add?

Shapes follow the baselines of Nastase & Merlo's code. transformers copies this file beside a checkpoint.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_sparse_vae import BLMBaselineConfig
from .layers_sparse_vae import reparameterize, tiling
from .losses_sparse_vae import kl_divergence, max_margin
from .modeling_sparse_vae import SparseVAEOutput, SparseVAEPreTrainedModel, check_sequences, score_candidates


class FeedForward(nn.Sequential):
    """`(B, S, D)` -> flatten -> 2D -> 2D -> D, ReLU after each, the last included."""

    def __init__(self, config):
        hidden = 2 * config.hidden_size
        sizes = [config.sequence_length * config.hidden_size, hidden, hidden, config.hidden_size]
        layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
        super().__init__(nn.Flatten(), *layers)


class Convolutional(nn.Module):
    """`(B, S, D)` -> one convolution over sentences, rows and columns, stride 1 -> linear -> `(B, D)`, ReLU after
    both, as in the authors' code."""

    def __init__(self, config):
        super().__init__()
        self.shape = (config.sequence_length, *config.shape)
        kernel = (config.sequence_kernel, *config.kernel)
        places = math.prod(side - k + 1 for side, k in zip(self.shape, kernel, strict=True))
        self.convolution = nn.Conv3d(1, config.channels, kernel)
        self.linear = nn.Linear(config.channels * places, config.hidden_size)

    def forward(self, x):
        units = F.relu(self.convolution(x.view(-1, 1, *self.shape)))  # (B, C, S', rows', columns')
        return F.relu(self.linear(units.flatten(1)))


class OneLevelVAE(nn.Module):
    """`(B, S, D)` -> convolution, disjoint in rows and columns -> L latents -> transposed convolution -> `(B, D)`.

    As in the authors' code the ReLU of the decoder stands before the transposed convolution; the output has none.
    """

    def __init__(self, config):
        super().__init__()
        self.shape = (config.sequence_length, *config.shape)
        sides = zip(config.shape, config.kernel, strict=True)
        pads, counts, output_paddings = zip(*(tiling(n, k, k, "released") for n, k in sides), strict=True)
        kernel, stride = tuple(config.kernel), (1, *config.kernel)
        depth = config.sequence_length - config.sequence_kernel + 1
        self.grid = (config.channels, 1, *counts)
        self.encoder = nn.Conv3d(1, config.channels, (config.sequence_kernel, *kernel), stride, (0, *pads))
        self.heads = nn.Linear(config.channels * depth * math.prod(counts), 2 * config.latent_dim)
        self.linear = nn.Linear(config.latent_dim, math.prod(self.grid))
        self.decoder = nn.ConvTranspose3d(
            config.channels, 1, (1, *kernel), stride, (0, *pads), output_padding=(0, *output_paddings)
        )

    def forward(self, x):
        units = F.relu(self.encoder(x.view(-1, 1, *self.shape))).flatten(1)
        mean, log_variance = self.heads(units).chunk(2, dim=-1)
        latents = reparameterize(mean, log_variance) if self.training else mean
        array = self.decoder(F.relu(self.linear(latents)).view(-1, *self.grid))  # (B, 1, 1, rows, columns)
        return array.flatten(1), latents, mean, log_variance


class BLMBaseline(SparseVAEPreTrainedModel):
    """A feed-forward net, a convolutional net or a one-level VAE that answers matrices.

    Args:
        config: a `BLMBaselineConfig`.

    Example:
        >>> from hf_repgeo.sparse_vae import BLMBaseline, BLMBaselineConfig
        >>> BLMBaseline(BLMBaselineConfig(architecture="vae")).num_parameters()
        39595
    """

    config_class = BLMBaselineConfig

    def __init__(self, config):
        super().__init__(config)
        self.body = {"ffnn": FeedForward, "cnn": Convolutional, "vae": OneLevelVAE}[config.architecture](config)
        self.post_init()

    def forward(
        self,
        inputs_embeds: torch.Tensor | None = None,
        candidates: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        candidate_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SparseVAEOutput | tuple:
        """Solve matrices; arguments and errors as `SparseVAEForBLM.forward`.

        Returns:
            `SparseVAEOutput`. Loss: `max_margin`, for `"vae"` plus `beta * (L / D) * KL`.
        """
        config = self.config
        inputs_embeds = check_sequences(inputs_embeds, config)
        decoded = self.body(inputs_embeds)
        decoded, latents, *posterior = decoded if isinstance(decoded, tuple) else (decoded, None)
        logits, loss = score_candidates(decoded, candidates, labels, candidate_mask), None
        if labels is not None and candidates is not None:
            loss = max_margin(decoded, candidates, labels, config.margin, candidate_mask)
            if posterior:
                loss = loss + config.beta * config.latent_dim / config.hidden_size * kl_divergence(*posterior)
        output = SparseVAEOutput(loss, logits, latents, decoded, *posterior)
        return output if return_dict is not False else output.to_tuple()
