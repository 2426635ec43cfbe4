"""Text -> documents, cleaned: WikiText's word-level files, MediaWiki dumps. Every scan is linear in the text."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator

from ..errors import MissingExtra, UnknownName

TITLE = re.compile(r"^ ?= [^=\n]+ = ?$", re.MULTILINE)
HEADING = re.compile(r"^ ?(=+ ){1,6}[^\n]*( =+) ?$\n?", re.MULTILINE)


def cleaner_of(clean: str, whole: Callable[[str], Iterator[str]]) -> Callable[[str], Iterator[str]]:
    """The function that turns one text into documents.

    Args:
        clean: `"none"`, `"wikitext"` or `"wiki"`.
        whole: what `"none"` does: `split_documents` for a file, `as_it_is` for a document given as one.

    Raises:
        UnknownName: an unknown `clean`.
    """
    cleaners = {"none": whole, "wikitext": clean_wikitext, "wiki": clean_wiki}
    if clean not in cleaners:
        raise UnknownName("clean", clean, cleaners)
    return cleaners[clean]


def as_it_is(text: str) -> Iterator[str]:
    """The text, untouched: white space and blank lines belong to it."""
    yield text


def split_documents(text: str) -> Iterator[str]:
    """Documents of a text: from title to title where there are titles, else from blank line to blank line."""
    if not TITLE.search(text):
        yield from (part.strip() for part in re.split(r"\n\s*\n", text) if part.strip())
        return
    starts = [match.start() for match in TITLE.finditer(text)]
    for start, end in zip([0, *starts], [*starts, len(text)]):
        if text[start:end].strip():
            yield text[start:end].strip("\n")


# --- WikiText -------------------------------------------------------------------------------------------------------

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


# --- MediaWiki ------------------------------------------------------------------------------------------------------

PAGE_TEXT = re.compile(r"<text\b[^<>]*>(.*?)(?:</text>|\Z)", re.DOTALL)
NOT_PROSE = re.compile(
    r"<!--|<(code|source|syntaxhighlight|pre|math|gallery|timeline|ref|table|score)\b[^<>]*>", re.IGNORECASE
)
TABLE_MARK = re.compile(r"(?P<open>\{\|)|\|\}(?!\})")
TEMPLATE_MARK = re.compile(r"(?P<open>\{\{)|\}\}")
MEDIA = re.compile(
    r"\[\[\s*(?:file|image|media|category|[a-z\-]{2,12})\s*:(?:[^\[\]]|\[\[[^\[\]]*\]\]|\[[^\[\]]*\])*\]\]",
    re.IGNORECASE,
)
WEB_LINK = re.compile(r"\[\w+://[^\s\[\]]*([^\[\]]*)\]|\[(?=\w+://)")
TAG = re.compile(r"<[^<>\n]+>|__[A-Z]+__")


def clean_wiki(dump: str) -> Iterator[str]:
    """Article texts of a MediaWiki XML dump as prose; redirects are left out. A dump may end in mid-article."""
    pages = PAGE_TEXT.findall(dump) if "<text" in dump else [html.escape(dump)]
    for page in pages:
        wikitext = html.unescape(page)
        if not wikitext.lstrip()[:9].upper().startswith("#REDIRECT"):
            yield _prose_of(wikitext)


def _prose_of(wikitext: str) -> str:
    """Prose of wikitext. Tables, templates, tags and links are cut first: unclosed, they take the parser too long."""
    try:
        import mwparserfromhell
    except ImportError:
        raise MissingExtra("mwparserfromhell", "wiki", "clean='wiki'") from None
    wikitext = MEDIA.sub("", _without_blocks(_without_pairs(_without_tags(wikitext), TABLE_MARK), TEMPLATE_MARK))
    wikitext = WEB_LINK.sub(lambda link: (link[1] or "").strip(), TAG.sub("", wikitext))
    prose = mwparserfromhell.parse(wikitext).strip_code(normalize=True, collapse=True)
    prose = TAG.sub("", html.unescape(prose))
    return re.sub(r"\n\s*\n+", "\n", re.sub(r"[ \t]+", " ", prose)).strip()


def _without_tags(text: str) -> str:
    """Without comments and elements that hold no prose; of an unclosed element only the opening tag is removed."""
    parts, at, endless = [], 0, set()
    while opening := NOT_PROSE.search(text, at):
        name = (opening[1] or "--").lower()
        parts.append(text[at : opening.start()])
        at = opening.end()
        if opening[0].endswith("/>"):
            continue
        end = None if name in endless else _end_of(name).search(text, at)
        if end is None:  # there is none later either, so that each name is searched in vain only once
            endless.add(name)
        else:
            at = end.end()
    return "".join(parts) + text[at:]


def _end_of(name: str) -> re.Pattern:
    return re.compile("-->" if name == "--" else rf"</{name}\s*>", re.IGNORECASE)


def _without_pairs(text: str, marks: re.Pattern) -> str:
    """Without everything between an opening mark and its end, the marks included; pairs may be nested."""
    open_at: list[int] = []
    pairs: list[tuple[int, int]] = []
    for mark in marks.finditer(text):
        if mark["open"]:
            open_at.append(mark.start())
        elif open_at:
            start = open_at.pop()
            while pairs and pairs[-1][0] > start:
                pairs.pop()
            pairs.append((start, mark.end()))
    ends = [0, *(end for _, end in pairs)]
    return "".join(text[end:start] for end, start in zip(ends, [*(start for start, _ in pairs), len(text)]))


def _without_blocks(text: str, marks: re.Pattern) -> str:
    """Without pairs of marks and all between them, and without unpaired marks."""
    return marks.sub("", _without_pairs(text, marks))
