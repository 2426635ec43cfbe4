"""Scores, probes and ablation: they find a planted property, and report none where none was planted."""

import argparse
import json
import math

import pytest
import torch

from hf_repgeo import GeometryReport, load_report
from hf_repgeo.blm import agreement_matrices, chunk_sentences, pair_instances, role_sentences, to_dataset
from hf_repgeo.cli import sparse_vae as cli
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.localization import figures
from hf_repgeo.localization.ablation import ablate, ablation_effects, locality_index, localize
from hf_repgeo.localization.controls import (
    counterfactual_pairs,
    interchange_flips,
    outlier_dimensions,
    permuted,
    planted_table,
    without_outliers,
)
from hf_repgeo.localization.probing import check_classes, make_probe, probe, probe_scores
from hf_repgeo.localization.regions import cell_map, random_partition, receptive_fields, region_to_latent
from hf_repgeo.localization.scores import (
    localize_property,
    prior_score,
    probe_score,
    property_rows,
    selection_score,
)
from hf_repgeo.sparse_vae.configuration_sparse_vae import SparseVAEConfig
from hf_repgeo.sparse_vae.embeddings import EmbeddingTable, dataset_texts
from hf_repgeo.sparse_vae.modeling_sparse_vae import SparseVAEForSentenceEmbedding
from hf_repgeo.sparse_vae.scoring import (
    Selection,
    evaluate_model,
    evaluate_scores,
    f1_by_pattern,
    identity_scores,
    over_runs,
    pattern_properties,
)
from hf_repgeo.sparse_vae.training import train

SENTENCES = chunk_sentences("en")
CONFIG = SparseVAEConfig(kernel=8, stride=8)
REGIONS = receptive_fields(CONFIG).flatten(1)  # 4 x 3 regions of 64 dimensions
TEST_ROWS = range(25, 33)


@pytest.fixture(scope="module")
def pairs():
    return to_dataset(pair_instances("en", n=1400, split="seeds"))


@pytest.fixture(scope="module")
def planted():
    return planted_table(SENTENCES, 768, REGIONS[5] | REGIONS[6])


# ---- scores


def test_f1_of_a_small_confusion_by_hand():
    """a: tp 3, fp 2, fn 1 -> 6/9; b: tp 2, fp 1, fn 2 -> 4/7; no choice is a miss of b."""
    confusion = {"a": {"a": 3, "b": 1}, "b": {"b": 2, "a": 2, "no choice": 1}}
    assert f1_by_pattern(confusion) == {"a": pytest.approx(6 / 9), "b": pytest.approx(4 / 8)}


def test_a_selection_is_counted_by_pattern(pairs):
    data = pairs["test"]
    scores = torch.zeros(len(data), 8)
    scores[torch.arange(len(data)), torch.tensor(list(data["label"]))] = 1.0
    perfect = evaluate_scores(scores, data)
    assert (
        perfect.accuracy == perfect.macro_f1 == 1.0
        and set(perfect.f1.values()) == {1.0}
        and perfect.errors == {"Correct": len(data)}
    )
    tied = evaluate_scores(torch.zeros(len(data), 8), data)
    assert tied.accuracy == tied.macro_f1 == 0.0 and tied.errors == {"no choice": len(data)} and tied.chance == 1 / 8
    with pytest.raises(BadInput, match="`scores`: got shape"):
        evaluate_scores(torch.zeros(2, 8), data)


def test_matrices_are_counted_by_error():
    data = to_dataset(agreement_matrices("en", "I", sizes=(10, 5)))["train"]
    scores = torch.zeros(10, 8)
    for i, errors in enumerate(data["errors"]):
        scores[i, errors.index("WN1" if i < 4 else "Correct")] = 1.0
    result = evaluate_scores(scores, data)
    assert result.errors == {"Correct": 6, "WN1": 4} and result.accuracy == 0.6 and result.macro_f1 is None


def test_every_run_is_listed_beside_the_mean():
    summary = over_runs([0.5, 0.7, 0.9])
    assert (
        summary["runs"] == [0.5, 0.7, 0.9]
        and summary["mean"] == pytest.approx(0.7)
        and summary["sd"] == pytest.approx(0.2)
    )
    assert summary["sd_population"] == pytest.approx(0.2 * (2 / 3) ** 0.5)
    assert over_runs([0.5])["sd"] is None


# ---- probes


