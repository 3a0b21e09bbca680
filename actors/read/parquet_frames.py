"""Read the rows of a Parquet file as frames, a few at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from actors.errors import ShardError
from actors.read.expansion import check_expansion
from actors.read.file_names import SeenKeys, clean_text, size_error
from actors.read.parquet_file import OpenParquet, open_parquet
from actors.read.parquet_pages import ROWS_AT_ONCE, PageWatch
from actors.read.settings import InputSettings
from actors.read.sidecars import parse_facts
from actors.records import Frame, Shard

_BATCH_BYTES = 32 * 2**20
_LEAST_ROW_BYTES = 640
"""What a row counts as, even if it is null, so that a few bytes aren't billions of frames: 100,000 rows are
always allowed, and more in a file with a hundredth of this for each."""
_LONGEST_KEY = 4096
_WIDEST_VALUE = 2**16


@dataclass(frozen=True, slots=True)
class UnreadableValue:
    """A value that Python can't represent, such as a time after the year 9999, or that isn't read."""

    kind: pa.DataType

    def __repr__(self) -> str:
        return f"a value of {_shown(str(self.kind))} that can't be read"


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns of the frames. Those in `unread` are of types that are no text, number or time."""

    image: str
    key: str | None
    camera: str | None
    captured_at: str | None
    image_fields: tuple[str, ...]
    unread: dict[str, UnreadableValue]

    def read(self) -> list[tuple[str, ...]]:
        """Return what is read, as paths: the name, and the field of a struct."""
        image: list[tuple[str, ...]] = [(self.image, field) for field in self.image_fields] or [(self.image,)]
        facts = [self.key, self.camera, self.captured_at]
        return [*image, *((name,) for name in facts if name and name not in self.unread)]


def read_parquet(file: IO[bytes], shard: Shard, settings: InputSettings) -> Iterator[Frame]:
    """Yield one frame per row, in the order of rows.

    The image column holds bytes, or a struct with a field `bytes` as in Hugging Face datasets.

    Args:
        file: Seekable file.
        shard: The shard, whose `start` and `stop` are row groups. Of the rows before its first frame, only
            the keys are read.
        settings: The names of the columns, and the limits on images.

    Raises:
        ShardError: The file is not Parquet, is damaged, would take far more memory than images do, or lacks
            rows or a configured column.
        StoreError: The store failed.
    """
    try:
        watch = PageWatch(file)
        parquet = open_parquet(watch)
        columns = _choose_columns(parquet.file.schema_arrow, settings)
        groups = range(shard.start, len(parquet.groups) if shard.stop is None else shard.stop)
        rows_of = [group.rows for group in parquet.groups]
        _check_rows(rows_of, watch.size_bytes)
        row_number = sum(rows_of[: shard.start])
        first_row = row_number + shard.first_frame
        stop_row = None if shard.stop_frame is None else row_number + shard.stop_frame
        seen = _keys_before(parquet, watch, groups, columns, row_number, shard.first_frame)
        # Row groups are read one at a time: if a batch spanned two groups, damage in the second would lose
        # rows of the first.
        for group in groups:
            if row_number + rows_of[group] <= first_row:
                row_number += rows_of[group]
                continue
            for batch in _batches(parquet, watch, group, columns.read()):
                skipped = min(max(0, first_row - row_number), batch.num_rows)
                row_number += skipped
                for row in _rows(batch.slice(skipped)):
                    if row_number == stop_row:
                        return
                    yield _to_frame(row | columns.unread, row_number, columns, seen, settings)
                    row_number += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        # Names of columns may not be UTF-8.
        raise ShardError(f"not Parquet, or damaged: {_first_line(error)}") from error


def _check_rows(rows_of: list[int], file_bytes: int) -> None:
    total = sum(rows_of)
    if min(rows_of, default=0) < 0:
        raise ShardError("damaged: a row group with a negative number of rows")
    if not total:
        raise ShardError("contains no images (a Parquet file without rows)")
    try:
        check_expansion(total * _LEAST_ROW_BYTES, file_bytes)
    except ShardError as error:
        raise ShardError(f"has {total} rows in {file_bytes} bytes, which are too many for images") from error


