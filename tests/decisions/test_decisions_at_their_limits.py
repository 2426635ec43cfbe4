"""Decisions where evidence is thin, true pairs decide, or the input is refused."""

import json
import warnings

import numpy as np
import pytest
import torch
from tiny import WORDS

from hf_repgeo.decisions import (
    Centred,
    Whitened,
    check_finetune,
    check_index,
    check_quantization,
    choose_checkpoint,
    choose_dimensions,
    choose_layer,
    cosine_floor,
    dedup_threshold,
    embed,
    read_groups,
    read_pairs,
    unrelated_domains,
)
from hf_repgeo.decisions.checkpoint import _Checkpoint
from hf_repgeo.decisions.checkpoint import _verdict as verdict_of_checkpoint
from hf_repgeo.decisions.embeddings import sentence_pooling
from hf_repgeo.decisions.finetune import _Change
from hf_repgeo.decisions.index import _product_codes, _ranks
from hf_repgeo.decisions.inputs import read_lines, read_matrix
from hf_repgeo.decisions.intervals import mean_interval
from hf_repgeo.decisions.quantization import _verdict as verdict_of_quantization
from hf_repgeo.decisions.retrieval import reciprocal_ranks, unit
from hf_repgeo.decisions.rows import SearchedRows
from hf_repgeo.decisions.spread import ratio_of, spread
from hf_repgeo.decisions.unrelated import UnrelatedCosines
from hf_repgeo.downstream.resampling import Interval
from hf_repgeo.errors import BadInput

PAIRS = [(f"{a} {b}", f"{b} {a}") for a in WORDS for b in WORDS if a < b][:120]


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


# --- true pairs decide ------------------------------------------------------------------------------------------------


@pytest.fixture
def model(encoder, tokenizer):
    return {"data": encoder, "tokenizer": tokenizer, "pairs": PAIRS}


def test_with_pairs_an_index_is_scored_by_the_rank_of_the_true_document(model, encoder, tokenizer):
    found = check_index(**model)
    texts = read_pairs(PAIRS)
    rows = embed(encoder, [*texts.queries, *texts.documents], tokenizer=tokenizer).rows
    queries, documents = rows.tensor_split([len(texts)])
    floats = next(line["MRR"].value for line in found.evidence if line["coding"] == "floats")
    assert floats == pytest.approx(reciprocal_ranks(queries, documents, texts.target).mean(), abs=1e-6)
    assert found.provenance["embeddings"]["pairs"] == "pairs in memory"


def test_with_pairs_truncation_is_scored_by_the_rank_of_the_true_document(model):
    found = choose_dimensions(**model, kept=0.5)
    assert {"way", "k", "MRR"} == set(found.evidence[0])
    assert found.geometry.endswith("It does not answer this.")


def test_a_rescored_search_takes_the_rank_of_floats_among_its_candidates_and_zero_outside_them():
    queries, rows = torch.eye(4, 64)[:1], gaussian(100, 64)
    rows[0] = queries[0]  # the true document: the best by floats
    searched = SearchedRows(rows, queries, np.array([0]), True, {})
    near, far = rows.clone(), rows.clone()
    near[:20] = -queries[0]  # among the 40 candidates of the coded search there are others with better codes
    near[0], far[0] = 0.5 * queries[0] + 0.1 * rows[1], -queries[0]
    assert _ranks(searched, queries, near, rescored=True) == [1.0]
    assert _ranks(searched, queries, far, rescored=True) == [0.0]
    assert 0 < _ranks(searched, queries, far, rescored=False)[0] <= 1 / 90


def test_product_codes_of_blocks_with_few_values_lose_nothing():
    words = unit(gaussian(16, 8))
    generator = torch.Generator().manual_seed(1)
    rows = words[torch.randint(16, (600, 4), generator=generator)].flatten(1)
    queries, coded = _product_codes(rows, rows)
    assert torch.equal(queries, rows)
    torch.testing.assert_close(coded.float(), rows, atol=1e-5, rtol=0)


def test_an_index_of_many_rows_tries_product_codes_too():
    tried = [line["coding"] for line in check_index(gaussian(600, 32)).evidence]
    assert {"product codes", "product codes, rescored"} <= set(tried)


def test_two_narrow_cones_are_safe_in_no_coding_and_a_few_wider_ones_cannot_be_told():
    side = torch.tensor([1.0, -1.0]).repeat(200)[:, None]
    narrow = check_index(gaussian(400, 64) + 150 * side)
    assert narrow.verdict == "floats only" and "no coding that was tried" in narrow.answer
    wide = check_index(gaussian(100, 64) + 22 * side[:100])
    assert wide.verdict == "cannot tell" and "within the error" in wide.answer


