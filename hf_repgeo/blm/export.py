"""Instances as `datasets.DatasetDict`, with a card, on disk and on the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadInput
from ..writing import write_whole, written_whole
from .agreement import agreement_matrices
from .alternation import alternation_matrices
from .chunks import PairInstance, Sentence, pair_instances
from .matrices import Matrix, Part

if TYPE_CHECKING:
    from datasets import DatasetDict

TASKS = ("chunks", "agreement", "alternation")
LANGUAGE_NAMES = {"en": "English", "fr": "French", "it": "Italian"}


def _sentence_columns(name: str, sentences: Sequence[Sentence | Part]) -> dict[str, list]:
    """The four columns of a list of sentences: texts, templates, rows per chunk, chunks."""
    return {
        f"{name}": [sentence.text for sentence in sentences],
        f"{name}_templates": [_template(sentence) for sentence in sentences],
        f"{name}_rows": [_chunk_rows(sentence) for sentence in sentences],
        f"{name}_chunks": [list(sentence.chunks) for sentence in sentences],
    }


def _template(sentence: Sentence | Part) -> str:
    return sentence.pattern if isinstance(sentence, Sentence) else sentence.template


def _chunk_rows(sentence: Sentence | Part) -> list[int]:
    return [sentence.row] * len(sentence.chunks) if isinstance(sentence, Sentence) else list(sentence.rows)


def _pair_record(instance: PairInstance) -> dict:
    given = {key: values[0] for key, values in _sentence_columns("input", [instance.input]).items()}
    renamed = {key.replace("_templates", "_template"): value for key, value in given.items()}
    return {**renamed, **_sentence_columns("candidates", instance.candidates), "label": instance.label}


def _matrix_record(matrix: Matrix) -> dict:
    return {
        **_sentence_columns("context", matrix.context),
        **_sentence_columns("candidates", matrix.candidates),
        "errors": list(matrix.errors),
        "label": matrix.label,
        "type": matrix.type,
        "variant": matrix.variant,
    }


def to_dataset(parts: Mapping[str, Sequence[PairInstance | Matrix]]) -> DatasetDict:
    """Instances of any task as a `DatasetDict`; every sentence keeps its template, lexicon rows and chunks.

    Args:
        parts: split name -> instances, as `pair_instances`, `agreement_matrices` and `alternation_matrices` give them.

    Returns:
        One split per part. Columns of pairs: `input`, `candidates` (texts) with `_template(s)`, `_rows`, `_chunks`, and
        `label`; of matrices: `context`, `candidates` with the same, `errors`, `label`, `type`, `variant`.

    Raises:
        BadInput: a part without instances.

    Example:
        >>> from hf_repgeo.blm import agreement_matrices, to_dataset
        >>> data = to_dataset(agreement_matrices("en", "I", sizes=(4, 2)))
        >>> data["train"].num_rows, len(data["test"][0]["candidates"])
        (4, 8)
    """
    import datasets

    built = {}
    for name, instances in parts.items():
        if not instances:
            raise BadInput("parts", came=f"no instance in split {name!r}", wanted="at least one in every split")
        record: Callable[[Any], dict] = _pair_record if isinstance(instances[0], PairInstance) else _matrix_record
        built[name] = datasets.Dataset.from_list([record(instance) for instance in instances])
    return datasets.DatasetDict(built)


def generate(
    task: str,
    language: Literal["en", "fr", "it"] = "en",
    *,
    type: Literal["I", "II", "III"] = "I",
    direction: Literal["ALT-ATL", "ATL-ALT"] = "ALT-ATL",
    split: Literal["pairs", "seeds", "patterns", "answers"] | None = None,
    negatives: Literal["random", "minimal", "all"] = "random",
    seed: int = 0,
) -> DatasetDict:
    """Generate one of the data sets from our own lexicons.

    Args:
        task: `"chunks"`, `"agreement"` or `"alternation"` (English only).
        language: of the sentences.
        type: of matrix, for agreement and alternation: lexical variation, from I to III.
        direction: of the alternation: which of its two forms comes first.
        split: how the parts are kept apart; default: the paper's way, pairs for chunks and answers for matrices.
        negatives: wrong candidates of the chunk task; `"random"`: 7 other patterns, `"minimal"`: 7 sentences of
            patterns one step away, `"all"`: 13 patterns.
        seed: for all random choices; the same arguments give the same data.

    Returns:
        A `DatasetDict`.

    Raises:
        BadInput: an unknown task, or alternation in another language than English.
    """
    split = split or default_split(task)
    if task == "chunks":
        return to_dataset(pair_instances(language, split=split, negatives=negatives, seed=seed))
    if task == "agreement":
        return to_dataset(agreement_matrices(language, type, split=split, seed=seed))
    if task != "alternation" or language != "en":
        raise BadInput("task", came=f"{task!r} in {language!r}", wanted="chunks, agreement, or (English) alternation")
    return to_dataset(alternation_matrices(None, direction, type, split=split, seed=seed))


def default_split(task: str) -> Literal["pairs", "answers"]:
    """How the paper divides a task's data into parts."""
    return "pairs" if task == "chunks" else "answers"


