"""Read the rows of a Parquet file as frames, a few at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from actors.errors import ShardError
from actors.read.expansion import check_expansion
from actors.read.file_names import SeenKeys, clean_text, size_error
from actors.read.settings import InputSettings
from actors.read.sidecars import parse_facts
from actors.records import Frame, Shard
from actors.storage.store_file import StoreFile

_ROWS_AT_ONCE = 16
_KEYS_AT_ONCE = 4096
_BUFFER_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class _Columns:
    image: str
    key: str | None
    camera: str | None
    captured_at: str | None

    def names(self) -> list[str]:
        chosen = [self.image, self.key, self.camera, self.captured_at]
        return list(dict.fromkeys(name for name in chosen if name is not None))


def read_parquet(file: IO[bytes], shard: Shard, settings: InputSettings) -> Iterator[Frame]:
    """Yield one frame per row, in the order of rows.

    The image column holds bytes, or a struct with a field `bytes` as in Hugging Face datasets.

    Args:
        file: Seekable file.
        shard: The shard, whose `start` and `stop` are row groups. Of the rows before its first frame, only
            the keys are read.
        settings: The names of the columns, and the limits on images.

    Raises:
        ShardError: The file is not Parquet, is damaged, or lacks rows or a configured column.
        StoreError: The store failed.
    """
    try:
        parquet = pq.ParquetFile(StoreFile(file), pre_buffer=False, buffer_size=_BUFFER_BYTES)
        columns = _choose_columns(parquet.schema_arrow, settings)
        groups = range(shard.start, parquet.num_row_groups if shard.stop is None else shard.stop)
        if not parquet.metadata.num_rows:
            raise ShardError("contains no images (a Parquet file without rows)")
        row_number = sum(parquet.metadata.row_group(g).num_rows for g in range(shard.start))
        first_row = row_number + shard.first_frame
        stop_row = None if shard.stop_frame is None else row_number + shard.stop_frame
        seen = _keys_before(parquet, groups, columns, row_number, shard.first_frame, settings)
        # Row groups are read one at a time: if a batch spanned two groups, damage in the second would lose
        # rows of the first.
        for group in groups:
            rows = parquet.metadata.row_group(group).num_rows
            if row_number + rows <= first_row:
                row_number += rows
                continue
            at_once = _rows_at_once(parquet.metadata.row_group(group), columns, settings)
            for batch in parquet.iter_batches(at_once, [group], columns.names(), use_threads=False):
                skipped = min(max(0, first_row - row_number), batch.num_rows)
                row_number += skipped
                for row in _rows(batch.slice(skipped)):
                    if row_number == stop_row:
                        return
                    yield _to_frame(row, row_number, columns, seen, settings)
                    row_number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # Names of columns may not be UTF-8.
        raise ShardError(f"not Parquet, or damaged: {_first_line(error)}") from error


def _choose_columns(schema: pa.Schema, settings: InputSettings) -> _Columns:
    names = schema.names
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ShardError(f"has more than one column {twice[0]!r}; name them apart")
    wanted = {
        "image_column": settings.image_column,
        "key_column": settings.key_column,
        "camera_column": settings.camera_column,
        "captured_at_column": settings.captured_at_column,
    }
    for setting, name in wanted.items():
        if name is not None and name not in names:
            raise ShardError(f"has no column {name!r}; set input.{setting} to one of: {', '.join(names)}")
    image_type = schema.field(settings.image_column).type
    if not _holds_bytes(image_type):
        raise ShardError(
            f"column {settings.image_column!r} holds {image_type}, not encoded images; "
            f"set input.image_column to one of: {', '.join(names)}"
        )
    return _Columns(
        image=settings.image_column,
        key=settings.key_column,
        camera=settings.camera_column or ("camera" if "camera" in names else None),
        captured_at=settings.captured_at_column or ("captured_at" if "captured_at" in names else None),
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _keys_before(
    parquet: pq.ParquetFile,
    groups: range,
    columns: _Columns,
    row_number: int,
    count: int,
    settings: InputSettings,
) -> SeenKeys:
    """Return the keys of the first rows, so that a part of the rows finds duplicates of earlier parts.

    Args:
        parquet: The file.
        groups: The row groups of the shard.
        columns: The columns of the frames.
        row_number: Number of the first row.
        count: Number of rows. Nothing is read if there are none, or if numbers of rows are the keys.
        settings: The limits on images.
    """
    seen = SeenKeys()
    if not count or columns.key is None:
        return seen
    stop = row_number + count
    for group in groups:
        at_once = _rows_at_once(parquet.metadata.row_group(group), columns, settings, _KEYS_AT_ONCE)
        for batch in parquet.iter_batches(at_once, [group], [columns.key], use_threads=False):
            for value in map(_value_of, batch.column(0)):
                if row_number == stop:
                    return seen
                seen.duplicate_error(_key_of(value, row_number), f"row {row_number}")
                row_number += 1
    return seen


def _rows_at_once(group: Any, columns: _Columns, settings: InputSettings, most: int = _ROWS_AT_ONCE) -> int:
    """Return how many rows of a group to read at once, at least 1 and at most `most`.

    A column's dictionary has each value once, so a batch of rows can be many times as large as the group.

    Raises:
        ShardError: The group is much larger than the file that has it.
    """
    names = columns.names()
    at_once = most
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema.partition(".")[0] not in names:
            continue
        check_expansion(chunk.total_uncompressed_size, chunk.total_compressed_size)
        if chunk.has_dictionary_page:
            limit = _ROWS_AT_ONCE * settings.max_image_bytes
            at_once = min(at_once, max(1, limit // max(1, chunk.total_uncompressed_size)))
    return at_once


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A value that Python can't represent, such as a time after the year 9999."""

    kind: pa.DataType

    def __repr__(self) -> str:
        return f"a value of {self.kind} that is out of range"


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    for index, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type):
            # Nanoseconds would become pandas timestamps; microseconds become datetime objects.
            column = batch.column(index).cast(pa.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(index, field.name, column)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for row in range(batch.num_rows):
        yield {name: _value_of(column[row]) for name, column in columns.items()}


def _value_of(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
    except (ValueError, OverflowError, KeyError):
        # An unknown time zone is a KeyError.
        return _Unreadable(scalar.type)


def _to_frame(
    row: dict[str, Any], row_number: int, columns: _Columns, seen: SeenKeys, settings: InputSettings
) -> Frame:
    label = f"row {row_number}"
    notes = []
    value = None if columns.key is None else row[columns.key]
    if columns.key is not None and _is_empty(value):
        notes.append(f"{label}: column {columns.key!r} is empty, the row's number is the key")
    key = _key_of(value, row_number)
    facts = parse_facts(
        row[columns.camera] if columns.camera else None,
        row[columns.captured_at] if columns.captured_at else None,
        label,
        settings.timezone,
    )
    if facts.note:
        notes.append(facts.note)
    data, error = _image_of(row[columns.image])
    duplicate = seen.duplicate_error(key, label)
    if data is not None:
        error = duplicate or size_error(len(data), settings.max_image_bytes)
    return Frame(
        key,
        None if error else data,
        camera=facts.camera,
        captured_at=facts.captured_at,
        error=duplicate or error,
        note="; ".join(notes) or None,
        name=key,
    )


def _is_empty(key: Any) -> bool:
    return key is None or key == ""


def _key_of(value: Any, row_number: int) -> str:
    if _is_empty(value):
        return f"{row_number:09d}"
    return clean_text(value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value))


def _image_of(value: Any) -> tuple[bytes | None, str | None]:
    if isinstance(value, dict):
        path = value.get("path")
        value = value["bytes"]
        if value is None and path:
            return None, f"the row has no image bytes, only a path ({clean_text(str(path))[:200]})"
    if value is None:
        return None, "the row has no image (null)"
    return value, None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
