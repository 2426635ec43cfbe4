"""The geometry part of a model card: a section between two markers, and results in `model-index`.

Everything else in the card stays as it is, to the byte.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import BadInput
from ..report_text import number, shown_name
from ..rows.yaml_text import read_yaml
from ..version import __repository__
from .results_dataset import run_id, text_of

if TYPE_CHECKING:
    from ..report_table import ReportTable

START = "<!-- hf_repgeo:start -->"
END = "<!-- hf_repgeo:end -->"
TAG = "hf_repgeo"
BADGE = "https://img.shields.io/badge/geometry-measured%20by%20hf__repgeo-2a8ac9"
HEADLINE = (
    "anisotropy",
    "intrinsic_dimension",
    "patchiness",
    "effective_rank",
    "participation_ratio",
    "iso_score",
    "mean_cosine",
)
# The lines between two lines of three dashes at the very start, as the Hub reads them.
_FRONT = re.compile(r"\A(\ufeff?\s*---[ \t]*\r?\n)(.*?)(^---[ \t]*(?:\r?\n|\Z))", re.DOTALL | re.MULTILINE)
# A top-level key with all lines that belong to it: indented, items of a list, or empty.
_MODEL_INDEX = re.compile(r"^model-index[ \t]*:.*\n(?:(?:[ \t-].*|\r)?\n)*", re.MULTILINE)


def update_card(
    readme: str | None,
    report: ReportTable,
    *,
    repo_id: str,
    path: str,
    url: str,
    figure: str | None = None,
    overwrite: bool = False,
    license: str | None = None,
) -> str:
    """A model card with this report's section and results.

    The section stands between two markers and is replaced as a whole; without markers it goes to the end. Results are
    merged into `model-index`: what others wrote stays; an older run of ours on the same text is replaced.

    Args:
        readme: the card so far; `None` if there is none.
        report: finite numbers only.
        repo_id: the model repository.
        path: the report's file in it.
        url: that file's address, the `source` of the results.
        figure: the figure's file in it, if there is one.
        overwrite: allows another value for a result that is already there.
        license: of the model, such as `"apache-2.0"`, for a card that says none.

    Returns:
        str: the new card. Applied to its own result, the function changes nothing.

    Raises:
        BadInput: the card's front matter cannot be read, a marker has no partner, or the card has a result with another
            value.

    Example:
        >>> import torch, hf_repgeo
        >>> report = hf_repgeo.measure(torch.eye(4), measures=["participation_ratio"])
        >>> card = update_card(None, report, repo_id="me/model", path="repgeo/x.json", url="https://example.org")
        >>> "| participation ratio | eigenvalues | 3 |" in card
        True
    """
    newline = "\r\n" if "\r\n" in (readme or "") else "\n"
    head, front, tail, body = _parts(readme, newline)
    front = _with_metadata(front, report, license, newline)
    results = model_results(report, url)
    if results["metrics"]:
        front = _with_results(front, results, repo_id.split("/")[-1], overwrite, newline)
    return head + front + tail + _with_section(body, section(report, repo_id, path, figure), newline)


# --- the summary ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """A measure over the layers of one stack, under one token policy."""

    measure: str
    convention: str
    stack: str | None
    tokens: str | None
    values: tuple[tuple[int | None, float], ...]
    chance: tuple[float, ...] = ()

    @property
    def title(self) -> str:
        """The measure in words."""
        words = "IsoScore" if self.measure == "iso_score" else self.measure.replace("_", " ")
        return f"{words} ({self.stack})" if self.stack == "decoder" else words

    @property
    def mean(self) -> float:
        """The mean over layers."""
        return math.fsum(value for _, value in self.values) / len(self.values)

    @property
    def least(self) -> tuple[int | None, float]:
        """The layer with the smallest value, and the value."""
        return min(self.values, key=lambda pair: pair[1])

    @property
    def most(self) -> tuple[int | None, float]:
        """The layer with the largest value, and the value."""
        return max(self.values, key=lambda pair: pair[1])


def summaries(report: ReportTable) -> Iterator[Summary]:
    """The headline measures, or all where none of them was measured; in one convention, over all tokens if possible."""
    policies = report.unique("tokens")
    tokens = "all" if "all" in policies else next(iter(policies), None)
    measured = report.unique("measure")
    for measure in [name for name in HEADLINE if name in measured] or measured:
        for stack in report.unique("stack"):
            part = report.stream().select(measure=measure, stack=stack, tokens=tokens)
            conventions = part.unique("convention")
            rows = part.select(convention=conventions[0]).rows if conventions else []
            values = tuple((row["layer"], float(row["value"])) for row in rows if row["value"] is not None)
            chance = tuple(row["details"]["null"] for row in rows if "null" in (row["details"] or {}))
            if values:
                yield Summary(measure, conventions[0], stack, tokens, values, chance)


def model_results(report: ReportTable, url: str) -> dict[str, Any]:
    """The summary as one result of a `model-index`: floats, and what they were measured on."""
    text, facts = text_of(report), report.provenance
    name = str(text["name"] or "rows")
    identifier = re.sub(r"[^A-Za-z0-9._/-]+", "-", name).strip("-./") or "rows"  # as the Hub wants a data set's id
    settings = {"run": run_id(report), "model_commit": facts.get("commit"), "seed": facts.get("seed")}
    dataset = {
        "name": name,
        "type": identifier,
        "args": {key: fact for key, fact in settings.items() if fact is not None},
    }
    return {
        "task": {"type": "feature-extraction", "name": "Geometry of the representations"},
        "dataset": dataset,
        "metrics": [metric for summary in summaries(report) for metric in _metrics(summary)],
        "source": {"name": "hf_repgeo", "url": url},
    }


def _metrics(summary: Summary) -> Iterator[dict[str, Any]]:
    cells = {"mean": summary.mean, "largest": summary.most[1]} if len(summary.values) > 1 else {"": summary.mean}
    for statistic, value in cells.items():
        name = f"{summary.title}, {statistic} over layers" if statistic else summary.title
        facts = {"convention": summary.convention, "tokens": summary.tokens}
        arguments = {key: fact for key, fact in facts.items() if fact}
        yield {"type": summary.measure, "name": name, "value": float(value), "args": arguments}


# --- model-index ----------------------------------------------------------------------------------------------------


def merge_results(index: Any, ours: dict[str, Any], model: str, overwrite: bool = False) -> list[dict[str, Any]]:
    """A `model-index` with our result in it; what others wrote stays, an older run of ours on the same text goes.

    Args:
        index: the `model-index` so far, or `None`.
        ours: one result.
        model: the model's name, for a new index.
        overwrite: allows another value for a metric that is already there.

    Raises:
        BadInput: no list of models with results, or a metric of ours is there with another value.
    """
    merged = copy.deepcopy(index or [])
    _check_index(merged)
    if not merged:
        return [{"name": model, "results": [ours]}]
    for result in (result for entry in merged for result in entry.get("results") or []):
        if all(result.get(part) == ours[part] for part in ("task", "dataset", "source")):
            result["metrics"] = _merge_metrics(result.get("metrics") or [], ours["metrics"], overwrite)
            return merged
    for entry in merged:
        entry["results"] = [result for result in entry.get("results") or [] if not _older(result, ours)]
    merged[0]["results"].append(ours)
    return merged


def _older(result: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether a result is of an earlier run of ours, in the same task on the same text."""
    source, dataset = result.get("source") or {}, result.get("dataset") or {}
    ours_too = source.get("name") == ours["source"]["name"] and result.get("task") == ours["task"]
    return ours_too and dataset.get("name") == ours["dataset"]["name"]


