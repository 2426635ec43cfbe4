"""Inputs that few have: each is read as it should be, or refused in a sentence that names the way out."""

import builtins
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import SIZES, seeded
from torch import nn

import hf_repgeo
from hf_repgeo.errors import BadInput, MissingExtra, UnknownName
from hf_repgeo.rows.capture import Layout
from hf_repgeo.rows.cleaning import clean_wiki
from hf_repgeo.rows.files import read_rows
from hf_repgeo.rows.hidden_states import same
from hf_repgeo.rows.identity import model_fingerprint
from hf_repgeo.rows.media import read_images, read_sounds
from hf_repgeo.rows.media_items import _prompt
from hf_repgeo.rows.options import made_folder
from hf_repgeo.rows.packaged import _moved
from hf_repgeo.rows.paired import _common
from hf_repgeo.rows.passes import encoder_of
from hf_repgeo.rows.points import _by_head
from hf_repgeo.rows.random_weights import feeding
from hf_repgeo.rows.records import text_column
from hf_repgeo.rows.small_files import utf8_text
from hf_repgeo.rows.stacks import layout_of
from hf_repgeo.rows.streams import RowStream
from hf_repgeo.rows.text_stream import text_stream
from hf_repgeo.rows.token_inputs import _relative_gap
from hf_repgeo.rows.trace import _entries, tensors_of
from hf_repgeo.rows.windows import _frame, make_windows
from hf_repgeo.rows.wrappers import unwrapped


@pytest.fixture
def without(monkeypatch):
    """Makes a package impossible to import."""

    def take_away(package):
        real = builtins.__import__

        def imported(name, *arguments):
            if name == package or name.startswith(f"{package}."):
                raise ImportError(f"No module named {package!r}", name=package)
            return real(name, *arguments)

        monkeypatch.setattr(builtins, "__import__", imported)
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, name)

    return take_away


