"""From images and sounds to what one forward pass reads."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

import torch

from ..errors import BadInput
from .media import read_images, read_sounds
from .media_rows import Item

SECONDS = 30.0  # a longer sound is cut into pieces of this length
LEAST_SECONDS = 0.1


def image_items(model, processor, images: Any) -> Iterator[Item]:
    """One image a pass; its rows are the patches, behind CLS and register tokens where the model has them."""
    for image in read_images(images):
        inputs = _on(model, processor(images=image, return_tensors="pt"))
        yield Item(inputs, patches=_patches(model, inputs))


def image_text_items(model, processor, images: Any, texts: Iterable[str]) -> Iterator[Item]:
    """One image with its text a pass; its rows are tokens, many of which stand for parts of the image."""
    config = model.config
    token = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    for image, text in _in_pairs(read_images(images), texts):
        inputs = _on(model, processor(images=[image], text=_prompt(processor, text), return_tensors="pt"))
        yield Item(inputs, image_tokens=(inputs["input_ids"][0] == token).cpu() if token is not None else None)


def _in_pairs(images: Iterator, texts: Iterable[str]) -> Iterator[tuple[Any, str]]:
    for image, text in zip_longest(images, texts):
        if image is None or text is None:
            came = "more images than texts" if text is None else "more texts than images"
            raise BadInput("texts", came=came, wanted="one text for each image")
        yield image, text


def _prompt(processor, text: str) -> str:
    """The text behind a place for the image, by the model's chat template or its image token."""
    if getattr(processor, "chat_template", None):
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    token = getattr(processor, "boi_token", None) or getattr(processor, "image_token", None) or ""
    return text if token and token in text else f"{token}\n{text}"


def sound_items(model, extractor, sounds: Any) -> Iterator[Item]:
    """One sound, or one piece of 30 seconds, a pass; its rows are frames. Silence that fills a piece up gives none."""
    rate = extractor.sampling_rate
    for samples in read_sounds(sounds, rate):
        for start in range(0, len(samples), int(SECONDS * rate)):
            piece = samples[start : start + int(SECONDS * rate)]
            if len(piece) >= LEAST_SECONDS * rate or start == 0:
                inputs = _on(model, extractor(piece, sampling_rate=rate, return_tensors="pt"))
                yield Item(inputs, share=_real_share(extractor, inputs, len(piece)))


def _real_share(extractor, inputs: dict, samples: int) -> float:
    """Share of the frames that hold sound: Whisper's extractor fills every piece up to 30 seconds."""
    features = inputs.get("input_features")
    hop = getattr(extractor, "hop_length", None)
    if features is None or not hop:
        return 1.0
    return min(1.0, samples / (max(features.shape[1:]) * hop))


def _on(model, encoded) -> dict:
    """The tensors that the model's forward takes, on its device and, where they are fractions, in its dtype."""
    accepted = inspect.signature(model.forward).parameters
    rest = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values())
    moved = {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in dict(encoded).items()
        if torch.is_tensor(value) and (rest or name in accepted)
    }
    return moved


def _patches(model, inputs: dict) -> int | None:
    """Patches of an image: how often the patch fits into it, both ways."""
    config = getattr(model.config, "vision_config", model.config)
    size, pixels = getattr(config, "patch_size", None), inputs.get("pixel_values")
    if not isinstance(size, int) or pixels is None or pixels.ndim != 4:
        return None
    return (pixels.shape[-2] // size) * (pixels.shape[-1] // size)
