"""How a report describes a model: its class, dtype, device, quantization and adapters."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch


def description(model: torch.nn.Module, given: Any = None) -> dict:
    """Facts about a model as it is in memory.

    Args:
        model: the transformers model.
        given: the object that the caller passed, if that wraps the model.

    Returns:
        dict: `class`, `dtype`, `device`; where there are any, `wrapper`, `quantization`, `adapter` and `autocast`.
    """
    facts = {"class": type(model).__name__, "dtype": _dtype(model), "device": _device(model)}
    quantization = _quantization(model)
    if quantization:
        facts |= {"quantization": quantization, "dtype": f"{quantization}, {facts['dtype']}"}
    if given is not None and given is not model:
        facts["wrapper"] = type(given).__name__
    if adapter := _adapter(model):
        facts["adapter"] = adapter
    if hasattr(model, "_original_forward"):  # Accelerate's mark of a forward pass under mixed precision
        facts["autocast"] = "by Accelerate"
    return facts


def _dtype(model: torch.nn.Module) -> str:
    """The floating-point dtype of most of the weights."""
    sizes: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            sizes[parameter.dtype] += parameter.numel()
    return str(sizes.most_common(1)[0][0]).removeprefix("torch.") if sizes else "none"


def _device(model: torch.nn.Module) -> str:
    placed = getattr(model, "hf_device_map", None)
    devices = placed.values() if placed else (parameter.device for parameter in model.parameters())
    return ", ".join(dict.fromkeys(f"cuda:{d}" if isinstance(d, int) else str(d) for d in devices))


def _quantization(model: torch.nn.Module) -> str | None:
    """The method and its bits, from the configuration; else the kinds of tensors that torchao or bitsandbytes left."""
    config = getattr(model.config, "quantization_config", None)
    if config is not None:
        facts = config if isinstance(config, dict) else config.to_dict()
        method = getattr(facts.get("quant_method"), "value", facts.get("quant_method")) or type(config).__name__
        bits = facts.get("bits") or (4 if facts.get("load_in_4bit") else 8 if facts.get("load_in_8bit") else None)
        return f"{method} {bits}-bit" if bits else str(method)
    kinds = {type(parameter.data).__name__ for parameter in model.parameters()} - {"Tensor", "Parameter"}
    return ", ".join(sorted(kinds)) or None


def _adapter(model: torch.nn.Module) -> str | None:
    """Adapters that PEFT put into the model: method, name, the folder or id they came from."""
    if not any(type(module).__module__.startswith("peft.tuners") for module in model.modules()):
        return None
    known = getattr(model, "peft_config", None) or {}
    said = [
        f"{getattr(config.peft_type, 'value', config.peft_type)} {name!r}"
        for name, config in (known.items() if isinstance(known, dict) else ())
    ]
    return ", ".join(said) or "PEFT"
