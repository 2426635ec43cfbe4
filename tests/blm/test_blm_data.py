"""Lexicons, chunk sentences, matrices: counts, agreement, distinctness, and what leaks from training to test."""

import argparse
import itertools
import json
import re
import subprocess
import sys

import datasets
import pytest

from hf_repgeo.blm import (
    PATTERNS,
    Matrix,
    agreement_matrices,
    alternation_matrices,
    build_sentence,
    chunk_sentences,
    data_card,
    generate,
    load_alternation_lexicon,
    load_fragments,
    load_genbench,
    load_lexicon,
    load_matrices,
    load_sequences,
    minimal_neighbors,
    pair_instances,
    push_dataset,
    role_sentences,
    save_dataset,
    to_dataset,
)
from hf_repgeo.blm.agreement import VARIANTS, draw_agreement
from hf_repgeo.blm.chunks import paper_sizes
from hf_repgeo.blm.lexicon import COLUMNS, FORMS
from hf_repgeo.blm.matrices import assemble
from hf_repgeo.cli.blm import add
from hf_repgeo.errors import BadInput, UnknownName

LANGUAGES = ["en", "fr", "it"]


# ---- the lexicons


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_lexicon_has_32_full_rows_in_groups_of_four(language):
    rows = load_lexicon(language)
    assert len(rows) == 32 and all(set(row.forms) == set(COLUMNS) for row in rows)
    sizes = [len(list(group)) for _, group in itertools.groupby(rows, key=lambda row: row.group)]
    assert sizes == [4] * 8


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_is_spelled_with_stray_blanks_or_capitals_in_front(language):
    for row in load_lexicon(language):
        for column, form in row.forms.items():
            assert form == form.strip() and "  " not in form and "’" not in form and form[0].islower(), (row.id, column)


def test_english_subjects_and_verbs_differ_by_number_as_they_should():
    for row in load_lexicon("en"):
        singular, plural = row.form("np", "s"), row.form("np", "p")
        assert re.fullmatch(rf"{singular}(s|es)|{singular[:-1]}ies", plural)
        first_s, first_p = row.form("vp", "s").split()[0], row.form("vp", "p").split()[0]
        assert first_s in (f"{first_p}s", f"{first_p}es", f"{first_p[:-1]}ies") or (first_s, first_p) == ("has", "have")
        assert row.form("vp", "s").split()[1:] == row.form("vp", "p").split()[1:]


FRENCH_BREAKS = [
    r"\bde les?\b",
    r"\bà les?\b",
    r"\b(le|la|de|que|ne|se) [aeiouéèêâîôœ]",  # must be elided
    r"\b(le|la|de|que) hôtel",
    r"\b[ldq]u?' ",  # a space after the apostrophe
    r"\bl'[^aeiouéèêâîôœh]",
]


def test_french_articles_are_elided_and_contracted():
    for row in load_lexicon("fr"):
        for column, form in row.forms.items():
            whole = form + " l'" if column == "prefix" else form
            for pattern in FRENCH_BREAKS[:-2] if column == "prefix" else FRENCH_BREAKS:
                assert not re.search(pattern, whole), (row.id, column, form, pattern)


def test_french_numbers_show_in_article_and_verb():
    plural_verbs = r"(se |ne )?(\w+ent|ont|font|vont)\b"
    for row in load_lexicon("fr"):
        assert re.match(r"(le |la |l')", row.form("np", "s")) and row.form("np", "p").startswith("les ")
        for slot in ("pp1", "pp2", "pp3", "conj2"):
            assert re.search(r"\b(les|des) ", row.form(slot, "p")) and not re.search(
                r"\b(les|des) ", row.form(slot, "s")
            )
        assert re.match(plural_verbs, row.form("vp", "p")) and not re.match(
            r"(se |ne )?(ont|font|vont)\b", row.form("vp", "s")
        )


VOWEL, HARD = "[aeiouàèéìòù]", r"(?:z|gn|ps|pn|s[^aeiouàèéìòù\W])"
ITALIAN_BREAKS = [
    r"\b(di|a|in|su) (il|lo|la|i|gli|le|l')\b",  # must be one word
    rf"\b(il|i|del|dei|al|ai|nel|nei|sul|sui) ({VOWEL}|{HARD})",
    rf"\b(lo|gli|dello|degli|allo|agli|nello|negli|sullo|sugli) (?!{VOWEL}|{HARD})\w",
    rf"\b(lo|la|della|alla|nella|sulla|dello|allo|nello|sullo) {VOWEL}",  # must be elided
    r"\b\w*l' ",
]


def test_italian_articles_are_elided_and_contracted():
    for row in load_lexicon("it"):
        for column, form in row.forms.items():
            for pattern in ITALIAN_BREAKS:
                assert not re.search(pattern, form), (row.id, column, form, pattern)


