"""Configurations of the sparse VAE (Nastase & Merlo 2024, arXiv 2407.18119), its two-level form and the baselines.

transformers copies this file beside a checkpoint, so it imports transformers and nothing else of this package. It has
a classic `__init__` because a checkpoint's code runs on its reader's version of transformers, and the dataclass style
changed within version 5. `AutoConfig` and `AutoModel` are imported where they are used: importing them here would run
the hook that registers these classes before they exist.
"""

import math

from transformers import PreTrainedConfig

PADDINGS = ("released", "none", "symmetric")
MASKS = ("none", "random", "balanced", "per_channel", "per_region", "learned")
MASK_SCOPES = ("mean", "mean+logvar")
DECODER_MASKS = ("none", "mirror", "random")
POOLINGS = ("cls", "mean", "first-last", "sentence")
ACTIVATIONS = (None, "relu")

# What register_for_auto_class would set; calling it would import the Auto classes too early.
AUTO_CONFIG = "AutoConfig"

_STRIDE_ONE = {
    "stride": (1, 1),
    "mask": "none",
    "decoder_mask": "none",
    "decoder_bias": True,
    "decoder_activation": None,
    "output_activation": "relu",
}
_PRESETS = {
    "base": _STRIDE_ONE,
    "sparse": {"mask": "per_region"},
    "sparse_units": {"mask": "random"},
    "dense_stride": {"mask": "none", "decoder_mask": "none", "decoder_bias": True},
    "released": {"compat": "released", "decoder_mask": "random", "sample_in_eval": True},
}


def _choice(name, value, known):
    if value not in known:
        raise ValueError(f"`{name}`: got {value!r}; wanted one of {', '.join(map(repr, known))}.")
    return value


def _pair(name, value):
    values = [value, value] if isinstance(value, int) else list(value)
    if len(values) != 2 or any(not isinstance(v, int) or v < 1 for v in values):
        raise ValueError(f"`{name}`: got {value!r}; wanted a positive integer or two of them (rows, columns).")
    return values


