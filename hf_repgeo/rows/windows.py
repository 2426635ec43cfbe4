"""Documents -> tokenizer -> windows of tokens, and the draw of those that are run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Integral
from typing import TYPE_CHECKING

import torch

from ..errors import BadInput, UnknownName

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PACKINGS = ("concatenate", "documents")
DEFAULT_WINDOW = 512
SHORTEST = 32  # tokens that a shortened window keeps: enough to be a text, and for models that merge neighbours


@dataclass(frozen=True)
class Windows:
    """Token windows, special tokens in place.

    Attributes:
        ids: token ids of each window.
        documents: for each window, the document of each token.
        suffix: number of special tokens at the end of each window.
        prefix: number of special tokens at its beginning.
    """

    ids: list[list[int]]
    documents: list[list[int]]
    suffix: int = 0
    prefix: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, positions: list[int]) -> Windows:
        ids, documents = [self.ids[i] for i in positions], [self.documents[i] for i in positions]
        return replace(self, ids=ids, documents=documents)

    def with_shorter_last(self, tokens: int) -> Windows:
        """The last window loses up to `tokens` tokens from the end of its text; it keeps at least `SHORTEST`."""
        end = len(self.ids[-1]) - self.suffix
        start = max(end - tokens, min(end, SHORTEST))
        last = [part[-1][:start] + part[-1][end:] for part in (self.ids, self.documents)]
        return replace(self, ids=[*self.ids[:-1], last[0]], documents=[*self.documents[:-1], last[1]])


def window_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Longest window the model takes, special tokens included; `None` when it names no limit.

    Position tables of the RoBERTa family begin after the row of padding: those rows are never a token's.
    """
    config = getattr(model.config, "text_config", model.config)
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if positions is None or positions < 1:
        return None
    positions -= _rows_of_padding(model, positions)
    return tokenizer.model_max_length if positions - 4 <= tokenizer.model_max_length < positions else positions


def _rows_of_padding(model: PreTrainedModel, positions: int) -> int:
    """Number of rows for padding at the start of a table of this many positions."""
    tables = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    found = (table for table in tables if getattr(table, "num_embeddings", None) == positions)
    return next((table.padding_idx + 1 for table in found if table.padding_idx is not None), 0)


def resolve_window(window: int | None, limit: int | None) -> int:
    """The window length to use: the one asked for, else 512 or the model's limit.

    Raises:
        BadInput: longer than the model takes, or too short to hold a token beside the special ones.
    """
    if window is None:
        return min(DEFAULT_WINDOW, limit or DEFAULT_WINDOW)
    whole = isinstance(window, Integral) and not isinstance(window, bool)
    if not whole or window < 4 or (limit and window > limit):
        most = f"4 to {limit} tokens, the model's limit" if limit else "4 tokens or more, a whole number"
        raise BadInput("window", came=repr(window), wanted=most)
    return int(window)


def make_windows(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    window: int,
    pack: str = "concatenate",
    separator: str = "",
) -> Windows:
    """Cuts documents into windows of at most `window` tokens.

    Args:
        tokenizer: adds its special tokens to every window.
        documents: texts.
        window: tokens per window, special ones included.
        pack: `"concatenate"`: documents run on from window to window, so that all windows but the last are full;
            `"documents"`: every document starts a window of its own.
        separator: put after each document where they run on; see `Corpus`.

    Raises:
        BadInput: the texts hold no token.
        UnknownName: an unknown `pack`.
    """
    if pack not in PACKINGS:
        raise UnknownName("pack", pack, PACKINGS)
    prefix, suffix = _frame(tokenizer)
    texts = [text + separator if pack == "concatenate" else text for text in documents]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    runs = [(ids, [document] * len(ids)) for document, ids in enumerate(encoded)]
    if pack == "concatenate":
        runs = [([i for ids, _ in runs for i in ids], [d for _, owners in runs for d in owners])]
    step = window - len(prefix) - len(suffix)
    pieces = [(ids[s : s + step], owners[s : s + step]) for ids, owners in runs for s in range(0, len(ids), step)]
    if not pieces:
        raise BadInput("texts", came="texts that hold no token for this tokenizer", wanted="at least one token")
    return Windows(
        [prefix + ids + suffix for ids, _ in pieces],
        [[owners[0]] * len(prefix) + owners + [owners[-1]] * len(suffix) for _, owners in pieces],
        len(suffix),
        len(prefix),
    )


