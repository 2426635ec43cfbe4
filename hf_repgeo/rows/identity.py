"""Fingerprints of a model and of its tokens, which decide whether an unfinished report is resumed."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..writing import write_whole
from .windows import Windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BLOCK = 2**15  # words per sum: 256 kB as 64-bit integers, which fit into a CPU's cache
BLOCKS_AT_ONCE = 512  # on an accelerator, where a launch costs more than memory
NAMES = ("_name_or_path", "_commit_hash", "transformers_version", "architectures", "dtype", "torch_dtype")
WEIGHT_FILES = (".safetensors", ".bin", ".gguf", ".pt", ".pth")


def model_fingerprint(
    model: PreTrainedModel,
    place: str | None = None,
    cache_file: Path | None = None,
    around: torch.nn.Module | None = None,
) -> str:
    """A fingerprint of every bit of a model's weights and of its configuration.

    The weights are hashed on their device: each block of 2^15 words of 32 bits gives the sum of word times a fixed
    random odd number, modulo 2^64. A change of a single word always changes the sum; any other change is missed with a
    probability of about 2^-32. Weights that were left on disk (`device_map`) are identified by the Hub's commit, or by
    the SHA-256 of the folder's files.

    Args:
        model: on any device, of any dtype, quantized or not.
        place: the folder that it was loaded from, for weights on disk.
        cache_file: keeps the files' hashes by path, size and time.
        around: a module around the model whose own weights and layout count too, such as a SentenceTransformer.

    Returns:
        str: 32 hexadecimal digits, equal on every device.

    Cost: one read of the weights; about 1 GB per second on one CPU core.

    Source: Lemire and Kaser, "Strongly universal string hashing is fast" (2014), section 3: multilinear hashing.
    """
    digest = hashlib.sha256(f"{_configuration(model)} {around or ''!r}".encode())
    left_on_disk = False
    for name, tensor in sorted(_weights(model if around is None else around).items()):
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        for part in _plain_parts(tensor):
            left_on_disk |= part.is_meta
            digest.update(b"" if part.is_meta else checksum(part))
    if left_on_disk:
        commit = getattr(model.config, "_commit_hash", None)
        folder = Path(place or model.config._name_or_path)
        digest.update((commit or _hashes(_weight_files(folder), cache_file)).encode())
    return digest.hexdigest()[:32]


def architecture(model: PreTrainedModel) -> str:
    """A fingerprint of all that decides what a model computes, but for the values of its weights: classes of its
    modules, configuration, shapes. Code that was changed in memory is not seen."""
    modules = [f"{name} {type(module)}" for name, module in model.named_modules()]
    shapes = [f"{name} {tuple(weight.shape)} {weight.dtype}" for name, weight in model.named_parameters()]
    return hashlib.sha256(f"{_configuration(model)} {modules} {shapes}".encode()).hexdigest()[:32]


def windows_fingerprint(windows: Windows) -> str:
    """A fingerprint of the tokens, which text, tokenizer, window and packing decide."""
    digest = hashlib.sha256()
    for ids in windows.ids:
        digest.update(repr(ids).encode())
    return digest.hexdigest()[:32]


def checksum(tensor: torch.Tensor) -> bytes:
    """Multilinear hash of a tensor's bits, 8 bytes per block; see `model_fingerprint`."""
    data = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    if len(data) % 4 or data.storage_offset() % 4:
        data = torch.nn.functional.pad(data, (0, -len(data) % 4)).clone()
    words = data.view(torch.int32)
    odd = _odd_numbers().to(words.device)
    whole = words[: len(words) // BLOCK * BLOCK].view(-1, BLOCK)
    rest = words[whole.numel() :]
    last = (rest * odd[: len(rest)]).sum()
    if words.device.type == "cpu":  # without an array of all products, in less time than torch takes
        return np.append(np.einsum("ij,j->i", whole.numpy(), odd.numpy()), last.numpy()).tobytes()
    sums = [(blocks * odd).sum(1) for blocks in whole.split(BLOCKS_AT_ONCE)] if len(whole) else []
    return torch.cat([*sums, last[None]]).cpu().numpy().tobytes()


@cache
def _odd_numbers() -> torch.Tensor:
    """Random odd numbers. They are units modulo 2^64: multiplied by one, no change of a single word vanishes."""
    generator = torch.Generator().manual_seed(20240)
    return torch.randint(-(2**62), 2**62, (BLOCK,), generator=generator) * 2 + 1


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """`state_dict`, as the weights lie.

    Where bitsandbytes has packed 4-bit weights for a CPU, its `state_dict` unpacks them in place and puts their scales
    in another order: from then on the model computes other numbers. Weights that it takes for unpacked it leaves alone.
    """
    states: list[Any] = [getattr(weight, "quant_state", None) for weight in model.parameters()]
    packed = [state for state in states if getattr(state, "packing_format_for_cpu", False)]
    try:
        for state in packed:
            state.packing_format_for_cpu = False
        return model.state_dict()
    finally:
        for state in packed:
            state.packing_format_for_cpu = True


def _plain_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The tensor itself, or what a tensor subclass (torchao's quantized weights) is made of."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in _plain_parts(getattr(tensor, name))]


def _configuration(model: PreTrainedModel) -> str:
    """The configuration as text, without what only names the model."""
    facts = {key: value for key, value in model.config.to_dict().items() if key not in NAMES}
    return json.dumps(facts, sort_keys=True, default=lambda value: type(value).__name__)


# --- weights on disk ------------------------------------------------------------------------------------------------


def folder_fingerprint(folder: Path) -> str:
    """A fingerprint of a saved model's files: weights, configuration, tokenizer, processor.

    Reports beside them, pages and hidden files do not count, nor do folders except the one of chat templates. Files of
    weights count by their size and time, because reading them costs as much as loading the model, whose own
    fingerprint then decides.

    Args:
        folder: of the model.

    Returns:
        str: 32 hexadecimal digits.
    """
    kept = _saved_files(folder)
    weights = sorted(file for file in kept if file.suffix in WEIGHT_FILES)
    stamps = [f"{file.name} {_size_and_time(file)}" for file in weights]
    contents = files_fingerprint(sorted(set(kept) - set(weights)))
    return hashlib.sha256(f"{stamps} {contents}".encode()).hexdigest()[:32]


def _saved_files(folder: Path) -> list[Path]:
    files = [*folder.glob("*"), *folder.glob("additional_chat_templates/*")]
    return [file for file in files if file.is_file() and not file.name.startswith((".", "profile", "README"))]


def tokenizer_fingerprint(folder: Path) -> str:
    """A fingerprint of all files of a folder that a tokenizer may be made from: all but weights and what a Trainer
    keeps of its state."""
    kept = _saved_files(folder)
    return files_fingerprint(
        sorted(file for file in kept if file.suffix not in WEIGHT_FILES and file.name != "trainer_state.json")
    )


def files_fingerprint(files: list[Path]) -> str:
    """A fingerprint of the names, contents and order of files."""
    return hashlib.sha256(_hashes(files).encode()).hexdigest()[:32]


def _weight_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.suffix in WEIGHT_FILES)


def _hashes(files: list[Path], cache_file: Path | None = None) -> str:
    """Names and SHA-256 of files, as one text."""
    known = _read(cache_file)
    keys = {file: f"{file.resolve()} {_size_and_time(file)}" for file in files}
    hashes = {key: known.get(key) or _sha256(file) for file, key in keys.items()}
    if cache_file and hashes.keys() - known.keys():
        cache_file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cache_file, json.dumps(known | hashes))
    return " ".join(f"{file.name}:{hashes[key]}" for file, key in keys.items())


def _size_and_time(file: Path) -> str:
    return f"{file.stat().st_size} {file.stat().st_mtime_ns}"


def _read(cache_file: Path | None) -> dict[str, str]:
    try:
        return dict(json.loads(cache_file.read_text())) if cache_file else {}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
