"""The geometry of one model's last layer on a fixed sample that is tokenized once for all its perturbed versions."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..errors import BadInput
from ..measures import PointCloud, evaluate_all, resolve
from ..rows.forward import forward_windows
from ..rows.windows import Windows, resolve_window, window_limit

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..rows.capture import Place

# Measures that cost little compared with the forward pass: spectra, directions, and those of one product quantizer.
CHEAP = (
    "anisotropy",
    "effective_rank",
    "participation_ratio",
    "iso_score",
    "early_enrichment",
    "mean_cosine",
    "patchiness",
    "cell_count_variance",
    "cell_count_divergence",
    "reconstruction_error",
    "reconstruction_error_range",
    "reconstruction_error_skewness",
    "cell_density_variance",
    "massive_share",
)


@dataclass(frozen=True)
class TokenizedTexts:
    """Texts as token sequences, the longest first, so that a batch holds little padding.

    Attributes:
        windows: the sequences; their documents are positions in the list of texts.
        count: texts.
    """

    windows: Windows
    count: int

    @classmethod
    def of(cls, texts: list[str], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> TokenizedTexts:
        """Tokenizes each text by itself, special tokens included, cut at the model's limit."""
        length = resolve_window(None, window_limit(model, tokenizer))
        ids = tokenizer(texts, truncation=True, max_length=length, verbose=False)["input_ids"]
        order = sorted((i for i in range(len(ids)) if ids[i]), key=lambda i: -len(ids[i]))
        if not order:
            raise BadInput("texts", came=f"{len(texts)} texts without a token", wanted="at least one token")
        return cls(Windows([ids[i] for i in order], [[i] * len(ids[i]) for i in order]), len(texts))

    @property
    def tokens(self) -> int:
        return sum(map(len, self.windows.ids))


@torch.no_grad()
def last_layer(
    model: PreTrainedModel, texts: TokenizedTexts, *, batch_size: int = 64, bf16: bool = False, layer: int = -1
) -> torch.Tensor:
    """Rows of the last layer, one per token, `(tokens, hidden_size)` float32, padding left out.

    Args:
        model: in eval mode.
        texts: what to run.
        batch_size: sequences per forward pass.
        bf16: matrix products in bfloat16 (autocast); weights stay as they are.
        layer: index into `hidden_states`.
    """
    kind = model.device.type
    parts = []
    with torch.autocast(kind, torch.bfloat16) if bf16 else nullcontext():
        for _, states in forward_windows(model, texts.windows, [layer], "applied", batch_size, None):
            parts.append(states[_last(states)].float())
    return torch.cat(parts)


def _last(places: Iterable[Place]) -> Place:
    """The last place of the first stack: after the final norm where there is one, as transformers' `hidden_states`."""
    places = list(places)
    return [place for place in places if place.stack == places[0].stack][-1]


def text_means(rows: torch.Tensor, texts: TokenizedTexts) -> torch.Tensor:
    """Mean row of every text, `(count, hidden_size)`; zero for a text without a token."""
    owners = torch.tensor([i for document in texts.windows.documents for i in document], device=rows.device)
    sums = rows.new_zeros(texts.count, rows.shape[1]).index_add_(0, owners, rows)
    return sums / torch.bincount(owners, minlength=texts.count).clamp_min(1)[:, None]


def geometry_of(
    rows: torch.Tensor,
    measures: tuple[str, ...] | list[str] = CHEAP,
    *,
    quantizer: str = "product",
    bits: int = 6,
    seed: int = 0,
) -> dict[str, float | None]:
    """Measures of a cloud as a flat dict, one convention each, without standard errors.

    Args:
        rows: `(n, hidden_size)`.
        measures: names as in `hf_repgeo.measure`, or `NAME@QUANTIZER` for a measure of cells by another quantizer
            than `quantizer`, such as `"patchiness@additive"`.
        quantizer: of the measures of cells.
        bits: its codebooks have `2 ** bits` cells. The paper's 8 bits need some 40,000 rows.
        seed: of quantizers.

    Returns:
        Name as asked -> value; `None` where the measure gives none.

    Raises:
        NonFiniteRows: the model gives NaN or infinity.
        UnknownName: no such measure or quantizer.
    """
    cloud = PointCloud(rows, jackknife=False, seed=seed, argument="rows")
    values: dict[str, float | None] = {}
    for kind in dict.fromkeys(name.partition("@")[2] or quantizer for name in measures):
        asked = [name for name in measures if (name.partition("@")[2] or quantizer) == kind]
        pairs = [resolve([name.partition("@")[0]])[0] for name in asked]
        estimates = evaluate_all(cloud, pairs, quantizer=kind, bits=bits)
        values |= {name: estimate.value for name, estimate in zip(asked, estimates, strict=True)}
    return {name: values[name] for name in measures}


def drift(rows: torch.Tensor, base: torch.Tensor) -> float:
    """How far the rows moved: 1 minus the mean cosine of each token's row with its unperturbed one, 0 to 2."""
    cosines = torch.nn.functional.cosine_similarity(rows, base.to(rows), dim=1)
    return float(1 - cosines.double().mean())
