"""Probing classifiers: what a plain classifier can tell from the embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset

from ..errors import BadInput, MissingExtra, UnknownName
from ..sparse_vae.embeddings import EmbeddingTable
from ..sparse_vae.scoring import pattern_of_texts, without_missing
from ..sparse_vae.training import EmbeddedInstances

PROBES = ("linear", "pca", "lda", "centroid")


def _sklearn(purpose: str):
    try:
        import sklearn
    except ImportError as error:
        raise MissingExtra("scikit-learn", "sparse-vae", purpose) from error
    return sklearn


def check_classes(train: Sequence, test: Sequence) -> None:
    """Refuse splits where a class has no instance to learn from.

    Raises:
        BadInput: fewer than two classes in training, or a test class without a training row.
    """
    known = set(train)
    if len(known) < 2:
        raise BadInput("y_train", came=f"{len(known)} class(es)", wanted="at least two")
    empty = sorted(map(str, set(test) - known))
    if empty:
        raise BadInput(
            "y_train",
            came=f"no row of class {empty[0]!r}, which is asked for in the test",
            wanted="rows of every test class",
            cure="Use another split (`pairs` or `seeds`).",
        )


def make_probe(kind: str = "linear", components: int = 5):
    """An unfitted classifier of embeddings; features are standardised if the classifier depends on their scale.

    Args:
        kind: `"linear"` logistic regression; `"pca"` the same on the first principal components; `"lda"` linear
            discriminant analysis with shrinkage; `"centroid"` nearest class mean.
        components: of `"pca"`; 5 is the size of the VAE's bottleneck.

    Returns:
        A scikit-learn estimator.

    Raises:
        UnknownName: an unknown kind.
        MissingExtra: scikit-learn is not installed.
    """
    _sklearn("Probing")
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import NearestCentroid
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if kind not in PROBES:
        raise UnknownName("probe", kind, PROBES)
    # With about as many dimensions as rows a weak ridge is overconfident: on held-out rows of chunk properties (MPNet)
    # C = 1 gave log-probabilities below those of the class frequencies; 0.01 was the best of five powers of ten.
    logistic = LogisticRegression(C=0.01, max_iter=1000)
    return {
        "linear": make_pipeline(StandardScaler(), logistic),
        "pca": make_pipeline(StandardScaler(), PCA(components), logistic),
        "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        "centroid": NearestCentroid(),
    }[kind]


@dataclass
class ProbeResult:
    """How well a plain classifier predicts labels from embeddings.

    Args:
        kind: of the probe.
        accuracy, macro_f1: on the test rows, 0 to 1.
        control_accuracy: of the same probe fitted to training labels shuffled over the distinct rows: what memorizing
            alone gives.
        selectivity: `accuracy - control_accuracy`.
    """

    kind: str
    accuracy: float
    macro_f1: float
    control_accuracy: float
    selectivity: float


def probe(
    x_train, y_train: Sequence, x_test, y_test: Sequence, kind: str = "linear", *, components: int = 5, seed: int = 0
) -> ProbeResult:
    """Fit a probe, and the same probe to shuffled labels.

    Args:
        x_train, x_test: `(n, hidden_size)`.
        y_train, y_test: labels.
        kind, components: as in `make_probe`.
        seed: of the shuffling.

    Returns:
        A `ProbeResult`.

    Raises:
        BadInput: a class of the test without training rows.
    """
    check_classes(y_train, y_test)
    from sklearn.metrics import f1_score

    labels = list(y_train)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = [labels[i] for i in order]
    predicted = make_probe(kind, components).fit(_numpy(x_train), labels).predict(_numpy(x_test))
    control = make_probe(kind, components).fit(_numpy(x_train), shuffled).predict(_numpy(x_test))
    accuracy, chance = _share(predicted, y_test), _share(control, y_test)
    f1 = float(f1_score(list(y_test), predicted, average="macro", labels=sorted(set(y_test))))
    return ProbeResult(kind, accuracy, f1, chance, accuracy - chance)


def _numpy(x):
    return x.numpy() if isinstance(x, torch.Tensor) else x


def _share(predicted, wanted) -> float:
    return sum(a == b for a, b in zip(predicted, wanted, strict=True)) / len(wanted)


def probe_scores(data: Dataset, table: EmbeddingTable, kind: str = "linear", components: int = 5) -> Callable:
    """Selection by a probe: the candidate most likely to have the input's pattern.

    Args:
        data: a `Dataset` of pairs to fit on: all its sentences with their patterns.
        table: embeddings.
        kind, components: as in `make_probe`; `"centroid"` has no probabilities and is refused.

    Returns:
        A function `(data) -> (n, K)` scores: the probability that input and candidate share a pattern.
    """
    if kind == "centroid":
        raise BadInput("kind", came="'centroid', which gives no probabilities", wanted="linear, pca or lda")
    patterns = pattern_of_texts(data)
    classifier = make_probe(kind, components).fit(_numpy(table.of(list(patterns))), list(patterns.values()))

    def score(other) -> torch.Tensor:
        batch = EmbeddedInstances(other, table).__getitems__(range(len(other)))
        given = torch.from_numpy(classifier.predict_proba(_numpy(batch["inputs_embeds"])))
        flat = torch.from_numpy(classifier.predict_proba(_numpy(batch["candidates"].flatten(0, 1))))
        scores = torch.einsum("np,nkp->nk", given, flat.view(*batch["candidates"].shape[:2], -1))
        return without_missing(scores, batch)

    return score
