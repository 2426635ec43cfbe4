"""Sparse VAE over sentence embeddings; `modeling_sparse_vae_blm.py` has its two-level form.

Nastase & Merlo 2024, "Tracking linguistic information in transformer-based sentence embeddings through targeted
sparsification", arXiv 2407.18119. transformers copies this file and its siblings beside a checkpoint, so they import
only torch, transformers and each other.
"""

import copy
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .configuration_sparse_vae import SparseVAEConfig
from .layers_sparse_vae import (
    FixedRouting,
    LearnedRouting,
    MaskedLinear,
    Permutation,
    ReleasedMaskedLinear,
    SentenceVAE,
)
from .losses_sparse_vae import (
    choose,
    cosine_scores,
    kl_divergence,
    normalised_max_margin,
)


@dataclass
class SparseVAEOutput(ModelOutput):
    """The models' output; B instances, K candidates, D dimensions, L latents.

    Args:
        loss: scalar, when `labels` were given: margin loss plus weighted KL terms.
        logits: `(B, K)` cosine of the decoded vector with each candidate, when `candidates` were given.
        latents: `(B, L)` drawn in training, the means in evaluation.
        reconstruction: `(B, D)` the decoded vector.
        mean, log_variance: `(B, L)` of the posterior.
        sentence_reconstruction: `(B, S, D)` decoded sentences (two-level model only).
        sentence_latents: `(B, S, L)` (two-level model only).
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    mean: torch.Tensor | None = None
    log_variance: torch.Tensor | None = None
    sentence_reconstruction: torch.Tensor | None = None
    sentence_latents: torch.Tensor | None = None


def check_embeddings(name, x, *shape):
    """Refuse what is not a finite tensor of `shape` (None: any size). While compiling, values are not checked."""
    wanted = ", ".join("any" if size is None else str(size) for size in shape)
    if x.dim() != len(shape) or any(size not in (None, got) for size, got in zip(shape, x.shape, strict=True)):
        raise ValueError(f"`{name}`: got shape {tuple(x.shape)}; wanted ({wanted}).")
    if torch.compiler.is_compiling() or x.sum().isfinite():  # NaN or infinity spoil a sum
        return
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).flatten(1).any(-1).sum())
        raise ValueError(f"`{name}`: NaN or infinity in {bad} of {len(x)} rows; wanted finite numbers.")


def check_sequences(x, config) -> torch.Tensor:
    """`(B, S, D)` embeddings of the context sentences of matrices; refuse what is not."""
    if x is None:
        raise ValueError("`inputs_embeds`: got None; wanted (batch, sequence, hidden_size).")
    check_embeddings("inputs_embeds", x, None, config.sequence_length, config.hidden_size)
    return x


def check_labels(labels, candidates, candidate_mask=None):
    """Refuse labels that name no candidate."""
    if candidates is None:
        raise ValueError("`labels`: given without `candidates`; wanted both, or neither.")
    if torch.compiler.is_compiling():
        return
    if labels.shape != candidates.shape[:1] or labels.min() < 0 or labels.max() >= candidates.shape[1]:
        raise ValueError(
            f"`labels`: got {labels.tolist()[:5]}... "
            f"for {len(candidates)} instances of {candidates.shape[1]} candidates; "
            f"wanted for each instance the index of its answer, 0 to {candidates.shape[1] - 1}."
        )
    if candidate_mask is not None and not candidate_mask.gather(1, labels[:, None]).all():
        raise ValueError("`labels`: an answer where `candidate_mask` is False; wanted answers among the candidates.")


def score_candidates(decoded, candidates, labels, candidate_mask=None):
    """Cosines `(B, K)` of the decoded vectors with their candidates, None without them; refuses what does not fit."""
    if candidates is not None:
        check_embeddings("candidates", candidates, len(decoded), None, decoded.shape[1])
    check_mask(candidate_mask, candidates)
    if labels is not None:
        check_labels(labels, candidates, candidate_mask)
    if candidates is None:
        return None
    scores = cosine_scores(decoded, candidates)
    return scores if candidate_mask is None else scores.masked_fill(~candidate_mask, -torch.inf)


def check_mask(candidate_mask, candidates):
    """Refuse a mask that is not a bool for each candidate, or leaves an instance fewer than two."""
    if candidate_mask is None:
        return
    if candidates is None or candidate_mask.dtype != torch.bool or candidate_mask.shape != candidates.shape[:2]:
        shape = None if candidates is None else tuple(candidates.shape[:2])
        raise ValueError(
            f"`candidate_mask`: got {candidate_mask.dtype} of shape {tuple(candidate_mask.shape)} "
            f"for candidates {shape}; wanted bool of that shape."
        )
    if not torch.compiler.is_compiling() and candidate_mask.sum(-1).min() < 2:
        raise ValueError("`candidate_mask`: an instance with fewer than two candidates; wanted an answer and another.")


class SparseVAEPreTrainedModel(PreTrainedModel):
    """The initialisation that the models here share."""

    # as register_for_auto_class would set it, which imports the Auto classes too early
    _auto_class: str = "AutoModel"  # type: ignore[assignment]
    config_class: type[PreTrainedConfig] = SparseVAEConfig
    base_model_prefix = "sparse_vae"
    main_input_name = "inputs_embeds"
    _no_split_modules = ["SentenceVAE"]

    def push_to_hub(self, *arguments, **options):
        """As in transformers; of an encoder's path on this machine only the last name goes up."""
        here = self.config.encoder
        self.config.encoder = Path(here).name if here and Path(here).expanduser().is_absolute() else here
        try:
            return super().push_to_hub(*arguments, **options)
        finally:
            self.config.encoder = here

    @torch.no_grad()
    def _init_weights(self, module):
        # transformers.initialization leaves alone what a checkpoint has already filled; raw in-place writes would not.
        if isinstance(module, ReleasedMaskedLinear):
            self._init_released(module)
        elif isinstance(
            module, (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, MaskedLinear)
        ):
            self._init_as_torch(module)
        elif isinstance(module, LearnedRouting):
            init.normal_(module.logits, std=0.01)
        elif isinstance(module, FixedRouting):
            init.copy_(module.mask, module.draw())
        elif isinstance(module, Permutation):
            order = module.draw()
            init.copy_(module.order, order)
            init.copy_(module.inverse, order.argsort())

    @staticmethod
    def _init_as_torch(module):
        """torch's own default for linear layers and convolutions: uniform within 1 / sqrt(fan-in)."""
        fan_in = module.weight[0].numel()
        init.uniform_(module.weight, -(fan_in**-0.5), fan_in**-0.5)
        if module.bias is not None:
            init.uniform_(module.bias, -(fan_in**-0.5), fan_in**-0.5)

    @staticmethod
    def _init_released(module):
        latents, units = module.weight.shape
        init.kaiming_uniform_(module.weight, a=(latents * units) ** 0.5)
        init.uniform_(module.bias, -(units**-0.5), units**-0.5)
        init.uniform_(module.mask_logits)
        init.constant_(module.scale, 5**0.5)


