"""GeometryEvaluator behaves as an evaluator of sentence-transformers, and GeometryCallback works in its Trainer."""

import copy
import csv

import pytest
import torch
from tiny import WORDS

import hf_repgeo
from hf_repgeo import sentence_evaluator
from hf_repgeo.callbacks import GeometryCallback
from hf_repgeo.errors import BadInput, MissingExtra, RepgeoError, UnknownName
from hf_repgeo.sentence_evaluator import GeometryEvaluator
from hf_repgeo.training.geometry_loss import SentenceGeometryLoss

TEXTS = [" ".join(WORDS[(i * k + k) % len(WORDS)] for i in range(3 + k % 9)) for k in range(1, 61)]
CHEAP = ["anisotropy", "effective_rank"]


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(sentence_evaluator, "BaseEvaluator", object)
    with pytest.raises(MissingExtra, match=r"pip install 'hf_repgeo\[sentence-transformers\]'"):
        GeometryEvaluator(TEXTS)


@pytest.fixture
def model(encoder_folder):
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    return SentenceTransformer(modules=[Transformer(str(encoder_folder)), Pooling(32)], device="cpu")


def test_the_numbers_are_those_of_the_embeddings_under_prefixed_keys(model):
    evaluator = GeometryEvaluator(TEXTS, measures=[*CHEAP, "intrinsic_dimension:mle"], name="probe")
    found = evaluator(model)
    assert list(found) == ["probe_anisotropy", "probe_effective_rank", "probe_intrinsic_dimension_mle"]
    expected = hf_repgeo.measure(model.encode(TEXTS, batch_size=7), CHEAP)
    for measure in CHEAP:
        assert found[f"probe_{measure}"] == pytest.approx(expected.value(measure), rel=1e-4)
        assert evaluator.report.value(measure) == found[f"probe_{measure}"]
    assert evaluator.report.row("anisotropy")["se"] > 0
    assert all(type(value) is float for value in found.values())
    assert evaluator.primary_metric == "probe_effective_rank" and evaluator.greater_is_better


def test_the_primary_metric_states_whether_greater_is_better(model):
    evaluator = GeometryEvaluator(TEXTS, measures=CHEAP, primary_metric="anisotropy")
    assert evaluator(model)[evaluator.primary_metric] > 0 and not evaluator.greater_is_better
    assert GeometryEvaluator(TEXTS, measures="anisotropy").primary_metric == "anisotropy"
    assert GeometryEvaluator(TEXTS, measures="anisotropy", greater_is_better=True).greater_is_better


def test_fewer_columns_can_be_measured(model):
    embeddings = model.encode(TEXTS)[:, :8]
    found = GeometryEvaluator(TEXTS, measures=CHEAP, truncate_dim=8)(model)
    assert found["effective_rank"] == pytest.approx(hf_repgeo.measure(embeddings, CHEAP).value("effective_rank"))


