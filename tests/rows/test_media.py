"""Images and sounds: rows are patches and frames, the same in every layer of one length, and never padding."""

import numpy as np
import pytest
import torch
from tiny import seeded

import hf_repgeo
from hf_repgeo.errors import BadInput, UnknownName
from hf_repgeo.rows.forward import taps_at
from hf_repgeo.rows.media import read_images, read_sounds
from hf_repgeo.rows.media_items import image_items, sound_items, speech_items
from hf_repgeo.rows.media_rows import Item, media_representations
from hf_repgeo.rows.passes import run
from hf_repgeo.rows.stacks import find_stacks

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
IMAGES = [np.random.default_rng(i).random((40, 36, 3)) for i in range(12)]
WAVES = [np.random.default_rng(i).standard_normal(8000).astype("float32") for i in range(3)]


class Patches:
    """An image processor without files: 32 x 32 pixels in [0, 1]."""

    def __call__(self, images, return_tensors):
        pixels = torch.from_numpy(np.asarray(images.resize((32, 32)))).permute(2, 0, 1).float() / 255
        return {"pixel_values": pixels[None]}


@pytest.fixture(scope="module")
def vit():
    from transformers import ViTConfig, ViTModel

    return seeded(ViTModel, ViTConfig(**SMALL, image_size=32, patch_size=8, hidden_dropout_prob=0.3))


def rows_of(model, items, **options):
    items = list(items)
    taps = [tap for stack in find_stacks(model, items[0].inputs) for tap in stack.taps]
    defaults = {"rows": 10**6, "policies": None}
    return media_representations(model, taps, items, len(items), **defaults | options)


def test_rows_of_an_image_are_its_patches_after_the_class_token(vit):
    [found] = rows_of(vit, image_items(vit, Patches(), IMAGES))
    states = [run(vit, **item.inputs, output_hidden_states=True) for item in image_items(vit, Patches(), IMAGES)]
    whole = torch.cat([one.hidden_states[1][0] for one in states])
    assert torch.allclose(found.states["encoder", 1, "residual"], whole, atol=1e-5) and len(whole) == 12 * 17
    normed = torch.cat([one.last_hidden_state[0] for one in states])
    assert torch.allclose(found.states["encoder", 2, "final_norm"], normed, atol=1e-5)
    assert sorted(found.policies["no_special"].tolist()) == [i for i in range(12 * 17) if i % 17]
    assert torch.equal(found.documents, torch.arange(12).repeat_interleave(17))


def test_rows_are_drawn_evenly_and_are_the_same_in_every_layer(vit):
    [found] = rows_of(vit, image_items(vit, Patches(), IMAGES), rows=40)
    [all_rows] = rows_of(vit, image_items(vit, Patches(), IMAGES))
    first, last = ("encoder", 1, "residual"), ("encoder", 2, "residual")
    places = [(all_rows.states[first] == row).all(1).nonzero()[0, 0] for row in found.states[first]]
    assert torch.equal(all_rows.states[last][torch.stack(places)], found.states[last])
    assert len(found.policies["all"]) == 40 and len(found.states[first]) < 12 * 17
    assert len(torch.unique(found.documents[found.policies["all"]])) > 6


def test_layers_of_different_maps_are_groups_of_their_own():
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4)
    model = seeded(SwinModel, config)
    groups = rows_of(model, image_items(model, Patches(), IMAGES[:3]))
    sizes = {place.layer: len(state) for group in groups for place, state in group.states.items()}
    assert sizes == {0: 3 * 64, 1: 3 * 16, 2: 3 * 16}


