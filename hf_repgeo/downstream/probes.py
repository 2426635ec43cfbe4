"""Cheap tasks: a linear classifier on a frozen model's embeddings, of our sentences or of GLUE's texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..blm import chunk_sentences, role_sentences
from ..errors import UnknownName
from ..localization.probing import check_classes, make_probe
from .glue_files import TASKS, Rows, Task, accuracy, load_task, task_of

TEST_SHARE = 4  # one lexicon row of this many is kept for the test, with all its sentences
SENTENCES = {"chunks": chunk_sentences, "frames": role_sentences}
FROZEN, TUNED = "frozen_", "tuned_"
PROBES = (*SENTENCES, *(FROZEN + name for name, task in TASKS.items() if task.classes))
OWN = tuple(TUNED + name for name in SENTENCES)


@dataclass(frozen=True)
class ProbeTask:
    """Rows to classify, each of one text or two, and which of them test the classifier.

    Attributes:
        name: of the task.
        texts: every distinct text once.
        columns: `(1 or 2, n)` position of each row's texts in `texts`.
        labels: `(n,)` classes as numbers.
        test: `(n,)` whether a row belongs to the test.
        score: predictions and labels to a number.
    """

    name: str
    texts: list[str]
    columns: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    score: Callable[[np.ndarray, np.ndarray], float] = accuracy

    @classmethod
    def of(cls, name: str, columns: list[list[str]], labels, test, score=accuracy) -> ProbeTask:
        """Rows with their texts written out."""
        texts = list(dict.fromkeys(text for column in columns for text in column))
        at = {text: position for position, text in enumerate(texts)}
        places = np.array([[at[text] for text in column] for column in columns])
        return cls(name, texts, places, np.asarray(labels), np.asarray(test), score)


def probe_task(
    name: str, data: str | Path | None = None, train_rows: int | None = None, dev_rows: int | None = None
) -> ProbeTask:
    """A probing task: from our own English sentences, or a GLUE task without fine-tuning.

    Args:
        name: `"chunks"`: which of 14 patterns of noun, prepositional and verb phrases, singular or plural (448
            sentences); `"frames"`: which of 8 frames of an event, active and passive alternants (1,280 sentences); in
            both no lexicon row is on both sides. `"frozen_qnli"` and the like: a GLUE task with classes.
        data: GLUE's folder; default: the Hub.
        train_rows, dev_rows: number of rows of a GLUE task to use, from the start.

    Raises:
        UnknownName: no probing task has this name.
        BadInput: as in `load_task`.

    Example:
        >>> task = probe_task("chunks")
        >>> len(task.texts), len(set(task.labels)), int(task.test.sum())
        (448, 14, 112)
    """
    if name not in PROBES:
        raise UnknownName("probing task", name, PROBES)
    if name.startswith(FROZEN):
        return _frozen(name, data, train_rows, dev_rows)
    sentences = SENTENCES[name]()
    rows = sorted({sentence.row for sentence in sentences})
    held_out = set(rows[::TEST_SHARE])
    patterns = sorted({sentence.pattern for sentence in sentences})
    labels = [patterns.index(sentence.pattern) for sentence in sentences]
    return ProbeTask.of(name, [[s.text for s in sentences]], labels, [s.row in held_out for s in sentences])


def _frozen(name: str, data, train_rows: int | None, dev_rows: int | None) -> ProbeTask:
    task = task_of(name.removeprefix(FROZEN))
    parts = load_task(task.name, data)
    train, dev = parts["train"].head(train_rows), parts["dev"].head(dev_rows)
    columns = [a + b for a, b in zip(train.texts, dev.texts)]
    test = [False] * len(train) + [True] * len(dev)
    return ProbeTask.of(name, columns, [*train.labels, *dev.labels], test, task.score)


def own_task(name: str) -> tuple[Task, dict[str, Rows]]:
    """A task of our own sentences to fine-tune on, with the split of the probing task.

    Args:
        name: `"tuned_chunks"` or `"tuned_frames"`.

    Example:
        >>> task, rows = own_task("tuned_chunks")
        >>> len(task.classes), len(rows["train"]), len(rows["dev"])
        (14, 336, 112)
    """
    probe = probe_task(name.removeprefix(TUNED))
    texts = [probe.texts[at] for at in probe.columns[0]]
    parts = {}
    for split, chosen in (("train", ~probe.test), ("dev", probe.test)):
        at = np.flatnonzero(chosen).tolist()
        parts[split] = Rows(([texts[i] for i in at],), [int(probe.labels[i]) for i in at])
    classes = tuple(map(str, range(int(probe.labels.max()) + 1)))
    return Task(name, name, ("sentence",), ("sentence",), "label", classes, accuracy, "accuracy"), parts


def features_of(embeddings: torch.Tensor, task: ProbeTask) -> np.ndarray:
    """The classifier's input: a text's embedding u, or `[u, v, |u - v|, u v]` of a pair.

    Args:
        embeddings: `(len(task.texts), hidden_size)`.
        task: whose rows to build.

    Returns:
        `(n, hidden_size)`, or four times as wide for pairs; float64.
    """
    x = embeddings.cpu().double().numpy()
    if len(task.columns) == 1:
        return x[task.columns[0]]
    u, v = (x[column] for column in task.columns)
    return np.concatenate([u, v, np.abs(u - v), u * v], axis=1)


def probe_score(embeddings: torch.Tensor, task: ProbeTask) -> dict[str, float]:
    """Score and log loss on the test rows of a linear classifier fitted to the others.

    Args:
        embeddings: `(len(task.texts), hidden_size)`.
        task: of the same texts.

    Returns:
        `score`, by the task's own measure, and `loss` in nats.
    """
    x, y, test = features_of(embeddings, task), task.labels, task.test
    check_classes(y[~test].tolist(), y[test].tolist())
    classifier = make_probe("linear").fit(x[~test], y[~test])
    probabilities = classifier.predict_proba(x[test])
    right = probabilities[np.arange(int(test.sum())), np.searchsorted(classifier.classes_, y[test])]
    predicted = classifier.classes_[probabilities.argmax(1)]
    return {"score": task.score(predicted, y[test]), "loss": float(-np.log(np.maximum(right, 1e-12)).mean())}
