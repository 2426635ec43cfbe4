"""Images and sounds, in whatever form they come, and the processor that turns them into a model's input."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import BadInput, MissingExtra

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_FILES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SOUND_FILES = (".wav", ".flac", ".ogg", ".mp3")
IMAGE_FORMS = "images: files, a folder of them, PIL images, arrays (height, width, 3), or a data set's column of images"
SOUND_FORMS = "sounds: files, a folder of them, arrays at the model's sampling rate, or a data set's column of audio"


def read_images(given: Any) -> Iterator[Image]:
    """Images in RGB, one after another.

    Args:
        given: a file, a folder, or an iterable of files, PIL images, arrays `(height, width, 3)` or `(height, width)`
            of whole numbers from 0 to 255 or of fractions from 0 to 1, `(3, height, width)` tensors, or what a
            `datasets` column of images holds, decoded or not.

    Raises:
        BadInput: no image, or something that is not an image.
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise MissingExtra("pillow", "vision", "reading images") from None
    for item in _items(given, IMAGE_FILES, "images", IMAGE_FORMS):
        try:
            yield _image(item, Image).convert("RGB")
        except (OSError, UnidentifiedImageError, TypeError, ValueError) as error:
            came = f"{_called(item)} ({str(error).splitlines()[0]})"
            raise BadInput("images", came=came, wanted=IMAGE_FORMS) from None


def _image(item: Any, pillow) -> Image:
    if isinstance(item, pillow.Image):
        return item
    if isinstance(item, Mapping):
        item = io.BytesIO(item["bytes"]) if item.get("bytes") else item["path"]
    if isinstance(item, (str, Path, io.BytesIO)):
        return pillow.open(item)
    array = np.asarray(item)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = np.moveaxis(array, 0, 2)
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError("no image of one, three or four channels")
    pixels = _bytes(array)
    return pillow.fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _bytes(array: np.ndarray) -> np.ndarray:
    """Pixels as bytes: whole numbers as they are, others times 255."""
    whole = array.dtype.kind in "iu"
    least, most = (array.min(), array.max()) if array.dtype.kind in "iufb" else (np.nan, np.nan)
    slack = 0 if whole else 1e-3  # interpolation may overshoot
    if not (-slack <= least and most <= (255 if whole else 1) + slack):  # NaN too
        raise ValueError(f"{array.dtype} from {least} to {most}: neither whole numbers to 255 nor fractions to 1")
    return (array if whole else (array * 255.0).round().clip(0, 255)).astype(np.uint8)


def read_sounds(given: Any, rate: int) -> Iterator[np.ndarray]:
    """Sounds as one channel of float32 numbers at `rate` samples per second.

    Args:
        given: a file, a folder, or an iterable of files, arrays `(samples,)` at that rate, or what a `datasets` column
            of audio holds, decoded (`array` and `sampling_rate`) or not (`bytes` or `path`). Samples are fractions from
            -1 to 1, or signed integers, which are taken as fractions of their largest.
        rate: samples per second that the model wants; sounds of another rate are low-pass filtered and resampled.

    Raises:
        BadInput: no sound, or something that is not a sound.
        MissingExtra: soundfile is not installed and a sound has to be decoded, or SciPy is not and one has another
            rate.
    """
    for item in _items(given, SOUND_FILES, "audio", SOUND_FORMS):
        try:
            samples, own_rate = _sound(item, rate)
            yield _at_rate(_one_channel(_fractions(np.asarray(samples))), own_rate, rate)
        except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
            if isinstance(error, (BadInput, MissingExtra)):
                raise
            came = f"{_called(item)} ({str(error).splitlines()[0]})"
            raise BadInput("audio", came=came, wanted=SOUND_FORMS) from None


def _sound(item: Any, rate: int) -> tuple[Any, int]:
    if isinstance(item, Mapping) and item.get("array") is not None:
        return item["array"], item["sampling_rate"]
    if isinstance(item, Mapping):
        item = io.BytesIO(item["bytes"]) if item.get("bytes") else item["path"]
    if not isinstance(item, (str, Path, io.BytesIO)):
        return item, rate
    try:
        import soundfile
    except ImportError:
        raise MissingExtra("soundfile", "audio", "decoding sound files") from None
    return soundfile.read(item if isinstance(item, io.BytesIO) else str(item), dtype="float32")


