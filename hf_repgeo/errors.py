"""The exceptions of the package.

RepgeoError                 everything this package raises on purpose; a ValueError
├── BadInput                an argument cannot be used: its name, what came, what was wanted, the way out
│   ├── TooFewRows          fewer (distinct) rows than the measure needs
│   └── NonFiniteRows       NaN or infinity among the rows
├── UnknownName             a measure, convention, layer, policy ... that does not exist; lists what does
└── MissingExtra            an optional package is not installed; names the extra to install
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

MANY = 12  # names that an error lists; of a longer list it shows the nearest name, or the first few


class RepgeoError(ValueError):
    """Base of every error that hf_repgeo raises on purpose; its message is one line, whatever names stand in it."""

    def __init__(self, message: str):
        super().__init__("\\n".join(message.splitlines()))


class BadInput(RepgeoError):
    """An argument that cannot be used.

    Args:
        argument: the argument's name as the caller wrote it.
        came: what was given.
        wanted: what would have been accepted.
        cure: what the caller can do about it.

    Attributes:
        code: the error as a warning code, for reports that go on without the rows.
    """

    code = "bad_input"

    def __init__(self, argument: str, *, came: str, wanted: str, cure: str = ""):
        super().__init__(f"`{argument}`: got {came}; wanted {wanted}." + (f" {cure}" if cure else ""))
        self.argument = argument


class TooFewRows(BadInput):
    """Fewer rows, or fewer distinct rows, than the measure needs."""

    code = "too_few_rows"


class NonFiniteRows(BadInput):
    """NaN or infinity among the rows."""

    code = "non_finite"


class UnknownName(RepgeoError):
    """A name that is not in the list of known ones.

    Args:
        kind: what the name is of, such as `"measure"`.
        name: what was given.
        known: the names that exist.
        synonyms: other words for some of them.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str], synonyms: Mapping[str, str] | None = None):
        known = list(known)
        meant = (synonyms or {}).get(str(name).lower().replace("-", "_").replace(" ", "_"))
        close = [meant] if meant else get_close_matches(str(name), known, n=1)
        hints = [f"Did you mean {close[0]!r}?"] if close else []
        if len(known) <= MANY:
            hints.append(f"Known: {', '.join(known)}.")
        elif not close:
            hints.append(f"Known: {', '.join(known[:MANY])} ... ({len(known)} in all).")
        super().__init__(f"unknown {kind} {name!r}. {' '.join(hints)}")
        self.kind = kind


class MissingExtra(RepgeoError, ImportError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, purpose: str):
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'hf_repgeo[{extra}]'")
