"""Two models on the same rows: equal models, changed weights, other tokenizers, other depths, one model's layers."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tiny import SIZES, make_tokenizer, seeded

import hf_repgeo
from hf_repgeo.cli.main import main
from hf_repgeo.comparison import matched
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.rows.capture import Place
from hf_repgeo.rows.models import load_model
from hf_repgeo.rows.paired import cut_into_pieces, paired_rows, with_prompt
from hf_repgeo.rows.windows import make_windows

FEW = {"rows": 300, "comparisons": ["linear_cka", "neighbourhood_overlap"], "measures": []}


@pytest.fixture(scope="module")
def changed(encoder):
    """The encoder with noise in the weights of its second block."""
    other = copy.deepcopy(encoder)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in other.encoder.layer[1].parameters():
            weight += 0.5 * torch.randn(weight.shape, generator=generator)
    return other


def test_a_model_is_equal_to_itself(encoder, tokenizer, documents):
    report = hf_repgeo.compare(encoder, copy.deepcopy(encoder), documents, tokenizer=tokenizer, **FEW)
    assert report.unique("layer") == [0, 1, 2]
    for layer in (0, 1, 2):
        assert report.value("linear_cka", layer=layer) == pytest.approx(1, abs=1e-6)
        assert report.value("neighbourhood_overlap", layer=layer) == 1


def test_a_change_is_seen_from_its_layer_on_and_not_before(encoder, changed, tokenizer, documents):
    report = hf_repgeo.compare(encoder, changed, documents, tokenizer=tokenizer, **FEW)
    values = [report.value("linear_cka", layer=layer) for layer in (0, 1, 2)]
    assert values[:2] == pytest.approx([1, 1], abs=1e-6) and values[2] < 0.99
    row = report.row("linear_cka", layer=2)
    assert row["se"] > 0 and row["se_method"].startswith("jackknife") and row["details"]["layer_b"] == 2
    assert row["n"] == 300 and row["tokens"] == "all"


def test_models_with_other_tokens_are_compared_on_pieces_of_text(encoder, tokenizer, documents):
    plain = make_tokenizer(special=False)
    asked = {"tokenizer": tokenizer, "tokenizer_b": plain, "comparisons": "linear_cka"}
    report = hf_repgeo.compare(encoder, copy.deepcopy(encoder), documents, **asked)
    assert report.unique("tokens") == ["pieces"] and report.rows[0]["n"] == len(documents)
    assert report.value("linear_cka", layer=0) > 0.5


def t5(kind):
    """T5 without positions: layer 0 is the embedding of the token that a stack reads."""
    import transformers

    sizes = {"vocab_size": SIZES["vocab_size"], "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(**sizes, decoder_start_token_id=0, pad_token_id=0, dropout_rate=0.0)
    return seeded(getattr(transformers, kind), config)


@pytest.mark.parametrize("tokens", ["all", "no_special"])
def test_two_stacks_are_compared_on_tokens_that_the_policy_takes_in_both(tokenizer, documents, tokens):
    """A decoder reads the text one token later, so that a row of it can be special where the encoder's is not."""
    loaded = load_model(t5("T5Model"), tokenizer=tokenizer)
    asked = {"tokens": tokens, "rows": 300, "window": 32, "batch_size": 8, "seed": 0}
    found = paired_rows(loaded, loaded, hf_repgeo.Corpus(documents), **asked)
    special = loaded.model.get_input_embeddings().weight.detach()[tokenizer.all_special_ids]
    for stack in ("encoder", "decoder"):
        is_special = (found.a[Place(stack, 0)][:, None] == special).all(-1).any(1)
        assert bool(is_special.any()) == (tokens == "all")


def test_rows_belong_together_where_only_one_model_has_a_decoder(tokenizer, documents):
    """Equal embeddings: where the rows are the same tokens, layer 0 of both is the same."""
    both, alone = t5("T5Model"), t5("T5EncoderModel")
    alone.shared.weight.data.copy_(both.shared.weight)
    asked = {"tokens": "no_special", "rows": 300, "window": 32, "batch_size": 8, "seed": 0}
    models = [load_model(model, tokenizer=tokenizer) for model in (both, alone)]
    found = paired_rows(*models, hf_repgeo.Corpus(documents), **asked)
    assert torch.equal(found.a[Place("encoder", 0)], found.b[Place("encoder", 0)])


