"""What reading every layer costs, compared with a plain forward pass: CPU seconds, and memory beyond the weights.

    python benchmarks/capture_cost.py

A decoder of 6 layers, 384 wide, and an image encoder of 12 layers, both with random weights. *Plain* is the model
alone; *read* is the same passes with every layer and the final norm read and the rows kept. Memory is counted over
tensors; the limit is the rows kept plus 1.2 times what the plain pass takes.
"""

import os
import time
from collections.abc import Callable
from statistics import median

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import torch  # noqa: E402
from tensor_memory import peak_bytes  # noqa: E402
from transformers import GPT2Config, GPT2Model, ViTConfig, ViTModel  # noqa: E402

from hf_repgeo.rows.forward import places_of  # noqa: E402
from hf_repgeo.rows.media_rows import Item, media_representations  # noqa: E402
from hf_repgeo.rows.passes import run  # noqa: E402
from hf_repgeo.rows.representations import Representations, token_representations  # noqa: E402
from hf_repgeo.rows.stacks import find_stacks  # noqa: E402
from hf_repgeo.rows.windows import Windows  # noqa: E402

LENGTH, BATCH, BATCHES, IMAGES = 128, 4, 8, 6
REPEATS = 5


class NoSpecials:
    """In place of a tokenizer: the attributes that drawing rows needs."""

    all_special_ids: list[int] = []
    unk_token_id = None


def of_texts() -> tuple[Callable, Callable]:
    """The plain passes over windows of tokens, and the same with each fourth row kept."""
    config = GPT2Config(n_embd=384, n_layer=6, n_head=6, vocab_size=1000, bos_token_id=1, eos_token_id=1)
    model = GPT2Model(config).eval()
    ids = torch.randint(1000, (BATCH * BATCHES, LENGTH), generator=torch.Generator().manual_seed(0))
    windows = Windows(ids.tolist(), [[0] * LENGTH] * len(ids))
    asked = {"policies": ["all"], "rows": ids.numel() // 4, "batch_size": BATCH}
    places_of(model, windows)  # finds the blocks

    def plain() -> None:
        for batch in ids.split(BATCH):
            run(model, input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False)

    return plain, lambda: [token_representations(model, NoSpecials(), windows, **asked)]


def of_images() -> tuple[Callable, Callable]:
    """The plain passes over images, and the same with a fourth of the rows, or a few more, kept."""
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_hidden_layers=12)
    model = ViTModel(config).eval()
    inputs = {"pixel_values": torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))}
    taps = [tap for stack in find_stacks(model, inputs) for tap in stack.taps]
    items = [Item(inputs, patches=196)] * IMAGES
    rows = 196 * IMAGES // 8  # the function keeps twice as many rows as it is asked for

    def plain() -> None:
        for item in items:
            run(model, **item.inputs)

    return plain, lambda: media_representations(model, taps, items, IMAGES, rows=rows, policies=["all"])


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def size(found: list[Representations]) -> int:
    return sum(state.nbytes for one in found for state in one.states.values())


def main() -> None:
    torch.set_num_threads(1)
    print("| read | CPU seconds, plain | read | ratio | MiB of tensors, plain | rows kept | read | at most |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, (plain, read) in {"texts": of_texts(), "images": of_images()}.items():
        plain(), read()  # loads what they need
        times = [median(each) for each in zip(*((seconds(plain), seconds(read)) for _ in range(REPEATS)))]
        activations, rows, peak = (x / 2**20 for x in (peak_bytes(plain), size(read()), peak_bytes(read)))
        said = f"{times[0]:.2f} | {times[1]:.2f} | {times[1] / times[0]:.2f}"
        print(f"| {name} | {said} | {activations:.1f} | {rows:.1f} | {peak:.1f} | {rows + 1.2 * activations:.1f} |")


if __name__ == "__main__":
    main()
