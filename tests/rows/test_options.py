"""Options that make no sense are refused with one sentence, before a model is loaded."""

import numpy as np
import pytest
import torch
from tiny import SIZES, seeded
from transformers import BertTokenizer

import hf_repgeo
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.report import GeometryReport
from hf_repgeo.rows.forward import forward_windows
from hf_repgeo.rows.windows import make_windows

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


@pytest.mark.parametrize(
    ("door", "option", "value"),
    [
        (hf_repgeo.compare, "comparisons", 5),
        (hf_repgeo.compare, "prompt", 5),
        (hf_repgeo.compare, "prompt_b", ["a"]),
        (hf_repgeo.profile_sequences, "measures", 5),
        (hf_repgeo.profile_sequences, "tokens", 5),
        (hf_repgeo.profile_sequences, "window", "8"),
    ],
)
def test_bad_options_of_other_entry_points_are_refused_too(encoder, documents, tokenizer, door, option, value):
    with pytest.raises(BadInput, match=f"`{option}`: got "):
        door(encoder, texts=documents, tokenizer=tokenizer, **{option: value})


@pytest.fixture(scope="module")
def vit():
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return seeded(ViTModel, ViTConfig(**sizes, image_size=32, patch_size=8))


def test_a_model_that_reads_no_text_is_refused_by_every_function_that_takes_texts(vit, documents, tokenizer):
    windows = make_windows(tokenizer, documents, 16)
    doors = [
        lambda: hf_repgeo.profile(vit, documents, tokenizer=tokenizer),
        lambda: hf_repgeo.compare(vit, texts=documents, tokenizer=tokenizer),
        lambda: hf_repgeo.profile_sequences(vit, texts=documents, tokenizer=tokenizer),
        lambda: list(forward_windows(vit, windows, None, "raw", 8, None)),
    ]
    for door in doors:
        with pytest.raises(BadInput, match="ViTModel, no part of which runs on input_ids alone"):
            door()


def test_compare_and_sequences_read_with_the_text_tower(documents, tokenizer):
    from transformers import CLIPConfig, CLIPModel

    text = SIZES | {"max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 3}
    picture = {name: size for name, size in SIZES.items() if name != "vocab_size"} | {"image_size": 32, "patch_size": 8}
    clip = seeded(CLIPModel, CLIPConfig(text_config=text, vision_config=picture))
    report = hf_repgeo.compare(clip, texts=documents, tokenizer=tokenizer, rows=100, measures=[])
    assert report.unique("stack") == ["decoder"]
    found = hf_repgeo.profile_sequences(clip, texts=documents, tokenizer=tokenizer, sequences=4, window=16)
    assert found.unique("layer") == [0, 1, 2]


@pytest.mark.parametrize("option", [{"pooling": "cls"}, {"window": 16}])
def test_options_of_texts_are_refused_beside_images(vit, option):
    with pytest.raises(BadInput, match="beside images or audio; wanted 'tokens' and no window"):
        hf_repgeo.profile(vit, images=[np.zeros((32, 32, 3))], **option)


def test_objects_that_are_no_processors_are_refused(vit):
    images = [np.zeros((32, 32, 3))] * 2
    for processor, texts, words in [
        (5, None, "`processor`: got a int; wanted a processor of transformers"),
        (BertTokenizer, None, "`processor`: got a type"),
        (dict, ["a", "b"], "`processor`: got a type"),
        (lambda **_: None, ["a", "b"], "`texts`: got texts beside images for a ViTModel"),
    ]:
        with pytest.raises(BadInput, match=words):
            hf_repgeo.profile(vit, texts, images=images, processor=processor)


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
