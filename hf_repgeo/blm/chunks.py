"""Sentences of 14 chunk patterns, and instances that ask: which of these sentences has the pattern of that one?

The protocol is that of Nastase & Merlo 2024 (arXiv 2407.18119), section 3: `np-X [pp1-Y [pp2-Z]] vp-X` with X, Y, Z
singular or plural.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ..errors import BadInput, UnknownName
from .lexicon import Row, load_lexicon, sentence_case

PATTERNS = tuple(
    " ".join([f"np-{x}", *(f"pp{i}-{y}" for i, y in enumerate(pps, 1)), f"vp-{x}"])
    for length in range(3)
    for x in "sp"
    for pps in product("sp", repeat=length)
)
SPLITS = ("pairs", "seeds", "patterns")
NEGATIVES = ("random", "minimal", "all")


@dataclass(frozen=True)
class Sentence:
    """A sentence and where it comes from.

    Args:
        text: as written, with capital letter and full stop.
        pattern: one of `PATTERNS`, which is also its template.
        row: number of the lexicon row that fills it.
        chunks: its pieces in order, one per element of the pattern.
    """

    text: str
    pattern: str
    row: int
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class PairInstance:
    """An input sentence, and candidates of which one has its pattern; `label` is that one's index."""

    input: Sentence
    candidates: tuple[Sentence, ...]
    label: int


def build_sentence(row: Row, pattern: str) -> Sentence:
    """Fill a pattern's slots with a row's forms.

    Args:
        row: of a lexicon.
        pattern: chunk names with their number, such as `"np-s pp1-p vp-s"`; names without number (`prefix`) are
            allowed.

    Returns:
        The sentence.

    Example:
        >>> build_sentence(load_lexicon("it")[0], "np-s pp1-p vp-s").text
        'Il computer con i programmi si guasta spesso.'
    """
    if pattern in row.forms:  # a row of whole sentences
        return Sentence(row.forms[pattern], pattern, row.id, (row.forms[pattern],))
    chunks = tuple(row.forms[name] for name in pattern.split())
    return Sentence(sentence_case(" ".join(chunks)), pattern, row.id, chunks)


def chunk_sentences(lexicon: str | Sequence[Row] = "en") -> list[Sentence]:
    """All sentences of the 14 patterns: 448 for 32 rows, each text once.

    Args:
        lexicon: a language, a file, or rows.

    Returns:
        Sentences, pattern by pattern.

    Example:
        >>> len(chunk_sentences("en"))
        448
    """
    rows = _rows(lexicon)
    return [build_sentence(row, pattern) for pattern in PATTERNS for row in rows]


def _rows(lexicon) -> list[Row]:
    if isinstance(lexicon, list) and lexicon and isinstance(lexicon[0], Sentence):
        return _sentence_rows(lexicon)
    return list(lexicon) if not isinstance(lexicon, str) and hasattr(lexicon, "__len__") else load_lexicon(lexicon)


def _sentence_rows(sentences: Sequence[Sentence]) -> list[Row]:
    """Rows of whole sentences; only row numbers that have a sentence of every pattern."""
    found: dict[int, dict[str, str]] = {}
    for sentence in sentences:
        found.setdefault(sentence.row, {})[sentence.pattern] = sentence.text
    rows = [Row(number, f"row {number}", forms) for number, forms in found.items() if set(forms) >= set(PATTERNS)]
    if not rows:
        raise BadInput("lexicon", came="sentences without a row of all patterns", wanted="at least one such row")
    return rows


def minimal_neighbors(pattern: str) -> list[str]:
    """Patterns one step away: number of subject and verb, of one phrase, or one phrase more at the end.

    Example:
        >>> minimal_neighbors("np-s vp-s")
        ['np-p vp-p', 'np-s pp1-s vp-s', 'np-s pp1-p vp-s']
    """
    head, *pps, verb = pattern.split()
    flipped = [" ".join([_flip(head), *pps, _flip(verb)])]
    flipped += [" ".join([head, *pps[:i], _flip(pps[i]), *pps[i + 1 :], verb]) for i in range(len(pps))]
    if len(pps) < 2:
        flipped += [" ".join([head, *pps, f"pp{len(pps) + 1}-{number}", verb]) for number in "sp"]
    return flipped


def _flip(chunk: str) -> str:
    return chunk[:-1] + {"s": "p", "p": "s"}[chunk[-1]]


def paper_sizes(n: int = 4000, n_patterns: int = len(PATTERNS)) -> dict[str, int]:
    """Instances per pattern in each split, by the paper's rounding: `int(n * share / patterns) + 1`.

    Args:
        n: instances asked for.
        n_patterns: over how many patterns.

    Returns:
        `{"train": 184, "validation": 45, "test": 57}` for 4000: in all 2,576, 630 and 798, together 4,004.
    """
    total = int(n / n_patterns) + 1
    kept = int(total * n_patterns * 0.8 / n_patterns) + 1
    train = int(kept * n_patterns * 0.8 / n_patterns) + 1
    return {"train": train, "validation": kept - train, "test": total - kept}


def pair_instances(
    lexicon: str | Sequence[Row] = "en",
    *,
    n: int = 4000,
    split: str = "pairs",
    negatives: str = "random",
    seed: int = 0,
) -> dict[str, list[PairInstance]]:
    """Instances of chunk identification in three splits.

    Args:
        lexicon: a language, a file, rows, or the sentences of `load_sequences`.
        n: how many instances (4000 gives the paper's 4,004 = 2,576 + 630 + 798).
        split: `"pairs"` ordered pairs of sentences are divided, as in the paper: every test sentence was seen in
            training. `"seeds"` lexicon rows are divided: no test sentence, and no test row, was seen. `"patterns"`
            patterns are divided (9, 2 and 3): no sentence of a test pattern was seen.
        negatives: `"random"` 7 other patterns, `"minimal"` 7 sentences of patterns one step away, `"all"` 13 patterns.
        seed: for the drawing of pairs and negatives and the shuffling of candidates.

    Returns:
        `{"train", "validation", "test"}`, each a list of `PairInstance` with distinct, shuffled candidates.

    Raises:
        UnknownName: an unknown split or kind of negatives.
        BadInput: too few lexicon rows for the number of instances.

    Example:
        >>> {name: len(part) for name, part in pair_instances("en").items()}
        {'train': 2576, 'validation': 630, 'test': 798}
    """
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    if negatives not in NEGATIVES:
        raise UnknownName("kind of negatives", negatives, NEGATIVES)
    rows, rng = _rows(lexicon), random.Random(seed)
    drawn = {"pairs": _split_pairs, "seeds": _split_seeds, "patterns": _split_patterns}[split](rows, n, rng)
    return {name: _with_negatives(part, negatives, rng) for name, part in drawn.items()}


@dataclass(frozen=True)
class _Part:
    """Pairs of one split by pattern, and the material its negatives may come from."""

    pairs: dict[str, list[tuple[Row, Row]]]
    rows: list[Row]
    patterns: list[str]


def _draw_pairs(rows: list[Row], count: int, rng: random.Random) -> list[tuple[Row, Row]]:
    pairs = list(product(rows, rows))
    if count > len(pairs):
        raise BadInput(
            "lexicon",
            came=f"{len(rows)} rows for a part of the data, which make {len(pairs)} ordered pairs",
            wanted=f"{count} pairs per pattern",
            cure="Ask for fewer instances (`n`), or give a lexicon with more rows.",
        )
    return rng.sample(pairs, count)


def _split_pairs(rows: list[Row], n: int, rng: random.Random) -> dict[str, _Part]:
    sizes = paper_sizes(n)
    drawn = {pattern: _draw_pairs(rows, sum(sizes.values()), rng) for pattern in PATTERNS}
    parts, start = {}, 0
    for name, size in sizes.items():
        parts[name] = _Part({p: pairs[start : start + size] for p, pairs in drawn.items()}, rows, list(PATTERNS))
        start += size
    return parts


def _split_seeds(rows: list[Row], n: int, rng: random.Random) -> dict[str, _Part]:
    shares = _shares(rng.sample(rows, len(rows)), (17 / 32, 7 / 32))
    sizes = paper_sizes(n)
    return {
        name: _Part({pattern: _draw_pairs(own, sizes[name], rng) for pattern in PATTERNS}, own, list(PATTERNS))
        for name, own in zip(sizes, shares, strict=True)
    }


def _split_patterns(rows: list[Row], n: int, rng: random.Random) -> dict[str, _Part]:
    shares = _shares(rng.sample(PATTERNS, len(PATTERNS)), (9 / 14, 2 / 14))
    per_pattern, parts = sum(paper_sizes(n).values()), {}
    known: list[str] = []
    for name, own in zip(("train", "validation", "test"), shares, strict=True):
        known = known + list(own)  # negatives may show what came before, never what comes later
        parts[name] = _Part({pattern: _draw_pairs(rows, per_pattern, rng) for pattern in own}, rows, known)
    return parts


def _shares(items: Sequence, shares: tuple[float, float]) -> tuple[list, list, list]:
    first = round(len(items) * shares[0])
    second = first + round(len(items) * shares[1])
    return list(items[:first]), list(items[first:second]), list(items[second:])


def _with_negatives(part: _Part, negatives: str, rng: random.Random) -> list[PairInstance]:
    instances = []
    for pattern, pairs in part.pairs.items():
        for first, second in pairs:
            wrong = _negative_sentences(pattern, part, negatives, rng)
            right = build_sentence(second, pattern)
            candidates = rng.sample([right, *wrong], 1 + len(wrong))
            instances.append(PairInstance(build_sentence(first, pattern), tuple(candidates), candidates.index(right)))
    return instances


def _negative_sentences(pattern: str, part: _Part, kind: str, rng: random.Random) -> list[Sentence]:
    if kind == "minimal":
        near = [p for p in minimal_neighbors(pattern) if p in part.patterns]
        if not near:
            raise BadInput(
                "negatives",
                came=f"'minimal', and no pattern of this part is one step from {pattern!r}",
                wanted="at least one",
                cure="Take another `seed`, or `negatives='random'`.",
            )
        pool = list(product(near, part.rows))
        return [build_sentence(row, p) for p, row in rng.sample(pool, min(7, len(pool)))]
    others = [p for p in part.patterns if p != pattern]
    chosen = others if kind == "all" else rng.sample(others, min(7, len(others)))
    return [build_sentence(rng.choice(part.rows), p) for p in chosen]
