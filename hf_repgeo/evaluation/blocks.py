"""Rows of a `datasets` data set in blocks, without ever holding all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import datasets
import numpy as np
import pyarrow as pa

from ..errors import BadInput

BLOCK_ROWS = 4096
Table = datasets.Dataset | datasets.IterableDataset


def is_dataset(data: object) -> bool:
    """Whether `row_blocks` takes it: a data set, or the lazy column `dataset["embedding"]` of one."""
    return isinstance(data, Table) or isinstance(getattr(data, "source", None), Table)


def row_blocks(data, column: str | None = None, rows: int = BLOCK_ROWS) -> Iterator[np.ndarray]:
    """Blocks `(at most rows, hidden_size)` of a column of vectors, in order, in the column's own precision.

    Args:
        data: a `datasets.Dataset` or `IterableDataset`, also one that streams, or its column `dataset["embedding"]`.
        column: name of the column; default: the only one that holds vectors of numbers.
        rows: rows a block.

    Returns:
        Iterator of numpy arrays; of a `Dataset` without copying where Arrow's memory allows.

    Raises:
        BadInput: no such column, several or none to choose from, or vectors of different lengths.

    Cost: memory for one block.

    Example:
        >>> import datasets
        >>> from hf_repgeo.evaluation.blocks import row_blocks
        >>> data = datasets.Dataset.from_dict({"id": [0, 1, 2], "embedding": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})
        >>> [block.tolist() for block in row_blocks(data, rows=2)]
        [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]]
    """
    table, column = (data, column) if isinstance(data, Table) else (data.source, data.column_name)
    column = _column(table, column)
    if _format(table) == "custom":  # the user's transform makes the rows, and may need every column
        return (np.asarray(block[column]) for block in table.iter(batch_size=rows))
    blocks = table.select_columns([column]).with_format("arrow").iter(batch_size=rows)
    return (_matrix(block.column(column), column) for block in blocks)


def _column(table: Table, column: str | None) -> str:
    features = table.features or {}
    if column is not None and (column in features or not features):
        return column
    found = [name for name, feature in features.items() if _holds_vectors(feature)]
    if column is None and len(found) == 1:
        return found[0]
    came = f"column {column!r} of" if column else f"{len(found)} columns of vectors in"
    cure = "Name one: dataset['embedding']."
    raise BadInput("representations", came=f"{came} {sorted(features)}", wanted="one column of vectors", cure=cure)


def _holds_vectors(feature) -> bool:
    kind = datasets.Features({"_": feature}).arrow_schema.field("_").type
    if not isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
        return False
    return pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)


def _format(table: Table) -> str | None:
    return table.format["type"] if isinstance(table, datasets.Dataset) else None


def _matrix(chunks: pa.ChunkedArray, column: str) -> np.ndarray:
    """A column of equally long lists as one array `(n, hidden_size)`."""
    lists = _joined(chunks.chunks, chunks.type)
    values = lists.flatten()
    width = len(values) // max(len(lists), 1)
    lengths = lists.value_lengths()
    if lists.null_count or values.null_count or any(length != width for length in lengths.unique().to_pylist()):
        wanted = "vectors of one length, none missing"
        raise BadInput("representations", came=f"column {column!r} with vectors of different lengths", wanted=wanted)
    return values.to_numpy(zero_copy_only=False).reshape(len(lists), width)  # (n, hidden_size)


def _joined(arrays: Iterable[pa.Array], kind: pa.DataType) -> pa.Array:
    arrays = [array.storage if isinstance(array, pa.ExtensionArray) else array for array in arrays]
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays) if arrays else pa.array([], kind)
