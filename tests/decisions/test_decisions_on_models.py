"""Decisions about models: tiny ones, damaged in known ways."""

import copy
import json
import random

import numpy as np
import pytest
import torch
from tiny import WORDS

from hf_repgeo.decisions import (
    Centred,
    Whitened,
    check_finetune,
    check_quantization,
    choose_checkpoint,
    choose_layer,
    cosine_floor,
    embed,
    read_groups,
    read_pairs,
    unrelated_domains,
)
from hf_repgeo.decisions.retrieval import reciprocal_ranks
from hf_repgeo.errors import BadInput, UnknownName

DRAW = random.Random(0)
PAIRS = []
for _ in range(60):  # a query has the words of its document in another order
    words = DRAW.sample(WORDS, 6)
    PAIRS.append((" ".join(words), " ".join(DRAW.sample(words, 6))))
GROUPS = {
    f"group {i}": [" ".join([WORDS[i], WORDS[i + 1], *DRAW.sample(WORDS, 4)]) for _ in range(8)] for i in range(12)
}
TEXTS = [text for texts in GROUPS.values() for text in texts]


@pytest.fixture
def pairs_file(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("query\tdocument\n" + "".join(f"{a}\t{b}\n" for a, b in PAIRS))
    return path


def without_its_last_layer(model, left=1e-3):
    """A copy whose last block sends every token to almost one place; `left` scales what differs between tokens."""
    damaged = copy.deepcopy(model)
    with torch.no_grad():
        damaged.encoder.layer[-1].output.LayerNorm.weight.fill_(left)
        damaged.encoder.layer[-1].output.LayerNorm.bias.copy_(
            torch.randn(32, generator=torch.Generator().manual_seed(1))
        )
    return damaged


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_the_mean_is_over_the_tokens_of_a_text_alone(encoder, tokenizer):
    texts = ["the cat", "a dog sees the old house near the river", "cat"]
    found = embed(encoder, texts, tokenizer=tokenizer).rows
    for row, text in zip(found, texts):
        with torch.no_grad():
            alone = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)


def test_the_pooling_of_a_folder_is_that_of_its_sentence_transformers_settings(encoder, tokenizer, tmp_path):
    encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    found = embed(str(tmp_path), ["the cat sees a dog"])
    assert found.pooling == "cls"
    torch.testing.assert_close(
        found.rows, embed(encoder, ["the cat sees a dog"], tokenizer=tokenizer, pooling="cls").rows
    )


def test_sinks_left_out_are_the_first_position_and_massive_tokens():
    from hf_repgeo.decisions.embeddings import _mean_without_sinks

    text = torch.ones(6, 4)
    text[0], text[3] = 1000.0, 500.0
    assert _mean_without_sinks(text).tolist() == [1, 1, 1, 1]
    assert _mean_without_sinks(text[:1]).tolist() == [1000] * 4


def test_unknown_pooling_and_empty_texts_are_refused(encoder, tokenizer):
    with pytest.raises(UnknownName, match="pooling 'max'"):
        embed(encoder, ["cat"], tokenizer=tokenizer, pooling="max")
    with pytest.raises(BadInput, match="`texts`"):
        embed(encoder, [], tokenizer=tokenizer)


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_the_packaged_domains_are_twenty_of_twenty_five_sentences():
    found = unrelated_domains()
    assert np.bincount(found.groups).tolist() == [25] * 20


def test_rows_labelled_false_are_no_pairs_and_documents_are_counted_once(tmp_path):
    path = tmp_path / "qa.csv"
    lines = [f"question {i},answer {i // 2},{'entailment' if i % 3 else 'not_entailment'}" for i in range(60)]
    path.write_text("question,sentence,label\n" + "\n".join(lines))
    found = read_pairs(path)
    assert len(found) == 40
    assert len(found.documents) == len(set(found.documents)) == 30
    assert [found.documents[t] for t in found.target[:2]] == ["answer 0", "answer 1"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "a column query or question"),
        ("query,document\nx\n", "line 2"),
        ("query,document\nx,\n", "line 2"),
        ("query,document,label\nx,y,perhaps\n", "'perhaps'"),
        ("query,document\nx,y\n", "at least 20"),
        ("", "a column query"),
    ],
)
def test_a_bad_file_of_pairs_is_named_with_its_line(tmp_path, content, said):
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    with pytest.raises(BadInput, match=said):
        read_pairs(path)


