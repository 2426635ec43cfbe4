"""Texts: documents, cleaning, and what is refused."""

import hashlib
import json
from pathlib import Path

import pytest

from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.rows.cleaning import clean_wiki
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


def test_list_items_are_documents_as_they_are():
    code = "def f():\n\n    return 1\n\n"
    corpus = corpus_of([code, "= Title =\n\nb", "  c"])
    assert corpus.documents == [code, "= Title =\n\nb", "  c"] and corpus.separator == ""
    assert corpus_of(corpus) is corpus and isinstance(corpus, Corpus)
    assert corpus_of(text for text in ["a", "b"]).documents == ["a", "b"]


def test_the_fingerprint_is_of_the_documents_and_not_of_their_name():
    assert corpus_of(["a", "b"]).fingerprint() == Corpus(["a", "b"], {"name": "x"}).fingerprint()
    others = [["a", "c"], ["ab"], ["ab", ""], ["b", "a"], [[{"role": "user", "content": "a"}], "b"]]
    prints = {Corpus(documents).fingerprint() for documents in [["a", "b"], *others]}
    prints.add(Corpus(["a", "b"], separator="\n").fingerprint())
    assert len(prints) == 2 + len(others)


@pytest.mark.parametrize("texts", [[], ["", "  \n"], [[{"role": "user", "content": " "}]]])
def test_empty_text_is_refused(texts):
    with pytest.raises(BadInput, match="`texts`: got no text but blank space"):
        corpus_of(texts)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (
            "a text that someone forgot to put into a list",
            "got the string 'a text.*, which is not a file.*texts=\\[text\\]",
        ),
        ("corpus", "got the string 'corpus', which is not a file"),
        ("x" * 10_000, "got the string 'xxx.*\\.\\.\\.', which is not a file"),
        ("nul\0byte", "which is not a file"),
        ("", "got the string '', which is not a file"),
        (["a", 3], "got int at position 1; wanted strings"),
        (["a", None], "got NoneType at position 1"),
        (["a", Path("b.txt")], "got PosixPath at position 1; .*hf_repgeo.read_text"),
        ([__file__, __file__], "got a list of file names"),
        ({"train": ["a"], "test": ["b"]}, "got a dict of train, test; .*Pass one of them"),
        (b"bytes", "got a bytes"),
        (7, "got a int"),
        ([{"role": "user", "content": "hi"}], "got the messages of one conversation; .*texts=\\[conversation\\]"),
        (["\ud800"], "got half a surrogate pair at character 0 of document 0"),
        ([{"a": "x", "b": "y"}], r"`text_column`: got none; wanted the text column, one of \['a', 'b'\]"),
    ],
)
def test_what_is_no_text_is_refused(texts, words):
    with pytest.raises(BadInput, match=words):
        corpus_of(texts)


def test_a_data_frame_is_refused_and_its_column_is_not():
    import pandas

    frame = pandas.DataFrame({"body": ["a", "b"]})
    with pytest.raises(BadInput, match="got a DataFrame of body; .*Pass one of them"):
        corpus_of(frame)
    assert corpus_of(frame["body"]).documents == ["a", "b"]


# --- files ----------------------------------------------------------------------------------------------------------


def test_other_bad_files_are_refused(tmp_path):
    with pytest.raises(BadInput, match="`text`: got 'missing.txt', which is not a file"):
        read_text("missing.txt")
    with pytest.raises(BadInput, match="which is a folder; .*read_dataset"):
        corpus_of(str(tmp_path))
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(BadInput, match="not UTF-8 at byte 3; wanted text in UTF-8.*encoding='latin-1'"):
        read_text(tmp_path / "latin.txt")
    assert read_text(tmp_path / "latin.txt", encoding="latin-1").documents == ["café"]
    with pytest.raises(BadInput, match="`encoding`: got 'latin-99'"):
        read_text(tmp_path / "latin.txt", encoding="latin-99")
    with pytest.raises(UnknownName, match="unknown clean 'wikitxt'. Did you mean 'wikitext'"):
        corpus_of(["a"], clean="wikitxt")
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(BadInput, match="table.csv', a table; .*load_dataset"):
        read_text(tmp_path / "table.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding_and_is_no_text(tmp_path, encoding):
    (tmp_path / "text").write_bytes("één\r\nline\r\n\r\ntwo".encode(encoding))
    assert corpus_of(tmp_path / "text").documents == ["één\nline", "two"]


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}]


