"""What all Blackbird Language Matrices share: an instance, its types, and splits that keep answers apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import BadInput, UnknownName

TYPES = ("I", "II", "III")


@dataclass(frozen=True)
class Part:
    """One sentence of a matrix and where it comes from.

    Args:
        text: as written.
        template: its chunks' names, such as `"np-p pp1-s vp-p"`.
        rows: the lexicon row of each chunk.
        chunks: its pieces in order.
    """

    text: str
    template: str
    rows: tuple[int, ...]
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """A Blackbird Language Matrix: seven sentences that follow rules, and candidates for the eighth.

    Args:
        context: the seven sentences.
        candidates: possible answers, shuffled, all texts distinct.
        errors: what each candidate gets wrong; `"Correct"` for the answer.
        label: index of the answer.
        type: `"I"` one choice of words for the whole matrix, `"II"` one word changes from sentence to sentence, `"III"`
            all sentences are of different words.
        variant: clause form (agreement) or direction (alternation).
    """

    context: tuple[Part, ...]
    candidates: tuple[Part, ...]
    errors: tuple[str, ...]
    label: int
    type: str
    variant: str

    @property
    def answer(self) -> Part:
        """The right candidate."""
        return self.candidates[self.label]


def check_type(type: str) -> None:
    """Refuse what is not a type of matrix."""
    if type not in TYPES:
        raise UnknownName("type of matrix", type, TYPES)


def assemble(context: Sequence[Part], answers: dict[str, Part], type: str, variant: str, rng: random.Random) -> Matrix:
    """Shuffle the candidates and put a matrix together.

    Args:
        context: the seven sentences.
        answers: error name -> candidate; the first one, `"Correct"`, is the answer.
        type, variant: as in `Matrix`.
        rng: shuffles.

    Raises:
        BadInput: two candidates have the same text, or none is the answer.
    """
    texts = [part.text for part in answers.values()]
    if "Correct" not in answers:
        raise BadInput(
            "answers", came=f"candidates {', '.join(answers)} without the answer", wanted="one named 'Correct'"
        )
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise BadInput("answers", came=f"the candidate {twice!r} twice", wanted="distinct candidates")
    names = rng.sample(list(answers), len(answers))
    return Matrix(
        tuple(context), tuple(answers[name] for name in names), tuple(names), names.index("Correct"), type, variant
    )


def split_by_answer(
    draw: Callable[[], Matrix], train: int, test: int, rng: random.Random, patience: int = 200
) -> dict[str, list[Matrix]]:
    """Draw matrices until both parts are full; no answer's text is in both, no matrix comes twice.

    Each new answer goes to the part that is less full, relative to its size, so that both contain all kinds of words.

    Args:
        draw: makes one matrix.
        train, test: how many in each part.
        rng: breaks ties between the parts.
        patience: how many draws in a row may bring nothing new.

    Raises:
        BadInput: the lexicon cannot make that many different matrices.
    """
    parts: dict[str, list[Matrix]] = {"train": [], "test": []}
    wanted = {"train": train, "test": test}
    home: dict[str, str] = {}
    seen, idle = set(), 0
    while any(len(parts[name]) < wanted[name] for name in parts):
        matrix = draw()
        key = (matrix.context, frozenset(matrix.candidates))
        name = home.setdefault(matrix.answer.text, _emptier(parts, wanted, rng))
        idle += 1
        if key not in seen and len(parts[name]) < wanted[name]:
            seen.add(key)
            parts[name].append(matrix)
            idle = 0
        if idle > patience * 100:
            had = sum(map(len, parts.values()))
            raise BadInput(
                "sizes",
                came=f"{train} train and {test} test matrices; only {had} different ones came up",
                wanted="fewer of them, or a lexicon with more rows",
            )
    return parts


def _emptier(parts: dict[str, list[Matrix]], wanted: dict[str, int], rng: random.Random) -> str:
    """A part drawn with a chance proportional to what it still needs."""
    needs = {name: max(wanted[name] - len(part), 0) for name, part in parts.items()}
    return rng.choices(list(needs), weights=[need + 1e-9 for need in needs.values()])[0]