def test_one_group_is_refused():
    with pytest.raises(BadInput, match="at least two groups"):
        read_groups({"one": ["a", "b"]})


def test_texts_without_groups_are_a_group_each_and_labels_join_them(tmp_path):
    plain, labels = tmp_path / "texts.txt", tmp_path / "labels.txt"
    plain.write_text("one text\n\nanother text\n\na third text\n")
    labels.write_text("x\ny\nx\n")
    assert read_groups(plain).groups.tolist() == [0, 1, 2]
    found = read_groups(plain, labels)
    assert (found.groups.tolist(), found.labels) == ([0, 1, 0], ("x", "y"))
    with pytest.raises(BadInput, match="2 labels for 3 texts"):
        read_groups(plain, ["x", "y"])
    with pytest.raises(BadInput, match="labels beside texts in groups"):
        read_groups(GROUPS, ["x"])


def test_the_rank_of_a_document_counts_ties_half():
    documents = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert reciprocal_ranks(queries, documents, np.array([0, 2])).tolist() == pytest.approx([1 / 1.5, 1.0])


# --- floor ------------------------------------------------------------------------------------------------------------


def test_given_true_pairs_replace_the_floor_from_groups_as_evidence(encoder, tokenizer):
    found = cosine_floor(encoder, GROUPS, pairs=PAIRS, tokenizer=tokenizer)
    assert found.geometry is not None
    row = found.evidence[0]
    queries, documents = (embed(encoder, texts, tokenizer=tokenizer).rows for texts in zip(*PAIRS))
    cosines = torch.nn.functional.cosine_similarity(queries[:, None], documents[None], dim=2)
    others = cosines[~torch.eye(60, dtype=torch.bool)]
    assert row["q99 of mismatched pairs"].value == pytest.approx(float(others.quantile(0.99)), abs=2e-3)
    share = (cosines.diagonal() > others.quantile(0.99)).double().mean()
    assert row["true above it"].value == pytest.approx(float(share), abs=0.02)


# --- layer ------------------------------------------------------------------------------------------------------------


def test_an_earlier_layer_is_chosen_if_the_last_one_carries_nothing(encoder, tokenizer):
    found = choose_layer(without_its_last_layer(encoder), PAIRS, tokenizer=tokenizer)
    assert found.verdict == "use another"
    assert found.numbers["layer"] < 2 or found.numbers["centred"]
    assert found.numbers["mrr"] > found.numbers["default_mrr"] + 0.1


def test_pairs_of_equal_texts_keep_the_default(encoder, tokenizer):
    same = [(text, text) for text, _ in PAIRS]
    assert choose_layer(encoder, same, tokenizer=tokenizer).verdict == "keep the default"


# --- fine-tune --------------------------------------------------------------------------------------------------------


def test_a_model_is_a_healthy_fine_tune_of_itself(encoder, tokenizer):
    found = check_finetune(encoder, encoder, GROUPS, heldout=GROUPS, tokenizer=tokenizer)
    assert found.verdict == "healthy"
    assert found.evidence[0]["spread left"].value == pytest.approx(1.0)


def test_a_model_that_sends_all_texts_to_one_place_is_called_collapsed(encoder, tokenizer):
    found = check_finetune(encoder, without_its_last_layer(encoder), GROUPS, heldout=GROUPS, tokenizer=tokenizer)
    assert found.verdict == "collapsed"
    assert found.evidence[0]["after"].value > 0.99


def test_pairs_decide_whether_a_fine_tune_did_harm(encoder, tokenizer):
    damaged = without_its_last_layer(encoder, left=0.0)
    found = check_finetune(encoder, damaged, GROUPS, heldout=GROUPS, pairs=PAIRS, tokenizer=tokenizer)
    assert found.verdict == "harmed"
    assert "collapsed" in found.geometry


