"""The memory of reading a model: the rows that are kept, and little more than the model needs for a batch."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny import seeded
from transformers import GPT2Config, GPT2Model, ViTConfig, ViTModel

from hf_repgeo.rows.forward import places_of
from hf_repgeo.rows.media_rows import Item, media_representations
from hf_repgeo.rows.passes import run
from hf_repgeo.rows.representations import token_representations
from hf_repgeo.rows.stacks import find_stacks
from hf_repgeo.rows.windows import Windows

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tensor_memory.py"
specification = importlib.util.spec_from_file_location("tensor_memory", SCRIPT)
tensor_memory = importlib.util.module_from_spec(specification)
specification.loader.exec_module(tensor_memory)


def of_texts(tokenizer):
    """A pass over a batch of windows; all rows of eight batches."""
    config = GPT2Config(n_embd=96, n_layer=6, n_head=4, vocab_size=100, bos_token_id=1, eos_token_id=1)
    model = seeded(GPT2Model, config)
    ids = torch.randint(100, (32, 64))
    windows = Windows(ids.tolist(), [[0] * 64] * 32)
    places_of(model, windows)
    asked = {"policies": ["all"], "rows": ids.numel(), "batch_size": 4}
    plain = lambda: run(model, input_ids=ids[:4], attention_mask=torch.ones_like(ids[:4]), use_cache=False)  # noqa: E731
    return plain, lambda: [token_representations(model, tokenizer, windows, **asked)]


def of_images(_):
    """A pass over one image; few rows of six, so that a copy of all layers of an image would show."""
    shape = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 384, "num_hidden_layers": 12}
    model = seeded(ViTModel, ViTConfig(**shape, image_size=80, patch_size=8))
    inputs = {"pixel_values": torch.randn(1, 3, 80, 80)}
    taps = [tap for stack in find_stacks(model, inputs) for tap in stack.taps]
    read = lambda: media_representations(model, taps, [Item(inputs)] * 6, 6, rows=30, policies=["all"])  # noqa: E731
    return lambda: run(model, **inputs), read


@pytest.mark.parametrize("passes", [of_texts, of_images])
def test_memory_is_the_rows_kept_and_at_most_a_fifth_more_than_a_plain_pass(passes, plain_tokenizer):
    plain, read = passes(plain_tokenizer)
    rows = sum(state.nbytes for one in read() for state in one.states.values())
    assert rows > 0
    assert tensor_memory.peak_bytes(read) <= rows + 1.2 * tensor_memory.peak_bytes(plain)


def test_memory_is_counted_to_the_byte():
    held = []

    def some():
        held.append(torch.zeros(1000))  # 4,000 bytes that stay
        for _ in range(3):
            (torch.zeros(500) + 1)[:100].mul_(2)  # two of 2,000 bytes at once; a view holds none

    assert tensor_memory.peak_bytes(some) == 8000
