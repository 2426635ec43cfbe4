"""GLUE's nine tasks: where their columns are, on the Hub and in a folder in GLUE's own layout, and how they are scored.

A folder holds one folder per task (`CoLA/train.tsv`, `MNLI/dev_matched.tsv` ...) as the benchmark's archives unpack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import BadInput, MissingExtra, UnknownName

HUB = "nyu-mll/glue"
SHORT_ROWS = 1e-3  # share of rows that QQP's published files hold broken over two lines, at most


# --- scores ----------------------------------------------------------------------------------------------------------


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(predicted == labels))


def f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1; 0 when neither predictions nor labels contain it."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels == 1, predicted == 1, zero_division=0))


def matthews(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Matthews's correlation of two classes; 0 for constant predictions."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels == 1, predicted == 1))


def pearson(x, y) -> float:
    """Correlation; 0 when either side is constant, as a collapsed model's predictions are."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    x, y = x - x.mean(), y - y.mean()
    norms = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / norms if norms > 1e-300 else 0.0


def spearman(x, y) -> float:
    from scipy.stats import rankdata

    return pearson(rankdata(x), rankdata(y))


def accuracy_and_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    return (accuracy(predicted, labels) + f1(predicted, labels)) / 2


def pearson_and_spearman(predicted: np.ndarray, labels: np.ndarray) -> float:
    return (pearson(predicted, labels) + spearman(predicted, labels)) / 2


