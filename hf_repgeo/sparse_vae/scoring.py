"""How well a trained model chooses: per pattern, per error, over runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedModel

from ..blm import chunk_labels
from ..errors import BadInput, MissingExtra
from ..rows.forward import run
from .embeddings import EmbeddingTable
from .losses_sparse_vae import choose
from .training import EmbeddedInstances

NO_CHOICE = "no choice"  # ties, dead or non-finite outputs
CORRECT = "Correct"


@dataclass
class Selection:
    """A model's choices on a data set.

    Args:
        accuracy: share of right choices, 0 to 1; ties and dead outputs are wrong. With one choice per instance this is
            also the micro precision, recall and F1.
        chance: accuracy of guessing: the mean of 1 / candidates.
        macro_f1: mean of `f1`, where candidates have patterns.
        f1: pattern -> F1 of the true pattern against the pattern of the chosen candidate.
        errors: what was chosen, by name of the error (or pattern), `"Correct"` included; `"no choice"` for ties.
        confusion: true pattern -> chosen pattern -> count.
    """

    accuracy: float
    chance: float
    macro_f1: float | None
    f1: dict[str, float]
    errors: dict[str, int]
    confusion: dict[str, dict[str, int]]

    def as_dict(self) -> dict:
        """Plain values, for JSON."""
        return asdict(self)


def scores_of(model: PreTrainedModel, data: Dataset, table: EmbeddingTable, batch_size: int = 1000) -> torch.Tensor:
    """Cosine of each candidate with the model's output, `(n, K)`, in evaluation mode; the model's own mode is restored.

    Where an instance has fewer than K candidates, scores are minus infinity.

    Args:
        model: any of the models.
        data: a `Dataset`.
        table: embeddings of its texts.
        batch_size: instances per forward pass.
    """
    instances = EmbeddedInstances(data, table)
    batches = torch.arange(len(instances)).split(batch_size)
    return torch.cat([_score(model, instances.__getitems__(batch)) for batch in batches])


def _score(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    del batch["labels"]
    return run(model, **batch).logits.cpu()


def evaluate_model(model: PreTrainedModel, data: Dataset, table: EmbeddingTable) -> Selection:
    """Choose an answer for each instance, and score the choices.

    Args:
        model: any of the models.
        data: a `Dataset`; with `candidates_templates` patterns are scored, with `errors` error types.
        table: embeddings of its texts.

    Returns:
        A `Selection`.
    """
    return evaluate_scores(scores_of(model, data, table), data)


def evaluate_scores(scores: torch.Tensor, data: Dataset) -> Selection:
    """`evaluate_model` for scores made elsewhere.

    Args:
        scores: `(n, K)`, the highest is chosen; ties are errors. Minus infinity where there is no candidate.
        data: a `Dataset` of n instances.

    Raises:
        BadInput: scores of another shape than the data.
    """
    sizes = [len(one) for one in data["candidates"]]
    if tuple(scores.shape) != (len(data), max(sizes)):
        wanted = f"({len(data)}, {max(sizes)}), as the data"
        raise BadInput("scores", came=f"shape {tuple(scores.shape)}", wanted=wanted)
    chosen, labels = choose(scores).tolist(), list(data["label"])
    names = list(data["errors"]) if "errors" in data.column_names else list(data["candidates_templates"])
    errors = Counter(_name_of(choice, label, row) for choice, label, row in zip(chosen, labels, names, strict=True))
    accuracy = sum(a == b for a, b in zip(chosen, labels, strict=True)) / len(labels)
    confusion = {} if "errors" in data.column_names else confusion_counts(chosen, labels, names)
    f1 = f1_by_pattern(confusion)
    macro = sum(f1.values()) / len(f1) if f1 else None
    chance = sum(1 / size for size in sizes) / len(sizes)
    return Selection(accuracy, chance, macro, f1, dict(errors.most_common()), confusion)


def _name_of(choice: int, label: int, names: Sequence[str]) -> str:
    if choice < 0:
        return NO_CHOICE
    return CORRECT if choice == label else names[choice]


def confusion_counts(
    chosen: Sequence[int], labels: Sequence[int], patterns: Sequence[Sequence[str]]
) -> dict[str, dict[str, int]]:
    """True pattern -> chosen pattern -> count; `"no choice"` is a further pattern that is never true."""
    instances = list(zip(chosen, labels, patterns, strict=True))
    truth = [row[label] for _, label, row in instances]
    choices = [NO_CHOICE if choice < 0 else row[choice] for choice, _, row in instances]
    names = sorted({*truth, *choices})
    table = _sklearn_metrics().confusion_matrix(truth, choices, labels=names)
    return {
        true: {name: int(count) for name, count in zip(names, counts) if count}
        for true, counts in zip(names, table)
        if counts.any()
    }


def f1_by_pattern(confusion: dict[str, dict[str, int]]) -> dict[str, float]:
    """F1 of each true pattern, `2 tp / (2 tp + fp + fn)`, in 0 to 1.

    Args:
        confusion: of `confusion_counts`.

    Example:
        >>> f1_by_pattern({"a": {"a": 3, "b": 1}, "b": {"b": 2, "a": 2}})
        {'a': 0.6666666666666666, 'b': 0.5714285714285714}
    """
    if not confusion:
        return {}
    cells = [(true, name, count) for true, row in confusion.items() for name, count in row.items()]
    truth, choices, counts = zip(*cells)
    options = {"labels": list(confusion), "average": None, "sample_weight": counts, "zero_division": 0}
    return dict(zip(confusion, _sklearn_metrics().f1_score(truth, choices, **options).tolist()))


def _sklearn_metrics():
    try:
        import sklearn.metrics
    except ImportError as error:
        raise MissingExtra("scikit-learn", "sparse-vae", "Scoring choices") from error
    return sklearn.metrics


def over_runs(values: Sequence[float]) -> dict:
    """Every run's value, their mean and their standard deviation.

    Args:
        values: one per run.

    Returns:
        `runs` as given, `mean`, `sd` (n - 1 in the denominator; None for one run) and `sd_population` (n, as the
        authors').

    Example:
        >>> over_runs([0.5, 0.7])["mean"]
        0.6
    """
    x = torch.tensor(list(values), dtype=torch.float64)
    sd = float(x.std()) if len(x) > 1 else None
    return {
        "runs": list(values),
        "mean": round(float(x.mean()), 12),
        "sd": sd,
        "sd_population": float(x.std(correction=0)),
    }


def identity_scores(data: Dataset, table: EmbeddingTable) -> torch.Tensor:
    """Cosine of each candidate with the input sentence itself, `(n, K)`: the baseline without a model.

    Where an instance has fewer than K candidates, scores are minus infinity.

    Args:
        data: a `Dataset` of pairs.
        table: embeddings of its texts.
    """
    batch = EmbeddedInstances(data, table).__getitems__(range(len(data)))
    scores = F.cosine_similarity(batch["inputs_embeds"][:, None], batch["candidates"], dim=-1)
    return without_missing(scores, batch)


def without_missing(scores: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Scores `(n, K)` with minus infinity where an instance of the batch has no candidate."""
    return scores.masked_fill(~batch["candidate_mask"], -torch.inf) if "candidate_mask" in batch else scores


def pattern_of_texts(data: Dataset) -> dict[str, str]:
    """Every distinct sentence of a data set of pairs and its pattern."""
    patterns = dict(zip(data["input"], data["input_template"], strict=True))
    for texts, templates in zip(data["candidates"], data["candidates_templates"], strict=True):
        patterns.update(zip(texts, templates, strict=True))
    return patterns


def pattern_properties(pattern: str) -> dict[str, str]:
    """The properties that a pattern gives its sentence; those that it does not have are left out.

    Args:
        pattern: of chunks, such as `"np-s pp1-p vp-s"`: `subject` and each attractor (`pp1`, `pp2` ...) `"s"` or `"p"`,
            `length` the number of phrases; or a frame of roles, such as `"theme be participle by agent"`: `frame`, the
            `role` of the subject, and `voice`.

    Example:
        >>> pattern_properties("np-s pp1-p vp-s")
        {'subject': 's', 'length': '1', 'pp1': 'p'}
        >>> pattern_properties("theme be participle by agent")
        {'frame': 'theme be participle by agent', 'role': 'theme', 'voice': 'passive'}
    """
    names = pattern.split()
    if not any(name.startswith("np-") for name in names):
        return {"frame": pattern, "role": names[0], "voice": "passive" if "participle" in names else "active"}
    return chunk_labels(pattern)
