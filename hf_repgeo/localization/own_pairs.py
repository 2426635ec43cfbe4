"""Training instances for the sparse VAE from your sentences: which of these has the same value as that one?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import BadInput

if TYPE_CHECKING:
    from datasets import DatasetDict

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}
SIZES = {"train": 1000, "validation": 250, "test": 250}
NEGATIVES = 7
TRIES, BY_VALUE = 100, 10  # divisions drawn at random, then value by value


def property_pairs(
    texts: Sequence[str], labels: Sequence[str | None], groups: Sequence[str] | None, seed: int = 0
) -> DatasetDict:
    """Pairs of sentences with one value, never of one group, among sentences with other values.

    Args:
        texts: n distinct sentences.
        labels: n values; sentences without one are left out.
        groups: n names; None: every sentence is a group of its own. The parts share no group.
        seed: of division and drawing.

    Returns:
        A `DatasetDict` of 1,000 instances in `train`, 250 in `validation` and in `test`: `input`, `candidates` (at most
        eight, shuffled), `label`, `input_template` and `candidates_templates` (the values).

    Raises:
        BadInput: groups cannot be divided so that every part has two of every value.

    Example:
        >>> texts = [f"sentence {i}" for i in range(60)]
        >>> data = property_pairs(texts, ["sp"[i % 2] for i in range(60)], None)
        >>> {name: len(part) for name, part in data.items()}
        {'train': 1000, 'validation': 250, 'test': 250}
    """
    import datasets

    rng = random.Random(seed)
    own = list(range(len(texts))) if groups is None else list(groups)
    held = [i for i, label in enumerate(labels) if label is not None]
    parts = _divided(held, labels, own, rng)
    made = {}
    for name, places in parts.items():
        by_value: dict[str, list[int]] = {}
        for i in places:
            by_value.setdefault(str(labels[i]), []).append(i)
        records = [_instance(texts, labels, own, by_value, rng) for _ in range(SIZES[name])]
        made[name] = datasets.Dataset.from_list(records)
    return datasets.DatasetDict(made)


def _divided(held, labels, groups, rng: random.Random) -> dict[str, list[int]]:
    names = list(dict.fromkeys(groups[i] for i in held))
    values = {labels[i] for i in held}
    possible = _fewest_groups(held, labels, groups, values) >= 2 * len(SHARES)
    for attempt in range(TRIES + BY_VALUE if possible else 0):
        order = rng.sample(names, len(names))
        first = round(len(order) * SHARES["train"])
        second = first + round(len(order) * SHARES["validation"])
        cuts = dict(zip(SHARES, (order[:first], order[first:second], order[second:]), strict=True))
        if attempt >= TRIES:  # by chance alone, a part of many values lacks one of them
            cuts = _by_value(order, held, labels, groups, rng)
        part_of = {group: name for name, chosen in cuts.items() for group in chosen}
        parts = {name: [i for i in held if part_of[groups[i]] == name] for name in SHARES}
        if all(_fewest_groups(places, labels, groups, values) >= 2 for places in parts.values()):
            return parts
    rare = min(values, key=lambda value: len({groups[i] for i in held if labels[i] == value}))
    came = f"{rare!r} in {len({groups[i] for i in held if labels[i] == rare})} groups"
    raise BadInput("labels", came=came, wanted="every value in six groups or more, two for each part of the data")


def _by_value(order, held, labels, groups, rng: random.Random) -> dict[str, list]:
    """Parts of the groups: two groups of each value for each part, the rarest value first; the others by `SHARES`."""
    found: dict[str, dict] = {}
    for i in held:
        found.setdefault(labels[i], {})[groups[i]] = None
    part_of: dict = {}
    for own in sorted(found.values(), key=len):
        for part in SHARES:
            free = [group for group in order if group in own and group not in part_of]
            lacking = 2 - sum(part_of.get(group) == part for group in own)
            part_of |= dict.fromkeys(free[: max(0, lacking)], part)
    for group in order:
        part_of.setdefault(group, rng.choices(list(SHARES), list(SHARES.values()))[0])
    return {part: [group for group in order if part_of[group] == part] for part in SHARES}


def _fewest_groups(places, labels, groups, values) -> int:
    found: dict[str, set] = {value: set() for value in values}
    for i in places:
        found[labels[i]].add(groups[i])
    return min(map(len, found.values()))


def _instance(texts, labels, groups, by_value: dict[str, list[int]], rng: random.Random) -> dict:
    value = rng.choice(sorted(by_value))
    given = rng.choice(by_value[value])
    right = rng.choice([i for i in by_value[value] if groups[i] != groups[given]])
    others = [i for other, places in by_value.items() if other != value for i in places]
    fewest = len(by_value) and min(sum(map(len, by_value.values())) - len(p) for p in by_value.values())
    candidates = rng.sample([right, *rng.sample(others, min(NEGATIVES, fewest))], 1 + min(NEGATIVES, fewest))
    return {
        "input": texts[given],
        "input_template": value,
        "candidates": [texts[i] for i in candidates],
        "candidates_templates": [str(labels[i]) for i in candidates],
        "label": candidates.index(right),
    }