def test_italian_numbers_show_in_article_and_verb():
    plural = r"\b(i|gli|le|dei|degli|delle|nei|negli|nelle|sui|sugli|sulle|ai|agli|alle) "
    for row in load_lexicon("it"):
        for slot in ("np", "pp1", "pp2", "pp3", "conj2"):
            assert re.search(plural, row.form(slot, "p")) and not re.search(plural, row.form(slot, "s")), (row.id, slot)
        assert re.match(r"(si |non )?\w+no\b", row.form("vp", "p")) and not re.match(
            r"(si |non )?\w+no\b", row.form("vp", "s")
        )


@pytest.mark.parametrize("language", ["fr", "it"])
def test_verb_phrases_fit_subjects_of_either_gender(language):
    """Words of a group are exchanged freely, so nothing in a verb phrase may agree in gender with its subject."""
    be = {"fr": r"\b(est|sont|reste|restent|semble|semblent)\b", "it": r"\b(è|sono|resta|restano|sembra|sembrano)\b"}[
        language
    ]
    for row in load_lexicon(language):
        assert not re.search(be, row.form("vp", "s") + " " + row.form("vp", "p"))


def test_a_missing_form_is_named_by_row_and_column(tmp_path):
    rows = (";".join(["row", "group", *COLUMNS]), ";".join(["1", "a", *(f"w{i}" for i in range(len(COLUMNS)))]))
    broken = rows[1].replace("w5", "")
    path = tmp_path / "mine.csv"
    path.write_text("\n".join([rows[0], rows[1].replace("w", "v"), broken]), encoding="utf-8")
    with pytest.raises(BadInput, match=f"no form in row 2, column '{COLUMNS[5]}' of mine.csv"):
        load_lexicon(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, row: (header.replace("pp3-p;", ""), row), "without the column\\(s\\) pp3-p"),
        (
            lambda header, row: (header, row.replace("w1;", "w0;", 1)),
            "same form 'w0' for singular and plural in row 1, slot 'np'",
        ),
    ],
)
def test_a_broken_lexicon_is_refused(change, message, tmp_path):
    header, row = change(";".join(COLUMNS), ";".join(f"w{i}" for i in range(len(COLUMNS))))
    (tmp_path / "mine.csv").write_text(f"{header}\n{row}\n", encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        load_lexicon(tmp_path / "mine.csv")


def test_two_rows_with_one_subject_are_refused(tmp_path):
    row = ";".join(f"w{i}" for i in range(len(COLUMNS)))
    (tmp_path / "mine.csv").write_text(f"{';'.join(COLUMNS)}\n{row}\n{row}\n", encoding="utf-8")
    with pytest.raises(BadInput, match="the subject 'w0' in rows 1 and 2"):
        load_lexicon(tmp_path / "mine.csv")


def test_an_unknown_language_lists_the_known_ones():
    with pytest.raises(UnknownName, match="Known: en, fr, it"):
        load_lexicon("fi")


# ---- chunk sentences and pairs


@pytest.mark.parametrize("language", LANGUAGES)
def test_448_distinct_sentences_of_14_patterns(language):
    sentences = chunk_sentences(language)
    assert len(PATTERNS) == 14 and len(sentences) == 448 == len({sentence.text for sentence in sentences})
    assert all(len(sentence.chunks) == len(sentence.pattern.split()) for sentence in sentences)


def test_subject_and_verb_agree_in_every_pattern():
    for pattern in PATTERNS:
        head, *_, verb = pattern.split()
        assert head[-1] == verb[-1]


def test_a_sentence_has_a_capital_letter_elisions_and_a_full_stop():
    row = load_lexicon("fr")[0]
    sentence = build_sentence(row, "np-s pp1-p pp2-s vp-s")
    assert sentence.text == "L'ordinateur avec les programmes de l'entreprise tombe souvent en panne."


def test_minimal_neighbors_differ_in_one_step_and_the_relation_is_mutual():
    assert minimal_neighbors("np-p pp1-s vp-p") == [
        "np-s pp1-s vp-s",
        "np-p pp1-p vp-p",
        "np-p pp1-s pp2-s vp-p",
        "np-p pp1-s pp2-p vp-p",
    ]
    for pattern in PATTERNS:
        near = minimal_neighbors(pattern)
        assert set(near) <= set(PATTERNS) and pattern not in near and len(near) <= 4
        for other in near:
            assert len(other) < len(pattern) or len(other) > len(pattern) or pattern in minimal_neighbors(other)


def test_the_default_sizes_are_those_of_the_paper():
    assert paper_sizes() == {"train": 184, "validation": 45, "test": 57}
    parts = pair_instances("en")
    assert {name: len(part) for name, part in parts.items()} == {"train": 2576, "validation": 630, "test": 798}
    assert sum(map(len, parts.values())) == 4004


@pytest.mark.parametrize("negatives", ["random", "minimal", "all"])
@pytest.mark.parametrize("split", ["pairs", "seeds", "patterns"])
def test_candidates_are_distinct_and_exactly_one_has_the_pattern(split, negatives):
    for instances in pair_instances("en", split=split, negatives=negatives, seed=1).values():
        for instance in instances:
            texts = [candidate.text for candidate in instance.candidates]
            assert len(set(texts)) == len(texts)
            same = [candidate.pattern == instance.input.pattern for candidate in instance.candidates]
            assert same.index(True) == instance.label and sum(same) == 1
            if negatives == "minimal":
                wrong = {candidate.pattern for candidate in instance.candidates} - {instance.input.pattern}
                assert wrong <= set(minimal_neighbors(instance.input.pattern))


def test_the_answer_stands_anywhere():
    labels = [instance.label for instance in pair_instances("en")["train"]]
    assert all(250 < labels.count(place) < 400 for place in range(8))  # 322 expected, sd 17


def texts_of(instances):
    return {sentence.text for instance in instances for sentence in (instance.input, *instance.candidates)}


def test_the_papers_split_leaks_sentences_and_no_pair():
    parts = pair_instances("en", split="pairs")
    assert {instance.input.text for instance in parts["test"]} <= texts_of(parts["train"])
    pairs = [(i.input.text, i.candidates[i.label].text) for part in parts.values() for i in part]
    assert len(set(pairs)) == len(pairs) == 4004


def test_the_seed_split_shares_no_sentence_and_no_row():
    parts = pair_instances("it", split="seeds")
    assert [len(part) for part in parts.values()] == [2576, 630, 798]
    rows = [{s.row for i in part for s in (i.input, *i.candidates)} for part in parts.values()]
    assert [len(one) for one in rows] == [17, 7, 8]
    for one, other in itertools.combinations(parts.values(), 2):
        assert not texts_of(one) & texts_of(other)
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


def test_the_pattern_split_never_shows_a_later_parts_pattern():
    parts = pair_instances("en", split="patterns")
    shown = {name: {s.pattern for i in part for s in (i.input, *i.candidates)} for name, part in parts.items()}
    asked = {name: {i.input.pattern for i in part} for name, part in parts.items()}
    assert [len(asked[name]) for name in parts] == [9, 2, 3]
    assert not shown["train"] & (asked["validation"] | asked["test"]) and not shown["validation"] & asked["test"]


def test_the_same_seed_gives_the_same_instances_and_another_does_not():
    assert pair_instances("en", n=140, seed=3) == pair_instances("en", n=140, seed=3)
    assert pair_instances("en", n=140, seed=3) != pair_instances("en", n=140, seed=4)


def test_bad_requests_for_pairs_are_named():
    with pytest.raises(UnknownName, match="unknown split 'random'"):
        pair_instances("en", split="random")
    with pytest.raises(UnknownName, match="unknown kind of negatives"):
        pair_instances("en", negatives="hard")
    with pytest.raises(BadInput, match="which make 25 ordered pairs; wanted 286"):
        pair_instances(load_lexicon("en")[:5])


# ---- agreement matrices


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("type", ["I", "II", "III"])
def test_agreement_matrices_are_seven_sentences_and_eight_distinct_candidates(language, type):
    parts = agreement_matrices(language, type, sizes=(120, 60))
    assert {name: len(part) for name, part in parts.items()} == {"train": 120, "test": 60}
    for matrix in parts["train"] + parts["test"]:
        assert len(matrix.context) == 7 and len({part.text for part in matrix.candidates}) == 8
        assert sorted(matrix.errors) == sorted(["Correct", "AEV", "AEN1", "AEN2", "WN1", "WN2", "Coord", "WNA"])
        assert matrix.errors[matrix.label] == "Correct"
    assert {matrix.variant for matrix in parts["train"]} == set(VARIANTS)
    assert not {m.answer.text for m in parts["train"]} & {m.answer.text for m in parts["test"]}


def test_published_sizes_come_out_for_type_one():
    parts = agreement_matrices("en", "I")
    assert (len(parts["train"]), len(parts["test"])) == (2052, 252)


def errors_of(matrix: Matrix):
    return dict(zip(matrix.errors, (part.template for part in matrix.candidates), strict=True))


@pytest.mark.parametrize(
    ("variant", "same", "other"), [("main", "p", "s"), ("completive", "s", "p"), ("relative", "s", "p")]
)
def test_templates_of_the_three_clause_variants(variant, same, other):
    matrix = next(m for m in agreement_matrices("en", "I", sizes=(40, 1))["train"] if m.variant == variant)
    cleaned = [part.template.replace("prefix ", "").replace("rel ", "") for part in matrix.context]
    flip = str.maketrans("sp", f"{other}{same}") if same == "p" else str.maketrans("sp", "ps")
    numbers = ["".join(name[-1] for name in template.split()) for template in cleaned]
    assert numbers == [n.translate(flip) for n in ("sss", "psp", "sps", "ppp", "ssss", "pssp", "spss")]
    bare = {
        name: "".join(c[-1] for c in t.replace("prefix ", "").replace("rel ", "").split())
        for name, t in errors_of(matrix).items()
    }
    wanted = {
        "Correct": "ppsp",
        "AEV": "ppps",
        "AEN1": "psps",
        "AEN2": "ppss",
        "WN1": "pssp",
        "WN2": "pppp",
        "Coord": "pppp",
        "WNA": "ppspp",
    }
    assert bare == {name: numbers.translate(flip) for name, numbers in wanted.items()}
    assert ("prefix" in matrix.answer.template) == (variant == "completive") and ("rel" in matrix.answer.template) == (
        variant == "relative"
    )


def test_only_the_ae_candidates_break_agreement():
    for matrix in agreement_matrices("fr", "II", sizes=(60, 10))["train"]:
        for error, part in zip(matrix.errors, matrix.candidates, strict=True):
            names = [name for name in part.template.split() if "-" in name]
            assert (names[0][-1] == names[-1][-1]) == (error not in ("AEV", "AEN1", "AEN2"))
        assert all(
            p.template.split()[-1][-1] == next(n for n in p.template.split() if n.startswith("np"))[-1]
            for p in matrix.context
        )


def words_changed(one, other):
    """How many slots that both sentences have hold another row."""
    a, b = (dict(zip((n.split("-")[0] for n in p.template.split()), p.rows, strict=True)) for p in (one, other))
    return sum(a[slot] != b[slot] for slot in a.keys() & b.keys())


def test_types_vary_their_words_as_they_promise():
    for type, wanted in (("I", {0}), ("II", {0, 1})):
        for matrix in agreement_matrices("en", type, sizes=(50, 5))["train"]:
            sentences = [*matrix.context, matrix.answer]
            assert {words_changed(a, b) for a, b in itertools.pairwise(sentences)} <= wanted
    changes = [
        words_changed(a, b)
        for m in agreement_matrices("en", "II", sizes=(50, 5))["train"]
        for a, b in itertools.pairwise(m.context)
    ]
    assert sum(changes) / len(changes) > 0.6
    groups = {row.id: row.group for row in load_lexicon("en")}
    for matrix in agreement_matrices("en", "III", sizes=(50, 5))["train"]:
        used = [{groups[row] for row in part.rows} for part in (*matrix.context, matrix.answer)]
        assert all(len(one) == 1 for one in used) and all(a != b for a, b in itertools.pairwise(used))


def test_candidates_share_the_answers_words():
    for matrix in agreement_matrices("en", "III", sizes=(20, 5))["train"]:
        assert all(words_changed(matrix.answer, part) == 0 for part in matrix.candidates)


def test_held_out_groups_share_no_chunk():
    parts = agreement_matrices("it", "II", sizes=(200, 80), split="seeds")
    chunks = [{c for m in part for s in (*m.context, *m.candidates) for c in s.chunks} for part in parts.values()]
    assert not chunks[0] & chunks[1]


def test_a_lexicon_too_small_for_the_sizes_is_refused():
    with pytest.raises(BadInput, match="only .* different ones came up"):
        agreement_matrices(load_lexicon("en")[:1], "I", sizes=(50, 50))
    with pytest.raises(BadInput, match="at least two groups"):
        agreement_matrices(load_lexicon("en")[:4], "I", sizes=(5, 5), split="seeds")
    with pytest.raises(UnknownName, match="unknown type of matrix 'IV'"):
        agreement_matrices("en", "IV")
    with pytest.raises(BadInput, match="'answers' or 'seeds'"):
        agreement_matrices("en", "I", split="pairs")


def test_equal_candidates_and_missing_answers_are_refused():
    import random

    part = draw_agreement([load_lexicon("en")[:4]], "I", random.Random(0)).answer
    with pytest.raises(BadInput, match="twice"):
        assemble([part] * 7, {"Correct": part, "WN1": part}, "I", "main", random.Random(0))
    with pytest.raises(BadInput, match="without the answer"):
        assemble([part] * 7, {"WN1": part}, "I", "main", random.Random(0))


# ---- alternation matrices


@pytest.mark.parametrize("direction", ["ALT-ATL", "ATL-ALT"])
@pytest.mark.parametrize("type", ["I", "II", "III"])
def test_alternation_matrices_are_seven_sentences_and_nine_distinct_candidates(direction, type):
    parts = alternation_matrices(None, direction, type, sizes=(100, 40))
    for matrix in parts["train"] + parts["test"]:
        assert len(matrix.context) == 7 and len({part.text for part in matrix.candidates}) == 9 == len(
            set(matrix.errors)
        )
        given, answer = matrix.context[0].template, matrix.answer.template
        frames = {"agent verb location WITH theme", "agent verb theme ONTO location"}
        assert {given, answer} == frames and (given.endswith("theme")) == (direction == "ALT-ATL")
    assert not {m.answer.text for m in parts["train"]} & {m.answer.text for m in parts["test"]}


def test_role_sentences_are_each_verbs_events_in_eight_frames_each_text_once():
    sentences = role_sentences()
    assert len({sentence.text for sentence in sentences}) == len(sentences) == 8 * 32 * 5
    assert len({sentence.pattern for sentence in sentences}) == 8
    texts = {sentence.text for sentence in sentences}
    assert {"The gardener sprays the paint onto the wall.", "The paint is sprayed onto the wall."} <= texts


def test_an_alternation_matrix_reads_as_designed():
    row = load_alternation_lexicon()[0]
    rows = [type(row)(1, "a", {**row.forms, "agents": "the girl", "themes": "pl:the tiles", "locations": "the wall"})]
    parts = alternation_matrices(rows, "ALT-ATL", "I", sizes=(1, 0))
    matrix = parts["train"][0]
    assert [part.text for part in matrix.context] == [
        "The girl sprays the wall with the tiles.",
        "The tiles are sprayed by the girl.",
        "The tiles are sprayed onto the wall by the girl.",
        "The tiles are sprayed onto the wall.",
        "The wall is sprayed by the girl.",
        "The wall is sprayed with the tiles by the girl.",
        "The wall is sprayed with the tiles.",
    ]
    assert dict(zip(matrix.errors, (part.text for part in matrix.candidates), strict=True)) == {
        "Correct": "The girl sprays the tiles onto the wall.",
        "AgentAct": "The girl is sprayed the tiles onto the wall.",
        "Alternation1": "The girl sprays the tiles the wall.",
        "Alternation2": "The girl sprays with the tiles onto the wall.",
        "NoEmb": "The girl sprays the tiles of the wall.",
        "LexPrep": f"The girl sprays the tiles {row.form('wrong')} the wall.",
        "SSM1": "The tiles spray the girl onto the wall.",
        "SSM2": "The wall sprays the tiles onto the girl.",
        "AASSM": "The wall sprays the girl the tiles.",
    }


def test_the_spray_load_lexicon_agrees_and_never_names_one_thing_twice():
    rows = load_alternation_lexicon()
    assert len(rows) == 32 == len({row.form("verb-s") for row in rows})
    for row in rows:
        assert row.form("verb-s") in (row.form("verb-p") + "s", row.form("verb-p") + "es")
        lists = [row.forms[name].replace("pl:", "").split("|") for name in ("agents", "themes", "locations")]
        assert all(len(set(one)) == 5 and all(noun.startswith("the ") for noun in one) for one in lists)
        assert all(len({a, t, loc}) == 3 for a, t, loc in itertools.product(*lists))
        assert "pl:" not in row.form("agents") + row.form("locations") and row.form("onto") != row.form("wrong")


def test_verbs_held_out_are_not_seen():
    parts = alternation_matrices(None, "ALT-ATL", "III", sizes=(100, 50), split="seeds")
    rows = [{r for m in part for s in (*m.context, *m.candidates) for r in s.rows} for part in parts.values()]
    assert not rows[0] & rows[1]


def test_bad_requests_for_alternations_are_named():
    with pytest.raises(UnknownName, match="unknown direction 'up'"):
        alternation_matrices(None, "up")
    with pytest.raises(BadInput, match="'answers' or 'seeds'"):
        alternation_matrices(split="pairs")


# ---- datasets, cards, the command line


def test_a_data_set_keeps_rows_templates_and_chunks(tmp_path):
    matrices = agreement_matrices("it", "II", sizes=(6, 3))
    data = to_dataset(matrices)
    first, matrix = data["train"][0], matrices["train"][0]
    assert first["candidates"][first["label"]] == matrix.answer.text and first["errors"] == list(matrix.errors)
    assert first["context_chunks"][3] == list(matrix.context[3].chunks) and first["context_rows"][3] == list(
        matrix.context[3].rows
    )
    pairs = to_dataset(pair_instances("en", n=140))["test"][0]
    assert pairs["input_template"] == pairs["candidates_templates"][pairs["label"]]
    assert len(pairs["input_chunks"]) == len(pairs["input_rows"]) == len(pairs["input_template"].split())


def test_a_saved_folder_is_read_by_datasets_with_its_card(tmp_path):
    data = to_dataset(agreement_matrices("fr", "I", sizes=(6, 3)))
    folder = save_dataset(data, tmp_path / "data", data_card(data, "BLM agreement", language="fr", split="answers"))
    loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in loaded.items()} == {"train": 6, "test": 3}
    assert loaded["train"][0] == data["train"][0]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "license: cc0-1.0" in card and "- fr" in card and "| train | 6 |" in card


