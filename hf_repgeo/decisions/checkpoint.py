"""Which checkpoint? The best by pairs, compared with the last one and the one of least validation loss."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..downstream.resampling import Interval
from ..errors import BadInput
from ..measures import PointCloud, evaluate_all, resolve
from ..runs.provenance import versions
from .decision import CANNOT_TELL, Curve, Decision, Picture
from .embeddings import embed
from .inputs import Pairs, read_pairs
from .intervals import halves, mean_interval, surely_below
from .retrieval import reciprocal_ranks

STEP = re.compile(r"(\d+)(?!.*\d)")


@dataclass(frozen=True)
class _Checkpoint:
    """One checkpoint of a run, with its scores.

    Attributes:
        step: of the training.
        ranks: `(n,)` reciprocal ranks of the pairs.
        loss: of validation, as the Trainer logged it.
        rank: effective rank of the documents.
    """

    step: int
    ranks: np.ndarray
    loss: float | None
    rank: float


def choose_checkpoint(
    folder: str | Path,
    pairs: Any,
    *,
    layer: int = -1,
    pooling: str | None = None,
    tokenizer: Any = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Decision:
    """Which checkpoint of a training to keep, by pairs that belong together.

    The checkpoint of best mean reciprocal rank (MRR) on one half of the pairs is compared on the other half with the
    last one, and with the one of least validation loss, read from `trainer_state.json`. It must beat both; else the
    answer is to go by the loss.

    Args:
        folder: of a Trainer's run, with a model in each subfolder whose name ends in the step.
        pairs: a file with a column of queries and one of documents, or such tuples.
        layer: 0 is what enters block 1; -1: what leaves the model.
        pooling: `"mean"`, `"mean_without_sinks"`, `"last"` or `"cls"`; default: as the model's folder says, else mean.
        tokenizer: of the checkpoints, if their folders have none.
        batch_size: texts per forward pass.
        seed: of halves and intervals.

    Returns:
        Decision: `"by the pairs"` with `numbers["step"]`; `"use the loss"`, or `"keep the last"` where no loss was
        logged; or `"cannot tell"`, if the best by pairs may be better but the pairs cannot show it.

    Raises:
        BadInput: fewer than two checkpoints, fewer than 20 pairs.

    Cost: one forward pass per checkpoint.

    Example:
        >>> from hf_repgeo.decisions import choose_checkpoint
        >>> print(choose_checkpoint("runs/my-training", "qa.tsv"))  # doctest: +SKIP
    """
    known = read_pairs(pairs)
    folders = _folders(Path(folder))
    losses = _losses(folders[max(folders)])
    options = {"layer": layer, "pooling": pooling, "tokenizer": tokenizer, "batch_size": batch_size}
    found = [_checkpoint(step, folders[step], known, losses, options) for step in sorted(folders)]
    return _decided(found, known, {"folder": Path(folder).name, "pairs": known.name, "seed": seed} | versions(), seed)


def _folders(folder: Path) -> dict[int, Path]:
    """Step -> folder of every model in a run's folder."""
    if not folder.is_dir():
        raise BadInput("folder", came=f"{str(folder)!r}, which is not a folder", wanted="a folder of checkpoints")
    places = [place.parent for place in sorted(folder.glob("*/config.json"))]
    found = {int(step[1]): place for place in places if (step := STEP.search(place.name))}
    if len(found) < 2:
        came = f"{str(folder)!r} with {len(found)} checkpoint(s)"
        raise BadInput("folder", came=came, wanted="at least two subfolders with a model, such as checkpoint-500")
    return found


def _losses(last: Path) -> dict[int, float]:
    """Step -> validation loss, as the Trainer logged it."""
    file = last / "trainer_state.json"
    if not file.is_file():
        return {}
    try:
        history = json.loads(file.read_text(encoding="utf-8"))["log_history"]
        return {int(entry["step"]): float(entry["eval_loss"]) for entry in history if "eval_loss" in entry}
    except (KeyError, OverflowError, TypeError, ValueError, RecursionError) as error:
        came = f"{file} ({type(error).__name__}: {error})"[:200]
        raise BadInput("folder", came=came, wanted="a trainer_state.json as the Trainer writes it") from None


def _checkpoint(step: int, folder: Path, pairs: Pairs, losses: dict[int, float], options: dict) -> _Checkpoint:
    rows = embed(str(folder), [*pairs.queries, *pairs.documents], **options).rows
    queries, documents = rows.tensor_split([len(pairs)])
    rank = evaluate_all(PointCloud(documents), resolve("effective_rank"))[0].value
    return _Checkpoint(step, reciprocal_ranks(queries, documents, pairs.target), losses.get(step), rank or 0.0)


def _decided(found: list[_Checkpoint], pairs: Pairs, provenance: dict, seed: int) -> Decision:
    choosing, scoring = halves(pairs.target, seed)
    last = found[-1]
    by_pairs = max(found, key=lambda one: one.ranks[choosing].mean())
    with_loss = [one for one in found if one.loss is not None]
    by_loss = min(with_loss, key=lambda one: one.loss or 0.0) if with_loss else None
    by_rank = max(found, key=lambda one: one.rank)

    def gain(over: _Checkpoint) -> Interval:
        return mean_interval((by_pairs.ranks - over.ranks)[scoring], pairs.target[scoring], seed)

    rivals = {"the last": last} | ({"that of least loss": by_loss} if by_loss else {})
    gains = {name: gain(rival) for name, rival in rivals.items()}
    verdict = _verdict(by_pairs, rivals, gains)
    said = ", ".join(f"{one} over {name} (step {rivals[name].step})" for name, one in gains.items())
    return Decision(
        "Which checkpoint?",
        verdict,
        f"the pairs choose step {by_pairs.step}; on held-out pairs its MRR gains {said}.",
        [
            {
                "step": one.step,
                "MRR, held out": mean_interval(one.ranks[scoring], pairs.target[scoring], seed),
                "validation loss": one.loss,
                "effective rank": one.rank,
            }
            for one in found
        ],
        "more pairs; a validation loss logged at every checkpoint.",
        Picture(
            [Curve.of("MRR", [(one.step, mean_interval(one.ranks, pairs.target, seed)) for one in found])],
            "step",
            "MRR",
            {"by the pairs": by_pairs.step} | ({"least loss": by_loss.step} if by_loss else {}),
        ),
        geometry=f"the largest effective rank is that of step {by_rank.step}, MRR "
        f"{mean_interval(by_rank.ranks[scoring], pairs.target[scoring], seed)}.",
        numbers={"step": by_pairs.step, "step_by_loss": by_loss and by_loss.step, "step_by_rank": by_rank.step},
        provenance=provenance,
    )


def _verdict(by_pairs: _Checkpoint, rivals: dict[str, _Checkpoint], gains: dict[str, Interval]) -> str:
    others = [name for name, rival in rivals.items() if rival.step != by_pairs.step]
    if others == list(rivals) and all((gains[name].low or 0.0) > 0 for name in others):
        return "by the pairs"
    settled = [rivals[name].step == by_pairs.step or surely_below(gains[name], 0.02) for name in rivals]
    if any(settled):
        return "use the loss" if len(rivals) > 1 else "keep the last"
    return CANNOT_TELL
