"""Representations: token policies and pooling over the forward pass, the same rows in every layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..errors import UnknownName
from ..measures.diagnostics import MASSIVE_NORM
from .forward import Place, forward_windows, places_of, runs_unpadded
from .options import as_names
from .processes import current_team, interleaved
from .token_inputs import start_token
from .windows import Windows, draw_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

POLICIES = ("all", "no_special", "sink_robust", "one_per_type")
DEFAULT_POLICIES = ("all", "sink_robust")  # nearly the same rows, so that they share most of the arithmetic
TYPES_OVERSAMPLE = 4  # windows hold this many times the wanted rows if each token type counts once
POOLINGS = ("tokens", "cls", "last", "mean", "sentence")
SPARE_SHARE = 8  # up to 1 / SPARE_SHARE more rows are kept than wanted, to replace massive ones
MASSIVE_SHARE = 1 / 64  # in most models at most this share of the tokens is massive; that many more tokens are run


@dataclass(frozen=True)
class Representations:
    """The kept rows of every measured layer, and how to read them.

    Attributes:
        states: place -> `(n_kept, hidden_size)` in the model's dtype, on the CPU. If several processes share the work,
            each holds its share of the places.
        documents: `(n_kept,)` document of each row.
        policies: token policy -> positions of its rows among the kept ones, in shuffled order.
        facts: counts of the pool the rows were drawn from, for the report.
        token_ids: `(n_kept,)` token of each row; `None` where a row is a whole window.
        all_places: those of all processes; empty where this one holds them all.
        decoder_policies: as `policies`, for the decoder of an encoder-decoder, whose rows belong to other tokens: it
            reads the same text one token later; `None` for all other models.
        positions: `(n_kept,)` place of each row among all tokens of the windows, ascending; `None` where a row is no
            token, and where rows come from disk.
    """

    states: dict[Place, torch.Tensor]
    documents: torch.Tensor
    policies: dict[str, torch.Tensor]
    facts: dict
    token_ids: torch.Tensor | None = None
    decoder_policies: dict[str, torch.Tensor] | None = None
    all_places: tuple[Place, ...] = ()
    positions: torch.Tensor | None = None

    @property
    def places(self) -> list[Place]:
        """Every place, those of other processes too."""
        return list(self.all_places or self.states)

    def policies_of(self, place: Place) -> dict[str, torch.Tensor]:
        """The policies of one place, each judged by the tokens that its stack reads."""
        if self.decoder_policies is not None and place[0].endswith("decoder"):
            return self.decoder_policies
        return self.policies


# --- which rows -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pool:
    """All tokens of the windows that are run, as flat tensors, and a seeded order of them."""

    ids: torch.Tensor
    documents: torch.Tensor
    special: torch.Tensor
    first: torch.Tensor
    order: torch.Tensor

    @classmethod
    def of(cls, windows: Windows, tokenizer: PreTrainedTokenizerBase, seed: int) -> _Pool:
        ids = torch.tensor([i for window in windows.ids for i in window])
        documents = torch.tensor([d for window in windows.documents for d in window])
        specials = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        starts = torch.tensor([len(window) for window in windows.ids]).cumsum(0)[:-1]
        first = torch.zeros_like(ids, dtype=torch.bool)
        first[torch.cat([torch.zeros(1, dtype=torch.int64), starts])] = True
        order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed + 1))
        return cls(ids, documents, torch.isin(ids, torch.tensor(sorted(specials), dtype=ids.dtype)), first, order)

    def candidates(self, policy: str, rows: int) -> torch.Tensor:
        """Tokens that the policy may use, known before the model runs, in the seeded order."""
        if policy == "one_per_type":
            types = self.ids[self.order]
            _, inverse = torch.unique(types, return_inverse=True)
            first = torch.full((int(inverse.max()) + 1,), len(types)).scatter_reduce(
                0, inverse, torch.arange(len(types)), "amin"
            )
            return self.order[torch.sort(first).values][:rows]
        allowed = self.order
        if policy != "all":
            allowed = allowed[~self.special[allowed]]
        if policy == "sink_robust":
            return allowed[~self.first[allowed]][: rows + max(256, rows // SPARE_SHARE)]
        return allowed[:rows]


def oversample_for(policies: list[str]) -> int:
    """How many times the wanted rows the windows must hold: repeated token types make up most of any text."""
    return TYPES_OVERSAMPLE if "one_per_type" in policies else 1


def windows_for(
    windows: Windows, tokenizer: PreTrainedTokenizerBase, policies: list[str], rows: int, oversample: int, seed: int
) -> Windows:
    """Windows drawn until they hold `oversample` times the rows that every policy needs, the last one cut to fit."""
    dropped = set(tokenizer.all_special_ids) if set(policies) != {"all"} else set()
    headless = "sink_robust" in policies

    def usable(ids: list[int]) -> int:
        counted = ids[1:] if headless else ids
        return sum(i not in dropped for i in counted) if dropped else len(counted)

    needed = rows + math.ceil(rows * MASSIVE_SHARE) if headless else rows
    drawn = draw_windows(windows, seed, tokens=oversample * needed, usable=usable)
    return drawn.with_shorter_last(max(0, sum(map(usable, drawn.ids)) - oversample * needed))


def check_policies(policies: str | list[str] | tuple[str, ...] | None, known: tuple[str, ...] = POLICIES) -> list[str]:
    """The token policies asked for; `None`: `all` and `sink_robust`, for which hardly more tokens run than rows.

    Raises:
        BadInput: no names.
        UnknownName: one that does not exist.
    """
    asked = as_names("tokens", policies) or list(DEFAULT_POLICIES)
    for policy in asked:
        if policy not in known:
            raise UnknownName("token policy", policy, known)
    return list(dict.fromkeys(asked))


# --- the forward pass -----------------------------------------------------------------------------------------------


def token_representations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    windows: Windows,
    *,
    policies: list[str],
    rows: int,
    layers: list[int] | None = None,
    final_norm: str = "applied",
    points: list[str] | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: Callable[[Iterator, int], Iterator] | None = None,
) -> Representations:
    """Token representations: the same tokens in every layer.

    Rows are drawn uniformly from all tokens of `windows`, padding never among them. The policies:
    `all`; `no_special`; `sink_robust` (no special token, no first position, none whose norm exceeds 5 x its layer's
    median in any measured layer); `one_per_type` (one random occurrence of every token type).

    Args:
        model: in any mode.
        tokenizer: its own.
        windows: those to run, from `draw_windows`.
        policies: see above.
        rows: rows wanted for each policy.
        layers: 0 is what enters block 1, i what leaves block i, -1 the last; default: every layer.
        final_norm: `"applied"`: also what leaves the final norm; `"raw"`: the residual stream only.
        points: see `forward_windows`.
        batch_size: windows per forward pass.
        seed: of the order in which tokens are taken.
        progress: wraps the iteration over batches, `(iterator, total) -> iterator`.

    Raises:
        BadInput: the model returns no hidden states.
        UnknownName: a layer that does not exist.
    """
    pools = [_Pool.of(read, tokenizer, seed) for read in _read_by_stacks(model, windows)]
    candidates = [{policy: pool.candidates(policy, rows) for policy in policies} for pool in pools]
    kept = torch.unique(torch.cat([tokens for one in candidates for tokens in one.values()]))
    collected = _Collected(kept)
    norms: dict[Place, list[torch.Tensor]] = {}
    run: dict[str, Any] = {"take": collected.take, "points": points, "share": current_team().share}
    for _, found in forward_windows(model, windows, layers, final_norm, batch_size, progress, **run):
        for place, norms_there in found.items():
            norms.setdefault(place, []).append(norms_there)
    places = tuple(tap.place for tap in places_of(model, windows, layers, final_norm, points))
    massive = _massive([torch.cat(norm) for norm in _of_all_processes(norms, places)])
    place_of = torch.full((len(pools[0].ids),), -1)
    place_of[kept] = torch.arange(len(kept))
    chosen = [
        {policy: place_of[_chosen(policy, allowed, massive, rows)] for policy, allowed in one.items()}
        for one in candidates
    ]
    return Representations(
        states=collected.of_own_places(places),
        documents=pools[0].documents[kept],
        policies=chosen[0],
        facts=_facts(pools[0], windows, massive) | {"padding_leaks": runs_unpadded(model, windows)},
        token_ids=pools[0].ids[kept],
        decoder_policies=chosen[1] if len(chosen) > 1 else None,
        all_places=places,
        positions=kept,
    )


@dataclass
class _Collected:
    """The rows of every place that a policy may use, on the CPU, in memory that is allocated once.

    Attributes:
        kept: positions of these rows among all tokens, ascending.
        states: `(n_kept, hidden_size)` of each place; batch after batch, the rows that this process ran.
        sizes: rows of each batch.
    """

    kept: torch.Tensor
    states: dict[Place, torch.Tensor] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def take(self, positions: torch.Tensor) -> Callable[[Place, torch.Tensor], torch.Tensor]:
        """What takes the rows of a batch of tokens in one place; it returns the norm of every token."""
        wanted = torch.nonzero(torch.isin(positions, self.kept))[:, 0]
        start = sum(self.sizes)
        self.sizes.append(len(wanted))

        def take(place: Place, states: torch.Tensor) -> torch.Tensor:
            if place not in self.states:
                self.states[place] = torch.empty(len(self.kept), *states.shape[1:], dtype=states.dtype)
            own = self.states[place][start : start + len(wanted)]
            if states.device.type == "cpu":
                torch.index_select(states, 0, wanted, out=own)
            else:
                own.copy_(states[wanted.to(states.device)])
            return torch.linalg.vector_norm(states, dim=1, dtype=torch.float32).cpu()

        return take

    def of_own_places(self, places: tuple[Place, ...]) -> dict[Place, torch.Tensor]:
        """The rows that all processes ran, in the places of this one."""
        if current_team().size == 1:
            return {place: self.states[place] for place in places}
        ran = sum(self.sizes)
        # cloned, since a view is sent with all that it is a view of
        parts = {p: [part.clone() for part in rows[:ran].split(self.sizes)] for p, rows in self.states.items()}
        return joined(_own_places(parts, places))


def joined(parts: dict[Place, list[torch.Tensor]]) -> dict[Place, torch.Tensor]:
    """The blocks of each place as one tensor. `parts` is emptied place by place, so that no more than the rows of one
    are held twice."""
    return {place: torch.cat(parts.pop(place)) for place in list(parts)}


def _of_all_processes(found: dict[Place, list[torch.Tensor]], places: tuple[Place, ...]) -> list[list[torch.Tensor]]:
    """For each place the results of all batches, of which each process ran its share."""
    return [interleaved(current_team().all_gather(found.get(place, []))) for place in places]


def _own_places(found: dict[Place, list[torch.Tensor]], places: tuple[Place, ...]) -> dict[Place, list[torch.Tensor]]:
    """The results of all batches in the places of this process: place i belongs to process i modulo their number."""
    team, own = current_team(), {}
    for number, place in enumerate(places):
        shares = team.gather(found.get(place, []), to=number % team.size)
        if shares is not None:
            own[place] = interleaved(shares)
    return own


def _read_by_stacks(model: PreTrainedModel, windows: Windows) -> list[Windows]:
    """The windows as the model's first stack reads them and, in an encoder-decoder, as the decoder reads them."""
    if not getattr(model.config, "is_encoder_decoder", False):
        return [windows]
    start = start_token(model)
    return [windows, Windows([[start, *ids[:-1]] for ids in windows.ids], windows.documents)]


