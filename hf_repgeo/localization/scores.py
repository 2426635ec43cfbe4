"""What is read from embeddings, as a score that ablation can lower: a model's choices, or a probe's labels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch

from ..errors import BadInput, UnknownName
from ..rows.forward import run
from ..sparse_vae.embeddings import EmbeddingTable
from ..sparse_vae.losses_sparse_vae import choose
from ..sparse_vae.scoring import pattern_properties
from ..sparse_vae.training import EmbeddedInstances
from .ablation import Localization, Score, localize
from .probing import check_classes, make_probe


def selection_score(model, data, table: EmbeddingTable) -> tuple[torch.Tensor, Score]:
    """A sentence model's accuracy as a function of its input embeddings; candidates stay whole.

    A trained model has learnt which of its regions to use, so its index may lie above the null of shuffled dimensions
    for any embedding. The right control is the index of models trained with a `permutation_seed`.

    Args:
        model: a `SparseVAEForSentenceEmbedding`.
        data: a `Dataset` of pairs.
        table: embeddings of its texts.

    Returns:
        `(x, score)`: the inputs `(n, hidden_size)`, and the score for `localize`.
    """
    offered = EmbeddedInstances(data, table).__getitems__(range(len(data)))
    inputs, labels = offered.pop("inputs_embeds"), offered.pop("labels")

    def score(x: torch.Tensor) -> float:
        logits = run(model, inputs_embeds=x, **offered).logits
        return float((choose(logits) == labels).double().mean())

    return inputs, score


def probe_score(
    x_train: torch.Tensor,
    y_train: Sequence,
    y_test: Sequence,
    *,
    kind: str = "linear",
    measure: str = "log_probability",
) -> Score:
    """How well a probe fitted to whole embeddings reads the test embeddings, as a function of these.

    Args:
        x_train: `(m, hidden_size)`.
        y_train: its labels.
        y_test: labels of the rows that will be scored, in their order.
        kind: of probe.
        measure: `"log_probability"` mean log-probability of the right label (nats; it moves before any decision flips,
            so small effects are seen), or `"accuracy"`.

    Returns:
        A score for `localize`.

    Raises:
        BadInput: a class without training rows.
        UnknownName: an unknown measure.
    """
    check_classes(y_train, y_test)
    if measure not in ("log_probability", "accuracy"):
        raise UnknownName("measure", measure, ("log_probability", "accuracy"))
    return score_of_probe(make_probe(kind).fit(x_train.numpy(), list(y_train)), y_test, measure)


def score_of_probe(classifier, y_test: Sequence, measure: str = "log_probability") -> Score:
    """`probe_score` for a fitted probe."""
    if measure == "accuracy":
        return lambda x: float(classifier.score(x.numpy(), list(y_test)))
    at = torch.tensor([list(classifier.classes_).index(label) for label in y_test])

    def score(x: torch.Tensor) -> float:
        probability = torch.from_numpy(classifier.predict_proba(x.numpy())).double()
        return float(probability.gather(1, at[:, None]).clamp(min=1e-12).log().mean())

    return score


def property_rows(sentences: Sequence, prop: str) -> tuple[list, list[str]]:
    """Sentences that have a property, and its values.

    Args:
        sentences: with patterns, such as those of `hf_repgeo.blm.chunk_sentences`.
        prop: of `pattern_properties`.

    Returns:
        `(sentences, values)`.

    Raises:
        UnknownName: no sentence has the property.
    """
    pairs = zip(sentences, _values_of(sentences, prop), strict=True)
    chosen = [(sentence, value) for sentence, value in pairs if value is not None]
    return [sentence for sentence, _ in chosen], [value for _, value in chosen]


def split_by_row(
    sentences: Sequence, prop: str, test_rows: Sequence[int]
) -> tuple[tuple[list[int], list[str]], tuple[list[int], list[str]]]:
    """The sentences that have a property, on rows to learn from and on rows kept for the test.

    Args:
        sentences: with patterns and rows, such as those of `hf_repgeo.blm.chunk_sentences`.
        prop: of `pattern_properties`, such as `"subject"`, `"pp1"`, `"length"` or `"role"`.
        test_rows: lexicon rows kept for the test.

    Returns:
        `(places, values)` of the training rows, and of the test rows; places count within `sentences`.

    Raises:
        UnknownName: no sentence has the property.
        BadInput: no sentence on one side of the split.
    """
    values, held_out = _values_of(sentences, prop), set(test_rows)
    train, test = (
        [i for i, value in enumerate(values) if value is not None and (sentences[i].row in held_out) == tested]
        for tested in (False, True)
    )
    if not train or not test:
        raise BadInput("test_rows", came=f"{len(held_out)} rows", wanted="some of the sentences' rows, not all")
    labels = {i: value for i, value in enumerate(values) if value is not None}
    return (train, [labels[i] for i in train]), (test, [labels[i] for i in test])


def _values_of(sentences: Sequence, prop: str) -> list[str | None]:
    """The property of each sentence, None where it has none; at least one has it."""
    found = [pattern_properties(sentence.pattern) for sentence in sentences]
    if not any(prop in values for values in found):
        raise UnknownName("property", prop, sorted({name for values in found for name in values}))
    return [values.get(prop) for values in found]


def localize_property(
    sentences: Sequence,
    table: EmbeddingTable,
    prop: str,
    regions: torch.Tensor,
    *,
    test_rows: Sequence[int],
    kind: str = "linear",
    measure: str = "log_probability",
    **options,
) -> Localization:
    """Where a linear probe reads one property of chunk sentences, on lexicon rows it was not fitted to.

    Args:
        sentences: of `hf_repgeo.blm.chunk_sentences`.
        table: their embeddings.
        prop: as in `split_by_row`.
        regions: bool `(regions, hidden_size)`.
        test_rows: lexicon rows kept for the test.
        kind, measure: as in `probe_score`.
        **options: `how`, `n_null`, `seed` of `localize`.

    Returns:
        A `Localization` of that measure.

    Raises:
        UnknownName: an unknown property.
        BadInput: no sentence on one side of the split.
    """
    (train, y_train), (test, y_test) = split_by_row(sentences, prop, test_rows)
    x_train, x_test = (table.of([sentences[i].text for i in places]) for places in (train, test))
    score = probe_score(x_train, y_train, y_test, kind=kind, measure=measure)
    floor = prior_score(y_train, y_test, measure)
    return localize(score, x_test, regions, reference=x_train, floor=floor, **options)


def prior_score(y_train: Sequence, y_test: Sequence, measure: str) -> float:
    """The score of knowing only the training labels' frequencies, in the same measure as `probe_score`.

    Args:
        y_train, y_test: labels.
        measure: `"log_probability"` (nats) or `"accuracy"` of always saying the most frequent label.
    """
    counts = Counter(y_train)
    if measure == "accuracy":
        return sum(label == counts.most_common(1)[0][0] for label in y_test) / len(y_test)
    return sum(math.log(counts[label] / len(y_train)) for label in y_test) / len(y_test)