def test_models_of_different_depth_are_matched_by_relative_depth(encoder, tokenizer, documents):
    from transformers import BertConfig, BertModel

    config = BertConfig(**SIZES | {"num_hidden_layers": 4}, max_position_embeddings=64)
    report = hf_repgeo.compare(encoder, seeded(BertModel, config), documents, tokenizer=tokenizer, **FEW)
    pairs = {(row["layer"], row["details"]["layer_b"]) for row in report}
    assert pairs == {(0, 0), (1, 2), (2, 4)}


def test_one_model_gives_each_layer_beside_the_next_and_all_of_them_as_a_matrix(encoder, tokenizer, documents):
    report = hf_repgeo.compare(encoder, texts=documents, tokenizer=tokenizer, **FEW)
    steps = report.select(protocol="whole", measure="linear_cka")
    assert [(row["layer"], row["details"]["layer_b"]) for row in steps] == [(0, 1), (1, 2)]
    cells = {(row["layer"], row["details"]["layer_b"]): row["value"] for row in report.select(protocol="matrix")}
    assert len(cells) == 9 and cells[1, 1] == pytest.approx(1)
    assert cells[0, 1] == pytest.approx(cells[1, 0]) == pytest.approx(steps.rows[0]["value"], abs=1e-5)


def test_layers_of_two_models_make_a_matrix_on_request(encoder, changed, tokenizer, documents):
    report = hf_repgeo.compare(encoder, changed, documents, tokenizer=tokenizer, all_layers=True, **FEW)
    assert len(report.select(protocol="matrix")) == 9


def test_sink_robust_leaves_out_special_tokens_and_first_positions(encoder, changed, tokenizer, documents):
    asked = FEW | {"rows": 10_000, "tokenizer": tokenizer}
    counts = {
        tokens: hf_repgeo.compare(encoder, changed, documents, tokens=tokens, **asked).rows[0]["n"]
        for tokens in ("all", "no_special", "sink_robust")
    }
    assert counts["all"] > counts["no_special"] >= counts["sink_robust"]


def test_a_comparison_comes_back_equal_from_its_file(encoder, changed, tokenizer, documents, tmp_path):
    report = hf_repgeo.compare(encoder, changed, documents, tokenizer=tokenizer, out=tmp_path / "new", **FEW)
    assert hf_repgeo.GeometryReport.from_json(tmp_path / "new" / "comparison.json") == report
    assert report.provenance["comparisons"] == ["linear_cka:debiased", "neighbourhood_overlap:mutual"]


def test_wrong_requests_are_refused_before_the_models_run(encoder, tokenizer, documents):
    asked = {"texts": documents, "tokenizer": tokenizer}
    for wrong, error, words in (
        ({"comparisons": "cka"}, UnknownName, "unknown comparison 'cka'"),
        ({"tokens": "one_per_type"}, UnknownName, "unknown token policy"),
        ({"neighbours": 5}, UnknownName, "unknown option 'neighbours'"),
        ({"rows": 2}, BadInput, "`rows`: got 2"),
        ({"layers": [7], "rows": 50}, UnknownName, "unknown layer 7"),
    ):
        with pytest.raises(error, match=words):
            hf_repgeo.compare(encoder, copy.deepcopy(encoder), **asked | wrong)


def test_measures_that_moved_are_found_in_their_layer(encoder, changed, tokenizer, documents):
    asked = {"rows": 1500, "tokenizer": tokenizer, "comparisons": "linear_cka"}
    asked |= {"measures": ["effective_rank", "mean_cosine"]}
    report = hf_repgeo.compare(encoder, changed, documents, **asked).select(protocol="paired")
    assert len(report) == 6
    for layer in (0, 1):
        row = report.row("mean_cosine", layer=layer)
        assert (row["value"], row["details"]["p_corrected"]) == (pytest.approx(0, abs=1e-6), 1)
    row = report.row("effective_rank", layer=2)
    assert row["value"] == pytest.approx(row["details"]["second"] - row["details"]["first"]) != 0
    assert row["details"]["low"] < row["value"] < row["details"]["high"]
    assert row["details"]["p_corrected"] < 0.05 and row["se_method"].startswith("paired jackknife")
    assert "differences, second minus first" in str(report) and "*" in str(report)