def _chosen(policy: str, allowed: torch.Tensor, massive: torch.Tensor, rows: int) -> torch.Tensor:
    if policy == "sink_robust":
        allowed = allowed[~massive[allowed]]
    return allowed[:rows]


def _massive(norms: list[torch.Tensor]) -> torch.Tensor:
    """Which tokens are massive in any layer, `(n_pool,)` bool; one mask for all layers."""
    masks = [layer > MASSIVE_NORM * layer.nanmedian() for layer in norms]
    return torch.stack(masks).any(0)


def _facts(pool: _Pool, windows: Windows, massive: torch.Tensor) -> dict:
    return {
        "n_windows": len(windows),
        "n_tokens": len(pool.ids),
        "n_documents": len(torch.unique(pool.documents)),
        "first_share": float(pool.first.float().mean()),
        "token_types": len(torch.unique(pool.ids)),
        "massive_share": float(massive.float().mean()),
        "special_share": float(pool.special.float().mean()),
    }


def pooled_representations(
    model: PreTrainedModel,
    windows: Windows,
    pooling: str,
    *,
    layers: list[int] | None = None,
    final_norm: str = "applied",
    points: list[str] | None = None,
    batch_size: int = 8,
    progress: Callable[[Iterator, int], Iterator] | None = None,
) -> Representations:
    """One row per window: its first token (`"cls"`), its last (`"last"`), or the mean of all (`"mean"`); no padding."""
    lengths = torch.tensor([len(window) for window in windows.ids])
    parts: dict[Place, list[torch.Tensor]] = {}
    take = partial(_pooled, lengths.cumsum(0), pooling)
    run: dict[str, Any] = {"take": take, "points": points, "share": current_team().share}
    for _, found in forward_windows(model, windows, layers, final_norm, batch_size, progress, **run):
        for place, pooled in found.items():
            parts.setdefault(place, []).append(pooled)
    places = tuple(tap.place for tap in places_of(model, windows, layers, final_norm, points))
    parts = _own_places(parts, places)
    n = len(windows)
    facts = {
        "n_windows": n,
        "n_tokens": int(lengths.sum()),
        "n_documents": len({d for w in windows.documents for d in w}),
        "padding_leaks": runs_unpadded(model, windows),
    }
    return Representations(
        states=joined(parts),
        documents=torch.tensor([window[0] for window in windows.documents]),
        policies={pooling: torch.arange(n)},
        facts=facts,
        all_places=places,
    )


def _pooled(ends: torch.Tensor, pooling: str, positions: torch.Tensor) -> Callable:
    owner = torch.searchsorted(ends, positions, right=True)
    _, owner, counts = torch.unique_consecutive(owner, return_inverse=True, return_counts=True)
    return lambda _, states: _pool_tokens(states, owner.to(states.device), counts.to(states.device), pooling).cpu()


def _pool_tokens(tokens: torch.Tensor, owner: torch.Tensor, counts: torch.Tensor, pooling: str) -> torch.Tensor:
    """`(n_tokens, d)` -> `(n_windows, d)`; `owner` numbers the windows of consecutive tokens."""
    ends = counts.cumsum(0)
    if pooling in ("cls", "last"):
        return tokens[ends - (counts if pooling == "cls" else 1)]
    sums = torch.zeros(len(counts), tokens.shape[1], dtype=torch.float32, device=tokens.device)
    return sums.index_add_(0, owner, tokens.float()) / counts[:, None]