# --- tasks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as on the Hub.
        folder: as in GLUE's archives.
        texts: names of the text columns in the files, or column numbers for a file without header.
        hub_texts: names of the text columns on the Hub.
        label: name of the label column in the files, or its number.
        classes: labels as the files write them, in the Hub's order; empty for regression.
        score: predictions and labels to the number that the paper averages.
        score_name: of that number.
        dev: name of the validation file, without ending.
        hub_dev: name of the validation split.
        columns: how many a file without header has.
        broken_rows: whether the published file holds rows with too few columns, which are left out.
    """

    name: str
    folder: str
    texts: tuple[str | int, ...]
    hub_texts: tuple[str, ...]
    label: str | int
    classes: tuple[str, ...]
    score: Callable[[np.ndarray, np.ndarray], float]
    score_name: str
    dev: str = "dev"
    hub_dev: str = "validation"
    columns: int = 0
    broken_rows: bool = False


_ENTAILMENT = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")
_QUESTION = ("question", "sentence")
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", "CoLA", (3,), ("sentence",), 1, ("0", "1"), matthews, "Matthews", columns=4),
        Task("sst2", "SST-2", ("sentence",), ("sentence",), "label", ("0", "1"), accuracy, "accuracy"),
        Task(
            "mrpc", "MRPC", ("#1 String", "#2 String"), _PAIR, "Quality", ("0", "1"), accuracy_and_f1, "accuracy and F1"
        ),
        Task(
            "qqp",
            "QQP",
            ("question1", "question2"),
            ("question1", "question2"),
            "is_duplicate",
            ("0", "1"),
            accuracy_and_f1,
            "accuracy and F1",
            broken_rows=True,
        ),
        Task("stsb", "STS-B", _PAIR, _PAIR, "score", (), pearson_and_spearman, "Pearson and Spearman"),
        Task(
            "mnli",
            "MNLI",
            _PAIR,
            ("premise", "hypothesis"),
            "gold_label",
            ("entailment", "neutral", "contradiction"),
            accuracy,
            "accuracy",
            dev="dev_matched",
            hub_dev="validation_matched",
        ),
        Task("qnli", "QNLI", _QUESTION, _QUESTION, "label", _ENTAILMENT, accuracy, "accuracy"),
        Task("rte", "RTE", _PAIR, _PAIR, "label", _ENTAILMENT, accuracy, "accuracy"),
        Task("wnli", "WNLI", _PAIR, _PAIR, "label", ("0", "1"), accuracy, "accuracy"),
    )
}


def task_of(name: str) -> Task:
    """A task by its name on the Hub or its folder's name.

    Raises:
        UnknownName: no task has this name.
    """
    found = {alias: task for task in TASKS.values() for alias in (task.name, task.folder.lower())}
    if name.lower() not in found:
        raise UnknownName("GLUE task", name, TASKS)
    return found[name.lower()]


def glue_average(scores: dict[str, float], wnli: bool = False) -> float | None:
    """Mean over the tasks: eight of them, as the paper averages, or nine with WNLI; `None` unless all are there.

    Args:
        scores: task -> score.
        wnli: whether WNLI counts.

    Example:
        >>> glue_average({name: 0.5 for name in TASKS})
        0.5
    """
    wanted = [name for name in TASKS if wnli or name != "wnli"]
    if any(scores.get(name) is None for name in wanted):
        return None
    return float(np.mean([scores[name] for name in wanted]))


# --- rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rows:
    """Rows of one split: texts (one or two columns) and labels (class numbers, or scores for regression)."""

    texts: tuple[list[str], ...]
    labels: list[int] | list[float]

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int | None) -> Rows:
        return Rows(tuple(column[:count] for column in self.texts), self.labels[:count])


def load_task(name: str, data: str | Path | None = None) -> dict[str, Rows]:
    """Training and validation rows of a task.

    Args:
        name: such as `"qnli"`.
        data: folder in GLUE's layout; default: the Hub's `nyu-mll/glue`.

    Returns:
        `{"train": Rows, "dev": Rows}`; of MNLI the matched validation set.

    Raises:
        BadInput: a missing file, a wrong header, a row with a missing column or an unknown label; file and line named.
        UnknownName: no such task.
    """
    task = task_of(name)
    if data is None:
        return {"train": _from_hub(task, "train"), "dev": _from_hub(task, task.hub_dev)}
    root = Path(data)
    folder = root if root.name == task.folder else root / task.folder
    return {"train": read_rows(task, folder / "train.tsv"), "dev": read_rows(task, folder / f"{task.dev}.tsv")}


def _from_hub(task: Task, split: str) -> Rows:
    import datasets

    try:
        rows = datasets.load_dataset(HUB, task.name, split=split)
    except Exception as error:  # whatever the Hub, the network or a builder raises
        cure = "Without a network, give a folder in GLUE's layout."
        came = f"{HUB}, {task.name} ({type(error).__name__}: {error})"
        raise BadInput("data", came=came, wanted="the task's data", cure=cure) from error
    return Rows(tuple(list(rows[column]) for column in task.hub_texts), list(rows["label"]))


def read_rows(task: Task, path: Path) -> Rows:
    """The rows of one file of GLUE's layout.

    Args:
        task: whose columns to read.
        path: a tab-separated file in UTF-8; quotation marks are plain characters in GLUE.

    Raises:
        BadInput: as in `load_task`.
    """
    if not path.is_file():
        wanted = f"{task.folder}/train.tsv and {task.folder}/{task.dev}.tsv, GLUE's layout"
        raise BadInput("data", came=f"{str(path)!r}, which is not a file", wanted=wanted)
    lines = _lines(path)
    columns = _columns(task, path, lines)
    texts: tuple[list[str], ...] = tuple([] for _ in task.texts)
    labels, short = [], []
    for number, line in lines:
        cells = line.split("\t")
        if len(cells) <= max(columns):
            short.append((number, len(cells)))
            continue
        labels.append(_label(task, path, number, cells[columns[-1]]))
        for column, position in zip(texts, columns):
            column.append(cells[position])
    _check_short(task, path, short, len(labels), max(columns) + 1)
    return Rows(texts, labels)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that are not blank; only a line feed ends a line, as other breaks occur in texts."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                came = f"{path}, line {number}, not UTF-8 at byte {error.start}"
                raise BadInput("data", came=came, wanted="UTF-8") from None
            if text:
                yield number, text


def _columns(task: Task, path: Path, lines: Iterator[tuple[int, str]]) -> list[int]:
    """Positions of the text columns and of the label, from the header if the task's files have one."""
    names = (*task.texts, task.label)
    if task.columns:
        return [int(name) for name in names]
    header = next(lines, (1, ""))[1].split("\t")
    for name in names:
        if name not in header:
            wanted = f"a header with {', '.join(map(str, names))}, separated by tabs"
            raise BadInput("data", came=f"{path}, line 1, without the column {name!r}: {header}", wanted=wanted)
    return [header.index(str(name)) for name in names]


def _label(task: Task, path: Path, number: int, cell: str) -> int | float:
    if task.classes:
        if cell in task.classes:
            return task.classes.index(cell)
        wanted = f"one of {', '.join(task.classes)}"
    else:
        try:
            if math.isfinite(score := float(cell)):
                return score
        except ValueError:
            pass
        wanted = "a finite number"
    raise BadInput("data", came=f"{path}, line {number}, label {cell!r}", wanted=wanted)


def _check_short(task: Task, path: Path, short: list[tuple[int, int]], read: int, columns: int) -> None:
    if short and not (task.broken_rows and len(short) <= SHORT_ROWS * read):
        number, cells = short[0]
        came = f"{path}, line {number}, with {cells} column(s)"
        raise BadInput("data", came=came, wanted=f"at least {columns}, separated by tabs")
    if not read:
        raise BadInput("data", came=f"{path} without a row", wanted="labelled rows")


def need_scipy() -> None:
    """Checks before hours of fine-tuning that the package for rank correlations is installed.

    Raises:
        MissingExtra: scipy is not installed.
    """
    try:
        import scipy  # noqa: F401
    except ImportError:
        raise MissingExtra("scipy", "downstream", "STS-B's score") from None