class Recorder:
    """Stands in for HfApi and records its calls."""

    def __init__(self):
        self.calls = []

    def create_repo(self, repo_id, **options):
        self.calls.append(("create", repo_id, options))

    def upload_folder(self, *, repo_id, folder_path, **options):
        from pathlib import Path

        self.calls.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))


def test_pushing_makes_a_data_set_repository_with_files_and_card():
    api, data = Recorder(), to_dataset(agreement_matrices("en", "I", sizes=(3, 2)))
    push_dataset(data, "me/blm", "# card", api)
    assert api.calls == [
        ("create", "me/blm", {"repo_type": "dataset", "exist_ok": True}),
        ("upload", "me/blm", ["README.md", "test.parquet", "train.parquet"]),
    ]


def test_generating_bad_tasks_and_empty_splits_is_refused():
    with pytest.raises(BadInput, match="'alternation' in 'fr'"):
        generate("alternation", "fr")
    with pytest.raises(BadInput, match="no instance in split 'test'"):
        to_dataset({"train": agreement_matrices("en", "I", sizes=(1, 1))["train"], "test": []})


def test_the_command_writes_a_folder(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add(parser.add_subparsers(required=True))
    args = parser.parse_args(
        ["blm", "generate", "chunks", "--language", "fr", "--split", "seeds", "--output", str(tmp_path / "out")]
    )
    assert args.run(args) == 0
    assert "train: 2576, validation: 630, test: 798" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]