def test_images_alone_go_through_the_image_tower_of_clip():
    from transformers import CLIPConfig, CLIPModel

    text = SMALL | {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    config = CLIPConfig(text_config=text, vision_config=SMALL | {"image_size": 32, "patch_size": 8})
    report = hf_repgeo.profile(
        seeded(CLIPModel, config), images=IMAGES, processor=Patches(), measures="anisotropy", rows=60, batch_rows=30,
        progress=False,
    )  # fmt: skip
    assert report.unique("layer") == [0, 1, 2] and report.unique("stack") == ["encoder"]
    assert report.unique("tokens") == ["all", "no_special", "sink_robust"]


def test_a_model_in_train_mode_reads_images_as_in_eval_mode(vit):
    def measured(model):
        return hf_repgeo.profile(
            model, images=IMAGES, processor=Patches(), measures="anisotropy", rows=60, batch_rows=30, progress=False
        ).rows

    state = torch.get_rng_state()
    training = measured(vit.train())
    assert vit.training and torch.equal(state, torch.get_rng_state())
    assert training == measured(vit.eval())


def test_a_checkpoint_of_a_classifier_has_no_pooler_and_one_without_a_block_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import ViTConfig, ViTForImageClassification

    seeded(ViTForImageClassification, ViTConfig(**SMALL, image_size=32, patch_size=8)).save_pretrained(tmp_path)
    choice = {"images": IMAGES, "processor": Patches(), "measures": "anisotropy", "rows": 60, "batch_rows": 30}
    report = hf_repgeo.profile(str(tmp_path), **choice, progress=False)
    assert report.unique("layer") == [0, 1, 2] and "random_weights" not in report.provenance
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if ".layers.1." not in name and ".layer.1." not in name}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match="weights that feed the hidden states"):
        hf_repgeo.profile(str(tmp_path), **choice, progress=False)
    assert hf_repgeo.profile(str(tmp_path), **choice, layers=[1], progress=False).unique("layer") == [1]


def test_rows_of_llava_are_tokens_of_text_and_of_images():
    from tiny import SIZES, WORDS, make_tokenizer
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaModel, LlavaProcessor

    tokenizer = make_tokenizer(special=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    square = {"height": 32, "width": 32}
    processor = LlavaProcessor(
        CLIPImageProcessor(size=square, crop_size=square), tokenizer, patch_size=8, image_token="<image>",
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SMALL, image_size=32, patch_size=8),
        text_config=LlamaConfig(**SIZES | {"vocab_size": len(tokenizer)}, num_key_value_heads=2),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    choice = {"measures": "anisotropy", "rows": 60, "batch_rows": 30, "progress": False, "processor": processor}
    texts = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(12)) for i in range(12)]
    model = seeded(LlavaModel, config)
    report = hf_repgeo.profile(model, texts, images=IMAGES, tokens=["text", "image"], **choice)
    of_texts = [row for row in report if row["stack"] == "decoder"]
    assert {row["tokens"] for row in of_texts} == {"text", "image"}
    assert {row["layer"] for row in of_texts} == {0, 1, 2} and min(row["n"] for row in of_texts) > 30
    with pytest.raises(BadInput, match="`texts`: got more images than texts; wanted one text for each image"):
        hf_repgeo.profile(model, texts[:3], images=IMAGES, **choice)


def test_silence_that_pads_a_sound_gives_no_rows():
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    sizes = {
        f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads", "ffn_dim")
    }
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = seeded(WhisperModel, WhisperConfig(vocab_size=9, d_model=16, **sizes, **tokens)).get_encoder()
    items = list(sound_items(model, WhisperFeatureExtractor(), WAVES[:1]))
    assert items[0].share == pytest.approx(0.5 / 30)
    [found] = rows_of(model, items)
    assert len(found.states["encoder", 0, "residual"]) == 25  # half a second, of 1500 frames in 30 seconds
    whole = run(model, **items[0].inputs).last_hidden_state[0]
    assert torch.allclose(found.states["encoder", 2, "final_norm"], whole[:25], atol=1e-5)


