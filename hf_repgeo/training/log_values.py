"""A probe's rows as keys and numbers for a training log, and the layers that are in trouble."""

from __future__ import annotations

from ..measures import MEASURES, resolve

DEFAULT_MEASURES = ("anisotropy", "effective_rank", "intrinsic_dimension", "patchiness")


def default_pairs(measures: str | list[str] | None) -> list[tuple[str, str]]:
    """`(measure, convention)`; a bare name stands for its default convention, `None` for `DEFAULT_MEASURES`.

    Raises:
        UnknownName: a measure or convention that does not exist.
    """
    names = DEFAULT_MEASURES if measures is None else [measures] if isinstance(measures, str) else measures
    return list(dict.fromkeys(resolve(name)[0] for name in names))


def name_of(measure: str, convention: str) -> str:
    """A measure's name in a log; a convention that is not the default one is part of it."""
    return measure if convention == MEASURES[measure].conventions[0] else f"{measure}_{convention}"


def log_values(rows: list[dict], pairs: list[tuple[str, str]]) -> dict[str, float]:
    """Keys and numbers for the log: each layer's, their summaries over layers, and how many are missing.

    Args:
        rows: of a report.
        pairs: the `(measure, convention)` that are logged.
    """
    rows = [row for row in rows if (row["measure"], row["convention"]) in pairs]
    values: dict[str, float] = {}
    several = len({row["stack"] for row in rows}) > 1
    for measure, convention in pairs:
        name = name_of(measure, convention)
        part = [row for row in rows if (row["measure"], row["convention"]) == (measure, convention)]
        for row in part:
            place = f"{row['stack']}_layer" if several else "layer"
            if row["value"] is not None:
                values[f"{name}/{place}_{row['layer']:02d}"] = float(row["value"])
        values |= {f"{name}/{key}": value for key, value in _summary(part).items()}
    return values | {"failed": sum(row["value"] is None for row in rows)}


def _summary(part: list[dict]) -> dict[str, float]:
    """Over the layers of one measure; none where a layer is missing, since its absence would pass for a change."""
    found = [(row["value"], row["layer"]) for row in part]
    if len(found) < 2 or any(value is None for value, _ in found):
        return {}
    numbers = [value for value, _ in found]
    largest, layer = max(found, key=lambda pair: pair[0])
    return {"mean": sum(numbers) / len(numbers), "min": min(numbers), "max": largest, "max_layer": layer}


def flags(rows: list[dict], collapse: float, sink: float) -> list[tuple[str, str, int, str]]:
    """`(kind, stack, layer, why)` for every layer in trouble, the kind `"collapse"`, `"sink"` or `"failed"`.

    A sink is not also called a collapse: a few long rows make anisotropy large whatever the others do.

    Args:
        rows: of a report, `massive_share` among them.
        collapse, sink: see `GeometryCallback`.
    """
    found = []
    for stack, layer in dict.fromkeys((row["stack"], row["layer"]) for row in rows):
        here = {row["measure"]: row for row in rows if (row["stack"], row["layer"]) == (stack, layer)}
        trouble = _trouble(here, collapse, sink)
        if trouble:
            found.append((trouble[0], stack, layer, trouble[1]))
    return found


def _trouble(here: dict[str, dict], collapse: float, sink: float) -> tuple[str, str] | None:
    """Kind and reason for one layer, from its rows by measure."""
    massive = here["massive_share"]["value"]
    anisotropy = here["anisotropy"]["value"] if "anisotropy" in here else None
    if massive is None:
        return "failed", here["massive_share"]["warnings"][0]
    if massive > sink:
        return "sink", f"{massive:.2%} of the rows have a norm over 5 medians, and anisotropy speaks of them"
    if anisotropy is not None and anisotropy > collapse:
        return "collapse", f"{anisotropy:.2%} of the variance lies along one direction"
    if any(warning.startswith("no_spread") for row in here.values() for warning in row["warnings"]):
        return "collapse", "all rows are equal"
    return None
