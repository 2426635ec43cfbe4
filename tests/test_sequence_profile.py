"""Tokens in their order, layer by layer: numbers of the hidden states themselves, chance, errors, command, figure."""

import math

import pytest
import torch
from tiny import make_tokenizer

import hf_repgeo
from hf_repgeo.cli.main import main
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.measures import PointCloud
from hf_repgeo.measures.trajectories import curvature, over_sequences, prompt_entropy
from hf_repgeo.sequences.profile import shuffled

ASKED = {"sequences": 6, "window": 16}


def states_of(model, tokenizer, text, layer):
    """`(16, d)` hidden states of the beginning of a text."""
    ids = tokenizer(text, truncation=True, max_length=16, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(ids, output_hidden_states=True).hidden_states[layer][0]


def test_the_numbers_are_those_of_the_models_hidden_states(encoder, tokenizer, documents):
    texts = [text for text in documents if len(text.split()) > 14][:4]
    firsts = [" ".join(text.split()[:14]) for text in texts]  # each a whole window with its special tokens
    report = hf_repgeo.profile_sequences(encoder, firsts, tokenizer=tokenizer, **ASKED)
    for layer in (0, 2):
        states = [states_of(encoder, tokenizer, text, layer) for text in firsts]
        for tokens, cut in (("all", slice(None)), ("no_first", slice(1, -1))):
            rows = torch.cat([part[cut] for part in states])
            groups = torch.arange(4).repeat_interleave(len(rows) // 4)
            for measure in (curvature, prompt_entropy):
                expected = measure(PointCloud(rows, groups=groups))
                row = report.row(expected.measure, layer=layer, tokens=tokens)
                assert row["value"] == pytest.approx(expected.value, rel=1e-5)
                assert row["se"] == pytest.approx(expected.standard_error, rel=1e-4)
                assert row["n"] == len(rows) and row["details"]["sequences"] == 4


def test_a_decoder_loses_its_first_position_and_nothing_else(decoder, documents):
    report = hf_repgeo.profile_sequences(decoder, documents, tokenizer=make_tokenizer(special=False), **ASKED)
    counts = {tokens: report.row("curvature", layer=1, tokens=tokens)["n"] for tokens in ("all", "no_first")}
    assert counts == {"all": 6 * 16, "no_first": 6 * 15}


def test_sequences_of_one_document_are_drawn_together():
    values = [1.0, 1.0, 3.0, 3.0]
    twice = over_sequences("curvature", values, [(9, 5)] * 4, [0, 0, 1, 1], 36)
    once = over_sequences("curvature", [1.0, 3.0], [(9, 5)] * 2, [0, 1], 18)
    assert twice.standard_error == pytest.approx(once.standard_error) == pytest.approx(1)
    assert (twice.se_method, once.se_method) == ("over 2 documents", "over 2 sequences")


def test_chance_is_that_of_tokens_in_random_order(encoder, tokenizer, documents):
    report = hf_repgeo.profile_sequences(encoder, documents, tokenizer=tokenizer, null=True, **ASKED)
    row = report.row("curvature", layer=2, tokens="all")
    assert row["details"]["null"] == pytest.approx(2 * math.pi / 3, abs=0.1) and row["details"]["null_sd"] > 0
    assert "[" in str(report)


def test_shuffling_keeps_sequences_for_curvature_and_mixes_them_for_the_entropy(generator):
    parts = [torch.zeros(5, 2), torch.ones(7, 2)]
    alone = shuffled(parts, "curvature", generator)
    assert [float(part.mean()) for part in alone] == [0, 1]
    mixed = shuffled(parts, "prompt_entropy", generator)
    assert [len(part) for part in mixed] == [5, 7] and 0 < float(mixed[0].mean())


def test_wrong_requests_are_refused(encoder, tokenizer, documents):
    for wrong, error, words in (
        ({"measures": "curviture"}, UnknownName, "Did you mean 'curvature'"),
        ({"tokens": "sink_robust"}, UnknownName, "unknown token policy"),
        ({"sequences": 0}, BadInput, "`sequences`"),
        ({"texts": ["cat"]}, BadInput, "no text of a few tokens"),
        ({"layers": [9]}, UnknownName, "unknown layer 9"),
    ):
        with pytest.raises(error, match=words):
            hf_repgeo.profile_sequences(encoder, **{"texts": documents, "tokenizer": tokenizer} | wrong)


def test_the_command_writes_numbers_and_figure(encoder_folder, documents, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    command = [
        "sequences",
        str(encoder_folder),
        "--text",
        str(tmp_path / "text.txt"),
        "--sequences",
        "5",
        "--window",
        "16",
    ]
    assert main([*command, "--null", "--out", str(tmp_path / "out")]) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"sequences.json", "sequences.png"}
    assert "curvature" in capsys.readouterr().out
    report = hf_repgeo.GeometryReport.from_json(tmp_path / "out" / "sequences.json")
    figure = hf_repgeo.plot_sequences(report)
    assert [axis.get_title() for axis in figure.axes] == ["Curvature", "Prompt entropy"]
    assert len(figure.axes[0].lines) == 2 * 2  # a curve and its chance for each token policy
    with pytest.raises(BadInput, match="no measure of sequences"):
        hf_repgeo.plot_sequences(hf_repgeo.measure(torch.eye(8), "anisotropy"))


def test_sequences_without_a_value_leave_their_panel_empty():
    from hf_repgeo.plots import plot_sequences
    from hf_repgeo.report import GeometryReport

    made = GeometryReport(provenance={"model": "m"})
    for tokens, value in (("all", 0.4), ("no_special", None)):
        made.add(layer=0, stack="encoder", tokens=tokens, measure="curvature", convention="x", value=value, se=None)
    [axis] = plot_sequences(made).axes
    assert [line.get_label() for line in axis.get_lines()] == ["tokens: all"]
