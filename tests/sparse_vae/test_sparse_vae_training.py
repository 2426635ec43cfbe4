"""Embeddings and training: one row per text whatever the batch, and the Trainer against a plain loop."""

import json

import pytest
import torch
from datasets import Dataset, DatasetDict
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

import hf_repgeo.sparse_vae.layers_sparse_vae as layers
from hf_repgeo.blm import agreement_matrices, chunk_sentences, pair_instances, to_dataset
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.localization.scores import selection_score
from hf_repgeo.sparse_vae.configuration_sparse_vae import BLMBaselineConfig, SparseVAEConfig, SparseVAEForBLMConfig
from hf_repgeo.sparse_vae.embeddings import EmbeddingTable, dataset_texts, embed_dataset, embed_sentences, model_key
from hf_repgeo.sparse_vae.modeling_sparse_vae import SparseVAEForSentenceEmbedding
from hf_repgeo.sparse_vae.scoring import evaluate_model, scores_of
from hf_repgeo.sparse_vae.training import (
    EmbeddedInstances,
    build_model,
    selection_accuracy,
    train,
    train_runs,
    training_arguments,
)

SMALL = {"hidden_size": 64, "kernel": 4, "channels": 8}
SENTENCES = [sentence.text for sentence in chunk_sentences("en")]


def random_table(texts, size=64, seed=0):
    rows = torch.randn(len(texts), size, generator=torch.Generator().manual_seed(seed))
    return EmbeddingTable(list(texts), rows, "random")


@pytest.fixture(scope="module")
def pairs():
    return to_dataset(pair_instances("en", n=420))


@pytest.fixture(scope="module")
def table():
    return random_table(SENTENCES)