def _merge_metrics(there: list[dict], ours: list[dict], overwrite: bool) -> list[dict]:
    metrics = list(there)
    for metric in ours:
        same = [old for old in metrics if all(old.get(part) == metric[part] for part in ("type", "name", "args"))]
        if not same:
            metrics.append(metric)
        elif same[0]["value"] != metric["value"]:
            if not overwrite:
                came = f"{metric['value']} for {metric['name']!r}, which the card gives as {same[0]['value']}"
                raise BadInput("report", came=came, wanted="the same value", cure="Pass overwrite=True to replace it.")
            same[0]["value"] = metric["value"]
    return metrics


def _check_index(index: Any) -> None:
    entries = index if isinstance(index, list) else [None]
    for entry in entries:
        results = (entry.get("results") or []) if isinstance(entry, dict) else None
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            wanted = "a list of models, each with a list of results"
            raise BadInput("README.md", came="a model-index of another form", wanted=wanted, cure="Or pass card=False.")


# --- the text of a card -----------------------------------------------------------------------------------------------


def _parts(readme: str | None, newline: str) -> tuple[str, str, str, str]:
    """`(opening dashes, front matter in whole lines, closing dashes, body)`; without front matter, an empty one."""
    readme = readme or ""
    found = _FRONT.match(readme)
    if not found:
        return f"---{newline}", "", f"---{newline}", readme
    return found[1], found[2], found[3], readme[found.end() :]


def _with_metadata(front: str, report: ReportTable, license: str | None, newline: str) -> str:
    """A card without any metadata gets tags and library; a licence is added where none is stated."""
    known = _read_front(front)
    new: dict[str, Any] = {"license": license} if license and "license" not in known else {}
    if not known:
        from huggingface_hub import ModelCardData

        model = report.provenance.get("model") if report.provenance.get("commit") else None
        facts: dict[str, Any] = {
            "tags": [TAG, "representation-geometry"],
            "library_name": "transformers",
            "base_model": model,
        }
        new = {**ModelCardData(**facts).to_dict(), **new}
    return front + _yaml(new, newline) if new else front


