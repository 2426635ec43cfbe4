"""Sample sequences: short lines of several corpora, drawn as in arXiv 2406.12159, each split equally often."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import BadInput
from ..rows.small_files import utf8_text
from ..rows.texts import packaged_sample, read_dataset

WORD = re.compile(r"\b\w\w+\b")  # two letters or digits at least, as scikit-learn's CountVectorizer reads words
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z0-9])")
ALL_ROWS = 2**31
CROWDED = 1000  # after this many draws in a row without a new sequence, the splits count as exhausted


@dataclass(frozen=True)
class SequenceSample:
    """Distinct sequences and where each came from.

    Attributes:
        sequences: words joined by spaces, without punctuation.
        splits: name of the split of each.
        eligible: the distinct sequences of each split from which it was drawn.
        source: counts and a digest, for a report's provenance.
    """

    sequences: list[str]
    splits: list[str]
    eligible: dict[str, list[str]] = field(repr=False)
    source: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sequences)


def sample_sequences(
    corpora: Mapping[str, object] | Iterable[str | Path] | str | Path | None = None,
    n: int = 5000,
    min_words: int = 4,
    max_words: int = 49,
    seed: int = 0,
) -> SequenceSample:
    """Draws distinct short sequences: a split at random, then a line of it at random, until there are `n`.

    A word is two or more letters or digits, so punctuation goes and `<unk>` becomes `unk`; case stays. Every split is
    drawn equally often whatever its size, so the lines of small splits are over-represented; headings qualify.
    `frequency_report` says how far the sample is from its corpora.

    Args:
        corpora: each one a split: paths of text files with one sequence per line, or data sets as
            `"NAME:config:split"`; or a mapping from names to paths, data sets or lists of lines. Default: the sentences
            of the packaged sample of Wikipedia.
        n: sequences wanted.
        min_words, max_words: shortest and longest sequence, in words, both included.
        seed: of the draw.

    Returns:
        SequenceSample: in the order drawn.

    Raises:
        BadInput: no file, not UTF-8, no line of such a length in a split, or fewer than `n` distinct ones in all.

    Source: Marbut et al. 2024, arXiv 2406.12159, section 3; Penn Treebank and WikiText-2, n = 5000.

    Example:
        >>> sample = sample_sequences({"a": ["one two three four", "no"], "b": ["five, six: seven (eight)"]}, n=2)
        >>> sorted(sample.sequences)
        ['five six seven eight', 'one two three four']
    """
    if not 1 <= min_words <= max_words:
        raise BadInput("min_words", came=f"{min_words} to {max_words} words", wanted="1 <= min_words <= max_words")
    lines = _lines_of(corpora)
    eligible = {name: _eligible(name, texts, min_words, max_words) for name, texts in lines.items()}
    distinct = len({sequence for pool in eligible.values() for sequence in pool})
    if not 1 <= n <= distinct:
        wanted = f"1 to {distinct}, the distinct sequences of {min_words} to {max_words} words"
        raise BadInput("n", came=str(n), wanted=wanted, cure="Give more text, or a smaller n.")
    drawn = _draw(eligible, n, random.Random(seed))
    digest = hashlib.sha256("\n".join(drawn).encode()).hexdigest()
    source = {"n": n, "words": [min_words, max_words], "seed": seed, "sha256": digest}
    source["splits"] = {name: len(pool) for name, pool in eligible.items()}
    return SequenceSample(list(drawn), list(drawn.values()), eligible, source)


def _draw(eligible: dict[str, list[str]], n: int, rng: random.Random) -> dict[str, str]:
    """Sequence -> split. A split without new sequences is no longer drawn from."""
    open_splits, barren = list(eligible), 0
    drawn: dict[str, str] = {}
    while len(drawn) < n:
        split = rng.choice(open_splits)
        sequence = rng.choice(eligible[split])
        barren = barren + 1 if sequence in drawn else 0
        drawn.setdefault(sequence, split)
        if barren == CROWDED:
            eligible = {name: [s for s in pool if s not in drawn] for name, pool in eligible.items()}
            open_splits, barren = [name for name, pool in eligible.items() if pool], 0
    return drawn


def _eligible(name: str, lines: Iterable[str], min_words: int, max_words: int) -> list[str]:
    sequences: dict[str, None] = {}
    for line in lines:
        words = WORD.findall(line)
        if min_words <= len(words) <= max_words:
            sequences[" ".join(words)] = None
    if not sequences:
        raise BadInput("corpora", came=f"{name!r} without a line of {min_words} to {max_words} words", wanted="one")
    return list(sequences)


def _lines_of(corpora) -> dict[str, list[str]]:
    """Name of each split -> its lines."""
    if corpora is None:
        text = "\n".join(map(str, packaged_sample().documents))
        return {"packaged sample": [s for line in text.split("\n") for s in SENTENCE_END.split(line)]}
    if not isinstance(corpora, Mapping):
        places = [corpora] if isinstance(corpora, (str, Path)) else list(corpora)
        corpora = {str(place): place for place in places}
    if not corpora:
        raise BadInput("corpora", came="none", wanted="at least one split")
    return {name: _read_lines(place) for name, place in corpora.items()}


def _read_lines(place) -> list[str]:
    if not isinstance(place, (str, Path)):
        return list(place)
    path = Path(place)
    if path.is_file():
        return utf8_text(path, "corpora").split("\n")
    if isinstance(place, Path) or path.suffix in (".txt", ".tokens") or str(place).startswith(("/", ".")):
        came = f"{str(place)!r}, which is not a file"
        raise BadInput("corpora", came=came, wanted="a text file, one sequence per line")
    rows = read_dataset(place, limit=ALL_ROWS).documents
    if not all(isinstance(row, str) for row in rows):
        raise BadInput("corpora", came=f"{place!r}, a column of conversations", wanted="a column of texts")
    return [line for row in rows for line in str(row).split("\n")]