def test_json_lines_hold_strings_objects_or_conversations(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('"one\\n\\nstill one"\n\n"two "\n')
    assert corpus_of(path).documents == ["one\n\nstill one", "two "]
    path.write_text("".join(json.dumps({"id": str(i), "body": body, "n": i}) + "\n" for i, body in enumerate("abc")))
    assert corpus_of(path, text_column="body").documents == ["a", "b", "c"]
    with pytest.raises(BadInput, match=r"wanted the text column, one of \['id', 'body', 'n'\]. Name it with"):
        corpus_of(path)
    with pytest.raises(UnknownName, match="unknown column 'bodi'. Did you mean 'body'"):
        corpus_of(path, text_column="bodi")
    with pytest.raises(BadInput, match="got int at position 0 of column 'n'"):
        corpus_of(path, text_column="n")
    path.write_text(json.dumps({"id": "x", "messages": CHAT}) + "\n")
    assert corpus_of(path, text_column="messages").documents == [CHAT]
    (tmp_path / "texts.json").write_text(json.dumps([{"text": "a"}, {"text": None}, {"text": "b"}], indent=1))
    assert corpus_of(str(tmp_path / "texts.json")).documents == ["a", "b"]


@pytest.mark.parametrize("text", ['{"text": "a"}\nno json', "[" * 100_000, '["a"', "{"])
def test_broken_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(BadInput, match="is not JSON"):
        read_text(tmp_path / "a.json")


def test_parquet_is_a_column_of_texts(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    path = tmp_path / "texts.parquet"
    pyarrow.parquet.write_table(pa.table({"text": ["a", None, "b\n\nc"], "label": [0, 1, 2]}), path)
    assert corpus_of(path).documents == ["a", "b\n\nc"]
    with pytest.raises(UnknownName, match="unknown column 'txt'"):
        corpus_of(path, text_column="txt")
    path.write_bytes(path.read_bytes()[:-100] + b"x" * 100)
    with pytest.raises(BadInput, match="wanted a Parquet file"):
        corpus_of(path)


# --- data sets ------------------------------------------------------------------------------------------------------


def test_a_local_data_set_is_streamed(tmp_path, monkeypatch):
    import datasets

    folder = tmp_path / "data"
    folder.mkdir()
    datasets.Dataset.from_dict({"text": ["one", "two"], "label": [0, 1]}).to_parquet(str(folder / "train.parquet"))
    whole, asked = datasets.load_dataset, []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append(k) or whole(*a, **k))
    corpus = read_dataset(str(folder))
    assert corpus.documents == ["one", "two"] and corpus.source["column"] == "text" and asked[0]["streaming"]
    assert read_dataset(str(folder), limit=1).documents == ["one"]
    with pytest.raises(UnknownName, match="unknown column 'txt'"):
        read_dataset(str(folder), column="txt")
    with pytest.raises(BadInput, match="`dataset`: got .*wanted a data set. Without a network"):
        read_dataset(str(tmp_path / "nothing"))
    whole(str(folder), split="train").save_to_disk(tmp_path / "saved")
    assert read_dataset(str(tmp_path / "saved")).documents == ["one", "two"]


def test_data_sets_at_hand_and_streams_are_texts():
    import datasets

    data = datasets.Dataset.from_dict({"text": ["a\n\nb", "c"], "chat": [CHAT[:1], CHAT[:1]], "label": [0, 1]})
    expected = corpus_of(["a\n\nb", "c"])
    for table in (data, data.to_iterable_dataset(), data.with_format("torch")):
        corpus = corpus_of(table)
        assert corpus.documents == expected.documents and corpus.fingerprint() == expected.fingerprint()
    assert corpus_of(data["text"]).documents == expected.documents
    assert corpus_of(data, text_column="chat").documents == corpus_of(data["chat"]).documents == [CHAT[:1]] * 2
    with pytest.raises(BadInput, match="got a DatasetDict of train; .*Pass one of them"):
        corpus_of(datasets.DatasetDict({"train": data}))


def test_an_endless_stream_is_read_up_to_the_limit():
    import datasets

    def endless():
        number = 0
        while number <= 25_000:  # a reader without a limit fails instead of hanging
            yield {"text": f"text {number}"}
            number += 1
        raise AssertionError("read beyond the limit")

    assert len(corpus_of(datasets.IterableDataset.from_generator(endless)).documents) == 20_000


# --- conversations --------------------------------------------------------------------------------------------------


def test_conversations_go_through_the_chat_template_and_its_opening_token_is_not_doubled(tokenizer):
    import copy

    corpus = corpus_of([CHAT, "plain"])
    assert list(corpus.texts(tokenizer)) == ["hi\nyes", "plain"]
    chatting = copy.deepcopy(tokenizer)
    chatting.bos_token = "[CLS]"
    chatting.chat_template = (
        "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{% if m.content is string %}{{ m.content }}"
        "{% else %}{{ m.content[0].text }}{% endif %}{% endfor %}"
    )
    assert list(corpus.texts(chatting)) == ["<user>hi<assistant>yes", "plain"]
    chatting.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(BadInput, match="conversation 0 .*roles must alternate"):
        list(corpus.texts(chatting))


# --- cleaning -------------------------------------------------------------------------------------------------------


def test_nested_tables_templates_and_tags_leave_a_wiki_text_with_their_contents():
    pytest.importorskip("mwparserfromhell")
    text = "A{| x\n|{| y |}\n| {{t|}} |}B {{a|{{b}}}}C <ref name=x/>D<ref>no</ref>E<REF>f</REF > <!-- g -->H "
    text += "[http://i.j k]"
    assert list(clean_wiki(text)) == ["AB C DE H k"]


@pytest.mark.parametrize("piece", ["<ref", "<ref>", "<!--", "{|", "{{a|", "[http://", "<b>", "<text", "[[file:[a]"])
def test_unclosed_marks_are_cleaned_in_one_pass(piece):
    """A search that starts again at each of these 16,000 marks would take minutes."""
    pytest.importorskip("mwparserfromhell")
    assert len(list(clean_wiki(f"before {piece * 16_000} after"))) <= 1
