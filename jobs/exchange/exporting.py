"""Export chosen persons with their frames into a folder, for a tool."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.corrections.matching import as_box
from actors.read.settings import InputSettings
from actors.storage import layout
from actors.storage.commit_record import CommitRecord
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_some_records
from actors.storage.settings import StorageSettings
from jobs.exchange import via
from jobs.exchange.exported import FRAMES, Exported, ExportedFrame, ExportedPerson
from jobs.exchange.frame_files import write_frames
from jobs.exchange.selection import Purpose, Selection, select_persons
from jobs.run.run_record import read_run

WRITERS: Mapping[str, Callable[[Exported, str | None], Iterator[tuple[str, bytes]]]] = {"via": via.projects}
"""By tool, the function that yields the names and contents of its files."""


@dataclass(frozen=True, slots=True)
class Export:
    """What an export has written.

    Attributes:
        exported: The frames and persons.
        chosen: Number of persons that were chosen; the others are in the same frames.
        available: Number of persons that could be chosen.
        files: Names of the tool's files.
        missing: Why frames of a shard are left out, by shard.
    """

    exported: Exported
    chosen: int
    available: int
    files: tuple[str, ...]
    missing: dict[str, str]


def export_persons(
    store: ObjectStore,
    folder: ObjectStore,
    tool: str,
    conditions: Sequence[str],
    limit: int | None,
    purpose: Purpose,
    frames_at: str | None,
) -> Export:
    """Write the tool's files, the frames, and what was exported into a folder.

    Args:
        store: The output.
        folder: Where to write.
        tool: The tool, a key of `WRITERS`.
        conditions: Conditions on the consolidated columns, from `select_persons`.
        limit: Maximum number of persons, or None.
        purpose: How persons are chosen.
        frames_at: URL under which the tool finds the frames, by default the folder beside the projects.

    Raises:
        ConfigError: A condition is wrong, or the output has no consolidated table.
        OSError: The output can't be read, or the folder can't be written.
    """
    run = read_run(store)
    selection = select_persons(store, conditions, limit, purpose)
    frames: defaultdict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for row in selection.rows:
        frames[row["shard_id"]].setdefault(row["frame_key"], []).append(row)
    records = {record.shard_id: record for record in read_some_records(store, sorted(frames), len(frames))}
    files = write_frames(
        {shard_id: list(keys) for shard_id, keys in frames.items() if shard_id in records},
        records,
        run.section("input", InputSettings),
        run.section("storage", StorageSettings),
        folder,
        FRAMES,
    )
    schema = AttributeSchema(run.section("schema", SchemaSettings))
    listed = [
        _frame(rows, selection, purpose, records[shard_id], schema, written.file_name, written.size_bytes)
        for shard_id, keys in frames.items()
        for key, rows in keys.items()
        if (written := files.written.get((shard_id, key))) is not None
    ]
    exported = Exported(format=tool, output=store.uri, attributes=schema.to_json(), frames=tuple(listed))
    names = []
    for name, content in WRITERS[tool](exported, frames_at):
        folder.write(name, content)
        names.append(name)
    exported.write(folder)
    return Export(exported, len(selection.chosen), selection.available, tuple(names), files.missing)


def _frame(
    rows: Sequence[dict[str, Any]],
    selection: Selection,
    purpose: Purpose,
    record: CommitRecord,
    schema: AttributeSchema,
    file_name: str,
    size_bytes: int,
) -> ExportedFrame:
    persons = record.object("persons")
    detection = (layout.detection_of(persons.path) if persons is not None else None) or record.attempt_id
    probability = len(selection.chosen) / selection.available
    listed = []
    for row in rows:
        key = (row["shard_id"], row["frame_key"], row["person_index"])
        is_drawn = purpose == "audit" and key in selection.chosen
        bbox = as_box(row["bbox"])
        listed.append(
            ExportedPerson(
                person_id=f"{row['shard_id']}/{layout.object_name(row['frame_key'])}/{row['person_index']}",
                bbox=bbox,
                box=bbox if row["corrected_bbox"] is None else as_box(row["corrected_bbox"]),
                detection=detection,
                values={name: row[name] for name in schema.names},
                sampling="random" if is_drawn else "need",
                probability=probability if is_drawn else None,
            )
        )
    first = rows[0]
    return ExportedFrame(
        file_name=file_name,
        size_bytes=size_bytes,
        shard_id=first["shard_id"],
        frame_key=first["frame_key"],
        width=first["width"],
        height=first["height"],
        persons=tuple(listed),
    )