# --- few of anything --------------------------------------------------------------------------------------------------


def test_a_mean_of_few_clusters_has_no_interval_and_of_nothing_no_value():
    assert mean_interval(np.array([np.nan])).value is None
    few = mean_interval(np.array([1.0, 3.0]), np.array([0, 1]))
    assert (few.value, few.low, few.high) == (2.0, None, None)


def test_unrelated_cosines_of_few_groups_have_a_value_without_interval():
    found = UnrelatedCosines.of(gaussian(40, 8), np.arange(40) % 3).mean()
    assert found.value is not None and found.low is None


def test_the_ratio_to_a_cloud_without_spread_is_unknown():
    same, apart = spread(torch.ones(20, 4), np.arange(20)), spread(gaussian(20, 4), np.arange(20))
    assert same[0] == 0 and ratio_of(apart, same).value is None
    assert ratio_of(same, apart).value == 0  # rounding alone would give the equal rows a spread of 1 and more


def test_few_documents_behind_many_queries_leave_the_floor_without_interval(encoder, tokenizer):
    pairs = [(query, f"{WORDS[i % 3]} {WORDS[i % 3]}") for i, (query, _) in enumerate(PAIRS[:24])]
    found = cosine_floor(encoder, pairs=pairs, tokenizer=tokenizer)
    assert "[" not in str(found.evidence[0]["q99 of mismatched pairs"])


def test_a_gain_without_interval_settles_no_checkpoint():
    first, last = (_Checkpoint(step, np.ones(3), None, 1.0) for step in (10, 20))
    unknown, small = Interval(0.5), Interval(0.0, -0.01, 0.01, 9)
    assert verdict_of_checkpoint(first, {"the last": last}, {"the last": unknown}) == "cannot tell"
    assert verdict_of_checkpoint(first, {"the last": last}, {"the last": small}) == "keep the last"


def test_embeddings_that_all_became_equal_are_collapsed_whatever_the_cosines_say():
    narrow, zero = Interval(0.1, 0.05, 0.15, 9), Interval(0.0, 0.0, 0.0, 9)
    change = _Change("in domain", (narrow, narrow), (narrow, narrow), zero, zero, zero, (0.0, 0.0), {})
    assert change.verdict() == "collapsed"


@pytest.mark.parametrize(
    ("spread_left", "rise", "said"),
    [((0.3, 0.6), (0.0, 0.05), "narrowed"), ((0.8, 1.0), (0.2, 0.3), "narrowed"), ((0.8, 1.0), (0.0, 0.05), "healthy")],
)
def test_a_finetune_is_narrowed_by_what_it_lost_or_by_how_much_cosines_rose(spread_left, rise, said):
    some = Interval(0.1, 0.05, 0.15, 9)
    rise, spread_left = (Interval(sum(ends) / 2, *ends, 9) for ends in (rise, spread_left))
    assert _Change("x", (some, some), (some, some), rise, spread_left, some, (0.0, 0.0), {}).verdict() == said


def test_a_quantization_whose_interval_holds_the_limit_cannot_be_told():
    own = Interval(0.9, 0.85, 0.95, 50)
    verdict, said = verdict_of_quantization(own, own, 1.0, ("mean", "mean"))
    assert verdict == "cannot tell" and "more texts would tell" in said


def test_a_truncation_without_interval_and_one_that_may_hold_cannot_be_told():
    from hf_repgeo.decisions.dimensions import _said

    for left in (Interval(0.1), Interval(0.1, -0.1, 0.3, 9)):
        verdict, said = _said("first", 8, 32, left, Interval(0.9), "MRR", 0.9)
        assert verdict == "cannot tell" and "within the error" in said


# --- many of them -----------------------------------------------------------------------------------------------------


def test_many_pairs_are_drawn_with_their_documents(monkeypatch):
    from hf_repgeo.decisions import layer

    monkeypatch.setattr(layer, "MOST_PAIRS", 30)
    drawn = layer._drawn(read_pairs(PAIRS), seed=3)
    assert len(drawn) == 30 and len(drawn.documents) <= 30
    assert {(query, drawn.documents[i]) for query, i in zip(drawn.queries, drawn.target)} <= set(PAIRS)
    assert drawn.queries == layer._drawn(read_pairs(PAIRS), seed=3).queries


def test_many_rows_are_drawn_evenly_from_their_groups(monkeypatch):
    from hf_repgeo.decisions import floor

    monkeypatch.setattr(floor, "MOST_ROWS", 40)
    groups = np.repeat([0, 1, 2], [5, 100, 100])
    kept = floor._even_draw(groups, seed=0)
    assert np.bincount(groups[kept]).tolist() == [5, 18, 17] or np.bincount(groups[kept]).tolist() == [5, 17, 18]
    assert (np.diff(kept) > 0).all()


