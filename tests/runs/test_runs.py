"""Runs: which report belongs to which model and text, what a stopped run leaves, and two runs at once."""

import copy
import json
import shutil
import signal
import subprocess
import sys
import threading

import pytest
import torch
from tiny import seeded

import hf_repgeo
from hf_repgeo.measures.batch_means import BatchMeans
from hf_repgeo.report import GeometryReport
from hf_repgeo.rows.identity import BLOCK, _odd_numbers, checksum, model_fingerprint
from hf_repgeo.runs import texts as run_of_texts
from hf_repgeo.runs.lock import locked
from hf_repgeo.runs.run_file import open_run


@pytest.fixture
def run(encoder, tokenizer, documents, tmp_path):
    def run(model=encoder, texts=documents, out=tmp_path / "out", **options):
        usual = {"measures": "anisotropy", "tokenizer": tokenizer, "tokens": "all", "rows": 200, "batch_rows": 100}
        return hf_repgeo.profile(model, texts, out=out, progress=False, **usual | options)

    return run


def reports(folder):
    return [GeometryReport.from_json(path) for path in sorted(folder.glob("profile*.json"))]


def trained_one_step(model):
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model(input_ids=torch.tensor([[2, 5, 7, 3]])).last_hidden_state.square().sum().backward()
    optimizer.step()
    return model


# --- what identifies a model ------------------------------------------------------------------------------------------


def test_a_checksum_is_the_multilinear_hash_of_the_bits(generator):
    """Against Python's own integers."""
    x = torch.randn(70, generator=generator)
    words, odd = x.view(torch.int32).tolist(), _odd_numbers()[:70].tolist()
    expected = sum(word * factor for word, factor in zip(words, odd)) % 2**64
    assert int.from_bytes(checksum(x), "little") == expected
    assert len(checksum(torch.zeros(2 * BLOCK + 1))) == 3 * 8


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "bfloat16", "float16", "int64", "int8", "bool", "float8_e4m3fn"]
)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7)])
def test_a_checksum_sees_a_change_in_any_entry(dtype, shape):
    dtype = getattr(torch, dtype)
    x = torch.zeros(shape, dtype=dtype)
    seen = {checksum(x)}
    for entry in range(x.numel()):
        changed = x.clone().to(torch.float32)
        changed.view(-1)[entry] = 1
        seen.add(checksum(changed.to(dtype)))
    assert len(seen) == 1 + x.numel()


def test_a_checksum_does_not_depend_on_how_many_blocks_are_summed_at_once(generator):
    x = torch.randn(7 * BLOCK + 5, generator=generator)
    whole = x.view(torch.int32).to(torch.int64)
    sums = [(block * _odd_numbers()[: len(block)]).sum() for block in whole.split(BLOCK)]
    assert checksum(x) == torch.stack(sums).numpy().tobytes()


def test_a_checksum_reads_views_as_what_they_show():
    x = torch.arange(24, dtype=torch.uint8).reshape(4, 6)
    assert checksum(x[:, 1:]) == checksum(x[:, 1:].contiguous()) != checksum(x[:, :5])
    assert checksum(x.view(-1)[1:]) == checksum(x.view(-1)[1:].clone())


def test_one_training_step_another_configuration_or_two_swapped_rows_make_another_model(encoder):
    prints = [model_fingerprint(encoder), model_fingerprint(trained_one_step(encoder))]
    other = copy.deepcopy(encoder)
    assert model_fingerprint(other) == prints[0]
    other.config.hidden_act = "relu"
    prints.append(model_fingerprint(other))
    swapped = copy.deepcopy(encoder)
    with torch.no_grad():
        words = swapped.embeddings.word_embeddings.weight
        words[[5, 6]] = words[[6, 5]]
    prints.append(model_fingerprint(swapped))
    assert len(set(prints)) == 4


