"""Sixty architectures as tiny random models: their stacks are found, counted and checked."""

import importlib.util
import sys
from pathlib import Path

import pytest
import transformers
from packaging.version import Version

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "zoo.py"
sys.path.insert(0, str(SCRIPT.parent))
specification = importlib.util.spec_from_file_location("zoo", SCRIPT)
zoo = importlib.util.module_from_spec(specification)
specification.loader.exec_module(zoo)

ENCODERS = """albert bert bert-generation big_bird camembert convbert data2vec-text deberta deberta-v2 distilbert
    electra ernie esm flaubert fnet ibert layoutlm longformer megatron-bert mobilebert modernbert mpnet nystromformer
    rembert roberta roformer xlm xlm-roberta xlnet yoso""".split()
DECODERS = """bloom codegen cohere ctrl falcon gemma gemma2 gemma3_text gpt2 gpt_bigcode gpt_neo gpt_neox gptj granite
    llama mamba mamba2 mistral mixtral mpt olmo olmo2 opt persimmon phi phi3 qwen2 qwen2_moe qwen3 rwkv stablelm
    starcoder2""".split()
TWO_STACKS = "bart mbart t5 pegasus marian".split()
IMAGES = "beit deit dinov2 dinov2_with_registers swin vit".split()
SOUNDS = "hubert wav2vec2 whisper".split()


OLD = Version(transformers.__version__) < Version("5.24")  # types that came later, or could not run alone


def depths(kind):
    found = zoo.examine(kind)
    if OLD and found["outcome"] == "does not run":
        pytest.skip(f"transformers {transformers.__version__}: {found['why']}")
    assert found["outcome"] == "profiled", found
    return found


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_have_one_stack_of_three_blocks(kind):
    found = depths(kind)
    assert found["places"].startswith("encoder 0-3") and found["depths"] == [3]


@pytest.mark.parametrize("kind", DECODERS)
def test_decoders_have_one_causal_stack_of_three_blocks(kind):
    found = depths(kind)
    assert found["places"].startswith("decoder 0-3") and found["depths"] == [3]


@pytest.mark.parametrize("kind", TWO_STACKS)
def test_encoder_decoders_have_an_encoder_stack_and_a_decoder_stack(kind):
    found = depths(kind)
    assert [place.split()[0] for place in found["places"].split("; ")] == ["encoder", "decoder"]
    assert found["depths"] == [3, 3]


@pytest.mark.parametrize("kind", [*IMAGES, *SOUNDS])
def test_models_of_images_and_sounds_have_their_stacks(kind):
    assert "encoder 0-" in depths(kind)["places"]


def test_a_configuration_that_cannot_be_made_small_is_not_built():
    found = zoo.examine("aya_vision_no_such_type")
    assert found["outcome"] == "does not run"


def test_blocks_whose_forward_is_called_by_hand_are_seen_too():
    """SqueezeBERT calls `layer.forward(...)`, which no hook sees, on states with features before tokens."""
    found = depths("squeezebert")
    assert found["places"] == "encoder 0-3" and found["shapes"] == [(3, 11)]


def test_stacks_that_run_in_turn_inside_one_part_are_all_found():
    assert depths("fsmt")["places"] == "encoder 0-3; decoder 0-3"
    assert depths("hrm_text")["depths"] == [18, 6]  # two stacks of three blocks, in 2 x (3 + 1) turns


def test_a_prompt_before_the_text_and_streams_after_it_are_not_rows_of_tokens():
    assert depths("cpmant")["shapes"] == [(3, 11)]
    assert depths("prophetnet")["places"] == "encoder 0-3; decoder 0-3"
