"""BLM verb alternation: spray/load verbs say the same event in two ways; which sentence completes the matrix?

Design of Samo et al. 2023 (BLM-s/lE) as used by Nastase & Merlo 2024: one alternant, then six passives over the same
roles; the answer is the other alternant. The words are ours.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import BadInput, UnknownName
from .chunks import Sentence
from .lexicon import Row, load_alternation_lexicon, sentence_case
from .matrices import Matrix, Part, assemble, check_type, split_by_answer

DIRECTIONS = ("ALT-ATL", "ATL-ALT")
SIZES = {"I": (3375, 375), "II": (2000, 1500), "III": (2000, 1500)}

# agent, theme, location; "be" agrees with the first phrase; WITH and ONTO are the two prepositions
LOCATION_FIRST = "agent verb location WITH theme"
THEME_FIRST = "agent verb theme ONTO location"
PASSIVES = (
    "theme be participle by agent",
    "theme be participle ONTO location by agent",
    "theme be participle ONTO location",
    "location be participle by agent",
    "location be participle WITH theme by agent",
    "location be participle WITH theme",
)
FRAMES = (LOCATION_FIRST, THEME_FIRST, *PASSIVES)
# o1 and o2 are the first and the second object of the answer, P the preposition between them, Q the other one
ANSWERS = {
    "Correct": "agent verb o1 P o2",
    "AgentAct": "agent be participle o1 P o2",
    "Alternation1": "agent verb o1 o2",
    "Alternation2": "agent verb Q o1 P o2",
    "NoEmb": "agent verb o1 of o2",
    "LexPrep": "agent verb o1 WRONG o2",
    "SSM1": "o1 verb agent P o2",
    "SSM2": "o2 verb o1 P agent",
    "AASSM": "o2 verb agent o1",
}


@dataclass(frozen=True)
class _Words:
    """A row with one agent, theme and location chosen."""

    row: Row
    agent: str
    theme: str
    location: str

    def word(self, name: str, plural_subject: bool) -> str:
        fixed = {
            "be": "are" if plural_subject else "is",
            "verb": self.row.forms["verb-p" if plural_subject else "verb-s"],
            "participle": self.row.forms["participle"],
            "WITH": "with",
            "ONTO": self.row.forms["onto"],
            "WRONG": self.row.forms["wrong"],
        }
        noun = {"agent": self.agent, "theme": self.theme, "location": self.location}.get(name)
        return fixed.get(name, name) if noun is None else noun.removeprefix("pl:")

    def is_plural(self, name: str) -> bool:
        return {"agent": self.agent, "theme": self.theme, "location": self.location}[name].startswith("pl:")


def alternation_matrices(
    lexicon: Sequence[Row] | None = None,
    direction: str = "ALT-ATL",
    type: str = "I",
    *,
    sizes: tuple[int, int] | None = None,
    split: str = "answers",
    seed: int = 0,
) -> dict[str, list[Matrix]]:
    """Matrices of the spray/load alternation: 7 sentences and 9 candidates.

    Candidates: `Correct`; `AgentAct` agent as the subject of a passive; `Alternation1` no preposition, `Alternation2`
    one too many; `NoEmb` second object inside the first ("the paint of the wall"); `LexPrep` a wrong preposition;
    `SSM1`, `SSM2` subject and an object swapped; `AASSM` the same without a preposition.

    Args:
        lexicon: rows of `load_alternation_lexicon`; default: ours.
        direction: `"ALT-ATL"` from "sprays the wall with the paint" to "sprays the paint onto the wall"; `"ATL-ALT"`
            back.
        type: `"I"`, `"II"` or `"III"`; see `Matrix`.
        sizes: how many for training and test; default 3375:375 for type I, 2000:1500 for II and III.
        split: `"answers"` no answer is in both parts; `"seeds"` a quarter of the verbs is kept for the test.
        seed: for all random choices.

    Returns:
        `{"train", "test"}`.

    Raises:
        UnknownName: an unknown type, direction or split.
        BadInput: the lexicon cannot make that many different matrices.

    Example:
        >>> matrix = alternation_matrices(type="I", sizes=(1, 1))["test"][0]
        >>> len(matrix.context), len(matrix.candidates)
        (7, 9)
    """
    check_type(type)
    if direction not in DIRECTIONS:
        raise UnknownName("direction", direction, DIRECTIONS)
    rows, rng = list(lexicon or load_alternation_lexicon()), random.Random(seed)
    train, test = sizes or SIZES[type]
    if split == "answers":
        return split_by_answer(lambda: draw_alternation(rows, direction, type, rng), train, test, rng)
    if split != "seeds":
        raise BadInput("split", came=repr(split), wanted="'answers' or 'seeds'")
    rng.shuffle(rows)
    cut = round(0.75 * len(rows))
    return {
        "train": split_by_answer(lambda: draw_alternation(rows[:cut], direction, type, rng), train, 0, rng)["train"],
        "test": split_by_answer(lambda: draw_alternation(rows[cut:], direction, type, rng), 0, test, rng)["test"],
    }


def role_sentences(lexicon: Sequence[Row] | None = None) -> list[Sentence]:
    """One event in eight frames: both alternants and six passives, for every verb and five choices of nouns.

    Args:
        lexicon: rows of `load_alternation_lexicon`; default: ours.

    Returns:
        Sentences, frame by frame: 8 x 32 x 5 = 1,280; `pattern` is the frame, `row` the verb's row.

    Example:
        >>> sentences = role_sentences()
        >>> len(sentences), sentences[0].text
        (1280, 'The gardener sprays the wall with the paint.')
    """
    rows = list(lexicon or load_alternation_lexicon())
    parts = [_fill(frame, words) for frame in FRAMES for row in rows for words in _events(row)]
    return [Sentence(part.text, part.template, part.rows[0], part.chunks) for part in parts]


def _events(row: Row) -> list[_Words]:
    """The first agent with the first theme and location, the second with the second, and so on."""
    nouns = (row.forms[column].split("|") for column in ("agents", "themes", "locations"))
    return [_Words(row, *event) for event in zip(*nouns, strict=False)]


def draw_alternation(rows: Sequence[Row], direction: str, type: str, rng: random.Random) -> Matrix:
    """One matrix of random words.

    Args:
        rows: of the alternation lexicon.
        direction: which alternant is given.
        type: of the matrix.
        rng: makes the random choices.
    """
    given = LOCATION_FIRST if direction == "ALT-ATL" else THEME_FIRST
    words, context = _choose(rows, rng), []
    for template in (given, *PASSIVES):
        context.append(_fill(template, words))
        words = _next(words, rows, template, type, rng)
    roles = {"o1": "theme", "P": "ONTO", "o2": "location", "Q": "WITH"}
    if direction == "ATL-ALT":
        roles = {"o1": "location", "P": "WITH", "o2": "theme", "Q": "ONTO"}
    answers = {
        name: _fill(" ".join(roles.get(part, part) for part in template.split()), words)
        for name, template in ANSWERS.items()
    }
    return assemble(context, answers, type, direction, rng)


def _choose(rows: Sequence[Row], rng: random.Random) -> _Words:
    row = rng.choice(rows)
    agent, theme, location = (rng.choice(row.forms[column].split("|")) for column in ("agents", "themes", "locations"))
    return _Words(row, agent, theme, location)


def _next(words: _Words, rows: Sequence[Row], template: str, type: str, rng: random.Random) -> _Words:
    if type == "I":
        return words
    if type == "II":
        role = rng.choice([name for name in template.split() if name in ("agent", "theme", "location")])
        others = [noun for noun in words.row.forms[f"{role}s"].split("|") if noun != getattr(words, role)]
        return _Words(words.row, **{**_roles(words), role: rng.choice(others)})
    fresh = _choose(rows, rng)
    while fresh.row is words.row and len(rows) > 1:
        fresh = _choose(rows, rng)
    return fresh


def _roles(words: _Words) -> dict[str, str]:
    return {"agent": words.agent, "theme": words.theme, "location": words.location}


def _fill(template: str, words: _Words) -> Part:
    names = template.split()
    plural = words.is_plural(names[0])
    chunks = tuple(words.word(name, plural) for name in names)
    return Part(sentence_case(" ".join(chunks)), template, (words.row.id,) * len(names), chunks)
