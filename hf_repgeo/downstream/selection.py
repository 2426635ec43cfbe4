"""Chooses among encoders for labelled data by a cheap probe, and tests whether geometry adds anything to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import BadInput, UnknownName
from ..localization.probing import make_probe
from ..rows.models import load_model
from ..rows.small_files import table_records, utf8_text
from .expectation import SHIPPED
from .geometry import CHEAP, TokenizedTexts, geometry_of, last_layer, text_means
from .glue_files import TASKS, load_task, task_of
from .prediction import dummies, folds_of, linear, out_of_fold, skill_ratio
from .probes import ProbeTask, features_of
from .resampling import LEVEL, Interval, cluster_weights
from .tables import read_scores

FOLDS = 5
LEAST_PER_CLASS = FOLDS
LEAST_CANDIDATES = 8  # encoders from which one can tell whether geometry adds to the probe
QUESTION = ("tuned_frames", "frames")  # in the shipped study: the outcome, and the probe of the same sentences


@dataclass(frozen=True)
class Candidate:
    """One encoder.

    Attributes:
        model: its name.
        probe: accuracy of a linear classifier on frozen embeddings in five folds, with an interval over rows.
        geometry: of its last layer on the task's texts.
        outcome: its true score, where given.
    """

    model: str
    probe: Interval
    geometry: dict[str, float | None]
    outcome: float | None = None


@dataclass(frozen=True)
class Selection:
    """The result of `select_encoder`.

    Attributes:
        candidates: by the probe, the best first.
        adds: gain in skill of predicting the outcome from probe and geometry over the probe alone, with its interval.
        measure: the geometry that `adds` is about.
        basis: the models from which `adds` was computed.
        notes: what else to know, a sentence each.
    """

    candidates: list[Candidate]
    adds: Interval
    measure: str
    basis: str
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        width = max(len("encoder"), *(len(one.model) for one in self.candidates))
        lines = [f"{'encoder':{width}}  {'probe':20}  {self.measure}"]
        for one in self.candidates:
            value = one.geometry.get(self.measure)
            lines.append(f"{one.model:{width}}  {one.probe!s:20}  {'-' if value is None else f'{value:.4g}'}")
        return "\n".join([*lines, "", self.verdict(), *self.notes])

    def verdict(self) -> str:
        """Whether geometry adds to the probe, in a sentence."""
        said = (
            f"{self.measure} beside the probe changes the skill of predicting the outcome by {self.adds} ({self.basis})"
        )
        if self.adds.low is None:
            return f"{said}: too few models to say."
        if self.adds.low > 0:
            return f"{said}: geometry adds to the probe."
        return f"{said}: geometry adds nothing that can be shown; go by the probe."


def select_encoder(
    models: Mapping[str, str] | Sequence[str],
    data: str | Path | ProbeTask,
    *,
    outcomes: Mapping[str, float] | None = None,
    measure: str = "patchiness",
    rows: int = 2000,
    seed: int = 0,
) -> Selection:
    """Ranks encoders for labelled data by a cheap probe, and says whether geometry adds to it.

    Every encoder embeds the texts once, frozen; a linear classifier is scored in five folds, and the geometry of the
    same token rows is measured. Whether geometry helps to predict the outcome (the score after fine-tuning) can be told
    only from outcomes of many encoders: with eight or more in `outcomes` from these, else from the study that the
    package ships, whose outcome is another task.

    Args:
        models: Hub ids, folders or `pip:PACKAGE`; or a mapping from names.
        data: a CSV or TSV file with the columns `text` (and `text2` for pairs) and `label`; `"FOLDER:qnli"`, a task in
            a folder in GLUE's layout; or a `ProbeTask`.
        outcomes: name -> score after fine-tuning, for the encoders that have one.
        measure: of geometry to ask about, of those that cost little.
        rows: labelled rows to use at most, an even draw.
        seed: of draw, folds and intervals.

    Returns:
        Selection: print it.

    Raises:
        BadInput: no such file or column, fewer than two classes, too few rows of a class.
        UnknownName: no such measure.

    Cost: one forward pass of each encoder over the texts, five fits of a linear classifier.
    """
    if measure not in CHEAP:
        raise UnknownName("measure", measure, CHEAP)
    task = data if isinstance(data, ProbeTask) else read_labelled(data, rows, seed)
    named = dict(models) if isinstance(models, Mapping) else {str(place): str(place) for place in models}
    known = outcomes or {}
    found = [_candidate(name, place, task, measure, known.get(name), seed) for name, place in named.items()]
    found.sort(key=lambda one: one.probe.descending)
    complete = [one for one in found if one.outcome is not None and one.geometry[measure] is not None]
    if len(complete) >= LEAST_CANDIDATES:
        outcome = np.array([one.outcome for one in complete])
        probe = np.array([one.probe.value for one in complete])
        geometry = np.array([one.geometry[measure] for one in complete])
        adds = added_skill(outcome, probe, geometry, seed=seed)
        return Selection(found, adds, measure, f"these {len(complete)} encoders", _notes(found))
    adds, basis = added_in_study(measure, seed=seed)
    return Selection(found, adds, measure, basis, _notes(found))


def _notes(found: list[Candidate]) -> list[str]:
    best, second = found[0].probe.value, found[1].probe.high if len(found) > 1 else None
    if best is not None and second is not None and second >= best:
        return [f"{found[0].model} and {found[1].model} cannot be told apart by the probe on these rows."]
    return []


def read_labelled(data: str | Path, rows: int = 2000, seed: int = 0) -> ProbeTask:
    """Labelled rows of a file with a header, or of a GLUE task, an even draw of at most `rows`.

    Raises:
        BadInput: as `select_encoder`; file and line named where there is one.
    """
    folder, _, name = str(data).rpartition(":")
    if folder and name.lower() in {alias for t in TASKS.values() for alias in (t.name, t.folder.lower())}:
        train = load_task(task_of(name).name, folder)["train"]
        columns, labels = [list(column) for column in train.texts], list(map(str, train.labels))
    else:
        columns, labels = _read_csv(Path(data))
    keep = np.sort(np.random.default_rng(seed).permutation(len(labels))[:rows])
    classes = sorted({labels[i] for i in keep})
    numbers = np.array([classes.index(labels[i]) for i in keep], dtype=np.int64)
    smallest = np.bincount(numbers).min(initial=len(keep))
    if len(classes) < 2 or smallest < LEAST_PER_CLASS:
        came = f"{len(keep)} rows of {len(classes)} classes, {smallest} of the rarest"
        raise BadInput("data", came=came, wanted=f"two classes with {LEAST_PER_CLASS} rows each at least")
    columns = [[column[i] for i in keep] for column in columns]
    return ProbeTask.of(str(data), columns, numbers, np.zeros(len(keep), dtype=bool))


def _read_csv(path: Path) -> tuple[list[list[str]], list[str]]:
    if not path.is_file():
        raise BadInput("data", came=f"{str(path)!r}, which is not a file", wanted="a CSV or TSV file, or FOLDER:task")
    delimiter = "\t" if path.suffix == ".tsv" else ","
    records = table_records(utf8_text(path, "data"), "data", str(path), delimiter=delimiter)
    _, header = next(records, (1, []))
    for column in ("text", "label"):
        if column not in header:
            raise BadInput("data", came=f"{path}, line 1: {header}", wanted="the columns text and label")
    rows = []
    for line, cells in records:
        if cells and len(cells) < len(header):
            raise BadInput("data", came=f"{path}, line {line}, with too few columns", wanted=f"{len(header)}")
        rows += [dict(zip(header, cells))] if cells else []
    texts = ["text", *(["text2"] if "text2" in header else [])]
    return [[row[name] for row in rows] for name in texts], [row["label"] for row in rows]


def _candidate(name: str, place: str, task: ProbeTask, measure: str, outcome: float | None, seed: int) -> Candidate:
    loaded = load_model(place)
    texts = TokenizedTexts.of(task.texts, loaded.tokenizer, loaded.model)
    rows = last_layer(loaded.model, texts)
    right = _cross_validated(features_of(text_means(rows, texts), task), task.labels, seed)
    geometry = geometry_of(rows, [measure], seed=seed)
    return Candidate(name, _mean_interval(right, seed), geometry, outcome)


def _cross_validated(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """`(n,)` whether each row was classified correctly by a fit that did not see it."""
    from sklearn.model_selection import StratifiedKFold

    right = np.zeros(len(y))
    for fit, new in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y):
        right[new] = make_probe("linear").fit(x[fit], y[fit]).predict(x[new]) == y[new]
    return right


def _mean_interval(values: np.ndarray, seed: int) -> Interval:
    weights = cluster_weights(np.arange(len(values)), 1000, seed)
    low, high = np.quantile(weights @ values / len(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values))


# --- does geometry add to the probe? ---------------------------------------------------------------------------------


def added_skill(
    outcome: np.ndarray,
    probe: np.ndarray,
    geometry: np.ndarray,
    clusters: np.ndarray | None = None,
    others: list[np.ndarray] | None = None,
    seed: int = 0,
) -> Interval:
    """Skill of predicting unseen models' outcomes from probe and geometry, minus that from the probe alone.

    Args:
        outcome, probe, geometry: `(n,)`.
        clusters: `(n,)` models that belong together: one side of a fold, one draw of the bootstrap.
        others: columns in both predictors, such as indicators of the architecture.
        seed: of folds and bootstrap.
    """
    clusters = np.arange(len(outcome)) if clusters is None else clusters
    folds, others = folds_of(clusters, seed=seed), others or []
    predictors = (others, [probe, *others], [probe, geometry, *others])
    mean, alone, both = (outcome - out_of_fold(linear(p, outcome), iter(folds), len(outcome)) for p in predictors)
    return skill_ratio(alone**2 - both**2, mean**2, cluster_weights(clusters, 1000, seed))


def added_in_study(measure: str, path: str | Path = SHIPPED, seed: int = 0) -> tuple[Interval, str]:
    """`added_skill` over the perturbed models of the shipped study, and what it was asked of."""
    outcome, probe = QUESTION
    table = read_scores(path, outcome, measures=[measure], baselines=[probe])
    rows = np.ones(len(table.score), dtype=bool)
    values = (table.score, table.baselines[probe], table.measures[measure])
    adds = added_skill(*values, table.cells(rows), dummies(table, rows), seed)
    return adds, f"{len(table.score)} perturbed models of the shipped study, {probe} as probe of {outcome}"
