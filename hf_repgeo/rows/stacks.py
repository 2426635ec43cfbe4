"""Stacks of blocks, and the places between them: before block 1, after each block, after the final norm.

One meaning of *layer* for every model: 0 is what enters block 1, i is what leaves block i. transformers' own
`hidden_states` differs from model to model: its last entry is mostly the output of the final norm, some models leave
out the embeddings, some the last block. So the places are found by watching a short run, and `hidden_states` is used
to check them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from ..errors import BadInput
from .block_runs import BlockRun, block_runs, by_part, part_config, stacks_among, stated_counts
from .capture import FINAL_NORM, RESIDUAL, Layout, Place, Tap
from .causality import kinds_of
from .hidden_states import asked_for, hidden_states, place_in, same
from .trace import BlockCall, Call, watch


@dataclass(frozen=True)
class Stack:
    """One stack of blocks.

    Attributes:
        name: `"encoder"` or `"decoder"`; the path of its module where several stacks are of one kind.
        path: of the list of blocks in the module tree.
        taps: the residual stream, layer by layer, and the final norm, if there is one.
        turns: how often a looped model runs through its blocks.
        final_norm: path of the norm after the last block, or `None`.
        by_token: whether each layer has a row for every token of the text; CANINE's inner stack sees four characters
            as one. `True` without a text.
        certain: whether another model of this architecture has the same stacks. A model just initialized may have
            blocks that change nothing or tokens that see no other, which hides where and which its stacks are.
    """

    name: str
    path: str
    taps: tuple[Tap, ...]
    turns: int
    final_norm: str | None
    by_token: bool = True
    certain: bool = True

    @property
    def layers(self) -> list[int]:
        return [tap.place.layer for tap in self.taps if tap.place.point == RESIDUAL]

    @property
    def end(self) -> Tap:
        """What leaves the last block."""
        return next(tap for tap in reversed(self.taps) if tap.place.point == RESIDUAL)

    def facts(self) -> dict:
        """For the provenance of a report."""
        return {"blocks": self.path, "layers": self.layers[-1], "turns": self.turns, "final_norm": self.final_norm}


def find_stacks(model: nn.Module, inputs: dict) -> list[Stack]:
    """The stacks of a model, in the order in which they run.

    Args:
        model: any transformers model, in any mode; it is left as it was.
        inputs: of a small forward pass: two or more sequences without padding, one image or the like.

    Raises:
        BadInput: no stack of blocks is found; or what passes between the blocks is not what the model itself returns
            as `hidden_states`; or the configuration names another number of blocks than a stack has or runs.

    Cost: two forward passes over `inputs`, for an encoder-decoder three.
    """
    calls, output = watch(model, inputs | asked_for(model))
    lists = list(hidden_states(output))
    returned = [entry for entries in lists for entry in entries]
    scopes = [stacks_among(model, scope, runs, returned) for scope, runs in by_part(model, block_runs(calls))]
    found = [blocks for runs in scopes for blocks in runs]
    if not found:
        wanted = "a model with a list of blocks that run one after another"
        raise BadInput("model", came=f"{type(model).__name__}, in which none was seen to run", wanted=wanted)
    sizes = sizes_of(inputs)
    stacks = [_stack(run, _final_norm(run, calls), sizes, returned) for run in found]
    _check(model, found, stacks, calls, lists)
    for runs in filter(None, scopes):
        _check_count(model, runs)
    ends = [stack.end.layout.rows(run.states[-1]) for run, stack in zip(found, stacks)]
    kinds = kinds_of(model, inputs, [stack.end for stack in stacks], ends)
    certain = all(kind.seen for kind in kinds) and all(map(_changes, found))
    return [replace(stack, certain=certain) for stack in _named(stacks, [kind.name for kind in kinds])]


# --- places ---------------------------------------------------------------------------------------------------------


class Sizes(NamedTuple):
    """Sequences of a pass, and tokens of each; `None` for images and sounds."""

    batch: int
    length: int | None


def sizes_of(inputs: dict) -> Sizes:
    """How many sequences a pass reads, and how many tokens each has, where they are tokens."""
    first = next(value for value in inputs.values() if torch.is_tensor(value))
    ids = inputs.get("input_ids")
    return Sizes(len(first), ids.shape[1] if ids is not None else None)


def layout_of(shape: torch.Size, batch: int, length: int | None) -> Layout:
    """Which axes of a state of this shape are sequences and tokens.

    Example:
        >>> import torch
        >>> layout_of(torch.Size([3, 11, 32]), 3, 11)  # sequences, tokens, features
        Layout(batch=0, tokens=(1,), start=0)
        >>> layout_of(torch.Size([4, 3, 11, 32]), 3, 11)  # four streams side by side: features too
        Layout(batch=1, tokens=(2,), start=0)
        >>> layout_of(torch.Size([1, 64, 7, 7]), 1, None)  # channels of a map of 7 x 7 places
        Layout(batch=0, tokens=(2, 3), start=0)
        >>> layout_of(torch.Size([3, 32, 11]), 3, 11)  # features before tokens
        Layout(batch=0, tokens=(2,), start=0)
    """
    if len(shape) == 2 and shape[0] != batch:
        return Layout(None, (0,))
    sequences = next((axis for axis, size in enumerate(shape[:-1]) if size == batch), None)
    others = [axis for axis in range(len(shape)) if axis != sequences]
    tokens = [axis for axis in others if shape[axis] == length]
    if tokens and len(others) > 1:
        return Layout(sequences, (tokens[0],))
    if len(shape) == 2:
        return Layout(sequences, ())
    maps = shape[-1] == shape[-2] and len(shape) > 3 and shape[-1] != shape[others[0]]
    return Layout(sequences, tuple(others[1:] if maps else others[:-1]))


def _stack(run: BlockRun, norm: Call | None, sizes: Sizes, returned: list[torch.Tensor]) -> Stack:
    """A stack without a name. Looped models number blocks across their turns; numbers of skipped blocks are missing."""
    numbers = [number for number, *_ in run.blocks]
    layers = numbers if run.turns == 1 else list(range(1, len(numbers) + 1))
    start = _start(run, sizes, returned)
    _, begin, _ = run.blocks[0]
    taps = [_tap(Place(run.path, 0), begin, "input", begin.inputs[0], sizes, start)]
    for layer, (_, _, end) in zip(layers, run.blocks):
        taps.append(_tap(Place(run.path, layer), end, "output", end.outputs[0], sizes, start))
    if norm is not None:
        taps.append(_tap(Place(run.path, layers[-1], FINAL_NORM), norm, "output", norm.outputs[0], sizes, start))
    rows = [layout_of(state.shape, *sizes).rows(state).shape[1] for state in run.states]
    return Stack("", run.path, tuple(taps), run.turns, norm.path if norm else None, min(rows) >= (sizes.length or 0))


def _tap(place: Place, call: Call, side: str, state: torch.Tensor, sizes: Sizes, start: int) -> Tap:
    return Tap(place, call.path, call.ordinal, side, 0, layout_of(state.shape, *sizes)._replace(start=start))


def _start(run: BlockRun, sizes: Sizes, returned: list[torch.Tensor]) -> int:
    """Rows that the model puts before those of the tokens, such as CPMAnt's prompt: its `hidden_states` lack them."""
    for state in run.states if sizes.length else ():
        rows = layout_of(state.shape, *sizes).rows(state)
        for entry in returned:
            if entry.shape[:2] == (sizes.batch, sizes.length) and (place := place_in(rows, entry)) is not None:
                return place
    return 0


