"""How far can embeddings be truncated? Tries the first columns, random ones, and principal directions of other rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ..downstream.resampling import Interval
from ..errors import BadInput, RepgeoError
from ..measures import PointCloud, evaluate_all, resolve
from ..runs.provenance import versions
from .decision import CANNOT_TELL, Curve, Decision, Picture
from .intervals import best_of_each_size, halves, mean_interval, surely_above
from .retrieval import unit
from .rows import SearchedRows, searched_rows

KEPT = {"MRR": 0.95, "overlap@10": 0.8}  # share of the full score that a truncation must keep
LEAST = 8  # columns
DIMENSION_ROWS = 4000  # on which the intrinsic dimension is measured

Projections = dict[str, Callable[[torch.Tensor], torch.Tensor]]


def choose_dimensions(
    data: Any,
    texts: Any = None,
    *,
    pairs: Any = None,
    kept: float | None = None,
    column: str | None = None,
    layer: int = -1,
    pooling: str | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Decision:
    """How far embeddings can be truncated: the fewest columns that keep the neighbours, or the true documents.

    For k = d/2, d/4 ... down to 8: the first k columns, k drawn columns, and the k strongest principal directions (of
    the rows as they are, not centred, since these keep cosines) fitted on rows that are not queries. The score is the
    share of the ten nearest rows that stay, or with pairs the mean reciprocal rank of the true document. For each size,
    starting with the smallest, the way that is best on one half of the queries is tested: the interval of what it keeps
    must be above the limit on both halves.

    Args:
        data: a matrix of embeddings (array, tensor, `.npy`, `.safetensors`, `.parquet`), or a model: Hub id, folder,
            `pip:PACKAGE`, in memory.
        texts: for a model: a list or file of texts; default: 500 sentences of the packaged text.
        pairs: for a model, instead of texts: a file with a column of queries and one of documents, or such tuples.
        kept: share of the full score that must be kept; default .95 of the reciprocal rank, .8 of the neighbours.
        column: tensor or column of a file of rows.
        layer: 0 is what enters block 1; -1: what leaves the model.
        pooling: `"mean"`, `"mean_without_sinks"`, `"last"` or `"cls"`; default: as the model's folder says, else mean.
        tokenizer: of a model in memory.
        batch_size: texts per forward pass.
        seed: of queries, drawn columns, halves and intervals.

    Returns:
        Decision: `"truncate"` with `numbers["k"]` and `numbers["way"]`; `"keep all"`; or `"cannot tell"`.

    Raises:
        BadInput: fewer than 50 rows or 16 columns, `kept` outside (0, 1].

    Cost: a search of at most 1,000 queries for each k and way: 2 n k 1,000 flops.

    Example:
        >>> import torch
        >>> from hf_repgeo.decisions import choose_dimensions
        >>> g = torch.Generator().manual_seed(0)
        >>> X = torch.randn(500, 8, generator=g) @ torch.randn(8, 64, generator=g)  # 8 of 64 directions
        >>> found = choose_dimensions(X)
        >>> found.verdict, found.numbers["k"], found.numbers["way"]
        ('truncate', 8, 'principal')
    """
    if kept is not None and not 0 < kept <= 1:
        raise BadInput("kept", came=str(kept), wanted="a share above 0, at most 1")
    embedding = {"layer": layer, "pooling": pooling, "tokenizer": tokenizer, "batch_size": batch_size}
    searched = searched_rows(data, texts, pairs, column=column, seed=seed, **embedding)
    sizes = _sizes(searched.rows.shape[1])
    scores = _scores(searched, sizes, seed)
    return _decided(searched, scores, kept or KEPT[searched.score_name], seed)


def _sizes(d: int) -> list[int]:
    """d/2, d/4 ... down to 8."""
    sizes = [d >> step for step in range(1, 12) if d >> step >= LEAST]
    if not sizes:
        raise BadInput("data", came=f"{d} columns", wanted=f"at least {2 * LEAST}")
    return sizes


def _scores(searched: SearchedRows, sizes: list[int], seed: int) -> dict[tuple[str, int], np.ndarray]:
    """`(way, k)` -> `(m,)` score of each query; `("all", d)` for the full rows."""
    score, d = searched.scorer(), searched.rows.shape[1]
    found = {("all", d): score(searched.queries, searched.rows)}
    directions = _principal(searched, max(sizes))
    drawn = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
    for k in sizes:
        for way, project in _projections(directions, drawn, k).items():
            found[way, k] = score(project(searched.queries), project(searched.rows))
    return found


def _projections(directions: torch.Tensor, drawn: torch.Tensor, k: int) -> Projections:
    ways: Projections = {"first": lambda rows: rows[:, :k], "drawn": lambda rows: rows[:, drawn[:k]]}
    if k <= directions.shape[1]:
        ways["principal"] = lambda rows: rows @ directions[:, :k]
    return ways


def _principal(searched: SearchedRows, most: int) -> torch.Tensor:
    """`(d, k)` strongest directions of rows that are not queries; of half of the rows where all are."""
    others = np.ones(len(searched.rows), dtype=bool)
    if not searched.has_pairs:
        others[searched.target if len(searched.target) < len(others) // 2 else searched.target[::2]] = False
    rows = searched.rows[torch.as_tensor(others)]
    rows = unit(rows)
    _, vectors = torch.linalg.eigh((rows.T @ rows).double())
    return vectors.flip(1)[:, : min(most, len(rows))].float()


def _decided(searched: SearchedRows, scores: dict, kept: float, seed: int) -> Decision:
    choosing, scoring = halves(searched.target, seed)
    whole, full = next(iter(scores.items()))
    d = searched.rows.shape[1]

    def left_over(key: tuple[str, int], half: np.ndarray) -> Interval:
        return mean_interval((scores[key] - kept * full)[half], searched.target[half], seed)

    score = {key: found[choosing].mean() for key, found in scores.items() if key != whole}
    sure = [key for key in best_of_each_size(score, lambda key: key[1]) if surely_above(left_over(key, choosing), 0)]
    kept_by = {key: left_over(key, scoring) for key in sure}
    way, k = next((key for key in sure if surely_above(kept_by[key], 0)), sure[0] if sure else whole)
    share = mean_interval(scores[way, k][scoring], searched.target[scoring], seed)
    verdict, answer = _said(way, k, d, kept_by.get((way, k)), share, searched.score_name, kept)
    dimension, note = _dimension_note(searched, scores)
    return Decision(
        "How far can it be truncated?",
        verdict,
        answer,
        [
            {"way": name, "k": size, searched.score_name: mean_interval(score, searched.target, seed)}
            for (name, size), score in sorted(scores.items(), key=lambda entry: (-entry[0][1], entry[0][0]))
        ],
        "another share to keep (kept=, --kept); "
        + (
            "pairs of your own."
            if searched.has_pairs
            else "true pairs (pairs=, --pairs), which decide over neighbours."
        ),
        _picture(searched, scores, seed, {"chosen": k}),
        geometry=f"{note} It does not answer this." if searched.has_pairs else None,
        numbers={"k": k, "way": way, "score": share.value, "kept": kept, "intrinsic_dimension": dimension},
        notes=[note],
        provenance={"embeddings": searched.source, "seed": seed} | versions(),
    )


def _said(way: str, k: int, d: int, left: Interval | None, share: Interval, name: str, kept: float) -> tuple[str, str]:
    if left is None:
        return "keep all", f"no truncation that was tried keeps {kept:.0%} of the {name} of all {d} columns."
    ways = {"first": "the first columns", "drawn": "drawn columns", "principal": "principal directions"}
    if left.low is None or left.low < 0:
        said = f"{ways[way]}, {k} of {d}, may keep {kept:.0%} of the {name}, within the error on held-out queries"
        return CANNOT_TELL, f"{said}: {share}."
    return "truncate", f"{ways[way]}, {k} of {d}, keep {kept:.0%} of the {name} on held-out queries: {share}."


def _dimension_note(searched: SearchedRows, scores: dict) -> tuple[float | None, str]:
    """The intrinsic dimension, and what that many columns would keep."""
    try:
        cloud = PointCloud(unit(searched.rows[:DIMENSION_ROWS]))
        dimension = evaluate_all(cloud, resolve("intrinsic_dimension"))[0].value
    except RepgeoError:
        dimension = None
    if dimension is None:
        return None, "The intrinsic dimension of these rows cannot be measured."
    _, k = min(((way, k) for way, k in scores if way == "principal"), key=lambda key: abs(key[1] - dimension))
    kept = float(scores["principal", k].mean())
    said = f"The intrinsic dimension reads {dimension:.0f}; {k} principal directions keep {kept:.2f} of the"
    return dimension, f"{said} {searched.score_name}."


def _picture(searched: SearchedRows, scores: dict, seed: int, marks: dict) -> Picture:
    full = next(iter(scores))
    curves = []
    for way in ("first", "drawn", "principal"):
        keys = [full, *(key for key in scores if key[0] == way)]
        curves.append(Curve.of(way, [(k, mean_interval(scores[w, k], searched.target, seed)) for w, k in keys]))
    return Picture(curves, "columns kept", searched.score_name, marks, "log2")
