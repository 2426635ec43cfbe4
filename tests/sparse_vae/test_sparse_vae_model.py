"""The models as members of transformers: sizes, round trips, dtypes, and every way a mask can be lost in loading."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, BertConfig, BertModel
from transformers.models.auto import configuration_auto, modeling_auto

from hf_repgeo.registration.auto_classes import LazyModelClass, register_configs, register_models
from hf_repgeo.sparse_vae.configuration_sparse_vae import BLMBaselineConfig, SparseVAEConfig, SparseVAEForBLMConfig
from hf_repgeo.sparse_vae.modeling_blm_baseline import BLMBaseline
from hf_repgeo.sparse_vae.modeling_sparse_vae import SparseVAEForSentenceEmbedding, pool
from hf_repgeo.sparse_vae.modeling_sparse_vae_blm import SparseVAEForBLM

VARIANTS = {
    "base": {"channels": 4},
    "sparse": {},
    "dense_stride": {},
    "released": {},
    "learned": {"mask": "learned"},
    "balanced": {"mask": "balanced", "decoder_mask": "random"},
    "permuted": {"permutation_seed": 3},
    "small": {"hidden_size": 384, "kernel": 8, "stride": 8},
}


def sentence_model(variant, seed=0):
    torch.default_generator.manual_seed(seed)
    preset = variant if variant in ("base", "dense_stride", "released") else "sparse"
    return SparseVAEForSentenceEmbedding(SparseVAEConfig.preset(preset, **VARIANTS[variant])).eval()


@pytest.fixture(autouse=True, scope="module")
def registered():
    register_configs(configuration_auto)
    register_models(modeling_auto)


@pytest.mark.parametrize(
    ("preset", "stored", "unmasked"),
    [
        ("base", 133_251, 133_251),
        ("sparse", 21_651, 19_731),
        ("dense_stride", 21_891, 21_891),
        ("released", 28_866, 28_866),
    ],
)
def test_sentence_models_have_the_published_sizes(preset, stored, unmasked):
    model = SparseVAEForSentenceEmbedding(SparseVAEConfig.preset(preset))
    assert model.num_parameters(only_trainable=True) == stored
    assert model.num_unmasked_parameters() == unmasked


def test_of_the_released_parameters_19251_receive_a_gradient():
    model = SparseVAEForSentenceEmbedding(SparseVAEConfig.preset("released"))
    model(torch.randn(4, 768), candidates=torch.randn(4, 8, 768), labels=torch.arange(4)).loss.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert sum(parameter.numel() for name, parameter in model.named_parameters() if name in reached) == 19_251
    assert "sentence.encoder.mean_head.bias" in reached and "sentence.encoder.mean_head.weight" not in reached


@pytest.mark.parametrize(("preset", "size"), [("base", 178_126), ("released", 84_181)])
def test_two_level_models_have_the_published_sizes(preset, size):
    assert SparseVAEForBLM(SparseVAEForBLMConfig.preset(preset)).num_parameters(only_trainable=True) == size


def test_baselines_have_the_published_sizes():
    sizes = {
        name: BLMBaseline(BLMBaselineConfig(architecture=name)).num_parameters() for name in ("ffnn", "cnn", "vae")
    }
    assert sizes == {"ffnn": 11_800_320, "cnn": 22_140_800, "vae": 39_595}


def test_a_second_one_level_vae_is_the_same_model_as_the_first():
    """The released one changes a shared default list, so its second instance is another model."""
    sizes = [BLMBaseline(BLMBaselineConfig(architecture="vae")).num_parameters() for _ in range(2)]
    assert sizes[0] == sizes[1]


def assert_same_state(one, other):
    mine, yours = one.state_dict(), other.state_dict()
    assert mine.keys() == yours.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == yours[name].dtype and torch.equal(tensor, yours[name]), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_comes_back_bit_equal(variant, tmp_path):
    model = sentence_model(variant)
    model.save_pretrained(tmp_path)
    torch.default_generator.manual_seed(99)  # whatever is drawn in loading must not show
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is SparseVAEForSentenceEmbedding and not loaded.training
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_state(model, loaded)
    x = torch.randn(3, model.config.hidden_size)
    for one, other in ((model, loaded),):
        torch.default_generator.manual_seed(1)
        mine = one(x).reconstruction
        torch.default_generator.manual_seed(1)  # the released variant samples in evaluation
        assert torch.equal(mine, other(x).reconstruction)
    assert AutoConfig.from_pretrained(tmp_path).to_dict() == loaded.config.to_dict()


@pytest.mark.parametrize("model", ["blm", "ffnn", "vae"])
def test_models_for_matrices_are_loaded_back_equal_too(model, tmp_path):
    if model == "blm":
        one = SparseVAEForBLM(SparseVAEForBLMConfig.preset("sparse")).eval()
    else:
        one = BLMBaseline(BLMBaselineConfig(architecture=model, hidden_size=64, kernel=4)).eval()
    one.save_pretrained(tmp_path)
    other = AutoModel.from_pretrained(tmp_path)
    assert type(other) is type(one)
    assert_same_state(one, other)


def test_every_buffer_is_persistent():
    """Loading fills a non-persistent buffer with whatever the memory held, without a warning."""
    for variant in VARIANTS:
        model = sentence_model(variant)
        assert {name for name, _ in model.named_buffers()} <= set(model.state_dict())
    assert "sentence.routing.mask" in sentence_model("sparse").state_dict()


def test_a_checkpoints_mask_wins_over_the_drawing(tmp_path):
    """Should the drawing change one day, the routing that was trained must still come back."""
    model = sentence_model("sparse")
    model.sentence.routing.mask.copy_(model.sentence.routing.mask.roll(1, 1))
    model.save_pretrained(tmp_path)
    loaded = SparseVAEForSentenceEmbedding.from_pretrained(tmp_path)
    assert torch.equal(loaded.sentence.routing.mask, model.sentence.routing.mask)
    assert not torch.equal(loaded.sentence.routing.mask, loaded.sentence.routing.draw())


def test_a_weight_survives_when_its_modules_bias_is_missing(tmp_path):
    """Loading draws what is missing, module by module; a raw in-place draw would take the loaded weight along."""
    model = sentence_model("sparse")
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "sentence.encoder.mean_head.bias"}
    model.save_pretrained(tmp_path)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = SparseVAEForSentenceEmbedding.from_pretrained(tmp_path)
    for name, tensor in state.items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert loaded.sentence.encoder.mean_head.bias.abs().max() <= 240**-0.5


def test_every_tensor_is_a_parameter_or_a_buffer():
    """A plain tensor attribute stays on the meta device."""
    for module in sentence_model("permuted").modules():
        assert not [name for name, value in vars(module).items() if isinstance(value, torch.Tensor)]


def test_building_draws_masks_from_their_own_seed_alone():
    masks = [sentence_model("sparse", seed).sentence.routing.mask for seed in (0, 1)]
    assert torch.equal(*masks)
    weights = [sentence_model("sparse", seed).sentence.encoder.mean_head.weight for seed in (0, 1)]
    assert not torch.equal(*weights)


def test_models_can_be_built_on_the_meta_device():
    for variant in VARIANTS:
        with torch.device("meta"):
            preset = variant if variant in ("base", "dense_stride", "released") else "sparse"
            model = SparseVAEForSentenceEmbedding(SparseVAEConfig.preset(preset, **VARIANTS[variant]))
        assert next(model.parameters()).is_meta


def test_partly_loaded_weights_are_not_drawn_over(tmp_path):
    """A sentence checkpoint read as a two-level model: what it has is kept, the rest is drawn, the masks included."""
    model = sentence_model("sparse")
    model.save_pretrained(tmp_path)
    blm = SparseVAEForBLM.from_pretrained(tmp_path, config=SparseVAEForBLMConfig(mask_seed=5))
    own = {name: tensor for name, tensor in blm.state_dict().items() if name.startswith("sentence.")}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name]), name
    for tensor in blm.state_dict().values():
        assert tensor.isfinite().all() and tensor.float().abs().max() < 10


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2)])
@pytest.mark.parametrize("variant", ["sparse", "base", "released", "learned"])
def test_half_precision_loads_with_its_mask_and_stays_close(variant, dtype, tolerance, tmp_path):
    model = sentence_model(variant)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    if variant == "sparse":
        assert loaded.sentence.routing.mask.dtype == torch.bool
        assert torch.equal(loaded.sentence.routing.mask, model.sentence.routing.mask)
    x, candidates, labels = torch.randn(4, 768), torch.randn(4, 8, 768), torch.arange(4)
    out = loaded(x.to(dtype), candidates=candidates.to(dtype), labels=labels)
    assert out.reconstruction.dtype == dtype and out.loss.dtype == torch.float32
    if variant != "released":
        wide = model(x, candidates=candidates, labels=labels)
        assert (out.reconstruction.float() - wide.reconstruction).abs().max() < tolerance
        assert out.loss.item() == pytest.approx(wide.loss.item(), abs=tolerance)


def test_device_map_leaves_the_mask_alone(tmp_path):
    model = sentence_model("sparse")
    model.save_pretrained(tmp_path)
    assert_same_state(model, AutoModel.from_pretrained(tmp_path, device_map="cpu"))


def test_evaluation_is_deterministic_and_training_is_not():
    model, x = sentence_model("sparse"), torch.randn(3, 768)
    assert torch.equal(model(x).latents, model(x).latents) and torch.equal(model(x).latents, model(x).mean)
    model.train()
    assert not torch.equal(model(x).latents, model(x).latents)
    released = sentence_model("released")
    assert not torch.equal(released(x).latents, released(x).latents)  # as its authors' code does


def test_the_output_of_a_permuted_model_is_in_the_order_of_its_input():
    """With kernels of one cell the model has no layout, so permuting commutes with decoding."""
    model = sentence_model("permuted")
    order, inverse = model.sentence.permutation.order, model.sentence.permutation.inverse
    assert torch.equal(order[inverse], torch.arange(768)) and not torch.equal(order, torch.arange(768))
    plain = sentence_model("sparse")
    x = torch.randn(2, 768)
    assert torch.allclose(model(x).reconstruction[:, order], plain(x[:, order]).reconstruction)


def test_the_output_is_a_tuple_on_request():
    model, x = sentence_model("sparse"), torch.randn(2, 768)
    assert torch.equal(model(x, return_dict=False)[0], model(x).latents)


def test_the_model_compiles_whole():
    """The eager backend traces the same graph as inductor and needs no compiler."""
    model = sentence_model("sparse")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    x, candidates, labels = torch.randn(4, 768), torch.randn(4, 8, 768), torch.arange(4)
    expected = model(x, candidates=candidates, labels=labels)
    out = compiled(inputs_embeds=x, candidates=candidates, labels=labels)
    assert type(out) is type(expected) and torch.allclose(out.loss, expected.loss, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`inputs_embeds`, `input_ids`: wanted one of them"),
        ({"inputs_embeds": torch.zeros(2, 700)}, r"`inputs_embeds`: got shape \(2, 700\); wanted \(any, 768\)"),
        ({"inputs_embeds": torch.full((2, 768), float("nan"))}, "NaN or infinity in 2 of 2 rows"),
        (
            {"inputs_embeds": torch.zeros(2, 768), "candidates": torch.zeros(3, 8, 768)},
            r"`candidates`: got shape \(3, 8, 768\)",
        ),
        ({"inputs_embeds": torch.zeros(2, 768), "labels": torch.zeros(2)}, "given without `candidates`"),
        (
            {"inputs_embeds": torch.zeros(1, 768), "candidates": torch.zeros(1, 8, 768), "labels": torch.tensor([8])},
            "index of its answer, 0 to 7",
        ),
        ({"input_ids": torch.zeros(2, 3, dtype=torch.long)}, "wraps no text encoder; give `inputs_embeds`"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sentence_model("sparse")(**arguments)


def test_bad_matrices_are_named():
    model = SparseVAEForBLM(SparseVAEForBLMConfig())
    with pytest.raises(ValueError, match=r"`inputs_embeds`: got shape \(2, 6, 768\); wanted \(any, 7, 768\)"):
        model(torch.zeros(2, 6, 768))
    with pytest.raises(ValueError, match="`inputs_embeds`: got None"):
        model()
    with pytest.raises(ValueError, match="`inputs_embeds`: got None"):
        BLMBaseline(BLMBaselineConfig(hidden_size=64, kernel=4))()


@pytest.fixture
def tiny_bert():
    torch.default_generator.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    return BertModel(config).eval()


def test_a_wrapped_text_encoder_reads_tokens_and_survives_a_round_trip(tiny_bert, tmp_path):
    model = SparseVAEForSentenceEmbedding.from_text_encoder(tiny_bert, kernel=4, stride=4).eval()
    ids, mask = torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    out = model(input_ids=ids, attention_mask=mask)
    direct = model(inputs_embeds=tiny_bert(ids, attention_mask=mask).last_hidden_state[:, 0])
    assert torch.allclose(out.latents, direct.latents, atol=1e-6)
    assert model.get_input_embeddings() is tiny_bert.get_input_embeddings()
    assert not any(parameter.requires_grad for parameter in model.text_encoder.parameters())
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert_same_state(model, loaded)
    assert torch.allclose(loaded(input_ids=ids, attention_mask=mask).latents, out.latents, atol=1e-6)


def test_a_text_encoder_of_another_size_is_refused(tiny_bert):
    with pytest.raises(ValueError, match="got 768, but the text encoder gives 64"):
        SparseVAEConfig(text_config=tiny_bert.config)


def test_pooling_sees_the_sentence_and_not_its_padding():
    states = tuple(torch.randn(2, 4, 3) for _ in range(3))
    right, left = torch.tensor([[1, 1, 0, 0]] * 2), torch.tensor([[0, 0, 1, 1]] * 2)
    assert torch.equal(pool(states, right, "cls"), states[-1][:, 0])
    assert torch.equal(pool(states, left, "cls"), states[-1][:, 2])
    assert torch.allclose(pool(states, right, "mean", layer=1), states[1][:, :2].mean(1))
    assert torch.allclose(pool(states, left, "first-last"), ((states[1] + states[2]) / 2)[:, 2:].mean(1))


WRITTEN = {
    "config.json",
    "model.safetensors",
    "configuration_sparse_vae.py",
    "layers_sparse_vae.py",
    "losses_sparse_vae.py",
    "modeling_sparse_vae.py",
}
FILES = {"sentence": WRITTEN, "blm": WRITTEN | {"modeling_sparse_vae_blm.py"}}
CHILD = """
import json, sys
sys.modules["hf_repgeo"] = None  # as if it were not installed: importing it raises
import torch
from transformers import AutoModel
folder, again = sys.argv[1:]
try:
    AutoModel.from_pretrained(folder, trust_remote_code=False)
    raise SystemExit("loaded without trust")