def test_probes_read_a_planted_pattern_and_not_shuffled_labels(planted):
    train_rows = [s for s in SENTENCES if s.row not in TEST_ROWS]
    test_rows = [s for s in SENTENCES if s.row in TEST_ROWS]
    x = [planted.of([s.text for s in part]) for part in (train_rows, test_rows)]
    y = [[s.pattern for s in part] for part in (train_rows, test_rows)]
    for kind in ("linear", "lda", "centroid"):
        result = probe(x[0], y[0], x[1], y[1], kind)
        assert result.accuracy > 0.8 and result.control_accuracy < 0.3 and result.selectivity > 0.5
    narrow = probe(x[0], y[0], x[1], y[1], "pca", components=5)
    assert narrow.accuracy < probe(x[0], y[0], x[1], y[1], "pca", components=13).accuracy


def test_a_probe_selects_what_was_planted_and_noise_gives_chance(pairs, planted):
    def accuracy(scores):
        return evaluate_scores(scores, pairs["test"]).accuracy

    assert accuracy(probe_scores(pairs["train"], planted)(pairs["test"])) > 0.9
    noise = planted_table(SENTENCES, 768, strength=0.0, seed=1)
    assert accuracy(identity_scores(pairs["test"], planted)) > 0.5
    for scores in (identity_scores(pairs["test"], noise), probe_scores(pairs["train"], noise)(pairs["test"])):
        assert accuracy(scores) < 0.3  # 1/8 by guessing


def test_bad_probes_are_named(pairs, planted):
    with pytest.raises(BadInput, match="no row of class 'c', which is asked for in the test"):
        check_classes(["a", "b"], ["a", "c"])
    with pytest.raises(BadInput, match="got 1 class"):
        check_classes(["a", "a"], ["a"])
    with pytest.raises(UnknownName, match="unknown probe 'svm'"):
        make_probe("svm")
    with pytest.raises(BadInput, match="gives no probabilities"):
        probe_scores(pairs["train"], planted, "centroid")
    with pytest.raises(UnknownName, match="unknown measure 'f1'"):
        probe_score(torch.zeros(2, 3), ["a", "b"], ["a"], measure="f1")


def test_properties_of_a_pattern():
    assert pattern_properties("np-p vp-p") == {"subject": "p", "length": "0"}
    assert pattern_properties("np-s pp1-p pp2-s vp-s") == {"subject": "s", "length": "2", "pp1": "p", "pp2": "s"}
    frame = "agent verb location WITH theme"
    assert pattern_properties(frame) == {"frame": frame, "role": "agent", "voice": "active"}
    rows, values = property_rows(SENTENCES, "pp2")
    assert len(rows) == 8 * 32 and set(values) == {"s", "p"}
    with pytest.raises(UnknownName, match="unknown property 'pp3'.*Known: length, pp1, pp2, subject"):
        property_rows(SENTENCES, "pp3")


# ---- ablation


def test_ablation_touches_its_dimensions_only_and_its_input_never():
    generator = torch.Generator().manual_seed(0)
    x, reference = torch.randn(6, 10, generator=generator), torch.randn(20, 10, generator=generator) + 3
    before, dimensions = x.clone(), torch.arange(10) < 4
    for how in ("mean", "noise", "resample"):
        out = ablate(x, dimensions, how, reference=reference, generator=torch.Generator().manual_seed(1))
        assert torch.equal(out[:, 4:], x[:, 4:]) and (out[:, :4] != x[:, :4]).all()
    assert torch.equal(x, before)
    assert torch.allclose(ablate(x, dimensions, reference=reference)[:, :4], reference.mean(0)[:4].expand(6, 4))
    resampled = ablate(x, dimensions, "resample", reference=reference, generator=generator)
    assert all(any(torch.equal(row[:4], donor[:4]) for donor in reference) for row in resampled)
    with pytest.raises(UnknownName, match="unknown ablation 'zero'"):
        ablate(x, dimensions, "zero", reference=reference)


def test_effects_of_a_score_that_is_a_weighted_sum_are_its_weights():
    """score = mean of w.x; replacing region r by its mean, zero, costs exactly the region's share of the score."""
    x = torch.ones(5, 12)
    weight = torch.arange(12.0)
    regions = torch.arange(12).view(1, -1) // 4 == torch.arange(3).view(-1, 1)
    settings = {"reference": torch.zeros(4, 12)}
    score = lambda rows: float((rows @ weight).mean())  # noqa: E731
    assert ablation_effects(score, x, regions, **settings).tolist() == [6.0, 22.0, 38.0]
    assert ablation_effects(score, x, regions, keep_only=True, **settings).tolist() == [6.0, 22.0, 38.0]


def gini_by_pairs(values):
    """The definition: mean absolute difference over twice the mean."""
    values = torch.tensor(values, dtype=torch.float64)
    return float((values[:, None] - values).abs().mean() / (2 * values.mean()))


