"""Finds the checkpoint from which a training resumes, and checks that it is the same training."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.trainer_callback import TrainerState

from ..errors import BadInput
from ..writing import write_whole
from .embeddings import EmbeddingTable

FILE = "training.json"
# Entries of a configuration that do not change the training; some are set when the model is saved.
CONFIG = frozenset({"transformers_version", "_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype"})


def identity_of(config: PreTrainedConfig, table: EmbeddingTable, data, options: dict[str, Any]) -> dict:
    """What decides a training, except the number of epochs, which may grow."""
    facts = {name: value for name, value in config.to_dict().items() if name not in CONFIG}
    settings = {name: value for name, value in options.items() if name != "epochs"}
    digest = hashlib.sha256(table.rows.contiguous().numpy().tobytes()).hexdigest()
    rows = {part: len(data[part]) for part in data if part != "test"}
    plain = {"model": facts, "embeddings": digest, "instances": rows, "options": settings}
    return json.loads(json.dumps(plain, default=str, sort_keys=True))


def checkpoint_to_resume(folder: Path, identity: dict, epochs: float) -> Path | None:
    """The last complete checkpoint; `None` if there is none, so that the training starts from the beginning.

    Later checkpoints, which a stopped run left half-written, are deleted.

    Raises:
        BadInput: the folder holds another training, or one that has gone further than `epochs`.
    """
    for path in _checkpoints(folder):
        state = _state(path)
        if state is not None:
            _check(folder, identity, epochs, state)
            return path
        shutil.rmtree(path, ignore_errors=True)
    return None


def begin(folder: Path, identity: dict) -> None:
    """Writes down which training the folder holds; checkpoints of an earlier one are deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in _checkpoints(folder):
        shutil.rmtree(path)
    write_whole(folder / FILE, json.dumps(identity, indent=1) + "\n")


def _checkpoints(folder: Path) -> list[Path]:
    """The Trainer's own checkpoints, the last one first; a folder such as `checkpoint-best` is the user's."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(numbered, key=lambda path: -int(path.name.rpartition("-")[2]))


def _state(checkpoint: Path) -> TrainerState | None:
    """The Trainer's state, the last file that it writes; `None` if that is incomplete."""
    try:
        return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _check(folder: Path, identity: dict, epochs: float, state: TrainerState) -> None:
    earlier = _earlier(folder, identity)
    for name, value in identity.items():
        if earlier is not None and earlier.get(name) != value:
            came = f"a training with other {name} than the one in {str(folder)!r}{_changed(earlier.get(name), value)}"
            cure = "Leave resume (--resume) out to start again, or choose another folder."
            raise BadInput("resume", came=came, wanted="the same training", cure=cure)
    if (state.epoch or 0) > epochs:
        came = f"{epochs:g}, where the training to resume has already done {state.epoch:g}"
        raise BadInput("epochs", came=came, wanted="at least as many", cure="More epochs extend it.")


def _earlier(folder: Path, identity: dict) -> dict | None:
    """What the folder says of its training, the model by the entries that a fresh configuration has: a saved or trained
    one has others too."""
    try:
        found = json.loads((folder / FILE).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        return None
    return found | {"model": {name: found["model"].get(name, value) for name, value in identity["model"].items()}}


def _changed(then: Any, now: Any) -> str:
    """The names of the entries that differ."""
    if not isinstance(then, dict) or not isinstance(now, dict):
        return ""
    names = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    return f" ({', '.join(f'{name}: {then.get(name)} there, {now.get(name)} here' for name in names[:3])})"
