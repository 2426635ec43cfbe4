"""Stacks of blocks, and the places between them: before block 1, behind each block, behind the final norm.

One meaning of *layer* for every model: 0 is what enters block 1, i is what leaves block i. transformers' own
`hidden_states` differs from model to model: its last entry is mostly the output of the final norm, some models leave
out the embeddings, some the last block. So the places are found by watching a short run, and `hidden_states` is used
to check them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import nn

from ..errors import BadInput
from .capture import FINAL_NORM, RESIDUAL, Layout, Place, Tap, read_places
from .passes import run
from .trace import Call, watch

# names under which configurations give their number of blocks
COUNTS = (
    "num_hidden_layers num_layers n_layer n_layers num_encoder_layers num_decoder_layers encoder_layers decoder_layers "
    "encoder_num_hidden_layers decoder_num_hidden_layers depth num_blocks"
).split()


@dataclass(frozen=True)
class Stack:
    """One stack of blocks.

    Attributes:
        name: `"encoder"` or `"decoder"`; the path of its module where several stacks are of one kind.
        path: of the list of blocks in the module tree.
        taps: the residual stream, layer by layer, and the final norm, if there is one.
        turns: how often a looped model runs through its blocks.
        final_norm: path of the norm behind the last block, or `None`.
        by_token: whether each layer has a row for every token of the text; CANINE's inner stack sees four characters
            as one. `True` without a text.
    """

    name: str
    path: str
    taps: tuple[Tap, ...]
    turns: int
    final_norm: str | None
    by_token: bool = True

    @property
    def layers(self) -> list[int]:
        return [tap.place.layer for tap in self.taps if tap.place.point == RESIDUAL]

    def facts(self) -> dict:
        """For the provenance of a report."""
        return {"blocks": self.path, "layers": self.layers[-1], "turns": self.turns, "final_norm": self.final_norm}


def find_stacks(model: nn.Module, inputs: dict) -> list[Stack]:
    """The stacks of a model, in the order in which they run.

    Args:
        model: any transformers model, in any mode; it is left as it was.
        inputs: what a forward pass takes, small: two or more sequences without padding, one image or the like.

    Raises:
        BadInput: no stack of blocks is found; or what passes between the blocks is not what the model itself returns
            as `hidden_states`; or the configuration names another number of blocks than a stack has or runs.

    Cost: two to three forward passes over `inputs`.
    """
    calls, output = watch(model, inputs | _with_hidden_states(model))
    lists = list(_hidden_states(output))
    returned = [entry for entries in lists for entry in entries]
    scopes = [_best(model, scope, runs, returned) for scope, runs in _by_scope(model, _runs(calls))]
    found = [blocks for runs in scopes for blocks in runs]
    if not found:
        wanted = "a model with a list of blocks that run one after another"
        raise BadInput("model", came=f"{type(model).__name__}, in which none was seen to run", wanted=wanted)
    sizes = sizes_of(inputs)
    stacks = [_stack(run, _final_norm(run, calls), sizes, returned) for run in found]
    _check(model, found, stacks, calls, lists)
    for runs in filter(None, scopes):
        _check_count(model, runs)
    return _named(model, inputs, stacks)


# --- runs of blocks -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """The calls of one list's blocks, in order: the block's number, the call it begins with, the call it ends with."""

    path: str
    blocks: list[tuple[int, Call, Call]]

    @property
    def states(self) -> list[torch.Tensor]:
        return [self.blocks[0][1].inputs[0], *(last.outputs[0] for _, _, last in self.blocks)]

    @property
    def turns(self) -> int:
        numbers = [number for number, *_ in self.blocks]
        return max(numbers.count(number) for number in set(numbers))


def _runs(calls: list[Call]) -> list[_Run]:
    """Every list whose entries run one after another; lists that run in step (attention, norm, ...) are one."""
    usable = [call for call in calls if call.entry and call.inputs and call.outputs]
    lists: dict[str, list[Call]] = {}
    for call in usable:
        lists.setdefault(call.entry.path, []).append(call)
    runs = [_Run(path, _rounds(members)) for path, members in lists.items()]
    runs += [_Run(path, _rounds(members)) for path, members in _in_step(usable)]
    return [run for run in runs if not _parallel(run)]


def _rounds(calls: list[Call]) -> list[tuple[int, Call, Call]]:
    """Calls of one block behind one another belong together, unless the block itself is called again."""
    rounds: list[tuple[int, Call, Call]] = []
    for index, group in groupby(calls, key=lambda call: call.entry.index):
        members = list(group)
        again = [i for i, call in enumerate(members) if call.path == members[0].path]
        for start, stop in zip(again, [*again[1:], len(members)]):
            rounds.append((index + 1, members[start], members[stop - 1]))
    return rounds


def _in_step(calls: list[Call]) -> Iterator[tuple[str, list[Call]]]:
    """Sibling lists of one length whose entries are called in turn: first entry of each, second of each ..."""
    families: dict[tuple[str, int], dict[str, None]] = {}
    lengths: dict[str, int] = {}
    for call in calls:
        lengths[call.entry.path] = max(lengths.get(call.entry.path, 0), call.entry.index + 1)
    for path, length in lengths.items():
        families.setdefault((path.rpartition(".")[0], length), {})[path] = None
    for (_, length), paths in families.items():
        members = [call for call in calls if call.entry.path in paths]
        order = [index for index, _ in groupby(members, key=lambda call: call.entry.index)]
        if len(paths) > 1 and length > 1 and order == list(range(length)):
            yield next(iter(paths)), members


def _parallel(run: _Run) -> bool:
    """Whether all blocks are given the same thing: they stand side by side, not one behind another.

    Blocks of a model that was just initialized may change nothing: then each is given what the one before returned.
    """
    first = [begin.inputs[0] for _, begin, _ in run.blocks]
    left = [end.outputs[0] for _, _, end in run.blocks]
    alike = len(first) > 1 and all(_same(first[0], other) for other in first[1:])
    return alike and not all(_same(before, after) for before, after in zip(left, first[1:]))


def _by_scope(model: nn.Module, runs: list[_Run]) -> list[tuple[str, list[_Run]]]:
    """Runs by the innermost transformers model that holds them, such as T5's encoder and decoder."""
    found: dict[str, list[_Run]] = {}
    for blocks in runs:
        found.setdefault(_scope(model, blocks.path), []).append(blocks)
    return list(found.items())


