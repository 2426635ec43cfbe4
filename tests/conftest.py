"""Tiny models and tokenizers made in memory; nothing here touches a network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import pytest  # noqa: E402
import torch  # noqa: E402

WORDS = "the a cat dog house river sees finds old new green in on near with under and but because very".split()


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def documents():
    """Forty documents of random words."""
    generator = torch.Generator().manual_seed(1)
    draws = torch.randint(len(WORDS), (40, 60), generator=generator)
    return [" ".join(WORDS[i] for i in row) for row in draws.tolist()]


def make_tokenizer(special: bool):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if special:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=64, **names)


@pytest.fixture(scope="session")
def tokenizer():
    """Adds [CLS] and [SEP]."""
    return make_tokenizer(special=True)


@pytest.fixture(scope="session")
def plain_tokenizer():
    """Adds nothing."""
    return make_tokenizer(special=False)


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 24}


def seeded(model_class, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251  the fork gives the user's generator back
        return model_class(config).eval()


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
