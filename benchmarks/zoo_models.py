"""Tiny random models of transformers' types, from their configurations, and inputs that they run on."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

BLOCKS, IMAGE, WORDS, PATCHES = 3, 32, 128, 4
MOST_PARAMETERS = 30_000_000

# Sizes by the name under which configurations ask for them.
TINY = {
    **dict.fromkeys("hidden_size d_model n_embd dim emb_dim embed_dim encoder_hidden_size".split(), 32),
    **dict.fromkeys("num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers".split(), BLOCKS),
    **dict.fromkeys("num_decoder_layers num_encoder_layers encoder_num_layers decoder_num_layers".split(), BLOCKS),
    **dict.fromkeys("num_attention_heads n_head n_heads num_heads encoder_attention_heads".split(), 4),
    **dict.fromkeys("decoder_attention_heads num_key_value_heads multi_query_group_num".split(), 4),
    **dict.fromkeys("intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim d_inner n_inner".split(), 64),
    **dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size expert_ffn_dim ffn_hidden_size".split(), 32),
    **dict.fromkeys("d_kv head_dim kv_channels attention_head_size global_head_dim".split(), 8),
    **dict.fromkeys("num_experts num_local_experts n_routed_experts moe_num_experts".split(), 4),
    **dict.fromkeys("num_experts_per_tok moe_top_k top_k moe_topk".split(), 2),
    **dict.fromkeys("max_position_embeddings n_positions max_source_positions max_target_positions".split(), 128),
    **dict.fromkeys("vocab_size vocab_size_per_layer_input codebook_size audio_vocab_size".split(), WORDS),
    **dict.fromkeys("linear_key_head_dim linear_value_head_dim mamba_headdim mamba_head_dim".split(), 8),
    **dict.fromkeys("linear_num_key_heads linear_num_value_heads n_mamba_heads mamba_num_heads".split(), 4),
    "embedding_size": 32, "depth": BLOCKS, "image_size": IMAGE, "patch_size": 8, "hidden_dim": 32,
    "proj_dim": 32, "projection_dim": 32, "vision_feature_layer": -1, "hidden_size_per_layer_input": 8,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1, "state_size": 8, "mamba_d_state": 8,
    "num_mel_bins": 16, "n_group": 1, "topk_group": 1, "out_hidden_size": 32, "num_codebooks": 2,
    "rotary_dim": 4, "n_mels": 16, "num_kv_shared_layers": 0, "num_position_embeddings": 64,
    "position_embedding_size": 64, "mamba_n_groups": 1, "mamba_ngroups": 1, "qformer_hidden_size": 32,
    "mlp_dim": 64, "num_queries": 8, "mm_tokens_per_image": 4,
}  # fmt: skip
SPECIAL = {  # sizes that depend on each other
    "gpt_neo": {"attention_types": [[["global"], BLOCKS]]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8, "attn_layer_indices": [1]},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8, "layer_types": ["mamba", "attention", "mamba"]},
    "zamba": {"num_hidden_layers": 6, "layers_block_type": ["linear_attention", "linear_attention", "hybrid"] * 2},
    "zamba2": {
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "num_hidden_layers": 4,
    },
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1},
    "sam2_hiera_det_model": {"hidden_size": 96},
    "hiera": {"embed_dim": 16, "depths": [1, 2, 1, 1]},
    "levit": {"image_size": 64, "patch_size": 16},  # its convolutions always halve the image four times
    "swin": {"window_size": 4},
    "donut-swin": {"window_size": 4},
    "swin2sr": {"window_size": 4, "patch_size": 1, "image_size": 32},
    "longformer": {"attention_window": 4},
    "funnel": {"block_sizes": [1, 1, 1], "block_repeats": [1, 1, 1]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "dots1": {"n_shared_experts": 1},
    "lilt": {"hidden_size": 48},
    "bros": {"hidden_size": 64},
    "luke": {"entity_vocab_size": 16, "entity_emb_size": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
    "step3p7_text": {"sliding_window": 4},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_blocks": 1, "num_self_attends_per_block": 3},
    "reformer": {"axial_pos_shape": [8, 16], "axial_pos_embds_dim": [16, 16], "attn_layers": ["local", "lsh", "local"]},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "sep_token_id": 3}


# --- models ---------------------------------------------------------------------------------------------------------


def tiny_model(kind: str):
    """A random model of a type, in eval mode, the same each time.

    Raises:
        MemoryError: its configuration has sizes that are not known here.
    """
    import torch
    from transformers import AutoModel

    config = tiny_config(kind)
    config.architectures = config.architectures or []
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise MemoryError(f"its smallest configuration here has {size / 1e6:.0f} million parameters")
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return AutoModel.from_config(config).eval()


def tiny_config(kind: str):
    """The configuration of a type with every size made small, sub-configurations included."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _tiny(CONFIG_MAPPING[kind])


