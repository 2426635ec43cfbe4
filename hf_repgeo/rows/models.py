"""Loads models from the Hub, a folder, an installed package (`pip:NAME`) or a GGUF file, or takes one in memory."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, RepgeoError
from .descriptions import description
from .identity import tokenizer_fingerprint
from .packaged import cache_folder, converted, packaged
from .random_weights import Look, check_weights
from .shared_findings import found_once
from .wrappers import unwrapped

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Loaded", "cache_folder", "load_model", "packaged", "resolved_device", "resolved_place"]

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer, and its name and facts for a report.

    Attributes:
        model: the transformers model, out of its wrappers.
        tokenizer: its own.
        source: provenance: name, revision, commit, class, dtype, device; where there are any, quantization, adapter and
            random weights.
        place: the folder or Hub id that it was loaded from; `None` for a model in memory.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: dict
    place: str | None = None


def load_model(
    model: str | Path | PreTrainedModel | torch.nn.Module,
    *,
    tokenizer: PreTrainedTokenizerBase | str | Path | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: str | dict | None = None,
    quantization_config: Any = None,
    allow_random_weights: bool = False,
    trust_remote_code: bool = False,
    look: Look | None = None,
) -> Loaded:
    """Loads a model for measuring.

    Args:
        model: a Hub id; a local folder, also of a PEFT adapter; `"pip:PACKAGE"`, a model that an installed package
            carries; a `.gguf` file; or a model in memory, which stays on its device, in its dtype. Wrappers are
            unwrapped: PEFT, DataParallel, `torch.compile`, Accelerate, LightningModule, pipelines,
        SentenceTransformer.
        tokenizer: the tokenizer, its folder or Hub id; needed if the model's folder has none.
        revision: branch, tag or commit on the Hub.
        dtype: `"auto"` keeps the checkpoint's; or `"float32"`, `"bfloat16"`, `"float16"`, `"float64"`.
        device: such as `"cuda"`; default: a CUDA device if there is one, else the CPU.
        device_map: `"auto"` spreads the weights over devices, memory and disk, as in transformers; `"disk"` leaves all
            of them on disk and reads a module's when it runs, for models larger than memory; or transformers' own dict.
            Needs accelerate.
        quantization_config: as in transformers, such as `BitsAndBytesConfig(load_in_4bit=True)`.
        allow_random_weights: measure a model although its checkpoint lacks weights that the hidden states depend on.
            The report says which.
        trust_remote_code: run code from the model's repository.
        look: runs the model on a small input and returns the states that will be measured: weights that feed none of
            them may be missing. Default: all layers, on a few tokens.

    Raises:
        BadInput: the model cannot be loaded (the message says what was tried), or weights are missing.
    """
    _check(model, revision, dtype, device, device_map, quantization_config)
    if not isinstance(model, (str, Path)):
        return _in_memory(model, tokenizer, dtype, device)
    place, options = resolved_place(str(model), revision)
    options |= {"trust_remote_code": trust_remote_code}
    placed = {"device_map": device_map, "quantization_config": quantization_config}
    network, info = _load(place, str(model), dtype, allow_random_weights, options, placed)
    tokenizer = _tokenizer(tokenizer or place, options)
    if device_map is None and not _is_quantized(network):
        _move(network, resolved_device(device))
    random = check_weights(network, info, allow_random_weights, look)
    commit = getattr(network.config, "_commit_hash", None)
    source = {"model": str(model), "revision": revision, "commit": commit, **description(network), **random}
    return Loaded(network.eval(), tokenizer, source, place)


def _check(model, revision, dtype, device, device_map, quantization_config) -> None:
    """Options that would be ignored are refused."""
    if str(dtype).removeprefix("torch.") not in DTYPES:
        raise BadInput("dtype", came=repr(dtype), wanted="one of " + ", ".join(DTYPES))
    if device_map is not None and device is not None:
        raise BadInput("device_map", came=f"{device_map!r} beside device={device!r}", wanted="one of the two")
    if isinstance(model, (str, Path)):
        return
    options = {"revision": revision, "device_map": device_map, "quantization_config": quantization_config}
    for name, value in options.items():
        if value is not None:
            wanted = "none for a model in memory, which stays as it is"
            raise BadInput(name, came=repr(value)[:60], wanted=wanted, cure="Pass its folder or Hub id instead.")


def _in_memory(given: Any, tokenizer, dtype, device) -> Loaded:
    model, own_tokenizer = unwrapped(given)
    name = getattr(model.config, "_name_or_path", "")
    facts = description(model, given)
    asked = {"dtype": str(dtype).removeprefix("torch."), "device": device and str(device)}
    for option, value in asked.items():
        if value not in (None, "auto") and not str(facts[option]).startswith(value):
            came = f"{value!r} for a model in memory with {facts[option]!r}"
            raise BadInput(option, came=came, wanted="none: it stays as it is", cure="Move it before: model.to(...).")
    tokenizer = tokenizer or own_tokenizer
    if tokenizer is None and not name:
        raise BadInput("tokenizer", came="none", wanted="the tokenizer of this model", cure="Pass tokenizer=.")
    tokenizer = _tokenizer(tokenizer or name, {})
    return Loaded(model, tokenizer, {"model": name or type(model).__name__, "revision": None, "commit": None, **facts})


def _is_quantized(network: PreTrainedModel) -> bool:
    return getattr(network, "hf_quantizer", None) is not None


def _move(network: torch.nn.Module, device: torch.device) -> None:
    network.to(device)


def resolved_device(device: str | torch.device | None) -> torch.device:
    """The device asked for; default: a CUDA device if there is one, else the CPU.

    Raises:
        BadInput: this machine has none of that name.
    """
    import torch

    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, ImportError) as error:
        came = f"{device!r} ({str(error).splitlines()[0].partition('. ')[0]})"
        raise BadInput("device", came=came, wanted="a device of this machine, such as 'cpu' or 'cuda'") from None
    return chosen


def resolved_place(model: str, revision: str | None) -> tuple[str, dict]:
    """Where transformers finds the model: a folder or Hub id, and loading options.

    Raises:
        BadInput: a path without a model, or a revision of something that has none.
    """
    path = packaged(model.removeprefix("pip:")) if model.startswith("pip:") else Path(model).expanduser()
    if revision is not None and (path.exists() or path.suffix == ".gguf"):
        raise BadInput("revision", came=f"{revision!r} for {model!r}, which has none", wanted="a model on the Hub")
    if path.suffix == ".gguf":
        return str(converted(path)), {}
    if path.is_dir():
        return str(path), {}
    if path.exists() or model.startswith((".", "/", "~")):
        wanted = "a Hub id, a folder, pip:PACKAGE or a .gguf file"
        raise BadInput("model", came=f"{model!r}, no folder with a model in it", wanted=wanted)
    return model, {"revision": revision} if revision else {}


# --- what transformers does ------------------------------------------------------------------------------------------


def _load(
    place: str, asked: str, dtype, allow_random_weights: bool, options: dict, placed: dict
) -> tuple[PreTrainedModel, dict]:
    """The model, and transformers' loading report of its checkpoint: missing and mismatched weights."""
    from torch.random import fork_rng
    from transformers import AutoModel

    placed = {name: value for name, value in placed.items() if value is not None}
    offload = tempfile.mkdtemp(prefix="hf-repgeo-") if "device_map" in placed else None
    if offload:  # only weights that are not safetensors need the folder; safetensors are read in place
        placed["offload_folder"] = offload
    if placed.get("device_map") == "disk":
        placed["device_map"] = {"": "disk"}
    try:
        with fork_rng(devices=[]):  # weights that the checkpoint lacks are drawn: not from the caller's generator
            network, info = AutoModel.from_pretrained(
                place,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=allow_random_weights,
                **options,
                **placed,
            )
    except RepgeoError:
        raise
    except Exception as error:  # a broken file raises whatever its reader raises
        if offload:
            shutil.rmtree(offload, ignore_errors=True)
        named = f"{asked!r} at revision {options['revision']!r}" if "revision" in options else f"{asked!r}"
        raise _refusal("model", named, error, place, "a transformers model") from error
    if offload:
        weakref.finalize(network, shutil.rmtree, offload, ignore_errors=True)
    _check_that_disk_is_read(network, placed)
    return network, info