class SparseVAEForSentenceEmbedding(SparseVAEPreTrainedModel):
    """A VAE that reads a sentence embedding as an array and keeps what distinguishes its pattern from others.

    Embedding `(B, D)` -> array `(B, 1, rows, columns)` -> convolution -> masked one-to-one routing -> L latents ->
    mirrored decoder -> `(B, D)`. Given candidates, the decoded vector is trained to be nearer to the right one than to
    the others (the right one is another sentence of the same pattern, not the input itself).

    Args:
        config: a `SparseVAEConfig`. With `config.text_config` a text encoder of that kind is part of the model, frozen.

    Example:
        >>> import torch
        >>> from hf_repgeo.sparse_vae import SparseVAEConfig, SparseVAEForSentenceEmbedding
        >>> model = SparseVAEForSentenceEmbedding(SparseVAEConfig.preset("sparse")).eval()
        >>> model(inputs_embeds=torch.zeros(2, 768)).latents.shape
        torch.Size([2, 5])
        >>> model.num_parameters(), model.num_unmasked_parameters()
        (21651, 19731)
    """

    def __init__(self, config):
        super().__init__(config)
        self.sentence = SentenceVAE(config)
        self.text_encoder = None
        self._loaded = None  # an encoder and its tokenizer, in a tuple: no part of this model's weights
        if config.text_config is not None:
            from transformers import AutoModel

            self.text_encoder = AutoModel.from_config(config.text_config).requires_grad_(False).eval()
        self.post_init()

    @classmethod
    def from_text_encoder(cls, text_encoder, config=None, **settings):
        """A new model around a text encoder with its weights.

        Args:
            text_encoder: any encoder that gives `hidden_states`, such as `AutoModel.from_pretrained(...)`.
            config: a `SparseVAEConfig` without `text_config`, which is copied; default: one made from `settings`.
            **settings: arguments of `SparseVAEConfig` besides `hidden_size`.

        Returns:
            A model that takes `input_ids`; the encoder is frozen and stays in eval mode.

        Raises:
            ValueError: the encoder has another hidden size than `config`.
        """
        size = text_encoder.config.hidden_size
        config = SparseVAEConfig(hidden_size=size, **settings) if config is None else copy.deepcopy(config)
        if config.hidden_size != size:
            raise ValueError(
                f"`config`: got hidden_size {config.hidden_size} for an encoder of {size}; wanted the same."
            )
        model = cls(config)
        config.text_config = text_encoder.config
        config.encoder = config.encoder or text_encoder.config._name_or_path or None
        model.text_encoder = text_encoder.requires_grad_(False).eval()
        return model

    def train(self, mode=True):
        """Sets the mode of the sparse VAE; the frozen text encoder stays in eval mode, without dropout."""
        super().train(mode)
        if self.text_encoder is not None:
            self.text_encoder.eval()
        return self

    def get_input_embeddings(self):
        """The text encoder's embedding of tokens; None without one."""
        return None if self.text_encoder is None else self.text_encoder.get_input_embeddings()

    def num_unmasked_parameters(self):
        """The number of parameters that no mask removes from the computation."""
        vae = self.sentence
        masked = 0
        if vae.routing is not None:
            off = int((~vae.routing.hard()).sum())
            masked = off * (1 + (vae.encoder.scope != "mean") + vae.mirrored)
        if vae.decoder_routing is not None:
            masked += int((~vae.decoder_routing.hard()).sum())
        return self.num_parameters() - masked

    @torch.no_grad()
    def embed_tokens(self, input_ids, attention_mask=None, token_type_ids=None):
        """Sentence embeddings `(B, D)` of the wrapped encoder, by `config.pooling` and `config.layer`.

        Args:
            input_ids: `(B, T)`.
            attention_mask: `(B, T)`, 1 on tokens; default: all.
            token_type_ids: `(B, T)`, for encoders that take them.

        Raises:
            ValueError: the model wraps no text encoder.
        """
        if self.text_encoder is None:
            raise ValueError(
                "`input_ids`: this model wraps no text encoder; give `inputs_embeds` of shape "
                f"(batch, {self.config.hidden_size}), use `encode_sentences`, or build it with `from_text_encoder`."
            )
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        batch = {"input_ids": input_ids, "attention_mask": mask}
        if token_type_ids is not None:
            batch["token_type_ids"] = token_type_ids
        return self._pooled(self.text_encoder, batch)

    def encode_sentences(self, sentences, text_encoder=None, tokenizer=None, batch_size=64):
        """Latents of raw sentences: tokenized, embedded by the text encoder that the model was trained on, encoded.

        Args:
            sentences: a list of strings.
            text_encoder: default: the wrapped one, else the one that `config.encoder` names, which is loaded once.
            tokenizer: default: the one beside that encoder.
            batch_size: sentences per forward pass.

        Returns:
            `(n, L)` float32, the means, on the CPU.

        Raises:
            ValueError: no sentence, no encoder known, or one of another hidden size.
        """
        return torch.cat(
            [
                self.sentence.encode(rows)[0].float().cpu()
                for rows in self._rows_of(sentences, text_encoder, tokenizer, batch_size)
            ]
        )

    def choose_sentences(self, sentences, candidates, text_encoder=None, tokenizer=None):
        """Which candidate has the pattern of each sentence.

        Args:
            sentences: n strings.
            candidates: n lists of two strings or more.
            text_encoder, tokenizer: as in `encode_sentences`.

        Returns:
            n indices of candidates; -1 where no single one scores highest.
        """
        known = [text for one in candidates for text in one]
        given = torch.cat(list(self._rows_of(sentences, text_encoder, tokenizer)))
        sizes = [len(one) for one in candidates]
        offered = torch.cat(list(self._rows_of(known, text_encoder, tokenizer))).split(sizes)
        offered = nn.utils.rnn.pad_sequence(offered, batch_first=True)  # (n, K, D), filled up with zeros
        mask = torch.arange(offered.shape[1]) < torch.tensor(sizes)[:, None]
        with torch.no_grad():
            decoded = self.sentence.decode(self.sentence.encode(given)[0])
        return choose(score_candidates(decoded, offered, None, mask.to(offered.device))).tolist()

    @torch.no_grad()
    def _rows_of(self, sentences, text_encoder=None, tokenizer=None, batch_size=64):
        """Embeddings `(B, D)` of sentences, batch by batch, in order."""
        if isinstance(sentences, str) or not len(sentences):
            raise ValueError(f"`sentences`: got {sentences!r}; wanted a list of at least one string.")
        encoder, tokenizer = self._reader(text_encoder, tokenizer)
        for start in range(0, len(sentences), batch_size):
            rows = self._pooled(encoder, _batch(tokenizer, sentences[start : start + batch_size], encoder.device))
            check_embeddings("text_encoder", rows, None, self.config.hidden_size)
            yield rows.to(self.device, self.dtype)

    def _reader(self, text_encoder, tokenizer):
        """The text encoder, in eval mode, and its tokenizer."""
        encoder = text_encoder if text_encoder is not None else self.text_encoder
        if encoder is None and self._loaded is None:
            self._loaded = _load_encoder(self.config.encoder)
        encoder, own = (encoder, tokenizer) if encoder is not None else self._loaded
        if own is None:
            from transformers import AutoTokenizer

            own = _load(AutoTokenizer, self.config.encoder or encoder.config._name_or_path)
        return encoder.eval(), tokenizer or own

    def _pooled(self, encoder, batch):
        if encoder.config.is_encoder_decoder:
            encoder = encoder.get_encoder()
        states = encoder(**batch, output_hidden_states=True).hidden_states
        return pool(states, batch["attention_mask"], self.config.pooling, self.config.layer)

    def forward(
        self,
        inputs_embeds: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        candidates: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        candidate_mask: torch.Tensor | None = None,
        return_dict: bool | None = None,
    ) -> SparseVAEOutput | tuple:
        """Encode, decode and, if asked, score candidates.

        Args:
            inputs_embeds: `(B, D)` sentence embeddings; or `input_ids` `(B, T)` with `attention_mask` and, where the
                tokenizer gives them, `token_type_ids`, with a text encoder.
            candidates: `(B, K, D)` embeddings to choose among.
            labels: `(B,)` int64, index of the right candidate; asks for the loss.
            candidate_mask: `(B, K)` bool, False where an instance has fewer than K candidates; their logits are
                minus infinity.
            return_dict: False for a plain tuple.

        Returns:
            `SparseVAEOutput`. Loss: `normalised_max_margin + beta * (L / D) * KL`.

        Raises:
            ValueError: wrong shapes, NaN or infinity, labels that name no candidate, no input or two.
        """
        if (inputs_embeds is None) == (input_ids is None):
            raise ValueError("`inputs_embeds`, `input_ids`: wanted one of them.")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids, attention_mask, token_type_ids)
        check_embeddings("inputs_embeds", inputs_embeds, None, self.config.hidden_size)
        decoded, latents, mean, log_variance = self.sentence(inputs_embeds)
        logits, loss = score_candidates(decoded, candidates, labels, candidate_mask), None
        if labels is not None and candidates is not None:
            weight = self.config.beta * self.config.latent_dim / self.config.hidden_size
            loss = normalised_max_margin(decoded, candidates, labels, self.config.margin, candidate_mask)
            loss = loss + weight * kl_divergence(mean, log_variance)
        output = SparseVAEOutput(loss, logits, latents, decoded, mean, log_variance)
        return output if return_dict is not False else output.to_tuple()