@pytest.fixture(scope="module")
def encoder():
    words = sorted({word for text in SENTENCES for word in text.lower().replace(".", " .").split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.default_generator.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    return BertModel(config).eval(), wrapped


# ---- embeddings


@pytest.mark.parametrize("pooling", ["cls", "mean", "first-last"])
def test_a_sentence_has_one_embedding_alone_and_in_a_padded_batch(encoder, pooling):
    texts = [SENTENCES[i] for i in (440, 0, 100)]  # not in the order of their lengths
    together = embed_sentences(texts, *encoder, pooling=pooling, batch_size=8).rows
    alone = torch.cat([embed_sentences([text], *encoder, pooling=pooling).rows for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)


def test_embeddings_are_the_states_asked_for(encoder):
    model, tokenizer = encoder
    encoded = tokenizer([SENTENCES[3]], return_tensors="pt")
    states = model(**encoded, output_hidden_states=True).hidden_states
    assert torch.allclose(embed_sentences([SENTENCES[3]], *encoder).rows[0], states[-1][0, 0], atol=1e-6)
    assert torch.allclose(
        embed_sentences([SENTENCES[3]], *encoder, layer=1, pooling="mean").rows[0], states[1][0].mean(0), atol=1e-6
    )


def test_repeats_are_embedded_once_and_the_order_is_kept(encoder):
    table = embed_sentences([SENTENCES[5], SENTENCES[2], SENTENCES[5]], *encoder)
    assert table.texts == [SENTENCES[5], SENTENCES[2]]
    assert torch.equal(table.of([SENTENCES[2]])[0], table.rows[1])


def test_the_cache_gives_the_same_rows_without_running_the_model(encoder, tmp_path):
    model, tokenizer = encoder
    first = embed_sentences(SENTENCES[:10], model, tokenizer, cache_dir=tmp_path)
    calls = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    again = embed_sentences(SENTENCES[4:8], model, tokenizer, cache_dir=tmp_path)
    assert not calls and torch.equal(again.rows, first.rows[4:8])
    more = embed_sentences(SENTENCES[8:12], model, tokenizer, cache_dir=tmp_path)
    handle.remove()
    assert len(calls) == 1 and torch.equal(more.rows[:2], first.rows[8:10])
    assert len(list(tmp_path.iterdir())) == 1


def test_the_cache_tells_layers_poolings_and_weights_apart(encoder, tmp_path):
    model, tokenizer = encoder
    one = embed_sentences(SENTENCES[:2], model, tokenizer, cache_dir=tmp_path)
    other_layer = embed_sentences(SENTENCES[:2], model, tokenizer, layer=1, cache_dir=tmp_path)
    other_pooling = embed_sentences(SENTENCES[:2], model, tokenizer, pooling="mean", cache_dir=tmp_path)
    key = model_key(model)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[5, 0] += 1
    assert model_key(model) != key
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[5, 0] -= 1
    assert not torch.equal(one.rows, other_layer.rows) and not torch.equal(one.rows, other_pooling.rows)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_hub_commit_names_the_cache(encoder):
    model, _ = encoder
    model.config._commit_hash = "0123456789abcdef0123"
    assert model_key(model).endswith("-0123456789abcdef")
    del model.config._commit_hash


def test_sets_of_different_sizes_train_and_are_scored(tmp_path):
    """Every second matrix loses two wrong candidates, as merging candidates of one text does."""

    def shortened(row, index):
        wrong = [i for i in range(len(row["errors"])) if i != row["label"]][: 2 if index % 2 else 0]
        kept = [i for i in range(len(row["errors"])) if i not in wrong]
        columns = {name: [row[name][i] for i in kept] for name in ("candidates", "errors")}
        return {**columns, "label": kept.index(row["label"])}

    data = to_dataset(agreement_matrices("en", "I", sizes=(60, 20))).map(shortened, with_indices=True)
    table = random_table(dataset_texts(data))
    parts = {"train": data["train"], "validation": data["test"]}
    run = train(SparseVAEForBLMConfig(**SMALL, stride=4), parts, table, tmp_path, epochs=2, batch_size=20)
    scores = scores_of(run.model, data["test"], table)
    for row, own in zip(data["test"], scores, strict=True):
        assert own.isfinite().sum() == len(row["candidates"]) and own[: len(row["candidates"])].isfinite().all()
    found = evaluate_model(run.model, data["test"], table)
    assert found.chance == pytest.approx((1 / 8 + 1 / 6) / 2) and sum(found.errors.values()) == 20
    x, score = selection_score(run.model, data["test"], table)
    assert score(x) == pytest.approx(found.accuracy)
    assert all(0 <= entry["eval_accuracy"] <= 1 for entry in run.history if "eval_loss" in entry)


def test_bad_requests_for_embeddings_are_named(encoder):
    model, tokenizer = encoder
    with pytest.raises(BadInput, match="`sentences`: got none"):
        embed_sentences([], model, tokenizer)
    with pytest.raises(UnknownName, match="unknown pooling 'max'"):
        embed_sentences(["a"], model, tokenizer, pooling="max")
    with pytest.raises(BadInput, match="`layer`: got 9; wanted -4 to 3"):
        embed_sentences(["a"], model, tokenizer, layer=9)
    broken = BertModel(model.config).eval()
    torch.nn.init.constant_(broken.embeddings.word_embeddings.weight, float("nan"))
    with pytest.raises(BadInput, match="NaN or infinity for 1 texts, such as 'a'"):
        embed_sentences(["a"], broken, tokenizer)
    with pytest.raises(BadInput, match="1 texts without an embedding, such as 'missing'"):
        random_table(["a"]).of(["a", "missing"])
    with pytest.raises(BadInput, match="2 texts, 1 of them distinct"):
        random_table(["a", "a"])


def test_a_data_sets_texts_are_all_embedded(encoder, pairs):
    small = DatasetDict({"train": pairs["train"].select(range(3))})
    table = embed_dataset(small, *encoder)
    assert set(table.texts) == {*small["train"]["input"], *(t for row in small["train"]["candidates"] for t in row)}
    matrices = to_dataset(agreement_matrices("en", "I", sizes=(2, 1)))
    assert len(dataset_texts(matrices)) >= 15 + 15 - 3


# ---- batches


def test_a_batch_holds_the_embeddings_of_its_texts(pairs, table):
    instances = EmbeddedInstances(pairs["train"], table)
    batch, record = instances.__getitems__([7, 3]), pairs["train"][7]
    assert torch.equal(batch["inputs_embeds"][0], table.of([record["input"]])[0])
    assert torch.equal(batch["candidates"][0], table.of(record["candidates"])) and batch["labels"][0] == record["label"]
    assert torch.equal(instances[3]["candidates"], batch["candidates"][1])


def test_matrices_come_as_seven_rows():
    data = to_dataset(agreement_matrices("en", "II", sizes=(3, 1)))
    batch = EmbeddedInstances(data["train"], random_table(dataset_texts(data))).__getitems__([0, 1, 2])
    assert batch["inputs_embeds"].shape == (3, 7, 64) and batch["candidates"].shape == (3, 8, 64)


def test_bad_data_are_named(table):
    def instances(candidates, labels):
        return EmbeddedInstances(
            Dataset.from_dict({"input": SENTENCES[: len(labels)], "candidates": candidates, "label": labels}), table
        )

    with pytest.raises(BadInput, match="candidate set without its answer in row 1"):
        instances([SENTENCES[:2]] * 2, [0, 2])
    with pytest.raises(BadInput, match="candidate set without its answer in row 0"):
        instances([SENTENCES[:2], SENTENCES[:3]], [2, 2])  # the third is the fill of a smaller set
    with pytest.raises(BadInput, match="fewer than two candidates in row 1"):
        instances([SENTENCES[:2], SENTENCES[:1]], [0, 0])
    with pytest.raises(BadInput, match="got no instance"):
        instances([], [])


def test_accuracy_counts_ties_as_errors():
    class Prediction:
        predictions, label_ids = torch.tensor([[0.0, 0.0], [0.0, 1.0]]).numpy(), torch.tensor([0, 1]).numpy()

    assert selection_accuracy(Prediction) == {"accuracy": 0.5}


# ---- training


def test_the_trainer_does_what_a_plain_loop_with_adam_does(pairs, table, tmp_path, monkeypatch):
    """One batch per epoch and no sampling noise, so order and noise cannot differ: weights must."""
    monkeypatch.setattr(layers, "reparameterize", lambda mean, log_variance: mean)
    config = SparseVAEConfig(**SMALL, stride=4)
    data = DatasetDict({"train": pairs["train"]})
    run = train(config, data, table, tmp_path, epochs=4, batch_size=1000, save_strategy="no", learning_rate=0.01)
    model = build_model(config, 0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batch = EmbeddedInstances(data["train"], table).__getitems__(range(len(data["train"])))
    for _ in range(4):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, run.model.get_parameter(name), atol=2e-5), name


@pytest.mark.parametrize("preset", ["base", "sparse", "dense_stride", "released"])
def test_every_preset_learns_what_can_be_learnt(preset, pairs, tmp_path):
    """Embeddings are their pattern's code plus noise: after a few epochs all presets are above chance (1/8)."""
    generator = torch.Generator().manual_seed(1)
    patterns = [sentence.pattern for sentence in chunk_sentences("en")]
    codes = {pattern: torch.randn(64, generator=generator) for pattern in sorted(set(patterns))}
    rows = torch.stack([codes[pattern] for pattern in patterns]) + 0.3 * torch.randn(448, 64, generator=generator)
    config = SparseVAEConfig.preset(preset, hidden_size=64, kernel=4, **({} if preset == "base" else {"stride": 4}))
    run = train(
        config,
        pairs,
        EmbeddingTable(SENTENCES, rows, "codes"),
        tmp_path,
        epochs=40,
        batch_size=50,
        save_strategy="no",
        load_best_model_at_end=False,
    )
    losses = [entry["loss"] for entry in run.history if "loss" in entry]
    accuracies = [entry["eval_accuracy"] for entry in run.history if "eval_accuracy" in entry]
    assert losses[-1] < losses[0] and max(accuracies) > 0.3


def test_a_run_is_repeated_by_its_seed_and_no_other(pairs, table, tmp_path):
    config = SparseVAEConfig(**SMALL, stride=4)
    runs = [train(config, pairs, table, tmp_path / str(i), seed=seed, epochs=2) for i, seed in enumerate((5, 5, 6))]
    states = [torch.cat([p.flatten() for p in run.model.parameters()]) for run in runs]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    assert torch.equal(runs[0].model.sentence.routing.mask, runs[2].model.sentence.routing.mask)
    assert not runs[0].model.training


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(pairs, table, tmp_path):
    from transformers import TrainerCallback

    class StopAfterTwo(TrainerCallback):
        def on_epoch_end(self, args, state, control, **_):
            control.should_training_stop = state.epoch >= 2

    config = SparseVAEConfig(**SMALL, stride=4)
    whole = train(config, pairs, table, tmp_path / "whole", epochs=4, load_best_model_at_end=False)
    import hf_repgeo.sparse_vae.training as training

    original = training.Trainer
    try:
        training.Trainer = lambda **settings: original(**settings, callbacks=[StopAfterTwo()])
        train(config, pairs, table, tmp_path / "cut", epochs=4, load_best_model_at_end=False)
    finally:
        training.Trainer = original
    resumed = train(config, pairs, table, tmp_path / "cut", epochs=4, resume=True, load_best_model_at_end=False)
    assert [entry["epoch"] for entry in resumed.history if "eval_loss" in entry] == [1.0, 2.0, 3.0, 4.0]
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name)), name


def test_a_training_is_extended_and_half_written_checkpoints_are_left_out(pairs, table, tmp_path):
    config, options = SparseVAEConfig(**SMALL, stride=4), {"load_best_model_at_end": False, "batch_size": 40}
    whole = train(config, pairs, table, tmp_path / "whole", epochs=3, **options)
    folder = tmp_path / "cut"
    train(config, pairs, table, folder, epochs=2, resume=True, **options)  # nothing there yet: it begins
    last = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))[-1]
    half = folder / "checkpoint-9999"
    half.mkdir()
    (half / "trainer_state.json").write_bytes((last / "trainer_state.json").read_bytes()[:50])
    for changed, said in (({"batch_size": 20}, "batch_size: 40 there, 20 here"), ({"learning_rate": 0.1}, "options")):
        with pytest.raises(BadInput, match=f"a training with other .*{said}"):
            train(config, pairs, table, folder, epochs=3, resume=True, **options | changed)
    with pytest.raises(BadInput, match="other model"):
        train(SparseVAEConfig(**SMALL, stride=2), pairs, table, folder, epochs=3, resume=True, **options)
    with pytest.raises(BadInput, match="`epochs`: got 1, where the training to resume has already done 2"):
        train(config, pairs, table, folder, epochs=1, resume=True, **options)
    extended = train(config, pairs, table, folder, epochs=3, resume=True, **options)
    assert not half.exists()
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, extended.model.get_parameter(name)), name


