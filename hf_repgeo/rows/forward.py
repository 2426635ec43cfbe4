"""From windows of tokens to the states of every measured place, padding left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..errors import BadInput, RepgeoError, UnknownName
from .capture import FINAL_NORM, RESIDUAL, Place, Tap, copied, read_places
from .identity import architecture
from .options import as_layers
from .passes import encoder_of, is_out_of_memory, run, undisturbed
from .points import OF_STREAM, point_taps
from .readers import reader_of
from .shared_findings import found_once
from .stacks import Stack, find_stacks
from .token_inputs import padded, padding_leaks, probe_ids, text_inputs
from .windows import Windows

__all__ = ["Place", "encoder_of", "forward_windows", "places_of", "resolve_layers", "run", "stacks_of", "undisturbed"]

FINAL_NORMS = ("applied", "raw")

_known: WeakKeyDictionary[torch.nn.Module, tuple[int, list[Stack]]] = WeakKeyDictionary()
_leaking: WeakKeyDictionary[torch.nn.Module, tuple[tuple, bool]] = WeakKeyDictionary()


def forward_windows(
    model, windows, layers, final_norm, batch_size, progress, *, take: Callable | None = None, points=None, share=list
) -> Iterator[tuple[torch.Tensor, dict[Place, Any]]]:
    """Runs windows of tokens through a model, batch by batch.

    Args:
        model: any transformers model that reads `input_ids`, in any mode; it is left as it was, also between batches.
        windows: of token ids.
        layers: 0 is what enters block 1, i what leaves block i, -1 the last; `None`: all.
        final_norm: `"applied"`: also what leaves the final norm, a place of its own; `"raw"`: the residual stream only.
        batch_size: windows per pass.
        progress: wraps the iteration, `(iterator, total) -> iterator`; or `None`.
        take: given the flat positions of a batch's tokens in the windows, returns a function that is applied to every
            place and its `(n_tokens, hidden_size)` states while the model runs, such as one that copies the wanted rows
            to the CPU. Default: all rows are kept.
        points: instead of the stream and the final norm: names of `hf_repgeo.rows.points.POINTS`, or paths of modules
            relative to their block.
        share: given the list of batches, returns those to run.

    Yields:
        For each batch the positions, and place -> what `take` made of the states there.

    Raises:
        BadInput: the model has no stack of blocks, or its hidden states are not those of its blocks.
        UnknownName: a layer that does not exist.
    """
    taps = places_of(model, windows, layers, final_norm, points)
    starts = torch.tensor([0] + [len(window) for window in windows.ids]).cumsum(0)
    batches = share(_batches(windows.ids, batch_size, padding=not runs_unpadded(model, windows)))
    for begin, end in progress(iter(batches), len(batches)) if progress else batches:
        positions = torch.arange(int(starts[begin]), int(starts[end]))
        ids, mask = padded(windows.ids[begin:end])
        kept = take(positions) if take else copied
        yield positions, _read(model, taps, text_inputs(model, ids, mask), mask.bool(), kept)


def _batches(ids: list[list[int]], batch_size: int, padding: bool) -> list[tuple[int, int]]:
    """First and last number of the windows of each batch; without padding, only neighbours of equal length share one.

    A last window that is far shorter than the one before it runs alone: padding would cost more than another pass.
    """
    bounds, begin = [], 0
    short = len(ids) - 1 if 2 * len(ids[-1]) <= len(ids[-2:][0]) else len(ids)
    for end in range(1, len(ids) + 1):
        full = end in (short, len(ids)) or end - begin == batch_size
        if full or not (padding or len(ids[end]) == len(ids[begin])):
            bounds.append((begin, end))
            begin = end
    return bounds


def runs_unpadded(model, windows: Windows) -> bool:
    """Whether windows of different lengths must run in separate passes, since padding would change a text's rows.

    Some models mix all positions (FNet), or sum over them. The model is tried on a few tokens, again when it has been
    trained further.
    """
    if len({len(window) for window in windows.ids}) == 1:
        return False
    state = _shape(model), sum(weight._version for weight in model.parameters() if not weight.is_inference())
    if model not in _leaking or _leaking[model][0] != state:
        taps = [tap for stack in stacks_of(model, windows) for tap in stack.taps]
        _leaking[model] = state, padding_leaks(model, taps, probe_ids(windows.ids))
    return _leaking[model][1]


def _read(model, taps: list[Tap], inputs: dict, mask: torch.Tensor, take: Callable) -> dict[Place, Any]:
    """What `take` makes of the tokens' rows; rows that a model appends to its tokens are left out."""

    whole = bool(mask.all())  # then a view suffices, without a copy

    def of_tokens(place: Place, rows: torch.Tensor) -> Any:
        if rows.shape[1] < mask.shape[1]:
            came = f"{type(model).__name__}, with {rows.shape[1]} rows for {mask.shape[1]} tokens in one of its layers"
            raise BadInput("model", came=came, wanted="a model with a row for every token")
        rows = rows[:, : mask.shape[1]]
        return take(place, rows.flatten(0, 1) if whole else rows[mask.to(rows.device)])

    with read_places(model, taps, of_tokens) as found:
        try:
            run(model, **inputs)
        except (IndexError, RuntimeError) as error:  # a table of positions that is too short; too few tokens to pool
            if is_out_of_memory(error):
                raise
            came = f"windows of {mask.shape[1]} tokens, on which {type(model).__name__} fails ({error})"
            cure = "Pass window=, or longer texts."
            raise BadInput("window", came=came, wanted="windows that the model can read", cure=cure) from error
    return found


