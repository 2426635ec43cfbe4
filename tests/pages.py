"""Pages of Markdown in tests: their blocks of code, how these run, and fixtures for what the pages assume."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import SIZES, seeded

import hf_repgeo
from hf_repgeo.rows import models


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines of a page that call our command line with something to do."""
    return [line for block in blocks("bash", text) for line in block.splitlines() if line.startswith("hf-repgeo ")]


def run(code: str, namespace: dict, page: str = "README.md") -> dict:
    """Runs a block in a copy of a namespace, and returns what it defines."""
    namespace = dict(namespace)
    exec(compile(code, page, "exec"), namespace)
    return namespace


@pytest.fixture(scope="module")
def deep_folder(tokenizer, tmp_path_factory):
    """A tiny encoder of twelve layers and its tokenizer: it goes by the name of a real model."""
    from transformers import BertConfig, BertModel

    config = BertConfig(**SIZES | {"num_hidden_layers": 12}, max_position_embeddings=64, initializer_range=0.5)
    folder = tmp_path_factory.mktemp("models") / "tiny-deep-encoder"
    seeded(BertModel, config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_models(deep_folder, monkeypatch):
    """The names of models in the README lead to the tiny one; any other name goes its own way."""
    place = models.resolved_place
    known = {"bert-base-uncased"}
    monkeypatch.setattr(
        models, "resolved_place", lambda name, revision: place(str(deep_folder) if name in known else name, revision)
    )


@pytest.fixture
def tiny_sentence_model(deep_folder, monkeypatch):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    real = library.SentenceTransformer

    def named(name):
        assert name == "all-MiniLM-L6-v2"
        return real(modules=[Transformer(str(deep_folder)), Pooling(SIZES["hidden_size"])], device="cpu")

    monkeypatch.setattr(library, "SentenceTransformer", named)


@pytest.fixture
def offline_evaluate(monkeypatch, tmp_path):
    evaluate = pytest.importorskip("evaluate")
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture
def trainer(tokenizer, tmp_path):
    pytest.importorskip("accelerate")
    from transformers import BertConfig, BertForMaskedLM, Trainer, TrainingArguments

    ids = torch.randint(4, 24, (8, 10), generator=torch.Generator().manual_seed(3))
    data = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
    arguments = TrainingArguments(
        str(tmp_path / "run"), max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no"
    )
    model = seeded(BertForMaskedLM, BertConfig(**SIZES | {"num_hidden_layers": 3}, max_position_embeddings=64))
    return Trainer(model, arguments, train_dataset=data, processing_class=tokenizer)


@pytest.fixture(scope="module")
def reports(encoder, tokenizer, documents):
    asked = {"measures": ["anisotropy", "effective_rank"], "tokens": "all", "progress": False}
    return [hf_repgeo.profile(encoder, documents[:n], tokenizer=tokenizer, **asked) for n in (8, 16)]


@pytest.fixture
def namespace(documents, trainer, reports, tmp_path, monkeypatch, tiny_models, tiny_sentence_model, offline_evaluate):
    """An empty folder with the files that the README names, and its variables."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(600, 24, generator=generator)
    np.save("X.npy", X.numpy())
    hidden = torch.randn(4, 9, 24, generator=generator, requires_grad=True)
    Path("repgeo/bert-base-uncased").mkdir(parents=True)
    reports[0].to_json("repgeo/bert-base-uncased/profile.json")
    return {
        "X": X,
        "texts": documents[:10],
        "trainer": trainer,
        "report": reports[0],
        "other_report": reports[1],
        "hidden": hidden,
        "mask": torch.arange(9).expand(4, 9) < 7,
        "task_loss": hidden.square().mean(),
    }