def _scope(model: nn.Module, blocks: str) -> str:
    """The innermost transformers model that holds the blocks of this path."""
    from transformers import PreTrainedModel

    scopes = (path for path, module in model.named_modules() if path and isinstance(module, PreTrainedModel))
    return max((scope for scope in scopes if blocks.startswith(f"{scope}.")), key=len, default="")


def part_config(model: nn.Module, blocks: str):
    """The configuration of the part of a model that holds the blocks of this path, such as its image tower."""
    part = model.get_submodule(_scope(model, blocks))
    return getattr(part, "config", None) or getattr(model, "config", None)


def _best(model: nn.Module, scope: str, runs: list[_Run], returned: list[torch.Tensor]) -> list[_Run]:
    """The runs that are stacks of this part of the model.

    First the one that holds most of `hidden_states`, then has the configured length. Beside it those that hold two or
    more entries which none before does: two stacks in turn, or one of characters before and behind one of words.
    """
    counts = _counts(getattr(model.get_submodule(scope), "config", None))
    held = {id(run): {i for i, e in enumerate(returned) if any(_same(s, e) for s in run.states)} for run in runs}
    left = [run for run in runs if any(True for _, begin, _ in run.blocks for _ in _parts(model, begin))]
    chosen: list[_Run] = []
    explained: set[int] = set()
    while left:
        best = max(left, key=lambda run: (len(held[id(run)] - explained), len(run.blocks) in counts, len(run.blocks)))
        if chosen and len(held[id(best)] - explained) < 2:
            break
        chosen.append(best)
        explained |= held[id(best)]
        left.remove(best)
    return sorted(chosen, key=runs.index)


def _parts(model: nn.Module, call: Call) -> Iterable:
    return model.get_submodule(call.path).children()


def _counts(config) -> set[int]:
    """Every number of blocks that a configuration names; between stages may stand blocks that shrink the map."""
    values = {getattr(config, name, None) for name in COUNTS}
    stages = len(getattr(config, "depths", None) or ())
    of_stages = {stages, 2 * stages - 1} if stages else set()
    return {value for value in values if isinstance(value, int)} | of_stages


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


def _stack(run: _Run, norm: Call | None, sizes: Sizes, returned: list[torch.Tensor]) -> Stack:
    """A stack without a name. Looped models number their turns through; skipped blocks leave their numbers out."""
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