def test_images_are_read_from_files_arrays_and_columns(tmp_path):
    from PIL import Image

    array = (np.arange(48).reshape(4, 4, 3) * 5).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / "one.png")
    coded = {"bytes": (tmp_path / "one.png").read_bytes(), "path": None}
    forms = [tmp_path / "one.png", str(tmp_path / "one.png"), Image.fromarray(array), array, array / 255.0, coded]
    turned = torch.from_numpy(array).permute(2, 0, 1)
    for image in [*read_images(forms), *read_images(tmp_path), *read_images([turned])]:
        assert np.array_equal(np.asarray(image), array)


def test_sounds_are_read_from_files_arrays_and_columns(tmp_path):
    soundfile = pytest.importorskip("soundfile", reason="the extra 'audio' is not installed")
    wave = np.sin(np.arange(1600) / 20).astype(np.float32)
    soundfile.write(tmp_path / "one.wav", wave, 16000, subtype="FLOAT")
    coded = {"bytes": (tmp_path / "one.wav").read_bytes(), "path": None}
    forms = [tmp_path / "one.wav", wave, coded, {"array": wave, "sampling_rate": 16000}, np.stack([wave, wave])]
    for samples in read_sounds(forms, 16000):
        assert np.allclose(samples, wave, atol=1e-6)
    assert len(next(read_sounds([tmp_path / "one.wav"], 8000))) == 800


