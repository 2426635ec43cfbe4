"""Where texts come from and how they are cleaned: files, data sets, the packaged sample; a document is one string."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..errors import BadInput, MissingExtra, UnknownName

SAMPLE = Path(__file__).parents[1] / "data" / "wikipedia-sample.txt"


@dataclass(frozen=True)
class Corpus:
    """Documents in order, and where they came from.

    Attributes:
        documents: one string each, none of them blank.
        source: provenance for the report: name, sha256 or data set fingerprint, cleaning.
    """

    documents: list[str]
    source: dict = field(default_factory=dict)


def corpus_of(texts: Iterable[str] | Corpus | str | Path, clean: str = "none") -> Corpus:
    """Documents from whatever `profile` was given.

    Args:
        texts: strings, one document each; or the path of a text file; or a `Corpus`, which is handed through.
        clean: `"none"`, `"wikitext"` or `"wiki"`; see `read_text`.

    Raises:
        BadInput: nothing but blank text, or entries that are no strings.
    """
    if isinstance(texts, Corpus):
        return texts
    if isinstance(texts, Path) or (isinstance(texts, str) and "\n" not in texts and Path(texts).suffix):
        return read_text(texts, clean)
    if isinstance(texts, str):
        texts = [texts]
    documents = list(texts)
    for position, document in enumerate(documents):
        if not isinstance(document, str):
            raise BadInput("texts", came=f"{type(document).__name__} at position {position}", wanted="strings")
    digest = hashlib.sha256("\0".join(documents).encode()).hexdigest()
    cleaned = [c for document in documents for c in _cleaner(clean)(document)]
    return _checked(cleaned, {"name": "texts in memory", "sha256": digest, "clean": clean}, "texts")


def read_text(path: str | Path, clean: str = "none") -> Corpus:
    """Documents of a UTF-8 text file.

    A line `= Title =`, as in WikiText, starts a document; without such lines, blank lines separate documents.

    Args:
        path: the file.
        clean: `"none"` takes the text as it is. `"wikitext"` is for WikiText's word-level files: drops headings, undoes
            ` @-@ ` and spaced punctuation, writes `unknown` for `<unk>`. `"wiki"` is for a raw MediaWiki dump such as
            enwik8: takes the article texts out of the XML and leaves out code, media, tables, references, HTML and
            wiki markup (needs the extra `wiki`).

    Raises:
        BadInput: no such file, not UTF-8, or nothing left after cleaning.
        UnknownName: an unknown `clean`.
    """
    path = Path(path)
    cleaner = _cleaner(clean)
    if not path.is_file():
        raise BadInput("text", came=f"{str(path)!r}, which is no file", wanted="the path of a UTF-8 text file")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("text", came=f"{str(path)!r}, not UTF-8 at byte {error.start}", wanted="UTF-8 text") from None
    source = {"name": path.name, "sha256": hashlib.sha256(data).hexdigest(), "clean": clean}
    return _checked(list(cleaner(text)), source, "text")


def read_dataset(name: str, column: str | None = None, clean: str = "none", limit: int = 20_000) -> Corpus:
    """Documents of a `datasets` data set, one a row.

    Args:
        name: `"NAME[:config][:split]"`, from the Hub or a local folder; the split defaults to `train`.
        column: the text column; default: the only string column.
        clean: as in `read_text`, applied to each row.
        limit: at most so many rows are read, from the start.

    Raises:
        BadInput: the data set cannot be loaded, or the column is not there or not text.
    """
    import datasets

    name, _, rest = name.partition(":")
    parts = rest.split(":") if rest else []
    config, split = (parts[0], parts[1]) if len(parts) == 2 else (None, parts[0] if parts else "train")
    try:
        data = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # whatever the Hub, the network or a builder raises
        cure = "Without a network, pass a local folder or use --text FILE."
        raise BadInput(
            "dataset", came=f"{name!r} ({type(error).__name__}: {error})", wanted="a data set", cure=cure
        ) from error
    column = column or _only_text_column(data)
    if column not in data.column_names:
        raise UnknownName("column", column, data.column_names)
    cleaner = _cleaner(clean)
    documents = [c for row in islice(data[column], limit) for c in cleaner(str(row))]
    source = {
        "name": name,
        "config": config,
        "split": split,
        "column": column,
        "fingerprint": data._fingerprint,
        "clean": clean,
    }
    return _checked(documents, source, "dataset")


def packaged_sample() -> Corpus:
    """Excerpts of English Wikipedia that the package carries (CC BY-SA 3.0, see the file beside it)."""
    return read_text(SAMPLE)


def _only_text_column(data) -> str:
    columns = [
        name for name, feature in data.features.items() if getattr(feature, "dtype", None) in ("string", "large_string")
    ]
    if len(columns) == 1:
        return columns[0]
    if "text" in columns:
        return "text"
    raise BadInput(
        "column", came="none", wanted=f"the text column, one of {data.column_names}", cure="Add --column NAME."
    )


def _checked(documents: list[str], source: dict, argument: str) -> Corpus:
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise BadInput(argument, came="no text but blank space", wanted="at least one document with words in it")
    return Corpus(documents, source)


def _cleaner(clean: str) -> Callable[[str], Iterator[str]]:
    cleaners = {"none": split_documents, "wikitext": clean_wikitext, "wiki": clean_wiki}
    if clean not in cleaners:
        raise UnknownName("clean", clean, cleaners)
    return cleaners[clean]


# --- cleaning -------------------------------------------------------------------------------------------------------

TITLE = re.compile(r"^ ?= [^=\n]+ = ?$", re.MULTILINE)
HEADING = re.compile(r"^ ?(=+ ){1,6}[^\n]*( =+) ?$\n?", re.MULTILINE)


def split_documents(text: str) -> Iterator[str]:
    """Documents of a text: from title to title where there are titles, else from blank line to blank line."""
    if not TITLE.search(text):
        yield from (part.strip() for part in re.split(r"\n\s*\n", text) if part.strip())
        return
    starts = [match.start() for match in TITLE.finditer(text)]
    for start, end in zip([0, *starts], [*starts, len(text)]):
        if text[start:end].strip():
            yield text[start:end].strip("\n")


SPACED = [
    (re.compile(r" @([-,.])@ "), r"\1"),
    (re.compile(r" ([,.;:!?%)\]}])"), r"\1"),
    (re.compile(r"([(\[{$£€#]) "), r"\1"),
    (re.compile(r" ('(?:s|t|re|ve|ll|d|m)\b|n't\b)"), r"\1"),
    (re.compile(r"(\w) ' s\b"), r"\1's"),
    (re.compile(r"(\w) '(?= )"), r"\1'"),
    (re.compile(r'" ([^"\n]*?) "'), r'"\1"'),
    (re.compile(r"(\d) (–|/) (\d)"), r"\1\2\3"),
    (re.compile(r"[ \t]+"), " "),
]


def clean_wikitext(text: str) -> Iterator[str]:
    """WikiText's word-level tokens as ordinary prose: no headings, usual spacing, `unknown` for `<unk>`."""
    for document in split_documents(text):
        prose = HEADING.sub("", document).replace("<unk>", "unknown")
        for pattern, replacement in SPACED:
            prose = pattern.sub(replacement, prose)
        lines = (line.strip() for line in prose.split("\n"))
        yield "\n".join(line for line in lines if line)