def _positive(name, value):
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}`: got {value!r}; wanted a positive integer.")
    return value


def array_shape(hidden_size):
    """The most nearly square array of `hidden_size` cells: 768 -> 32 x 24, 384 -> 16 x 24, 1024 -> 32 x 32.

    Of the two orientations, the side with the higher power of two becomes the rows (then the longer side).

    Args:
        hidden_size: the number of dimensions of an embedding.

    Returns:
        `[rows, columns]` with `rows * columns == hidden_size`.

    Raises:
        ValueError: no factor is near enough to a square for a two-dimensional kernel, as for prime numbers.
    """
    short = max(side for side in range(1, math.isqrt(hidden_size) + 1) if hidden_size % side == 0)
    long = hidden_size // short
    if short * 16 < long:
        raise ValueError(
            f"`hidden_size`: {hidden_size} factors only into {long} x {short}, no two-dimensional array; "
            "give `shape=(rows, columns)` and a kernel that fits, or another embedding size."
        )
    # n & -n is the largest power of two that divides n
    return [long, short] if (long & -long) >= (short & -short) else [short, long]


def _number(name, value, positive=False):
    wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)
    if wrong or value < 0 or (positive and value == 0):
        raise ValueError(f"`{name}`: got {value!r}; wanted a {'positive' if positive else 'non-negative'} number.")
    return value


class SparseVAEConfig(PreTrainedConfig):
    """Settings of `SparseVAEForSentenceEmbedding`; the defaults are those of the preset `sparse_units`.

    Args:
        hidden_size: dimensions of the sentence embedding, D.
        shape: `(rows, columns)` of the array the embedding is reshaped to, row by row. Default:
            `array_shape(hidden_size)`.
        channels: channels of the convolution, C.
        kernel, stride: `(rows, columns)` or one integer for both. Where they are equal, receptive fields are disjoint.
        padding: `"released"` the authors' rule (strong padding at the top and left: their six regions hold 18, 30, 135,
            225, 135 and 225 of the 768 cells), `"symmetric"` the least padding that covers all cells, `"none"` no
            padding: cells at the right and bottom that no kernel reaches are lost.
        latent_dim: latent units, L.
        mask: which CNN units (a channel in a region) feed which latent means. `"none"`: all feed all; `"random"`: each
            feeds one latent drawn by chance; `"balanced"`: the same with equal numbers per latent; `"per_channel"`,
            `"per_region"`: all units of a channel (region) feed the same latent; `"learned"`: by straight-through
            gradient.
        latents_per_unit: how many of the `latent_dim` latents a unit feeds; 1 to 5: sparsity 0.8 to 0.
        mask_scope: `"mean"` masks the mean head only, `"mean+logvar"` both heads.
        mask_temperature: of the softmax that carries the gradient of a learned mask.
        mask_seed: seed of the drawing; the global generator is not touched.
        decoder_mask: `"mirror"` each unit reads the latents that it feeds, `"random"` others drawn in the same way,
            `"none"` all.
        trainable_masked_weights: False freezes masked weights as drawn, which is one of the defects of the released
            code.
        decoder_bias: whether the map from latents to units has a bias.
        decoder_activation: `"relu"` or None between that map and the transposed convolution.
        output_activation: `"relu"` or None on the decoded array. With `"relu"` a decoder can die.
        sample_in_eval: draw latents in evaluation too instead of taking their means.
        beta: weight of the KL term, which is also multiplied by `latent_dim / hidden_size` (5/768 in the paper).
        margin: of the max-margin losses.
        permutation_seed: shuffles the D dimensions before the reshape, always in the same way, and undoes it after
            decoding: the control that tells a region from any subset of its size.
        compat: `"released"` builds the authors' layer with its defects (no gradient to masks and masked weights, means
            and log-variances interleaved, unused parameters); for comparison only.
        encoder: name of the text encoder whose embeddings the model was trained on, as it was given, or None.
        embedding: what made these embeddings, exactly: model and commit or digest, layer, pooling; or None.
        text_config: configuration of a wrapped text encoder (a `PreTrainedConfig` or its dict), or None.
        pooling: how token states become a sentence embedding: `"cls"` token 0, `"mean"` over tokens, `"first-last"`
            mean over tokens of the first and the last layer's average, `"sentence"` as a SentenceTransformer makes it,
            which a wrapped encoder cannot.
        layer: index into `hidden_states` (0 = embedding layer, -1 = last).

    Raises:
        ValueError: a value out of its range; the message names the argument.

    Example:
        >>> from hf_repgeo.sparse_vae import SparseVAEConfig
        >>> SparseVAEConfig.preset("base", hidden_size=384).shape
        [16, 24]
    """

    model_type = "sparse_vae"
    _auto_class = AUTO_CONFIG
    sub_configs = {"text_config": PreTrainedConfig}
    keys_to_ignore_at_inference = ["reconstruction", "latents", "mean", "log_variance"]

    def __init__(
        self,
        hidden_size=768,
        shape=None,
        channels=40,
        kernel=(15, 15),
        stride=(15, 15),
        padding="released",
        latent_dim=5,
        mask: str = "random",
        latents_per_unit: int = 1,
        mask_scope="mean",
        mask_temperature=1.0,
        mask_seed=0,
        decoder_mask="mirror",
        trainable_masked_weights=True,
        decoder_bias=False,
        decoder_activation="relu",
        output_activation=None,
        sample_in_eval=False,
        beta=1.0,
        margin=1.0,
        permutation_seed: int | None = None,
        compat=None,
        encoder=None,
        embedding=None,
        text_config=None,
        pooling="cls",
        layer=-1,
        **kwargs,
    ):
        self.hidden_size = _positive("hidden_size", hidden_size)
        self.shape = array_shape(hidden_size) if shape is None else _pair("shape", shape)
        self.channels = _positive("channels", channels)
        self.kernel = _pair("kernel", kernel)
        self.stride = _pair("stride", stride)
        self.padding = _choice("padding", padding, PADDINGS)
        self.latent_dim = _positive("latent_dim", latent_dim)
        self.mask = _choice("mask", mask, MASKS)
        self.latents_per_unit = _positive("latents_per_unit", latents_per_unit)
        self.mask_scope = _choice("mask_scope", mask_scope, MASK_SCOPES)
        self.mask_temperature = _number("mask_temperature", mask_temperature, positive=True)
        self.mask_seed = mask_seed
        self.decoder_mask = _choice("decoder_mask", decoder_mask, DECODER_MASKS)
        self.trainable_masked_weights = trainable_masked_weights
        self.decoder_bias = decoder_bias
        self.decoder_activation = _choice("decoder_activation", decoder_activation, ACTIVATIONS)
        self.output_activation = _choice("output_activation", output_activation, ACTIVATIONS)
        self.sample_in_eval = sample_in_eval
        self.beta = _number("beta", beta)
        self.margin = _number("margin", margin)
        self.permutation_seed = permutation_seed
        self.compat = _choice("compat", compat, (None, "released"))
        self.encoder = encoder
        self.embedding = embedding
        self.text_config = self._as_config(text_config)
        self.pooling = _choice("pooling", pooling, POOLINGS)
        self.layer = layer
        self._check_sizes()
        super().__init__(**kwargs)

    @classmethod
    def preset(cls, name, **settings):
        """One of the models of the comparison; `settings` override its values.

        Args:
            name: `"base"` (stride 1, dense), `"sparse"` (stride 15, every region feeds one latent, as the paper
                describes it), `"sparse_units"` (every unit, a channel in a region, feeds one latent drawn by chance, so
                every region feeds all latents: what the authors' code builds, with trained weights), `"dense_stride"`
                (stride 15, dense: differs from the two in the masks and the decoder's bias only) or `"released"` (the
                authors' code).
            **settings: any argument of the configuration.

        Returns:
            A configuration of this class.

        Raises:
            ValueError: an unknown name.
        """
        return cls(**{**cls._preset(name), **settings})

    @classmethod
    def _preset(cls, name):
        return _PRESETS[_choice("preset", name, tuple(_PRESETS))]

    @staticmethod
    def _as_config(text_config):
        if not isinstance(text_config, dict):
            return text_config
        from transformers import AutoConfig

        settings = dict(text_config)
        return AutoConfig.for_model(settings.pop("model_type"), **settings)

    def _check_sizes(self):
        rows, columns = self.shape
        if rows * columns != self.hidden_size:
            raise ValueError(
                f"`shape`: {rows} x {columns} = {rows * columns} cells cannot hold an embedding of "
                f"`hidden_size` {self.hidden_size}; wanted two factors of {self.hidden_size}, or None."
            )
        for side, kernel, stride in zip(self.shape, self.kernel, self.stride, strict=True):
            if kernel > side or stride > kernel:
                raise ValueError(
                    f"`kernel`: got {self.kernel} with stride {self.stride} on an array {self.shape}; wanted "
                    "stride <= kernel <= array in both directions (a larger stride would skip cells)."
                )
        if self.latents_per_unit > self.latent_dim:
            raise ValueError(f"`latents_per_unit`: got {self.latents_per_unit}; wanted at most {self.latent_dim}.")
        if self.compat == "released" and self.mask != "random":
            raise ValueError(f"`mask`: got {self.mask!r} with compat='released', which has its own; wanted 'random'.")
        if self.text_config is not None and self.text_config.hidden_size != self.hidden_size:
            raise ValueError(
                f"`hidden_size`: got {self.hidden_size}, but the text encoder gives {self.text_config.hidden_size}."
            )


class SparseVAEForBLMConfig(SparseVAEConfig):
    """Settings of `SparseVAEForBLM`: those of the sentence level, and the sequence level on top.

    Args:
        sequence_length: sentences in a matrix's context, 7 in the paper.
        sequence_latent_dim: latent units of the sequence level.
        sequence_channels, sequence_kernel: of the convolution over the (sequence_length, latent_dim) array.
        answer_channels: channels of the answer decoder: 32 in the authors' base model, 40 in their sparse one.
        sentence_beta: weight of the sentence level's KL term; `beta` weighs the sequence level's.
        sentence_negatives: `"instance"` the other sentences of the same matrix, `"cyclic"` the next three sentences of
            the flattened batch as in the released code, where an instance's last sentences meet the next instance's.
        **kwargs: everything that `SparseVAEConfig` takes.

    Raises:
        ValueError: a value out of its range.
    """

    model_type = "sparse_vae_blm"
    keys_to_ignore_at_inference = SparseVAEConfig.keys_to_ignore_at_inference + [
        "sentence_reconstruction",
        "sentence_latents",
    ]

    def __init__(
        self,
        sequence_length=7,
        sequence_latent_dim=5,
        sequence_channels=32,
        sequence_kernel=(4, 4),
        answer_channels=40,
        sentence_beta=1.0,
        sentence_negatives="instance",
        **kwargs,
    ):
        self.sequence_length = _positive("sequence_length", sequence_length)
        self.sequence_latent_dim = _positive("sequence_latent_dim", sequence_latent_dim)
        self.sequence_channels = _positive("sequence_channels", sequence_channels)
        self.sequence_kernel = _pair("sequence_kernel", sequence_kernel)
        self.answer_channels = _positive("answer_channels", answer_channels)
        self.sentence_beta = _number("sentence_beta", sentence_beta)
        self.sentence_negatives = _choice("sentence_negatives", sentence_negatives, ("instance", "cyclic"))
        super().__init__(**kwargs)
        if self.sequence_kernel[0] > self.sequence_length or self.sequence_kernel[1] > self.latent_dim:
            raise ValueError(
                f"`sequence_kernel`: got {self.sequence_kernel}; wanted at most "
                f"[{self.sequence_length}, {self.latent_dim}], the sentences of a matrix by the latents of a sentence."
            )

    @classmethod
    def _preset(cls, name):
        own = {"base": {"answer_channels": 32}, "released": {"sentence_negatives": "cyclic"}}
        return {**super()._preset(name), **own.get(name, {})}


class BLMBaselineConfig(PreTrainedConfig):
    """Settings of `BLMBaseline`, the plain models that solve matrices without a sentence level.

    Args:
        architecture: `"ffnn"` three linear layers with ReLU, `"cnn"` one 3-D convolution and one linear layer, `"vae"`
            a one-level VAE over the stack of arrays.
        hidden_size, shape: as in `SparseVAEConfig`.
        sequence_length: sentences in a matrix's context.
        channels: channels of the convolution.
        kernel: `(rows, columns)` of the convolution over each array; `sequence_kernel` sentences are seen at once.
        sequence_kernel: sentences under the kernel at once.
        latent_dim: latent units of `"vae"`.
        beta, margin: as in `SparseVAEConfig`.

    Raises:
        ValueError: a value out of its range.
    """

    model_type = "blm_baseline"
    _auto_class = AUTO_CONFIG
    keys_to_ignore_at_inference = ["reconstruction", "latents", "mean", "log_variance"]

    def __init__(
        self,
        architecture="ffnn",
        hidden_size=768,
        shape=None,
        sequence_length=7,
        channels=32,
        kernel=(15, 15),
        sequence_kernel=3,
        latent_dim=5,
        beta=1.0,
        margin=1.0,
        **kwargs,
    ):
        self.architecture = _choice("architecture", architecture, ("ffnn", "cnn", "vae"))
        self.hidden_size = _positive("hidden_size", hidden_size)
        self.shape = array_shape(hidden_size) if shape is None else _pair("shape", shape)
        self.sequence_length = _positive("sequence_length", sequence_length)
        self.channels = _positive("channels", channels)
        self.kernel = _pair("kernel", kernel)
        self.sequence_kernel = _positive("sequence_kernel", sequence_kernel)
        self.latent_dim = _positive("latent_dim", latent_dim)
        self.beta = _number("beta", beta)
        self.margin = _number("margin", margin)
        if self.shape[0] * self.shape[1] != self.hidden_size:
            raise ValueError(f"`shape`: got {self.shape}; wanted two factors of `hidden_size` {self.hidden_size}.")
        super().__init__(**kwargs)