def test_importing_the_package_loads_no_heavy_library():
    code = "import sys, hf_repgeo.blm; print(sorted({'torch', 'datasets', 'transformers', 'numpy'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


# ---- the authors' formats, on files made here


def write_matrices(folder, candidates, labels):
    folder.mkdir()
    (folder / "x.json").write_text(json.dumps([[f"c{i}" for i in range(7)]] * len(candidates)))
    (folder / "y.json").write_text(json.dumps(candidates))
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


def test_identical_error_candidates_are_merged_with_their_names(tmp_path):
    labels = [["True", "agreement_error_N1", "agreement_error_N2"]] * 2
    folder = write_matrices(tmp_path / "data", [["a", "b", "b"], ["a", "b", "c"]], labels)
    (folder / "y_templates.json").write_text(json.dumps([["A", "B", "B"], ["A", "B", "C"]]))
    data = load_matrices(folder)
    assert data["has_duplicates"] == [True, False]
    first = dict(zip(data[0]["candidates"], data[0]["errors"], strict=True))
    assert first == {"a": "Correct", "b": "agreement_error_N1/agreement_error_N2"}
    assert all(row["candidates"][row["label"]] == "a" for row in data)
    assert all(
        text.upper() == kind for row in data for text, kind in zip(row["candidates"], row["candidates_templates"])
    )


