"""Controls for localisation: exchanged regions, shuffled dimensions, removed outliers, planted properties."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..sparse_vae.embeddings import EmbeddingTable
from .ablation import ablate


def counterfactual_pairs(sentences: Sequence, prop: str) -> list[tuple]:
    """Pairs of sentences of one lexicon row whose patterns differ in one number only.

    Args:
        sentences: of `hf_repgeo.blm.chunk_sentences`.
        prop: `"subject"` (the verb changes with it), `"pp1"` or `"pp2"`.

    Returns:
        `(sentence, its counterpart)`, in both orders.
    """
    found = {(sentence.row, sentence.pattern): sentence for sentence in sentences}
    pairs = []
    for (row, pattern), sentence in found.items():
        counterpart = found.get((row, _with_other_number(pattern, prop)))
        if counterpart is not None and counterpart is not sentence:
            pairs.append((sentence, counterpart))
    return pairs


def _with_other_number(pattern: str, prop: str) -> str:
    names = ("np", "vp") if prop == "subject" else (prop,)
    flipped = {"s": "p", "p": "s"}
    chunks = (
        chunk if chunk.split("-")[0] not in names else chunk[:-1] + flipped[chunk[-1]] for chunk in pattern.split()
    )
    return " ".join(chunks)


def interchange_flips(
    predict: Callable, x: torch.Tensor, donors: torch.Tensor, wanted: Sequence, regions: torch.Tensor
) -> torch.Tensor:
    """How often a prediction changes to the counterpart's label when a region is copied from the counterpart.

    Args:
        predict: `(n, hidden_size)` numpy array -> labels, such as a fitted probe's `predict`.
        x: `(n, hidden_size)` sentences.
        donors: `(n, hidden_size)` their counterparts.
        wanted: the counterparts' labels.
        regions: bool `(regions, hidden_size)`.

    Returns:
        `(regions,)` share of predictions that equal the counterpart's label, 0 to 1.
    """
    shares = []
    for region in regions:
        predicted = predict(torch.where(region, donors, x).numpy())
        shares.append(sum(a == b for a, b in zip(predicted, wanted, strict=True)) / len(wanted))
    return torch.tensor(shares, dtype=torch.float64)


def outlier_dimensions(rows: torch.Tensor, share: float = 0.01) -> torch.Tensor:
    """The dimensions with the largest variance.

    Args:
        rows: `(n, hidden_size)`.
        share: how many of all dimensions, at least one.

    Returns:
        bool `(hidden_size,)`.
    """
    variance = rows.double().var(0)
    count = max(1, round(share * len(variance)))
    return torch.zeros_like(variance, dtype=torch.bool).scatter_(0, variance.topk(count).indices, True)


def without_outliers(table: EmbeddingTable, share: float = 0.01) -> EmbeddingTable:
    """A table whose outlier dimensions are set to their mean, to repeat an analysis without them."""
    outliers = outlier_dimensions(table.rows, share)
    rows = ablate(table.rows, outliers, reference=table.rows)
    return EmbeddingTable(table.texts, rows, f"{table.source}-without-{int(outliers.sum())}-outliers")


def permuted(table: EmbeddingTable, seed: int = 0) -> EmbeddingTable:
    """A table with shuffled dimensions, so that neighbours are no longer neighbours."""
    order = torch.randperm(table.rows.shape[1], generator=torch.Generator().manual_seed(seed))
    return EmbeddingTable(table.texts, table.rows[:, order], f"{table.source}-permuted-{seed}")


def planted_table(
    sentences: Sequence,
    hidden_size: int = 768,
    cells: torch.Tensor | None = None,
    *,
    strength: float = 1.0,
    seed: int = 0,
) -> EmbeddingTable:
    """Embeddings with a known answer: normal noise, plus a code of the sentence's pattern in known dimensions.

    Args:
        sentences: of `hf_repgeo.blm.chunk_sentences`.
        hidden_size: dimensions.
        cells: bool `(hidden_size,)`, where the code is written; None: everywhere, and weaker by the square root of the
            number of dimensions per planted one, so that the total is the same.
        strength: standard deviation of the code, in units of the noise, over 128 dimensions.
        seed: of noise and code.

    Returns:
        An `EmbeddingTable`.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(sentences), hidden_size, generator=generator)
    patterns = sorted({sentence.pattern for sentence in sentences})
    code = torch.randn(len(patterns), hidden_size, generator=generator)
    cells = torch.ones(hidden_size, dtype=torch.bool) if cells is None else cells
    scale = strength * (128 / float(cells.sum())) ** 0.5
    rows = noise + scale * code[[patterns.index(sentence.pattern) for sentence in sentences]] * cells
    return EmbeddingTable([sentence.text for sentence in sentences], rows, "planted")
