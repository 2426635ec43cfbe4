"""Turns images and sounds into the inputs of a forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from ..errors import BadInput
from .media import read_images, read_sounds
from .media_rows import Item
from .token_inputs import start_token

SECONDS = 30.0  # a longer sound is cut into pieces of this length
LEAST_SECONDS = 0.1


def image_items(model, processor, images: Any) -> Iterator[Item]:
    """One image per pass; its rows are the patches, after CLS and register tokens if the model has them."""
    for image in read_images(images):
        inputs = _on(model, processor(images=image, return_tensors="pt"))
        yield Item(inputs, patches=_patches(model, inputs))


def image_text_items(model, processor, images: Any, texts: Iterable[str]) -> Iterator[Item]:
    """One image with its text per pass; its rows are tokens, many of which represent parts of the image."""
    if getattr(processor, "tokenizer", None) is None:
        came = f"texts beside images for a {type(model).__name__} and a {type(processor).__name__}"
        wanted = "a model that reads both, such as Llava, and a processor that holds a tokenizer"
        raise BadInput("texts", came=came, wanted=wanted, cure="Leave the texts out: rows are patches.")
    for image, text in _in_pairs(read_images(images), texts, "images"):
        prompt = _prompt(processor, text, "image")
        inputs = _on(model, processor(images=[image], text=prompt, return_tensors="pt"))
        yield Item(inputs, media_tokens=_media_tokens(model, inputs, "image"))


def _media_tokens(model, inputs: dict, medium: str) -> torch.Tensor | None:
    """`(tokens,)` True where a token represents part of the image or sound; `None` if the model has no such tokens."""
    token = getattr(model.config, f"{medium}_token_id", None) or getattr(model.config, f"{medium}_token_index", None)
    return None if token is None else (inputs["input_ids"][0] == token).cpu()


def _in_pairs(media: Iterator, texts: Iterable[str], kind: str) -> Iterator[tuple[Any, str]]:
    for one, text in zip_longest(media, texts):
        if one is None or text is None:
            came = f"more {kind} than texts" if text is None else f"more texts than {kind}"
            raise BadInput("texts", came=came, wanted=f"one text for each {kind.removesuffix('s')}")
        yield one, text


def _prompt(processor, text: str, medium: str) -> str:
    """The text after a placeholder for the image or sound, by the model's chat template or the token for it."""
    if getattr(processor, "chat_template", None):
        content = [{"type": medium}, {"type": "text", "text": text}]
        return processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    names = ("boi_token", "image_token") if medium == "image" else ("audio_token",)
    token = next(filter(None, (getattr(processor, name, None) for name in names)), "")
    return text if token and token in text else f"{token}\n{text}"


def sound_items(model, extractor, sounds: Any) -> Iterator[Item]:
    """One sound, or one piece of 30 seconds, per pass; its rows are frames. Padding with silence gives no rows."""
    for samples in read_sounds(sounds, extractor.sampling_rate):
        yield from _pieces(model, extractor, samples)


def _pieces(model, extractor, samples: np.ndarray) -> Iterator[Item]:
    rate = extractor.sampling_rate
    for start in range(0, len(samples), int(SECONDS * rate)):
        piece = samples[start : start + int(SECONDS * rate)]
        if len(piece) >= LEAST_SECONDS * rate or start == 0:
            inputs = _on(model, extractor(piece, sampling_rate=rate, return_tensors="pt"))
            yield Item(inputs, share=_real_share(extractor, inputs, len(piece)))


def speech_items(model, processor, sounds: Any, texts: Iterable[str]) -> Iterator[Item]:
    """One sound with its text per pass.

    An encoder with a decoder, such as Whisper: frames in the encoder, tokens in the decoder, which reads what is said
    after its start token, as in training. A model with a token for sounds, such as Qwen2-Audio: tokens, many of which
    represent parts of the sound, and frames in its audio tower.
    """
    tokenizer, extractor = getattr(processor, "tokenizer", None), getattr(processor, "feature_extractor", None)
    among_text = getattr(model.config, "audio_token_id", None) is not None
    if not (model.config.is_encoder_decoder or among_text) or tokenizer is None or extractor is None:
        came = f"texts beside audio for a {type(model).__name__} and a {type(processor).__name__}"
        wanted = "Whisper or the like, or a model with a token for sounds, and a processor that holds a tokenizer"
        raise BadInput("texts", came=came, wanted=wanted, cure="Leave the texts out: rows are frames.")
    longest = int(SECONDS * extractor.sampling_rate)
    for samples, text in _in_pairs(read_sounds(sounds, extractor.sampling_rate), texts, "sounds"):
        if len(samples) > longest:
            came = f"{len(samples) / extractor.sampling_rate:.0f} seconds with one text"
            raise BadInput("audio", came=came, wanted=f"at most {SECONDS:.0f}", cure="Cut sound and text.")
        if among_text:
            yield _sound_among_text(model, processor, samples, text)
            continue
        [item] = _pieces(model, extractor, samples)
        ids = _behind_start(model, tokenizer(text)["input_ids"])
        item.inputs["decoder_input_ids"] = ids.to(model.device)
        item.special = torch.isin(ids[0], torch.tensor(tokenizer.all_special_ids))
        yield item


def _sound_among_text(model, processor, samples: np.ndarray, text: str) -> Item:
    extractor = processor.feature_extractor
    options: dict[str, Any] = {"sampling_rate": extractor.sampling_rate, "return_tensors": "pt"}
    inputs = _on(model, processor(text=_prompt(processor, text, "audio"), audio=samples, **options))
    share = _real_share(extractor, inputs, len(samples))
    return Item(inputs, share, media_tokens=_media_tokens(model, inputs, "audio"), medium="audio")


def _behind_start(model, ids: list[int]) -> torch.Tensor:
    """The decoder's input when it is to predict these tokens, `(1, n)`: the start token, then all but the last."""
    start = start_token(model)
    return torch.tensor([ids[:-1] if ids[0] == start and len(ids) > 1 else [start, *ids[:-1]]])


def _real_share(extractor, inputs: dict, samples: int) -> float:
    """Share of the frames that hold sound: Whisper's extractor pads every piece to 30 seconds."""
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
    """Number of patches of an image: how often the patch fits into its height times into its width."""
    config = getattr(model.config, "vision_config", model.config)
    size, pixels = getattr(config, "patch_size", None), inputs.get("pixel_values")
    if not isinstance(size, int) or pixels is None or pixels.ndim != 4:
        return None
    return (pixels.shape[-2] // size) * (pixels.shape[-1] // size)