def test_a_duplicated_answer_is_refused_dropped_or_merged(tmp_path):
    labels = [["True", "x", "y"]] * 2
    folder = write_matrices(tmp_path / "data", [["a", "a", "b"], ["a", "b", "c"]], labels)
    with pytest.raises(BadInput, match="matrix 1: the answer 'a' twice.*'drop' or 'merge'"):
        load_matrices(folder)
    assert len(load_matrices(folder, duplicated_answer="drop")) == 1
    merged = load_matrices(folder, duplicated_answer="merge")
    assert sorted(zip(merged[0]["candidates"], merged[0]["errors"], strict=True)) == [("a", "Correct"), ("b", "y")]
    with pytest.raises(BadInput, match="one, matrix 2: one candidate alone"):
        load_matrices(write_matrices(tmp_path / "one", [["a", "b", "c"], ["a"] * 3], labels), duplicated_answer="merge")
    with pytest.raises(UnknownName, match="way of a duplicated answer 'keep'"):
        load_matrices(folder, duplicated_answer="keep")


def table_of(count, separator, twice=False):
    """A table in the authors' layout, with sentences and answers named after their columns."""
    answers = [f"Answer_{i}" for i in range(1, count + 1)]
    sentences, labels = [f"Sent_{i}" for i in range(1, 8)], [f"Answer_label_{i}" for i in range(1, count + 1)]
    templates = [f"Answer_template_{i}" for i in range(1, count + 1)]
    header = ["ID", *sentences, *answers, *(["Answer_2"] if twice else []), *labels, *templates]
    names = ["True", *(f"E{i}" for i in range(2, count + 1))]
    row = ["0", *sentences, *answers, *(["second"] if twice else []), *names, *templates]
    return "\n".join([separator.join(header), separator.join(row)]) + "\n"