def test_the_spread_is_the_participation_ratio_of_the_covariance():
    from hf_repgeo.decisions.spread import spread

    rows = torch.randn(80, 12, generator=torch.Generator().manual_seed(0))
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(unit.T))
    wanted = float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    assert spread(rows, np.arange(80))[0] == pytest.approx(wanted, rel=1e-9)


def test_every_class_has_its_rank_and_the_narrowest_is_named(encoder, tokenizer):
    texts = [text for group in list(GROUPS.values())[:10] for text in group]
    labels = [f"class {i // 16}" for i in range(80)]
    found = check_finetune(encoder, encoder, texts, labels=labels, heldout=GROUPS, tokenizer=tokenizer)
    ranks = found.numbers["ranks"]["in domain"]
    assert list(ranks) == [f"class {i}" for i in range(5)]
    unit = torch.nn.functional.normalize(embed(encoder, texts[:16], tokenizer=tokenizer).rows.double(), dim=1)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(unit.T))
    wanted = float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())
    assert ranks["class 0"] == pytest.approx((wanted, wanted), rel=1e-4)
    assert found.numbers["ranks"]["outside"] == {}  # groups of eight texts
    assert found.evidence[0]["narrowest group"].startswith("class ")


# --- quantization -----------------------------------------------------------------------------------------------------


def test_the_verdict_names_what_is_wrong_with_a_copy(encoder, tokenizer, plain_tokenizer):
    def verdict(copied, **options):
        return check_quantization(encoder, copied, TEXTS, tokenizer=tokenizer, **options).verdict

    noisy = copy.deepcopy(encoder)
    with torch.no_grad():
        for weight in noisy.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    assert verdict(copy.deepcopy(encoder)) == "no harm seen"
    assert verdict(noisy) == "lost precision"
    assert verdict(copy.deepcopy(encoder), pooling_quantized="last") == "wrong pooling"
    assert verdict(copy.deepcopy(encoder), tokenizer_quantized=plain_tokenizer) == "wrong tokenizer or template"


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_folder(encoder, tokenizer, tmp_path):
    """Three checkpoints: the first and the last give all texts the same embedding."""
    nothing = without_its_last_layer(encoder, left=0.0)
    models = {10: nothing, 20: encoder, 30: nothing}
    for step, model in models.items():
        model.save_pretrained(tmp_path / f"checkpoint-{step}")
        tokenizer.save_pretrained(tmp_path / f"checkpoint-{step}")
    return tmp_path


def with_losses(folder, losses):
    history = {"log_history": [{"step": step, "eval_loss": loss} for step, loss in losses.items()]}
    (folder / "checkpoint-30" / "trainer_state.json").write_text(json.dumps(history))
    return folder


def test_the_pairs_decide_only_where_they_beat_the_last_and_the_loss(run_folder):
    no_loss = choose_checkpoint(run_folder, PAIRS)
    assert no_loss.numbers["step"] == 20
    misled = choose_checkpoint(with_losses(run_folder, {10: 3.0, 20: 2.0, 30: 1.0}), PAIRS)
    assert misled.verdict == no_loss.verdict == "by the pairs"
    guided = choose_checkpoint(with_losses(run_folder, {10: 3.0, 20: 1.0, 30: 2.0}), PAIRS)
    assert guided.verdict == "use the loss"


def test_a_folder_without_checkpoints_and_a_broken_log_are_refused(run_folder, tmp_path_factory):
    with pytest.raises(BadInput, match="0 checkpoint"):
        choose_checkpoint(tmp_path_factory.mktemp("empty"), PAIRS)
    (run_folder / "checkpoint-30" / "trainer_state.json").write_text("[1")
    with pytest.raises(BadInput, match="trainer_state.json"):
        choose_checkpoint(run_folder, PAIRS)


# --- repair -----------------------------------------------------------------------------------------------------------