def test_weights_on_disk_are_known_by_their_files_hashed_once(encoder_folder, encoder, tmp_path, monkeypatch):
    from hf_repgeo.rows import identity

    folder, cache = shutil.copytree(encoder_folder, tmp_path / "model"), tmp_path / "cache" / "hashes.json"
    offloaded = copy.deepcopy(encoder).to("meta")
    hashed, whole = [], identity._sha256
    monkeypatch.setattr(identity, "_sha256", lambda file: hashed.append(file.name) or whole(file))
    first = model_fingerprint(offloaded, str(folder), cache)
    assert model_fingerprint(offloaded, str(folder), cache) == first and hashed == ["model.safetensors"]
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_fingerprint(offloaded, str(folder), cache) != first and len(hashed) == 2


# --- which report belongs to which model ------------------------------------------------------------------------------


def test_a_trained_model_is_measured_anew_and_the_old_report_is_kept(run, encoder, tmp_path):
    before = run()
    trained = trained_one_step(encoder)
    after = run(trained)
    assert after.rows == run(trained, out=None).rows != before.rows
    assert [report.rows for report in reports(tmp_path / "out")] == [before.rows, after.rows]


@pytest.mark.parametrize("change", ["text", "tokenizer", "documents without a source"])
def test_another_text_or_tokenizer_starts_anew(run, documents, plain_tokenizer, tmp_path, change):
    other = {
        "text": {"texts": documents[::-1]},
        "tokenizer": {"tokenizer": plain_tokenizer},
        "documents without a source": {"texts": hf_repgeo.Corpus(documents[1:])},
    }[change]
    run(texts=hf_repgeo.Corpus(documents))
    assert run(**other).rows == run(**other, out=None).rows
    assert len(reports(tmp_path / "out")) == 2


def stop_after(places: int, monkeypatch):
    whole, calls = BatchMeans.measure, []

    def measure(self, *arguments):
        calls.append(1)
        if len(calls) > places:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(BatchMeans, "measure", measure)
    return calls


