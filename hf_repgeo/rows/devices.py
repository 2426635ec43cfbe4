"""Where a model takes its input."""

from __future__ import annotations

import torch


def input_device(model: torch.nn.Module) -> torch.device:
    """The device for token ids: where the first layer runs, also when its weights lie on disk (on no device)."""
    for module in model.modules():
        device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    found = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    return torch.device("cpu") if found.type == "meta" else found
