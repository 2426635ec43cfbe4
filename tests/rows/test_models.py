"""Models: where they come from, what they come wrapped in, what is refused, what the report states about them."""

import copy
import json
import shutil

import pytest
import torch
from tiny import seeded

import hf_repgeo
from hf_repgeo.errors import BadInput
from hf_repgeo.rows.models import _check_that_disk_is_read, load_model, resolved_device
from hf_repgeo.rows.passes import run
from hf_repgeo.rows.wrappers import unwrapped


@pytest.fixture
def folder(encoder_folder, tmp_path):
    """A copy to break."""
    return shutil.copytree(encoder_folder, tmp_path / "model")


def measured(model, documents, **options):
    usual = {"measures": "anisotropy", "tokens": "all", "rows": 200, "batch_rows": 100, "device": "cpu"}
    return hf_repgeo.profile(model, documents, progress=False, **usual | options)


def edit(folder, change):
    """Rewrites the folder's weights."""
    from safetensors.torch import load_file, save_file

    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


# --- weights that are not there -------------------------------------------------------------------------------------


def without(part):
    return lambda weights: {name: tensor for name, tensor in weights.items() if part not in name}


def renamed(weights):
    return {name.replace("layer.1.", "layer.7."): tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (renamed, "encoder.layer.1."),
        (without("word_embeddings"), "embeddings.word_embeddings.weight"),
        (without("layer.0.attention.output.LayerNorm.bias"), "encoder.layer.0.attention.output.LayerNorm.bias"),
        (lambda weights: {"pooler.dense.bias": weights["pooler.dense.bias"]}, "embeddings"),
    ],
)
def test_missing_weights_that_feed_the_hidden_states_are_refused(folder, documents, change, named):
    edit(folder, change)
    with pytest.raises(BadInput, match=f"a checkpoint without .*such as '{named}.*allow_random_weights=True"):
        measured(folder, documents)
    report = measured(folder, documents, allow_random_weights=True)
    assert named in " ".join(report.provenance["random_weights"]["names"])
    assert not any("pooler" in name for name in report.provenance["random_weights"]["names"])
    assert all(row["warnings"][-1].startswith("random_weights: ") for row in report)


def test_weights_that_feed_only_layers_above_those_asked_for_may_be_missing(folder, documents):
    edit(folder, without("layer.1."))
    report = measured(folder, documents, layers=[0, 1])
    assert report.unique("layer") == [0, 1] and "random_weights" not in report.provenance
    with pytest.raises(BadInput, match=r"a checkpoint without 16 of the model's .* such as 'encoder.layer.1."):
        measured(folder, documents, layers=[2])


def test_an_idle_expert_counts_where_its_block_feeds_a_measured_layer():
    from functools import partial

    from tiny import seeded
    from transformers import MixtralConfig, MixtralModel

    from hf_repgeo.rows.random_weights import feeding, states_on_tokens

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MixtralConfig(**sizes, num_key_value_heads=2, num_local_experts=2, vocab_size=24)
    model = seeded(MixtralModel, config)
    for block in model.layers:
        block.unused = torch.nn.Linear(2, 2)  # a part that does not run, as an expert that no token chose
    names = [f"layers.{i}.unused.weight" for i in range(2)]
    assert feeding(model, names, partial(states_on_tokens, layers=[1])) == names[:1]
    assert feeding(model, names, states_on_tokens) == names


def test_a_missing_pooler_feeds_nothing(folder, documents, encoder, tokenizer):
    edit(folder, without("pooler"))
    before = torch.get_rng_state()
    report = measured(folder, documents)
    assert torch.equal(before, torch.get_rng_state())
    assert "random_weights" not in report.provenance and not any(row["warnings"] for row in report)
    del report.provenance["finished"]
    assert report.rows == measured(encoder, documents, tokenizer=tokenizer, device=None).rows


def test_weights_of_another_shape_are_refused(folder, documents):
    edit(folder, lambda weights: weights | {"embeddings.word_embeddings.weight": torch.zeros(24, 16)})
    with pytest.raises(BadInput, match="weights of another shape than its configuration says.*allow_random_weights"):
        measured(folder, documents)
    report = measured(folder, documents, allow_random_weights=True)
    assert report.provenance["random_weights"] == {"count": 1, "names": ["embeddings.word_embeddings.weight"]}


