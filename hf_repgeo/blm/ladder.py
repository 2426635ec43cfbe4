"""A ladder of sentence complexity: the same questions about simple, longer, coordinated, embedded and natural
sentences.

Regions and probes are found on simple sentences; Nastase & Merlo 2024 (arXiv 2407.18119) leave open whether they hold
for others. A pattern names its chunks with their numbers on every rung, so subject and attractors are labelled.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from .chunks import PATTERNS, Sentence, build_sentence
from .lexicon import Row, load_lexicon, sentence_case

NATURAL = Path(__file__).parents[1] / "data" / "natural-sentences.csv"
SIMPLE_RUNGS = ("no phrase", "one phrase", "two phrases")


def _patterns(*slots: str) -> list[str]:
    """`np`, the slots and `vp` in all numbers; subject and verb agree."""
    return [
        " ".join([f"np-{x}", *(f"{slot}-{y}" for slot, y in zip(slots, numbers, strict=True)), f"vp-{x}"])
        for x, *numbers in product("sp", repeat=1 + len(slots))
    ]


RUNGS = {
    "no phrase": _patterns(),
    "one phrase": _patterns("pp1"),
    "two phrases": _patterns("pp1", "pp2"),
    "three phrases": _patterns("pp1", "pp2", "pp3"),
    "coordination": _patterns("pp1", "conj2"),
    "completive": [f"prefix {pattern}" for pattern in PATTERNS],
    "relative": [pattern.replace(" vp", " rel vp") for pattern in PATTERNS],
}


def complexity_ladder(lexicon: str | Sequence[Row] = "en") -> dict[str, list[Sentence]]:
    """Sentences of growing complexity, in all numbers of subject and attractors.

    | rung | chunks | sentences of 32 rows |
    |---|---|---|
    | no phrase, one phrase, two phrases | `np [pp1 [pp2]] vp`: the 14 patterns | 64, 128, 256 |
    | three phrases | `np pp1 pp2 pp3 vp` | 512 |
    | coordination | `np pp1 conj2 vp`: "and the company" in the place of pp2 | 256 |
    | completive | `prefix` ("the engineer says that") and the 14 patterns | 448 |
    | relative | the 14 patterns with `rel` ("that Anna uses every day") in front of the verb | 448 |
    | natural | sentences of Wikipedia with none to three phrases; English only | 202 |

    Args:
        lexicon: a language, or rows. Only the language `"en"` has natural sentences.

    Returns:
        Name of the rung -> its sentences. `row` is the lexicon row; natural sentences have no lexicon row and are
        numbered after the last one. `chunk_labels` says what a pattern means.

    Raises:
        UnknownName: no such language.

    Example:
        >>> ladder = complexity_ladder("en")
        >>> ladder["coordination"][1].text
        'The printer with the cable and the shop costs too much.'
        >>> ladder["relative"][0].pattern, len(ladder["natural"])
        ('np-s rel vp-s', 202)
    """
    rows = load_lexicon(lexicon) if isinstance(lexicon, str) else list(lexicon)
    ladder = {
        name: [build_sentence(row, pattern) for pattern in patterns for row in rows] for name, patterns in RUNGS.items()
    }
    if lexicon == "en":
        ladder["natural"] = natural_sentences(first_row=1 + max(row.id for row in rows))
    return ladder


def natural_sentences(first_row: int = 1) -> list[Sentence]:
    """Sentences of English Wikipedia whose subject is followed by none to three prepositional phrases.

    Chosen and labelled by hand: present tense, a verb that shows number. Their text is under CC BY-SA 3.0; see
    `natural-sentences.LICENSE.md` beside the file, which names the articles.

    Args:
        first_row: `row` of the first one; each has its own.

    Returns:
        202 sentences with patterns such as `"np-s pp1-p vp-s"`; the last chunk, `vp`, is all that follows.

    Example:
        >>> sentence = natural_sentences()[98]
        >>> sentence.pattern, sentence.chunks[:2]
        ('np-p pp1-s vp-p', ('Opinions', 'about the song'))
    """
    with NATURAL.open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file, delimiter=";"))
    sentences = []
    for row, record in enumerate(records, first_row):
        chunks = tuple(record["chunks"].split(" | "))
        sentences.append(Sentence(sentence_case(" ".join(chunks)), record["pattern"], row, chunks))
    return sentences


def chunk_labels(pattern: str) -> dict[str, str]:
    """The labels that a pattern of any rung gives: number of the subject and of each attractor, and how many phrases.

    Args:
        pattern: chunk names; those with a number end in `-s` or `-p`.

    Returns:
        `subject`, `length` (prepositional phrases, so a coordination is 1), and the numbers of `pp1`, `pp2`, `pp3`,
        `conj2` where the pattern has them.

    Example:
        >>> chunk_labels("prefix np-s pp1-p vp-s")
        {'subject': 's', 'length': '1', 'pp1': 'p'}
    """
    numbers = dict(chunk.split("-") for chunk in pattern.split() if "-" in chunk)
    attractors = {name: number for name, number in numbers.items() if name not in ("np", "vp")}
    length = sum(name.startswith("pp") for name in attractors)
    return {"subject": numbers["np"], "length": str(length), **attractors}
