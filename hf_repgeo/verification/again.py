"""Measures a report again from its own provenance, and lists what differs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import BadInput
from ..measures import MEASURES, check_options
from ..profiling import measure, profile
from ..report_table import CASE, ReportTable
from ..rows.corpus import Corpus
from ..rows.files import read_rows
from ..rows.representations import POOLINGS
from ..rows.texts import corpus_of, packaged_sample

NUMBERS = ("value", "sd", "se")
COUNTS = ("n", "n_distinct", "n_per_batch", "n_batches")
SETTINGS = (
    "layers",
    "window",
    "pack",
    "oversample",
    "final_norm",
    "points",
    "measures",
    "rows",
    "batch_rows",
    "seed",
    "null",
)
PROFILE = {"model", "fingerprint", "text", "tokens", "measures", "rows", "batch_rows", "seed", "null"}
MEASURE = {"columns", "measures", "null", "interval", "max_rows", "seed"}
FACTS = ("fingerprint", "text", "windows", "kernels", "versions", "processor", "device", "dtype")

MEDIA = {  # what was read -> the argument of `profile`, and whether texts were beside it
    "images": ("images", False),
    "both": ("images", True),
    "audio": ("audio", False),
    "speech": ("audio", True),
}

# Largest relative difference of a value, by what has changed; each includes the ones before.
TOLERANCES = {
    "nothing": 0.0,  # same machine, versions, kernels and threads
    "machine": 1e-5,  # another processor, number of threads or version: sums in another order
    "kernels": 1e-4,  # plain torch in place of the fast kernels
    "device": 1e-3,  # a GPU in place of a CPU: the model's own products differ
    "dtype": 0.05,  # the model in another precision
}
DISCRETE = 0.05  # of measures of cells, where rows near an edge change cells


@dataclass(frozen=True)
class Verification:
    """The result of measuring a report again.

    Attributes:
        facts: name -> (in the report, now), of what has changed and may change numbers.
        allowed: largest relative difference that the facts allow.
        differences: `(case, column, in the report, now, relative difference)` of each number that differs.
        report: what was measured now.
    """

    facts: dict[str, tuple[Any, Any]]
    allowed: float
    differences: list[tuple[str, str, Any, Any, float]]
    report: ReportTable = field(repr=False)

    @property
    def holds(self) -> bool:
        """Whether all numbers are within the tolerance."""
        return all(relative <= self._tolerance(case) for case, *_, relative in self.differences)

    def _tolerance(self, case: str) -> float:
        by_cells = any(name in case.split() for name, measure in MEASURES.items() if measure.needs == "cells")
        return max(self.allowed, DISCRETE) if by_cells and self.allowed else self.allowed

    def __str__(self) -> str:
        lines = [f"{name}: {then} in the report, {now} now" for name, (then, now) in self.facts.items()]
        lines += [
            f"{case}, {column}: {then} in the report, {now} now, relative difference {relative:.2g}"
            for case, column, then, now, relative in sorted(self.differences, key=lambda found: -found[-1])[:20]
        ]
        verdict = "the same bit for bit" if not self.differences else f"{len(self.differences)} numbers are others"
        within = "within" if self.holds else "beyond"
        lines.append(verdict if not self.differences else f"{verdict}, {within} the tolerance {self.allowed:g}")
        return "\n".join(lines)


def verify_report(
    report: ReportTable,
    *,
    model=None,
    texts=None,
    file: str | Path | None = None,
    images=None,
    audio=None,
    processor=None,
    tokenizer=None,
) -> Verification:
    """Measures a report again with its own settings, and compares number by number.

    Args:
        report: of `profile` or of `measure`.
        model: in place of the one that the report names, such as a model in memory, or the folder it has moved to.
        texts: the texts, unless they are the packaged sample; anything that `profile` takes.
        file: in place of the file of rows that the report names.
        images, audio, processor: what `profile` read, if the report is of images or sounds.
        tokenizer: if `profile` was given one.

    Returns:
        Verification: `holds`, and what differs.

    Raises:
        BadInput: the report does not say how it was measured, or the texts differ.
        UnknownName: the report names a measure or option that does not exist.

    Cost: that of the report.

    Example:
        >>> import torch, hf_repgeo
        >>> from hf_repgeo.verification import verify_report
        >>> X = torch.randn(100, 8, generator=torch.Generator().manual_seed(0))
        >>> report = hf_repgeo.measure(X, "effective_rank")
        >>> print(verify_report(report, file=X))
        the same bit for bit
    """
    provenance = report.provenance
    if provenance.keys() >= PROFILE and isinstance(provenance["text"], dict):
        media = {"images": images, "audio": audio, "processor": processor}
        again = _profiled(provenance, model, texts, media, tokenizer)
    elif provenance.keys() >= MEASURE:
        again = _measured(provenance, file)
    else:
        raise BadInput("report", came="one whose provenance tells no settings", wanted="a report of profile or measure")
    return compare_reports(report, again)


def compare_reports(report: ReportTable, again: ReportTable) -> Verification:
    """Compares number by number, and lists the facts that may change them."""
    then, now = report.provenance, again.provenance
    facts = {name: (then.get(name), now.get(name)) for name in FACTS if then.get(name) != now.get(name)}
    return Verification(facts, _allowed(facts), list(_differences(report, again)), again)


def _profiled(provenance: dict, model, texts, media: dict[str, Any], tokenizer) -> ReportTable:
    read = provenance["text"]
    if "items" in read:
        corpus, settings = texts, _media(read, texts, media)
    elif texts is not None and "fingerprint" not in read:  # a file that was read one document at a time
        corpus, settings = texts, {"clean": read.get("clean", "none"), "text_column": read.get("column")}
    else:
        corpus, settings = _corpus(read, texts), {}
    tokens = provenance["tokens"]
    pooled = tokens[0] if isinstance(tokens, list) and tokens and tokens[0] in POOLINGS else None
    settings |= {"pooling": pooled} if pooled else {"tokens": tokens}
    settings |= {name: provenance[name] for name in SETTINGS if name in provenance}
    if model is None:
        kept = {"revision": provenance.get("commit") or provenance.get("revision"), "dtype": provenance.get("dtype")}
        settings |= {name: value for name, value in kept.items() if value is not None}
        model = provenance["model"]
    return profile(model, corpus, tokenizer=tokenizer, **settings, **_options(provenance), progress=False)


def _media(read: dict, texts, given: dict[str, Any]) -> dict[str, Any]:
    """The images or sounds, if those were given that the report is of."""
    argument, beside = MEDIA.get(str(read.get("name")), ("images", False))
    if given[argument] is None or beside != (texts is not None):
        wanted = f"the {argument} of the report{', and the texts beside them' if beside else ''}"
        raise BadInput(argument, came="none" if given[argument] is None else "texts", wanted=wanted)
    return given


def _options(provenance: dict) -> dict[str, Any]:
    """The options of measures in a report. No other keyword of `profile` is taken: a report may come from anywhere."""
    options = provenance.get("options", {})
    if not isinstance(options, dict):
        raise BadInput("report", came=f"options {options!r}"[:100], wanted="options by name")
    check_options(options)
    return options


def _corpus(text: dict, given) -> Corpus:
    """The texts of the report, checked by their fingerprint."""
    sample = packaged_sample()
    if given is None and text.get("fingerprint") != sample.fingerprint():
        wanted = f"the texts of the report: {text.get('name')!r}, {text.get('n_documents')} documents"
        raise BadInput("texts", came="none", wanted=wanted, cure="Pass texts= (--text FILE).")
    corpus = sample if given is None else corpus_of(given, text.get("clean", "none"), text.get("column"))
    if corpus.fingerprint() != text.get("fingerprint"):
        wanted = f"the texts of the report, of fingerprint {str(text.get('fingerprint'))[:12]}"
        raise BadInput("texts", came=f"texts of fingerprint {corpus.fingerprint()[:12]}", wanted=wanted)
    return corpus


def _measured(provenance: dict, file) -> ReportTable:
    file = provenance.get("file") if file is None else file
    if file is None:
        raise BadInput("file", came="none", wanted="the rows of the report", cure="Pass file= (--file FILE).")
    if provenance.get("groups"):
        raise BadInput("report", came="one measured with groups=", wanted="one without: groups are not in a report")
    rows = read_rows(file, provenance.get("column")) if isinstance(file, (str, Path)) else file
    settings = {name: provenance[name] for name in ("measures", "null", "interval", "max_rows", "seed")}
    return measure(rows, **settings, **_options(provenance))


def _allowed(facts: dict) -> float:
    found = {"dtype": "dtype", "device": "device", "kernels": "kernels", "versions": "machine", "processor": "machine"}
    return max((TOLERANCES[kind] for name, kind in found.items() if name in facts), default=0.0)


def _differences(report: ReportTable, again: ReportTable) -> Iterator[tuple[str, str, Any, Any, float]]:
    now = {_case(row): row for row in again}
    for row in report:
        other = now.pop(_case(row), None)
        if other is None:
            yield _case(row), "row", "there", "missing", math.inf
            continue
        for column in (*NUMBERS, *COUNTS):
            if row[column] != other[column]:
                yield _case(row), column, row[column], other[column], _relative(row[column], other[column])
    for case in now:
        yield case, "row", "missing", "there", math.inf


def _case(row: dict) -> str:
    return " ".join(str(row[column]) for column in CASE if row[column] is not None)


def _relative(then: float | None, now: float | None) -> float:
    if then is None or now is None:
        return math.inf
    return abs(then - now) / max(abs(then), abs(now))
