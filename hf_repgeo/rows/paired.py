"""Rows of two models that belong together one by one: the same tokens of the same windows, or pieces of text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import BadInput
from .capture import Place
from .corpus import Corpus
from .forward import text_reader
from .models import Loaded
from .representations import (
    Representations,
    oversample_for,
    pooled_representations,
    token_representations,
    windows_for,
)
from .windows import Windows, make_windows, resolve_window, window_limit

PIECE_WORDS = 60  # a row, where two models cut text into different tokens
STREAM: dict[str, Any] = {"final_norm": "raw"}  # the residual stream only, so that layers lie between like places
FEWEST_ROWS = 4


@dataclass(frozen=True)
class Paired:
    """Rows of two models that belong together, by place.

    Attributes:
        a, b: place -> `(n, d)`.
        documents: `(n,)` document of each row.
        tokens: which tokens are rows, or `"pieces"` where a row is a piece of text.
    """

    a: dict[Place, torch.Tensor]
    b: dict[Place, torch.Tensor]
    documents: torch.Tensor
    tokens: str


def paired_rows(
    first: Loaded,
    second: Loaded,
    corpus: Corpus,
    *,
    tokens: str,
    rows: int,
    window: int | None,
    batch_size: int,
    seed: int,
    prompts: tuple[str, str] = ("", ""),
) -> Paired:
    """Rows of every layer of two models that belong together one by one.

    Args:
        first, second: the models; the same one twice for its own layers, or for two prompts.
        corpus: documents.
        tokens: token policy.
        rows: rows wanted.
        window: tokens per window, prompt included; default 512 or the lower limit of the two models.
        batch_size: windows per forward pass.
        seed: of the draw of windows and rows.
        prompts: what each model reads before every window; its tokens give no rows.

    Raises:
        BadInput: fewer than four rows in common; prompts that fill the window, or where the models' tokens differ.
    """
    limits = [limit for one in (first, second) if (limit := window_limit(one.model, one.tokenizer))]
    length = resolve_window(window, min(limits, default=None))
    if not same_tokens(first, second):
        if any(prompts):
            raise BadInput("prompt", came="models that cut text into other tokens", wanted="models of one tokenizer")
        return _of_pieces(first, second, corpus, rows, length, batch_size, seed)
    asked = [_ids_of(prompt, first.tokenizer) for prompt in prompts]
    room = length - max(map(len, asked))
    if room < FEWEST_ROWS:
        raise BadInput("prompt", came=f"{length - room} tokens", wanted=f"fewer than the window's {length}")
    cut = make_windows(first.tokenizer, corpus.texts(first.tokenizer), room)
    windows = windows_for(cut, first.tokenizer, [tokens], rows, oversample_for([tokens]), seed)
    choice = {"batch_size": batch_size, "seed": seed, **STREAM}
    if any(prompts):
        return _behind_prompts(first, second, windows, asked, tokens, rows, choice)
    choice |= {"policies": [tokens], "rows": rows}
    readers = [text_reader(one.model, windows) for one in ([first] if second is first else [first, second])]
    found = [token_representations(reader, first.tokenizer, windows, **choice) for reader in readers]
    a, b = found[0], found[-1]
    common = _common([*_chosen(a, tokens), *_chosen(b, tokens)])
    at_a, at_b = (torch.searchsorted(_positions(one), common) for one in (a, b))
    return Paired(_take(a, at_a), _take(b, at_b), a.documents[at_a], tokens)


def same_tokens(first: Loaded, second: Loaded) -> bool:
    """Whether the two tokenizers cut and number text alike."""
    if first.tokenizer is second.tokenizer:
        return True
    sample = "The quick brown fox, jumping over 13 lazy dogs; naïve déjà-vu & emoji 🙂 in Köln."
    alike = first.tokenizer(sample)["input_ids"] == second.tokenizer(sample)["input_ids"]
    return alike and first.tokenizer.get_vocab() == second.tokenizer.get_vocab()


def _chosen(found: Representations, tokens: str) -> list[torch.Tensor]:
    """The tokens of the windows that a policy takes in each stack: the decoder of an encoder-decoder reads others."""
    policies = [found.policies, *([found.decoder_policies] if found.decoder_policies else [])]
    return [_positions(found)[of_stack[tokens]] for of_stack in policies]


def _common(choices: list[torch.Tensor]) -> torch.Tensor:
    """The rows in all choices, in the order of the first: stacks differ in special tokens, models in massive ones."""
    chosen = choices[0]
    for other in choices[1:]:
        chosen = chosen[torch.isin(chosen, other)]
    if len(chosen) < FEWEST_ROWS:
        came = f"{len(chosen)} rows that both models share"
        raise BadInput("texts", came=came, wanted=f"at least {FEWEST_ROWS}")
    return chosen


def _positions(found: Representations) -> torch.Tensor:
    assert found.positions is not None  # rows are tokens here
    return found.positions


def _take(found: Representations, positions: torch.Tensor) -> dict[Place, torch.Tensor]:
    return {place: rows[positions.to(rows.device)] for place, rows in found.states.items()}


# --- after prompts ----------------------------------------------------------------------------------------------------


def _behind_prompts(
    first: Loaded, second: Loaded, windows: Windows, prompts: list[list[int]], tokens: str, rows: int, choice: dict
) -> Paired:
    """The same tokens of the same windows, after another prompt in each model."""
    count = sum(map(len, windows.ids))
    sides, chosen = [], []
    for one, prompt in zip((first, second), prompts, strict=True):
        total = count + len(windows) * len(prompt)  # every row is kept, so that a row's number is its position
        read = with_prompt(windows, prompt)
        choice |= {"policies": list({"all", tokens}), "rows": total}
        found = token_representations(text_reader(one.model, read), one.tokenizer, read, **choice)
        place = _places_of_text(windows, len(prompt))
        token_at = torch.full((total,), -1).index_put_((place,), torch.arange(count))
        for tokens_read in _chosen(found, tokens):
            tokens_chosen = token_at[tokens_read]
            chosen.append(tokens_chosen[tokens_chosen >= 0])
        sides.append((found, place))
    common = _common(chosen)[:rows]
    a, b = ((found, place[common]) for found, place in sides)
    return Paired(_take(*a), _take(*b), a[0].documents[a[1]], tokens)


def with_prompt(windows: Windows, prompt: list[int]) -> Windows:
    """The windows with the tokens of a prompt after their first token, or before it where none is special."""
    at = windows.prefix
    ids = [window[:at] + prompt + window[at:] for window in windows.ids]
    documents = [owners[:at] + owners[:1] * len(prompt) + owners[at:] for owners in windows.documents]
    return replace(windows, ids=ids, documents=documents)


def _places_of_text(windows: Windows, prompt: int) -> torch.Tensor:
    """`(n,)` flat positions of the windows' tokens, ascending, where `prompt` tokens stand before each window."""
    places, start = [], 0
    for window in windows.ids:
        inside = torch.arange(len(window))
        places.append(start + inside + prompt * (inside >= windows.prefix))
        start += len(window) + prompt
    return torch.cat(places)