def test_the_difference_is_that_of_two_profiles_on_the_same_rows(encoder, changed, tokenizer, documents):
    asked = {"tokenizer": tokenizer, "rows": 10_000, "tokens": "all"}  # all rows, so that both hold the same
    moved = hf_repgeo.compare(encoder, changed, documents, comparisons="linear_cka", measures="mean_cosine", **asked)
    before, after = (
        hf_repgeo.profile(m, documents, measures="mean_cosine", final_norm="raw", progress=False, **asked).value(
            "mean_cosine", layer=2
        )
        for m in (encoder, changed)
    )
    assert moved.value("mean_cosine", layer=2) == pytest.approx(after - before, abs=1e-6)


def test_differences_of_patchiness_have_errors_from_documents_drawn_anew(encoder, changed, tokenizer, documents):
    asked = {"tokenizer": tokenizer, "comparisons": "linear_cka", "rows": 300}
    wanted = ["patchiness", "massive_share", "cell_count_variance"]
    report = hf_repgeo.compare(encoder, changed, documents, measures=wanted, layers=[0, 2], **asked)
    for measure in ("patchiness", "cell_count_variance"):
        same, moved = (report.row(measure, layer=layer, protocol="paired") for layer in (0, 2))
        assert (same["value"], same["se"], same["details"]["p_corrected"]) == (0, 0, 1)
        assert moved["se"] > 0 and moved["se_method"] == "12 draws of documents"
        assert moved["details"]["low"] < moved["value"] < moved["details"]["high"]
        assert moved["details"]["p_corrected"] == min(1, 2 * moved["details"]["p"])  # over two layers
    bare = report.row("massive_share", layer=2, protocol="paired")
    assert bare["se"] is None and bare["warnings"][-1].startswith("no_paired_error")


def test_two_precisions_of_one_model_are_compared(encoder_folder, documents):
    asked = {"rows": 300, "dtype": "float32", "comparisons": "linear_cka", "measures": "mean_cosine"}
    report = hf_repgeo.compare(str(encoder_folder), texts=documents, dtype_b="bfloat16", **asked)
    assert report.unique("protocol") == ["whole", "paired"] and report.provenance["other"]["dtype"] == "bfloat16"
    assert 0.99 < report.value("linear_cka", layer=2) <= 1
    assert 0 < abs(report.value("mean_cosine", layer=2)) < 0.05


def test_two_prompts_change_rows_of_the_same_tokens_and_an_equal_prompt_changes_none(encoder, tokenizer, documents):
    placeless = copy.deepcopy(encoder)
    placeless.embeddings.position_embeddings.weight.data.zero_()  # then layer 0 depends on the token alone
    asked = {"texts": documents, "rows": 300, "tokenizer": tokenizer}
    asked |= {"comparisons": "linear_cka", "measures": "mean_cosine"}
    other = hf_repgeo.compare(placeless, prompt_b="the old cat", **asked)
    assert other.value("linear_cka", layer=0) == pytest.approx(1) and other.value("linear_cka", layer=2) < 0.9999
    assert other.provenance["prompts"] == ["", "the old cat"] and other.unique("protocol") == ["whole", "paired"]
    same = hf_repgeo.compare(encoder, prompt="a cat", prompt_b="a cat", **asked)
    assert same.value("linear_cka", layer=2) == pytest.approx(1) and same.value("mean_cosine", layer=2) == 0
    robust = hf_repgeo.compare(placeless, prompt_b="the old cat", **asked | {"tokens": "sink_robust"})
    assert robust.value("linear_cka", layer=0) == pytest.approx(1) and 100 < robust.rows[0]["n"] <= 300


def test_a_prompt_follows_the_first_special_token(tokenizer):
    windows = with_prompt(make_windows(tokenizer, ["cat dog"], 16), [7, 8])
    assert windows.ids == [[2, 7, 8, *tokenizer("cat dog")["input_ids"][1:]]]


def test_prompts_that_cannot_be_compared_are_refused(encoder, tokenizer, documents):
    asked = {"texts": documents, "tokenizer": tokenizer}
    with pytest.raises(BadInput, match="`prompt`: got 90 tokens"):
        hf_repgeo.compare(encoder, prompt_b="cat " * 90, **asked)
    with pytest.raises(BadInput, match="models of one tokenizer"):
        hf_repgeo.compare(encoder, encoder, prompt="cat", tokenizer_b=make_tokenizer(special=False), **asked)


def test_pieces_are_drawn_evenly_with_their_documents():
    pieces, owners = cut_into_pieces(["a " * 120, "b " * 61], 100, seed=0)
    assert [len(piece.split()) for piece in pieces] == [60, 60, 60, 1] and owners == [0, 0, 1, 1]
    with pytest.raises(BadInput, match="3 pieces of 60 words"):
        cut_into_pieces(["a " * 180], 100, seed=0)