def test_a_line_is_written_for_every_evaluation(model, tmp_path):
    evaluator = GeometryEvaluator(TEXTS, measures=CHEAP, name="probe")
    found = evaluator(model, str(tmp_path / "eval"), 1, 20)
    evaluator(model, str(tmp_path / "eval"), 2, 40)
    with (tmp_path / "eval" / "geometry_evaluation_probe_results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["steps"] for row in rows] == ["20", "40"]
    assert float(rows[0]["anisotropy"]) == found["probe_anisotropy"]


def test_values_that_cannot_be_computed_are_left_out(model, caplog):
    with caplog.at_level("WARNING", "hf_repgeo"):
        found = GeometryEvaluator(["a cat"] * 30, measures=CHEAP)(model)
    assert found == {} and any("no_spread" in message for message in caplog.messages)


@pytest.mark.parametrize(
    "asked, error, message",
    [
        ({"measures": "anisotropi"}, UnknownName, "unknown measure"),
        ({"codebook": 2}, UnknownName, "unknown option 'codebook'"),
        ({"texts": ["one"]}, BadInput, "`texts`: got 1; wanted at least 2"),
        ({"measures": []}, RepgeoError, "`measures` is empty"),
        ({"primary_metric": "iso_score"}, BadInput, "`primary_metric`: got 'iso_score'; wanted one that is measured"),
    ],
)
def test_wrong_arguments_are_refused_at_once(asked, error, message):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(error, match=message):
        GeometryEvaluator(**{"texts": TEXTS} | asked)


def test_its_trainer_takes_both_and_the_model_card_shows_the_numbers(model, tmp_path):
    import datasets
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    pairs = datasets.Dataset.from_dict({"anchor": TEXTS[:16], "positive": TEXTS[16:32]})
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        eval_strategy="steps",
        eval_steps=2,
        save_steps=2,
        logging_steps=1,
        metric_for_best_model="eval_probe_effective_rank",
        load_best_model_at_end=True,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    evaluator = GeometryEvaluator(TEXTS, measures=CHEAP, name="probe")
    loss = MultipleNegativesRankingLoss(model)
    trainer = SentenceTransformerTrainer(model, arguments, pairs, loss=loss, evaluator=evaluator)
    callback = GeometryCallback(TEXTS, measures=CHEAP, every=1, budget=None).attach(trainer)
    trainer.train()
    lines = trainer.state.log_history
    found = [line["eval_probe_effective_rank"] for line in lines if "eval_probe_effective_rank" in line]
    assert len(found) == 2 and trainer.state.best_metric == max(found)
    assert callback.steps == [1, 2, 3, 4] and callback.history.unique("layer") == [0, 1, 2]
    assert sum("geometry/anisotropy/mean" in line for line in lines) == 4
    assert sum("loss" in line for line in lines) == 4
    card = (tmp_path / "checkpoint-4" / "README.md").read_text()
    assert "GeometryEvaluator" in card and "probe_effective_rank" in card


def trained_with(loss, model, folder) -> list[dict]:
    """The log of twelve steps of sentence-transformers' trainer on pairs of sentences."""
    import datasets
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments

    pairs = datasets.Dataset.from_dict({"anchor": TEXTS[:16], "positive": TEXTS[16:32]})
    settings = {"max_steps": 12, "per_device_train_batch_size": 8, "learning_rate": 5e-3, "logging_steps": 6}
    settings |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    arguments = SentenceTransformerTrainingArguments(str(folder), gradient_accumulation_steps=2, **settings)
    trainer = SentenceTransformerTrainer(model, arguments, pairs, loss=loss)
    trainer.train()
    return trainer.state.log_history


def test_a_geometry_term_trains_with_its_trainer_moves_what_it_names_and_is_logged(model, tmp_path):
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    other = copy.deepcopy(model)
    trained_with(MultipleNegativesRankingLoss(other), other, tmp_path / "without")
    loss = SentenceGeometryLoss(model, MultipleNegativesRankingLoss(model), "iso_score", -20.0)
    lines = [line for line in trained_with(loss, model, tmp_path / "with") if "loss" in line]
    assert len(lines) == 2
    for line in lines:
        assert line["task"] + line["geometry_loss/iso_score"] == pytest.approx(line["loss"], rel=1e-2, abs=1e-3)
    without, found = (hf_repgeo.measure(one.encode(TEXTS), ["iso_score"]).value("iso_score") for one in (other, model))
    assert found > without + 0.05


def test_a_cached_loss_is_refused_in_a_sentence(model, tmp_path):
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    loss = SentenceGeometryLoss(model, CachedMultipleNegativesRankingLoss(model), "uniformity", 0.1)
    with pytest.raises(BadInput, match="CachedMultipleNegativesRankingLoss, which embeds without gradients"):
        trained_with(loss, model, tmp_path)


def test_measuring_leaves_the_model_as_it_was(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    GeometryEvaluator(TEXTS, measures=CHEAP)(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
