"""Read and check the ground-truth table: persons that were boxed and labelled by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from actors.attribute import Attribute
from actors.attributes import AttributeSchema
from actors.errors import InputError
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

REQUIRED_COLUMNS = ("frame_key", "bbox")
_SHARD_COLUMN = "shard_id"

_ROUNDING = 1e-3
"""How far a box may extend beyond the frame, because tools write coordinates with three to six digits."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The known persons of some frames. Rows of `frame_of`, `boxes` and `values` are the same n persons.

    Attributes:
        uri: Where the table was read from.
        frames: (shard_id, frame_key) of every frame, including those without persons. All shard ids are
            None if the table doesn't have that column.
        frame_of: int64 [n], position in `frames`.
        boxes: float64 [n, 4], x1, y1, x2, y2 as shares of the frame.
        values: For each of `attributes`, n values as string, bool or int64, null if unknown.
        attributes: Attributes of the schema with at least one known value.
        absent: Attributes of the schema without a column.
        empty: Attributes of the schema with a column that holds only nulls.
        unused: Columns of the table that are not used here.
    """

    uri: str
    frames: list[tuple[str | None, str]]
    frame_of: NDArray[np.int64]
    boxes: NDArray[np.float64]
    values: dict[str, pa.ChunkedArray]
    attributes: tuple[Attribute, ...]
    absent: tuple[str, ...]
    empty: tuple[str, ...]
    unused: tuple[str, ...]


def read_truth(uri: str, storage: StorageSettings, schema: AttributeSchema) -> Truth:
    """Read a Parquet file, or a folder of Parquet files, with one row per person.

    The columns are `frame_key`; `bbox`, a list of four numbers in 0..1, or null for a frame without persons;
    `shard_id`, which is optional; and any of the schema's attributes.

    Raises:
        InputError: If the table can't be read, lacks a column, or holds an impossible box or value.
    """
    data = _open(uri, storage)
    columns = data.schema.names
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise InputError(
            f"{uri}: no column {' and '.join(missing)}; a ground-truth table needs "
            f"{' and '.join(REQUIRED_COLUMNS)}, but this one has {', '.join(columns) or 'no columns'}"
        )
    present = [attribute for attribute in schema if attribute.name in columns]
    keys = [name for name in (_SHARD_COLUMN, *REQUIRED_COLUMNS) if name in columns]
    names = [attribute.name for attribute in present]
    try:
        table = data.to_table(columns=[*keys, *names]).combine_chunks()
    except (*STORAGE_ERRORS, pa.ArrowInvalid) as error:
        raise _unreadable(uri, error) from error
    frames, frame_of_row = _frames(uri, table)
    boxed = pc.is_valid(table["bbox"])
    persons = table.filter(boxed)
    values = {a.name: _values(uri, persons[a.name], a) for a in present}
    known = [a for a in present if values[a.name].null_count < persons.num_rows]
    return Truth(
        uri=uri,
        frames=frames,
        frame_of=frame_of_row[np.asarray(boxed.to_numpy(zero_copy_only=False), dtype=bool)],
        boxes=_boxes(uri, persons),
        values={a.name: values[a.name] for a in known},
        attributes=tuple(known),
        absent=tuple(name for name in schema.names if name not in columns),
        empty=tuple(a.name for a in present if a not in known),
        unused=tuple(name for name in columns if name not in (*keys, *names)),
    )


def _open(uri: str, storage: StorageSettings) -> ds.Dataset:
    store = ObjectStore(uri, storage)
    try:
        paths = [store.full("")]
        if store.is_folder():
            paths = [store.full(o.path) for o in store.list() if o.path.endswith(".parquet")]
            if not paths:
                raise InputError(f"{uri}: no .parquet file in this folder; pass --truth with a Parquet file")
        return ds.dataset(paths, filesystem=store.fs, format="parquet")
    except FileNotFoundError as error:
        raise InputError(f"{uri}: there is no such file; pass --truth with a Parquet file") from error
    except (*STORAGE_ERRORS, pa.ArrowInvalid) as error:
        raise _unreadable(uri, error) from error


def _unreadable(uri: str, error: Exception) -> InputError:
    if isinstance(error, pa.ArrowInvalid):
        return InputError(f"{uri}: not a readable Parquet file: {str(error).splitlines()[0]}")
    return InputError(f"{uri}: can't be read: {storage_error_text(error)}")


def _frames(uri: str, table: pa.Table) -> tuple[list[tuple[str | None, str]], NDArray[np.int64]]:
    """Return the frames in the order of their first rows, and for each row the position of its frame."""
    keys = _text(uri, table, "frame_key")
    shards: list[str] | list[None] = [None] * len(keys)
    if _SHARD_COLUMN in table.column_names and table[_SHARD_COLUMN].null_count < len(keys):
        shards = _text(uri, table, _SHARD_COLUMN)
    numbers: dict[tuple[str | None, str], int] = {}
    rows = [numbers.setdefault(frame, len(numbers)) for frame in zip(shards, keys, strict=True)]
    return list(numbers), np.array(rows, np.int64)


def _text(uri: str, table: pa.Table, name: str) -> list[str]:
    column = table[name]
    if not _is_text(column.type):
        raise InputError(f"{uri}: {name} holds {column.type}, not text; write it as in the output's tables")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InputError(f"{uri}: row {row} has no {name}; fill it in or drop the row")
    return list(column.to_pylist())


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _boxes(uri: str, persons: pa.Table) -> NDArray[np.float64]:
    column = persons["bbox"]
    if persons.num_rows == 0:
        return np.zeros((0, 4))
    try:
        column = column.cast(pa.list_(pa.float64()))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(f"{uri}: bbox holds {column.type}; it must be a list of four numbers") from error
    lengths = pc.list_value_length(column).to_numpy()
    if (lengths != 4).any():
        row = int(np.flatnonzero(lengths != 4)[0])
        raise InputError(
            f"{uri}: bbox {column[row].as_py()} of {_person(persons, row)} does not have four numbers"
        )
    boxes: NDArray[np.float64] = pc.list_flatten(column).to_numpy().reshape(-1, 4)
    inside = (boxes >= -_ROUNDING).all(1) & (boxes <= 1 + _ROUNDING).all(1)
    good = inside & (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise InputError(
            f"{uri}: bbox {boxes[row].tolist()} of {_person(persons, row)} is not [x1, y1, x2, y2] with "
            "x1 < x2, y1 < y2 and all in 0..1; divide pixels by the frame's width and height"
        )
    return boxes


def _person(persons: pa.Table, row: int) -> str:
    return f"a person in frame {persons['frame_key'][row].as_py()}"


def _values(uri: str, column: pa.ChunkedArray, attribute: Attribute) -> pa.ChunkedArray:
    """Return the column as string, bool or int64, and check that the attribute allows every value."""
    plain = _plain(column, attribute)
    if plain is None:
        raise InputError(
            f"{uri}: {attribute.name} holds {column.type}, which does not fit type {attribute.type}; "
            f"the run's schema says {attribute.prompt_line()}"
        )
    allowed = set(attribute.values)
    unknown = [value for value in pc.unique(plain).to_pylist() if value is not None and value not in allowed]
    if unknown:
        shown = ", ".join(repr(value) for value in sorted(unknown)[:3])
        raise InputError(
            f"{uri}: {attribute.name} has the unknown value {shown}; the run's schema says "
            f"{attribute.prompt_line()}"
        )
    return plain


def _plain(column: pa.ChunkedArray, attribute: Attribute) -> pa.ChunkedArray | None:
    target: Any = {"category": pa.string(), "boolean": pa.bool_(), "integer": pa.int64()}[attribute.type]
    kind = column.type
    fits = {
        "category": _is_text(kind),
        "boolean": pa.types.is_boolean(kind),
        "integer": pa.types.is_integer(kind) or pa.types.is_floating(kind),
    }
    if not fits[attribute.type] and not pa.types.is_null(kind):
        return None
    if pa.types.is_floating(kind):  # pandas turns integers into floats if some are missing
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    try:
        return column.cast(target)
    except pa.ArrowInvalid:
        return None