def test_a_stopped_run_of_another_model_is_not_resumed(run, encoder, monkeypatch, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(2, patch)
        run()
    trained = trained_one_step(encoder)
    assert run(trained).rows == run(trained, out=None).rows
    stopped, _ = reports(tmp_path / "out")
    assert len(stopped) == 2 and "finished" not in stopped.provenance


def test_a_run_goes_on_without_running_the_model_again(run, monkeypatch, tmp_path):
    """The forward pass is made to seem long, so that its rows are worth keeping."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hf_repgeo.runs.kept_rows.WRITE_SPEED", 1e15)
        stop_after(1, patch)
        run()
    rows_file = tmp_path / "out" / ".profile-rows.safetensors"
    assert rows_file.exists()
    with monkeypatch.context() as patch:
        patch.setattr(run_of_texts, "token_representations", None)
        report = run()
    assert report.rows == run(out=None).rows and not rows_file.exists()


@pytest.mark.parametrize("rows", ["of another run", "broken"])
def test_kept_rows_that_are_not_this_runs_are_not_used(run, monkeypatch, tmp_path, rows):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hf_repgeo.runs.kept_rows.WRITE_SPEED", 1e15)
        stop_after(1, patch)
        run(seed=0 if rows == "broken" else 1)
    if rows == "broken":
        (tmp_path / "out" / ".profile-rows.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    assert run().rows == run(out=None).rows


def test_rows_whose_writing_costs_more_than_it_saves_are_not_kept(run, monkeypatch, tmp_path):
    monkeypatch.setattr("hf_repgeo.runs.kept_rows.WRITE_SPEED", 1.0)
    stop_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"profile.json", ".lock"}


@pytest.mark.parametrize("disk", ["has little room", "is full"])
def test_a_disk_without_room_for_kept_rows_ends_no_run(run, monkeypatch, tmp_path, caplog, disk):
    from safetensors import SafetensorError

    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("hf_repgeo.runs.kept_rows.WRITE_SPEED", 1e15)
    if disk == "is full":
        monkeypatch.setattr("safetensors.torch.save_file", full)
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10, 10))
    assert run().rows == run(out=None).rows
    assert ("rows are not kept for resuming: I/O error" in caplog.text) == (disk == "is full")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"profile.json", ".lock"}


def test_a_layer_with_only_some_of_its_rows_is_not_done(run, tmp_path):
    options = {"measures": ["anisotropy", "effective_rank"]}
    whole = run(**options)
    path = tmp_path / "out" / "profile.json"
    content = json.loads(path.read_text())
    content["rows"] = [row for row in content["rows"] if (row["layer"], row["measure"]) != (1, "effective_rank")]
    path.write_text(json.dumps(content))
    again = run(**options)
    key = lambda row: (row["layer"], row["measure"])  # noqa: E731
    assert sorted(again.rows, key=key) == sorted(whole.rows, key=key) and "finished" in again.provenance


def test_a_report_that_cannot_be_read_is_moved_aside(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "profile.json").write_text("{")
    (tmp_path / "out" / "profile.png").write_text("drawn from it")
    assert len(run()) == 3
    assert (
        len(list((tmp_path / "out").glob("profile-*.json"))) == len(list((tmp_path / "out").glob("profile-*.png"))) == 1
    )


# --- a finished run asked for again ---------------------------------------------------------------------------------


@pytest.fixture
def folder(encoder_folder, tmp_path):
    return shutil.copytree(encoder_folder, tmp_path / "model")


def never(*_, **__):
    raise AssertionError("the model was loaded")


def test_a_finished_run_answers_from_files_without_loading_the_model(run, folder, monkeypatch):
    saved = {"model": str(folder), "tokenizer": None}
    report = run(**saved)
    monkeypatch.setattr("hf_repgeo.runs.job.load_model", never)
    again = run(**saved, batch_size=3)
    assert again == report and again.provenance == report.provenance
    for other in ({"layers": [0]}, {"seed": 1}, {"texts": ["another text " * 200]}, {"dtype": "float64"}):
        with pytest.raises(AssertionError, match="was loaded"):
            run(**saved | other)


@pytest.mark.parametrize("change", ["weights", "configuration", "tokenizer"])
def test_a_changed_file_of_the_model_is_no_answer(run, folder, monkeypatch, change):
    run(str(folder), tokenizer=None)
    file = folder / {"weights": "model.safetensors", "configuration": "config.json"}.get(change, "tokenizer.json")
    content = bytearray(file.read_bytes())
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if change == "weights" else content + b"\n")
    monkeypatch.setattr("hf_repgeo.runs.job.load_model", never)
    with pytest.raises(AssertionError, match="was loaded"):
        run(str(folder), tokenizer=None)


def test_unrelated_files_beside_a_model_change_no_answer(run, folder, monkeypatch):
    report = run(str(folder), tokenizer=None, out=folder)  # its report lies beside the weights
    (folder / "README.md").write_text("a card")
    monkeypatch.setattr("hf_repgeo.runs.job.load_model", never)
    assert run(str(folder), tokenizer=None, out=folder) == report


def test_an_unfinished_run_or_an_incomplete_report_is_no_answer(run, folder, monkeypatch, tmp_path):
    saved = {"model": str(folder), "tokenizer": None}
    whole = run(**saved)
    path = tmp_path / "out" / "profile.json"
    content = json.loads(path.read_text())
    content["rows"].pop()
    path.write_text(json.dumps(content))
    assert sorted(map(str, run(**saved).rows)) == sorted(map(str, whole.rows))


def test_every_token_of_a_corpus_is_answered_from_files_too(run, folder, monkeypatch):
    saved = {"model": str(folder), "tokenizer": None, "rows": "all"}
    report = run(**saved)
    monkeypatch.setattr("hf_repgeo.runs.job.load_model", never)
    assert run(**saved) == report
    with pytest.raises(AssertionError, match="was loaded"):
        run(**saved | {"rows": 200})


def test_image_files_are_identified_by_their_content(tmp_path, monkeypatch):
    from PIL import Image
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    seeded(ViTModel, ViTConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    files = [tmp_path / f"{number}.png" for number in range(8)]
    for number, file in enumerate(files):
        Image.effect_noise((40, 40), 60 + number).save(file)
    options = {"measures": "anisotropy", "rows": 100, "batch_rows": 50, "out": tmp_path / "out", "progress": False}
    report = hf_repgeo.profile(str(tmp_path / "vit"), images=files, **options)
    monkeypatch.setattr("hf_repgeo.runs.job.load_model", never)
    assert hf_repgeo.profile(str(tmp_path / "vit"), images=files, **options) == report
    Image.effect_noise((40, 40), 90).save(files[3])
    with pytest.raises(AssertionError, match="was loaded"):
        hf_repgeo.profile(str(tmp_path / "vit"), images=files, **options)


def test_a_stopped_run_of_images_or_sounds_measures_only_what_is_left(tmp_path):
    import numpy as np
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    filters = {"conv_dim": (8, 8), "conv_stride": (20, 4), "conv_kernel": (20, 4), "num_conv_pos_embeddings": 4}
    model = seeded(Wav2Vec2Model, Wav2Vec2Config(**sizes, **filters, num_conv_pos_embedding_groups=2, vocab_size=9))
    sounds = list(np.random.default_rng(0).normal(size=(4, 16_000)).astype("float32"))
    options = {"audio": sounds, "processor": Wav2Vec2FeatureExtractor(), "measures": "anisotropy", "progress": False}
    options |= {"rows": 100, "batch_rows": 50, "out": tmp_path}
    report = hf_repgeo.profile(model, **options)
    assert report.unique("layer") == [0, 1, 2] and report.provenance["text"]["name"] == "audio"
    assert hf_repgeo.profile(model, **options) == report  # finished: read back
    stopped = report.as_dict()
    stopped["rows"] = [row for row in stopped["rows"] if row["layer"] == 0]
    del stopped["provenance"]["finished"]
    (tmp_path / "profile.json").write_text(json.dumps(stopped))
    assert hf_repgeo.profile(model, **options).rows == report.rows


def test_models_that_no_file_identifies_are_measured_again(run, folder, tokenizer):
    """A tokenizer in memory, weights that are drawn anew, code from a repository."""
    drawn, code = {"allow_random_weights": True}, {"trust_remote_code": True}
    for options in ({"tokenizer": tokenizer}, {"tokenizer": None, **drawn}, {"tokenizer": None, **code}):
        report = run(str(folder), out=folder.parent / "other", **options)
        assert "request" not in report.provenance


# --- two at once ----------------------------------------------------------------------------------------------------


def test_two_runs_into_one_folder_each_finish_with_their_own_report(run, tmp_path):
    found = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: run(seed=seed)})) for seed in (0, 1, 2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert {seed: report.provenance["seed"] for seed, report in found.items()} == {0: 0, 1: 1, 2: 2}
    on_disk = {report.provenance["seed"]: report for report in reports(tmp_path / "out")}
    assert on_disk == found and all("finished" in report.provenance for report in found.values())


def test_files_moved_aside_in_one_second_get_different_names(tmp_path):
    for number in range(4):
        with open_run(tmp_path, {"number": number}) as opened:
            opened.finish()
    assert sorted(report.provenance["number"] for report in reports(tmp_path)) == [0, 1, 2, 3]


def test_a_lock_is_released_when_its_process_is_killed(tmp_path):
    code = f"""
import pathlib, time
from hf_repgeo.runs.lock import locked
with locked(pathlib.Path({str(tmp_path)!r})):
    print("locked", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    entered = threading.Event()

    def enter():
        with locked(tmp_path):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(0.2)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    waiting.join(60)
    assert entered.is_set()
    holder.stdout.close()