def _final_norm(run: BlockRun, calls: list[Call]) -> Call | None:
    """The norm whose input is the whole output of the last block."""
    state = run.states[-1]
    after = calls[calls.index(run.blocks[-1][2]) + 1 :]
    norms = [call for call in after if not isinstance(call, BlockCall) and call.inputs and call.outputs]
    return next((c for c in norms if same(c.inputs[0], state) and c.outputs[0].shape == state.shape), None)


def _changes(run: BlockRun) -> bool:
    """Whether every block changes the state."""
    return not any(same(before, after) for before, after in pairwise(run.states))


# --- checks ---------------------------------------------------------------------------------------------------------


def _check(
    model, runs: list[BlockRun], stacks: list[Stack], calls: list[Call], returned: list[list[torch.Tensor]]
) -> None:
    """Checks that each entry of the model's lists passes between its blocks, except last ones that a head pooled."""
    paths = {run.path for run in runs}
    known = [state for run in runs for state in run.states]
    known += [call.outputs[0] for stack in stacks for call in calls if call.path == stack.final_norm]
    known += [
        c.outputs[0] for c in calls if isinstance(c, BlockCall) and c.entry.path in paths and c.outputs
    ]  # parts of a stage
    for entries in returned:
        unknown = [i for i, entry in enumerate(entries) if not any(same(state, entry) for state in known)]
        if unknown and (unknown != [len(entries) - 1] or len(entries) < 3):
            came = f"{type(model).__name__}, whose hidden_states[{unknown[0]}] is not what passes between its blocks"
            raise BadInput("model", came=came, wanted="a model whose hidden states are those of its blocks")


def _check_count(model: nn.Module, runs: list[BlockRun]) -> None:
    """Checks that the number of blocks that ran, or that the list holds if some are skipped, is one that the model
    states.

    Args:
        model: the whole.
        runs: the stacks of one part of it: one of them, or all together, have as many blocks.
    """
    run = max(runs, key=lambda run: len(run.blocks))
    stated = stated_counts(part_config(model, run.path))
    held = len(list(model.get_submodule(run.path).children())) if run.path else 0
    ran = {len(run.blocks), max(number for number, *_ in run.blocks), sum(len(each.blocks) for each in runs)}
    if stated and not stated & {held, *ran}:
        counts = " or ".join(map(str, sorted(stated)))
        came = f"{type(model).__name__}, whose {run.path} ran {len(run.blocks)} blocks where its config says {counts}"
        cure = "If blocks were taken out or put in, set the config's number to theirs."
        raise BadInput("model", came=came, wanted="as many blocks as the config says", cure=cure)


# --- names ----------------------------------------------------------------------------------------------------------


def _named(stacks: list[Stack], kinds: list[str]) -> list[Stack]:
    names = [kind if kinds.count(kind) == 1 else _part(stack.path) for kind, stack in zip(kinds, stacks)]
    return [
        replace(stack, name=name, taps=tuple(_renamed(tap, name) for tap in stack.taps))
        for name, stack in zip(names, stacks)
    ]


def _renamed(tap: Tap, name: str) -> Tap:
    return replace(tap, place=tap.place._replace(stack=name))


def _part(path: str) -> str:
    """The part of a model that a list of blocks belongs to: `vision_model` for `vision_model.encoder.layers`."""
    return path.rpartition(".")[0] or path
