"""Rows kept on disk until every layer is measured, so that a run that was stopped need not run the model again."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from ..rows.forward import Place
from ..rows.processes import current_team
from ..rows.representations import Representations
from .run_file import Run

logger = logging.getLogger(__name__)

WRITE_SPEED = 300e6  # bytes per second, of a slow disk
WORTH = 0.05  # writing may take at most this share of the time of the forward pass that it can save


class KeptRows:
    """A hidden file of representations beside an unfinished report; there is none for a report in memory."""

    def __init__(self, run: Run):
        alone = current_team().size == 1  # with several processes, each holds other places
        self.path = run.path.with_name(".profile-rows.safetensors") if run.path and alone else None
        facts = json.dumps(run.identity, sort_keys=True)
        self.identity = hashlib.sha256(facts.encode()).hexdigest()

    def read(self) -> Representations | None:
        """The rows, if an earlier run kept all of them."""
        from safetensors import SafetensorError, safe_open

        if self.path is None or not self.path.exists():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                if facts.pop("identity") != self.identity:
                    return None
                return _restored({name: file.get_tensor(name) for name in file.keys()}, facts)
        except (OSError, SafetensorError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
            return None

    def write(self, collect: Callable[[], Representations]) -> Representations:
        """Collects rows and keeps them, if writing takes little time compared with collecting and the disk has room."""
        start = time.monotonic()
        rows = collect()
        seconds = time.monotonic() - start
        size = sum(state.nbytes for state in rows.states.values())
        if self.path is not None and size <= WORTH * seconds * WRITE_SPEED:
            try:
                self._save(self.path, rows, size)
            except (OSError, RuntimeError) as error:  # a full disk must not end the run here
                logger.warning("rows are not kept for resuming: %s", error)
        return rows

    def _save(self, path: Path, rows: Representations, size: int) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if shutil.disk_usage(path.parent).free < 2 * size:
            return
        unfinished = path.with_suffix(".unfinished")  # always the same name, so that a killed run's file is overwritten
        places, policies = [list(place) for place in rows.states], list(rows.policies)
        facts = json.dumps({**rows.facts, "places": places, "policies": policies, "identity": self.identity})
        try:
            save_file(_named(rows), unfinished, {"facts": facts})
            unfinished.replace(path)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        finally:
            unfinished.unlink(missing_ok=True)

    def delete(self) -> None:
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


def _named(rows: Representations) -> dict[str, torch.Tensor]:
    tensors = {f"state {number}": state for number, state in enumerate(rows.states.values())}
    tensors |= {f"policy {policy}": positions for policy, positions in rows.policies.items()}
    of_decoder = rows.decoder_policies or {}
    tensors |= {f"decoder policy {policy}": positions for policy, positions in of_decoder.items()}
    tensors |= {"documents": rows.documents} | ({} if rows.token_ids is None else {"token_ids": rows.token_ids})
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _restored(tensors: dict[str, torch.Tensor], facts: dict) -> Representations:
    places, policies = facts.pop("places"), facts.pop("policies")
    named = {policy: f"decoder policy {policy}" for policy in policies}
    of_decoder = {policy: tensors[name] for policy, name in named.items() if name in tensors}
    return Representations(
        states={Place(*place): tensors[f"state {number}"] for number, place in enumerate(places)},
        documents=tensors["documents"],
        policies={policy: tensors[f"policy {policy}"] for policy in policies},
        facts=facts,
        token_ids=tensors.get("token_ids"),
        decoder_policies=of_decoder or None,
    )
