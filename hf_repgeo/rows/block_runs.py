"""Finds the lists of blocks that ran one after another in a watched run, and which of them are the model's stacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

from .hidden_states import same
from .trace import BlockCall, Call

# names under which configurations give their number of blocks
COUNTS = (
    "num_hidden_layers num_layers n_layer n_layers num_encoder_layers num_decoder_layers encoder_layers decoder_layers "
    "encoder_num_hidden_layers decoder_num_hidden_layers depth num_blocks"
).split()


@dataclass(frozen=True)
class BlockRun:
    """The calls of one list's blocks, in order: the block's number, the call it begins with, the call it ends with."""

    path: str
    blocks: list[tuple[int, BlockCall, BlockCall]]

    @property
    def states(self) -> list[torch.Tensor]:
        return [self.blocks[0][1].inputs[0], *(last.outputs[0] for _, _, last in self.blocks)]

    @property
    def turns(self) -> int:
        numbers = [number for number, *_ in self.blocks]
        return max(numbers.count(number) for number in set(numbers))


def block_runs(calls: list[Call]) -> list[BlockRun]:
    """Every list whose entries run one after another; lists that run in step (attention, norm, ...) count as one."""
    usable = [call for call in calls if isinstance(call, BlockCall) and call.inputs and call.outputs]
    lists: dict[str, list[BlockCall]] = {}
    for call in usable:
        lists.setdefault(call.entry.path, []).append(call)
    runs = [BlockRun(path, _rounds(members)) for path, members in lists.items()]
    runs += [BlockRun(path, _rounds(members)) for path, members in _in_step(usable)]
    return [run for run in runs if not _parallel(run)]


def _rounds(calls: list[BlockCall]) -> list[tuple[int, BlockCall, BlockCall]]:
    """Consecutive calls of one block belong together, unless the block itself is called again."""
    rounds: list[tuple[int, BlockCall, BlockCall]] = []
    for index, group in groupby(calls, key=lambda call: call.entry.position):
        members = list(group)
        again = [i for i, call in enumerate(members) if call.path == members[0].path]
        for start, stop in zip(again, [*again[1:], len(members)]):
            rounds.append((index + 1, members[start], members[stop - 1]))
    return rounds


def _in_step(calls: list[BlockCall]) -> Iterator[tuple[str, list[BlockCall]]]:
    """Sibling lists of one length whose entries are called in turn: first entry of each, second of each ..."""
    families: dict[tuple[str, int], dict[str, None]] = {}
    lengths: dict[str, int] = {}
    for call in calls:
        lengths[call.entry.path] = max(lengths.get(call.entry.path, 0), call.entry.position + 1)
    for path, length in lengths.items():
        families.setdefault((path.rpartition(".")[0], length), {})[path] = None
    for (_, length), paths in families.items():
        members = [call for call in calls if call.entry.path in paths]
        order = [index for index, _ in groupby(members, key=lambda call: call.entry.position)]
        if len(paths) > 1 and length > 1 and order == list(range(length)):
            yield next(iter(paths)), members


def _parallel(run: BlockRun) -> bool:
    """Whether all blocks are given the same input: they run in parallel, not one after another.

    Blocks of a freshly initialized model may change nothing; then each is given what the one before returned.
    """
    first = [begin.inputs[0] for _, begin, _ in run.blocks]
    left = [end.outputs[0] for _, _, end in run.blocks]
    alike = len(first) > 1 and all(same(first[0], other) for other in first[1:])
    return alike and not all(same(before, after) for before, after in zip(left, first[1:]))


def by_part(model: nn.Module, runs: list[BlockRun]) -> list[tuple[str, list[BlockRun]]]:
    """Runs by the innermost transformers model that holds them, such as T5's encoder and decoder."""
    found: dict[str, list[BlockRun]] = {}
    for blocks in runs:
        found.setdefault(_scope(model, blocks.path), []).append(blocks)
    return list(found.items())


def _scope(model: nn.Module, blocks: str) -> str:
    """The innermost part around the blocks of this path that is a transformers model or has its own configuration.

    A part need not be a transformers model: CLIP's towers were plain modules in transformers 5.0.
    """
    from transformers import PreTrainedConfig, PreTrainedModel

    scope, config = "", getattr(model, "config", None)
    names = blocks.split(".")[:-1]
    for path in (".".join(names[: depth + 1]) for depth in range(len(names))):
        part = model.get_submodule(path)
        own = getattr(part, "config", None)
        if isinstance(part, PreTrainedModel) or (isinstance(own, PreTrainedConfig) and own is not config):
            scope, config = path, own
    return scope


def part_config(model: nn.Module, blocks: str):
    """The configuration of the part of a model that holds the blocks of this path, such as its image tower."""
    part = model.get_submodule(_scope(model, blocks))
    return getattr(part, "config", None) or getattr(model, "config", None)


def stacks_among(model: nn.Module, scope: str, runs: list[BlockRun], returned: list[torch.Tensor]) -> list[BlockRun]:
    """The runs that are stacks of this part of the model.

    First the one that holds most of `hidden_states`, then has the configured length. Beside it those that hold two or
    more entries which none before does: two stacks in turn, or one of characters before and after one of words.
    """
    counts = stated_counts(getattr(model.get_submodule(scope), "config", None))
    held = {id(run): {i for i, e in enumerate(returned) if any(same(s, e) for s in run.states)} for run in runs}
    left = [run for run in runs if any(True for _, begin, _ in run.blocks for _ in _parts(model, begin))]
    chosen: list[BlockRun] = []
    explained: set[int] = set()
    while left:
        best = max(left, key=lambda run: (len(held[id(run)] - explained), len(run.blocks) in counts, len(run.blocks)))
        if chosen and len(held[id(best)] - explained) < 2:
            break
        chosen.append(best)
        explained |= held[id(best)]
        left.remove(best)
    return sorted(chosen, key=runs.index)


def _parts(model: nn.Module, call: BlockCall) -> Iterable:
    return model.get_submodule(call.path).children()


def stated_counts(config) -> set[int]:
    """Every number of blocks that a configuration names, with and without blocks between stages that shrink the map."""
    values = {getattr(config, name, None) for name in COUNTS}
    stages = len(getattr(config, "depths", None) or ())
    of_stages = {stages, 2 * stages - 1} if stages else set()
    return {value for value in values if isinstance(value, int)} | of_stages