def test_the_figure_has_a_curve_a_comparison_and_a_heat_map_where_there_is_a_matrix(encoder, tokenizer, documents):
    report = hf_repgeo.compare(encoder, texts=documents, tokenizer=tokenizer, null=True, **FEW)
    curves, heat, _ = hf_repgeo.plot_comparison(report).axes  # the third is the colour bar
    assert [line.get_label() for line in curves.lines if not line.get_label().startswith("_")] == [
        "linear cka",
        "neighbourhood overlap",
    ]
    assert heat.images[0].get_array().shape == (3, 3)
    moved = hf_repgeo.compare(encoder, texts=documents, tokenizer=tokenizer, **FEW | {"measures": ["anisotropy"]})
    panel = hf_repgeo.plot_comparison(moved).axes[2]
    assert panel.get_title() == "Anisotropy: difference" and len(panel.lines) == 1 + 2 * 2  # zero, two layers
    with pytest.raises(BadInput, match="no comparison"):
        hf_repgeo.plot_comparison(hf_repgeo.measure(torch.eye(8), "anisotropy"))


def test_the_command_writes_numbers_and_figure(encoder_folder, documents, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    command = ["compare", str(encoder_folder), "--text", str(tmp_path / "text.txt"), "--rows", "200"]
    asked = ["--comparisons", "linear_cka", "--measures", "anisotropy", "--dtype-b", "bfloat16"]
    assert main([*command, *asked, "--out", str(tmp_path / "out")]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"comparison.json", "comparison.png"}
    said = capsys.readouterr().out
    assert "linear_cka" in said and "differences, second minus first" in said


def test_places_are_matched_within_stacks_that_both_models_have():
    def places(**depths):
        return {Place(stack, layer, "residual"): None for stack, depth in depths.items() for layer in range(depth)}

    def found(a, b, layers=None):
        pairs = matched(SimpleNamespace(a=a, b=b), layers, one_model=False)
        return [(first.stack, first.layer, second.stack, second.layer) for first, second in pairs]

    both, one = places(encoder=2, decoder=3), places(decoder=2)
    assert found(both, one) == [
        ("decoder", 0, "decoder", 0),
        ("decoder", 1, "decoder", 0),
        ("decoder", 2, "decoder", 1),
    ]
    assert found(places(encoder=2), one) == [("encoder", 0, "decoder", 0), ("encoder", 1, "decoder", 1)]
    with pytest.raises(BadInput, match="models without a stack in common"):
        found(both, places(vision=2, text=2))
    with pytest.raises(BadInput, match=r"\[1\], none of them compared; wanted some of \[0, 1\]"):
        matched(SimpleNamespace(a=places(encoder=2), b={}), [1], one_model=True)


def test_an_option_that_no_comparison_takes_is_refused(encoder, tokenizer, documents):
    with pytest.raises(UnknownName, match="unknown option 'depth'"):
        hf_repgeo.compare(encoder, encoder, documents, tokenizer=tokenizer, depth=3)


def test_a_matrix_alone_has_one_panel_and_cells_without_a_value_stay_empty():
    made = hf_repgeo.GeometryReport(provenance={"model": "m"})
    for layer, value in ((0, 0.5), (1, None)):
        details = {"stack_b": "encoder", "layer_b": 0}
        made.add(layer=layer, stack="encoder", measure="linear_cka", convention="x", protocol="matrix", value=value,
                 details=details)  # fmt: skip
    figure = hf_repgeo.plots.plot_comparison(made)
    [image] = figure.axes[0].get_images()
    assert image.get_array().mask.tolist() == [[False], [True]] and image.get_array()[0, 0] == 0.5


def test_four_panels_leave_two_places_empty_and_a_comparison_without_values_has_no_curve():
    from hf_repgeo.plots import plot_comparison

    made = hf_repgeo.GeometryReport(provenance={"model": "m", "other": {"model": "n"}})
    usual = {"layer": 0, "stack": "encoder", "convention": "x", "details": {}}
    made.add(measure="linear_cka", protocol="whole", value=None, **usual)
    for measure in ("anisotropy", "iso_score", "effective_rank"):
        made.add(measure=measure, protocol="paired", value=0.1, **usual)
    figure = plot_comparison(made)
    assert len(figure.axes) == 4 and not figure.axes[0].get_lines()
    assert "m against n" in figure.get_suptitle()
