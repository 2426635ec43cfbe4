"""Finds the transformers model inside a wrapper: PEFT, DataParallel, torch.compile, Lightning, pipelines ..."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WANTED = "a transformers model, a Hub id, a folder, pip:PACKAGE or a .gguf file"


def unwrapped(given: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The one transformers model inside an object, and the tokenizer that the object carries.

    Args:
        given: a model; a module around one, such as PEFT's, DataParallel's, a compiled or a Lightning module, a
            SentenceTransformer; or a pipeline.

    Raises:
        BadInput: there is none inside, or there are several, or virtual tokens (prompt tuning) belong to it, which only
            the wrapper adds.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from hf_repgeo.rows.wrappers import unwrapped
        >>> bert = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9))
        >>> unwrapped(torch.nn.DataParallel(bert))[0] is bert
        True
    """
    import torch
    from transformers import PreTrainedTokenizerBase

    tokenizer = getattr(given, "tokenizer", None)
    tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None
    module = given if isinstance(given, torch.nn.Module) else getattr(given, "model", None)  # a pipeline, a Trainer
    if not isinstance(module, torch.nn.Module):
        raise BadInput("model", came=f"a {type(given).__name__}", wanted=WANTED)
    found = _outermost(module)
    if len(found) != 1:
        names = ", ".join(found) or "none"
        cure = "Pass one of them." if found else ""
        came = f"a {type(given).__name__} with {len(found)} transformers models inside ({names})"
        raise BadInput("model", came=came, wanted="one transformers model", cure=cure)
    [model] = found.values()
    configs = getattr(module, "peft_config", {})
    if any(getattr(c, "is_prompt_learning", False) for c in configs.values() if isinstance(configs, dict)):
        wanted = "an adapter in the weights, such as LoRA"
        cure = "Its virtual tokens stand before every text; measure the base model: model.get_base_model()."
        raise BadInput("model", came=f"a {type(given).__name__} with prompt learning", wanted=wanted, cure=cure)
    return model, tokenizer


def _outermost(module) -> dict[str, PreTrainedModel]:
    """Path -> transformers model, for models that are in no other one; the same one twice counts once."""
    from transformers import PreTrainedModel

    found: dict[str, PreTrainedModel] = {}
    pending = [("", module)]
    while pending:
        path, part = pending.pop()
        if isinstance(part, PreTrainedModel):
            if all(part is not other for other in found.values()):
                found[path or type(part).__name__] = part
        else:
            children = part.named_children()
            pending += [(f"{path}.{name}".lstrip("."), child) for name, child in children]
    return found
