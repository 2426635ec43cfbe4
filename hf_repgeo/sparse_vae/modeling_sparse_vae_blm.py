"""The two-level sparse VAE for Blackbird Language Matrices (Nastase & Merlo 2024, arXiv 2407.18119).

transformers copies this file beside a checkpoint, with the siblings that it imports.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_sparse_vae import SparseVAEConfig, SparseVAEForBLMConfig
from .layers_sparse_vae import SentenceDecoder, SentenceVAE, reparameterize
from .losses_sparse_vae import cyclic_negatives, instance_negatives, kl_divergence, max_margin, normalised_max_margin
from .modeling_sparse_vae import SparseVAEOutput, SparseVAEPreTrainedModel, check_sequences, score_candidates


class SequenceEncoder(nn.Module):
    """Sentence latents `(B, S, L)` -> mean and log-variance of the sequence, `(B, L_t)` each."""

    def __init__(self, config):
        super().__init__()
        kernel = tuple(config.sequence_kernel)
        self.convolution = nn.Conv2d(1, config.sequence_channels, kernel)
        places = (config.sequence_length - kernel[0] + 1) * (config.latent_dim - kernel[1] + 1)
        self.heads = nn.Linear(config.sequence_channels * places, 2 * config.sequence_latent_dim)

    def forward(self, latents):
        units = F.relu(self.convolution(latents[:, None])).flatten(1)  # (B, C * places)
        return self.heads(units).chunk(2, dim=-1)


class SparseVAEForBLM(SparseVAEPreTrainedModel):
    """Two levels: seven sentences are compressed one by one, then their latents together; from these the answer is
    decoded.

    Sentence level `(B * S, D)` -> `(B, S, L)`; sequence level `(B, 1, S, L)` -> convolution -> L_t latents; answer
    decoder -> `(B, D)`, compared with the embeddings of the candidate answers.

    Args:
        config: a `SparseVAEForBLMConfig`.

    Example:
        >>> import torch
        >>> from hf_repgeo.sparse_vae import SparseVAEForBLM, SparseVAEForBLMConfig
        >>> model = SparseVAEForBLM(SparseVAEForBLMConfig.preset("base"))
        >>> model.num_parameters()
        178126
    """

    config_class = SparseVAEForBLMConfig

    def __init__(self, config):
        super().__init__(config)
        self.sentence = SentenceVAE(config)
        self.sequence = SequenceEncoder(config)
        self.answer = SentenceDecoder(_answer_config(config), config.sequence_latent_dim, config.answer_channels)
        self.post_init()

    def encode_sequence(self, sentence_latents):
        """`(B, S, L)` -> `(latents, mean, log_variance)`, `(B, L_t)` each."""
        mean, log_variance = self.sequence(sentence_latents)
        drawn = self.training or self.config.sample_in_eval
        return reparameterize(mean, log_variance) if drawn else mean, mean, log_variance

    def forward(
        self,
        inputs_embeds: torch.Tensor | None = None,
        candidates: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        candidate_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SparseVAEOutput | tuple:
        """Solve matrices.

        Args:
            inputs_embeds: `(B, S, D)` embeddings of the context sentences.
            candidates: `(B, K, D)` embeddings of the candidate answers.
            labels: `(B,)` int64, index of the right one; asks for the loss.
            candidate_mask: `(B, K)` bool, False where an instance has fewer than K candidates; their logits are
                minus infinity.
            return_dict: False for a plain tuple.

        Returns:
            `SparseVAEOutput`. Loss: `max_margin` of the answer + `normalised_max_margin` of each decoded sentence
            against its own input + `beta * (L / D) * KL` of the sequence + `sentence_beta * (L / D) * KL` of the
            sentences.

        Raises:
            ValueError: wrong shapes, NaN or infinity, labels that name no candidate.
        """
        inputs_embeds = check_sequences(inputs_embeds, self.config)
        size = self.config.hidden_size
        rebuilt, drawn, *sentence_posterior = self.sentence(inputs_embeds.flatten(0, 1))
        sentence_latents = drawn.unflatten(0, inputs_embeds.shape[:2])  # (B, S, L)
        latents, mean, log_variance = self.encode_sequence(sentence_latents)
        decoded = self.answer(latents)
        logits, loss = score_candidates(decoded, candidates, labels, candidate_mask), None
        if labels is not None and candidates is not None:
            loss = max_margin(decoded, candidates, labels, self.config.margin, candidate_mask)
            loss = loss + self.sentence_loss(inputs_embeds, rebuilt, *sentence_posterior)
            loss = loss + self.config.beta * self.config.sequence_latent_dim / size * kl_divergence(mean, log_variance)
        rebuilt = rebuilt.view_as(inputs_embeds)
        output = SparseVAEOutput(loss, logits, latents, decoded, mean, log_variance, rebuilt, sentence_latents)
        return output if return_dict is not False else output.to_tuple()

    def sentence_loss(self, sentences, rebuilt, mean, log_variance):
        """Sentence level's part of the loss: `sentences (B, S, D)`, `rebuilt (B * S, D)`, posterior `(B * S, L)`."""
        draw = instance_negatives if self.config.sentence_negatives == "instance" else cyclic_negatives
        own = torch.zeros(len(rebuilt), dtype=torch.long, device=rebuilt.device)  # candidate 0 is the sentence itself
        loss = normalised_max_margin(rebuilt, draw(sentences), own, self.config.margin)
        weight = self.config.sentence_beta * self.config.latent_dim / self.config.hidden_size
        return loss + weight * kl_divergence(mean, log_variance)


def _answer_config(config):
    """The answer decoder is the base model's decoder (stride 1, dense) in every variant."""
    settings = {key: getattr(config, key) for key in ("hidden_size", "shape", "kernel", "latent_dim")}
    return SparseVAEConfig.preset("base", **settings)