def _batches(
    parquet: OpenParquet, watch: PageWatch, group: int, paths: Sequence[tuple[str, ...]]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a group, at least 1 and at most 16 at once.

    Columns are given by their paths, because names may have dots. A column's dictionary has each value once,
    so a batch of rows can be many times as large as the group.
    """
    columns = [number for number, path in enumerate(parquet.paths) if path in paths]
    dictionary_bytes = watch.watch(parquet, group, columns)
    at_once = min(ROWS_AT_ONCE, max(1, _BATCH_BYTES // max(1, dictionary_bytes)))
    left = parquet.groups[group].rows
    for batch in parquet.file.reader.iter_batches(at_once, [group], columns, use_threads=False):
        left -= batch.num_rows
        yield batch
    if left:
        raise ShardError(f"damaged: row group {group} lacks {left} of the rows that the footer says it has")


def _choose_columns(schema: pa.Schema, settings: InputSettings) -> _Columns:
    names = schema.names
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ShardError(f"has more than one column {_shown(twice[0])!r}; name them apart")
    wanted = {
        "image_column": settings.image_column,
        "key_column": settings.key_column,
        "camera_column": settings.camera_column,
        "captured_at_column": settings.captured_at_column,
    }
    for setting, name in wanted.items():
        if name is not None and name not in names:
            raise ShardError(f"has no column {name!r}; set input.{setting} to one of: {_listed(names)}")
    image_type = schema.field(settings.image_column).type
    is_struct = pa.types.is_struct(image_type)
    fields = {field.name: field.type for field in image_type} if is_struct else {}
    if not _holds_bytes(fields.get("bytes") if is_struct else image_type):
        raise ShardError(
            f"column {settings.image_column!r} holds {_shown(str(image_type))}, not encoded images; "
            f"set input.image_column to one of: {_listed(names)}"
        )
    camera = settings.camera_column or ("camera" if "camera" in names else None)
    captured_at = settings.captured_at_column or ("captured_at" if "captured_at" in names else None)
    types = {name: schema.field(name).type for name in (settings.key_column, camera, captured_at) if name}
    unread = {name: UnreadableValue(kind) for name, kind in types.items() if not _is_plain(kind)}
    if settings.key_column in unread:
        kind = _shown(str(types[settings.key_column]))
        raise ShardError(
            f"column {settings.key_column!r} holds {kind}, not keys; set input.key_column to another"
        )
    return _Columns(
        image=settings.image_column,
        key=settings.key_column,
        camera=camera,
        captured_at=captured_at,
        image_fields=tuple(
            name for name, kind in fields.items() if name == "bytes" or (name == "path" and _is_plain(kind))
        ),
        unread=unread,
    )


def _holds_bytes(kind: pa.DataType | None) -> bool:
    if kind is None:
        return False
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether a value is small: a list in one row can have billions of elements in a few bytes."""
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_fixed_size_binary(kind):
        return bool(kind.byte_width <= _WIDEST_VALUE)
    if isinstance(kind, pa.BaseExtensionType):
        return _is_plain(kind.storage_type)
    return not pa.types.is_nested(kind)


def _shown(text: str) -> str:
    return clean_text(text)[:200]


def _listed(names: list[str]) -> str:
    return ", ".join(map(_shown, names[:20])) + (f" and {len(names) - 20} others" if len(names) > 20 else "")


def _keys_before(
    parquet: OpenParquet, watch: PageWatch, groups: range, columns: _Columns, row_number: int, count: int
) -> SeenKeys:
    """Return the keys of the first rows, so that a part of the rows finds duplicates of earlier parts.

    Args:
        parquet: The file.
        watch: The file that it reads from.
        groups: The row groups of the shard.
        columns: The columns of the frames.
        row_number: Number of the first row.
        count: Number of rows. Nothing is read if there are none, or if numbers of rows are the keys.
    """
    seen = SeenKeys()
    if not count or columns.key is None:
        return seen
    stop = row_number + count
    for group in groups:
        for batch in _batches(parquet, watch, group, [(columns.key,)]):
            for value in map(_value_of, batch.column(0)):
                if row_number == stop:
                    return seen
                seen.duplicate_error(_key_of(value, row_number), f"row {row_number}")
                row_number += 1
    return seen


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
    if isinstance(scalar, pa.StructScalar) and scalar.is_valid:
        return {name: _value_of(value) for name, value in scalar.items()}
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if isinstance(scalar, pa.DictionaryScalar | pa.ExtensionScalar):
            return _value_of(scalar.value)
        return scalar.as_buffer().to_pybytes().decode("utf-8", "surrogateescape")
    except (ValueError, OverflowError, KeyError):
        # An unknown time zone is a KeyError.
        return UnreadableValue(scalar.type)


def _to_frame(
    row: dict[str, Any], row_number: int, columns: _Columns, seen: SeenKeys, settings: InputSettings
) -> Frame:
    label = f"row {row_number}"
    notes = []
    value: Any = None if columns.key is None else row[columns.key]
    if columns.key is not None and _is_empty(value):
        notes.append(f"{label}: column {columns.key!r} is empty, the row's number is the key")
    elif _is_too_long(value):
        notes.append(
            f"{label}: column {columns.key!r} has {len(value)} characters, the row's number is the key"
        )
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


def _is_too_long(key: Any) -> bool:
    return isinstance(key, str | bytes) and len(key) > _LONGEST_KEY


def _key_of(value: Any, row_number: int) -> str:
    if _is_empty(value) or _is_too_long(value):
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
