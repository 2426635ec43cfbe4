"""No failure of the callback ends a training: of a measurement, of memory, of the disk, of an earlier history."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from test_callbacks import CHEAP, TEXTS, everything, geometry_lines, make_model, make_trainer, numbers, trained
from transformers import Trainer

from hf_repgeo import GeometryCallback
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.training import sample_run, watch


def failing(error: BaseException, at: int, monkeypatch) -> None:
    """The measurement number `at` raises; the others work."""
    calls, kept = [], sample_run.sample_representations

    def now_and_then(*arguments):
        calls.append(1)
        if len(calls) == at:
            raise error
        return kept(*arguments)

    monkeypatch.setattr(sample_run, "sample_representations", now_and_then)


@pytest.mark.parametrize(
    "error", [RuntimeError("a kernel failed"), KeyError("x"), AssertionError(), OSError(5, "disk")]
)
def test_an_exception_is_logged_once_gives_a_missing_value_and_changes_nothing(tmp_path, monkeypatch, caplog, error):
    without = everything(trained(tmp_path / "without"))
    failing(error, 2, monkeypatch)
    callback = GeometryCallback(TEXTS, every=2, **CHEAP)
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        trainer = trained(tmp_path / "with", callback=callback)
    assert everything(trainer) == without
    assert callback.steps == [2, 4, 6]
    row = callback.at(4).row("anisotropy", layer=1)
    assert row["value"] is None and row["warnings"][0].startswith(f"failed: {type(error).__name__}")
    assert callback.at(6).value("anisotropy", layer=1) is not None
    line = geometry_lines(trainer)[1]
    assert line["geometry/failed"] == 6 and "geometry/anisotropy/mean" not in line
    assert len([m for m in caplog.messages if "could not be measured" in m]) == 1
    assert not [m for m in caplog.messages if m.startswith("failed at step")]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_halves_the_rows_of_the_next_measurement(tmp_path, monkeypatch, caplog, error):
    failing(error, 1, monkeypatch)
    callback = GeometryCallback(TEXTS, every=2, **CHEAP)
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        trainer = trained(tmp_path, callback=callback)
    whole = callback.history.provenance["texts"]["rows"]
    assert 0.4 * whole < callback.at(4).row("anisotropy", layer=0)["n"] < 0.6 * whole
    assert callback.at(2).row("anisotropy", layer=0)["warnings"][0].startswith("out_of_memory: ")
    assert callback.at(6).value("effective_rank", layer=2) > 1 and len(geometry_lines(trainer)) == 3
    assert len([m for m in caplog.messages if m.startswith("out_of_memory") and "the next measurement has" in m]) == 1


def test_a_measure_without_memory_counts_as_out_of_memory(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("hf_repgeo.training.fixed_sample.evaluate_all", fails)
    callback = GeometryCallback(TEXTS, every=3, **CHEAP)
    trained(tmp_path, callback=callback)
    assert callback.sample.rows < callback.history.provenance["texts"]["rows"] / 3


def test_an_interrupt_is_not_swallowed(tmp_path, monkeypatch):
    failing(KeyboardInterrupt(), 1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, callback=GeometryCallback(TEXTS, every=2, **CHEAP))


def test_a_full_disk_is_logged_once_and_the_training_goes_on(tmp_path, monkeypatch, caplog):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watch, "save_history", full)
    callback = GeometryCallback(TEXTS, every=2, **CHEAP)
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        trained(tmp_path, callback=callback, save_strategy="steps", save_steps=2)
    assert callback.steps == [2, 4, 6]
    assert len([m for m in caplog.messages if "No space left on device; the training continues" in m]) == 1


@pytest.fixture(scope="module")
def half_trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half")
    arguments = {"save_strategy": "steps", "save_steps": 3, "max_steps": 3}
    trained(folder, callback=GeometryCallback(TEXTS, every=3, **CHEAP), **arguments)
    return folder / "checkpoint-3"


@pytest.fixture
def checkpoint(half_trained, tmp_path):
    """A copy of a checkpoint with its history."""
    return Path(shutil.copytree(half_trained, tmp_path / "checkpoint-3"))


DEEP = '{"format": 1, "provenance": {}, "rows": ' + "[" * 5000 + "]" * 5000 + "}"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"format": 1}', DEEP, b"\xff\xfe\x00", '{"format": 1, "provenance": {}, "rows": []}']
    + ['{"format": 1, "provenance": [], "rows": [{}]}', '{"format": 1, "provenance": {"probe": 1}, "rows": [5]}'],
)
def test_a_damaged_history_begins_anew_and_never_ends_the_training(checkpoint, tmp_path, caplog, content):
    arguments = {"save_strategy": "steps", "save_steps": 3}
    file = checkpoint / "geometry.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    resumed = GeometryCallback(TEXTS, every=3, **CHEAP)
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        trained(tmp_path, callback=resumed, resume=str(checkpoint), **arguments)
    assert resumed.steps == [6]
    told = [message for message in caplog.messages if "begins again at step 3: " in message]
    assert len(told) == 1 and "no geometry.json" not in told[0]


@pytest.mark.parametrize(
    "damage",
    [{"rows": [{}]}, {"rows": [{"details": {}}]}, {"rows": [{"details": {"step": None}}]}, {"rows": None}]
    + [{"provenance": {"counts": 5}}, {"provenance": {"skipped": "x"}}, {"provenance": {"texts": None}}],
)
def test_a_history_with_damaged_rows_begins_anew(checkpoint, tmp_path, damage):
    arguments = {"save_strategy": "steps", "save_steps": 3}
    file = checkpoint / "geometry.json"
    content = json.loads(file.read_text())
    provenance = content["provenance"] | damage.get("provenance", {})
    file.write_text(json.dumps(content | damage | {"provenance": provenance}))
    resumed = GeometryCallback(TEXTS, every=3, **CHEAP)
    trained(tmp_path, callback=resumed, resume=str(checkpoint), **arguments)
    assert resumed.steps == [6]


def test_a_history_of_the_former_format_goes_on(checkpoint, tmp_path):
    """`probe` was the name of `texts` in the provenance."""
    arguments = {"save_strategy": "steps", "save_steps": 3}
    file = checkpoint / "geometry.json"
    file.write_text(file.read_text().replace('"texts": {', '"probe": {'))
    resumed = GeometryCallback(TEXTS, every=3, **CHEAP)
    trained(tmp_path, callback=resumed, resume=str(checkpoint), **arguments)
    assert resumed.steps == [3, 6]


# --- leaving a band -------------------------------------------------------------------------------------------------


def test_a_measure_that_leaves_its_band_is_logged_and_can_end_the_training(tmp_path, caplog):
    band = {"effective_rank": (1e3, None), "anisotropy": (None, 1.0)}
    callback = GeometryCallback(TEXTS, every=2, **CHEAP, collapse=band, stop=True)
    with caplog.at_level(logging.WARNING, "hf_repgeo"):
        trainer = trained(tmp_path, callback=callback)
    assert trainer.state.global_step == 2
    assert "collapse at step 2: encoder layer 0: effective_rank is" in "".join(caplog.messages)
    calm = GeometryCallback(TEXTS, every=2, **CHEAP, collapse={"effective_rank": (1.0, 1e3)}, stop=True)
    assert trained(tmp_path / "calm", callback=calm).state.global_step == 6


def test_a_band_is_watched_even_where_its_measure_is_not_logged(tmp_path):
    band = {"participation_ratio": (1e3, None)}
    callback = GeometryCallback(TEXTS, every=2, measures="anisotropy", collapse=band, stop=True)
    trainer = trained(tmp_path, callback=callback)
    assert trainer.state.global_step == 2
    assert not any("participation_ratio" in key for line in trainer.state.log_history for key in line)


def test_an_early_stop_has_its_last_step_measured(tmp_path):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 4

    callback = GeometryCallback(TEXTS, **CHEAP)
    trainer = make_trainer(tmp_path, make_model("bert"), Trainer, [callback, Stop()], max_steps=60)
    trainer.train()
    assert callback.steps == [1, 2, 4]
    assert [line["step"] for line in geometry_lines(trainer)] == [1, 2, 4]


@pytest.mark.parametrize(
    "asked, error, message",
    [
        ({"collapse": {"anisotropi": (0, 1)}}, UnknownName, "unknown measure 'anisotropi'. Did you mean 'anisotropy'"),
        (
            {"collapse": {"anisotropy": (1, 0)}},
            BadInput,
            r"`collapse`: got \(1, 0\) for anisotropy; wanted \(low, high\)",
        ),
        ({"collapse": {"anisotropy": 0.5}}, BadInput, "`collapse`: got 0.5 for anisotropy"),
        ({"collapse": {"anisotropy": (None, None)}}, BadInput, "`collapse`"),
        ({"log": "all"}, UnknownName, "unknown log 'all'"),
        ({"rows": 1}, BadInput, "`rows`: got 1; wanted an integer of at least 2"),
        ({"tokens": "sink-robust"}, UnknownName, "unknown token policy 'sink-robust'. Did you mean 'sink_robust'"),
    ],
)
def test_wrong_settings_are_refused_at_once(asked, error, message):
    with pytest.raises(error, match=message):
        GeometryCallback(TEXTS, **asked)


def test_texts_are_needed_and_their_former_name_still_works(tmp_path):
    for none in ({}, {"texts": []}):
        with pytest.raises(BadInput, match="`texts`: got none"):
            GeometryCallback(**none)
    with pytest.warns(DeprecationWarning, match="`probe` is now called `texts`"):
        former = GeometryCallback(probe=TEXTS, every=3, **CHEAP)
    now = GeometryCallback(TEXTS, every=3, **CHEAP)
    for callback, folder in ((former, "former"), (now, "now")):
        trained(tmp_path / folder, callback=callback)
    assert numbers(former.history) == numbers(now.history)


# --- the sample -----------------------------------------------------------------------------------------------------


def test_no_more_text_is_read_than_the_rows_need(tmp_path):
    read = []

    def stream():
        for number in range(10_000):
            read.append(number)
            yield TEXTS[number % len(TEXTS)]

    callback = GeometryCallback(stream(), rows=300, every=6, **CHEAP)
    trained(tmp_path, callback=callback)
    assert callback.at(6).row("anisotropy", layer=0)["n"] == 300 and len(read) < 200


def test_of_many_texts_the_sample_is_an_even_draw_that_the_seed_decides():
    from tiny import make_tokenizer

    from hf_repgeo.training.fixed_sample import FixedSample

    texts = ["cat " * 6] * 500 + ["dog " * 6] * 500
    tokenizer, model = make_tokenizer(special=True), make_model("bert")
    dog = tokenizer.convert_tokens_to_ids("dog")
    drawn = FixedSample.of(texts, tokenizer, model, rows=1001)
    share = sum(dog in ids for ids in drawn.windows.ids) / len(drawn.windows)
    assert drawn.rows == 1001 and 0.3 < share < 0.7
    assert FixedSample.of(texts, tokenizer, model, rows=1001) == drawn
    assert FixedSample.of(texts, tokenizer, model, rows=1001, seed=1) != drawn


def test_token_policies_have_their_own_keys(tmp_path):
    policies = ["all", "sink_robust", "one_per_type"]
    callback = GeometryCallback(TEXTS, tokens=policies, every=6, **CHEAP)
    trainer = trained(tmp_path, callback=callback)
    report = callback.at(6)
    n = {policy: report.row("anisotropy", layer=1, tokens=policy)["n"] for policy in policies}
    assert n["one_per_type"] <= 24 and n["sink_robust"] == n["all"] - 2 * len(TEXTS)
    line = geometry_lines(trainer)[0]
    assert line["geometry/sink_robust/anisotropy/mean"] != line["geometry/anisotropy/mean"]
