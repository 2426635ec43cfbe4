"""A measurement as keys and numbers for a training log, and the layers that have collapsed or have sinks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import BadInput, UnknownName
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
    for name, part in _parts(rows, pairs):
        values |= _by_layer(name, part) | {f"{name}/{key}": value for key, value in _summary(part).items()}
    return values | {"failed": sum(row["value"] is None for row in rows)}


def summary_values(rows: list[dict], pairs: list[tuple[str, str]]) -> dict[str, float]:
    """The same in a few keys: a measure's mean over layers, or its value if only one layer was measured."""
    rows = [row for row in rows if (row["measure"], row["convention"]) in pairs]
    values: dict[str, float] = {}
    for name, part in _parts(rows, pairs):
        if len(part) == 1:
            values |= _by_layer(name, part)
        elif "mean" in (summary := _summary(part)):
            values[f"{name}/mean"] = summary["mean"]
    return values | {"failed": sum(row["value"] is None for row in rows)}


def _parts(rows: list[dict], pairs: list[tuple[str, str]]) -> Iterator[tuple[str, list[dict]]]:
    """The rows of each token policy and measure, with their name in a log; the policy `all` is not named."""
    for tokens in dict.fromkeys(row["tokens"] for row in rows):
        for pair in pairs:
            part = [row for row in rows if row["tokens"] == tokens and (row["measure"], row["convention"]) == pair]
            if part:
                yield ("" if tokens in ("all", None) else f"{tokens}/") + name_of(*pair), part


def _by_layer(name: str, part: list[dict]) -> dict[str, float]:
    place = "{stack}_layer" if len({row["stack"] for row in part}) > 1 else "layer"
    return {
        f"{name}/{place.format(**row)}_{row['layer']:02d}": float(row["value"])
        for row in part
        if row["value"] is not None
    }


def _summary(part: list[dict]) -> dict[str, float]:
    """Summaries over the layers of one measure; empty if a layer is missing, since that would look like a change."""
    found = [(row["value"], row["layer"]) for row in part]
    if len(found) < 2 or any(value is None for value, _ in found):
        return {}
    numbers = [value for value, _ in found]
    largest, layer = max(found, key=lambda pair: pair[0])
    return {"mean": sum(numbers) / len(numbers), "min": min(numbers), "max": largest, "max_layer": layer}


# --- collapse and sinks ---------------------------------------------------------------------------------------------

Bands = dict[str, tuple[float | None, float | None]]
Flag = tuple[str, str, int, str]  # kind, stack, layer, why


def check_bands(collapse: float | Mapping) -> Bands:
    """Measure -> `(low, high)`, `None` for an open end; a number is the upper end of anisotropy's band.

    Raises:
        UnknownName: a measure that does not exist.
        BadInput: a band that is not a pair of numbers in ascending order.
    """
    bands = dict(collapse) if isinstance(collapse, Mapping) else {"anisotropy": (None, collapse)}
    for measure, band in bands.items():
        if measure not in MEASURES:
            raise UnknownName("measure", measure, MEASURES)
        ends = [end for end in band if end is not None] if isinstance(band, (tuple, list)) else []
        if not ends or len(band) != 2 or ends != sorted(ends):
            came = f"{band!r} for {measure}"
            raise BadInput("collapse", came=came, wanted="(low, high), with None for an end that is open")
    return {measure: tuple(band) for measure, band in bands.items()}


def flags(rows: list[dict], collapse: float | Mapping, sink: float) -> list[Flag]:
    """`(kind, stack, layer, reason)` for every flagged layer, the kind `"collapse"`, `"sink"` or `"failed"`.

    A layer with a sink does not count as collapsed: a few long rows make anisotropy large whatever the others do.

    Args:
        rows: of a report, `massive_share` among them; those of the first token policy count.
        collapse, sink: see `GeometryCallback`.
    """
    found, bands = [], check_bands(collapse)
    rows = [row for row in rows if row["tokens"] == rows[0]["tokens"]]  # other policies treat sinks differently
    for stack, layer in dict.fromkeys((row["stack"], row["layer"]) for row in rows):
        here = {row["measure"]: row for row in rows if (row["stack"], row["layer"]) == (stack, layer)}
        trouble = _trouble(here, bands, sink)
        if trouble:
            found.append((trouble[0], stack, layer, trouble[1]))
    return found


def _trouble(here: dict[str, dict], bands: Bands, sink: float) -> tuple[str, str] | None:
    """Kind and reason for one layer, from its rows by measure."""
    massive = here["massive_share"]["value"]
    if massive is None:
        return "failed", here["massive_share"]["warnings"][0]
    if massive > sink:
        return "sink", f"{massive:.2%} of the rows have a norm over 5 medians, and anisotropy describes them alone"
    for measure, (low, high) in bands.items():
        value = here[measure]["value"] if measure in here else None
        if value is not None and ((high is not None and value > high) or (low is not None and value < low)):
            return "collapse", _outside(measure, value, low, high)
    if any(warning.startswith("no_spread") for row in here.values() for warning in row["warnings"]):
        return "collapse", "all rows are equal"
    return None


def _outside(measure: str, value: float, low: float | None, high: float | None) -> str:
    if measure == "anisotropy" and high is not None and value > high:
        return f"{value:.2%} of the variance lies along one direction"
    ends = f"{'' if low is None else f'{low:g}'} to {'' if high is None else f'{high:g}'}".strip()
    return f"{measure} is {value:.4g}, outside its band {ends}"