@pytest.mark.parametrize(
    "name, separator, twice", [("type_i.csv", "\t", False), ("data.tsv", "\t", True), ("a.csv", ",", False)]
)
def test_tables_of_matrices_are_read_with_their_templates(tmp_path, name, separator, twice):
    (tmp_path / name).write_text(table_of(4, separator, twice))
    row = load_matrices(tmp_path / name)[0]
    assert row["context"] == [f"Sent_{i}" for i in range(1, 8)] and row["candidates"][row["label"]] == "Answer_1"
    told = {
        text: (error, kind) for text, error, kind in zip(row["candidates"], row["errors"], row["candidates_templates"])
    }
    assert told["Answer_3"] == ("E3", "Answer_template_3") and "second" not in told


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("Sent_3,", "", 2).encode(), "line 2: 6 sentences before the answer; wanted 7"),
        (lambda text: text.replace(",Sent_3,", ",,").replace(",,", ",Sent_3,", 1).encode(), "context number 3 empty"),
        (lambda text: text.replace("Answer_label_4,", "").encode(), "4 candidates, 1 of 3 labels right"),
        (lambda text: text.replace("E2", "é").encode("latin-1"), "not UTF-8 at byte"),
    ],
)
def test_an_odd_table_of_matrices_is_named_with_its_line(tmp_path, change, message):
    (tmp_path / "a.csv").write_bytes(change(table_of(4, ",")))
    with pytest.raises(BadInput, match=message):
        load_matrices(tmp_path / "a.csv")


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    (tmp_path / "plain.csv").write_text(table_of(4, ","))
    (tmp_path / "odd.csv").write_bytes(table_of(4, ",").replace("\n", "\r\n").encode("utf-8-sig"))
    assert load_matrices(tmp_path / "odd.csv")[:] == load_matrices(tmp_path / "plain.csv")[:]