def test_weights_of_an_expert_that_no_token_chose_feed_the_hidden_states():
    from hf_repgeo.rows.random_weights import _idle_inside

    ran = {"layers", "layers.0", "layers.0.mlp", "layers.0.mlp.experts.1", "pooler", "pooler.dense"}
    assert _idle_inside("layers.0.mlp.experts.0.up.weight", ran)
    assert not _idle_inside("vision.layers.0.up.weight", ran) and not _idle_inside("pooler.dense.bias", ran)


# --- broken files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"\x10"),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 64),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b"{}"),
        ("config.json", b'{"model_type": "bert", "hidden_size": "wide"}'),
        ("config.json", b'{"model_type": "bert", "num_attention_heads": 0}'),
        ("config.json", b'{"model_type": "no-such-type"}'),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b'{"model": {}}'),
        ("tokenizer_config.json", b"[1]"),
    ],
)
def test_broken_files_give_a_one_sentence_error(folder, documents, file, content):
    (folder / file).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        measured(folder, documents)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 900


def test_a_truncated_file_gives_a_one_sentence_error(folder, documents):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadInput, match="`model`: got .*deserializing header.* is cut short or broken: save"):
        measured(folder, documents)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 40, b"not one at all"])
def test_a_broken_gguf_file_gives_a_one_sentence_error(tmp_path, documents, content, monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setenv("HF_REPGEO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(BadInput, match="`model`: got 'model.gguf' .*wanted a GGUF file"):
        measured(tmp_path / "model.gguf", documents)


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(encoder, documents, tokenizer):
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens([f"extra{i}" for i in range(20)])
    with pytest.raises(
        BadInput, match="`tokenizer`: got one that writes token 4., .*end at 23.*resize_token_embeddings"
    ):
        measured(encoder, ["the cat extra17"] * 9, tokenizer=larger, device=None)


def test_options_that_would_be_ignored_are_refused(folder, encoder, documents, tokenizer):
    with pytest.raises(BadInput, match="`revision`: got 'step1000' for .*which has none; wanted a model on the Hub"):
        measured(folder, documents, revision="step1000")
    for option, value in [("revision", "main"), ("device_map", "auto"), ("quantization_config", {"bits": 4})]:
        with pytest.raises(BadInput, match=f"`{option}`: got .*wanted none for a model in memory"):
            load_model(encoder, tokenizer=tokenizer, **{option: value})
    with pytest.raises(BadInput, match="`dtype`: got 'float16' for a model in memory with 'float32'"):
        load_model(encoder, tokenizer=tokenizer, dtype="float16")
    with pytest.raises(BadInput, match="`device_map`: got 'auto' beside device='cpu'"):
        measured(folder, documents, device_map="auto")
    with pytest.raises(BadInput, match="`tokenizer`: got a int"):
        load_model(encoder, tokenizer=7)


def test_code_in_a_repository_is_named_with_the_flag_that_runs_it(folder, documents):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('this code must not run')")
    with pytest.raises(BadInput, match=r"holds code.*trust_remote_code=True \(--trust-remote-code\)"):
        measured(folder, documents)


# --- other files and places -----------------------------------------------------------------------------------------


def test_bin_weights_another_tokenizer_folder_and_half_precision(folder, documents, tmp_path, encoder):
    expected = measured(folder, documents).rows
    torch.save(encoder.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert measured(folder, documents).rows == expected
    (tmp_path / "tokenizer").mkdir()
    for file in folder.glob("tokenizer*"):
        file.rename(tmp_path / "tokenizer" / file.name)
    with pytest.raises(BadInput, match=r"`tokenizer`: got none beside .*Pass tokenizer= \(--tokenizer\)"):
        measured(folder, documents)
    assert measured(folder, documents, tokenizer=str(tmp_path / "tokenizer")).rows == expected
    half = measured(folder, documents, tokenizer=tmp_path / "tokenizer", dtype=torch.bfloat16)
    assert half.provenance["dtype"] == "bfloat16"


def reads_whole_models_from_disk(folder):
    from transformers import AutoModel

    on_disk = AutoModel.from_pretrained(folder, device_map={"": "disk"}, offload_folder=folder / "offload")
    return hasattr(on_disk, "hf_device_map")


def test_a_model_on_disk_that_transformers_would_not_read_is_refused(encoder):
    cure = r"one module in memory: device_map=\{'embeddings': 'cpu', 'encoder': 'disk', 'pooler': 'disk'\}"
    with pytest.raises(BadInput, match=cure):
        _check_that_disk_is_read(encoder, {"device_map": {"": "disk"}})


@pytest.mark.parametrize(
    "device_map", ["auto", "disk", {"": "cpu"}, {"embeddings": "disk", "encoder": "cpu", "pooler": "cpu"}]
)
def test_weights_on_disk_give_the_numbers_of_weights_in_memory(folder, documents, device_map):
    pytest.importorskip("accelerate")
    expected = measured(folder, documents)
    if device_map == "disk" and not reads_whole_models_from_disk(folder):
        with pytest.raises(BadInput, match="Update transformers, or keep one module in memory"):
            measured(folder, documents, device=None, device_map=device_map)
        pytest.skip("this transformers (5.0 to 5.8, perhaps later) never reads a model of which all lies on disk")
    found = measured(folder, documents, device=None, device_map=device_map)
    assert [row["value"] for row in found] == pytest.approx([row["value"] for row in expected], rel=1e-6)
    if device_map == "disk":
        assert found.provenance["device"] == "disk"
        assert found.provenance["fingerprint"] != expected.provenance["fingerprint"]


# --- wrappers -------------------------------------------------------------------------------------------------------


class Around(torch.nn.Module):
    def __init__(self, **models):
        super().__init__()
        for name, model in models.items():
            setattr(self, name, model)


def test_models_inside_wrappers_are_found(encoder, tokenizer):
    from transformers import pipeline

    pipe = pipeline("feature-extraction", model=encoder, tokenizer=tokenizer)
    assert unwrapped(pipe) == (encoder, tokenizer)
    wrapped = [torch.nn.DataParallel(encoder), torch.compile(encoder, backend="eager"), Around(net=Around(net=encoder))]
    for given in [encoder, *wrapped]:
        loaded = load_model(given, tokenizer=tokenizer)
        assert loaded.model is encoder
        assert loaded.source.get("wrapper") == (None if given is encoder else type(given).__name__)


def test_what_holds_no_model_or_several_is_refused(encoder):
    other = copy.deepcopy(encoder)
    with pytest.raises(BadInput, match="a Around with 2 transformers models inside .*Pass one of them"):
        unwrapped(Around(teacher=encoder, student=other))
    with pytest.raises(BadInput, match="a Linear with 0 transformers models inside"):
        unwrapped(torch.nn.Linear(2, 2))
    with pytest.raises(BadInput, match="`model`: got a int; wanted a transformers model"):
        load_model(7)


def test_accelerate_and_lightning_modules_give_the_models_numbers(encoder, tokenizer, documents):
    accelerate = pytest.importorskip("accelerate")
    lightning = pytest.importorskip("lightning")

    class Training(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = encoder

    expected = measured(encoder, documents, tokenizer=tokenizer).rows
    assert measured(Training(), documents, tokenizer=tokenizer).rows == expected
    prepared = accelerate.Accelerator(cpu=True).prepare(copy.deepcopy(encoder))
    assert measured(prepared, documents, tokenizer=tokenizer).rows == expected


def test_an_adapter_is_measured_and_named(encoder, tokenizer, documents):
    peft = pytest.importorskip("peft")
    settings = {"target_modules": ["query"], "init_lora_weights": False}
    adapted = peft.get_peft_model(copy.deepcopy(encoder), peft.LoraConfig(**settings))
    report = measured(adapted, documents, tokenizer=tokenizer)
    assert report.provenance["adapter"] == "LORA 'default'" and report.provenance["wrapper"] == "PeftModel"
    plain = measured(encoder, documents, tokenizer=tokenizer)
    assert report.rows != plain.rows and report.provenance["fingerprint"] != plain.provenance["fingerprint"]
    merged = measured(adapted.merge_and_unload(), documents, tokenizer=tokenizer)
    assert [row["value"] for row in merged] == pytest.approx([row["value"] for row in report], rel=1e-4)


def test_an_adapter_of_a_model_with_its_head_is_refused_where_the_model_without_lacks_its_modules(
    encoder_folder, tokenizer, tmp_path
):
    peft = pytest.importorskip("peft")
    from transformers import BertForMaskedLM

    base = BertForMaskedLM.from_pretrained(encoder_folder)
    targets = ["bert.encoder.layer.0.output.dense", "bert.encoder.layer.1.output.dense"]
    peft.get_peft_model(base, peft.LoraConfig(target_modules=targets)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(BadInput, match="names modules that the model without its head.*Load both with peft"):
        load_model(tmp_path / "adapter", tokenizer=tokenizer)


def test_four_bit_weights_are_left_as_they_were(plain_tokenizer, documents, tmp_path):
    pytest.importorskip("bitsandbytes", reason="its state_dict() changes 4-bit weights that a CPU has run")
    from transformers import AutoModel, BitsAndBytesConfig, LlamaConfig, LlamaModel

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    seeded(LlamaModel, LlamaConfig(**shape, vocab_size=26)).save_pretrained(tmp_path)
    quantized = AutoModel.from_pretrained(tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True))
    ids = torch.arange(8)[None]
    before = run(quantized, input_ids=ids).last_hidden_state
    first, second = (measured(quantized, documents, tokenizer=plain_tokenizer) for _ in range(2))
    assert torch.equal(run(quantized, input_ids=ids).last_hidden_state, before)
    assert first.rows == second.rows and first.provenance["dtype"] == "bitsandbytes 4-bit, float32"


def test_pooling_a_decoder_by_its_first_token_gives_a_warning_and_by_its_last_none(
    encoder, decoder, documents, plain_tokenizer
):
    for model, pooling, warned in [(decoder, "cls", True), (decoder, "last", False), (encoder, "cls", False)]:
        settings = {"tokenizer": plain_tokenizer, "tokens": None, "pack": "documents", "pooling": pooling, "rows": 40}
        report = measured(model, documents, **settings)
        assert any(w.startswith("cls_of_decoder") for w in report.warnings()) == warned
        assert report.unique("tokens") == [pooling]


PROFILE_FROM_DISK = """
import json, sys, threading, time, accelerate, hf_repgeo, hf_repgeo.profiling, transformers.models.llama.modeling_llama
from pathlib import Path

def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024

before = peak = resident()
done = False
def watch():
    global peak
    while not done:
        peak = max(peak, resident())
        time.sleep(0.002)

threading.Thread(target=watch, daemon=True).start()
settings = {"measures": "anisotropy", "tokens": "all", "rows": 64, "batch_rows": 64, "oversample": 1, "window": 64}
hf_repgeo.profile(sys.argv[1], ["the cat sees " * 40], device_map=json.loads(sys.argv[2]), progress=False, **settings)
done = True
print(peak - before)
"""


@pytest.mark.slow
def test_a_model_on_disk_takes_less_than_half_of_its_weights_in_memory(tmp_path, plain_tokenizer):
    import subprocess
    import sys

    from transformers import LlamaConfig, LlamaModel

    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16, "num_attention_heads": 16}
    model = LlamaModel(LlamaConfig(**sizes, num_key_value_heads=4, vocab_size=24))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    model.save_pretrained(tmp_path)
    plain_tokenizer.save_pretrained(tmp_path)
    del model
    device_map: object = "disk"
    if not reads_whole_models_from_disk(tmp_path):  # what the refusal says to pass
        device_map = {"embed_tokens": "cpu", "layers": "disk", "norm": "disk", "rotary_emb": "disk"}
    command = [sys.executable, "-c", PROFILE_FROM_DISK, str(tmp_path), json.dumps(device_map)]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
    assert peak < weights / 2


@pytest.mark.parametrize("device", ["hpu", "nowhere", "xla"])
def test_a_device_that_this_machine_lacks_gives_a_short_error(device):
    with pytest.raises(BadInput, match=f"`device`: got '{device}'") as told:
        resolved_device(device)
    assert len(str(told.value)) < 400