def _tiny(config_class):
    """Gives sizes to the constructor, which derives others from them, and leaves out any that it refuses."""
    accepted = _parameters(config_class)
    parts = {name: _tiny(part) for name, part in _parts(config_class).items()}
    stages = "num_stages" in getattr(config_class, "attribute_map", {}).values() or "block_sizes" in accepted
    sizes = {name: value for name, value in TINY.items() if name in accepted and not (stages and value == BLOCKS)}
    sizes |= {name: TOKENS.get(name, 100) for name in accepted if name.endswith(("_token_id", "_token_index"))}
    lists = _lists(config_class)
    renamed = getattr(config_class, "attribute_map", {})
    sizes = {name: value for name, value in sizes.items() if not {name, renamed.get(name)} & lists}
    if {"num_heads", "num_attention_heads"} & lists:  # then each stage has its own width, a multiple of its heads
        sizes = {name: value for name, value in sizes.items() if value != TINY["hidden_size"]}
    options = {**sizes, **parts, **SPECIAL.get(config_class.model_type, {})}
    for left_out in ((), *((name,) for name in options), tuple(sizes), tuple(parts)):
        with contextlib.suppress(Exception):
            return _turned(config_class(**{name: value for name, value in options.items() if name not in left_out}))
    return config_class()


def _parameters(config_class) -> set[str]:
    names = set(getattr(config_class, "__dataclass_fields__", {}))
    names |= set(inspect.signature(config_class.__init__).parameters) | set(getattr(config_class, "attribute_map", {}))
    return names - {"self", "kwargs"}


def _lists(config_class) -> set[str]:
    """Sizes that the default configuration gives stage by stage."""
    with contextlib.suppress(Exception):
        return {name for name, value in vars(config_class()).items() if isinstance(value, (list, tuple))}
    return set()


def _parts(config_class) -> dict[str, type]:
    """The classes of the sub-configurations, some of which only the default configuration names."""
    from transformers import PreTrainedConfig

    parts = {
        name: part for name, part in getattr(config_class, "sub_configs", {}).items() if hasattr(part, "model_type")
    }
    with contextlib.suppress(Exception):
        default = config_class()
        names = set(parts) | set(getattr(config_class, "sub_configs", {})) | _parameters(config_class)
        held = {name: getattr(default, name, None) for name in names}
        parts |= {name: type(value) for name, value in held.items() if isinstance(value, PreTrainedConfig)}
    return {name: part for name, part in parts.items() if part.model_type}


def _turned(config):
    """Rotary embeddings with several axes: the axes divide half a head among them."""
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and rope.get("rope_type") == "default" and hasattr(config, "num_attention_heads"):
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        half = int(head * rope.get("partial_rotary_factor", 1.0)) // 2
        third = half // 3
        rope["mrope_section"] = [half - 2 * third, third, third]
    return config


# --- inputs ---------------------------------------------------------------------------------------------------------


def inputs_of(model) -> list[tuple[str, dict]]:
    """`(modality, inputs)` to try: images among texts, where a model takes both, then the model's main input."""
    accepted = inspect.signature(model.forward).parameters
    made = [*_texts(model, accepted), *_images(model, accepted), *_sounds(model, accepted)]
    usable = [(name, some) for name, some in made if set(some) - {"attention_mask"} <= set(accepted)]
    return [*_both(model, accepted), *sorted(usable, key=lambda pair: model.main_input_name not in pair[1])]


def _random(*shape: int):
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def _ids():
    import torch

    return torch.randint(4, 96, (3, 11), generator=torch.Generator().manual_seed(0))


def _texts(model, accepted) -> Iterator[tuple[str, dict]]:
    import torch

    ids = _ids()
    text: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    text |= {"use_cache": False} if "use_cache" in accepted else {}
    if model.config.is_encoder_decoder and "decoder_input_ids" in accepted:
        text["decoder_input_ids"] = ids.roll(1, 1)
    yield "text", text
    if "bbox" in accepted:
        for width, dtype in ((4, torch.int64), (8, torch.int64), (4, torch.float32), (8, torch.float32)):
            yield "text", text | {"bbox": torch.zeros(*ids.shape, width, dtype=dtype)}