except ValueError as refusal:
    assert "trust_remote_code" in str(refusal) or "does not recognize" in str(refusal), refusal
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
model.save_pretrained(again)
shape = (2, 7, 768) if hasattr(model.config, "sequence_length") else (2, 768)
x = torch.linspace(-1, 1, 2 * 768).view(2, *[1] * (len(shape) - 2), 768).expand(shape)
print(json.dumps({"module": type(model).__module__, "out": model(inputs_embeds=x).reconstruction[:, :8].tolist()}))
"""


def ramp(kind):
    """The input both interpreters use."""
    row = torch.linspace(-1, 1, 2 * 768).view(2, 768)
    return row if kind == "sentence" else row[:, None].expand(2, 7, 768)


def test_a_checkpoint_works_where_the_package_is_not_installed(tmp_path):
    models = {"sentence": sentence_model("sparse"), "blm": SparseVAEForBLM(SparseVAEForBLMConfig()).eval()}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    children = {}
    for kind, model in models.items():
        model.save_pretrained(tmp_path / kind)
        assert {path.name for path in (tmp_path / kind).iterdir()} == FILES[kind]
        command = [sys.executable, "-c", CHILD, str(tmp_path / kind), str(tmp_path / f"{kind}-again")]
        own = {**environment, "HF_HOME": str(tmp_path / f"{kind}-home")}
        children[kind] = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=own, cwd=tmp_path
        )
    for kind, child in children.items():
        out, errors = child.communicate()
        assert child.returncode == 0, errors[-2000:]
        answer = json.loads(out.strip().splitlines()[-1])
        assert answer["module"].startswith("transformers_modules")
        assert torch.allclose(
            torch.tensor(answer["out"]), models[kind](inputs_embeds=ramp(kind)).reconstruction[:, :8], atol=1e-6
        )
        again = tmp_path / f"{kind}-again"
        assert {path.name for path in again.iterdir()} >= FILES[kind]
        found = AutoModel.from_pretrained(again, trust_remote_code=True)
        if Version(transformers.__version__) >= Version("5.5"):  # earlier ones run the checkpoint's code nevertheless
            assert type(found) is type(models[kind])  # ours, where installed


ORDERS = [
    "from transformers import AutoConfig, AutoModel",
    "import hf_repgeo.sparse_vae.modeling_blm_baseline",
]

WITH_HOOKS = """
import sys
from hf_repgeo.registration.import_hooks import after_import
from hf_repgeo.registration import auto_classes
assert not {"torch", "transformers"} & set(sys.modules), "importing the package must stay light"
after_import("transformers.models.auto.configuration_auto", auto_classes.register_configs)
after_import("transformers.models.auto.modeling_auto", auto_classes.register_models)
ORDER
from transformers import AutoConfig, AutoModel
for kind in ("sparse_vae", "sparse_vae_blm", "blm_baseline"):
    config = AutoConfig.for_model(kind)
    assert type(AutoModel.from_config(config)).__module__.startswith("hf_repgeo"), kind
