"""Export a data set: choose persons, divide their frames, read them from the input, write the format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.corrections.decision_log import read_decisions
from actors.detect.crops import CropSettings
from actors.errors import ConfigError, FrameError, ShardError, ShardUnavailableError, StoreError
from actors.read.settings import InputSettings
from actors.storage import layout
from actors.storage.commit_record import read_record
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.snapshot_table import SnapshotTable
from actors.storage.uris import absolute_uri
from jobs.dataset.crops import HuggingFaceWriter, WebDatasetWriter
from jobs.dataset.description import Contents, card, describe_attributes
from jobs.dataset.detection import CocoWriter, YoloWriter
from jobs.dataset.final_persons import FinalFrame, FinalPersons
from jobs.dataset.splits import Period, assign, empty_splits, group_of
from jobs.dataset.writer import Writer
from jobs.exchange.frame_files import frames_of
from jobs.exchange.selection import nobody
from jobs.run.run_record import read_run

CARD = "README.md"
FACTS = "dataset.json"

WRITERS: Mapping[str, type[Writer]] = {
    "yolo": YoloWriter,
    "coco": CocoWriter,
    "hf": HuggingFaceWriter,
    "webdataset": WebDatasetWriter,
}


@dataclass(slots=True)
class Exported:
    """What was exported.

    Attributes:
        facts: The content of `dataset.json`.
        empty: Splits that have a share, but no group.
        missing: Why frames are left out, by shard.
    """

    facts: dict[str, Any]
    empty: list[str]
    missing: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Shard:
    """The frames of a shard, what was made of each, by key, and why something is left out."""

    frames: list[FinalFrame]
    made: dict[str, Any] = field(default_factory=dict)
    trouble: str | None = None


def export_dataset(
    store: ObjectStore,
    to: ObjectStore,
    kind: str,
    conditions: Sequence[str],
    shares: Mapping[str, float],
    period: Period,
    seed: int,
) -> Exported:
    """Write a data set.

    Args:
        store: The output.
        to: Where to write, an empty folder.
        kind: The format, a key of `WRITERS`.
        conditions: Conditions on the consolidated columns, from `select_persons`.
        shares: The share of each split, from `parse_shares`.
        period: The period of one camera that is never divided.
        seed: Another one gives other splits.

    Raises:
        ConfigError: The folder isn't empty, a condition is wrong, nobody fits, or the output has no
            consolidated table.
        OSError: The output can't be read, or the folder can't be written.
    """
    if next(to.list(), None) is not None:
        raise ConfigError(f"--to {to.uri}: it is not empty; choose another folder")
    run = read_run(store)
    attributes = AttributeSchema(run.section("schema", SchemaSettings))
    inputs = run.section("input", InputSettings)
    crops = run.section("crops", CropSettings)
    contents = Contents()
    missing: dict[str, str] = {}
    version = SnapshotTable(store, layout.CONSOLIDATED).read().version
    with FinalPersons.of(store, attributes, conditions) as persons:
        split_of = assign(persons.groups(period), shares, seed)
        if not split_of:
            asked = f"--select {', '.join(conditions)}" if conditions else f"--output {store.uri}"
            raise ConfigError(f"{asked}: {nobody(conditions, attributes)}")
        groups = Counter(split_of.values())
        splits = tuple(name for name in shares if groups[name])
        writer = WRITERS[kind](to, attributes, crops, inputs.max_image_pixels, splits)
        annotators = persons.annotators()
        for shard in _read(store, inputs, persons, writer, split_of, period):
            for frame in shard.frames:
                if frame.frame_key in shard.made:
                    split = _split(frame, split_of, period)
                    writer.add(split, frame, shard.made[frame.frame_key])
                    contents.add(split, frame, writer.persons_of(frame))
            if shard.trouble is not None:
                missing[shard.frames[0].shard_id] = shard.trouble
    writer.finish()
    facts = {
        "format": kind,
        "sample": writer.what,
        "shopframe": metadata.version("shopframe"),
        "written_at": f"{datetime.now(UTC):%Y-%m-%d}",
        "output": absolute_uri(store.uri),
        "consolidated_version": version,
        "conditions": list(conditions),
        "split_by": period,
        "seed": seed,
        "splits": {
            name: {
                "share": share,
                "groups": groups[name],
                "frames": contents.frames[name],
                "persons": contents.persons[name],
            }
            for name, share in shares.items()
        },
        "detector": None if run.models.detector is None else run.models.detector.model_dump(),
        "annotators": annotators,
        "not_persons": contents.not_persons,
        "dropped": contents.dropped,
        "corrected_boxes": contents.corrected_boxes,
        "attributes": describe_attributes(contents, attributes),
    }
    to.write(FACTS, json.dumps(facts, ensure_ascii=False, indent=1).encode())
    # Last, so that a folder with a card is whole.
    to.write(CARD, card(facts).encode())
    return Exported(facts, empty_splits(groups, shares), missing)


def _read(
    store: ObjectStore,
    inputs: InputSettings,
    persons: FinalPersons,
    writer: Writer,
    split_of: Mapping[str, str],
    period: Period,
) -> Iterator[_Shard]:
    """Yield the shards with what the writer makes of their frames. Some shards are read at once."""

    def read(item: tuple[str, list[FinalFrame]]) -> _Shard:
        shard_id, frames = item
        found = read_record(store, shard_id)
        if found is None:
            return _Shard(frames, trouble="it is no longer committed")
        by_key = {frame.frame_key: frame for frame in frames if writer.is_wanted(frame)}
        left, made, trouble = set(by_key), {}, None
        try:
            for key, data in frames_of(found[0], left, inputs, store.settings):
                try:
                    made[key] = writer.make(_split(by_key[key], split_of, period), by_key[key], data)
                except FrameError as error:
                    trouble = f"{key}: {error}"
        except (ShardError, ShardUnavailableError, StoreError) as error:
            return _Shard(frames, made, str(error))
        if left:
            trouble = f"{found[0].input.uri} no longer contains {min(left)}"
        return _Shard(frames, made, trouble)

    yield from map_ahead(read, persons.shards(read_decisions(store)))


def _split(frame: FinalFrame, split_of: Mapping[str, str], period: Period) -> str:
    return split_of[group_of(frame.camera, frame.captured_at, frame.shard_id, period)]