def test_runs_of_several_seeds_resume_and_leave_the_configuration_alone(pairs, table, tmp_path):
    config, options = SparseVAEConfig(**SMALL, stride=4), {"seeds": (0, 1), "resume": True, "batch_size": 40}
    before = config.to_dict()
    first = train_runs(config, pairs, table, tmp_path, epochs=1, **options)
    assert config.to_dict() == before
    again = train_runs(SparseVAEConfig(**SMALL, stride=4), pairs, table, tmp_path, epochs=1, **options)
    for one, other in zip(first, again, strict=True):
        assert all(map(torch.equal, one.model.state_dict().values(), other.model.state_dict().values()))
    file = tmp_path / "seed-1" / "training.json"
    earlier = json.loads(file.read_text())
    file.write_text(json.dumps(earlier | {"model": earlier["model"] | {"architectures": ["X"], "use_cache": False}}))
    train_runs(
        config, pairs, table, tmp_path, epochs=1, **options
    )  # as versions wrote it that let a saved model's facts in


def test_a_broken_cache_of_embeddings_is_made_again(encoder, tmp_path, caplog):
    texts = ["the cat", "a dog"]
    first = embed_sentences(texts, *encoder, cache_dir=tmp_path)
    [cache] = tmp_path.rglob("*.safetensors")
    cache.write_bytes(cache.read_bytes()[:-40])
    assert torch.equal(embed_sentences(texts, *encoder, cache_dir=tmp_path).rows, first.rows)
    assert "its texts are embedded again" in caplog.text