@pytest.mark.parametrize("own", [32000, 44100])
def test_a_tone_above_half_the_models_rate_is_filtered_out_and_not_folded_into_another(own):
    seconds = np.arange(own) / own
    low, high = (np.sin(2 * np.pi * tone * seconds).astype(np.float32) for tone in (1000, 10000))
    kept, gone = read_sounds([{"array": tone, "sampling_rate": own} for tone in (low, high)], 16000)
    inside = slice(200, -200)  # beyond either end the filter lacks samples
    expected = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    assert np.abs(kept - expected)[inside].max() < 0.01
    assert np.abs(gone)[inside].max() < 0.01


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"images": []}, "`images`: got none; wanted images: files, a folder"),
        ({"images": "nowhere.png"}, "`images`: got 'nowhere.png', which does not exist"),
        ({"images": [object()]}, "`images`: got a object"),
        ({"images": IMAGES, "audio": WAVES}, "`audio`: got audio beside images; wanted one of them"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(vit, given, words):
    with pytest.raises(BadInput, match=words):
        hf_repgeo.profile(vit, **given, processor=Patches(), progress=False)


def test_a_model_without_a_processor_and_an_unknown_policy_are_refused(vit):
    with pytest.raises(BadInput, match=r"`processor`: got none beside 'ViTModel' .* Pass processor=, or save it"):
        hf_repgeo.profile(vit, images=IMAGES, progress=False)
    with pytest.raises(UnknownName, match="unknown token policy 'patches'"):
        hf_repgeo.profile(vit, images=IMAGES, processor=Patches(), tokens="patches", progress=False)


# --- transcripts of sounds, and points inside blocks ------------------------------------------------------------------


class Speech:
    """A processor of sounds and texts without files."""

    def __init__(self):
        from tiny import make_tokenizer
        from transformers import WhisperFeatureExtractor

        self.feature_extractor, self.tokenizer = WhisperFeatureExtractor(), make_tokenizer(special=True)


@pytest.fixture(scope="module")
def whisper():
    from transformers import WhisperConfig, WhisperModel

    parts = ("encoder", "decoder")
    sizes = {f"{part}_{what}": 2 for part in parts for what in ("layers", "attention_heads", "ffn_dim")}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
    return seeded(WhisperModel, WhisperConfig(vocab_size=24, d_model=16, **sizes, **tokens))


def test_with_texts_the_decoder_of_whisper_reads_the_transcript(whisper):
    """Its tokenizer begins with the start token, so the decoder reads all tokens but the last."""
    texts = ["the cat sees the dog", "a house", "old"]
    items = list(speech_items(whisper, Speech(), WAVES, texts))
    encoder, decoder = rows_of(whisper, items)
    assert {place.stack for place in encoder.states} == {"encoder"}
    ids = [Speech().tokenizer(text)["input_ids"][:-1] for text in texts]
    states = [
        run(whisper, input_features=item.inputs["input_features"], decoder_input_ids=torch.tensor([tokens]))
        for item, tokens in zip(items, ids)
    ]
    expected = torch.cat([one.last_hidden_state[0] for one in states])
    assert torch.allclose(decoder.states["decoder", 2, "final_norm"], expected, atol=1e-5)
    kept = decoder.policies["no_special"].tolist()
    assert sorted(kept) == [i for i, token in enumerate(sum(ids, [])) if token > 3]
    frames = torch.cat([one.encoder_last_hidden_state[0, :25] for one in states])
    assert torch.allclose(encoder.states["encoder", 2, "final_norm"], frames, atol=1e-5)


def test_a_report_of_sounds_with_texts_has_both_stacks_and_a_long_sound_with_a_text_is_refused(whisper, vit):
    choice = {"processor": Speech(), "measures": "anisotropy", "rows": 60, "batch_rows": 4, "progress": False}
    report = hf_repgeo.profile(whisper, ["the cat sees a dog"] * 3, audio=WAVES, **choice)
    assert report.unique("stack") == ["encoder", "decoder"] and report.provenance["text"]["name"] == "speech"
    with pytest.raises(BadInput, match="`audio`: got 31 seconds with one text; wanted at most 30"):
        hf_repgeo.profile(whisper, ["the"], audio=[np.ones(31 * 16000)], **choice)
    with pytest.raises(BadInput, match="`texts`: got more sounds than texts; wanted one text for each sound"):
        hf_repgeo.profile(whisper, ["the"], audio=WAVES, **choice)
    with pytest.raises(BadInput, match=r"`texts`: got texts beside audio for a ViTModel .* Leave the texts out"):
        hf_repgeo.profile(vit, ["the"], audio=WAVES, **choice)


def test_points_inside_the_blocks_of_an_image_tower(vit):
    items = list(image_items(vit, Patches(), IMAGES[:2]))
    stacks = find_stacks(vit, items[0].inputs)
    points = ["residual", "attention", "mlp", "heads", "queries"]
    taps = taps_at(vit, stacks, items[0].inputs, None, "applied", points)
    [found] = media_representations(vit, taps, items, 2, rows=10**6, policies=["all"])
    before, after = found.states["encoder", 0, "residual"], found.states["encoder", 1, "residual"]
    added = found.states["encoder", 1, "attention"] + found.states["encoder", 1, "mlp"]
    assert torch.allclose(after - before, added, atol=1e-5)
    assert found.states["encoder", 1, "head_1"].shape == (34, 16)
    report = hf_repgeo.profile(
        vit, images=IMAGES, processor=Patches(), points="attention", measures="anisotropy", rows=60, progress=False
    )
    assert report.unique("point") == ["attention"] and report.unique("layer") == [1, 2]


def test_heads_of_an_image_tower_are_counted_by_its_own_configuration():
    from transformers import CLIPConfig, CLIPModel

    text = SMALL | {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "num_attention_heads": 2}
    vision = SMALL | {"image_size": 32, "patch_size": 8, "num_attention_heads": 4}
    model = seeded(CLIPModel, CLIPConfig(text_config=text, vision_config=vision))
    ids = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "pixel_values": torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    taps = taps_at(model, find_stacks(model, inputs), inputs, [1], "applied", ["heads"])
    counts = [tap.place.stack for tap in taps]
    assert sorted(counts.count(stack) for stack in set(counts)) == [2, 4]


# --- arrays of other kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int64", "int16", "uint16"])
def test_whole_numbers_are_pixels_from_0_to_255_whatever_their_type(dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    [image] = read_images([pixels.astype(dtype)])
    assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_fractions_are_pixels_from_0_to_1(dtype):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    [image] = read_images([(pixels / 255).astype(dtype)])
    assert np.array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    "array",
    [
        np.full((8, 8, 3), np.nan),
        np.full((8, 8, 3), np.inf),
        np.full((8, 8, 3), 255.0),
        np.full((8, 8, 3), -0.5),
        np.full((8, 8, 3), 300),
        np.full((8, 8, 3), -1),
        np.zeros((0, 0, 3)),
        np.zeros(5),
        np.zeros((8, 8, 2)),
        np.zeros((1, 8, 8, 3)),
        np.zeros((8, 8), dtype=complex),
    ],
)
def test_an_array_that_is_no_image_is_refused(array):
    with pytest.raises(BadInput, match="`images`: got"):
        list(read_images([array]))


def test_samples_of_a_sound_card_are_fractions_of_the_largest():
    samples = np.array([-(2**15), 0, 2**14, 2**15 - 1])
    expected = np.array([-1, 0, 0.5, 1 - 2**-15], dtype=np.float32)
    for dtype, factor in (("int16", 1), ("int32", 2**16)):
        [sound] = read_sounds([(samples * factor).astype(dtype)], 16_000)
        assert np.array_equal(sound, expected)
    [sound] = read_sounds([expected], 16_000)
    assert np.array_equal(sound, expected)


# --- sounds and images among text ------------------------------------------------------------------------------------


def test_rows_of_qwen2_audio_are_tokens_of_text_and_of_sound_and_frames_without_silence():
    import transformers
    from tiny import SIZES, make_tokenizer
    from transformers import Qwen2AudioConfig, Qwen2AudioProcessor, Qwen2Config, WhisperFeatureExtractor
    from transformers.models.qwen2_audio.configuration_qwen2_audio import Qwen2AudioEncoderConfig

    if not hasattr(transformers, "Qwen2AudioModel"):
        pytest.skip("this transformers has Qwen2-Audio with its head only")

    tokenizer = make_tokenizer(special=False)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]})
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=16), tokenizer)
    processor.chat_template = None
    tower = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 8, "d_model": 16, "num_mel_bins": 16}
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(**tower),
        text_config=Qwen2Config(**SIZES | {"vocab_size": len(tokenizer)}, num_key_value_heads=2),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = seeded(transformers.Qwen2AudioModel, config)
    texts = ["the cat sees the dog", "a house", "old"]
    items = list(speech_items(model, processor, WAVES, texts))
    heard = [int(item.media_tokens.sum()) for item in items]
    assert heard == [12] * 3  # half a second: 50 frames, 25 after the convolutions, pooled by two
    groups = {place.stack: group for group in rows_of(model, items) for place in group.states}
    frames, tokens = groups["encoder"], groups["decoder"]
    assert len(frames.documents) == 3 * 25 and "audio" not in frames.policies
    of_sound, of_text = tokens.policies["audio"], tokens.policies["text"]
    assert len(of_sound) == sum(heard) and len(of_sound) + len(of_text) == len(tokens.documents)
    expected = torch.cat([run(model, **item.inputs).last_hidden_state[0][item.media_tokens] for item in items])
    found = tokens.states["decoder", 2, "final_norm"][of_sound.sort().values]
    assert torch.allclose(found, expected, atol=1e-5)


def test_as_many_rows_of_each_kind_are_kept_as_were_asked_for(vit):
    """Ten texts of 2 tokens beside 15 that stand for an image: of either kind there are twenty to draw."""
    inputs = [item.inputs for item in image_items(vit, Patches(), IMAGES[:10])]
    beside = torch.tensor([False] * 2 + [True] * 15)
    items = [Item(each, media_tokens=beside) for each in inputs]
    [found] = rows_of(vit, items, rows=20, policies=["all", "text", "image"])
    assert {policy: len(rows) for policy, rows in found.policies.items()} == {"all": 20, "text": 20, "image": 20}