def _fractions(samples: np.ndarray) -> np.ndarray:
    """Samples as float32; whole numbers, as a sound card gives them, become fractions of the largest."""
    largest = -float(np.iinfo(samples.dtype).min) if samples.dtype.kind == "i" else 1.0
    return samples.astype(np.float32) / np.float32(largest)


def _one_channel(samples: np.ndarray) -> np.ndarray:
    if samples.ndim == 2:
        samples = samples.mean(int(np.argmin(samples.shape)))
    if samples.ndim != 1 or len(samples) < 2 or not np.isfinite(samples).all():
        raise BadInput("audio", came=f"an array of shape {samples.shape}", wanted="two or more finite samples")
    return samples


def _at_rate(samples: np.ndarray, own: int, rate: int) -> np.ndarray:
    """Low-pass filtered and resampled: tones that the lower of the two rates cannot hold would fold into others."""
    if own == rate:
        return samples
    try:
        from scipy.signal import resample_poly
    except ImportError:
        raise MissingExtra("scipy", "audio", "sounds of another sampling rate than the model's") from None
    common = math.gcd(int(own), int(rate))
    return resample_poly(samples, int(rate) // common, int(own) // common).astype(np.float32)


def _items(given: Any, endings: tuple[str, ...], argument: str, wanted: str) -> Iterator[Any]:
    """The single images or sounds of a file, a folder or an iterable."""
    if isinstance(given, (str, Path)):
        given = _files(Path(given), endings, argument, wanted)
    elif isinstance(given, Mapping) or not isinstance(given, Iterable):
        given = [given]
    elif isinstance(given, (list, tuple)):
        given = _with_files_of_folders(given, endings, argument, wanted)
    empty = True
    for item in given:
        empty = False
        yield item
    if empty:
        raise BadInput(argument, came="none", wanted=wanted)


def files_alone(given: Any, kind: str) -> list[Path] | None:
    """The files that images (`"images"`) or sounds (`"audio"`) were given as; `None` where some are in memory.

    Raises:
        BadInput: no such file or folder.
    """
    endings, wanted = {"images": (IMAGE_FILES, IMAGE_FORMS), "audio": (SOUND_FILES, SOUND_FORMS)}[kind]
    items = [given] if isinstance(given, (str, Path)) else given
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, (str, Path)) for item in items):
        return None
    return [file for item in items for file in _files(Path(item), endings, kind, wanted)]


def _with_files_of_folders(given: list | tuple, endings: tuple[str, ...], argument: str, wanted: str) -> Iterator[Any]:
    for item in given:
        if isinstance(item, (str, Path)):
            yield from _files(Path(item), endings, argument, wanted)
        else:
            yield item


def _files(path: Path, endings: tuple[str, ...], argument: str, wanted: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadInput(argument, came=f"{str(path)!r}, which does not exist", wanted=wanted)
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in endings)


def _called(item: Any) -> str:
    return repr(str(item)) if isinstance(item, (str, Path)) else f"a {type(item).__name__}"


# --- processors -----------------------------------------------------------------------------------------------------


def load_processor(place: str, kind: str, **options):
    """The processor saved with a model.

    Args:
        place: folder or Hub id.
        kind: `"images"`, `"audio"`, `"both"` for images with texts, or `"speech"` for audio with texts.

    Raises:
        BadInput: there is none.
    """
    import transformers

    names = {"images": "AutoImageProcessor", "audio": "AutoFeatureExtractor", "both": "AutoProcessor"}
    names["speech"] = names["both"]
    try:
        return getattr(transformers, names[kind]).from_pretrained(place, **options)
    except (OSError, ValueError, ImportError) as error:
        came = f"none beside {place!r} ({str(error).strip().splitlines()[0]})"
        cure = "Pass processor=, or save it into the same folder."
        raise BadInput("processor", came=came, wanted="the model's processor", cure=cure) from None
