"""Limits: the shortest list of blocks, names of data sets, the rows that one more token gives."""

import sys
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.torch
import torch

from hf_repgeo import measure
from hf_repgeo.errors import BadInput
from hf_repgeo.rows.block_runs import block_runs, stacks_among
from hf_repgeo.rows.causality import _changed
from hf_repgeo.rows.cleaning import split_documents
from hf_repgeo.rows.descriptions import _quantization
from hf_repgeo.rows.media import read_images
from hf_repgeo.rows.media_items import _patches, _pieces
from hf_repgeo.rows.media_rows import KINDS, Item, _kinds
from hf_repgeo.rows.packaged import packaged
from hf_repgeo.rows.readers import _takes
from hf_repgeo.rows.records import text_column
from hf_repgeo.rows.representations import windows_for
from hf_repgeo.rows.streams import random_keys
from hf_repgeo.rows.text_datasets import read_dataset
from hf_repgeo.rows.trace import BlockCall, Entry, tensors_of
from hf_repgeo.rows.windows import SHORTEST, Windows, draw_windows, make_windows, window_stream


def called(path, position, given, returned):
    return BlockCall(f"{path}.{position}", 0, [given], [returned], Entry(path, position))


def test_two_lists_of_two_entries_that_run_in_step_are_one_run_of_two_blocks(generator):
    states = torch.randn(5, 3, 8, generator=generator)
    turns = [("attention", 0), ("norm", 0), ("attention", 1), ("norm", 1)]
    runs = block_runs([called(*turn, states[i], states[i + 1]) for i, turn in enumerate(turns)])
    [in_step] = [run for run in runs if run.blocks[0][1].path != run.blocks[0][2].path]
    assert [(first.path, last.path) for _, first, last in in_step.blocks] == [
        ("attention.0", "norm.0"),
        ("attention.1", "norm.1"),
    ]


@pytest.mark.parametrize(("entries", "stacks"), [(2, 2), (1, 1)])
def test_a_second_stack_holds_two_of_the_returned_states_that_the_first_does_not(entries, stacks, generator):
    def blocks(count):
        return torch.nn.ModuleList(torch.nn.Sequential(torch.nn.Identity()) for _ in range(count))

    model = torch.nn.ModuleDict({"words": blocks(4), "letters": blocks(2)})
    states = {name: torch.randn(len(part) + 1, 3, 8, generator=generator) for name, part in model.items()}
    runs = block_runs(
        [
            called(name, i, states[name][i], states[name][i + 1])
            for name, part in model.items()
            for i in range(len(part))
        ]
    )
    returned = [*states["words"], *states["letters"][-entries:]]
    assert len(runs) == 2 and len(stacks_among(model, "", runs, returned)) == stacks