def test_the_repair_takes_out_the_mean_and_the_strongest_directions():
    rows = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)) + 5
    rows[:, 3] *= 20
    found = Centred.fit(rows, 1)
    repaired = found.apply_to(rows)
    assert repaired.mean(0).abs().max() < 1e-4
    assert repaired[:, 3].std() < 0.5
    with pytest.raises(BadInput, match="`directions`"):
        Centred.fit(rows, 16)


@pytest.mark.parametrize("n", [20, 4000])
def test_whitened_rows_count_all_directions_alike_and_few_rows_are_shrunk(n):
    scales = torch.logspace(0, 1, 32)
    rows = torch.randn(n, 32, generator=torch.Generator().manual_seed(0)) * scales + 3
    others = torch.randn(4000, 32, generator=torch.Generator().manual_seed(1)) * scales + 3
    spread = torch.linalg.eigvalsh(torch.cov(Whitened.fit(rows).apply_to(others).T))
    before = torch.linalg.eigvalsh(torch.cov(others.T))
    assert spread.max() / spread.min() < (2 if n == 4000 else 0.5 * float(before.max() / before.min()))
    with pytest.raises(BadInput, match="all equal"):
        Whitened.fit(torch.ones(10, 4))


def test_a_repair_is_saved_and_read_again(tmp_path):
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    for number, repair in enumerate((Centred.fit(rows, 2), Whitened.fit(rows))):
        repair.save(str(tmp_path / str(number)))
        assert torch.equal(type(repair).load(str(tmp_path / str(number))).apply_to(rows), repair.apply_to(rows))


def test_the_repair_is_saved_with_a_sentence_transformer(encoder_folder, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    first = Transformer(str(encoder_folder))
    plain = library.SentenceTransformer(modules=[first, Pooling(32)], device="cpu")
    rows = plain.encode(TEXTS[:20], convert_to_tensor=True)
    repaired = library.SentenceTransformer(modules=[*plain, Centred.fit(rows)], device="cpu")
    repaired.save(str(tmp_path / "repaired"))
    again = library.SentenceTransformer(str(tmp_path / "repaired"), device="cpu", trust_remote_code=True)
    torch.testing.assert_close(
        again.encode(TEXTS[:20], convert_to_tensor=True), rows - rows.mean(0), atol=1e-5, rtol=1e-4
    )


# --- the commands -----------------------------------------------------------------------------------------------------


def test_every_command_answers_from_files(encoder_folder, run_folder, pairs_file, tmp_path, capsys):
    from hf_repgeo.cli.main import main

    groups = tmp_path / "groups.csv"
    groups.write_text("text,group\n" + "".join(f"{t},{g}\n" for g, texts in GROUPS.items() for t in texts))
    rows = tmp_path / "rows.npy"
    np.save(rows, np.random.default_rng(0).normal(size=(250, 32)).astype("float32"))
    model = str(encoder_folder)
    lines = {
        "floor": [model, "--texts", str(groups), "--pairs", str(pairs_file)],
        "layer": [model, "--pairs", str(pairs_file)],
        "finetune": [model, model, "--texts", str(groups), "--heldout", str(groups)],
        "quant": [model, model],
        "dims": [str(rows), "--kept", "0.5"],
        "index": [str(rows)],
        "dedup": [str(rows), "--out", str(tmp_path / "out")],
        "checkpoint": [str(run_folder), "--pairs", str(pairs_file)],
    }
    for command, arguments in lines.items():
        assert main([command, *arguments]) == 0, command
        assert "->" in capsys.readouterr().out
    assert (tmp_path / "out" / "decision.png").is_file()
    assert main(["dims", str(rows), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["question"] == "How far can it be truncated?"


@pytest.mark.parametrize(
    "command",
    [
        ["layer", "MODEL"],
        ["dedup", "absent.npy"],
        ["checkpoint", "absent", "--pairs", "x"],
        ["dims", "absent.npy", "--out", __file__],
    ],
)
def test_what_is_missing_is_named_in_one_sentence(command, capsys):
    from hf_repgeo.cli.main import main

    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
