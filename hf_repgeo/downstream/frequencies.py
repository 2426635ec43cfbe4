"""How far a sample of sequences is from its corpora, in words, pairs of words and lengths, compared with chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .sequences import SequenceSample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = 50


@dataclass(frozen=True)
class Distance:
    """A distance between sample and corpora, beside the same of samples drawn uniformly from all lines.

    Attributes:
        value: of the sample.
        null, null_sd: mean and standard deviation over uniform samples of the same size.
        p: share of uniform samples, this one counted in, that are at least as far.
    """

    value: float
    null: float
    null_sd: float
    p: float


@dataclass(frozen=True)
class FrequencyReport:
    """The result of `frequency_report`.

    Attributes:
        distances: of `"unigrams"` and `"bigrams"`: Jensen-Shannon distance, 0 to 1; of `"lengths"`: Wasserstein
            distance in words.
        top: of `"unigrams"` and `"bigrams"`: the corpora's 50 commonest, `(text, share in corpora, share in sample)`.
        lengths: words -> (share in corpora, share in sample).
    """

    distances: dict[str, Distance]
    top: dict[str, list[tuple[str, float, float]]]
    lengths: dict[int, tuple[float, float]]

    def __str__(self) -> str:
        head = f"{'':10}{'distance':>10}{'by chance':>20}{'p':>8}"
        lines = [
            f"{name:10}{d.value:10.4f}{d.null:11.4f} +- {d.null_sd:.4f}{d.p:8.3f}" for name, d in self.distances.items()
        ]
        return "\n".join([head, *lines])


def frequency_report(sample: SequenceSample, draws: int = 99, seed: int = 0) -> FrequencyReport:
    """Compares the words, pairs of neighbouring words and lengths of a sample with those of its corpora.

    The corpora are all distinct sequences from which the sample was drawn, every one counted once. The sampling
    protocol takes each split equally often, so the sample differs from the pooled corpora by more than chance when the
    splits differ in kind: `null` is what a uniform draw of the same size gives.

    Args:
        sample: from `sample_sequences`.
        draws: uniform samples for the null.
        seed: of those.

    Returns:
        FrequencyReport: `print` shows the distances.

    Cost: `draws` counts of the sample's words; under a second for 5000 sequences and 99 draws.

    Example:
        >>> from hf_repgeo.downstream import frequency_report, sample_sequences
        >>> report = frequency_report(sample_sequences(n=300), draws=19)
        >>> report.distances["unigrams"].value < 1
        True
    """
    pool = list(dict.fromkeys(s for split in sample.eligible.values() for s in split))
    at = {sequence: position for position, sequence in enumerate(pool)}
    chosen = np.array([at[sequence] for sequence in sample.sequences])
    rng = np.random.default_rng(seed)
    random_draws = [rng.choice(len(pool), len(chosen), replace=False) for _ in range(draws)]
    words = [sequence.split(" ") for sequence in pool]
    kinds = {
        "unigrams": (_Counts(words), _jensen_shannon),
        "bigrams": (_Counts([[f"{a} {b}" for a, b in zip(w, w[1:])] for w in words]), _jensen_shannon),
        "lengths": (_Counts([[len(w)] for w in words]), _wasserstein),
    }
    distances = {
        name: _beside_chance(counts, distance, chosen, random_draws) for name, (counts, distance) in kinds.items()
    }
    top = {name: kinds[name][0].commonest(chosen, TOP) for name in ("unigrams", "bigrams")}
    lengths = {int(n): (a, b) for n, a, b in sorted(kinds["lengths"][0].commonest(chosen, None))}
    return FrequencyReport(distances, top, lengths)


class _Counts:
    """Items of every sequence as integers, so that a sample's frequencies are one `bincount`."""

    def __init__(self, sequences: list[list]):
        self.items = sorted({item for sequence in sequences for item in sequence})
        number = {item: i for i, item in enumerate(self.items)}
        self.flat = np.array([number[item] for sequence in sequences for item in sequence], dtype=np.int64)
        self.ends = np.cumsum([len(sequence) for sequence in sequences])
        self.owner = np.repeat(np.arange(len(sequences)), [len(sequence) for sequence in sequences])
        self.all = np.bincount(self.flat, minlength=len(self.items)) / len(self.flat)

    def shares(self, chosen: np.ndarray) -> np.ndarray:
        keep = np.zeros(len(self.ends), dtype=bool)
        keep[chosen] = True
        counts = np.bincount(self.flat[keep[self.owner]], minlength=len(self.items))
        return counts / max(counts.sum(), 1)

    def commonest(self, chosen: np.ndarray, count: int | None) -> list[tuple]:
        shares = self.shares(chosen)
        order = np.argsort(-self.all, kind="stable")[:count]
        return [(self.items[i], float(self.all[i]), float(shares[i])) for i in order]


def _beside_chance(counts: _Counts, distance, chosen, random_draws) -> Distance:
    value = distance(counts, counts.shares(chosen))
    null = np.array([distance(counts, counts.shares(draw)) for draw in random_draws])
    p = (1 + int((null >= value - 1e-12).sum())) / (1 + len(null))
    return Distance(value, float(null.mean()), float(null.std(ddof=1)) if len(null) > 1 else 0.0, p)


def _jensen_shannon(counts: _Counts, shares: np.ndarray) -> float:
    """`sqrt(JSD)` with logarithms to base 2: 0 for equal shares, 1 for disjoint ones."""
    middle = (counts.all + shares) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.where(p > 0, p * np.log2(p / middle), 0.0).sum() for p in (counts.all, shares)]
    return float(np.sqrt(max(sum(parts) / 2, 0.0)))


def _wasserstein(counts: _Counts, shares: np.ndarray) -> float:
    """Wasserstein distance of lengths, in words: the sum of absolute differences of the cumulated shares."""
    gaps = np.diff(np.array(counts.items, dtype=float))
    return float((np.abs(np.cumsum(counts.all - shares))[:-1] * gaps).sum())


def plot_frequencies(report: FrequencyReport) -> Figure:
    """Shares in the corpora and in the sample, by rank of the word, of the pair, and by length: the paper's Figure 2.

    Args:
        report: from `frequency_report`.

    Returns:
        matplotlib.figure.Figure: not shown, not saved.
    """
    from matplotlib.figure import Figure

    from ..plots.layers import COLOURS

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    panels = [(name, list(range(1, len(top) + 1)), [row[1:] for row in top]) for name, top in report.top.items()]
    panels.append(("lengths", list(report.lengths), list(report.lengths.values())))
    for axis, (name, x, pairs) in zip(axes, panels):
        for column, (label, style) in enumerate([("corpora", "-"), ("sample", "--")]):
            axis.plot(x, [pair[column] for pair in pairs], style, color=COLOURS[column], label=label, lw=1.5)
        distance = report.distances[name]
        axis.set_title(f"{name}: distance {distance.value:.3f}, by chance {distance.null:.3f}", fontsize="small")
        axis.set_xlabel("words" if name == "lengths" else "rank in the corpora")
        axis.spines[["top", "right"]].set_visible(False)
        if name != "lengths":
            axis.set_yscale("log")
    axes[0].set_ylabel("share")
    axes[0].legend(frameon=False, fontsize="small")
    return figure