PAGE_TEXT = re.compile(r"<text[^>]*>(.*?)(?:</text>|\Z)", re.DOTALL)
NOT_PROSE = re.compile(
    r"<!--.*?-->|<(code|source|syntaxhighlight|pre|math|gallery|timeline|ref|table|score)\b[^>]*?(?:/>|>.*?</\1\s*>)",
    re.DOTALL | re.IGNORECASE,
)
MEDIA = re.compile(
    r"\[\[\s*(?:file|image|media|category|[a-z\-]{2,12})\s*:(?:[^\[\]]|\[\[[^\[\]]*\]\]|\[[^\[\]]*\])*\]\]",
    re.IGNORECASE,
)
TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\|\}", re.DOTALL)


def clean_wiki(dump: str) -> Iterator[str]:
    """Article texts of a MediaWiki XML dump as prose; redirects are left out. A dump may end in mid-article."""
    pages = PAGE_TEXT.findall(dump) if "<text" in dump else [html.escape(dump)]
    for page in pages:
        wikitext = html.unescape(page)
        if not wikitext.lstrip()[:9].upper().startswith("#REDIRECT"):
            yield _prose_of(wikitext)


def _prose_of(wikitext: str) -> str:
    try:
        import mwparserfromhell
    except ImportError:
        raise MissingExtra("mwparserfromhell", "wiki", "clean='wiki'") from None
    for pattern in (NOT_PROSE, TABLE, MEDIA):
        wikitext = pattern.sub("", wikitext)
    prose = mwparserfromhell.parse(wikitext).strip_code(normalize=True, collapse=True)
    prose = re.sub(r"<[^<>\n]+>|__[A-Z]+__", "", html.unescape(prose))
    return re.sub(r"\n\s*\n+", "\n", re.sub(r"[ \t]+", " ", prose)).strip()
