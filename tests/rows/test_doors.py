"""Every door runs the model in eval mode, whatever mode the caller left it in, and leaves the model as it was."""

import copy
import random

import numpy as np
import pytest
import torch
from tiny import SIZES, WORDS, make_tokenizer, seeded

import hf_repgeo
from hf_repgeo.blm import Sentence, to_dataset
from hf_repgeo.downstream.geometry import TokenizedTexts, last_layer
from hf_repgeo.localization import attention, figures, scores
from hf_repgeo.rows.forward import run
from hf_repgeo.rows.representations import pooled_representations, token_representations
from hf_repgeo.rows.windows import make_windows
from hf_repgeo.sparse_vae import (
    EmbeddingTable,
    SparseVAEConfig,
    SparseVAEForSentenceEmbedding,
    embed_sentences,
    evaluate_model,
)
from hf_repgeo.training.fixed_sample import FixedSample, check_encoder, sample_representations

TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for i in range(4 + k % 9)) for k in range(1, 41)]
CHUNKS = ("the cat", "sees old green")
SENTENCES = [Sentence("The cat sees old green.", "np-s vp-s", row, CHUNKS) for row in range(3)]
TOKENIZER = make_tokenizer(special=True)


def with_dropout(kind):
    from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, T5Config, T5Model

    if kind == "gpt2":
        dropout = {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}
        return seeded(GPT2Model, GPT2Config(**dropout, vocab_size=24, n_embd=32, n_layer=2, n_head=2, n_positions=64))
    if kind == "t5":
        sizes = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "vocab_size": 24}
        return seeded(T5Model, T5Config(**sizes, dropout_rate=0.3, decoder_start_token_id=0))
    dropout = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
    return seeded(BertModel, BertConfig(**SIZES, **dropout, max_position_embeddings=64))


def plain(value):
    """Nested numbers of a result, to compare."""
    if torch.is_tensor(value):
        return value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return plain(vars(value)) if hasattr(value, "__dict__") else value


def rows_of_report(model):
    return hf_repgeo.profile(
        model, TEXTS, tokenizer=TOKENIZER, measures="anisotropy", rows=100, batch_rows=50, progress=False
    ).rows


def token_rows(model):
    windows = make_windows(TOKENIZER, TEXTS, 16)
    return token_representations(model, TOKENIZER, windows, policies=["all"], rows=50, batch_size=2).states


def pooled_rows(model):
    return pooled_representations(model, make_windows(TOKENIZER, TEXTS, 16), "mean", batch_size=2).states


def fixed_texts(model):
    sample = FixedSample.of(TEXTS, TOKENIZER, model)
    check_encoder(model, sample, [-1])
    return sample_representations(model, sample, 4)


def inside_blocks(model):
    options = {"points": ["attention", "heads"], "measures": "anisotropy", "tokens": "all", "rows": 50}
    return hf_repgeo.profile(model, TEXTS, tokenizer=TOKENIZER, **options, progress=False).rows


def compared_layers(model):
    return hf_repgeo.compare(model, None, TEXTS, comparisons="linear_cka", rows=50, tokenizer=TOKENIZER).rows


def rows_of_a_study(model):
    return last_layer(model, TokenizedTexts.of(TEXTS, TOKENIZER, model), batch_size=4)


def space_of_metrics(model):
    from hf_repgeo.gradio_app.app import profile_layers

    return profile_layers("anisotropy", model, " ".join(TEXTS))[1].rows


def tokens_of_the_explorer(model):
    from hf_repgeo.gradio_app.tokens import token_map

    return token_map(model, " ".join(TEXTS), tokens=48).rows.tolist()


DOORS = {
    "profile": (rows_of_report, ("bert", "gpt2", "t5")),
    "token rows": (token_rows, ("bert", "gpt2", "t5")),
    "pooled rows": (pooled_rows, ("bert", "gpt2", "t5")),
    "the callback's fixed texts": (fixed_texts, ("bert", "gpt2", "t5")),
    "inside blocks": (inside_blocks, ("bert",)),
    "comparison": (compared_layers, ("bert", "gpt2")),
    "study": (rows_of_a_study, ("bert", "gpt2")),
    "embeddings": (lambda model: embed_sentences(TEXTS, model, TOKENIZER).rows, ("bert", "gpt2")),
    "attention": (lambda model: attention.chunk_attention(SENTENCES, model, TOKENIZER), ("bert", "gpt2")),
    "states by layer": (lambda model: attention.pooled_states(SENTENCES, model, TOKENIZER), ("bert", "gpt2")),
}