def test_the_best_epoch_by_validation_loss_is_kept(pairs, table, tmp_path):
    """A model cannot generalise from random embeddings, so with a high learning rate the last epoch is not the best."""
    config = SparseVAEConfig(**SMALL, stride=4)
    run = train(config, pairs, table, tmp_path, epochs=6, learning_rate=0.05, batch_size=20)
    losses = {entry["epoch"]: entry["eval_loss"] for entry in run.history if "eval_loss" in entry}
    assert run.best_epoch == min(losses, key=losses.get) < 6
    batch = EmbeddedInstances(pairs["validation"], table).__getitems__(range(len(pairs["validation"])))
    assert float(run.model(**batch).loss.detach()) == pytest.approx(losses[run.best_epoch], rel=1e-5)


def test_matrices_and_baselines_train_too(tmp_path):
    data = to_dataset(agreement_matrices("en", "I", sizes=(60, 20)))
    table = random_table(dataset_texts(data))
    for config in (
        SparseVAEForBLMConfig(**SMALL, stride=4),
        BLMBaselineConfig(architecture="vae", hidden_size=64, kernel=4),
    ):
        run = train(config, data, table, tmp_path / config.model_type, epochs=2, batch_size=20, save_strategy="no")
        assert run.best_epoch == 2 and len(run.history) == 2  # no validation part: the last epoch
        judged = DatasetDict({"train": data["train"], "validation": data["test"]})
        run = train(config, judged, table, tmp_path / f"{config.model_type}-judged", epochs=1, batch_size=20)
        assert 0 <= run.history[-1]["eval_accuracy"] <= 1