@pytest.mark.parametrize(
    ("package", "extra", "use"),
    [
        ("PIL", "vision", lambda: list(read_images([np.zeros((4, 4, 3), np.uint8)]))),
        ("soundfile", "audio", lambda: list(read_sounds(__file__, 16_000))),
        ("scipy", "audio", lambda: list(read_sounds([{"array": np.ones(99), "sampling_rate": 8_000}], 16_000))),
        ("mwparserfromhell", "wiki", lambda: list(clean_wiki("<text>''bold''</text>"))),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(without, package, extra, use):
    without(package)
    with pytest.raises(MissingExtra, match=f"hf_repgeo\\[{extra}\\]"):
        use()


# --- images and sounds ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sound", [np.array([1.0, np.nan]), np.ones(1), np.ones((2, 2, 2))])
def test_a_sound_that_is_no_row_of_numbers_is_refused_by_its_shape(sound):
    with pytest.raises(BadInput, match="`audio`: got an array of shape .*; wanted two or more finite samples"):
        list(read_sounds([sound], 16_000))


def test_a_sound_of_words_is_refused_with_what_it_is():
    with pytest.raises(BadInput, match="`audio`: got a list .*; wanted sounds: files"):
        list(read_sounds([["a", "word"]], 16_000))


def test_one_entry_of_a_data_set_is_one_sound_and_a_generator_is_as_many_as_it_yields():
    one = {"array": np.linspace(-1, 1, 50), "sampling_rate": 16_000}
    [alone] = read_sounds(one, 16_000)
    found = list(read_sounds((one for _ in range(3)), 16_000))
    assert len(found) == 3 and all(np.array_equal(alone, sound) for sound in found)


def test_a_chat_template_places_the_image_itself():
    seen = []
    processor = SimpleNamespace(
        chat_template="x", apply_chat_template=lambda chat, tokenize: seen.append(chat) or "made"
    )
    assert _prompt(processor, "a cat", "image") == "made"
    assert seen[0][0]["content"] == [{"type": "image"}, {"type": "text", "text": "a cat"}]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_tensor_of_three_axes_is_refused_with_its_shape(tmp_path):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros((2, 3, 4), np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(BadInput, match=r"'x.safetensors' with a tensor of shape \(2, 3, 4\); wanted a matrix"):
        read_rows(tmp_path / "x.safetensors")


def test_a_small_file_that_is_a_folder_or_missing_is_refused(tmp_path):
    with pytest.raises(BadInput, match="`labels`: got '.*', a folder; wanted a file"):
        utf8_text(tmp_path, "labels")
    with pytest.raises(BadInput, match="nowhere.txt', which is not a file"):
        utf8_text(tmp_path / "nowhere.txt", "labels")


def test_a_folder_that_cannot_be_made_or_written_is_refused_before_the_work(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(BadInput, match="`out`: got '.*'; wanted a folder that can be written"):
        made_folder("out", tmp_path)

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(BadInput, match=r"\(Read-only file system\); wanted a folder that can be made"):
        made_folder("out", tmp_path / "new")


@pytest.mark.parametrize("name", ["texts.txt", "texts.jsonl"])
def test_a_stream_of_texts_skips_blank_lines_and_refuses_other_encodings(tmp_path, name):
    path = tmp_path / name
    lines = ["a cat", "a dog"] if name.endswith("txt") else ['{"text": "a cat"}', '{"text": "a dog"}']
    path.write_text("\n\n".join(lines) + "\n")
    assert list(text_stream(path, "none", None).texts(None)) == ["a cat", "a dog"]
    path.write_bytes('{"text": "é"}\n'.encode("latin-1"))
    with pytest.raises(BadInput, match="`text`: got .*wanted text in UTF-8"):
        list(text_stream(path, "none", None).texts(None))


def test_a_data_set_without_a_fingerprint_is_never_taken_for_one_that_was_read_before():
    from datasets import Dataset

    data = Dataset.from_dict({"text": ["a cat", "a dog"]})
    first, second = text_stream(data, "none", None), text_stream(data, "none", None)
    assert list(first.texts(None)) == list(second.texts(None)) == ["a cat", "a dog"]
    assert first.provenance() != second.provenance()


def test_the_only_column_of_conversations_is_read_if_no_column_is_text():
    chat = [{"role": "user", "content": "a cat"}]
    assert text_column([{"id": 1, "talk": chat}], None) == "talk"
    with pytest.raises(BadInput, match=r"one of \['one', 'two'\]"):
        text_column([{"one": chat, "two": chat}], None)


def test_an_end_of_wiki_markup_without_a_beginning_leaves_the_text():
    pytest.importorskip("mwparserfromhell", reason="the extra 'wiki' is not installed")
    [found] = clean_wiki(f"<page><text>{'before |} after {{note}} end ' * 20}</text></page>")
    assert "before" in found and "after" in found and "note" not in found and "end" in found


def test_a_copy_that_another_process_made_meanwhile_is_taken_for_ones_own(tmp_path):
    ours, theirs = tmp_path / "copy.1", tmp_path / "copy"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "weights").write_text("the same")
    with pytest.raises(OSError):  # a folder in the way that is no copy
        _moved(ours, theirs)
    (theirs / "config.json").write_text("{}")
    _moved(ours, theirs)
    assert (theirs / "config.json").exists()


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_of_several_sequences_in_one_matrix_are_one_sequence():
    layout = layout_of(torch.Size([12, 5]), 3, 4)
    state = torch.arange(60.0).view(12, 5)
    assert layout == Layout(None, (0,)) and torch.equal(layout.rows(state), state[None])


def test_a_row_for_each_sequence_has_no_axis_of_tokens():
    layout = layout_of(torch.Size([3, 5]), 3, 4)
    assert layout == Layout(0, ()) and layout.rows(torch.ones(3, 5)).shape == (3, 1, 5)


def test_a_map_of_places_with_channels_first_is_the_state_of_its_places():
    state = torch.randn(2, 9, 5)
    assert same(state, state.transpose(1, 2).reshape(2, 5, 3, 3))
    assert not same(state, torch.randn(2, 5, 3, 3))


def test_an_empty_block_and_streams_without_rows_change_nothing():
    stream = RowStream(10, 0)
    stream.take(np.zeros((0, 3)))
    assert stream.seen == 0 and stream.joined([RowStream(10, 0)]) is stream


def test_states_of_other_shapes_are_infinitely_far_apart():
    assert _relative_gap(torch.ones(2, 3), torch.ones(3, 3)) == torch.inf


def test_too_few_rows_that_two_models_share_are_refused():
    with pytest.raises(BadInput, match="`texts`: got 1 rows that both models share; wanted at least"):
        _common([torch.tensor([1, 2]), torch.tensor([2, 3])])


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_module_without_a_transformers_model_inside_is_refused():
    with pytest.raises(BadInput, match="Linear, with no PreTrainedModel inside"):
        encoder_of(nn.Linear(2, 2))


def test_prompts_that_are_learned_are_refused_with_the_base_model_as_the_way_out(encoder):
    wrapper = nn.Sequential()
    wrapper.model = encoder
    wrapper.peft_config = {"default": SimpleNamespace(is_prompt_learning=True)}
    with pytest.raises(BadInput, match="with prompt learning.*model.get_base_model()"):
        unwrapped(wrapper)


def test_heads_of_a_width_that_they_do_not_divide_are_refused():
    with pytest.raises(BadInput, match="'heads' of a width of 10 and 4 heads"):
        _by_head(SimpleNamespace(num_attention_heads=4), [], 10)
    with pytest.raises(BadInput, match="'heads' of a width of 10 and 0 heads"):
        _by_head(SimpleNamespace(), [], 10)


@pytest.mark.parametrize("point", ["attention.output.dense.nothing", "intermediate.nothing"])
def test_a_point_that_no_block_has_is_refused_with_those_that_there_are(encoder, tokenizer, documents, point):
    with pytest.raises(UnknownName, match="unknown point"):
        hf_repgeo.profile(encoder, documents, tokenizer=tokenizer, points=point, rows=100, progress=False)


def test_a_chain_of_layers_is_no_stack_of_blocks_and_a_chain_of_blocks_is():
    def block():
        return nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
            self.blocks = nn.Sequential(block(), block())

    assert [entry.path for entry in _entries(Model()).values()] == ["blocks", "blocks"]


def test_arguments_without_tensors_have_none():
    assert tensors_of(None) == tensors_of("text") == tensors_of([1, None]) == []


def test_weights_that_are_not_numbers_or_not_there_are_judged_by_name(encoder):
    model = nn.Module()
    model.register_buffer("steps", torch.arange(3))
    model.register_buffer("pooler", torch.arange(3))
    assert feeding(model, ["steps", "pooler", "absent"], lambda model: []) == ["steps"]


def test_a_tokenizer_that_changes_a_framed_text_has_no_frame(tokenizer):
    def odd(text, add_special_tokens=True):
        return {"input_ids": [1, 2, 3] if add_special_tokens else [7]}

    assert _frame(odd) == ([], []) and _frame(tokenizer) != ([], [])


def test_an_unknown_packing_is_refused(tokenizer):
    with pytest.raises(UnknownName, match="unknown pack 'loosely'. Known: concatenate, documents"):
        make_windows(tokenizer, ["a cat"], 8, "loosely", " ")


def test_a_quantized_weight_counts_by_its_parts_and_what_is_no_tensor_not_at_all(tmp_path):
    class Packed(torch.Tensor):
        def __tensor_flatten__(self):
            return ["codes"], None

    from transformers import BertConfig, BertModel

    model = seeded(BertModel, BertConfig(**SIZES, max_position_embeddings=64))

    def fingerprint(codes, step):
        packed = torch.zeros(2).as_subclass(Packed)
        packed.codes = codes
        state = {**BertModel.state_dict(model), "packed": packed, "step": step}
        model.state_dict = lambda *_, **__: state
        return model_fingerprint(model, None, None)

    same_codes = fingerprint(torch.arange(4), 1), fingerprint(torch.arange(4), 2)
    assert same_codes[0] == same_codes[1] != fingerprint(torch.arange(4) + 1, 1)
