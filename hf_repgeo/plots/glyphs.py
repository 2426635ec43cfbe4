"""Labels of users in figures: what the fonts cannot draw is written as code points, so that labels stay apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, cast


def drawable(text: object) -> str:
    """Text that matplotlib draws as it is: characters that no configured font has become code points in brackets.

    Otherwise matplotlib would draw the same empty box for each of them, warn about each, read what stands between two
    dollars as a formula, and leave labels that begin with `_` out of a legend. To see the characters themselves, name a
    font that has them: `matplotlib.rcParams["font.family"] = ["DejaVu Sans", "Noto Sans CJK SC"]`.

    Args:
        text: such as the name of a property or one of its values.

    Example:
        >>> drawable("número"), drawable("\\ue000\\ue001")
        ('número', '[E000 E001]')
    """
    from matplotlib import rcParams

    text = str(text)
    settings = cast(Mapping[str, Any], rcParams)  # matplotlib's types list every key
    named = [name for family in settings["font.family"] for name in settings.get(f"font.{family}", [family])]
    fonts = [font for name in named if (font := _font(name))]
    missing = {c for c in set(text) - {"\n"} if not any(font.get_char_index(ord(c)) for font in fonts)}
    if missing:
        runs = f"[{re.escape(''.join(sorted(missing)))}]+"
        text = re.sub(runs, lambda run: "[" + " ".join(f"{ord(c):X}" for c in run[0]) + "]", text)
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


@lru_cache
def _font(name: str):
    """The font of this family; None if it is not installed."""
    from matplotlib import font_manager

    try:
        return font_manager.get_font(font_manager.findfont(name, fallback_to_default=False))
    except ValueError:
        return None