def _check_that_disk_is_read(network: PreTrainedModel, placed: dict) -> None:
    """Refuses a model that is wholly on disk under transformers 5.0 to 5.8, which never read its weights."""
    if placed.get("device_map") == {"": "disk"} and not hasattr(network, "hf_device_map"):
        wanted = "a release of transformers that reads a whole model from disk, such as 5.24"
        modules = [name for name, _ in network.named_children()]
        places = {name: "cpu" if name == modules[0] else "disk" for name in modules}
        cure = f"Update transformers, or keep one module in memory: device_map={places}."
        raise BadInput("device_map", came="'disk'", wanted=wanted, cure=cure)


def _tokenizer(tokenizer: PreTrainedTokenizerBase | str | Path, options: dict) -> PreTrainedTokenizerBase:
    if not isinstance(tokenizer, (str, Path)):
        if not callable(tokenizer) or isinstance(tokenizer, type):
            wanted = "a tokenizer of transformers, its folder or Hub id"
            raise BadInput("tokenizer", came=f"a {type(tokenizer).__name__}", wanted=wanted)
        return tokenizer
    if not str(tokenizer).startswith((".", "/", "~")):
        tokenizer, _ = resolved_place(str(tokenizer), None)
    return found_once(
        "tokenizer", lambda: _files_and_options(tokenizer, options), lambda: _loaded_tokenizer(tokenizer, options)
    )