def _batch(tokenizer, sentences, device):
    """Token ids, filled up with zeros on the right, and their mask; sentences are cut at the tokenizer's limit."""
    ids = tokenizer(list(sentences), truncation=tokenizer.model_max_length < 10**9)["input_ids"]
    tokens = nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(one), dtype=torch.long) for one in ids], batch_first=True)
    return {"input_ids": tokens.to(device), "attention_mask": mask.to(device)}


def _load_encoder(name):
    """`(encoder, tokenizer)` of a Hub id or folder; of an installed package, by way of hf_repgeo."""
    if name is None:
        raise ValueError("`text_encoder`: got None, and the config names none; wanted the encoder of the training.")
    if name.startswith("pip:"):  # not an import: a checkpoint's code runs without hf_repgeo
        loaded = import_module("hf_repgeo.rows.models").load_model(name)
        return loaded.model, loaded.tokenizer
    from transformers import AutoModel, AutoTokenizer

    return _load(AutoModel, name).eval(), _load(AutoTokenizer, name)


def _load(auto_class, name):
    """The model or tokenizer of a Hub id or folder; code from there is not run."""
    try:
        return auto_class.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`text_encoder`: {auto_class.__name__} cannot load {name!r} ({error}); "
            "wanted an encoder: load it yourself, and give `text_encoder` and `tokenizer`."
        ) from error


def pool(
    hidden_states: tuple[torch.Tensor, ...], attention_mask: torch.Tensor, pooling: str = "cls", layer: int = -1
) -> torch.Tensor:
    """Sentence embeddings from token states.

    Args:
        hidden_states: a tuple of `(B, T, D)`, index 0 the embedding layer.
        attention_mask: `(B, T)`, 1 on tokens, 0 on padding.
        pooling: `"cls"` the first token of the sentence, `"mean"` over its tokens, `"first-last"` the mean over its
            tokens of the average of layers 1 and -1.
        layer: index into `hidden_states`; `"first-last"` does not use it.

    Returns:
        `(B, D)`.
    """
    if pooling == "sentence":
        raise ValueError(
            "`pooling`: the model was trained on embeddings as a SentenceTransformer makes them; "
            "encode with it and give `inputs_embeds`."
        )
    if pooling == "cls":
        first = attention_mask.argmax(-1)  # token 0, or the first after padding on the left
        return hidden_states[layer][torch.arange(len(first), device=first.device), first]
    states = hidden_states[layer] if pooling == "mean" else (hidden_states[1] + hidden_states[-1]) / 2
    weight = attention_mask[..., None].to(states.dtype)
    return (states * weight).sum(1) / weight.sum(1)