def _start(run: _Run, sizes: Sizes, returned: list[torch.Tensor]) -> int:
    """Rows that the model puts before those of the tokens, such as CPMAnt's prompt: its `hidden_states` lack them."""
    for state in run.states if sizes.length else ():
        rows = layout_of(state.shape, *sizes).rows(state)
        for entry in returned:
            if entry.shape[:2] == (sizes.batch, sizes.length) and (place := _place_in(rows, entry)) is not None:
                return place
    return 0


def _place_in(rows: torch.Tensor, entry: torch.Tensor) -> int | None:
    """How many of the rows stand before those of the entry: none, or all that are more."""
    more = rows.shape[1] - entry.shape[1]
    fits = more >= 0 and rows.ndim == entry.ndim and rows.shape[2:] == entry.shape[2:]
    places = dict.fromkeys((0, more)) if fits else ()
    return next((at for at in places if _equal(rows[:, at : at + entry.shape[1]], entry)), None)


def _final_norm(run: _Run, calls: list[Call]) -> Call | None:
    """The norm that is given what leaves the last block, all of it."""
    state = run.states[-1]
    after = calls[calls.index(run.blocks[-1][2]) + 1 :]
    norms = [call for call in after if call.entry is None and call.inputs and call.outputs]
    return next((c for c in norms if _same(c.inputs[0], state) and c.outputs[0].shape == state.shape), None)


# --- checks ---------------------------------------------------------------------------------------------------------


def _with_hidden_states(model: nn.Module) -> dict:
    """What asks for `hidden_states`, where the model's forward takes it."""
    accepted = inspect.signature(model.forward).parameters
    rest = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values())
    return {name: True for name in ("output_hidden_states", "return_dict") if rest or name in accepted}


def _hidden_states(output) -> Iterator[list[torch.Tensor]]:
    """The tensors of each field of an output that is called hidden states, looking into outputs inside it."""
    for name, value in output.items() if hasattr(output, "items") else ():
        if name.startswith(("reshaped", "fpn")):  # the same states again, as maps; what a head made of them
            continue
        if name.endswith("hidden_states") and isinstance(value, (tuple, list)):
            yield [state for state in value if torch.is_tensor(state)]
        elif hasattr(value, "items"):
            yield from _hidden_states(value)


def _same(state: torch.Tensor, entry: torch.Tensor) -> bool:
    """Whether an entry of `hidden_states` holds what passes between blocks, in whatever order of axes.

    A model may fill sequences up inside itself (Longformer), put a prompt before them (CPMAnt) or hang further streams
    behind them (ProphetNet): then its own entry holds the front or the end of the state.
    """
    if state.numel() == entry.numel() and _equal(state.flatten(), entry.flatten()):
        return True
    if state.ndim == 3 and entry.ndim == 4:  # a map of places, channels first
        entry = entry.flatten(2).transpose(1, 2)
    if not state.ndim == entry.ndim == 3:
        return False
    return any(_place_in(state.permute(*axes), entry) is not None for axes in ((0, 1, 2), (1, 0, 2), (0, 2, 1)))


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a.nan_to_num(), b.nan_to_num().to(a)))


def _check(model, runs: list[_Run], stacks: list[Stack], calls: list[Call], returned: list[list[torch.Tensor]]) -> None:
    """Every entry of the model's lists passes between its blocks, but for last ones that a head pooled or merged."""
    paths = {run.path for run in runs}
    known = [state for run in runs for state in run.states]
    known += [call.outputs[0] for stack in stacks for call in calls if call.path == stack.final_norm]
    known += [c.outputs[0] for c in calls if c.entry and c.entry.path in paths and c.outputs]  # parts of a stage
    for entries in returned:
        unknown = [i for i, entry in enumerate(entries) if not any(_same(state, entry) for state in known)]
        if unknown and (unknown != [len(entries) - 1] or len(entries) < 3):
            came = f"{type(model).__name__}, whose hidden_states[{unknown[0]}] is not what passes between its blocks"
            raise BadInput("model", came=came, wanted="a model whose hidden states are those of its blocks")


