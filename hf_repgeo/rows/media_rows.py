"""Rows of images and sounds: patches, frames and tokens, drawn evenly while the model runs.

Layers of one model may hold different numbers of rows (Swin halves its map at every stage). So places are grouped by
their number of rows per item; within a group every layer has the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch

from ..errors import BadInput, UnknownName
from ..measures.diagnostics import MASSIVE_NORM
from .capture import Place, Take, Tap, read_places
from .passes import run
from .representations import Representations, joined

MEDIA_POLICIES = ("all", "no_special", "sink_robust", "text", "image", "audio")
KINDS = {"text": 0, "special": 1, "image": 2, "audio": 3}  # of rows
MOST_SPECIAL = 16  # CLS and register tokens in front of the patches
MARGIN = 2.0  # rows kept of each kind over rows wanted, so that policies which leave some out still have enough


@dataclass
class Item:
    """The input of one forward pass.

    Attributes:
        inputs: of the model, for one image, one sound, or one image with its text.
        share: share of the rows that is real, from the front; less than 1 where a sound is padded with silence.
        patches: number of an image's patches, if known: rows before them are special (CLS, registers).
        special: for the decoder of an encoder-decoder, `(tokens,)` True at special tokens.
        media_tokens: for a text beside an image or a sound, `(tokens,)` True where a token represents a part of that.
        medium: which of the two: `"image"` or `"audio"`.
    """

    inputs: dict
    share: float = 1.0
    media_tokens: torch.Tensor | None = None
    medium: str = "image"
    patches: int | None = None
    special: torch.Tensor | None = None


@dataclass
class _Group:
    """Places whose rows belong together, and what was kept of them so far."""

    seen: int = 0
    states: dict[Place, list[torch.Tensor]] = field(default_factory=dict)
    norms: dict[Place, list[torch.Tensor]] = field(default_factory=dict)
    keys: list[torch.Tensor] = field(default_factory=list)
    documents: list[torch.Tensor] = field(default_factory=list)
    kinds: list[torch.Tensor] = field(default_factory=list)  # numbers of `KINDS`


def media_representations(
    model,
    taps: list[Tap],
    items: Iterable[Item],
    count: int,
    *,
    rows: int,
    policies: list[str] | None,
    seed: int = 0,
    progress: Callable[[Iterator, int], Iterator] | None = None,
) -> list[Representations]:
    """Rows of every place, in groups of places that share their rows.

    Args:
        model: in any mode.
        taps: the places to read.
        items: what to run, one pass each, nothing padded.
        count: how many items there are.
        rows: rows wanted for each policy.
        policies: of `"all"`; `"no_special"`: without CLS and register tokens; `"sink_robust"`: also without rows whose
            norm exceeds 5 x the median of their layer in any layer; `"text"`, `"image"` and `"audio"`: tokens of
            one kind. Default: those that the model has.
        seed: of the draw.
        progress: wraps the iteration.

    Raises:
        UnknownName: a policy that does not exist.
        BadInput: a policy that has no row here.
    """
    for policy in policies or ():
        if policy not in MEDIA_POLICIES:
            raise UnknownName("token policy", policy, MEDIA_POLICIES)
    draw = _Draw(rows, count, torch.Generator().manual_seed(seed))
    for number, item in enumerate(progress(iter(items), count) if progress else items):
        with read_places(model, taps, draw.from_item(item, number)):
            run(model, **item.inputs)
    drawn = [_drawn(group, rows, policies, number + 1) for group in draw.groups.values()]
    found = [one for one in drawn if one.policies]
    if not found:
        raise BadInput("tokens", came=", ".join(policies or ()), wanted="a policy that has rows in this model")
    return found


@dataclass
class _Draw:
    """What is kept of every item, in groups of places with equally many rows: the same rows in all of a group."""

    rows: int
    count: int
    generator: torch.Generator
    groups: dict[tuple, _Group] = field(default_factory=dict)
    names: dict[Place, tuple] = field(default_factory=dict)

    def from_item(self, item: Item, number: int) -> Take:
        """For `read_places`: keeps rows while the model runs, so that the layers of an item are not held together."""
        keys: dict[int, torch.Tensor] = {}
        apart = item.media_tokens is not None or item.special is not None

        def take(place: Place, states: torch.Tensor) -> None:
            state = states.flatten(0, 1)
            state = state[: _real(item, place, len(state))]
            keys.setdefault(len(state), torch.rand(len(state), generator=self.generator))
            name = self.names.setdefault(place, (len(state), place.stack if apart else ""))
            group = self.groups.setdefault(name, _Group())
            _keep(group, place, state, keys[len(state)], number, self.count, self.rows, item)

        return take


def _real(item: Item, place: Place, length: int) -> int:
    """How many rows are not padding; tokens never are."""
    of_tokens = place.stack.endswith("decoder") or (item.media_tokens is not None and len(item.media_tokens) == length)
    return length if of_tokens else max(1, round(item.share * length))


def _keep(group: _Group, place, state, keys, number: int, count: int, rows: int, item: Item) -> None:
    """Keeps the rows of one item whose random keys are small enough; the same ones in all places of the group."""
    kinds = _kinds(item, len(state))
    share = MARGIN * rows / (count * kinds.bincount(minlength=len(KINDS)).clamp_min(1))
    chosen = torch.nonzero(keys < share[kinds])[:, 0]
    kept = state[chosen.to(state.device)].cpu()
    group.states.setdefault(place, []).append(kept)
    group.norms.setdefault(place, []).append(torch.linalg.vector_norm(kept, dim=1, dtype=torch.float32))
    if place != next(iter(group.states)):
        return
    group.seen += len(state)
    group.keys.append(keys[chosen])
    group.documents.append(torch.full((len(chosen),), number))
    group.kinds.append(kinds[chosen])


def _kinds(item: Item, length: int) -> torch.Tensor:
    """`(length,)` of an item's rows: numbers of `KINDS`; rows of an image or a sound alone count as text."""
    kinds = torch.full((length,), KINDS["text"])
    if item.media_tokens is not None and len(item.media_tokens) == length:
        kinds[item.media_tokens] = KINDS[item.medium]
    if item.special is not None and len(item.special) == length:
        kinds[item.special] = KINDS["special"]
    in_front = length - item.patches if item.patches else 0
    kinds[: in_front if 0 < in_front <= MOST_SPECIAL else 0] = KINDS["special"]
    return kinds


