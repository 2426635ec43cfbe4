"""The identity of a run, from files alone: a finished report answers the same request without loading the weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..report import GeometryReport
from ..rows.identity import folder_fingerprint
from ..rows.models import resolved_device, resolved_place
from ..rows.processes import current_team
from .job import Job
from .provenance import versions
from .run_file import finished_report


def answered(job: Job, request: str | None) -> GeometryReport | None:
    """The finished report in the job's folder, if it answers this request; the same in all processes."""
    team = current_team()
    found = finished_report(job.out, request) if job.out is not None and request and team.first else None
    return team.from_first(found)


def request_of(job: Job, asked: dict[str, Any] | None, *read: Any) -> str | None:
    """SHA-256 of everything that decides the numbers: the model's files, what it reads, options, versions.

    Args:
        job: of `profile`.
        asked: options that decide the numbers beside the job's own, and the identity of the texts; `None` if files
            alone do not tell it.
        read: the tokenizer or processor that was asked for.

    Returns:
        `None` without a folder for the report, or if files alone do not tell: for a model, tokenizer or processor in
        memory, an adapter, whose base is elsewhere, code from a repository, or weights that are drawn at random.

    Cost: one read of the model's small files; those of weights are known by size and time.
    """
    source = job.source
    if job.out is None or asked is None or source["trust_remote_code"] or source["allow_random_weights"]:
        return None
    given = [job.model, *(each for each in read if each is not None)]
    if not all(isinstance(each, (str, Path)) for each in given):
        return None
    places = [_files_of(str(each), source["revision"] if each is job.model else None) for each in given]
    if None in places:
        return None
    options = {name: _said(source[name]) for name in ("revision", "dtype", "device_map", "quantization_config")}
    device = None if source["device_map"] else str(resolved_device(source["device"]))
    facts = {
        "model": str(job.model),
        "files": places,
        **options,
        "device": device,
        "layers": job.layers,
        "final_norm": job.final_norm,
        **asked,
        **job.batch_means.provenance(),
        **versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _said(option: Any) -> Any:
    """An option as plain values."""
    return option.to_dict() if hasattr(option, "to_dict") else option


def _files_of(place: str, revision: str | None) -> str | None:
    """What identifies a folder or a repository on the Hub: its files' hashes, or its commit."""
    where, options = resolved_place(place, revision)
    folder = Path(where) if Path(where).is_dir() else _snapshot(where, options)
    if folder is None or (folder / "adapter_config.json").exists():
        return None
    if folder != Path(where):
        return folder.name
    return folder_fingerprint(folder)


def _snapshot(repository: str, options: dict) -> Path | None:
    """The folder of the commit in the Hub's cache that loading would take, if it is there."""
    from transformers.utils import cached_file

    try:
        file = cached_file(repository, "config.json", **options)
    except (OSError, ValueError):
        return None
    return None if file is None else Path(file).parent