def _check_count(model: nn.Module, runs: list[_Run]) -> None:
    """The number of blocks that ran, or that the list holds where some are skipped, is one that the model states.

    Args:
        model: the whole.
        runs: the stacks of one part of it: one of them, or all together, have as many blocks.
    """
    run = max(runs, key=lambda run: len(run.blocks))
    stated = _counts(part_config(model, run.path))
    held = len(list(model.get_submodule(run.path).children())) if run.path else 0
    ran = {len(run.blocks), max(number for number, *_ in run.blocks), sum(len(each.blocks) for each in runs)}
    if stated and not stated & {held, *ran}:
        counts = " or ".join(map(str, sorted(stated)))
        came = f"{type(model).__name__}, whose {run.path} ran {len(run.blocks)} blocks where its config says {counts}"
        cure = "If blocks were taken out or put in, set the config's number to theirs."
        raise BadInput("model", came=came, wanted="as many blocks as the config says", cure=cure)


# --- names ----------------------------------------------------------------------------------------------------------


def _named(model: nn.Module, inputs: dict, stacks: list[Stack]) -> list[Stack]:
    kinds = _kinds(model, inputs, stacks)
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


def _kinds(model: nn.Module, inputs: dict, stacks: list[Stack]) -> list[str]:
    """`"decoder"` for a stack whose tokens see only what came before them, else `"encoder"`: tried on the model.

    A token in the middle of the input is changed. Where rows behind it change and none before it does, the stack is
    causal. The decoder's input comes first: a decoder sees all of what its encoder has read.
    """
    kinds: dict[str, str] = {}
    names = sorted(
        (name for name in inputs if name.endswith("input_ids")), key=lambda name: name != "decoder_input_ids"
    )
    for name in names:
        middle, length = _middle(model, inputs[name]), inputs[name].shape[1]
        before, after = (last_states(model, some, stacks) for some in (inputs, _changed(model, inputs, name, middle)))
        for stack, a, b in zip(stacks, before, after):
            changed = _changed_rows(a[:, :length], b[:, :length]).any(0)  # more rows: filled up inside the model
            if stack.path not in kinds and len(changed) == length and bool(changed[middle]):
                kinds[stack.path] = _kind(changed, middle)
    return [kinds.get(stack.path, "encoder") for stack in stacks]


def _kind(changed: torch.Tensor, middle: int) -> str:
    """From which rows a changed token in the middle changed; where none but its own, tokens see nothing of others."""
    sees_later, sees_earlier = bool(changed[:middle].any()), bool(changed[middle + 1 :].any())
    behind = len(changed) - middle - 1
    return "decoder" if not sees_later and (sees_earlier or not behind) else "encoder"


def _middle(model: nn.Module, ids: torch.Tensor) -> int:
    """The place in the middle of those that hold a word in every sequence, no part of an image."""
    places = torch.nonzero(~torch.isin(ids, _media_tokens(model).to(ids)).any(0))[:, 0].tolist()
    return places[len(places) // 2] if places else ids.shape[1] // 2


def _changed(model: nn.Module, inputs: dict, name: str, place: int) -> dict:
    """One token of each sequence exchanged for another that occurs; none that stands for a part of an image."""
    ids = inputs[name].clone()
    tokens = ids.unique()
    tokens = tokens[~torch.isin(tokens, _media_tokens(model).to(ids))]
    following = tokens[(torch.searchsorted(tokens, ids[:, place].contiguous()) + 1) % len(tokens)]
    ids[:, place] = following if len(tokens) > 1 else (ids[:, place] + 1).clamp_max(1)
    return inputs | {name: ids}


def _media_tokens(model: nn.Module) -> torch.Tensor:
    """Tokens that a configuration sets apart for images, videos and sounds: a model counts them."""
    facts = vars(getattr(model, "config", None) or object).items()
    named = [(name, token) for name, token in facts if name.endswith(("_token_id", "_token_index"))]
    kinds = ("image", "video", "audio", "vision")
    return torch.tensor([token for name, token in named if isinstance(token, int) and name.startswith(kinds)])


def _changed_rows(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`(batch, tokens)` whether a row differs by more than rounding."""
    gap = torch.linalg.vector_norm((a - b).float(), dim=-1)
    return gap > 8 * torch.finfo(a.dtype).eps * torch.linalg.vector_norm(a.float(), dim=-1)


def last_states(model: nn.Module, inputs: dict, stacks: list[Stack]) -> list[torch.Tensor]:
    """What leaves the last block of each stack, `(batch, tokens, features)`."""
    taps = [next(tap for tap in reversed(stack.taps) if tap.place.point == RESIDUAL) for stack in stacks]
    with read_places(model, taps, lambda rows: rows) as found:
        run(model, **inputs)
    return list(found.values())