def test_two_blocks_that_are_given_the_same_run_in_parallel_and_are_no_run(generator):
    given, one, other = torch.randn(3, 3, 8, generator=generator)
    assert block_runs([called("experts", 0, given, one), called("experts", 1, given, other)]) == []
    changes_nothing = [called("blocks", 0, given, given), called("blocks", 1, given, other)]
    assert len(block_runs(changes_nothing)) == 1


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("owner/data", ("owner/data", None, "train")),
        ("owner/data:test", ("owner/data", None, "test")),
        ("owner/data:english:test", ("owner/data", "english", "test")),
    ],
)
def test_a_data_sets_name_may_be_followed_by_a_split_or_a_configuration_and_a_split(name, asked, monkeypatch):
    import datasets

    def load_dataset(place, config, *, split, streaming):
        assert (place, config, split) == asked
        return datasets.Dataset.from_dict({"text": ["one"]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = read_dataset(name).source
    assert (source["name"], source["config"], source["split"]) == asked


def test_random_keys_are_the_numbers_of_splitmix64():
    """As in the authors' program: a state that grows by the golden ratio, and a mix of it."""
    most = 2**64 - 1

    def split_mix(state):
        while True:
            state = state + 0x9E3779B97F4A7C15 & most
            z = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & most
            z = (z ^ z >> 27) * 0x94D049BB133111EB & most
            yield z ^ z >> 31

    assert next(split_mix(1234567)) == 6457827717110365317  # published with the generator's tests
    numbers = split_mix(next(split_mix(42)))
    assert random_keys(42, np.arange(5)).tolist() == [next(numbers) for _ in range(5)]


@pytest.mark.parametrize("carried", ["weights/model.safetensors", "tiny.gguf"])
def test_a_package_carries_a_folder_or_a_gguf_file(carried, tmp_path, monkeypatch):
    class File(str):
        def locate(self):
            return tmp_path / self

    monkeypatch.setattr(metadata, "distribution", lambda package: SimpleNamespace(files=[File(carried)]))
    path = tmp_path / carried
    assert packaged("some-model") == (path if path.suffix == ".gguf" else path.parent)


def test_a_parquet_file_with_a_broken_page_is_refused_in_one_sentence(tmp_path):
    vectors = pa.array(np.random.default_rng(0).normal(size=(500, 8)).tolist())
    pyarrow.parquet.write_table(pa.table({"vectors": vectors}), tmp_path / "x.parquet", compression="gzip")
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[200 : len(content) // 2] = bytes(len(content) // 2 - 200)
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(BadInput, match=r"`file`: got 'x.parquet' \(.+\); wanted a Parquet file"):
        measure(tmp_path / "x.parquet", "anisotropy")


def test_windows_hold_a_sixty_fourth_more_tokens_than_rows_are_wanted_where_massive_ones_are_left_out(
    tokenizer, documents
):
    windows = make_windows(tokenizer, documents, 128).select(list(range(19)))  # all but the short end
    drawn = windows_for(windows, tokenizer, ["sink_robust"], 500, 1, seed=2)
    held = sum(i not in tokenizer.all_special_ids for ids in drawn.ids for i in ids[1:])
    assert 508 <= held < 508 + SHORTEST


@pytest.mark.parametrize("pack", ["concatenate", "documents"])
def test_a_stream_gives_the_windows_that_are_made_at_once(pack, tokenizer, documents):
    stream = list(window_stream(tokenizer, documents, 32, pack, count=7))
    whole = make_windows(tokenizer, documents, 32, pack=pack)
    assert max(len(windows) for windows in stream) == 7
    assert [ids for windows in stream for ids in windows.ids] == whole.ids
    assert [owners for windows in stream for owners in windows.documents] == whole.documents


def test_every_row_of_a_safetensors_file_is_measured(tmp_path, generator):
    rows = torch.randn(5000, 3, generator=generator)  # more than one block
    safetensors.torch.save_file({"rows": rows}, tmp_path / "x.safetensors")
    found = measure(tmp_path / "x.safetensors", "anisotropy").rows[0]
    assert (found["n"], found["value"]) == (5000, pytest.approx(measure(rows, "anisotropy").value("anisotropy")))


@pytest.mark.parametrize("shape", [(6, 8), (6, 8, 1), (1, 6, 8)])
def test_grey_images_of_two_or_three_axes_are_read(shape):
    grey = np.arange(48, dtype=np.uint8).reshape(shape)
    [image] = read_images([grey])
    assert (image.mode, image.size) == ("RGB", (8, 6)) and image.getpixel((7, 5)) == (47, 47, 47)


def test_a_part_takes_the_inputs_it_names_or_all_if_it_takes_any():
    class Named(torch.nn.Module):
        def forward(self, input_ids):
            return input_ids

    class Open(torch.nn.Module):
        def forward(self, **inputs):
            return inputs

    text, image = {"input_ids": torch.zeros(1, 3)}, {"pixel_values": torch.zeros(1, 3, 8, 8)}
    assert [_takes(part(), given) for part in (Named, Open) for given in (text, image)] == [True, False, True, True]


def test_only_an_image_has_patches():
    model = SimpleNamespace(config=SimpleNamespace(patch_size=4))
    assert _patches(model, {"pixel_values": torch.zeros(1, 3, 8, 12)}) == 6
    assert _patches(model, {"input_values": torch.zeros(1, 3, 8)}) is None  # a sound, whose spectrogram has patches
    assert _patches(model, {"pixel_values": torch.zeros(1, 5, 96)}) is None  # patches already


def test_the_only_column_of_texts_is_taken_whatever_its_name():
    assert text_column([{"label": 1, "sentence": "a"}], None) == "sentence"
    with pytest.raises(BadInput, match="`text_column`: got none; wanted the text column, one of"):
        text_column([{"question": "a", "answer": "b"}], None)


def test_a_blocks_tensors_are_floating_and_have_two_axes(generator):
    rows, bias, ids = torch.randn(3, 4, generator=generator), torch.zeros(4), torch.zeros(3, 4, dtype=torch.int64)
    assert [each is rows for each in tensors_of([bias, ids, rows])] == [True]
    assert [each is rows for each in tensors_of([bias, (ids, rows)])] == [True]


def test_windows_are_all_drawn_where_no_number_is_given_and_a_count_comes_before_tokens():
    windows = Windows([[i, i] for i in range(9)], [[i, i] for i in range(9)])
    assert draw_windows(windows, 0) == windows
    assert len(draw_windows(windows, 0, tokens=5)) == 3
    assert len(draw_windows(windows, 0, tokens=5, count=7)) == 7


def test_what_stands_before_the_first_title_is_a_document_with_all_its_letters():
    text = "Before.\n = One = \nFirst.\n = Two = \nSecond."
    assert list(split_documents(text)) == ["Before.", " = One = \nFirst.", " = Two = \nSecond."]


@pytest.mark.parametrize(("flag", "bits"), [("load_in_4bit", 4), ("load_in_8bit", 8)])
def test_the_flags_of_bitsandbytes_tell_the_bits(flag, bits):
    config = SimpleNamespace(quantization_config={"quant_method": "bitsandbytes", flag: True})
    assert _quantization(SimpleNamespace(config=config)) == f"bitsandbytes {bits}-bit"


def test_one_token_is_exchanged_for_another_that_occurs():
    ids = torch.tensor([[5, 7, 5, 7], [5, 5, 7, 7]])
    assert _changed(torch.nn.Identity(), {"ids": ids}, "ids", 1)["ids"].tolist() == [[5, 5, 5, 7], [5, 7, 7, 7]]
    assert ids.tolist() == [[5, 7, 5, 7], [5, 5, 7, 7]]
    for only, other in ((0, 1), (1, 0), (7, 0)):
        alone = torch.full((1, 3), only)
        assert _changed(torch.nn.Identity(), {"ids": alone}, "ids", 1)["ids"].tolist() == [[only, other, only]]


@pytest.mark.parametrize(("seconds", "pieces"), [(30, [30]), (30.5, [30, 0.5]), (61, [30, 30, 1])])
def test_a_sound_is_cut_into_pieces_of_thirty_seconds(seconds, pieces):
    lengths = []

    def extractor(piece, **options):
        lengths.append(len(piece) / 100)
        return {"input_values": torch.zeros(1, len(piece))}

    extractor.sampling_rate = 100
    list(_pieces(torch.nn.Identity(), extractor, np.zeros(int(100 * seconds))))
    assert lengths == pieces


@pytest.mark.parametrize(("in_front", "special"), [(0, 0), (1, 1), (16, 16), (17, 0)])
def test_up_to_sixteen_rows_before_the_patches_are_special(in_front, special):
    """A class token and registers; more rows in front are none of these."""
    kinds = _kinds(Item({}, patches=49), 49 + in_front)
    assert int((kinds == KINDS["special"]).sum()) == special and (kinds[special:] == KINDS["text"]).all()


def test_a_converted_file_is_written_beside_its_place_and_moved_there_whole(tmp_path, monkeypatch):
    import transformers

    from hf_repgeo.rows.packaged import converted

    written = []

    class Saved:
        config = SimpleNamespace()

        def save_pretrained(self, folder):
            written.append(folder)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "config.json").write_text("{}")

    for name in ("accelerate", "gguf"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    for loader in (transformers.AutoModel, transformers.AutoTokenizer):
        monkeypatch.setattr(loader, "from_pretrained", lambda *_, **__: Saved())
    monkeypatch.setenv("HF_REPGEO_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF")
    copy = converted(file)
    assert (copy / "config.json").exists() and copy.name.startswith("small-") and converted(file) == copy
    assert len(written) == 2 and {folder.parent for folder in written} == {copy.parent} and copy not in written
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]
