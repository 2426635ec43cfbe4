"""Geometry as a term of the loss: it equals the measure, has its gradient, and training with it changes the measure."""

import gc
import threading

import pytest
import torch
from tiny import SIZES, seeded
from transformers import TrainingArguments

import hf_repgeo
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.losses import TERMS, soft_patchiness_term
from hf_repgeo.measures import PointCloud, patchiness
from hf_repgeo.measures.kernels.quantizers import quantize
from hf_repgeo.rows.forward import stacks_of
from hf_repgeo.rows.windows import Windows
from hf_repgeo.training.geometry_loss import GeometryLoss, SentenceGeometryLoss
from hf_repgeo.training.initialization import match_geometry


def make_model():
    from transformers import BertConfig, BertForMaskedLM

    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return seeded(BertForMaskedLM, BertConfig(**SIZES, max_position_embeddings=64, **still))


@pytest.fixture
def batch():
    ids = torch.randint(4, 24, (8, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids}


# --- soft patchiness ------------------------------------------------------------------------------------------------


def test_cold_soft_patchiness_is_patchiness():
    g = torch.Generator().manual_seed(1)
    rows = torch.randn(1000, 32, generator=g)
    rows[:300] = rows[0] + 0.05 * torch.randn(300, 32, generator=g)
    cells = quantize(rows, bits=4)
    hard = patchiness(PointCloud(rows), bits=4).value
    assert float(soft_patchiness_term(rows, temperature=1e-6, cells=cells)) == pytest.approx(hard, rel=1e-3)


def test_following_its_gradient_spreads_clumps():
    g = torch.Generator().manual_seed(2)
    rows = torch.randn(256, 16, generator=g)
    rows[:128] = rows[0] + 0.3 * torch.randn(128, 16, generator=g)
    rows.requires_grad_()
    before = float(soft_patchiness_term(rows.detach(), temperature=0.5))
    for _ in range(60):
        soft_patchiness_term(rows, temperature=0.5).backward()
        with torch.no_grad():
            rows -= 30 * rows.grad
            rows.grad = None
    assert float(soft_patchiness_term(rows.detach(), temperature=0.5)) < before - 0.1


def test_soft_patchiness_refuses_what_it_cannot_measure():
    with pytest.raises(BadInput, match="temperature"):
        soft_patchiness_term(torch.randn(64, 4), temperature=0)
    with pytest.raises(BadInput, match="got 20 rows; wanted at least 32"):
        soft_patchiness_term(torch.randn(20, 4))


# --- the term in a model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", TERMS)
def test_the_loss_is_the_models_own_plus_the_weighted_measure(measure, batch):
    model = make_model().train()
    plain = float(model(**batch).loss)
    loss = GeometryLoss(measure, weight=0.5, layers=[1, -1])
    hooks = loss.attach(model)
    together = model(**batch).loss
    hooks.close()
    states = model.bert(batch["input_ids"], batch["attention_mask"], output_hidden_states=True).hidden_states
    rows = [states[layer][batch["attention_mask"].bool()].detach() for layer in (1, 2)]
    expected = sum(float(TERMS[measure](one)) for one in rows) / 2
    assert float(together.detach()) == pytest.approx(plain + 0.5 * expected, rel=1e-4)
    assert loss.values == [pytest.approx(expected, rel=1e-4)]
    assert float(model(**batch).loss) == pytest.approx(plain)


def test_the_gradient_reaches_the_weights_and_evaluation_is_left_alone(batch):
    model = make_model().train()
    gradients = []
    for weight in (1e-9, 5.0):
        model.zero_grad()
        with GeometryLoss("mean_cosine", weight).attach(model):
            model(**batch).loss.backward()
        gradients.append(model.bert.encoder.layer[0].attention.self.query.weight.grad.clone())
    assert not torch.allclose(*gradients)
    with GeometryLoss("mean_cosine", 5.0).attach(model):
        model.eval()
        assert float(model(**batch).loss) == pytest.approx(float(make_model()(**batch).loss))


def encoder_decoder(name):
    import transformers

    size = {"d_model": 16, "vocab_size": 24, "decoder_start_token_id": 0}
    if name == "Bart":
        heads = {f"{side}_{what}": 2 for side in ("encoder", "decoder") for what in ("layers", "attention_heads")}
        size |= heads | {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "dropout": 0.0}
    else:
        size |= {"d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    config = getattr(transformers, f"{name}Config")(**size)
    return seeded(getattr(transformers, f"{name}ForConditionalGeneration"), config).train()


@pytest.mark.parametrize("name", ["T5", "Bart"])
@pytest.mark.parametrize("masked", [True, False])
def test_each_stack_of_an_encoder_decoder_is_measured_without_its_own_padding(name, masked, batch):
    model, loss = encoder_decoder(name), GeometryLoss("mean_cosine", 0.5)
    labels = torch.where(torch.arange(12) < 9, batch["labels"], -100)  # as wide as the input, padded elsewhere
    inputs = batch | {"labels": labels} | ({"decoder_attention_mask": (labels != -100).long()} if masked else {})
    loss.attach(model)  # what it returns need not be kept
    gc.collect()
    output = model(**inputs)
    body = model.get_encoder(), model.get_decoder()
    seen = []
    for stack, rows in zip(body, (batch["attention_mask"].bool(), labels != -100), strict=True):
        block = (stack.block if name == "T5" else stack.layers)[-1]
        block.register_forward_hook(
            lambda m, a, out, rows=rows: seen.append((out if torch.is_tensor(out) else out[0])[rows])
        )
    model(**inputs)
    expected = sum(float(TERMS["mean_cosine"](rows.detach())) for rows in seen) / 2
    assert loss.values[0] == pytest.approx(expected, rel=1e-4) and output.loss.requires_grad


def test_other_threads_measure_while_a_model_trains_with_the_term(batch):
    model, found = make_model().train(), []
    with GeometryLoss("mean_cosine", 1.0).attach(model):
        other = threading.Thread(
            target=lambda: found.append(stacks_of(make_model().bert, Windows([[5] * 8], [[0] * 8])))
        )
        other.start()
        other.join(timeout=60)
    assert found


def test_a_training_that_was_interrupted_leaves_no_second_term(batch):
    model, loss = make_model().train(), GeometryLoss("mean_cosine", 1.0)
    for _ in range(2):  # the second begins without an end of the first
        loss.on_train_begin(TrainingArguments("unused", use_cpu=True), None, None, model=model)
    plain = float(make_model().train()(**batch).loss)
    assert float(model(**batch).loss) == pytest.approx(plain + loss.values[0], rel=1e-4) and len(loss.values) == 1


def test_memory_measures_earlier_rows_too(batch):
    model = make_model().train()
    loss = GeometryLoss("effective_rank", weight=-0.1, memory=512)
    with loss.attach(model):
        model(**batch).loss.backward()
        other = batch | {"input_ids": batch["input_ids"].flip(0)}
        model(**other).loss.backward()
    assert loss.values[1] > loss.values[0]  # more rows than one batch has


def trained(tmp_path, weight, **options):
    from transformers import Trainer, TrainingArguments

    ids = torch.randint(4, 24, (64, 16), generator=torch.Generator().manual_seed(3))
    data = [{"input_ids": row, "attention_mask": torch.ones_like(row), "labels": row} for row in ids]
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=30,
        learning_rate=3e-3,
        per_device_train_batch_size=16,
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        save_strategy="no",
        seed=0,
        **options,
    )
    loss = GeometryLoss("mean_cosine", weight=weight)
    trainer = Trainer(make_model(), arguments, train_dataset=data, callbacks=[loss])
    trainer.train()
    return trainer, loss


def test_training_changes_the_measure_and_the_trainer_logs_it(tmp_path):
    trainer, strong = trained(tmp_path, weight=20.0)
    _, weak = trained(tmp_path, weight=1e-6)
    assert strong.values[-1] < weak.values[-1] - 0.05
    lines = [line["geometry_loss/mean_cosine"] for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 3 and lines[-1] == pytest.approx(sum(strong.values[20:]) / 10)
    assert strong._hooks is None


def test_a_loss_outside_of_the_model_is_refused(tmp_path):
    with pytest.raises(BadInput, match="label_smoothing_factor"):
        trained(tmp_path, weight=1.0, label_smoothing_factor=0.1)


def test_wrong_arguments_are_refused():
    for arguments, error, words in (
        (("patchyness", 1.0), UnknownName, "Did you mean 'patchiness'"),
        (("uniformity", 0), BadInput, "`weight`: got 0"),
        (("uniformity", float("nan")), BadInput, "`weight`"),
        (("uniformity", float("inf")), BadInput, "`weight`: got inf"),
    ):
        with pytest.raises(error, match=words):
            GeometryLoss(*arguments)
    with pytest.raises(BadInput, match="`memory`: got -1"):
        GeometryLoss("uniformity", 1.0, memory=-1)
    with pytest.raises(UnknownName, match="layer"):
        GeometryLoss("uniformity", 1.0, layers=[9]).attach(make_model())


# --- geometry-led initialisation --------------------------------------------------------------------------------------


def test_weights_are_adjusted_until_the_geometry_is_that_of_the_target(batch):
    model, inputs = make_model().train(), [{key: batch[key] for key in ("input_ids", "attention_mask")}]
    targets = {"effective_rank": {1: 6.0, 2: 5.0}, "mean_cosine": {2: 0.6}}
    distances = match_geometry(model, inputs, targets, steps=120, learning_rate=3e-3)
    assert distances[-1] < 0.01 < distances[0] and len(distances) == 120
    assert model.training and all(weight.grad is None for weight in model.parameters())
    states = model.eval().bert(**inputs[0], output_hidden_states=True).hidden_states
    rows = states[2][batch["attention_mask"].bool()].detach()
    assert float(TERMS["mean_cosine"](rows)) == pytest.approx(0.6, abs=0.1)
    assert float(TERMS["effective_rank"](rows)) == pytest.approx(5, rel=0.2)


def test_an_initialisation_without_a_usable_target_is_refused(batch):
    inputs = [{"input_ids": batch["input_ids"]}]
    for arguments, error, words in (
        (([], {"anisotropy": {1: 0.5}}), BadInput, "`batches`: got no batch"),
        ((inputs, {}), BadInput, "`targets`: got no target"),
        ((inputs, {"anisotropy": {1: float("nan")}}), BadInput, "nan for anisotropy of layer 1"),
        ((inputs, {"vrm": {1: 0.5}}), UnknownName, "differentiable measure"),
        ((inputs, {"anisotropy": {7: 0.5}}), UnknownName, "unknown layer 7"),
    ):
        with pytest.raises(error, match=words):
            match_geometry(make_model(), *arguments)
    with pytest.raises(BadInput, match="`steps`"):
        match_geometry(make_model(), inputs, {"anisotropy": {1: 0.5}}, steps=0)


class Embedder(torch.nn.Module):
    """What sentence-transformers' losses need of a model."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 6)

    def forward(self, features):
        return {"sentence_embedding": self.linear(features["x"])}


def test_a_sentence_loss_gains_the_term_on_all_embeddings_of_the_batch():
    model = Embedder()

    class Inner(torch.nn.Module):
        def forward(self, features, labels=None):
            one, other = (model(feature)["sentence_embedding"] for feature in features)
            return (one - other).square().mean()

    features = [{"x": torch.randn(5, 6, generator=torch.Generator().manual_seed(i))} for i in (4, 5)]
    together = SentenceGeometryLoss(model, Inner(), "uniformity", 0.3).train()
    embeddings = torch.cat([model(feature)["sentence_embedding"] for feature in features])
    expected = Inner()(features) + 0.3 * TERMS["uniformity"](embeddings)
    parts = together(features)
    assert float(sum(parts.values())) == pytest.approx(float(expected)) and list(parts)[1] == "geometry_loss/uniformity"
    assert float(together.eval()(features)) == pytest.approx(float(Inner()(features)))
    assert hf_repgeo.GeometryLoss is GeometryLoss

    class Cached(Inner):
        def forward(self, features, labels=None):
            with torch.no_grad():
                return super().forward(features, labels)

    with pytest.raises(BadInput, match="Cached, which embeds without gradients.*without Cached in its name"):
        SentenceGeometryLoss(model, Cached(), "uniformity", 0.3).train()(features)
