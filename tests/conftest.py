"""Tiny models and tokenizers made in memory; nothing here touches a network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores; threads of each would fight for them
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402
import torch  # noqa: E402
from tiny import SIZES, WORDS, make_tokenizer, seeded  # noqa: E402


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def documents():
    """Forty documents of random words."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.randint(len(WORDS), (40, 60), generator=generator)
    return [" ".join(WORDS[i] for i in row) for row in draws.tolist()]


@pytest.fixture(scope="session")
def tokenizer():
    """Adds [CLS] and [SEP]."""
    return make_tokenizer(special=True)


@pytest.fixture(scope="session")
def plain_tokenizer():
    """Adds nothing."""
    return make_tokenizer(special=False)


@pytest.fixture(scope="session")
def encoder():
    from transformers import BertConfig, BertModel

    return seeded(BertModel, BertConfig(**SIZES, max_position_embeddings=64, initializer_range=0.5))


@pytest.fixture(scope="session")
def decoder():
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(**SIZES, max_position_embeddings=64, num_key_value_heads=2, initializer_range=0.5)
    return seeded(LlamaModel, config)


@pytest.fixture(scope="session")
def encoder_decoder():
    from transformers import T5Config, T5Model

    config = T5Config(
        vocab_size=24, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2, decoder_start_token_id=0, pad_token_id=0
    )
    return seeded(T5Model, config)


@pytest.fixture(scope="session")
def encoder_folder(encoder, tokenizer, tmp_path_factory):
    """The encoder and its tokenizer, saved."""
    folder = tmp_path_factory.mktemp("models") / "tiny-encoder"
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
