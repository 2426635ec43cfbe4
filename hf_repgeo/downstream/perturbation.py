"""Perturbed models: noise, fresh weights or shuffled embeddings in given doses, seeded and exactly reversible.

`W' = (1 - alpha) W + alpha E` on the weights of the blocks (arXiv 2406.12159); `how` says what E is.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch

from ..errors import BadInput, UnknownName
from ..rows.forward import encoder_of
from ..writing import folder_written_whole, write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel

How = Literal["noise", "scaled_noise", "reinitialize", "shuffle_embeddings"]
HOWS = get_args(How)
KINDS = ("attention", "feed_forward", "norm")
NUMBER = re.compile(r"\.(\d+)\.")
EMBEDDING = re.compile(r"(^|\.)embed")  # T5 and BART keep embeddings under a module named `encoder`


@dataclass(frozen=True)
class Perturbation:
    """A recipe: which weights change, how, and how much.

    Attributes:
        alpha, seed, how: as in `perturb`.
        layers, kinds: as in `perturb`, as tuples.
    """

    alpha: float
    seed: int = 0
    how: How = "noise"
    layers: tuple[int, ...] | None = None
    kinds: tuple[str, ...] | None = None

    def __post_init__(self):
        if not 0 <= self.alpha <= 1:
            cure = f"Per cent? Write {self.alpha / 100:g}." if 1 < self.alpha <= 100 else ""
            raise BadInput("alpha", came=f"{self.alpha:g}", wanted="a share from 0 to 1", cure=cure)
        if self.how not in HOWS:
            raise UnknownName("how", self.how, HOWS)
        for kind in self.kinds or ():
            if kind not in KINDS:
                raise UnknownName("kind of weight", kind, KINDS)
        if self.how == "shuffle_embeddings" and (self.layers is not None or self.kinds is not None):
            wanted = "neither layers nor kinds with shuffle_embeddings, which changes the input embeddings"
            raise BadInput("layers", came=f"{self.layers}, {self.kinds}", wanted=wanted)


@contextmanager
def perturb(
    model: PreTrainedModel,
    alpha: float,
    seed: int = 0,
    *,
    how: Literal["noise", "scaled_noise", "reinitialize", "shuffle_embeddings"] = "noise",
    layers: list[int] | None = None,
    kinds: list[str] | None = None,
) -> Iterator[PreTrainedModel]:
    """The model with perturbed weights while the block is open; afterwards its weights are as before, bit for bit.

    `W' = (1 - alpha) W + alpha E` on every weight of the encoder's blocks, biases and embeddings untouched: attention
    and feed-forward matrices and the gains of normalisations. Note that with `how="noise"` a dose of 0.05 already
    equals the spread of a BERT's weights; `"scaled_noise"` perturbs every weight in proportion to its own spread.

    Args:
        model: any transformers model, with or without a head; changed in place while the block is open.
        alpha: dose, 0 to 1; the paper writes it in per cent.
        seed: of the random numbers. Every weight has a stream of its own, so one layer alone gets the numbers that it
            gets when all are perturbed.
        how: what E is. `"noise"`: standard normal (the paper's); `"scaled_noise"`: normal with the standard deviation
            of the weight that it perturbs; `"reinitialize"`: a fresh initialisation from the model's configuration, so
            alpha = 1 is an untrained encoder. `"shuffle_embeddings"`: that share of the rows of the input embeddings
            change places, the blocks stay.
        layers: numbers of the blocks to perturb, from 0; default: all.
        kinds: of `"attention"`, `"feed_forward"`, `"norm"` (gains of normalisations); default: all.

    Yields:
        The same model.

    Raises:
        BadInput: a dose outside [0, 1], no such layer, or no weight to perturb.
        UnknownName: an unknown `how` or kind.

    Cost: memory for a copy of the perturbed weights; one random number per weight.

    Source: Marbut et al. 2024, arXiv 2406.12159, equation "noise add"; shuffled embeddings after Zhang et al. 2021,
    permuting an index so that every row is kept once.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        >>> model = BertModel(BertConfig(**sizes))
        >>> before = model.encoder.layer[0].attention.self.query.weight.clone()
        >>> with perturb(model, 0.05, seed=1):
        ...     changed = not before.equal(model.encoder.layer[0].attention.self.query.weight)
        >>> changed, before.equal(model.encoder.layer[0].attention.self.query.weight)
        (True, True)
    """
    recipe = Perturbation(
        alpha, seed, how, tuple(layers) if layers is not None else None, tuple(kinds) if kinds is not None else None
    )
    originals: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    try:
        for parameter, new in _changes(model, recipe):
            originals.append((parameter, parameter.detach().clone()))
            _write(parameter, new)
        yield model
    finally:
        for parameter, original in originals:
            _write(parameter, original)


def apply_perturbation(model: PreTrainedModel, recipe: Perturbation) -> PreTrainedModel:
    """Perturbs a model permanently, without keeping a copy, for one that will be fine-tuned.

    Args:
        model: changed in place.
        recipe: what to do.

    Returns:
        The same model.

    Raises:
        BadInput, UnknownName: as `perturb`.
    """
    for parameter, new in _changes(model, recipe):
        _write(parameter, new)
    return model


def save_perturbed(model: PreTrainedModel, folder: str | Path, recipe: Perturbation, tokenizer=None) -> Path:
    """Writes the perturbed model as a folder that `from_pretrained` reads; the model itself stays as it was.

    Args:
        model: to perturb.
        folder: to write; `perturbation.json` in it records the recipe.
        recipe: what to do.
        tokenizer: written beside it.

    Returns:
        The folder.
    """
    import json

    folder = Path(folder)
    settings = asdict(recipe)
    with folder_written_whole(folder) as unfinished:
        with perturb(model, settings.pop("alpha"), settings.pop("seed"), **settings):
            model.save_pretrained(unfinished)
        if tokenizer is not None:
            tokenizer.save_pretrained(unfinished)
        write_whole(unfinished / "perturbation.json", json.dumps(asdict(recipe)) + "\n")
    return folder


@torch.no_grad()
def _write(parameter: torch.nn.Parameter, values: torch.Tensor) -> None:
    parameter.copy_(values)


# --- which weights ---------------------------------------------------------------------------------------------------


def block_weights(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The weights that the paper perturbs: names that end in `weight`, inside the encoder's blocks.

    A weight is inside a block if its name has the block's number (`encoder.layer.3.attention.self.query.weight`), or if
    it is in a module named `encoder` beside the blocks, such as MPNet's relative positions.
    """
    named = encoder_of(model).named_parameters()
    return {
        name: parameter
        for name, parameter in named
        if name.endswith("weight")
        and (NUMBER.search(f".{name}") or (name.startswith("encoder.") and not EMBEDDING.search(name)))
    }


def kind_of(name: str, parameter: torch.Tensor) -> str:
    """`"norm"` for a vector of gains, `"attention"` for a weight whose name says so, else `"feed_forward"`."""
    if parameter.ndim == 1:
        return "norm"
    return "attention" if "att" in name.lower() else "feed_forward"


def _chosen(model: PreTrainedModel, recipe: Perturbation) -> dict[str, torch.nn.Parameter]:
    weights = block_weights(model)
    numbers = {name: int(found[1]) if (found := NUMBER.search(f".{name}")) else None for name in weights}
    known = {number for number in numbers.values() if number is not None}
    if unknown := set(recipe.layers or ()) - known:
        raise BadInput("layers", came=f"block {min(unknown)}", wanted=f"blocks 0 to {max(known, default=-1)}")
    chosen = {
        name: weight
        for name, weight in weights.items()
        if (recipe.layers is None or numbers[name] in recipe.layers)
        and (recipe.kinds is None or kind_of(name, weight) in recipe.kinds)
    }
    if not chosen:
        raise BadInput("model", came=f"{type(model).__name__}, without such a weight", wanted="weights in blocks")
    return chosen


# --- their new values ------------------------------------------------------------------------------------------------


def _changes(model: PreTrainedModel, recipe: Perturbation) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor]]:
    """Each parameter to change and its new values, one at a time, so that memory holds two copies of one only."""
    if recipe.how == "shuffle_embeddings":
        table = cast(torch.nn.Parameter, encoder_of(model).get_input_embeddings().weight)
        yield table, table.detach()[_shuffled(len(table), recipe.alpha, recipe.seed).to(table.device)]
        return
    chosen = _chosen(model, recipe)
    fresh = dict(_untrained(model, recipe.seed).named_parameters()) if recipe.how == "reinitialize" else {}
    for name, weight in chosen.items():
        if recipe.alpha == 0:
            continue
        old = weight.detach().to(torch.float32)
        if recipe.how == "reinitialize":
            other = fresh[name].detach().to(old)
        else:
            other = torch.randn(weight.shape, generator=_stream(recipe.seed, name)).to(old.device)
            other = other * old.std(correction=0) if recipe.how == "scaled_noise" else other
        yield weight, ((1 - recipe.alpha) * old + recipe.alpha * other).to(weight.dtype)


def _stream(seed: int, name: str) -> torch.Generator:
    """A generator for one weight: the same numbers on every device, whichever other weights are perturbed."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _untrained(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    body = encoder_of(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251  transformers initialises from the global generator; the fork restores it
        return type(body)(body.config)


def _shuffled(count: int, share: float, seed: int) -> torch.Tensor:
    """An order of `count` rows in which a random `share` of them are permuted among themselves."""
    generator = _stream(seed, "embeddings")
    moving = torch.randperm(count, generator=generator)[: round(share * count)]
    order = torch.arange(count)
    order[moving] = moving[torch.randperm(len(moving), generator=generator)]
    return order