def test_the_first_version_has_numbered_columns(tmp_path):
    cells = [*(f"s{i}" for i in range(7)), "w1", "right", "w2", "False", "True", "False", "N1_alter", "True", "mis_num"]
    lines = [",".join(["", *map(str, range(len(cells)))]), ",".join(["0", *cells])]
    (tmp_path / "type_i_main.csv").write_text("\n".join(lines))
    row = load_matrices(tmp_path / "type_i_main.csv")[0]
    assert row["candidates"][row["label"]] == "right" and set(row["errors"]) == {"Correct", "N1_alter", "mis_num"}


def test_candidates_of_files_are_shuffled_by_the_seed(tmp_path):
    labels = [["True", *(f"e{i}" for i in range(7))]] * 40
    folder = write_matrices(tmp_path / "data", [list("abcdefgh")] * 40, labels)
    places = load_matrices(folder)["label"]
    assert len(set(places)) > 4 and load_matrices(folder)["label"] == places != load_matrices(folder, seed=1)["label"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_fragments_of_every_separator_are_read(tmp_path, separator):
    columns = [f"{slot}-{number}" for slot in ("np", "pp1", "pp2", "vp") for number in "sp"]
    text = separator.join(["Prefix", *columns]) + "\n" + separator.join(["it is said that", *columns]) + "\n"
    (tmp_path / "fragments.csv").write_text(text)
    assert load_fragments(tmp_path / "fragments.csv")[0].form("pp1", "s") == "pp1-s"
    (tmp_path / "fragments.csv").write_text(text + separator.join(["x", *[""] * 8]) + "\n")
    with pytest.raises(BadInput, match=r"fragments.csv, line 3: no form in column 'np-s'"):
        load_fragments(tmp_path / "fragments.csv")
    (tmp_path / "fragments.csv").write_text("a|b\n")
    with pytest.raises(BadInput, match=r"line 1: 'a\|b'; wanted np-s.*separated by a semicolon, a tab, a comma"):
        load_fragments(tmp_path / "fragments.csv")


def test_loaded_sequences_make_pairs_for_training(tmp_path):
    lines = ["\t".join(["", *(p.replace(" ", "_") for p in PATTERNS)])]
    lines += ["\t".join([str(i), *(f"{p} {i} ." for p in PATTERNS)]) for i in range(8)]
    (tmp_path / "sequences.csv").write_text("\n".join(lines))
    parts = pair_instances(load_sequences(tmp_path / "sequences.csv"), n=280)
    assert to_dataset(parts)["train"].num_rows == 14 * 14
    one = parts["test"][0]
    assert one.candidates[one.label].pattern == one.input.pattern and one.input.text.startswith(one.input.pattern)


def test_json_matrices_without_an_answer_are_refused(tmp_path):
    with pytest.raises(BadInput, match="matrix 2: 2 candidates, 0 of 2 labels right"):
        load_matrices(write_matrices(tmp_path / "a", [["a", "b"]] * 2, [["True", "x"], ["x", "y"]]))
    with pytest.raises(BadInput, match="2 context, 2 candidates, 1 errors"):
        load_matrices(write_matrices(tmp_path / "b", [["a", "b"]] * 2, [["True", "x"]]))
    (tmp_path / "b" / "labels.json").unlink()
    with pytest.raises(BadInput, match="neither labels.json nor truth_bool.json"):
        load_matrices(tmp_path / "b")
    (tmp_path / "b" / "truth_bool.json").write_text(json.dumps([["False", "True"]] * 2))
    assert all(row["candidates"][row["label"]] == "b" for row in load_matrices(tmp_path / "b"))


def test_genbench_lines_are_split_and_checked(tmp_path):
    record = {"input": " </s> ".join(f"c{i}" for i in range(7)), "target_options": ["a", "b", "c"], "target": 1}
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(record) + "\n" + json.dumps({**record, "target": "2"}) + "\n")
    data = load_genbench(path)
    assert [row["candidates"][row["label"]] for row in data] == ["b", "c"] and data[0]["context"] == [
        f"c{i}" for i in range(7)
    ]
    path.write_text(json.dumps({**record, "target": 3}))
    with pytest.raises(BadInput, match="line 1: target 3 of 3 options"):
        load_genbench(path)
    path.write_text("no json")
    with pytest.raises(BadInput, match="data.jsonl, line 1: 'no json'"):
        load_genbench(path)


