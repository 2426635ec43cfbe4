"""Images and sounds in place of texts: what the callback measures, and that the training does not notice."""

import numpy as np
import pytest
import torch
from tiny import make_tokenizer, seeded
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import hf_repgeo
from hf_repgeo import GeometryCallback, GeometryMonitor
from hf_repgeo.errors import BadInput, UnknownName

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
IMAGES = [np.random.default_rng(i).random((32, 32, 3)) for i in range(10)]


class Patches:
    """An image processor without files: pixels in [0, 1]."""

    def __call__(self, images, return_tensors):
        return {"pixel_values": torch.from_numpy(np.asarray(images)).permute(2, 0, 1)[None].float() / 255}


class Speech:
    """A processor of sounds and texts without files."""

    def __init__(self):
        from transformers import WhisperFeatureExtractor

        self.feature_extractor, self.tokenizer = WhisperFeatureExtractor(), make_tokenizer(special=True)


def pixels_of(images):
    """As the callback reads arrays of numbers in [0, 1]: in 256 steps."""
    return torch.cat([Patches()(np.uint8(np.round(image * 255)), "pt")["pixel_values"] for image in images])


def classifier():
    return seeded(ViTForImageClassification, ViTConfig(**SMALL, image_size=32, patch_size=8, hidden_dropout_prob=0.2))


def trained(folder, *callbacks):
    images = [
        Patches()(image, "pt")["pixel_values"][0] for image in (np.uint8(np.round(image * 255)) for image in IMAGES)
    ]
    data = [{"pixel_values": image, "labels": number % 2} for number, image in enumerate(images)]
    arguments = {"max_steps": 4, "report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
    trainer = Trainer(
        classifier(), TrainingArguments(str(folder), **arguments), train_dataset=data, callbacks=[*callbacks]
    )
    trainer.train()
    return trainer


def test_a_classifier_of_images_is_measured_while_it_trains_and_does_not_notice(tmp_path):
    callback = GeometryCallback(
        images=IMAGES, processor=Patches(), measures="anisotropy", tokens=["all", "no_special"], every=2, budget=None
    )
    trainer, alone = trained(tmp_path / "a", callback), trained(tmp_path / "b")
    assert callback.steps == [2, 4]
    weights = zip(trainer.model.parameters(), alone.model.parameters())
    assert all(torch.equal(mine, others) for mine, others in weights)
    rows = callback.at(4)
    assert rows.unique("layer") == [0, 1, 2] and {row["n"] for row in rows if row["tokens"] == "all"} == {170}
    assert {row["n"] for row in rows if row["tokens"] == "no_special"} == {160}
    with torch.no_grad():
        states = trainer.model.eval().vit(pixels_of(IMAGES), output_hidden_states=True).hidden_states[1].flatten(0, 1)
    expected = hf_repgeo.measure(states, measures="anisotropy").value("anisotropy")
    assert rows.value("anisotropy", layer=1, tokens="all") == pytest.approx(expected, rel=1e-4)


def test_only_as_many_images_are_run_as_the_rows_need():
    monitor = GeometryMonitor(images=IMAGES, processor=Patches(), measures="anisotropy", rows=50)
    monitor.start(classifier(), steps=1)
    assert len(monitor.sample.items) == 3 and monitor.sample.rows == 51  # of 17 rows each
    other = GeometryMonitor(images=IMAGES, processor=Patches(), measures="anisotropy", rows=50, seed=1)
    other.start(classifier(), steps=1)
    assert monitor.sample.provenance()["sha256"] != other.sample.provenance()["sha256"]
    assert len(monitor.sample.halved().items) == 2


def test_sounds_give_rows_of_frames_and_transcripts_rows_of_tokens():
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    parts = ("encoder", "decoder")
    sizes = {f"{part}_{what}": 2 for part in parts for what in ("layers", "attention_heads", "ffn_dim")}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
    model = seeded(WhisperForConditionalGeneration, WhisperConfig(vocab_size=24, d_model=16, **sizes, **tokens))
    sounds = [np.random.default_rng(i).standard_normal(8000).astype("float32") for i in range(2)]
    monitor = GeometryMonitor(["the cat sees", "a dog"], audio=sounds, processor=Speech(), measures="anisotropy")
    monitor.start(model, steps=2)
    reading = monitor.measure(model, 1)
    counts = {(row["stack"], row["n"]) for row in monitor.history}
    assert counts == {("encoder", 50), ("decoder", 7)}  # 25 frames of half a second each; 4 + 3 tokens read
    assert {"anisotropy/encoder_mean", "anisotropy/mean"} & set(reading.summary)


def test_what_does_not_fit_is_refused_before_the_training():
    with pytest.raises(BadInput, match="`audio`: got audio beside images; wanted one of them"):
        GeometryCallback(images=IMAGES, audio=[np.zeros(9)])
    with pytest.raises(UnknownName, match="unknown token policy 'one_per_type'"):
        GeometryCallback(images=IMAGES, tokens="one_per_type")
    with pytest.raises(BadInput, match="`processor`: got none beside 'ViTModel'"):
        GeometryMonitor(images=IMAGES).start(classifier(), steps=1)
    with pytest.raises(UnknownName, match="unknown layer 7"):
        GeometryMonitor(images=IMAGES, processor=Patches(), layers=[7]).start(classifier(), steps=1)