def _with_results(front: str, results: dict[str, Any], model: str, overwrite: bool, newline: str) -> str:
    """Front matter with the results merged in; its other lines, comments included, are left alone."""
    before = _read_front(front)
    index = merge_results(before.get("model-index"), results, model, overwrite)
    if index == before.get("model-index"):
        return front
    wanted = {**before, "model-index": index}
    block = _yaml({"model-index": index}, newline)
    after = _MODEL_INDEX.sub(lambda _: block, front, count=1) if "model-index" in before else front + block
    if _parsed(after) != wanted:  # an unusual way of writing YAML: better reordered lines than a broken card
        after = _yaml(wanted, newline)
    return after


def _yaml(content: dict[str, Any], newline: str) -> str:
    import yaml

    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000).replace("\n", newline)


def _read_front(front: str) -> dict[str, Any]:
    content = _parsed(front)
    if content is None or isinstance(content, dict):
        return content or {}
    came = "front matter that is not a YAML mapping"
    raise BadInput("README.md", came=came, wanted="a card the Hub can read", cure="Mend it, or pass card=False.")


def _parsed(text: str) -> Any:
    """The parsed YAML, or the error if it cannot be parsed."""
    try:
        return read_yaml(text)
    except ValueError as error:
        return error


def _with_section(body: str, text: str, newline: str) -> str:
    text = text.replace("\n", newline)
    if START not in body and END not in body:
        gap = "" if not body.strip() else newline if body.endswith("\n") else 2 * newline
        return f"{body}{gap}{text}{newline}"
    before, _, rest = body.partition(START)
    if body.count(START) != 1 or body.count(END) != 1 or END not in rest:
        wanted = f"one {START} and one {END} after it"
        raise BadInput("README.md", came="markers that do not pair", wanted=wanted, cure="Mend it, or pass card=False.")
    return before + text + rest.partition(END)[2]


def section(report: ReportTable, repo_id: str, path: str, figure: str | None) -> str:
    """The section of the card, markers included: figure, table, how it was measured, how to read it back."""
    name = path.rsplit("/", 1)[-1].removesuffix(".json")
    blocks = [
        f"{START}\n## Geometry of the representations",
        f"[![Geometry measured by hf_repgeo]({BADGE})]({path})",
        f"![Measures by layer]({figure})" if figure else "",
        _table(report),
        _measured(report),
        f"All layers, conventions and standard errors: [`{path}`]({path}).",
        f'```python\nimport hf_repgeo\n\nreport = hf_repgeo.load_report("{repo_id}", name="{name}")\n```',
        f"Made with [hf_repgeo]({__repository__})." if __repository__ else "",
    ]
    return "\n\n".join(block for block in blocks if block) + "\n" + END


def _table(report: ReportTable) -> str:
    found = list(summaries(report))
    if not found:
        return ""
    layered = any(len(summary.values) > 1 for summary in found)
    values = ["mean over layers", "smallest (layer)", "largest (layer)"] if layered else ["value"]
    asked = any(summary.chance for summary in found)
    titles = ["measure", "convention", *values, *(["by chance"] if asked else [])]
    lines = [titles, ["---"] * len(titles)]
    for summary in found:
        extremes = [_extreme(summary.least), _extreme(summary.most)] if layered else []
        chance = [number(math.fsum(summary.chance) / len(summary.chance)) if summary.chance else ""] if asked else []
        lines.append([_cell(summary.title), _cell(summary.convention), number(summary.mean), *extremes, *chance])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _extreme(pair: tuple[int | None, float]) -> str:
    layer, value = pair
    return number(value) + ("" if layer is None else f" ({layer})")


def _measured(report: ReportTable) -> str:
    """One sentence on the model, the text and the protocol."""
    facts, first = report.provenance, next(summaries(report), None)
    parts = {
        "model": shown_name(facts.get("model")) or None,
        "commit": facts.get("commit"),
        "text": text_of(report)["name"],
        "tokens": first and first.tokens,
        "rows": facts.get("rows"),
        "window": facts.get("window"),
        "seed": facts.get("seed"),
        "hf_repgeo": (facts.get("versions") or {}).get("hf_repgeo"),
    }
    return "Measured: " + ", ".join(f"{key} {_inline(part)}" for key, part in parts.items() if part is not None) + "."


def _inline(fact: Any) -> str:
    """A fact as code in a line of Markdown: nothing in it can end the line, the code or the section."""
    return "`" + re.sub(r"[\s`<>|]+", " ", str(fact)).strip() + "`"


def _cell(name: str | None) -> str:
    """A name from a report in a cell of a table: no markup, no link, no marker of ours, no end of the cell."""
    return re.sub(r"[\s`<>|\[\]\\]+", " ", name or "").strip()
