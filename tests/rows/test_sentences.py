"""Sentence embeddings: the modules of a SentenceTransformer over every layer, equal to `encode` in the last."""

import pytest
import torch

import hf_repgeo
from hf_repgeo.errors import BadInput
from hf_repgeo.rows.sentences import sentence_representations
from hf_repgeo.rows.windows import make_windows

sentence_transformers = pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module", params=["mean", "cls", "lasttoken"])
def transformer(request, encoder_folder):
    from sentence_transformers import models

    body = models.Transformer(str(encoder_folder), max_seq_length=20)
    width = body.get_embedding_dimension()
    with torch.random.fork_rng():
        dense = models.Dense(width, 12)
    modules = [body, models.Pooling(width, request.param, include_prompt=False), dense, models.Normalize()]
    prompts = {"query": "the cat sees "}
    return sentence_transformers.SentenceTransformer(
        modules=modules, device="cpu", prompts=prompts, default_prompt_name="query", truncate_dim=10
    )


def test_the_last_layer_is_what_encode_gives(transformer, documents, tokenizer):
    texts = [document[: 10 + 7 * i] for i, document in enumerate(documents[:12])]
    model = transformer.transformers_model
    transformer.train()
    windows = make_windows(tokenizer, texts, 32)
    found = sentence_representations(transformer, model, texts, windows, rows=100, batch_size=5)
    assert transformer.training and len(found.states) == 3
    last = list(found.states.values())[-1]
    transformer.eval()
    expected = transformer.encode(texts, convert_to_tensor=True)
    assert last.shape == (12, 10)
    torch.testing.assert_close(last, expected, rtol=1e-5, atol=1e-6)


def test_a_profile_has_one_row_per_text(transformer, documents, encoder, tokenizer):
    options = {"pooling": "sentence", "measures": "anisotropy", "rows": 30, "batch_rows": 30, "progress": False}
    report = hf_repgeo.profile(transformer, documents, **options)
    assert report.unique("tokens") == ["sentence"] and {row["n"] for row in report} == {30}
    assert report.provenance["wrapper"] == "SentenceTransformer"
    with pytest.raises(BadInput, match="`pooling`: got 'sentence' with a BertModel; wanted a SentenceTransformer"):
        hf_repgeo.profile(encoder, documents, tokenizer=tokenizer, **options)
