"""Export chosen persons with their frames into a folder, for a tool."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.corrections.decision import MISSED
from actors.corrections.decision_log import read_decisions
from actors.corrections.final_values import SOURCE
from actors.corrections.matching import as_box
from actors.corrections.missed_persons import MissedPerson, missed_persons
from actors.corrections.settings import ABSTAINED
from actors.errors import ConfigError
from actors.read.settings import InputSettings
from actors.storage import layout
from actors.storage.commit_record import CommitRecord
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_some_records
from jobs.exchange.computed_columns import columns_by_values
from jobs.exchange.exported import EXPORTED, FRAMES, Exported, ExportedFrame, ExportedPerson
from jobs.exchange.frame_files import FrameFile, write_frames
from jobs.exchange.person_queries import annotators_in
from jobs.exchange.queues import QueueName
from jobs.exchange.selection import Purpose, Selection, select_persons
from jobs.exchange.tools import TOOLS
from jobs.run.run_record import read_run


@dataclass(frozen=True, slots=True)
class Export:
    """What an export has written.

    Attributes:
        exported: The frames and persons.
        chosen: Number of persons that were chosen; the others are in the same frames.
        available: Number of persons that could be chosen.
        missing: Why frames of a shard are left out, by shard.
        set_aside: Where files of an earlier export in the folder are now that somebody has saved.
        by_values: Columns of answers or final values by which persons of an audit were selected.
    """

    exported: Exported
    chosen: int
    available: int
    missing: dict[str, str]
    set_aside: list[str]
    by_values: list[str]


def export_persons(
    store: ObjectStore,
    folder: ObjectStore,
    tool: str,
    conditions: Sequence[str],
    limit: int | None,
    purpose: Purpose,
    frames_at: str | None,
    queue: QueueName = "all",
) -> Export:
    """Write the tool's files, the frames, and what was exported into a folder.

    Args:
        store: The output.
        folder: Where to write.
        tool: The tool, a key of `TOOLS`.
        conditions: Conditions on the consolidated columns, from `select_persons`.
        limit: Maximum number of persons, or None.
        purpose: How persons are chosen.
        frames_at: URL under which the tool finds the frames, by default the folder beside the projects.
        queue: The page's queue from which persons are taken, in its order.

    Raises:
        ConfigError: A condition is wrong, or the output has no consolidated table.
        OSError: The output can't be read, or the folder can't be written.
    """
    run = read_run(store)
    schema = AttributeSchema(run.section("schema", SchemaSettings))
    selection = select_persons(store, schema, conditions, limit, purpose, queue)
    frames: defaultdict[str, dict[str, list[dict[str, Any]]]] = defaultdict(dict)
    for row in selection.rows:
        frames[row["shard_id"]].setdefault(row["frame_key"], []).append(row)
    records = {record.shard_id: record for record in read_some_records(store, sorted(frames), len(frames))}
    set_aside = _set_aside(folder)
    files = write_frames(
        {shard_id: list(keys) for shard_id, keys in frames.items() if shard_id in records},
        records,
        run.section("input", InputSettings),
        store.settings,
        folder,
        FRAMES,
    )
    missed = _missed(store, frames)
    in_order = dict.fromkeys((row["shard_id"], row["frame_key"]) for row in selection.rows)
    listed = [
        _frame(rows, missed.get((shard_id, key), ()), selection, purpose, records[shard_id], schema, written)
        for shard_id, key in in_order
        if (rows := frames[shard_id][key]) and (written := files.written.get((shard_id, key))) is not None
    ]
    by_values = []
    if selection.draw is not None:
        annotators = annotators_in(selection.rows[0])
        by_values = columns_by_values(selection.draw.among, schema, annotators)
    exported = Exported(
        format=tool,
        output=store.uri,
        attributes=schema.to_json(),
        draw=selection.draw,
        frames=tuple(listed),
    )
    digests = {}
    for name, content in TOOLS[tool].files(exported, frames_at):
        folder.write(name, content)
        digests[name] = sha256(content).hexdigest()
    exported = exported.model_copy(update={"files": digests})
    exported.write(folder)
    return Export(exported, len(selection.chosen), selection.available, files.missing, set_aside, by_values)


def _set_aside(folder: ObjectStore) -> list[str]:
    """Remove an earlier export's files from a folder, since they would be compared with this export.

    Those that somebody has saved are moved to a folder of their own, whose name says when.
    """
    try:
        before = Exported.read(folder)
    except ConfigError:
        return []
    suffixes = tuple({tool.suffix for tool in TOOLS.values()})
    aside = f"earlier-{layout.new_run_id()}"
    moved = []
    for name in [info.path for info in folder.list(sub_folders=False)]:
        if name.endswith(suffixes) and name != EXPORTED:
            content = folder.read(name)
            if sha256(content).hexdigest() != before.files.get(name):
                folder.write(f"{aside}/{name}", content)
                moved.append(f"{aside}/{name}")
            folder.delete([name])
    if moved:
        folder.write(f"{aside}/{EXPORTED}", folder.read(EXPORTED))
    return moved


def _missed(
    store: ObjectStore, frames: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]]
) -> dict[tuple[str, str], list[MissedPerson]]:
    """Return the persons of chosen frames whom the detector has missed, by shard and frame key."""
    decisions = read_decisions(store)
    found: defaultdict[tuple[str, str], list[MissedPerson]] = defaultdict(list)
    for shard_id, keys in frames.items():
        boxes = {key: [as_box(row["bbox"]) for row in rows] for key, rows in keys.items()}
        for person in missed_persons(decisions.get(shard_id, ()), boxes):
            found[shard_id, person.frame_key].append(person)
    return dict(found)


def _frame(
    rows: Sequence[dict[str, Any]],
    missed: Sequence[MissedPerson],
    selection: Selection,
    purpose: Purpose,
    record: CommitRecord,
    schema: AttributeSchema,
    file: FrameFile,
) -> ExportedFrame:
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
                detection=record.detection,
                values={name: row[name] for name in schema.names},
                unanswered=tuple(
                    name for name in schema.names if row[f"{name}_{SOURCE}"] in (None, ABSTAINED)
                ),
                sampling="random" if is_drawn else "need",
                probability=probability if is_drawn else None,
            )
        )
    first = rows[0]
    frame_id = f"{first['shard_id']}/{layout.object_name(first['frame_key'])}"
    for number, person in enumerate(missed):
        listed.append(
            ExportedPerson(
                person_id=f"{frame_id}/{MISSED}-{number}",
                bbox=person.bbox,
                box=person.box,
                detection=MISSED,
                values={name: person.values.get(name) for name in schema.names},
            )
        )
    return ExportedFrame(
        file_name=file.file_name,
        size_bytes=file.size_bytes,
        shard_id=first["shard_id"],
        frame_key=first["frame_key"],
        width=first["width"],
        height=first["height"],
        persons=tuple(listed),
    )