def generated_card(
    data: DatasetDict, task: str, language: str = "en", *, type: str = "I", split: str | None = None, seed: int = 0
) -> str:
    """The card of the data set that `generate` returned for the same arguments; see `data_card`."""
    kind = "" if task == "chunks" else f" type {type}"
    title = f"BLM {task}{kind} ({language})"
    return data_card(data, title, language=language, split=split or default_split(task), seed=seed)


def data_card(data: DatasetDict, title: str, *, language: str = "en", split: str, seed: int = 0) -> str:
    """The README of a generated data set, with the metadata the Hub reads.

    Args:
        data: what `to_dataset` or `generate` gave.
        title: a heading, such as `"BLM agreement, type II, French"`.
        language: its code.
        split: how the parts are kept apart: `pairs`, `seeds`, `patterns` or `answers`.
        seed: of the generation.

    Returns:
        Markdown with YAML front matter.
    """
    sizes = "\n".join(f"| {name} | {part.num_rows} | {_distinct_texts(part)} |" for name, part in data.items())
    files = "\n".join(f"  - split: {name}\n    path: {name}.parquet" for name in data)
    columns = ", ".join(f"`{name}`" for name in next(iter(data.values())).column_names)
    return f"""---
license: cc0-1.0
language:
- {language}
pretty_name: {title}
tags:
- blackbird-language-matrices
- synthetic
configs:
- config_name: default
  data_files:
{files}
---

# {title}

Generated by `hf_repgeo.blm` from its own seed lexicon ({LANGUAGE_NAMES.get(language, language)}, CC0 1.0), seed {seed}.
The design follows An et al. 2023, Samo et al. 2023 and Nastase & Merlo 2024 (arXiv 2407.18119); no sentence is taken
from their data.

| split | instances | distinct sentences |
|---|---|---|
{sizes}

Parts kept apart by: {split}. With `pairs` whole sentences of the test occur in training, with `answers` its words
do, with `seeds` neither. Compare before saying that a model has learnt structure.

Columns: {columns}. `label` is the index of the answer among `candidates`; candidates are distinct and shuffled. `_rows`
are the lexicon rows of each chunk, `_templates` the chunk names with their number (s, p).

Sentences are made of few words and fixed frames: scores say how a representation carries number, length and roles in
such frames, not how it does in running text.
"""


def _distinct_texts(part) -> int:
    texts: set[str] = set(part["input"]) if "input" in part.column_names else set()
    for column in ("context", "candidates"):
        if column in part.column_names:
            texts.update(text for row in part[column] for text in row)
    return len(texts)


def save_dataset(data: DatasetDict, folder: str | Path, card: str) -> Path:
    """Write one Parquet file per split and the card: a folder that `datasets.load_dataset` reads and the Hub takes.

    Args:
        data: a `DatasetDict`.
        folder: created if needed.
        card: text of `README.md`.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in data.items():
        with written_whole(folder / f"{name}.parquet") as unfinished:
            part.to_parquet(unfinished)
    write_whole(folder / "README.md", card)
    return folder


def push_dataset(data: DatasetDict, repo_id: str, card: str, api=None) -> str:
    """Put a data set and its card on the Hub.

    Args:
        data: a `DatasetDict`.
        repo_id: `"user/name"`; created if needed.
        card: text of its README.
        api: a `huggingface_hub.HfApi`; default: a new one with the user's own login.

    Returns:
        `repo_id`.
    """
    if api is None:
        from huggingface_hub import HfApi

        api = HfApi()
    api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_dataset(data, folder, card)
        api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=str(folder))
    return repo_id