def _files_and_options(place: str | Path, options: dict) -> str:
    """What decides a tokenizer: its files, or its name on the Hub."""
    return f"{tokenizer_fingerprint(Path(place)) if Path(place).is_dir() else place} {options}"


def _loaded_tokenizer(tokenizer: str | Path, options: dict) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        found = AutoTokenizer.from_pretrained(str(tokenizer), **options)
    except Exception as error:
        place, cure = str(tokenizer), "Pass tokenizer= (--tokenizer): its folder or Hub id."
        raise _refusal("tokenizer", f"none beside {place!r}", error, place, "the model's tokenizer", cure) from error
    ordinary = set(found.get_vocab()) - set(found.all_special_tokens)
    if len(ordinary) < 2:  # transformers makes an empty one, without a word, of a configuration alone
        came, cure = f"none beside {str(tokenizer)!r}", "Pass tokenizer= (--tokenizer): its folder or Hub id."
        raise BadInput("tokenizer", came=came, wanted="the model's tokenizer", cure=cure)
    return found


TORN = ("deserializing header", "PytorchStreamReader", "Ran out of input", "unexpected EOF")


def _refusal(argument: str, asked: str, error: Exception, place: str, wanted: str, cure: str = "") -> BadInput:
    """One sentence for whatever transformers raised, with what the caller can do about it, if we know."""
    said = " ".join(str(error).strip().split()) or type(error).__name__
    if "trust_remote_code" in said:
        said = "its repository holds code that loading would run"
        cure = "Read that code; then pass trust_remote_code=True (--trust-remote-code)."
    elif "size mismatch" in said or "ignore_mismatched_sizes" in said:
        said = "weights of another shape than its configuration says"
        cure = "Correct config.json, or measure random weights knowingly: allow_random_weights=True."
    elif said.startswith("Target modules"):  # of a model with its head, written out as paths
        said = "its adapter names modules that the model without its head does not have"
        cure = "Load both with peft, and pass that model."
    elif any(sign in said for sign in TORN):
        cure = "One of its files is cut short or broken: save or download it again."
    elif not Path(place).is_dir() and not cure:
        cure = "Without a network only local folders, pip:PACKAGE and .gguf files can be loaded."
    elif not isinstance(error, (OSError, ValueError, ImportError)):
        said = f"{type(error).__name__}: {said}"
    said = said if len(said) <= 300 else said[:297] + "..."
    return BadInput(argument, came=f"{asked} ({said})", wanted=wanted, cure=cure)
