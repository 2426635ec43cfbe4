"""The ladder of sentence complexity: the sentences of each rung, labels that fit the words, sources of the text."""

import re
from collections import Counter

import pytest

from hf_repgeo.blm import PATTERNS, chunk_labels, chunk_sentences, complexity_ladder, load_lexicon, natural_sentences
from hf_repgeo.blm.ladder import NATURAL, SIMPLE_RUNGS
from hf_repgeo.blm.lexicon import sentence_case
from hf_repgeo.errors import UnknownName
from hf_repgeo.sparse_vae.scoring import pattern_properties

SIZES = {
    "no phrase": 64,
    "one phrase": 128,
    "two phrases": 256,
    "three phrases": 512,
    "coordination": 256,
    "completive": 448,
    "relative": 448,
}
BUILT = [(language, rung) for language in ("en", "fr", "it") for rung in SIZES]
LADDERS = {language: complexity_ladder(language) for language in ("en", "fr", "it")}
LEXICONS = {language: {row.id: row for row in load_lexicon(language)} for language in LADDERS}


@pytest.mark.parametrize("language", LADDERS)
def test_rungs_have_their_sizes_and_no_sentence_twice(language):
    ladder = LADDERS[language]
    assert {name: len(rung) for name, rung in ladder.items() if name != "natural"} == SIZES
    texts = [sentence.text for rung in ladder.values() for sentence in rung]
    assert len(set(texts)) == len(texts)
    assert ("natural" in ladder) == (language == "en")


def test_the_simple_rungs_are_the_14_patterns():
    simple = [sentence for name in SIMPLE_RUNGS for sentence in LADDERS["en"][name]]
    assert sorted(simple, key=repr) == sorted(chunk_sentences("en"), key=repr)
    assert {sentence.pattern for sentence in simple} == set(PATTERNS)


@pytest.mark.parametrize(("language", "rung"), BUILT)
def test_every_sentence_is_made_of_its_row_and_its_labels(language, rung):
    for sentence in LADDERS[language][rung]:
        forms = LEXICONS[language][sentence.row].forms
        assert sentence.chunks == tuple(forms[name] for name in sentence.pattern.split())
        assert sentence.text == sentence_case(" ".join(sentence.chunks))
        labels = chunk_labels(sentence.pattern)
        assert (
            forms[f"np-{labels['subject']}"] in sentence.chunks and forms[f"vp-{labels['subject']}"] in sentence.chunks
        )
        attractors = {name: number for name, number in labels.items() if name not in ("subject", "length")}
        assert all(forms[f"{name}-{number}"] in sentence.chunks for name, number in attractors.items())


@pytest.mark.parametrize("rung", SIZES)
def test_numbers_are_balanced_and_independent(rung):
    labels = [chunk_labels(sentence.pattern) for sentence in LADDERS["en"][rung]]
    full = [label for label in labels if label["length"] == max(one["length"] for one in labels)]
    slots = [name for name in full[0] if name != "length"]
    counts = Counter(tuple(label[slot] for slot in slots) for label in full)
    assert len(counts) == 2 ** len(slots) and len(set(counts.values())) == 1


def test_the_sentences_of_a_rung_have_the_structure_that_it_names():
    ladder = LADDERS["en"]
    assert all(" conj2-" in s.pattern and "pp2" not in s.pattern for s in ladder["coordination"])
    assert all(s.pattern.startswith("prefix np-") and " that " in s.text for s in ladder["completive"])
    assert all(re.search(r" rel vp-[sp]$", s.pattern) for s in ladder["relative"])
    assert {chunk_labels(s.pattern)["length"] for s in ladder["three phrases"]} == {"3"}
    text = "The printers with the cable from the shops that Paul repairs cost too much."
    assert any(sentence.text == text for sentence in ladder["relative"])


def test_labels_of_a_pattern():
    assert chunk_labels("np-p vp-p") == {"subject": "p", "length": "0"}
    assert chunk_labels("np-p pp1-s conj2-p vp-p") == {"subject": "p", "length": "1", "pp1": "s", "conj2": "p"}
    assert chunk_labels("prefix np-s pp1-p pp2-s vp-s") == {"subject": "s", "length": "2", "pp1": "p", "pp2": "s"}
    assert all(chunk_labels(pattern) == pattern_properties(pattern) for pattern in PATTERNS)


def test_rows_of_your_own_make_a_ladder_without_natural_sentences():
    ladder = complexity_ladder(load_lexicon("en")[:4])
    assert {name: len(rung) for name, rung in ladder.items()} == {name: size // 8 for name, size in SIZES.items()}
    with pytest.raises(UnknownName, match="unknown lexicon 'de'"):
        complexity_ladder("de")


# ---- natural sentences

PREPOSITIONS = set(
    "about across against along among around at between by for from in near of on regarding to with within into".split()
)
SINGULAR = "is has does appears serves differs provides remains refers shows consists depends leads".split()
PLURAL = "are have do consist contain require differ provide allow depend become vary represent tend grow move".split()
PLURAL += "include show range".split()


def test_natural_sentences_have_rows_of_their_own():
    rows = [sentence.row for sentence in LADDERS["en"]["natural"]]
    assert len(set(rows)) == len(rows) and min(rows) > 32
    assert [sentence.row for sentence in natural_sentences()][:2] == [1, 2]


def test_natural_sentences_are_balanced_over_number():
    labels = [chunk_labels(sentence.pattern) for sentence in natural_sentences()]
    assert len(labels) == 202
    assert 0.45 < sum(label["subject"] == "s" for label in labels) / len(labels) < 0.55
    attracted = [label["subject"] != label["pp1"] for label in labels if "pp1" in label]
    assert len(attracted) > 120 and 0.45 < sum(attracted) / len(attracted) < 0.55
    assert {label["length"] for label in labels} == {"0", "1", "2", "3"}


def test_natural_chunks_make_the_text_and_phrases_start_with_a_preposition():
    for sentence in natural_sentences():
        names = sentence.pattern.split()
        assert len(names) == len(sentence.chunks) and sentence.text == f"{' '.join(sentence.chunks)}."
        assert (
            names[0][3:] == names[-1][3:]
            and sentence.text[0].isupper()
            and not re.search(r" [,.;]|  |@|<", sentence.text)
        )
        for name, chunk in zip(names[1:-1], sentence.chunks[1:-1], strict=True):
            assert name[:2] == "pp" and chunk.split()[0] in PREPOSITIONS, sentence.text


def test_natural_verbs_agree_with_their_labels():
    """The verb is the first word of its chunk, or the second behind an adverb."""
    for sentence in natural_sentences():
        verbs = [word for word in re.findall(r"\w+", sentence.chunks[-1])[:2] if word in SINGULAR + PLURAL]
        assert verbs, sentence.text
        assert (verbs[0] in SINGULAR) == (chunk_labels(sentence.pattern)["subject"] == "s"), sentence.text


def test_the_licence_lies_beside_the_sentences_and_every_one_names_its_article():
    licence = NATURAL.with_name("natural-sentences.LICENSE.md").read_text(encoding="utf-8")
    records = [line.split(";") for line in NATURAL.read_text(encoding="utf-8").splitlines()[1:]]
    articles = {record[-1] for record in records}
    assert "CC-BY-SA-3.0" in licence and f"{len(records)} sentences of {len(articles)} articles" in licence
    assert all(articles)
