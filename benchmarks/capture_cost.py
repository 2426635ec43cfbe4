"""What reading every layer costs beside a plain forward pass: CPU seconds, and memory beyond the rows that are kept.

    python benchmarks/capture_cost.py

A decoder of 6 layers, 384 wide, with random weights; batches of 4 windows of 128 tokens. *Plain* is the model alone;
*read* is the same pass with every layer and the final norm read and each fourth row kept.
"""

import os
import time
from statistics import median

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import torch  # noqa: E402
from transformers import GPT2Config, GPT2Model  # noqa: E402
from worker import forget_peak, memory_mib  # noqa: E402

from hf_repgeo.rows.forward import forward_windows  # noqa: E402
from hf_repgeo.rows.passes import run  # noqa: E402
from hf_repgeo.rows.windows import Windows  # noqa: E402

LENGTH, BATCH, BATCHES = 128, 4, 3


def measured(function) -> tuple[float, float]:
    """CPU seconds, and MiB of memory at its peak beyond those before it."""
    forget_peak()
    before, start = memory_mib("VmRSS"), time.process_time()
    kept = function()
    seconds = time.process_time() - start
    peak = memory_mib("VmHWM") - before
    del kept
    return seconds, peak


def main() -> None:
    torch.set_num_threads(1)
    model = GPT2Model(
        GPT2Config(n_embd=384, n_layer=6, n_head=6, vocab_size=1000, bos_token_id=1, eos_token_id=1)
    ).eval()
    ids = torch.randint(1000, (BATCH * BATCHES, LENGTH), generator=torch.Generator().manual_seed(0))
    windows = Windows(ids.tolist(), [[0] * LENGTH] * len(ids))
    every_fourth = lambda positions: lambda states: states[::4].clone()  # noqa: E731

    def plain() -> None:
        for batch in ids.split(BATCH):
            run(model, input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False)

    def read() -> list:
        return list(forward_windows(model, windows, None, "applied", BATCH, None, take=every_fourth))

    plain(), read()  # loads what they need, finds the blocks
    plains, reads = zip(*((measured(plain), measured(read)) for _ in range(5)))
    rows = 8 * BATCH * BATCHES * LENGTH // 4 * 384 * 4 / 2**20  # 7 layers and the final norm, float32
    seconds = [median(s for s, _ in each) for each in (plains, reads)]
    peaks = [max(peak for _, peak in each) for each in (plains, reads)]
    print("| pass | CPU seconds | times plain | memory at its peak, MiB | rows kept, MiB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    print(f"| plain | {seconds[0]:.2f} | 1.00 | {peaks[0]:.0f} | 0 |")
    print(f"| read | {seconds[1]:.2f} | {seconds[1] / seconds[0]:.2f} | {peaks[1]:.0f} | {rows:.0f} |")


if __name__ == "__main__":
    main()