@pytest.mark.parametrize(
    ("effects", "sizes"), [([0.2, 0.1, 0.4], [3, 5, 2]), ([1.0, 0.0], [1, 9]), ([0.3, 0.3, -0.1], [4, 4, 4])]
)
def test_the_index_is_the_gini_coefficient_over_cells(effects, sizes):
    cells = [max(effect, 0.0) / size for effect, size in zip(effects, sizes, strict=True) for _ in range(size)]
    assert locality_index(torch.tensor(effects), torch.tensor(sizes)) == pytest.approx(gini_by_pairs(cells))


def test_the_index_is_zero_when_effects_follow_size_and_absent_without_effects():
    assert locality_index(torch.tensor([18.0, 30.0, 225.0]), torch.tensor([18, 30, 225])) == pytest.approx(0, abs=1e-12)
    assert locality_index(torch.tensor([0.0, -0.2]), torch.tensor([4, 4])) is None


def test_a_random_partition_keeps_sizes_and_covers_the_same():
    mixed = random_partition(REGIONS, torch.Generator().manual_seed(0))
    assert torch.equal(mixed.sum(-1), REGIONS.sum(-1)) and torch.equal(mixed.sum(0), torch.ones(768, dtype=torch.long))
    assert not torch.equal(mixed, REGIONS)


# ---- where a property lies


@pytest.mark.parametrize("prop", ["subject", "pp1", "length"])
@pytest.mark.parametrize("how", ["mean", "noise", "resample"])
def test_planted_cells_are_found(planted, prop, how):
    found = localize_property(SENTENCES, planted, prop, REGIONS, test_rows=TEST_ROWS, n_null=40, how=how)
    assert found.verdict == "localised" and found.index > found.null_high
    assert set(found.effects().topk(2).indices.tolist()) == {5, 6}
    for region in (5, 6):
        entry = found.regions[region]
        assert entry["effect"] > entry["null_high"] and entry["cells"] == 64


@pytest.mark.parametrize("prop", ["subject", "pp1", "length"])
def test_a_distributed_code_is_not_localised(prop):
    spread = planted_table(SENTENCES, 768, None)
    found = localize_property(SENTENCES, spread, prop, REGIONS, test_rows=TEST_ROWS, n_null=40)
    assert found.verdict == "not localised" and found.null_low <= found.index <= found.null_high


def test_the_released_regions_look_localised_only_if_size_is_ignored():
    """Over unequal regions a distributed code has effects that follow size: unequal effects, an even index."""
    regions = receptive_fields(SparseVAEConfig()).flatten(1)
    spread = planted_table(SENTENCES, 768, None, strength=0.6)
    found = localize_property(SENTENCES, spread, "subject", regions, test_rows=TEST_ROWS, n_null=40)
    assert found.effects().max() > 3 * found.effects().min().clamp(min=1e-3) and found.verdict == "not localised"


def test_a_permuted_table_loses_the_place_and_keeps_the_information(planted):
    settings = {"test_rows": TEST_ROWS, "n_null": 40}
    here = localize_property(SENTENCES, planted, "subject", REGIONS, **settings)
    there = localize_property(SENTENCES, permuted(planted, 3), "subject", REGIONS, **settings)
    assert there.score == pytest.approx(here.score, abs=0.05) and there.verdict == "not localised"


def test_a_score_that_reads_nothing_has_no_effect(planted):
    found = localize(lambda x: 0.5, planted.rows[:20], REGIONS, reference=planted.rows, n_null=40)
    assert found.verdict == "no effect" and found.index is None and found.null_mean is None
    json.dumps(found.as_dict(), allow_nan=False)


def test_what_no_probe_reads_is_not_localised_anywhere():
    noise = planted_table(SENTENCES, 768, strength=0.0)
    found = localize_property(SENTENCES, noise, "subject", REGIONS, test_rows=TEST_ROWS, n_null=40)
    assert found.verdict == "not read" and found.score <= found.floor == pytest.approx(-0.693147, abs=1e-5)


def test_the_floor_is_the_score_of_guessing_from_label_frequencies():
    assert prior_score("aaab", "ab", "accuracy") == 0.5
    assert prior_score("aaab", "ab", "log_probability") == pytest.approx((math.log(0.75) + math.log(0.25)) / 2)


