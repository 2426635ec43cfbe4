"""Where properties are: in regions, latents and masks of the models of sparse_vae.py, and in the embeddings themselves.

    python benchmarks/experiments/places.py FOLDER --output runs [--only probes roles ...]

Each result is one line of JSON in OUTPUT/places.jsonl; finished ones are not repeated. `probes` and `roles` need no
trained model.
"""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import torch
from sparse_vae import Encoder, append, arguments, chunk_data, chunk_table, encoder_of, names_in

from hf_repgeo.blm import chunk_sentences, load_alternation_lexicon, role_sentences
from hf_repgeo.localization.figures import latents_of
from hf_repgeo.localization.probing import make_probe
from hf_repgeo.localization.scores import property_rows, split_by_row
from hf_repgeo.sparse_vae import (
    SparseVAEConfig,
    SparseVAEForBLM,
    SparseVAEForSentenceEmbedding,
    counterfactual_pairs,
    interchange_flips,
    localize,
    localize_property,
    mask_overlap,
    permuted,
    probe,
    read_columns,
    receptive_fields,
    region_dimensions,
    selection_score,
    without_outliers,
)
from hf_repgeo.sparse_vae.scoring import pattern_properties

TEST_ROWS = range(4, 33, 4)  # a quarter of the lexicon's rows
NUMBERS = ("subject", "pp1", "pp2", "length")
ROLES = ("role", "voice", "frame")
TILINGS = {"15 x 15": {}, "8 x 8": {"kernel": 8, "stride": 8}}
NULLS = 100


def regions_of(tiling: str, hidden_size: int) -> torch.Tensor:
    return receptive_fields(SparseVAEConfig(hidden_size=hidden_size, **TILINGS[tiling])).flatten(1)


def role_table(encoder: Encoder):
    return encoder.embed([sentence.text for sentence in role_sentences()], "roles")


def loaded(path: Path):
    kind = SparseVAEForBLM if "answer_channels" in (path / "config.json").read_text() else SparseVAEForSentenceEmbedding
    return kind.from_pretrained(path).eval()


# --- the embeddings themselves --------------------------------------------------------------------------------------


def probes(encoder: Encoder, models: Path) -> Iterator[tuple[str, dict]]:
    """Number and length: a probe's accuracy on unseen words, and its regions; also without outliers, and permuted."""
    tables = {"layer -1": chunk_table(encoder, -1, "en"), "layer 6": chunk_table(encoder, 6, "en")}
    tables |= {"without outliers": without_outliers(tables["layer -1"]), "permuted": permuted(tables["layer -1"])}
    tables |= {f"language {code}": chunk_table(encoder, -1, code) for code in ("fr", "it")}
    for name, table in tables.items():
        sentences = chunk_sentences(name.removeprefix("language ") if "language" in name else "en")
        for tiling in tilings(table):
            regions = regions_of(tiling, table.rows.shape[1])
            for prop in NUMBERS:
                yield from placed(f"{name}, {tiling}, {prop}", sentences, table, prop, regions, TEST_ROWS)


def roles(encoder: Encoder, models: Path) -> Iterator[tuple[str, dict]]:
    """The same for roles, on verbs that the probe has not seen."""
    sentences, table = role_sentences(), role_table(encoder)
    unseen = [row.id for row in load_alternation_lexicon()][3::4]
    for tiling in tilings(table):
        regions = regions_of(tiling, table.rows.shape[1])
        for prop in ROLES:
            yield from placed(f"roles, {tiling}, {prop}", sentences, table, prop, regions, unseen)


def tilings(table) -> list[str]:
    return [name for name in TILINGS if table.rows.shape[1] >= 576 or name == "8 x 8"]


def placed(name: str, sentences, table, prop: str, regions, test_rows) -> Iterator[tuple[str, dict]]:
    settings = {"test_rows": test_rows, "n_null": NULLS}
    yield (
        name,
        lambda: (
            localize_property(sentences, table, prop, regions, **settings).as_dict()
            | {"accuracy": accuracy_of(sentences, table, prop, test_rows)}
        ),
    )


def accuracy_of(sentences, table, prop: str, test_rows) -> dict:
    """Accuracy of a linear probe on unseen rows, beside that of shuffled labels."""
    (train, y_train), (test, y_test) = split_by_row(sentences, prop, test_rows)
    x_train, x_test = (table.of([sentences[i].text for i in places]) for places in (train, test))
    found = probe(x_train, y_train, x_test, y_test)
    return {"accuracy": found.accuracy, "shuffled": found.control_accuracy, "chance": 1 / len(set(y_train))}


def interchange(encoder: Encoder, models: Path) -> Iterator[tuple[str, dict]]:
    """How often the region of a sentence with the other number flips what the probe reads."""
    sentences, table = chunk_sentences("en"), chunk_table(encoder, -1, "en")
    for tiling in tilings(table):
        regions = regions_of(tiling, table.rows.shape[1])
        for prop in ("subject", "pp1", "pp2"):
            yield (
                f"interchange, {tiling}, {prop}",
                lambda prop=prop, regions=regions: flips(sentences, table, prop, regions),
            )