def unlike_modes(model):
    """Train mode, but for one module that its owner keeps in eval mode."""
    model = copy.deepcopy(model).train()
    next(module for module in model.modules() if isinstance(module, torch.nn.Dropout)).eval()
    return model


def state_of(model):
    return {
        "modes": [module.training for module in model.modules()],
        "gradients": [parameter.requires_grad for parameter in model.parameters()],
        "config": model.config.to_dict(),
        "attention": model.config._attn_implementation,
        "generators": [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()],
        "recording": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize(("door", "kind"), [(door, kind) for door, (_, kinds) in DOORS.items() for kind in kinds])
def test_a_model_in_train_mode_reads_as_in_eval_mode_and_is_left_as_it_was(door, kind):
    model, read = with_dropout(kind), DOORS[door][0]
    training = unlike_modes(model)
    before = state_of(training)
    found = read(training)
    assert state_of(training) == before and True in before["modes"] and False in before["modes"]
    assert plain(found) == plain(read(model.eval()))


def test_a_consumer_that_stops_between_batches_finds_the_model_as_it_was():
    from hf_repgeo.rows.forward import forward_windows

    model = unlike_modes(with_dropout("bert"))
    before = state_of(model)
    batches = forward_windows(model, make_windows(TOKENIZER, TEXTS, 16), None, "applied", 2, None)
    next(batches)
    assert state_of(model) == before


def test_a_pass_that_fails_leaves_the_model_as_it_was():
    model = unlike_modes(with_dropout("bert"))
    before = state_of(model)
    with pytest.raises(IndexError):
        run(model, input_ids=torch.tensor([[10**6]]))
    assert state_of(model) == before


def test_the_spaces_leave_their_models_as_they_were(monkeypatch, tmp_path):
    pytest.importorskip("gradio", reason="the extra 'spaces' is not installed")
    model = with_dropout("bert")
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    state = torch.get_rng_state()
    for door in (space_of_metrics, tokens_of_the_explorer):
        assert plain(door(tmp_path)) == plain(door(tmp_path))
    assert torch.equal(state, torch.get_rng_state())


# --- sparse VAEs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sparse():
    return seeded(SparseVAEForSentenceEmbedding, SparseVAEConfig.preset("sparse"))


@pytest.fixture(scope="module")
def pairs():
    from hf_repgeo.blm import pair_instances

    return to_dataset(pair_instances("en", n=420))["test"]


def random_table(data):
    from hf_repgeo.sparse_vae.embeddings import dataset_texts

    texts = dataset_texts(data)
    return EmbeddingTable(texts, torch.randn(len(texts), 768, generator=torch.Generator().manual_seed(0)), "random")


@pytest.mark.parametrize("door", ["scores", "ablation", "latents"])
def test_a_sparse_vae_in_train_mode_reads_as_in_eval_mode_and_is_left_as_it_was(sparse, pairs, door):
    table = random_table(pairs)

    def read(model):
        if door == "scores":
            return evaluate_model(model, pairs, table)
        if door == "latents":
            return figures.latents_of(model, table.rows)
        x, score = scores.selection_score(model, pairs, table)
        return score(x)

    training = copy.deepcopy(sparse).train()
    training.sentence.encoder.eval()
    before = [module.training for module in training.modules()], torch.get_rng_state().tolist()
    found = read(training)
    assert ([module.training for module in training.modules()], torch.get_rng_state().tolist()) == before
    assert plain(found) == plain(read(sparse))


def test_the_text_encoder_inside_a_sparse_vae_in_training_has_no_dropout():
    model = SparseVAEForSentenceEmbedding.from_text_encoder(with_dropout("bert"), kernel=4, stride=4).train()
    ids = torch.tensor([[2, 5, 6, 3]])
    assert torch.equal(model.embed_tokens(ids), model.embed_tokens(ids)) and model.sentence.training