def test_bad_regions_are_named(planted):
    with pytest.raises(BadInput, match=r"`regions`: got shape \(12, 767\); wanted \(regions, 768\)"):
        localize(lambda x: 0.0, planted.rows, REGIONS[:, 1:], reference=planted.rows)
    for few in (0, 1, 38, True):
        with pytest.raises(BadInput, match="`n_null`: got .*; wanted an integer, at least 39"):
            localize(lambda x: 0.0, planted.rows, REGIONS, reference=planted.rows, n_null=few)
    with pytest.raises(BadInput, match="region 1 without a dimension"):
        localize(
            lambda x: 0.0, planted.rows, torch.stack([REGIONS[0], REGIONS[0] & REGIONS[1]]), reference=planted.rows
        )
    with pytest.raises(BadInput, match="some of the sentences' rows, not all"):
        localize_property(SENTENCES, planted, "subject", REGIONS, test_rows=range(1, 33))


def test_a_trained_vae_reads_its_pattern_from_the_planted_region(pairs, planted, tmp_path):
    """From end to end: train on pairs, ablate regions of the test inputs, find the planted ones."""
    run = train(
        CONFIG,
        pairs,
        planted,
        tmp_path,
        epochs=15,
        learning_rate=3e-3,
        save_strategy="no",
        load_best_model_at_end=False,
    )
    assert evaluate_model(run.model, pairs["test"], planted).accuracy > 0.3
    x, score = selection_score(run.model, pairs["test"], planted)
    found = localize(score, x, REGIONS, reference=planted.of(list(set(pairs["train"]["input"]))), n_null=40)
    assert set(found.effects().topk(2).indices.tolist()) == {5, 6} and found.verdict == "localised"


def test_exchanging_the_planted_region_flips_the_number(planted):
    pairs = counterfactual_pairs(SENTENCES, "subject")
    assert len(pairs) == 448 and all(a.row == b.row and a.pattern != b.pattern for a, b in pairs)
    assert len(counterfactual_pairs(SENTENCES, "pp2")) == 8 * 32
    chosen, labels = property_rows(SENTENCES, "subject")
    classifier = make_probe("linear").fit(planted.of([s.text for s in chosen]).numpy(), labels)
    x, donors = (planted.of([pair[side].text for pair in pairs]) for side in (0, 1))
    wanted = [pattern_properties(donor.pattern)["subject"] for _, donor in pairs]
    flips = interchange_flips(
        classifier.predict, x, donors, wanted, torch.stack([REGIONS[5] | REGIONS[6], REGIONS[0] | REGIONS[1]])
    )
    assert flips[0] > 0.9 and flips[1] < 0.1


def test_outliers_are_the_dimensions_of_largest_variance():
    rows = torch.randn(100, 200, generator=torch.Generator().manual_seed(0))
    rows[:, [7, 90]] *= 50
    assert outlier_dimensions(rows).nonzero().flatten().tolist() == [7, 90]
    cleaned = without_outliers(EmbeddingTable([str(i) for i in range(100)], rows, "r"))
    assert cleaned.rows[:, [7, 90]].std(0).max() < 1e-4 and torch.equal(cleaned.rows[:, :7], rows[:, :7])


def test_routes_from_regions_to_latents_add_up():
    model = SparseVAEForSentenceEmbedding(SparseVAEConfig(mask="per_region"))
    routes = region_to_latent(model)
    assert (
        routes["units"].shape == (6, 5)
        and (routes["units"].sum(-1) == 40).all()
        and ((routes["units"] > 0).sum(-1) == 1).all()
    )
    assert torch.equal(routes["weight"] > 0, routes["units"] > 0)
    with pytest.raises(BadInput, match="a model without a mask"):
        region_to_latent(SparseVAEForSentenceEmbedding(SparseVAEConfig.preset("dense_stride")))


def test_a_cell_map_spreads_effects_over_their_cells():
    picture = cell_map(torch.arange(12.0), REGIONS, (32, 24))
    assert picture.shape == (32, 24) and float(picture.sum()) == pytest.approx(66.0)
    assert float(picture[0, 0]) == 0 and float(picture[31, 23]) == pytest.approx(11 / 64)


# ---- figures and commands