# --- which places ---------------------------------------------------------------------------------------------------


def stacks_of(model, windows: Windows) -> list[Stack]:
    """The model's stacks of blocks, found once per model from a few tokens of the windows.

    Stacks whose layers lack a row for every token are left out.

    Raises:
        BadInput: there is no other.
    """
    try:
        return _stacks(model, windows)
    except RepgeoError:
        raise
    except Exception as error:  # whatever a forward pass raises
        raise _no_text_model(model, windows) from error


def _stacks(model, windows: Windows) -> list[Stack]:
    shape = _shape(model)
    if model in _known and _known[model][0] == shape:
        return _known[model][1]
    inputs = _probe(model, windows)
    found = found_once("stacks", lambda: architecture(model), lambda: find_stacks(model, inputs), _certain)
    stacks = [stack for stack in found if stack.by_token]
    if not stacks:
        came = f"{type(model).__name__}, whose {found[0].path} has fewer rows than the text has tokens"
        raise BadInput("model", came=came, wanted="a model with a row for every token")
    _known[model] = shape, stacks
    return stacks


def _certain(stacks: list[Stack]) -> bool:
    return all(stack.certain for stack in stacks)


def _shape(model) -> int:
    return hash(tuple(name for name, _ in model.named_modules()))


def _no_text_model(model, windows: Windows) -> BadInput:
    """The error for a model that failed on texts; it names the part of the model that reads them, if one does."""
    reader = reader_of(model, _probe(model, windows))
    wanted = "a model whose forward pass runs on texts alone"
    came = f"{type(model).__name__}, of which only a {type(reader).__name__} reads texts alone"
    return BadInput("model", came=came, wanted=wanted, cure="Pass that part of it with tokenizer=.")


def text_reader(model, windows: Windows):
    """The part of a model that reads texts: itself, or its text tower.

    Raises:
        BadInput: nothing in it runs on token ids alone.
    """
    with suppress(Exception):  # the short run that finds the stacks, which are wanted next, shows that a model reads
        _stacks(model, windows)
        return model
    return reader_of(model, _probe(model, windows))


def _probe(model, windows: Windows) -> dict:
    """The arguments of a pass over a few tokens."""
    ids = probe_ids(windows.ids)
    return text_inputs(model, ids, torch.ones_like(ids))


def places_of(
    model,
    windows: Windows,
    layers: list[int] | None = None,
    final_norm: str = "applied",
    points: list[str] | None = None,
) -> list[Tap]:
    """How to read the places asked for, stack by stack.

    Raises:
        UnknownName: a layer or point that no stack has, or another `final_norm`.
    """
    return taps_at(model, stacks_of(model, windows), _probe(model, windows), layers, final_norm, points)


def taps_at(
    model,
    stacks: list[Stack],
    inputs: dict,
    layers: list[int] | None,
    final_norm: str,
    points: list[str] | None,
) -> list[Tap]:
    """The taps of these stacks at the layers and points asked for; see `places_of`. `inputs` are a small pass."""
    taps = select_taps(stacks, layers, final_norm)
    if points is None:
        return taps
    found = [tap for tap in taps if tap.place.point in points]
    for stack in stacks:
        wanted = resolve_layers(layers, stack.layers)
        for point in (point for point in points if point not in OF_STREAM):
            found += [tap for tap in point_taps(model, stack, point, inputs) if tap.place.layer in wanted]
    return found


def select_taps(stacks: list[Stack], layers: list[int] | None, final_norm: str) -> list[Tap]:
    """The taps of these stacks at the layers asked for, in the stream and after the final norm."""
    if final_norm not in FINAL_NORMS:
        raise UnknownName("final_norm", final_norm, FINAL_NORMS)
    points = (RESIDUAL, FINAL_NORM) if final_norm == "applied" else (RESIDUAL,)
    taps = []
    for stack in stacks:
        wanted = resolve_layers(layers, stack.layers)
        taps += [tap for tap in stack.taps if tap.place.layer in wanted and tap.place.point in points]
    return taps


def resolve_layers(asked: list[int] | None, known: list[int]) -> list[int]:
    """Layer numbers of a stack; negative ones count from its end.

    Example:
        >>> resolve_layers([0, -1], [0, 1, 2, 3])
        [0, 3]
    """
    asked = as_layers(asked)
    if asked is None:
        return list(known)
    last = known[-1]
    numbers = {layer if layer >= 0 else last + 1 + layer for layer in asked}
    for layer in asked:
        if (layer if layer >= 0 else last + 1 + layer) not in known:
            raise UnknownName("layer", layer, [_named(known), f"-1 to -{last + 1}"])
    return sorted(numbers)


def _named(known: list[int]) -> str:
    skipped = sorted(set(range(known[-1])) - set(known))
    left_out = f", without {', '.join(map(str, skipped))}, which do not run on this input" if skipped else ""
    return f"0 (embeddings) to {known[-1]}{left_out}"