def _drawn(group: _Group, rows: int, policies: list[str] | None, items: int) -> Representations:
    """The rows of each policy; policies without rows, such as text tokens in an image tower, are left out."""
    kinds, keys = torch.cat(group.kinds), torch.cat(group.keys)
    norms = [torch.cat(part) for part in group.norms.values()]
    massive = torch.stack([norm > MASSIVE_NORM * norm.nanmedian() for norm in norms]).any(0)
    ordinary, among_media = kinds != KINDS["special"], bool((kinds > KINDS["special"]).any())
    allowed = {
        "all": torch.ones_like(massive),
        "no_special": ordinary,
        "sink_robust": ordinary & ~massive,
        "text": (kinds == KINDS["text"]) & among_media,
        "image": kinds == KINDS["image"],
        "audio": kinds == KINDS["audio"],
    }
    known = [policy for policy in MEDIA_POLICIES if bool(allowed[policy].any())]
    wanted = policies or [policy for policy in known if policy != "no_special" or not bool(ordinary.all())]
    chosen = {policy: order[allowed[policy][order]][:rows] for policy in wanted if len(order := keys.argsort())}
    chosen = {policy: positions for policy, positions in chosen.items() if len(positions) > 1}
    facts = {"n_items": items, "n_tokens": group.seen, "massive_share": float(massive.float().mean())}
    return Representations(joined(group.states), torch.cat(group.documents), chosen, facts)