def flips(sentences, table, prop: str, regions) -> dict:
    """Flip rates by region beside those of random regions of the same sizes, and of the whole embedding."""
    (train, y_train), _ = split_by_row(sentences, prop, TEST_ROWS)
    fitted = make_probe().fit(table.of([sentences[i].text for i in train]).numpy(), y_train)
    pairs = [(a, b) for a, b in counterfactual_pairs(sentences, prop) if a.row in TEST_ROWS]
    x, donors = (table.of([pair[side].text for pair in pairs]) for side in (0, 1))
    wanted = [pattern_properties(b.pattern)[prop] for _, b in pairs]
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(regions.shape[1], generator=generator) for _ in range(NULLS)]
    null = torch.stack([interchange_flips(fitted.predict, x, donors, wanted, regions[:, order]) for order in orders])
    ends = null.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    whole = torch.ones(1, regions.shape[1], dtype=torch.bool)
    return {
        "cells": regions.sum(1).tolist(),
        "flips": interchange_flips(fitted.predict, x, donors, wanted, regions).tolist(),
        "random_mean": null.mean(0).tolist(),
        "random_low": ends[0].tolist(),
        "random_high": ends[1].tolist(),
        "whole": float(interchange_flips(fitted.predict, x, donors, wanted, whole)),
        "none": float(interchange_flips(fitted.predict, x, donors, wanted, ~whole)),
    }


# --- trained models -------------------------------------------------------------------------------------------------


def regions(encoder: Encoder, models: Path) -> Iterator[tuple[str, dict]]:
    """What a sentence model loses without each of its regions."""
    data, table = chunk_data("pairs", "en"), chunk_table(encoder, -1, "en")
    reference = table.of(sorted(set(data["train"]["input"])))
    for path in sorted(models.glob(f"{encoder.short}_pairs_*_en_seed*")):
        if "noise" in path.name or "layer" in path.name or "released" in path.name or "_base_" in path.name:
            continue
        yield f"regions of {path.name}", lambda path=path: lost(loaded(path), data["test"], table, reference)


def lost(model, data, table, reference) -> dict:
    x, score = selection_score(model, data, table)
    return localize(score, x, region_dimensions(model), reference=reference, n_null=40).as_dict()


def latents(encoder: Encoder, models: Path) -> Iterator[tuple[str, dict]]:
    """What single latents say at each sparsity: about number and length, and about roles in the two-level model."""
    sentences, table = chunk_sentences("en"), chunk_table(encoder, -1, "en")
    for path in sorted(models.glob(f"{encoder.short}_seeds_sparse_latents*")):
        for prop in NUMBERS:
            yield f"latents of {path.name}, {prop}", lambda path=path, prop=prop: told(path, sentences, table, prop)
    table_of_roles = role_table(encoder)
    for task, asked, of, rows in (
        ("agreement", NUMBERS, (sentences, table), TEST_ROWS),
        ("alternation", ROLES, (role_sentences(), table_of_roles), range(4, 33, 4)),
    ):
        for path in sorted(models.glob(f"{encoder.short}_{task}-I*_sparse_latents*")):
            for prop in asked:
                yield (
                    f"latents of {path.name}, {prop}",
                    lambda path=path, prop=prop, of=of, rows=rows: told(path, *of, prop, rows),
                )


def told(path: Path, sentences, table, prop: str, test_rows=TEST_ROWS) -> dict:
    """Distance and information of each latent, and what a probe of all latents reads on unseen rows."""
    chosen, values = property_rows(sentences, prop)
    z = latents_of(loaded(path), table.of([sentence.text for sentence in chosen]))
    (train, y_train), (test, y_test) = split_by_row(chosen, prop, test_rows)
    accuracy = probe(z[train], y_train, z[test], y_test).accuracy
    return {"columns": [one.as_dict() for one in read_columns(z, values)], "accuracy": accuracy}


def masks(encoder: Encoder, models: Path) -> Iterator[tuple[str, dict]]:
    """Whether learning moves a mask, and whether two seeds learn the same one."""
    for temperature in ("1.0", "0.1"):
        found = sorted(
            models.glob(f"{encoder.short}_pairs_sparse_mask=learned_mask_temperature={temperature}_en_seed*")
        )
        for path in found:
            yield f"moved: {path.name}", lambda path=path: moved(path)
        for first, second in combinations(found, 2):
            name = f"overlap: {first.name} and {second.name.rsplit('_', 1)[1]}"
            yield name, lambda first=first, second=second: overlap(first, second)


def moved(path: Path) -> dict:
    """How many units feed another latent than at the start, and how many units each latent has."""
    from hf_repgeo.sparse_vae.training import build_model

    end = loaded(path)
    start = build_model(end.config, int(path.name.rsplit("seed", 1)[1])).sentence.routing.hard()
    mask = end.sentence.routing.hard()
    return {"moved": float((start != mask).any(1).float().mean()), "units_per_latent": mask.sum(0).tolist()}


def overlap(first: Path, second: Path) -> dict:
    return mask_overlap(*(loaded(path).sentence.routing.hard() for path in (first, second))).__dict__


QUESTIONS = {
    "probes": probes,
    "roles": roles,
    "interchange": interchange,
    "regions": regions,
    "latents": latents,
    "masks": masks,
}


def main() -> None:
    options = arguments(__doc__, QUESTIONS).parse_args()
    encoder = encoder_of(options)
    log = options.output / "places.jsonl"
    done = names_in(log)
    for question in options.only:
        for asked, answer in QUESTIONS[question](encoder, options.output / "models"):
            name = f"{encoder.short}: {asked}"
            if name not in done:
                found = answer()
                append(log, {"name": name, "question": question, **found})
                print(name, {key: found[key] for key in ("index", "verdict", "accuracy") if key in found}, flush=True)


if __name__ == "__main__":
    main()
