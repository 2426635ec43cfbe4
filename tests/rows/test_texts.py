"""Texts: documents, cleaning, and what is refused."""

import hashlib

import pytest

from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.rows.texts import SAMPLE, Corpus, corpus_of, packaged_sample, read_dataset, read_text

WIKITEXT = """ \n = Some Title = \n \n He said " hello , world " at 10 @.@ 5 km ( 6 mi ) ; it 's Smith 's <unk> \
@-@ house .
 \n = = Section = = \n \n They don 't know 3 @,@ 000 – 4 @,@ 000 people : 50 % .
 \n = Other = \n \n Second article .\n"""

DUMP = """<mediawiki><page><title>A</title><text xml:space="preserve">{{Infobox|x=1}}'''Alpha''' is a [[letter|sign]] of
&lt;b&gt;Greek&lt;/b&gt;.&lt;ref&gt;Not this.&lt;/ref&gt; See [[Beta]].
[[File:alpha.png|thumb|An [[image]] caption]]
{| class="wikitable"
| cell
|}
&lt;source lang="c"&gt;int main;&lt;/source&gt; End &amp;amp; done.</text></page>
<page><text xml:space="preserve">#REDIRECT [[Alpha]]</text></page>
<page><text xml:space="preserve">Cut in the mid"""


def test_titles_separate_documents(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("= One =\nfirst\n\nstill first\n= Two =\nsecond\n")
    corpus = read_text(path)
    assert corpus.documents == ["= One =\nfirst\n\nstill first", "= Two =\nsecond"]
    assert corpus.source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_titles_blank_lines_separate_documents(tmp_path):
    (tmp_path / "text.txt").write_text("one\none\n\n  \ntwo\n")
    assert read_text(tmp_path / "text.txt").documents == ["one\none", "two"]


def test_wikitext_becomes_prose(tmp_path):
    (tmp_path / "wiki.txt").write_text(WIKITEXT)
    assert read_text(tmp_path / "wiki.txt", clean="wikitext").documents == [
        "He said \"hello, world\" at 10.5 km (6 mi); it's Smith's unknown-house.\n"
        "They don't know 3,000–4,000 people: 50%.",
        "Second article.",
    ]


def test_a_wiki_dump_becomes_prose(tmp_path):
    pytest.importorskip("mwparserfromhell")
    (tmp_path / "dump.xml").write_text(DUMP)
    first, second = read_text(tmp_path / "dump.xml", clean="wiki").documents
    assert first == "Alpha is a sign of\nGreek. See Beta.\n End & done."
    assert second == "Cut in the mid"


def test_the_packaged_sample_is_real_text_with_its_licence_beside_it():
    corpus = packaged_sample()
    assert len(corpus.documents) == 40 and sum(map(len, corpus.documents)) > 200_000
    licence = SAMPLE.with_name("wikipedia-sample.LICENSE.md").read_text()
    assert "CC-BY-SA-3.0" in licence and "40 articles" in licence


def test_strings_in_memory_are_documents():
    corpus = corpus_of(["a b", "c\nd"])
    assert corpus.documents == ["a b", "c\nd"]
    assert corpus_of(corpus) is corpus
    assert corpus_of("just one text").documents == ["just one text"]
    assert isinstance(corpus, Corpus)


@pytest.mark.parametrize("texts", [[], ["", "  \n"], ""])
def test_empty_text_is_refused(texts):
    with pytest.raises(BadInput, match="`texts`: got no text but blank space"):
        corpus_of(texts)


def test_other_bad_text_is_refused(tmp_path):
    with pytest.raises(BadInput, match="`text`: got 'missing.txt', which is no file"):
        read_text("missing.txt")
    with pytest.raises(BadInput, match="int at position 1; wanted strings"):
        corpus_of(["a", 3])
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(BadInput, match="not UTF-8 at byte 3"):
        read_text(tmp_path / "latin.txt")
    with pytest.raises(UnknownName, match="unknown clean 'wikitxt'. Did you mean 'wikitext'"):
        corpus_of(["a"], clean="wikitxt")


def test_a_local_data_set_is_read(tmp_path):
    import datasets

    folder = tmp_path / "data"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": ["one", "two"], "label": [0, 1]}).to_parquet(str(folder / "train.parquet"))
    corpus = read_dataset(str(folder))
    assert corpus.documents == ["one", "two"] and corpus.source["column"] == "text"
    with pytest.raises(UnknownName, match="unknown column 'txt'"):
        read_dataset(str(folder), column="txt")
    with pytest.raises(BadInput, match="`dataset`: got .*wanted a data set. Without a network"):
        read_dataset(str(tmp_path / "nothing"))
