"""Which architectures are verified: a tiny random model of every type in transformers' mapping, profiled and checked.

    python benchmarks/zoo.py                  every type, printed, a line of JSON each
    python benchmarks/zoo.py bert llama vit   these types
    python benchmarks/zoo.py --page           also writes docs/models.md

A type counts as *running* if its tiny model runs on the inputs that its modality names. Of those, it is
*profiled* when its stacks are found, every layer is read, and the checks hold; else it must be *refused* by one
sentence.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import resource
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PAGE = Path(__file__).parents[1] / "docs" / "models.md"
BLOCKS, IMAGE, WORDS = 3, 32, 128
MOST_PARAMETERS, MOST_MEMORY = 30_000_000, 6 * 2**30

# Sizes by the name under which configurations ask for them.
TINY = {
    **dict.fromkeys("hidden_size d_model n_embd dim emb_dim embed_dim encoder_hidden_size".split(), 32),
    **dict.fromkeys("num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers".split(), BLOCKS),
    **dict.fromkeys("num_decoder_layers num_encoder_layers".split(), BLOCKS),
    **dict.fromkeys("num_attention_heads n_head n_heads num_heads encoder_attention_heads".split(), 4),
    **dict.fromkeys("decoder_attention_heads num_key_value_heads multi_query_group_num".split(), 4),
    **dict.fromkeys("intermediate_size d_ff ffn_dim encoder_ffn_dim decoder_ffn_dim d_inner n_inner".split(), 64),
    **dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size expert_ffn_dim ffn_hidden_size".split(), 32),
    **dict.fromkeys("d_kv head_dim kv_channels attention_head_size".split(), 8),
    **dict.fromkeys("num_experts num_local_experts n_routed_experts moe_num_experts".split(), 4),
    **dict.fromkeys("num_experts_per_tok moe_top_k top_k moe_topk".split(), 2),
    **dict.fromkeys("max_position_embeddings n_positions max_source_positions max_target_positions".split(), 128),
    "vocab_size": WORDS, "embedding_size": 32, "depth": BLOCKS, "image_size": IMAGE, "patch_size": 8, "hidden_dim": 32,
    "proj_dim": 32, "projection_dim": 32, "vision_feature_layer": -1,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1, "state_size": 8, "mamba_d_state": 8,
    "num_mel_bins": 16, "n_group": 1, "topk_group": 1, "out_hidden_size": 32, "num_codebooks": 2,
    "rotary_dim": 4, "n_mels": 16,
}  # fmt: skip
SPECIAL = {  # sizes that hang together
    "gpt_neo": {"attention_types": [[["global"], BLOCKS]]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "longformer": {"attention_window": 4},
    "funnel": {"block_sizes": [1, 1, 1], "num_decoder_layers": 1},
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "sep_token_id": 3}


def tiny_config(kind: str):
    """The configuration of a type with every size made small, sub-configurations included."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _tiny(CONFIG_MAPPING[kind], SPECIAL.get(kind, {}))


def _tiny(config_class, special: dict | None = None):
    """Sizes are given to the constructor, which derives others from them."""
    accepted = _parameters(config_class)
    parts = getattr(config_class, "sub_configs", {})
    given = {name: _tiny(part) for name, part in parts.items() if hasattr(part, "model_type")}
    sizes = {name: value for name, value in TINY.items() if name in accepted}
    sizes |= {name: TOKENS.get(name, 100) for name in accepted if name.endswith(("_token_id", "_token_index"))}
    sizes |= special or {}
    for options in ({**sizes, **given}, sizes, given, {}):
        with contextlib.suppress(Exception):
            return config_class(**options)
    return config_class()


def _parameters(config_class) -> set[str]:
    names = set(getattr(config_class, "__dataclass_fields__", {}))
    names |= set(inspect.signature(config_class.__init__).parameters) | set(getattr(config_class, "attribute_map", {}))
    return names - {"self", "kwargs"}


def tiny_model(kind: str):
    """A random model of a type, in eval mode, the same each time."""
    import torch
    from transformers import AutoModel

    config = tiny_config(kind)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise MemoryError(f"its smallest configuration here has {size / 1e6:.0f} million parameters")
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return AutoModel.from_config(config).eval()


# --- inputs ---------------------------------------------------------------------------------------------------------


def inputs_of(model) -> list[tuple[str, dict]]:
    """`(modality, inputs)` to try, the model's main input first."""
    import torch

    generator = torch.Generator().manual_seed(0)
    accepted = inspect.signature(model.forward).parameters
    size = _size(model.config)
    ids = torch.randint(4, 100, (3, 11), generator=generator)
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder and "decoder_input_ids" in accepted:
        text["decoder_input_ids"] = ids.roll(1, 1)
    image = {"pixel_values": torch.randn(3, 3, size, size, generator=generator)}
    video = {"pixel_values": torch.randn(3, 16, 3, size, size, generator=generator)}
    wave = {"input_values": torch.randn(3, 8000, generator=generator)}
    mels = getattr(model.config, "num_mel_bins", None) or getattr(model.config, "feature_size", None) or 80
    frames = {"input_features": torch.randn(3, mels, 256, generator=generator)}
    late = {"input_features": torch.randn(3, 128, mels, generator=generator)}
    start = {"decoder_input_ids": ids[:, :5]} if "decoder_input_ids" in accepted else {}
    every = [("text", text), ("image", image), ("audio", wave | start), ("audio", frames | start)]
    every += [("audio", late | start), ("image-text", text | image), ("video", video)]
    usable = [(name, some) for name, some in every if set(some) - {"attention_mask"} <= set(accepted)]
    return sorted(usable, key=lambda pair: model.main_input_name not in pair[1])


