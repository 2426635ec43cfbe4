"""Points inside a block: what attention and the feed-forward part add to the stream, heads, queries, keys, values.

Blocks of different architectures call their parts by different names. A point is found by the name of its module; one
that is fused with others (GPT-2's `c_attn` makes queries, keys and values in one product) is refused, and the path of
the module, relative to its block, may be given instead.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import takewhile

import torch
from torch import nn

from ..errors import BadInput, UnknownName
from .block_runs import part_config
from .capture import FINAL_NORM, RESIDUAL, Layout, Place, Tap
from .passes import one_at_a_time, run
from .stacks import Sizes, Stack, layout_of, sizes_of
from .trace import called_as_modules, tensors_of

OF_STREAM = (RESIDUAL, FINAL_NORM)
ATTENTION = ("attn", "attention")
OTHER_ATTENTION = ("cross", "encoder_attn", "encdec")
EXPERT = "expert"  # what stands above experts, shared ones too, adds them up
# names of the module that is read, within attention or outside it
OUT = "o_proj out_proj c_proj dense o out_lin wo proj".split()
PARTS = {
    "attention": (True, OUT),
    "heads": (True, OUT),
    "queries": (True, "q_proj query q q_lin".split()),
    "keys": (True, "k_proj key k k_lin".split()),
    "values": (True, "v_proj value v v_lin".split()),
    "mlp": (False, "down_proj fc2 c_proj dense_4h_to_h dense wo lin2 w2 fc_out".split()),
}
POINTS = (*OF_STREAM, *PARTS)


def point_taps(model: nn.Module, stack: Stack, point: str, inputs: dict) -> list[Tap]:
    """How to read one point in every block of a stack; layer i is block i.

    Args:
        model: that the stack was found in.
        stack: one of its stacks.
        point: one of `PARTS`, or the path of a module relative to its block, such as `"mlp.gate_proj"`.
        inputs: a small pass, to see the shape of what is read.

    Raises:
        UnknownName: no block has such a point.
        BadInput: the module does not return a row for each row of its block, or its heads do not divide its width.
    """
    blocks = [tap for tap in stack.taps if tap.place.point == RESIDUAL and tap.place.layer > 0]
    side = "input" if point == "heads" else "output"
    places = [(block, path) for block in blocks if (path := _path(model, block.path, point)) is not None]
    if not places:
        raise _unknown(model, blocks[0].path, point)
    paths = [(path, side) for _, path in places] + [(block.path, "output") for block, _ in places]
    seen, sizes = _seen(model, paths, inputs), sizes_of(inputs)
    taps = []
    for block, path in places:
        layout = _layout(block, point, path, seen[path, side], seen[block.path, "output"], sizes)
        taps.append(Tap(Place(stack.name, block.place.layer, point), path, block.ordinal, side, 0, layout))
    if point != "heads":
        return taps
    return _by_head(part_config(model, stack.path), taps, seen[places[0][1], side].shape[-1])


def _unknown(model: nn.Module, block: str, point: str) -> UnknownName | BadInput:
    names = [name for name, _ in model.get_submodule(block).named_modules() if name]
    if point not in PARTS:
        return UnknownName("point", point, [*POINTS, *names])
    came = f"{point!r}, for which the blocks of {type(model).__name__} have no module of a known name"
    cure = f"Give the module's path: one of {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}."
    return BadInput("points", came=came, wanted="a point that the blocks have", cure=cure)


def _layout(block: Tap, point: str, path: str, state: torch.Tensor, left: torch.Tensor, sizes: Sizes) -> Layout:
    """Which axes of a point's state are sequences and tokens; `left`: what leaves its block, with as many rows."""
    layout = layout_of(state.shape, *sizes)._replace(start=block.layout.start)
    if layout.batch is None or layout.rows(state).shape[:2] != block.layout.rows(left).shape[:2]:
        came = f"{point!r}, whose module {path} returns {tuple(state.shape)}"
        raise BadInput("points", came=came, wanted="a module with a row for every token or patch")
    return layout


def _by_head(config, taps: list[Tap], width: int) -> list[Tap]:
    """A place for every head: its columns of the input to the product that mixes the heads."""
    names = ("num_attention_heads", "n_head", "n_heads", "num_heads")
    count = next((getattr(config, name) for name in names if isinstance(getattr(config, name, None), int)), 0)
    if not count or width % count:
        raise BadInput("points", came=f"'heads' of a width of {width} and {count} heads", wanted="heads of one width")
    return [
        replace(tap, place=tap.place._replace(point=f"head_{head}"), part=(head, count))
        for tap in taps
        for head in range(count)
    ]


def _path(model: nn.Module, block: str, point: str) -> str | None:
    """The module of a block that makes this point."""
    module = model.get_submodule(block)
    if point not in PARTS:
        return f"{block}.{point}" if point and point in dict(module.named_modules()) else None
    of_attention, names = PARTS[point]
    parts = [
        path
        for path, _ in module.named_modules()
        if of_attention == any(word in path.lower() for word in ATTENTION)
        and not any(word in path.lower() for word in OTHER_ATTENTION)
    ]
    if point == "mlp" and (experts := [path for path in parts if EXPERT in path.lower()]):
        names_above = takewhile(lambda name: EXPERT not in name.lower(), experts[0].split("."))
        return f"{block}.{whole}" if (whole := ".".join(names_above)) else None
    fitting = [path for path in parts if path.rpartition(".")[2].lower() in names]
    chosen = fitting[:1] if of_attention else fitting[-1:]  # the first product of an MLP widens, the last one narrows
    return f"{block}.{chosen[0]}" if chosen else None


@one_at_a_time
def _seen(model: nn.Module, paths: list[tuple[str, str]], inputs: dict) -> dict[tuple[str, str], torch.Tensor]:
    """What enters or leaves modules, each given with its side, in a short run."""
    seen: dict[tuple[str, str], torch.Tensor] = {}

    def note(module, args, output, *, path: str, side: str) -> None:
        for tensor in tensors_of(list(args) if side == "input" else output)[:1]:
            seen.setdefault((path, side), tensor)

    with ExitStack() as hooks:
        for path, side in dict.fromkeys(paths):
            hook = partial(note, path=path, side=side)
            hooks.callback(model.get_submodule(path).register_forward_hook(hook).remove)
        hooks.enter_context(called_as_modules(model, dict.fromkeys(path for path, _ in paths)))
        run(model, **inputs)
    for path, side in paths:
        if (path, side) not in seen:
            raise BadInput("points", came=f"{path}, which does not run on this input", wanted="a module that runs")
    return seen