def test_several_runs_use_one_process_each(pairs, table, tmp_path):
    config = SparseVAEConfig(**SMALL, stride=4)
    one_by_one = train_runs(config, pairs, table, tmp_path / "a", seeds=(1, 2), epochs=1)
    at_once = train_runs(config, pairs, table, tmp_path / "b", seeds=(1, 2), epochs=1, jobs=2)
    for one, other in zip(one_by_one, at_once, strict=True):
        assert one.seed == other.seed
        assert all(
            torch.allclose(a, b, atol=1e-6)
            for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)
        )


def test_another_hidden_size_than_the_tables_is_refused(pairs, table, tmp_path):
    with pytest.raises(BadInput, match="hidden_size 768 for embeddings of 64 dimensions.*hidden_size=64"):
        train(SparseVAEConfig(), pairs, table, tmp_path)


def test_the_papers_settings_are_the_default(tmp_path):
    arguments = training_arguments(tmp_path)
    assert (arguments.learning_rate, arguments.per_device_train_batch_size, arguments.weight_decay) == (1e-3, 100, 0.0)
    assert (
        arguments.max_grad_norm == 0
        and arguments.lr_scheduler_type == "constant"
        and arguments.metric_for_best_model == "eval_loss"
    )


def test_a_trained_model_is_saved_and_read_back(pairs, table, tmp_path):
    run = train(SparseVAEConfig(**SMALL, stride=4), pairs, table, tmp_path / "run", epochs=1)
    run.model.save_pretrained(tmp_path / "model")
    loaded = SparseVAEForSentenceEmbedding.from_pretrained(tmp_path / "model")
    assert torch.equal(loaded(table.rows).latents, run.model(table.rows).latents)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["mask"] == "random"


def test_only_numbered_checkpoints_are_the_trainings_and_damaged_facts_name_no_entry(tmp_path):
    from hf_repgeo.sparse_vae.resuming import FILE, _changed, _earlier, begin, checkpoint_to_resume

    identity = {"model": {"latents": 5}, "options": {}}
    for name in ("checkpoint-3", "checkpoint-best", "checkpoint-12"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text("[" * 5000)
    assert checkpoint_to_resume(tmp_path, identity, 1.0) is None  # both were cut short, and are deleted
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-best"]
    (tmp_path / "checkpoint-7").mkdir()
    begin(tmp_path, identity)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-best", FILE]
    assert _earlier(tmp_path, identity) == identity
    for damaged in ("[1]", '{"model": 3}', "{"):
        (tmp_path / FILE).write_text(damaged)
        assert _earlier(tmp_path, identity) is None
    assert _changed(3, {"a": 1}) == "" and _changed({"a": 2}, {"a": 1}) == " (a: 2 there, 1 here)"


def test_a_shape_that_is_not_the_size_is_refused():
    with pytest.raises(ValueError, match="`shape`: got .*; wanted two factors of `hidden_size` 64"):
        BLMBaselineConfig(hidden_size=64, shape=(8, 9))
