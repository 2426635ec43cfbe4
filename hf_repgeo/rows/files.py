"""Sources of plain rows: files of embeddings, columns of data sets, and streams of either."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import BadInput, RepgeoError, UnknownName

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

BLOCK_ROWS = 4096


def is_dataset(data: object) -> bool:
    """Whether `row_blocks` takes `data`: a data set, or the lazy column `dataset["embedding"]` of one."""
    return isinstance(data, FILES) or is_table(data) or is_table(getattr(data, "source", None))


def is_table(data: object) -> bool:
    """Whether it is a `datasets` data set."""
    datasets = sys.modules.get("datasets")  # a data set cannot come from a library that was never imported
    return datasets is not None and isinstance(data, (datasets.Dataset, datasets.IterableDataset))


def row_blocks(data, column: str | None = None, rows: int = BLOCK_ROWS) -> Iterator[np.ndarray | torch.Tensor]:
    """Blocks `(at most rows, hidden_size)` of a column of vectors, in order, in the column's own precision.

    Args:
        data: a `datasets.Dataset` or `IterableDataset`, or its column `dataset["embedding"]`; or what `read_rows`
            returned.
        column: name of the column; default: the only one that holds vectors of numbers.
        rows: rows per block.

    Returns:
        Iterator of numpy arrays, which share Arrow's memory where possible; for a `.safetensors` file, of tensors.

    Raises:
        BadInput: no such column, several or none to choose from, or vectors of different lengths.

    Cost: memory for one block.

    Example:
        >>> import datasets
        >>> from hf_repgeo.rows.files import row_blocks
        >>> data = datasets.Dataset.from_dict({"id": [0, 1, 2], "embedding": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})
        >>> [block.tolist() for block in row_blocks(data, rows=2)]
        [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]]
    """
    if isinstance(data, FILES):
        return data.blocks(rows)
    table, column = (data, column) if is_table(data) else (data.source, data.column_name)
    column = _column(table, column)
    if _format(table) == "custom":  # the user's transform makes the rows, and may need every column
        return (np.asarray(block[column]) for block in table.iter(batch_size=rows))
    blocks = table.select_columns([column]).with_format("arrow").iter(batch_size=rows)
    return (_matrix(block.column(column), column) for block in blocks)


def _column(table: datasets.Dataset | datasets.IterableDataset, column: str | None) -> str:
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
    import datasets

    return _is_vectors(datasets.Features({"_": feature}).arrow_schema.field("_").type)


def _is_vectors(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if not isinstance(kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)):
        return False
    return pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)


def _format(table: datasets.Dataset | datasets.IterableDataset) -> str | None:
    return table.format["type"] if hasattr(table, "format") else None


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
    import pyarrow as pa

    arrays = [array.storage if isinstance(array, pa.ExtensionArray) else array for array in arrays]
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays) if arrays else pa.array([], kind)


# --- files ----------------------------------------------------------------------------------------------------------


def read_rows(path: str | Path, column: str | None = None) -> FileRows | np.ndarray:
    """Rows of a file: `.npy`, `.safetensors` or Parquet, each read block by block. Nothing is unpickled.

    Args:
        path: the file.
        column: the tensor of a `.safetensors` file, or the column of vectors of a Parquet file; default: the only one.

    Raises:
        BadInput: no such file, another kind of file, or no such matrix in it.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path, str | None], FileRows | np.ndarray]]
    readers = {".npy": _read_npy, ".safetensors": _read_safetensors, ".parquet": _read_parquet}
    if not path.is_file() or path.suffix not in readers:
        wanted = "a .npy, .safetensors or .parquet file"
        raise BadInput("file", came=f"{str(path)!r}{'' if path.is_file() else ', which is not a file'}", wanted=wanted)
    return readers[path.suffix](path, column)


def _read_npy(path: Path, column: str | None) -> NpyRows | np.ndarray:
    array = _mapped(path)
    return NpyRows(path, len(array)) if array.ndim == 2 else array


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python: a broken one raises whatever its parser raises
        said = f"{type(error).__name__}: {error}"[:200]
        raise BadInput("file", came=f"{path.name!r} ({said})", wanted="an array of numbers") from None


@dataclass(frozen=True)
class NpyRows:
    """The matrix in a `.npy` file, read block by block."""

    path: Path
    n: int

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Blocks `(at most rows, hidden_size)`; the file is mapped again for each, to free the memory of the last."""
        return (np.array(_mapped(self.path)[start : start + rows]) for start in range(0, self.n, rows))


def _read_safetensors(path: Path, column: str | None) -> SafetensorsRows:
    with _opened(path) as file:
        names = list(file.keys())
        if column is None and len(names) == 1:
            column = names[0]
        if column is None or column not in names:
            raise UnknownName("tensor", column, names)
        shape = file.get_slice(column).get_shape()
    if len(shape) != 2:
        came = f"{path.name!r} with a tensor of shape {tuple(shape)}"
        raise BadInput("file", came=came, wanted="a matrix (n_samples, hidden_size)")
    return SafetensorsRows(path, column, shape[0])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        if isinstance(error, RepgeoError):
            raise
        raise BadInput("file", came=f"{path.name!r} ({error})", wanted="a safetensors file") from None


@dataclass(frozen=True)
class SafetensorsRows:
    """A matrix in a `.safetensors` file, read block by block."""

    path: Path
    name: str
    n: int

    def blocks(self, rows: int) -> Iterator[torch.Tensor]:
        """Blocks `(at most rows, hidden_size)`; the file is opened again for each, to free the memory of the last."""
        for start in range(0, self.n, rows):
            with _opened(self.path) as file:
                yield file.get_slice(self.name)[start : start + rows]


def _read_parquet(path: Path, column: str | None) -> ParquetRows:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise BadInput("file", came=f"{path.name!r} ({error})", wanted="a Parquet file") from None
    if column is not None and column not in schema.names:
        raise UnknownName("column", column, schema.names)
    vectors = [name for name in schema.names if _is_vectors(schema.field(name).type)]
    found = [column] if column in vectors or (column is None and len(vectors) == 1) else []
    if not found:
        came = f"{path.name!r} with {len(vectors)} columns of vectors ({', '.join(vectors)})"
        came = came if column is None else f"column {column!r} of {path.name!r}, {schema.field(column).type}"
        raise BadInput("file", came=came, wanted="one column of vectors", cure="Name it with column= (--column).")
    return ParquetRows(path, column or vectors[0])


@dataclass(frozen=True)
class ParquetRows:
    """A column of vectors in a Parquet file, read block by block."""

    path: Path
    column: str

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Blocks `(at most rows, hidden_size)`; memory for one row group's column."""
        import pyarrow as pa
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(self.path, pre_buffer=False) as file:
                for batch in file.iter_batches(rows, columns=[self.column]):
                    yield _matrix(pa.chunked_array([batch.column(0)]), self.column)
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            came = f"{self.path.name!r} ({str(error).splitlines()[0]})"
            raise BadInput("file", came=came, wanted="a Parquet file") from None


FILES = (NpyRows, SafetensorsRows, ParquetRows)
FileRows = NpyRows | SafetensorsRows | ParquetRows
