"""Documents of `datasets` data sets: in memory, streamed, or by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import BadInput, RepgeoError
from .corpus import Chat, Corpus, checked
from .records import READ_LIMIT, documents_of

if TYPE_CHECKING:
    import datasets

MEDIA = ("Image", "Audio", "Video", "Pdf")  # features of datasets that decode a file for every row


def read_dataset(name: str, column: str | None = None, clean: str = "none", limit: int = READ_LIMIT) -> Corpus:
    """Documents of a `datasets` data set, one per row. It is streamed: only the rows that are read are downloaded.

    Args:
        name: `"NAME[:config][:split]"`, from the Hub or a local folder; the split defaults to `train`.
        column: the column of texts or of chat messages; default: `text`, else the only column of texts, else the one
            of messages.
        clean: as in `read_text`, applied to each row.
        limit: at most this many rows are read, from the start.

    Raises:
        BadInput: the data set cannot be loaded, or the column holds no text.
        UnknownName: a column that does not exist.
    """
    import datasets

    place, _, rest = name.partition(":")
    parts = rest.split(":") if rest else []
    config, split = (parts[0], parts[1]) if len(parts) == 2 else (None, parts[0] if parts else "train")
    try:
        if os.path.isfile(os.path.join(place, "state.json")):  # written by save_to_disk
            data = datasets.load_from_disk(place)
        else:
            data = datasets.load_dataset(place, config, split=split, streaming=True)
        documents, column = _documents(data, column, clean, limit, repr(name))
    except RepgeoError:
        raise
    except Exception as error:  # whatever the Hub, the network or a builder raises
        cure = "Without a network, pass a local folder or use --text FILE."
        came = f"{name!r} ({type(error).__name__}: {error})"
        raise BadInput("dataset", came=came, wanted="a data set", cure=cure) from error
    source = {"name": place, "config": config, "split": split, "column": column, "clean": clean, "limit": limit}
    return checked(documents, source, "dataset")


def corpus_of_dataset(
    data: datasets.Dataset | datasets.IterableDataset, column: str | None, clean: str, limit: int = READ_LIMIT
) -> Corpus:
    """Documents of a data set that the caller has, one per row; at most `limit` rows, from the start."""
    documents, column = _documents(data, column, clean, limit, "the data set")
    info = data.info
    source = {
        "name": info.dataset_name or "data set in memory",
        "config": info.config_name,
        "split": str(data.split) if data.split else None,
        "column": column,
        "clean": clean,
        "limit": limit,
    }
    return checked(documents, source, "texts")


def _documents(data, column: str | None, clean: str, limit: int, where: str) -> tuple[list[str | Chat], str | None]:
    """Documents of the first rows; columns of pictures and sound are left out before anything decodes them."""
    if column is not None and column in (data.column_names or []):
        data = data.select_columns([column])
    heavy = [name for name, feature in (data.features or {}).items() if type(feature).__name__ in MEDIA]
    light = data.remove_columns(heavy) if heavy else data
    count = min(limit, len(light)) if hasattr(light, "__len__") else limit  # datasets 4.0 refuses to take more
    return documents_of(light.take(count), column, clean, where)