def _size(config) -> int:
    size = getattr(getattr(config, "vision_config", config), "image_size", IMAGE) or IMAGE
    return size if isinstance(size, int) else size[0]


# --- one type -------------------------------------------------------------------------------------------------------


def examine(kind: str) -> dict:
    """What happens to one type: `outcome`, and the places that were found."""
    found = {"type": kind}
    try:
        model = tiny_model(kind)
        found["class"] = type(model).__name__
        found["modality"], inputs = _running(model)
    except Exception as error:  # what a type does not do on its own is not counted
        return found | {"outcome": "does not run", "why": _first_line(error)}
    try:
        return found | _profiled(model, inputs)
    except Exception as error:
        from hf_repgeo.errors import RepgeoError

        outcome = "refused" if isinstance(error, RepgeoError) else "crash"
        return found | {"outcome": outcome, "why": _first_line(error)}


def _running(model) -> tuple[str, dict]:
    from hf_repgeo.rows.passes import run

    problem = None
    for modality, inputs in inputs_of(model):
        try:
            run(model, **inputs)
            return modality, inputs
        except Exception as error:
            problem = problem or error
    raise problem or RuntimeError("takes none of the inputs that are tried")


def _profiled(model, inputs: dict) -> dict:
    from hf_repgeo.rows.capture import read_places
    from hf_repgeo.rows.passes import run
    from hf_repgeo.rows.stacks import find_stacks

    stacks = find_stacks(model, inputs)
    taps = [tap for stack in stacks for tap in stack.taps]
    with read_places(model, taps, lambda rows: rows.clone()) as rows:
        run(model, **inputs)
    missing = [place for place, state in rows.items() if state is None]
    if missing:
        return {"outcome": "wrong", "why": f"{missing[0]} was not read"}
    shapes = {tuple(state.shape[:2]) for state in rows.values()}
    places = "; ".join(f"{s.name} 0-{s.layers[-1]}" + (f" + {s.final_norm}" if s.final_norm else "") for s in stacks)
    depths = [len(stack.layers) - 1 for stack in stacks]
    return {"outcome": "profiled", "places": places, "depths": depths, "shapes": sorted(shapes)}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:160]}"


# --- every type -----------------------------------------------------------------------------------------------------


def in_a_process(kinds: list[str]) -> list[dict]:
    """Examines types in a process of their own: one that crashes or hangs takes no other with it."""
    command = [sys.executable, __file__, "--json", *kinds]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 20 * len(kinds))
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"type"')]
    except subprocess.TimeoutExpired as error:
        text = error.stdout.decode() if error.stdout else ""
        lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"type"') and line.endswith("}")]
    done_kinds = {line["type"] for line in lines}
    rest = [kind for kind in kinds if kind not in done_kinds]
    if rest:  # the first of them ended the process
        lines.append({"type": rest[0], "outcome": "does not run", "why": "ended its process"})
        lines += in_a_process(rest[1:]) if rest[1:] else []
    return lines


def page(rows: list[dict]) -> str:
    """The table of verified architectures, in Markdown."""
    from transformers import __version__ as version

    counts = {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in ("profiled", "refused", "crash")}
    lines = [
        "# Verified architectures",
        "",
        f"Tiny random models of {len(rows)} types, from their configurations, with transformers {version}.",
        f"Of the {sum(counts.values())} that run, {counts['profiled']} are profiled,",
        f"{counts['refused']} are refused in a sentence, and {counts['crash']} crash.",
        "",
        "*Profiled* means: the stacks of blocks were found, every layer was read, and what passes between the blocks",
        "is what the model returns as `hidden_states`, but for a last entry that a head has made of the last block.",
        "`0-3 + norm` means layers 0 to 3 and a final norm called `norm`. Types that are not in the table could not be",
        "made small, or did not run on plain inputs of their kind.",
        "`python benchmarks/zoo.py TYPE ...` tries others; without a type it tries all of transformers' mapping.",
        "",
        "| type | reads | stacks and their layers |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| `{r['type']}` | {r.get('modality', '')} | {_cell(r)} |" for r in rows if r["outcome"] != "does not run"
    ]
    return "\n".join(lines) + "\n"


def _cell(row: dict) -> str:
    return row["places"] if row["outcome"] == "profiled" else f"{row['outcome']}: {row['why']}"


def every(kinds: list[str]) -> Iterator[dict]:
    """Examines types forty at a time."""
    for start in range(0, len(kinds), 40):
        yield from in_a_process(kinds[start : start + 40])


def main(arguments: list[str]) -> None:
    warnings.simplefilter("ignore")
    if arguments[:1] == ["--json"]:
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
        for kind in arguments[1:]:
            with contextlib.redirect_stderr(io.StringIO()):
                found = examine(kind)
            print(json.dumps(found), flush=True)
        return
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    kinds = [kind for kind in arguments if kind != "--page"] or sorted(MODEL_MAPPING_NAMES)
    rows = []
    for row in every(kinds):
        rows.append(row)
        print(json.dumps(row), flush=True)
    if "--page" in arguments:
        PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