def _images(model, accepted) -> Iterator[tuple[str, dict]]:
    import torch

    size = _size(model.config)
    image = {"pixel_values": _random(3, 3, size, size)}
    yield "image", image
    yield "image-text", dict(_texts(model, accepted))["text"] | image
    yield "image", {"pixel_values": _random(3, 3, 2 * IMAGE, 2 * IMAGE)}
    for name in ("pixel_values", "pixel_values_videos"):
        for frames in (8, 16, 32):
            yield "video", {name: _random(3, frames, 3, size, size)}
    yield from _patches(model, accepted)
    vision = getattr(model.config, "vision_config", model.config)
    patch = getattr(vision, "patch_size", 8)
    if isinstance(patch, int):
        flat = {"pixel_values": _random(3, PATCHES**2, 3 * patch**2)}
        mask, shapes = torch.ones(3, PATCHES**2, dtype=torch.int64), torch.full((3, 2), PATCHES)
        yield "image", flat | {"pixel_attention_mask": mask, "spatial_shapes": shapes}
        places = torch.cartesian_prod(torch.arange(PATCHES), torch.arange(PATCHES)).expand(3, -1, -1)
        yield "image", flat | {"pixel_position_ids": places}
        yield "image", {"pixel_values": flat["pixel_values"].abs().sigmoid(), "pixel_position_ids": places}


def _patches(model, accepted) -> Iterator[tuple[str, dict]]:
    """Images as rows of patches, one image after another, and the grid of each."""
    import torch

    vision = getattr(model.config, "vision_config", model.config)
    patch, frames = getattr(vision, "patch_size", 8), getattr(vision, "temporal_patch_size", 1) or 1
    if not isinstance(patch, int):
        return
    grid = torch.tensor([[1, PATCHES, PATCHES]])
    for width in dict.fromkeys((3 * frames * patch**2, 3 * patch**2)):
        rows = _random(PATCHES**2, width)
        for name in ("hidden_states", "pixel_values"):
            for of_grid in ("grid_thw", "image_grid_thw"):
                yield "image", {name: rows, of_grid: grid}
        yield "image", {"pixel_values": rows, "grid_thw": grid, "merge_sizes": torch.tensor([2])}
        yield "image", {"hidden_states": rows.view(PATCHES**2, -1, patch, patch), "grid_thw": grid}
        yield "image", {"pixel_values": rows.view(PATCHES**2, -1, patch, patch), "grid_thw": grid}


def _sounds(model, accepted) -> Iterator[tuple[str, dict]]:
    import torch

    start = {"decoder_input_ids": _ids()[:, :5]} if "decoder_input_ids" in accepted else {}
    for shape in ((3, 8000), (3, 1, 8000), (3, 16000)):
        for rest in ({}, start):
            yield "audio", {"input_values": _random(*shape)} | rest
    config = getattr(model.config, "audio_config", None) or getattr(model.config, "encoder_config", model.config)
    names = ("num_mel_bins", "feature_size", "input_dim", "input_feat_size", "n_mels", "feature_projection_input_dim")
    sizes = [getattr(config, name) for name in names if isinstance(getattr(config, name, None), int)] + [80, 128, 160]
    for mels in dict.fromkeys(sizes):
        for length in (256, 128, 3000, 1024):
            for shape in ((3, mels, length), (3, length, mels)):
                features = {"input_features": _random(*shape)}
                mask = torch.ones(3, length, dtype=torch.int64)
                yield "audio", features | start
                yield "audio", features | {"attention_mask": mask}
                yield "audio", features | {"input_features_mask": mask} | start
                yield "audio", {"input_values": features["input_features"]}


def _both(model, accepted) -> Iterator[tuple[str, dict]]:
    """An image and a text with a token for each of the image's rows, one after the other."""
    import torch

    token = getattr(model.config, "image_token_id", None) or getattr(model.config, "image_token_index", None)
    if not hasattr(model, "get_image_features") or not isinstance(token, int):
        return
    for _, image in list(_images(model, accepted)):
        with contextlib.suppress(Exception), torch.no_grad():
            count, images = _count(model.get_image_features(**image)), 1 if "image_grid_thw" in image else 3
            ids = torch.cat([torch.full((images, count // images), token), _ids()[:images]], 1)
            text = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
            names = ("mm_token_type_ids", "token_type_ids")
            yield "image-text", text | image | {name: (ids == token).long() for name in names if name in accepted}


def _count(features) -> int:
    """Rows of all images together, in whatever form a model returns them."""
    features = getattr(features, "pooler_output", features)
    if isinstance(features, (list, tuple)):
        return sum(map(_count, features))
    return features.flatten(0, -2).shape[0]


def _size(config) -> int:
    size = getattr(getattr(config, "vision_config", config), "image_size", IMAGE) or IMAGE
    return size if isinstance(size, int) else size[0]
