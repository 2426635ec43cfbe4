"""The rows of a decision: a matrix as it is, or a model's embeddings of texts and of pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import BadInput
from ..rows.texts import corpus_of
from .embeddings import embed
from .inputs import LEAST_ROWS, Pairs, is_matrix, read_matrix, read_pairs, unrelated_domains
from .retrieval import drawn_queries, nearest_rows, overlap, reciprocal_ranks, tied_share

QUERIES = 1000  # at most this many rows are queries
CHECKED = 100  # of the queries are checked for ties
MOST_TIED = 0.1


@dataclass(frozen=True)
class SearchedRows:
    """Rows that are searched, the queries, and how a search is scored.

    Attributes:
        rows: `(n, d)`: embeddings of documents, or all rows.
        queries: `(m, d)`.
        target: `(m,)` the row that a query should find; or, without pairs, the query's own place among the rows.
        has_pairs: whether the targets are true documents.
        source: provenance.
    """

    rows: torch.Tensor
    queries: torch.Tensor
    target: np.ndarray
    has_pairs: bool
    source: dict

    @property
    def score_name(self) -> str:
        return "MRR" if self.has_pairs else "overlap@10"

    def scorer(self) -> Callable[[torch.Tensor, torch.Tensor], np.ndarray]:
        """A function that scores a change of the rows: given changed queries and rows, `(m,)` numbers in [0, 1].

        With pairs the reciprocal rank of the true document, else the share of the ten nearest rows by cosine of the
        unchanged rows that are among the ten of the changed ones.
        """
        if self.has_pairs:
            return lambda queries, rows: reciprocal_ranks(queries, rows, self.target)
        own = torch.as_tensor(self.target)
        before = nearest_rows(self.queries, self.rows, own)
        return lambda queries, rows: overlap(before, nearest_rows(queries, rows, own))


def searched_rows(
    data: Any, texts: Any = None, pairs: Any = None, *, column: str | None = None, seed: int = 0, **embedding: Any
) -> SearchedRows:
    """From a matrix, or from a model with texts or pairs.

    Args:
        data: a matrix as in `read_matrix`, or a model as in `embed`.
        texts: for a model: a list of texts or a file of them; default: 500 sentences of the packaged text.
        pairs: for a model: as in `read_pairs`; instead of texts.
        column: of a file of rows.
        seed: of the draw of queries.
        embedding: `layer`, `pooling`, `tokenizer`, `batch_size` of `embed`.

    Raises:
        BadInput: texts or pairs beside a matrix, or both; too few rows; without pairs, rows whose nearest are all tied.
    """
    if pairs is not None:
        if is_matrix(data):
            raise BadInput("pairs", came="pairs beside a matrix", wanted="a model, which can embed them")
        if texts is not None:
            raise BadInput("texts", came="texts beside pairs", wanted="one of the two")
        return _of_pairs(data, read_pairs(pairs), embedding)
    rows, source = plain_rows(data, texts, column=column, **embedding)
    own = drawn_queries(len(rows), QUERIES, seed)
    _check_told_apart(rows, own[:CHECKED])
    return SearchedRows(rows, rows[own], own.numpy(), False, source)


def _check_told_apart(rows: torch.Tensor, own: torch.Tensor) -> None:
    """Raises `BadInput` if the nearest rows by cosine are mostly tied."""
    tied = tied_share(rows[own], rows, own)
    if tied > MOST_TIED:
        came = f"rows of which {tied:.0%} have the same cosine with all of their ten nearest"
        cure = "Drop copies, or centre the rows: X - X.mean(0)."
        raise BadInput("data", came=came, wanted="rows that cosines in float32 tell apart", cure=cure)


def plain_rows(
    data: Any, texts: Any = None, *, column: str | None = None, least: int = LEAST_ROWS, **embedding: Any
) -> tuple[torch.Tensor, dict]:
    """`(n, d)` rows of a matrix, or a model's embeddings of texts; and where they came from.

    Raises:
        BadInput: texts beside a matrix, fewer than `least` rows, rows that `read_matrix` refuses.
    """
    if not is_matrix(data):
        found = embed(data, sentences(texts), **embedding)
        return read_matrix(found.rows, least=least), found.facts()
    if texts is not None:
        raise BadInput("texts", came="texts beside a matrix", wanted="a model, which can embed them")
    rows = read_matrix(data, column, least)
    return rows, {"rows": tuple(rows.shape)}


def _of_pairs(model: Any, pairs: Pairs, embedding: dict) -> SearchedRows:
    found = embed(model, [*pairs.queries, *pairs.documents], **embedding)
    queries, documents = found.rows.tensor_split([len(pairs)])
    return SearchedRows(documents, queries, pairs.target, True, {**found.facts(), "pairs": pairs.name})


def sentences(texts: Any) -> list[str]:
    """Texts as a list: the packaged sentences, the documents of a file, or the texts given."""
    if texts is None:
        return unrelated_domains().texts
    if isinstance(texts, (str, Path)):
        return [str(document) for document in corpus_of(texts).documents]
    return [str(document) for document in corpus_of(list(texts)).documents]
