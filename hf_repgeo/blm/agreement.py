"""BLM agreement: subject and verb agree across attractors; which sentence completes the matrix?

Design of An et al. 2023 (BLM-AgrF) as used by Nastase & Merlo 2024: seven sentences vary the numbers of subject and
attractors by a rule, the eighth follows from it; wrong answers each break one rule. The words are ours.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from ..errors import BadInput
from .lexicon import Row, load_lexicon, sentence_case
from .matrices import Matrix, Part, assemble, check_type, split_by_answer

VARIANTS = ("main", "completive", "relative")
SIZES = {"I": (2052, 252), "II": (5000, 4927), "III": (5000, 4810)}
CONTEXT = ("ss", "ps", "sp", "pp", "sss", "pss", "sps")
ANSWERS = {
    "Correct": ("np-p pp1-p pp2-s", "p"),
    "AEV": ("np-p pp1-p pp2-p", "s"),
    "AEN1": ("np-p pp1-s pp2-p", "s"),
    "AEN2": ("np-p pp1-p pp2-s", "s"),
    "WN1": ("np-p pp1-s pp2-s", "p"),
    "WN2": ("np-p pp1-p pp2-p", "p"),
    "Coord": ("np-p pp1-p conj2-p", "p"),
    "WNA": ("np-p pp1-p pp2-s pp3-p", "p"),
}
SLOTS = ("np", "pp1", "pp2", "vp")


def agreement_template(phrases: str, verb: str, variant: str) -> str:
    """The chunks of a sentence: `("np-p pp1-s", "p", "relative")` -> `"np-p pp1-s rel vp-p"`.

    The completive and the relative variant use the opposite numbers: what was singular is plural.
    """
    if variant == "main":
        return f"{phrases} vp-{verb}"
    mirrored = " ".join(name[:-1] + _other(name[-1]) for name in phrases.split())
    if variant == "completive":
        return f"prefix {mirrored} vp-{_other(verb)}"
    return f"{mirrored} rel vp-{_other(verb)}"


def _other(number: str) -> str:
    return {"s": "p", "p": "s"}[number]


def _context_templates(variant: str) -> list[str]:
    named = (" ".join(f"{slot}-{number}" for slot, number in zip(SLOTS, numbers, strict=False)) for numbers in CONTEXT)
    return [agreement_template(phrases, numbers[0], variant) for phrases, numbers in zip(named, CONTEXT, strict=True)]


def agreement_matrices(
    lexicon: str | Sequence[Row] = "en",
    type: str = "I",
    *,
    sizes: tuple[int, int] | None = None,
    split: str = "answers",
    seed: int = 0,
) -> dict[str, list[Matrix]]:
    """Matrices of subject-verb agreement: 7 sentences and 8 candidates.

    Candidates: `Correct` (main clause: subject pl, attractors pl, sg, verb pl); `AEV`, `AEN1`, `AEN2` the verb
    disagrees, and the attractors are (pl, pl), (sg, pl), (pl, sg); `WN1`, `WN2` wrong number of the first, second
    attractor; `Coord` "and the X" for the second; `WNA` a third attractor.

    Args:
        lexicon: `"en"`, `"fr"`, `"it"`, a file, or rows.
        type: `"I"`, `"II"` or `"III"`; see `Matrix`.
        sizes: how many for training and test; default: the published sizes of the type (2052:252, 5000:4927,
            5000:4810).
        split: `"answers"` no answer is in both parts, but words are; `"seeds"` a quarter of the lexicon's groups is
            kept for the test, so that training has no chunk of a test sentence.
        seed: for all random choices.

    Returns:
        `{"train", "test"}`; a third of each in each clause variant (main, completive, relative).

    Raises:
        UnknownName: an unknown type, split or language.
        BadInput: the lexicon cannot make that many different matrices.

    Example:
        >>> matrix = agreement_matrices("en", "I", sizes=(3, 3))["train"][0]
        >>> len(matrix.context), len(matrix.candidates), matrix.errors[matrix.label]
        (7, 8, 'Correct')
    """
    check_type(type)
    rows = load_lexicon(lexicon) if isinstance(lexicon, str) else list(lexicon)
    rng = random.Random(seed)
    train, test = sizes or SIZES[type]
    if split == "answers":
        return split_by_answer(lambda: draw_agreement(_by_group(rows), type, rng), train, test, rng)
    if split != "seeds":
        raise BadInput("split", came=repr(split), wanted="'answers' or 'seeds'")
    seen, held_out = _split_groups(_by_group(rows), rng)
    return {
        "train": split_by_answer(lambda: draw_agreement(seen, type, rng), train, 0, rng)["train"],
        "test": split_by_answer(lambda: draw_agreement(held_out, type, rng), 0, test, rng)["test"],
    }


def _by_group(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return list(groups.values())


def _split_groups(groups: list[list[Row]], rng: random.Random) -> tuple[list[list[Row]], list[list[Row]]]:
    """Three quarters of the groups and the rest; groups that share a form stay together."""
    linked: list[list[list[Row]]] = []
    for group in groups:
        words = {form for row in group for form in row.forms.values()}
        touching = [part for part in linked if any(words & set(row.forms.values()) for g in part for row in g)]
        linked = [part for part in linked if part not in touching] + [[group, *(g for part in touching for g in part)]]
    rng.shuffle(linked)
    linked.sort(key=len, reverse=True)  # whole groups of linked groups, so the large ones go to training
    seen: list[list[Row]] = []
    held_out: list[list[Row]] = []
    for part in linked:
        (seen if len(seen) + len(part) <= 0.75 * len(groups) else held_out).extend(part)
    if not seen or not held_out:
        raise BadInput(
            "lexicon",
            came=f"{len(groups)} group(s) of rows, {len(linked)} of them without shared words",
            wanted="at least two groups that share no form, one of them for the test",
        )
    return seen, held_out


def draw_agreement(groups: Sequence[Sequence[Row]], type: str, rng: random.Random) -> Matrix:
    """One matrix of random words and clause variant.

    Args:
        groups: rows that fit each other, group by group.
        type: of the matrix.
        rng: makes the random choices.
    """
    variant = rng.choice(VARIANTS)
    choice = _choose(groups, rng)
    context = []
    for template in _context_templates(variant):
        context.append(_fill(template, choice))
        choice = _next(choice, groups, template, type, rng)
    answers = {
        name: _fill(agreement_template(phrases, verb, variant), choice) for name, (phrases, verb) in ANSWERS.items()
    }
    return assemble(context, answers, type, variant, rng)


def _choose(groups: Sequence[Sequence[Row]], rng: random.Random) -> dict[str, Any]:
    """A row for each slot, all of one group; `conj2` has the same noun as `pp2`."""
    group = rng.choice(groups)
    choice = {slot: rng.choice(group) for slot in ("np", "pp1", "pp2", "pp3", "vp", "prefix", "rel")}
    return {**choice, "conj2": choice["pp2"], "group": group}


def _next(choice, groups, template: str, type: str, rng: random.Random):
    """The words of the next sentence: none, one, or all of them changed."""
    if type == "I":
        return choice
    if type == "II":
        slot = rng.choice([name.split("-")[0] for name in template.split() if name.split("-")[0] in SLOTS])
        other = rng.choice([row for row in choice["group"] if row is not choice[slot]] or choice["group"])
        return {**choice, slot: other, **({"conj2": other} if slot == "pp2" else {})}
    fresh = _choose(groups, rng)
    while fresh["group"] is choice["group"] and len(groups) > 1:
        fresh = _choose(groups, rng)
    return fresh


def _fill(template: str, choice: dict[str, Row]) -> Part:
    names = template.split()
    rows = [choice[name.split("-")[0]] for name in names]
    chunks = tuple(row.forms[name] for name, row in zip(names, rows, strict=True))
    return Part(sentence_case(" ".join(chunks)), template, tuple(row.id for row in rows), chunks)
