"""Every token of a corpus: the numbers of all rows at once, whatever reads them, and windows one chunk at a time."""

import copy
import json

import pytest
import torch
from tokenizers import Regex
from tokenizers.normalizers import Replace

import hf_repgeo
from hf_repgeo.errors import BadInput
from hf_repgeo.measures import PointCloud, evaluate_all, resolve
from hf_repgeo.rows.forward import forward_windows
from hf_repgeo.rows.text_stream import text_stream
from hf_repgeo.rows.windows import make_windows, window_stream

MEASURES = ["anisotropy", "effective_rank", "mean_cosine", "intrinsic_dimension:mle", "patchiness"]


@pytest.fixture
def whole(encoder, tokenizer):
    def whole(texts, **options):
        usual = {"tokenizer": tokenizer, "measures": MEASURES, "batch_rows": 500, "progress": False, "window": 32}
        return hf_repgeo.profile(encoder, texts, rows="all", **usual | options)

    return whole


def test_all_rows_give_the_numbers_of_one_cloud(whole, encoder, tokenizer, documents):
    report = whole(documents, tokens=["all", "no_special"], batch_size=5)
    windows = make_windows(tokenizer, documents, 32)
    parts = [found for _, found in forward_windows(encoder, windows, None, "applied", 5, None)]
    ids = torch.tensor([i for window in windows.ids for i in window])
    for layer in (0, 2):
        rows = torch.cat([found["encoder", layer, "residual"] for found in parts])
        for policy, kept in (("all", ids >= 0), ("no_special", ids > 3)):
            expected = evaluate_all(PointCloud(rows[kept]), resolve(MEASURES[:3]))
            for estimate in expected:
                row = report.row(estimate.measure, layer=layer, tokens=policy)
                assert row["value"] == pytest.approx(estimate.value, rel=1e-6) and row["n"] == int(kept.sum())
                assert row["protocol"] == "whole" and "draw" not in row["details"]
            row = report.row("intrinsic_dimension", layer=layer, tokens=policy)
            assert row["n"] == 500 and row["details"]["draw"] == f"even, 500 of {int(kept.sum())} rows, seed 0"
    facts = report.provenance["pool"]
    assert (facts["n_tokens"], facts["n_windows"], facts["n_documents"]) == (len(ids), len(windows), len(documents))


def test_a_corpus_that_fits_into_the_draw_has_errors_by_document(whole, documents):
    row = whole(documents[:6], measures="anisotropy", batch_rows=5000, layers=[1]).rows[0]
    assert row["se"] > 0 and "draw" not in row["details"]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "dataset", "iterable"])
def test_files_and_data_sets_are_read_one_document_at_a_time(whole, documents, tmp_path, kind):
    import datasets

    rows = [{"text": document} for document in [*documents, "  "]]
    data = datasets.Dataset.from_list(rows)
    path = tmp_path / f"texts.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        data.to_parquet(str(path))
    given = {"dataset": data, "iterable": data.to_iterable_dataset()}.get(kind, path)
    options = {"measures": "effective_rank", "layers": [2]}
    assert whole(given, **options).rows == whole(documents, **options).rows
    assert next(text_stream(given).documents()) == documents[0]


@pytest.mark.parametrize("pack", ["concatenate", "documents"])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_windows_come_in_chunks_as_they_come_at_once(tokenizer, documents, pack, count):
    whole = make_windows(tokenizer, documents, 16, pack)
    chunks = list(window_stream(tokenizer, documents, 16, pack, count=count))
    assert [ids for chunk in chunks for ids in chunk.ids] == whole.ids
    assert [owners for chunk in chunks for owners in chunk.documents] == whole.documents
    assert max(map(len, chunks)) <= count


def test_a_finished_run_is_read_back_and_another_corpus_is_measured_anew(whole, documents, tmp_path, monkeypatch):
    options = {"measures": "effective_rank", "out": tmp_path / "out"}
    first = whole(documents, **options)
    with monkeypatch.context() as patch:
        patch.setattr("hf_repgeo.runs.whole_corpus.forward_windows", None)
        assert whole(documents, **options).rows == first.rows
    assert whole(documents[:20], **options).rows != first.rows
    assert len(list((tmp_path / "out").glob("profile*.json"))) == 2


def test_what_needs_the_whole_corpus_first_is_refused(whole, documents, plain_tokenizer, tmp_path):
    with pytest.raises(BadInput, match="'sink_robust'; wanted 'all' or 'no_special' with rows='all'"):
        whole(documents, tokens="sink_robust")
    with pytest.raises(BadInput, match="pooling 'mean'"):
        whole(documents, pooling="mean")
    silent = copy.deepcopy(plain_tokenizer)
    silent.backend_tokenizer.normalizer = Replace(Regex("."), "")
    with pytest.raises(BadInput, match="texts that hold no token for this tokenizer; wanted at least one token"):
        whole(["the cat"], tokenizer=silent)
    (tmp_path / "bad.jsonl").write_text('{"text": "the cat"}\nno json\n')
    with pytest.raises(BadInput, match="line 2 is not JSON"):
        whole(tmp_path / "bad.jsonl")