def _ids_of(prompt: str, tokenizer) -> list[int]:
    return tokenizer(prompt, add_special_tokens=False, verbose=False)["input_ids"] if prompt else []


# --- pieces of text ---------------------------------------------------------------------------------------------------


def _of_pieces(
    first: Loaded, second: Loaded, corpus: Corpus, rows: int, length: int, batch_size: int, seed: int
) -> Paired:
    pieces, owners = cut_into_pieces(list(corpus.texts(first.tokenizer)), rows, seed)
    cut = [_windows_of(one, pieces, owners, length) for one in (first, second)]
    found = [
        pooled_representations(text_reader(one.model, windows), windows, "mean", batch_size=batch_size, **STREAM)
        for one, windows in zip((first, second), cut, strict=True)
    ]
    return Paired(found[0].states, found[1].states, torch.tensor(owners), "pieces")


def cut_into_pieces(documents: list[str], count: int, seed: int) -> tuple[list[str], list[int]]:
    """At most `count` pieces of 60 words drawn from the documents, in text order, and the document of each."""
    pieces = [
        (" ".join(words[start : start + PIECE_WORDS]), number)
        for number, words in enumerate(map(str.split, documents))
        for start in range(0, len(words), PIECE_WORDS)
    ]
    order = torch.randperm(len(pieces), generator=torch.Generator().manual_seed(seed))[:count]
    drawn = [pieces[i] for i in sorted(order.tolist())]
    if len(drawn) < FEWEST_ROWS:
        raise BadInput("texts", came=f"{len(drawn)} pieces of {PIECE_WORDS} words", wanted=f"at least {FEWEST_ROWS}")
    return [text for text, _ in drawn], [number for _, number in drawn]


def _windows_of(one: Loaded, pieces: list[str], owners: list[int], length: int) -> Windows:
    ids = one.tokenizer(pieces, truncation=True, max_length=length, verbose=False)["input_ids"]
    return Windows(ids, [[owner] * len(tokens) for owner, tokens in zip(owners, ids, strict=True)])