def test_more_flagged_pairs_than_are_listed_leave_the_clusters_unknown(monkeypatch):
    from hf_repgeo.decisions import dedup

    rows = gaussian(400, 32)
    rows[:50] = rows[50:100] + 0.01 * gaussian(50, 32, 1)
    listed = dedup_threshold(rows)
    monkeypatch.setattr(dedup, "MOST_FLAGGED", 10)
    counted = dedup_threshold(rows)
    assert counted.numbers["flagged"] == listed.numbers["flagged"] and counted.verdict == listed.verdict
    assert listed.evidence[-1]["clusters"] == 50 and counted.evidence[-1]["clusters"] is None


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: choose_dimensions(gaussian(100, 32), kept=1.5), "`kept`: got 1.5; wanted a share"),
        (lambda: choose_dimensions(gaussian(100, 12)), "`data`: got 12 columns; wanted at least 16"),
        (lambda: choose_dimensions(gaussian(100, 32), pairs=PAIRS), "`pairs`: got pairs beside a matrix"),
        (lambda: check_index("model", ["a"], pairs=PAIRS), "`texts`: got texts beside pairs"),
        (lambda: check_index(gaussian(100, 32), ["a"]), "`texts`: got texts beside a matrix"),
        (lambda: check_index(gaussian(20, 32)), "`X`: got 20 rows; wanted at least 50"),
        (lambda: check_index(gaussian(60, 1)), "`X`: got shape \\(60, 1\\)"),
        (lambda: cosine_floor(gaussian(60, 8), {f"{i}": ["x"] * 5 for i in range(12)}, pairs=PAIRS), "pairs of texts"),
        (lambda: check_finetune("a", "b", None), "`texts`: got none; wanted texts of the fine-tune's domain"),
        (lambda: check_finetune("a", "b", {"x": ["a"], "y": ["b"]}), "got 2 groups in texts in memory; wanted at le"),
        (lambda: check_quantization("a", "b", ["one text"]), "`texts`: got 1 text; wanted at least two"),
        (lambda: choose_checkpoint("absent", PAIRS), "`folder`: got 'absent', which is not a folder"),
        (lambda: read_pairs([("a", "b", "c")]), "at position 0; wanted tuples of two texts"),
        (lambda: read_lines("absent.txt", "groups"), "`groups`: got 'absent.txt', which is not a file"),
        (lambda: dedup_threshold(gaussian(300, 16) + 30), "whose 1500 pairs of largest cosine span 0 bins"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_argument(ask, said):
    with pytest.raises(BadInput, match=said):
        ask()


def test_a_text_without_tokens_is_named_by_its_place(encoder, plain_tokenizer):
    with pytest.raises(BadInput, match="got text 1, which holds no token"):
        embed(encoder, ["cat", "", "dog"], tokenizer=plain_tokenizer)


def test_a_column_of_a_file_without_pairs_names_the_columns(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "a", "document": "b"}\n{"query": "a"}\n')
    with pytest.raises(BadInput, match="line 2.*with the same keys in each"):
        read_pairs(path)
    path.write_text("[1\n")
    with pytest.raises(BadInput, match="line 1: '\\[1'.*wanted JSON"):
        read_pairs(path)


# --- files ------------------------------------------------------------------------------------------------------------


def test_pairs_of_json_lines_are_those_of_a_table_with_any_character_in_the_texts(tmp_path):
    odd = [(f"{a}\u2028next {i}", f"{b}\x85 {i}") for i, (a, b) in enumerate(PAIRS[:30])]
    lines, table, tabs = (tmp_path / name for name in ("pairs.jsonl", "pairs.csv", "pairs.tsv"))
    lines.write_text("".join(json.dumps({"query": a, "document": b}, ensure_ascii=False) + "\n\n" for a, b in odd))
    table.write_text("query,document\n" + "".join(f"{a},{b}\n" for a, b in odd))
    tabs.write_text("query\tdocument\n" + "".join(f"{a}\t{b}\n" for a, b in odd))
    for path in (lines, table, tabs):
        found = read_pairs(path)
        assert [(query, found.documents[i]) for query, i in zip(found.queries, found.target)] == odd
    assert read_pairs(found) is found


def test_labels_of_a_file_are_its_lines_and_groups_that_were_read_stay(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("a\u2028b\r\nc\r\n".encode("utf-8-sig"))
    assert read_lines(path, "labels") == ["a\u2028b", "c"]
    found = read_groups(["one text", "another"], path)
    assert found.labels == ("a\u2028b", "c") and read_groups(found) is found
    assert read_groups(None).texts == unrelated_domains().texts


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl", "pairs.tsv"])
def test_a_table_in_another_encoding_and_a_cell_without_end_are_refused_in_words(tmp_path, name):
    path = tmp_path / name
    path.write_bytes("query,document\né,ü\n".encode("latin-1"))
    with pytest.raises(BadInput, match="not UTF-8 at byte 15; wanted text in UTF-8"):
        read_pairs(path)
    if name == "pairs.csv":
        path.write_text('query,document\n"' + "x" * 140_000)
        with pytest.raises(BadInput, match="line 2 .*field larger than field limit"):
            read_pairs(path)


def test_rows_of_a_numpy_file_are_the_array_and_texts_of_a_file_its_documents(tmp_path, encoder, tokenizer):
    X = gaussian(60, 8).numpy()
    np.save(tmp_path / "x.npy", X)
    assert torch.equal(read_matrix(tmp_path / "x.npy"), torch.from_numpy(X))
    texts = [" ".join(WORDS[(i * step) % 16] for step in range(1, 7)) for i in range(80)]
    (tmp_path / "texts.txt").write_text("\n\n".join(texts))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = choose_dimensions(encoder, tmp_path / "texts.txt", tokenizer=tokenizer, kept=0.3)
    assert found.evidence == choose_dimensions(encoder, texts, tokenizer=tokenizer, kept=0.3).evidence


@pytest.mark.parametrize("content", ["[]", '"mean"', '{"pooling_mode": ["cls"]}', '{"pooling_mode": "median"}'])
def test_a_pooling_configuration_that_names_none_that_we_know_is_the_mean(tmp_path, content):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(content)
    assert sentence_pooling(str(tmp_path)) == "mean"
    (tmp_path / "1_Pooling" / "config.json").write_text(content[:-1])
    with pytest.raises(BadInput, match="wanted JSON"):
        sentence_pooling(str(tmp_path))


# --- SentenceTransformers and the Hub ---------------------------------------------------------------------------------


def test_a_sentence_transformer_makes_its_own_rows_and_takes_no_layer(encoder_folder):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    model = library.SentenceTransformer(modules=[Transformer(str(encoder_folder)), Pooling(32)], device="cpu")
    found = embed(model, ["the cat sees", "a dog"])
    torch.testing.assert_close(found.rows, model.encode(["the cat sees", "a dog"], convert_to_tensor=True))
    assert found.facts()["pooling"] == "sentence" and "layer" not in found.facts()
    with pytest.raises(BadInput, match="layer=2, pooling='cls' with a SentenceTransformer.*Pass the folder"):
        embed(model, ["a dog"], layer=2, pooling="cls")


def test_a_repair_on_the_hub_is_downloaded_with_its_subfolder_alone(tmp_path, monkeypatch):
    import huggingface_hub

    repair = Centred.fit(gaussian(50, 8))
    repair.save(str(tmp_path / "2_Centred"))
    asked = {}

    def download(name, allow_patterns):
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    rows = gaussian(5, 8, 1)
    assert torch.equal(Centred.load("me/model", "2_Centred").apply_to(rows), repair.apply_to(rows))
    assert asked == {"me/model": ["2_Centred/*"]}


def test_a_folder_without_a_repair_or_with_another_one_is_refused(tmp_path):
    with pytest.raises(BadInput, match="wanted what Centred.save wrote"):
        Centred.load(str(tmp_path))
    Centred.fit(gaussian(50, 8)).save(str(tmp_path))
    with pytest.raises(BadInput, match="wanted what Whitened.save wrote"):
        Whitened.load(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(BadInput, match="wanted what Centred.save wrote"):
        Centred.load(str(tmp_path))


def test_rows_without_a_measurable_dimension_are_truncated_all_the_same(monkeypatch):
    from hf_repgeo.decisions import dimensions

    def unmeasured(*_, **__):
        raise BadInput("X", came="this", wanted="that")

    measured = choose_dimensions(gaussian(200, 32), kept=0.5)
    monkeypatch.setattr(dimensions, "evaluate_all", unmeasured)
    found = choose_dimensions(gaussian(200, 32), kept=0.5)
    assert found.evidence == measured.evidence and found.numbers["intrinsic_dimension"] is None
    assert found.notes == ["The intrinsic dimension of these rows cannot be measured."]


def test_the_layer_keeps_its_pairs_in_the_report_by_file_name_alone(tmp_path, encoder, tokenizer):
    path = tmp_path / "pairs.tsv"
    path.write_text("query\tdocument\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS[:30]))
    found = choose_layer(encoder, path, layers=[1, 2], tokenizer=tokenizer)
    assert found.provenance["pairs"] == "pairs.tsv" and str(tmp_path) not in json.dumps(found.as_dict(), default=str)