def test_fragments_and_sequences_are_read(tmp_path):
    names = ["Prefix", *(f for f in FORMS if not f.startswith("conj")), "roc", "."]
    row = [f"{name}!" for name in names]
    (tmp_path / "fragments.csv").write_text(";".join(names) + "\n" + ";".join(row) + "\n", encoding="utf-8")
    rows = load_fragments(tmp_path / "fragments.csv")
    assert build_sentence(rows[0], "np-s pp1-p vp-s").text == "Np-s! pp1-p! vp-s!."
    with pytest.raises(BadInput, match="bad.csv, line 1: 'a;b'; wanted np-s"):
        (tmp_path / "bad.csv").write_text("a;b\n1;2\n")
        load_fragments(tmp_path / "bad.csv")
    (tmp_path / "sequences.csv").write_text("\tnp-s vp-s\tnp-s vp-p\n0\tThe key is lost .\tThe key are lost .\n")
    sentences = load_sequences(tmp_path / "sequences.csv")
    assert [(s.text, s.pattern, s.row) for s in sentences] == [("The key is lost .", "np-s vp-s", 1)]
    with pytest.raises(BadInput, match="wanted a column per pattern, such as"):
        load_sequences(tmp_path / "bad.csv")
    with pytest.raises(BadInput, match="which is not a file"):
        load_fragments(tmp_path / "none.csv")


@pytest.mark.parametrize("content", ['{"a": 1}', "[1, 2]", '["a sentence"]', "null"])
def test_a_folder_of_json_that_holds_no_lists_is_refused(tmp_path, content):
    for name in ("x.json", "y.json", "truth_bool.json"):
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match="wanted a list with a list per matrix|neither labels.json nor truth_bool.json"):
        load_matrices(tmp_path)


def test_genbench_without_a_matrix_or_with_other_fields_is_refused(tmp_path):
    path = tmp_path / "data.jsonl"
    with pytest.raises(UnknownName, match="unknown way of a duplicated answer 'keep'"):
        load_genbench(path, duplicated_answer="keep")
    path.write_text("\n\n")
    with pytest.raises(BadInput, match="without a matrix; wanted at least one"):
        load_genbench(path)
    for record in ({"input": 3, "target_options": ["a"], "target": 0}, {"input": "a", "target": 0}, ["a"]):
        path.write_text(json.dumps(record))
        with pytest.raises(BadInput, match="line 1: .*wanted an object with input, target_options and target"):
            load_genbench(path)


def test_sentences_without_a_row_of_every_pattern_make_no_pairs():
    with pytest.raises(BadInput, match="sentences without a row of all patterns"):
        pair_instances(chunk_sentences("en")[:3])
