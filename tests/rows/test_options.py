"""Options of the doors that make no sense are refused in a sentence, before a model is loaded."""

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

import hf_repgeo
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.report import GeometryReport

WHOLE = "a whole number of at least"
BAD = {
    "rows": [(2.5, WHOLE), (None, WHOLE), (True, WHOLE), (1, WHOLE), ("many", "a number, or 'all'"), (np.nan, WHOLE)],
    "batch_rows": [("8", WHOLE), (0, WHOLE)],
    "batch_size": [("8", WHOLE), (0, WHOLE), (1.0, WHOLE)],
    "oversample": [(1.5, WHOLE), (0, WHOLE), ("2", WHOLE)],
    "window": [("12", "4 to 64 tokens"), (12.5, "4 to 64 tokens"), (3, "4 to 64"), (65, "4 to 64"), (True, "4 to 64")],
    "layers": [("1", "a list of"), (1, "a list of"), ([], "a list of"), ([0.5], "a list of"), ({0: 1}, "a list of")],
    "tokens": [(3, "a name or a list of names"), ([], "a list of names"), ([None], "a list of names")],
    "points": [([], "a name or a list of names"), ([3], "a list of names"), (3, "a list of names")],
    "seed": [("a", "a whole number"), (-1, "a whole number"), (0.5, "a whole number")],
    "tokenizer": [(7, "a tokenizer of transformers"), (BertTokenizer, "a tokenizer of transformers")],
    "processor": [(object(), "what it reads beside it")],
    "out": [(3, "the path of a folder")],
}


def profile(encoder, documents, tokenizer, **options):
    usual = {"measures": "anisotropy", "rows": 100, "batch_rows": 50, "progress": False}
    return hf_repgeo.profile(encoder, documents, **usual | {"tokenizer": tokenizer} | options)


@pytest.mark.parametrize(("option", "value", "words"), [(name, *case) for name, cases in BAD.items() for case in cases])
def test_profile_names_the_option_what_came_and_what_is_wanted(encoder, documents, tokenizer, option, value, words):
    with pytest.raises(BadInput) as raised:
        profile(encoder, documents, **{"tokenizer": tokenizer, option: value})
    assert str(raised.value).startswith(f"`{option}`: got ") and words in str(raised.value)


def test_a_folder_for_results_that_is_a_file_is_refused(encoder, documents, tokenizer, tmp_path):
    (tmp_path / "taken").write_text("")
    for place in ("taken", "taken/inner"):
        for door in (hf_repgeo.profile, hf_repgeo.compare, hf_repgeo.profile_sequences):
            with pytest.raises(BadInput, match="where 'taken' is a file; wanted a folder"):
                door(encoder, texts=documents, tokenizer=tokenizer, out=tmp_path / place)


@pytest.mark.parametrize("option", ["rows", "batch_size", "layers", "seed"])
def test_compare_refuses_what_profile_refuses(encoder, documents, tokenizer, option):
    for value, _ in BAD[option]:
        with pytest.raises(BadInput, match=f"`{option}`"):
            hf_repgeo.compare(encoder, texts=documents, tokenizer=tokenizer, **{option: value})


@pytest.mark.parametrize("option", ["batch_size", "layers", "seed"])
def test_profile_sequences_refuses_what_profile_refuses(encoder, documents, tokenizer, option):
    for value, _ in BAD[option]:
        with pytest.raises(BadInput, match=f"`{option}`"):
            hf_repgeo.profile_sequences(encoder, texts=documents, tokenizer=tokenizer, **{option: value})


def test_numbers_of_numpy_and_ranges_are_numbers(encoder, documents, tokenizer, tmp_path):
    plain = profile(encoder, documents, tokenizer, layers=[0, 1], window=16)
    options = {"rows": np.int64(100), "batch_rows": np.int32(50), "window": np.int16(16), "seed": np.uint8(0)}
    found = profile(encoder, documents, tokenizer, layers=range(2), out=tmp_path, batch_size=np.int64(8), **options)
    assert found.rows == plain.rows and GeometryReport.from_json(tmp_path / "profile.json").rows == plain.rows
    again = profile(encoder, documents, tokenizer, layers=np.array([0, 1]), window=16)
    assert again.rows == plain.rows
    assert profile(encoder, documents, tokenizer, layers=torch.tensor([0, 1]).tolist(), window=16).rows == plain.rows


def test_names_that_do_not_exist_come_with_those_that_do(encoder, documents, tokenizer):
    for option, value in {"tokens": "every", "pooling": "max", "final_norm": "no", "pack": "x", "layers": [9]}.items():
        with pytest.raises(UnknownName, match="Known: "):
            profile(encoder, documents, tokenizer, **{option: value})