def window_stream(
    tokenizer: PreTrainedTokenizerBase,
    documents: Iterable[str],
    window: int,
    pack: str = "concatenate",
    separator: str = "",
    count: int = 64,
) -> Iterator[Windows]:
    """The windows of `make_windows`, at most `count` at a time, in memory for about as many.

    Args:
        tokenizer, documents, window, pack, separator: as there.
        count: windows at a time, and documents that are tokenized at a time.

    Raises:
        UnknownName: an unknown `pack`.
    """
    if pack not in PACKINGS:
        raise UnknownName("pack", pack, PACKINGS)
    prefix, suffix = _frame(tokenizer)
    step, together = window - len(prefix) - len(suffix), pack == "concatenate"
    pieces: list[tuple[list[int], list[int]]] = []
    rest: tuple[list[int], list[int]] = ([], [])
    numbered = enumerate(documents)
    while batch := list(islice(numbered, count)):
        texts = [text + separator if together else text for _, text in batch]
        for (document, _), ids in zip(batch, tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]):
            ids, owners = rest[0] + ids, rest[1] + [document] * len(ids)
            whole = len(ids) // step * step if together else len(ids)
            pieces += [(ids[s : s + step], owners[s : s + step]) for s in range(0, whole, step)]
            rest = (ids[whole:], owners[whole:])
        while len(pieces) >= count:
            yield _framed(pieces[:count], prefix, suffix)
            pieces = pieces[count:]
    pieces += [rest] if rest[0] else []
    if pieces:
        yield _framed(pieces, prefix, suffix)


def _framed(pieces: list[tuple[list[int], list[int]]], prefix: list[int], suffix: list[int]) -> Windows:
    """Pieces of text with special tokens around each; these count as tokens of the document beside them."""
    return Windows(
        [prefix + ids + suffix for ids, _ in pieces],
        [[owners[0]] * len(prefix) + owners + [owners[-1]] * len(suffix) for _, owners in pieces],
        len(suffix),
    )


def check_vocabulary(model: PreTrainedModel, windows: Windows) -> None:
    """Checks that the model's embeddings hold every token.

    Raises:
        BadInput: the tokenizer writes a token that the model does not know.
    """
    try:
        size = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:  # raised by models of several towers
        size = getattr(model.config.get_text_config(), "vocab_size", None)
    largest = max(map(max, windows.ids))
    if size is not None and largest >= size:
        came = f"one that writes token {largest}, where the model's embeddings end at {size - 1}"
        wanted = "the model's own tokenizer"
        cure = "Pass it with tokenizer= (--tokenizer), or resize the model: resize_token_embeddings."
        raise BadInput("tokenizer", came=came, wanted=wanted, cure=cure)


def draw_windows(
    windows: Windows,
    seed: int,
    *,
    tokens: int | None = None,
    count: int | None = None,
    usable: Callable[[list[int]], int] = len,
) -> Windows:
    """Draws whole windows at random without replacement, from as many documents as possible; in text order.

    No document gives a second window before each has given one, so that standard errors rest on many documents.

    Args:
        windows: all there are.
        seed: of the draw.
        tokens: stop once the drawn windows hold at least this many usable tokens.
        count: draw this many windows.
        usable: how many tokens of a window count.
    """
    order = _documents_in_turn(windows, torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed)))
    if count is None and tokens is not None:
        held = torch.tensor([usable(windows.ids[i]) for i in order]).cumsum(0)
        count = int(torch.searchsorted(held, tokens)) + 1
    return windows.select(sorted(order[:count]))


def _documents_in_turn(windows: Windows, order: torch.Tensor) -> list[int]:
    """The order with the first window of every document before the second of any; its middle token tells a window's
    document."""
    turns: Counter[int] = Counter()
    ranked = []
    for place, i in enumerate(order.tolist()):
        owner = windows.documents[i][len(windows.documents[i]) // 2]
        ranked.append((turns[owner], place, i))
        turns[owner] += 1
    return [i for _, _, i in sorted(ranked)]


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    return [], []
