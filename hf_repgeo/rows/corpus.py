"""A corpus: documents in order, and where they came from; a document is a text or a conversation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = Sequence[Mapping[str, Any]]  # messages with `role` and `content`


@dataclass(frozen=True)
class Corpus:
    """Documents in order, and where they came from.

    Attributes:
        documents: one string each, or one conversation: a list of messages `{"role": ..., "content": ...}`.
        source: provenance for the report: name, sha256 of the file, data set and column, cleaning.
        separator: text between two documents that share a window (`pack="concatenate"`): a line end for files, empty
            for documents given one by one.

    Example:
        >>> from hf_repgeo import Corpus
        >>> Corpus(["one text", "another"]).documents
        ['one text', 'another']
    """

    documents: list[str | Chat]
    source: dict = field(default_factory=dict)
    separator: str = ""

    def provenance(self) -> dict:
        """`source`, the number of documents, and a fingerprint of their content, which decides on resuming."""
        return {**self.source, "n_documents": len(self.documents), "fingerprint": self.fingerprint()}

    def fingerprint(self) -> str:
        """SHA-256 of the documents and what separates them."""
        digest = hashlib.sha256(self.separator.encode())
        for document in self.documents:
            said = document if isinstance(document, str) else json.dumps(document, sort_keys=True, default=str)
            encoded = said.encode()
            digest.update(b"%d:" % len(encoded) + encoded)
        return digest.hexdigest()

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
        """The documents as strings; conversations through the tokenizer's chat template.

        A tokenizer without a chat template, such as BERT's, gets the contents of the messages, one per line. Special
        tokens that the tokenizer itself puts before a text are removed from the template's output: every window gets
        them.

        Raises:
            BadInput: the template refuses a conversation.
        """
        return as_texts(self.documents, tokenizer)


def as_texts(documents: Iterable[str | Chat], tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Documents as strings; see `Corpus.texts`."""
    for position, document in enumerate(documents):
        yield document if isinstance(document, str) else _rendered(document, tokenizer, position)


def is_chat(item: object) -> bool:
    """Whether an item is a conversation: a list of messages with `role` and `content`."""
    return (
        isinstance(item, (list, tuple))
        and len(item) > 0
        and all(isinstance(message, Mapping) and {"role", "content"} <= message.keys() for message in item)
    )


def says_something(document: str | Chat) -> bool:
    """Whether a document holds more than blank space."""
    return bool(_said(document).strip())


def checked(documents: list[str | Chat], source: dict, argument: str, separator: str = "") -> Corpus:
    """The corpus of the documents that are not blank.

    Raises:
        BadInput: nothing is left, or a text holds half a surrogate pair, which no encoding can write.
    """
    documents = [document for document in documents if says_something(document)]
    if not documents:
        raise BadInput(argument, came="no text but blank space", wanted="at least one document with words in it")
    for position, document in enumerate(documents):
        try:
            _said(document).encode()
        except UnicodeEncodeError as error:
            came = f"half a surrogate pair at character {error.start} of document {position}"
            raise BadInput(argument, came=came, wanted="text that UTF-8 can write") from None
    return Corpus(documents, source, separator)


def _said(document: str | Chat) -> str:
    return document if isinstance(document, str) else "\n".join(filter(None, map(_content, document)))


def _content(message: Mapping[str, Any]) -> str:
    """The text of a message, whose content is a string or a list of parts."""
    content = message["content"]
    if isinstance(content, (list, tuple)):
        parts = (part.get("text") if isinstance(part, Mapping) else part for part in content)
        return "".join(str(part) for part in parts if part)
    return str(content or "")


def _rendered(chat: Chat, tokenizer: PreTrainedTokenizerBase, position: int) -> str:
    if not getattr(tokenizer, "chat_template", None):
        return _said(chat)
    try:
        text = str(tokenizer.apply_chat_template([dict(message) for message in chat], tokenize=False))
    except Exception as error:  # a template may raise anything
        wanted = "messages that the tokenizer's chat template takes"
        raise BadInput("texts", came=f"conversation {position} ({error})", wanted=wanted) from error
    start = getattr(tokenizer, "bos_token", None) or ""
    framed = start and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return text.removeprefix(start) if framed else text