"""


def test_registration_by_import_hooks_works_whoever_comes_first():
    """The hook imports the very files whose import may have set it off."""
    python = [sys.executable, "-W", "error::RuntimeWarning", "-c"]
    codes = [WITH_HOOKS.replace("ORDER", order) for order in ORDERS]
    children = [subprocess.Popen([*python, code], stderr=subprocess.PIPE, text=True) for code in codes]
    for child in children:
        _, errors = child.communicate()
        assert child.returncode == 0, errors[-2000:]


OTHER_MODEL = """
import sys, hf_repgeo
from transformers import AutoModel, BertConfig
AutoModel.from_config(BertConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=1, vocab_size=9))
import hf_repgeo.profiling
from hf_repgeo.rows.models import load_model
print([name for name in sys.modules if name.startswith("hf_repgeo.sparse_vae.") and "configuration" not in name])
"""


def test_using_another_model_does_not_import_ours():
    child = subprocess.run([sys.executable, "-c", OTHER_MODEL], capture_output=True, text=True)
    assert child.stdout == "[]\n", child.stderr[-2000:]


def test_the_lazy_stand_in_of_a_model_class_can_be_copied_and_has_its_attributes():
    there = copy.deepcopy(LazyModelClass(SparseVAEConfig, "modeling_sparse_vae", "SparseVAEForSentenceEmbedding"))
    assert there.__name__ == "SparseVAEForSentenceEmbedding" and there.config_class is SparseVAEConfig
    assert there.from_pretrained == SparseVAEForSentenceEmbedding.from_pretrained


def test_the_shipped_checkpoint_loads_and_is_small():
    from hf_repgeo.sparse_vae import example_checkpoint

    model = AutoModel.from_pretrained(example_checkpoint())
    assert type(model) is SparseVAEForSentenceEmbedding and model.num_unmasked_parameters() == 19_731
    x = torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
    assert model(x).reconstruction.isfinite().all() and model(x).latents.std() > 0
    assert sum(path.stat().st_size for path in Path(example_checkpoint()).iterdir()) < 1_000_000


def test_the_package_names_what_it_exports():
    import hf_repgeo.sparse_vae as package

    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing
