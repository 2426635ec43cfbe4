"""Seed lexicons: one row holds the forms that fill the slots of a sentence, in the singular and the plural."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from ..errors import BadInput, UnknownName
from ..rows.small_files import table_records, utf8_text

HERE = Path(__file__).parent / "lexicons"
LANGUAGES = ("en", "fr", "it")
SLOTS = ("np", "pp1", "pp2", "pp3", "conj2", "vp")
FORMS = tuple(f"{slot}-{number}" for slot in SLOTS for number in "sp")
COLUMNS = (*FORMS, "prefix", "rel")
ALTERNATION_COLUMNS = ("verb-s", "verb-p", "participle", "agents", "themes", "locations", "onto", "wrong")


@dataclass(frozen=True)
class Row:
    """One row of a lexicon.

    Args:
        id: its number, from 1.
        group: number of the group; within a group any subject fits any phrase and any verb.
        forms: column -> form, such as `{"np-s": "the key", "np-p": "the keys", ...}`.
    """

    id: int
    group: str
    forms: Mapping[str, str]

    def form(self, slot: str, number: str = "") -> str:
        """The form of a slot in the singular (`"s"`) or plural (`"p"`); leave `number` empty for slots without it."""
        return self.forms[f"{slot}-{number}" if number else slot]


def load_lexicon(language: str | Path = "en", columns: tuple[str, ...] = COLUMNS) -> list[Row]:
    """Read and check a lexicon.

    Args:
        language: `"en"`, `"fr"` or `"it"` for ours (32 rows each, CC0), or the path of a `;`-separated file of your own
            with the same columns: `row;group` and two forms (`-s`, `-p`) of np, pp1, pp2, pp3, conj2 and vp, and
            prefix, rel.
        columns: which columns must be filled.

    Returns:
        The rows in the file's order.

    Raises:
        UnknownName: no such language and no such file.
        BadInput: a missing column; a missing form (the message names row and column); a row whose singular and plural
            are the same, which would put one sentence into two patterns; two rows with the same subject.

    Example:
        >>> rows = load_lexicon("fr")
        >>> len(rows), rows[0].form("np", "s"), rows[0].form("vp", "p")
        (32, "l'ordinateur", 'tombent souvent en panne')
    """
    path = HERE / f"{language}.csv" if language in LANGUAGES else Path(language)
    if not path.is_file():
        raise UnknownName("lexicon", str(language), LANGUAGES)
    rows = [_row(path, number, record, columns) for number, record in enumerate(_records(path, columns), 1)]
    _check_distinct(rows)
    return rows


def _records(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    records = table_records(utf8_text(path, "lexicon"), "lexicon", path.name, delimiter=";")
    _, header = next(records, (1, []))
    absent = [column for column in columns if column not in header]
    if absent:
        raise BadInput(
            "lexicon",
            came=f"{path.name} without the column(s) {', '.join(absent)}",
            wanted=f"all of {', '.join(columns)}",
        )
    return [dict(zip_longest(header, cells[: len(header)], fillvalue="")) for _, cells in records if cells]


def _row(path: Path, number: int, record: dict[str, str], columns: tuple[str, ...]) -> Row:
    for column in columns:
        if not record[column].strip():
            raise BadInput(
                "lexicon",
                came=f"no form in row {number}, column {column!r} of {path.name}",
                wanted="a form in every cell",
                cure="Fill the cell, or leave the row out.",
            )
    forms = {column: record[column].strip() for column in columns}
    return Row(number, record.get("group", "").strip() or f"row {number}", forms)


def _check_distinct(rows: list[Row]) -> None:
    subjects: dict[str, int] = {}
    for row in rows:
        for column, form in row.forms.items():
            if column.endswith("-s") and form == row.forms[f"{column[:-2]}-p"] and column != "verb-s":
                raise BadInput(
                    "lexicon",
                    came=f"the same form {form!r} for singular and plural in row {row.id}, slot {column[:-2]!r}",
                    wanted="two forms that differ, so that agreement can be seen",
                )
        subject = row.forms.get("np-s", str(row.id))
        if subject in subjects:
            raise BadInput(
                "lexicon",
                came=f"the subject {subject!r} in rows {subjects[subject]} and {row.id}",
                wanted="a subject of its own for every row",
            )
        subjects[subject] = row.id


def load_alternation_lexicon(path: str | Path | None = None) -> list[Row]:
    """Read the table of spray/load verbs: five agents, themes and locations per verb that all go together.

    Args:
        path: a file of your own with the same columns; default: ours (English, 32 verbs, CC0). In `themes`, a leading
            `pl:` marks a plural.

    Returns:
        The rows; their forms hold the lists as `|`-separated strings.

    Raises:
        BadInput: a missing column or form.

    Example:
        >>> load_alternation_lexicon()[13].form("participle")
        'loaded'
    """
    return load_lexicon(path or HERE / "spray_load_en.csv", ALTERNATION_COLUMNS)


def sentence_case(words: str) -> str:
    """With a capital letter and a full stop: `"the key is lost"` -> `"The key is lost."`."""
    return f"{words[0].upper()}{words[1:]}."