def test_figures_show_what_they_were_given(pairs, planted):
    model = SparseVAEForSentenceEmbedding(CONFIG).eval()
    latents = figures.latents_of(model, planted.rows)
    labels = [sentence.pattern for sentence in SENTENCES]
    for method in ("pca", "tsne"):
        picked = slice(None) if method == "pca" else slice(0, 448, 8)
        figure = figures.plot_latents(latents[picked], labels[picked], method)
        assert sum(len(points.get_offsets()) for points in figure.axes[0].collections) == len(labels[picked])
    with pytest.raises(UnknownName, match="unknown method 'umap'"):
        figures.plot_latents(latents, labels, "umap")
    confusion = figures.plot_confusion(evaluate_model(model, pairs["test"], planted))
    assert sum(int(text.get_text()) for text in confusion.axes[0].texts) == len(pairs["test"])
    chosen = [Selection(0.5, 0.25, None, {}, {"Correct": 2, "AEV": right, "WN1": 2 - right}, {}) for right in (2, 1)]
    bars = figures.plot_errors({"one": chosen, "two": chosen[:1]}).axes[0]
    assert [label.get_text() for label in bars.get_xticklabels()] == ["AEV", "WN1"]
    assert [bar.get_height() for bar in bars.patches] == [0.375, 0.125, 0.5, 0.0]
    assert [text.get_text() for text in bars.get_legend().get_texts()] == ["one: 50% right", "two: 50% right"]
    assert len(figures.plot_traversals(model, planted.rows, steps=3).axes) == 15
    found = {"subject": localize_property(SENTENCES, planted, "subject", REGIONS, test_rows=TEST_ROWS, n_null=40)}
    drawn = figures.plot_localizations(found, REGIONS, (32, 24)).axes[0]
    assert drawn.images[0].get_array().shape == (32, 24) and "localised" in drawn.get_title()


@pytest.fixture
def encoder_in_a_file(monkeypatch, planted):
    """The commands load an encoder whose rows are the planted ones; nothing else is replaced."""
    import hf_repgeo.sparse_vae.embeddings as embeddings

    of_roles = planted_table(role_sentences(), 768, REGIONS[5] | REGIONS[6], seed=1)
    lookup = dict(zip(planted.texts + of_roles.texts, torch.cat([planted.rows, of_roles.rows]), strict=True))
    table = lambda texts, *_, **__: EmbeddingTable(list(texts), torch.stack([lookup[t] for t in texts]), "planted")  # noqa: E731
    monkeypatch.setattr(embeddings, "embed_sentences", table)
    monkeypatch.setattr(embeddings, "embed_dataset", lambda data, *_, **__: table(dataset_texts(data)))


def run_command(*words):
    parser = argparse.ArgumentParser()
    cli.add(parser.add_subparsers(required=True))
    args = parser.parse_args(["sparse-vae", *map(str, words)])
    return args.run(args)


def test_the_localize_command_writes_numbers_and_maps(encoder_in_a_file, tmp_path, capsys):
    words = ("localize", "any", "--kernel", 8, "--nulls", 40, "--properties", "subject", "--output", tmp_path)
    assert run_command(*words) == 0
    report = GeometryReport.from_json(tmp_path / "localization.json")
    row = report.row("locality_index", tokens="all dimensions", stack="subject")
    assert row["details"]["verdict"] == "localised" and row["value"] > row["details"]["null_high"]
    regions = report.provenance["localization"]["all dimensions"]["subject"]["regions"]
    assert len(regions) > 1 and regions[0]["effect"] is not None
    assert "locality_index" in str(report)
    assert GeometryReport.from_parquet(report.to_parquet(tmp_path / "r.parquet")) == report
    pushed = report.push_to_hub("me/model", to=tmp_path / "dry")
    assert load_report(tmp_path / "dry") == report, pushed
    assert (tmp_path / "all-dimensions.png").is_file() and "all dimensions, subject" in capsys.readouterr().out


def test_the_localize_command_finds_roles_too(encoder_in_a_file, tmp_path):
    words = ("localize", "any", "--kernel", 8, "--nulls", 40, "--sentences", "roles", "--output", tmp_path)
    assert run_command(*words, "--properties", "voice") == 0
    report = GeometryReport.from_json(tmp_path / "localization.json")
    assert report.row("locality_index", tokens="all dimensions")["details"]["verdict"] == "localised"
    with pytest.raises(BadInput, match="the only one with role sentences"):
        run_command(*words, "--language", "fr")


def test_the_train_command_writes_models_and_results(encoder_in_a_file, tmp_path, capsys):
    words = ("train", "any", "--kernel", 8, "--epochs", 1, "--seeds", 3, 4, "--split", "seeds", "--output", tmp_path)
    words += ("--permutation-seed", 9, "--mask", "balanced", "--latents-per-unit", 2)
    assert run_command(*words) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert [run["seed"] for run in results["runs"]] == [3, 4] and len(results["accuracy"]["runs"]) == 2
    model = SparseVAEForSentenceEmbedding.from_pretrained(tmp_path / "model-seed-4")
    assert (model.config.permutation_seed, model.config.mask, model.config.latents_per_unit) == (9, "balanced", 2)
    assert model.config.kernel == [8, 8] and "accuracy" in capsys.readouterr().out
