"""Do regions found on simple sentences carry over to complex ones? Applies one probe to all rungs of complexity.

Effects correlate between rungs for two reasons that do not mean yes: one probe reads all rungs, so its effects are
similar on all of them, wherever its weights are; and large regions matter more on every rung. So each correlation of
effects is compared with that of random regions of the same sizes, and of a probe fitted to the rung itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..blm import Sentence, chunk_labels
from ..blm.ladder import SIMPLE_RUNGS
from ..errors import BadInput, UnknownName
from ..sparse_vae.embeddings import EmbeddingTable
from .ablation import ablation_effects, central_interval, check_regions
from .probing import check_classes, make_probe
from .regions import random_partition
from .scores import prior_score, score_of_probe, split_by_row

N_PERMUTATIONS = 1000


@dataclass
class EffectAgreement:
    """Whether the regions that matter on one rung are those that matter on the simple ones.

    Args:
        correlation: Spearman's, over regions, of the two sets of ablation effects; -1 to 1. None where effects are all
            the same.
        permuted_low, permuted_high: of the correlation when regions are paired at random (95 %).
        random_mean, random_low, random_high: of the correlation when the regions are random sets of dimensions of the
            same sizes (95 %): what any division of the embedding would give. Only a correlation above it is evidence
            for these regions.
    """

    correlation: float | None
    permuted_low: float | None
    permuted_high: float | None
    random_mean: float | None
    random_low: float | None
    random_high: float | None


@dataclass
class RungTransfer:
    """How well a probe of simple sentences does on one rung.

    Args:
        rung: its name.
        n: test sentences, from rows that the probe was not fitted to, with labels that it knows.
        accuracy: of the probe, 0 to 1.
        standard_error: of the accuracy over rows, since sentences of one row share words. None for one row.
        chance: of guessing labels as often as they are among the training sentences.
        best_constant: of the one label that is most frequent here.
        control_accuracy, control_low, control_high: of the probe fitted to shuffled labels (mean and 95 % interval).
        own_accuracy: on the same sentences, of a probe fitted to the training rows of this rung; None where the rung
            has no training rows (natural sentences) or one label only.
        effects: `(regions,)` log-probability lost without each region, by the simple sentences' probe.
        own_effects: the same by the rung's own probe, or None.
        agreement: of `effects` with those on the simple rungs; None on these themselves.
        own_agreement: of `own_effects` with those on the simple rungs, or None.
    """

    rung: str
    n: int
    accuracy: float
    standard_error: float | None
    chance: float
    best_constant: float
    control_accuracy: float
    control_low: float | None
    control_high: float | None
    own_accuracy: float | None
    effects: list[float]
    own_effects: list[float] | None
    agreement: EffectAgreement | None
    own_agreement: EffectAgreement | None


@dataclass
class Transfer:
    """A property on every rung of a ladder, read by a probe that was fitted to the simple ones.

    Args:
        prop: what was read.
        simple: rungs that the probe was fitted to.
        cells: dimensions of each region.
        how: the ablation.
        effects: `(regions,)` log-probability lost without each region on unseen rows of all simple rungs.
        rungs: name -> `RungTransfer`; rungs that do not have the property are left out.
    """

    prop: str
    simple: list[str]
    cells: list[int]
    how: str
    effects: list[float]
    rungs: dict[str, RungTransfer]

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Labelled:
    """Sentences that have the property: embeddings `(n, hidden_size)`, labels, rows."""

    x: torch.Tensor
    labels: list[str]
    rows: list[int]


class _Probe:
    """A classifier fitted once, and what it was fitted to."""

    def __init__(self, train: _Labelled, kind: str):
        check_classes(train.labels, ())
        self.train = train
        self.classifier = make_probe(kind).fit(train.x.numpy(), train.labels)


class _Reader:
    """A probe, and the sentences that it reads."""

    def __init__(self, probe: _Probe, test: _Labelled, how: str, seed: int):
        self.probe, self.test = probe, test
        check_classes(probe.train.labels, test.labels)
        self.score = score_of_probe(probe.classifier, test.labels)
        self.settings: dict[str, Any] = {"reference": probe.train.x, "how": how, "seed": seed}

    def effects(self, regions: torch.Tensor) -> torch.Tensor:
        return ablation_effects(self.score, self.test.x, regions, **self.settings)


def carry_over(
    ladder: Mapping[str, Sequence[Sentence]],
    table: EmbeddingTable,
    prop: str,
    regions: torch.Tensor,
    *,
    test_rows: Sequence[int],
    simple: Sequence[str] = SIMPLE_RUNGS,
    kind: str = "linear",
    how: str = "mean",
    n_null: int = 100,
    n_controls: int = 20,
    seed: int = 0,
) -> Transfer:
    """Fit a probe to a property of simple sentences, and test it on complex ones, also without each region.

    The probe is fitted to simple sentences on training rows; every rung is tested on rows that it has not seen. Cost:
    `n_controls + rungs + 1` fits, and `(n_null + 1) * regions` evaluations of every probe.

    Args:
        ladder: rung -> sentences, as `hf_repgeo.blm.complexity_ladder` gives them.
        table: embeddings of all their texts.
        prop: `"subject"`, `"pp1"`, `"pp2"` (numbers) or `"length"` (phrases); labels that the simple rungs do not have,
            such as three phrases, are not asked.
        regions: bool `(regions, hidden_size)`.
        test_rows: lexicon rows kept for the test.
        simple: rungs to fit to.
        kind: of probe, as in `make_probe`; one with probabilities.
        how: as in `ablate`.
        n_null: random divisions of the dimensions; 0: none, the intervals are None.
        n_controls: probes of shuffled labels.
        seed: of everything random here.

    Returns:
        A `Transfer`.

    Raises:
        UnknownName: an unknown rung or property.
        BadInput: no sentence on one side of the split; regions of another width; no control.

    Example:
        >>> from hf_repgeo.blm import complexity_ladder
        >>> from hf_repgeo.sparse_vae import EmbeddingTable, carry_over
        >>> ladder = complexity_ladder("en")
        >>> sentences = [sentence for rung in ladder.values() for sentence in rung]
        >>> rows = torch.randn(len(sentences), 16, generator=torch.Generator().manual_seed(0))
        >>> rows[:, 3] = torch.tensor([4.0 * sentence.pattern.count("vp-p") for sentence in sentences])
        >>> table = EmbeddingTable([sentence.text for sentence in sentences], rows, "number in dimension 3")
        >>> regions = torch.arange(16).view(1, -1) // 4 == torch.arange(4).view(-1, 1)
        >>> found = carry_over(ladder, table, "subject", regions, test_rows=range(25, 33), n_null=0, n_controls=2)
        >>> found.rungs["natural"].accuracy, torch.tensor(found.rungs["natural"].effects).argmax().item()
        (1.0, 0)
    """
    check_regions(table.rows, regions)
    if n_controls < 1:
        raise BadInput("n_controls", came=str(n_controls), wanted="at least one probe of shuffled labels")
    unknown = [name for name in simple if name not in ladder]
    if unknown:
        raise UnknownName("rung", unknown[0], ladder)
    base = [sentence for name in simple for sentence in ladder[name]]
    seen = {sentence.row for sentence in base} - set(test_rows)
    split_by_row(base, prop, test_rows)  # refuses what leaves one side empty
    train, held_out = _sentences_with(base, table, prop, rows=seen), _sentences_with(base, table, prop, unseen=seen)
    assert train is not None and held_out is not None  # an empty side was refused above
    simple_probe = _Probe(train, kind)
    reader = _Reader(simple_probe, held_out, how, seed)
    readers, own = {}, {}
    for name, sentences in ladder.items():
        test = _sentences_with(sentences, table, prop, unseen=seen, labels=set(train.labels))
        if test is None:
            continue
        readers[name] = _Reader(simple_probe, test, how, seed)
        fitted = _sentences_with(sentences, table, prop, rows=seen, labels=set(train.labels))
        if fitted is not None and len(set(fitted.labels)) > 1 and set(test.labels) <= set(fitted.labels):
            own[name] = _Reader(_Probe(fitted, kind), test, how, seed)
    compare = _Comparison(reader, regions, n_null, seed)
    controls = _control_probes(train, kind, n_controls, seed)
    rungs = {name: _rung(name, readers[name], own.get(name), controls, compare, name in simple) for name in readers}
    return Transfer(prop, list(simple), regions.sum(-1).tolist(), how, compare.effects.tolist(), rungs)


def _sentences_with(
    sentences, table: EmbeddingTable, prop: str, *, rows=None, unseen=frozenset(), labels=None
) -> _Labelled | None:
    """Sentences with the property (and one of the labels) on `rows`, or on all rows except those of `unseen`."""
    found = [(sentence, chunk_labels(sentence.pattern).get(prop)) for sentence in sentences]
    chosen = [
        (sentence, label)
        for sentence, label in found
        if label is not None
        and (labels is None or label in labels)
        and (sentence.row in rows if rows is not None else sentence.row not in unseen)
    ]
    if not chosen:
        return None
    x = table.of([sentence.text for sentence, _ in chosen])
    return _Labelled(x, [label for _, label in chosen], [sentence.row for sentence, _ in chosen])


class _Comparison:
    """Effects on simple sentences of these regions and of random ones, to compare those on other rungs with."""

    def __init__(self, reader: _Reader, regions: torch.Tensor, n_null: int, seed: int):
        self.regions, self.seed = regions, seed
        generator = torch.Generator().manual_seed(seed)
        self.partitions = [random_partition(regions, generator) for _ in range(n_null)]
        self.effects = reader.effects(regions)
        self.random_effects = [reader.effects(partition) for partition in self.partitions]

    def __call__(self, other: _Reader, effects: torch.Tensor) -> EffectAgreement:
        permuted = _permuted_spearman(self.effects, effects, N_PERMUTATIONS, self.seed)
        pairs = zip(self.random_effects, self.partitions, strict=True)
        found = [spearman(mine, other.effects(partition)) for mine, partition in pairs]
        random = [value for value in found if value is not None]
        mean = sum(random) / len(random) if random else None
        return EffectAgreement(
            spearman(self.effects, effects), *central_interval(permuted), mean, *central_interval(random)
        )


def _control_probes(train: _Labelled, kind: str, count: int, seed: int) -> list:
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(train.labels), generator=generator).tolist() for _ in range(count)]
    return [make_probe(kind).fit(train.x.numpy(), [train.labels[i] for i in order]) for order in orders]


def _rung(
    name: str, reader: _Reader, own: _Reader | None, controls: list, compare: _Comparison, simple: bool
) -> RungTransfer:
    test = reader.test
    accuracy, error = _accuracy(reader.probe.classifier, test)
    by_chance = [_accuracy(control, test)[0] for control in controls]
    effects = reader.effects(compare.regions)
    own_effects = own.effects(compare.regions) if own else None
    return RungTransfer(
        rung=name,
        n=len(test.labels),
        accuracy=accuracy,
        standard_error=error,
        chance=_guessing(reader.probe.train.labels, test.labels),
        best_constant=prior_score(test.labels, test.labels, "accuracy"),
        control_accuracy=sum(by_chance) / len(by_chance),
        control_low=central_interval(by_chance)[0],
        control_high=central_interval(by_chance)[1],
        own_accuracy=_accuracy(own.probe.classifier, test)[0] if own else None,
        effects=effects.tolist(),
        own_effects=None if own_effects is None else own_effects.tolist(),
        agreement=None if simple else compare(reader, effects),
        own_agreement=compare(own, own_effects) if own and own_effects is not None and not simple else None,
    )


def _accuracy(classifier, test: _Labelled) -> tuple[float, float | None]:
    """Share of right labels, and its standard error over rows."""
    right = torch.tensor([a == b for a, b in zip(classifier.predict(test.x.numpy()), test.labels, strict=True)])
    _, row = torch.tensor(test.rows).unique(return_inverse=True)
    per_row = torch.zeros(int(row.max()) + 1, dtype=torch.float64).index_add(0, row, right.double())
    counts = row.bincount()
    accuracy = float(right.double().mean())
    if len(counts) < 2:
        return accuracy, None
    # a ratio of sums over rows: its error is that of the rows' deviations from the common share
    deviations = (per_row - accuracy * counts) / counts.double().mean()
    return accuracy, float(deviations.std() / len(counts) ** 0.5)


def _guessing(train: Sequence[str], test: Sequence[str]) -> float:
    return sum(train.count(label) for label in test) / len(train) / len(test)


def spearman(first: torch.Tensor, second: torch.Tensor) -> float | None:
    """Spearman's rank correlation; equal values share their mean rank.

    Args:
        first, second: `(n,)`.

    Returns:
        -1 to 1, or None where one of them is constant.

    Example:
        >>> spearman(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.1, 0.3, 0.2]))
        0.5
    """
    a, b = _unit_ranks(first), _unit_ranks(second)
    return None if a is None or b is None else round(float(a @ b), 12)


def _permuted_spearman(first: torch.Tensor, second: torch.Tensor, count: int, seed: int = 0) -> list[float]:
    """Spearman's correlation with the second in random orders; none where one of them is constant."""
    a, b = _unit_ranks(first), _unit_ranks(second)
    if a is None or b is None:
        return []
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(len(b), generator=generator) for _ in range(count)])
    return (b[orders] @ a).tolist()


def _unit_ranks(values: torch.Tensor) -> torch.Tensor | None:
    """Mean ranks around zero, of length 1."""
    ranks = _ranks(values) - (len(values) - 1) / 2
    return ranks / ranks.norm() if bool(ranks.any()) else None


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Mean ranks from 0, float64: `[3., 1., 3.]` -> `[1.5, 0., 1.5]`."""
    from scipy.stats import rankdata

    return torch.from_numpy(rankdata(values.numpy())) - 1
