"""Persons that the region of interest has dropped, by camera and reason."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.corrections.matching import as_box
from actors.storage.commit_record import CommitRecord
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from jobs.reporting.thumbnails import Wanted

SAMPLES = 6
"""Thumbnails shown of each reason at each camera."""
_CAMERAS_WITH_SAMPLES = 50
_REASONS_OF_FAILURE = 20
_COLUMNS = ["frame_key", "person_index", "bbox", "drop_reason"]

Group = tuple[str, str]
"""A camera ("" where frames name none) and a reason."""


@dataclass(slots=True)
class RoiDrops:
    """What the commit records, and persons tables where needed, say about dropped persons and failed shards.

    Attributes:
        counts: Number of dropped persons by camera and reason.
        samples: Some of them, by camera and reason: their shard, and what to cut.
        failed_shards: Number of failed shards and one of them by error; numbers in errors are left out.
    """

    counts: Counter[Group] = field(default_factory=Counter)
    samples: defaultdict[Group, list[tuple[str, Wanted]]] = field(default_factory=lambda: defaultdict(list))
    failed_shards: dict[str, tuple[int, str]] = field(default_factory=dict)

    def read(self, store: ObjectStore, records: Iterable[CommitRecord]) -> None:
        """Add all records. Tables are read only where the record doesn't tell the cameras, or for samples.

        Raises:
            OSError: A table can't be read.
        """

        def table_of(record: CommitRecord) -> tuple[CommitRecord, pa.Table | None]:
            is_told = self._camera_of(record) is not None
            return record, None if is_told and self._is_sampled(record) else _dropped(store, record)

        for record, dropped in map_ahead(table_of, self._with_drops(records)):
            camera = self._camera_of(record)
            if camera is not None:
                self.counts.update({(camera, reason): n for reason, n in record.counts.dropped.items()})
            if dropped is not None:
                self._add(dropped, record.shard_id, is_counted=camera is None)

    def by_camera(self) -> list[tuple[str, dict[str, int]]]:
        """Return reasons with their numbers by camera, cameras with the most drops first."""
        found: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for (camera, reason), number in sorted(self.counts.items()):
            found[camera][reason] = number
        return sorted(found.items(), key=lambda item: (-sum(item[1].values()), item[0]))

    def failures(self) -> list[tuple[str, int, str]]:
        """Return reasons of failed shards with their numbers and one of the shards, the frequent first."""
        listed = sorted(self.failed_shards.items(), key=lambda item: (-item[1][0], item[0]))
        return [(error, n, first) for error, (n, first) in listed[:_REASONS_OF_FAILURE]]

    def _with_drops(self, records: Iterable[CommitRecord]) -> Iterator[CommitRecord]:
        for record in records:
            if record.state == "failed":
                kind = re.sub(r"\d+", "#", record.error or "")
                number, first = self.failed_shards.get(kind, (0, record.shard_id))
                self.failed_shards[kind] = (number + 1, first)
            elif record.counts.dropped:
                yield record

    def _camera_of(self, record: CommitRecord) -> str | None:
        """Return the camera of all frames of a shard, or None if the record doesn't say that it is one."""
        cameras = record.counts.cameras
        if cameras is None:
            return None
        if not cameras:
            return ""
        (camera, frames), *others = cameras.items()
        return camera if not others and frames == record.counts.frames else None

    def _is_sampled(self, record: CommitRecord) -> bool:
        camera = self._camera_of(record) or ""
        return not any(self._takes((camera, reason)) for reason in record.counts.dropped)

    def _takes(self, group: Group) -> bool:
        if group in self.samples:
            return len(self.samples[group]) < SAMPLES
        cameras = {camera for camera, _ in self.samples}
        return group[0] in cameras or len(cameras) < _CAMERAS_WITH_SAMPLES

    def _add(self, dropped: pa.Table, shard_id: str, *, is_counted: bool) -> None:
        groups = dropped.group_by(["camera", "drop_reason"]).aggregate([([], "count_all")])
        for camera, reason, number in zip(*groups.to_pydict().values(), strict=True):
            group = (camera, reason)
            self.counts[group] += number if is_counted else 0
            if self._takes(group):
                same = pc.and_(pc.equal(dropped["camera"], camera), pc.equal(dropped["drop_reason"], reason))
                found = self.samples[group]
                for row in dropped.filter(same).slice(0, SAMPLES - len(found)).to_pylist():
                    name = f"{camera}-{reason}-{len(found)}"
                    wanted = Wanted(name, row["frame_key"], row["person_index"], as_box(row["bbox"]))
                    found.append((shard_id, wanted))


def _dropped(store: ObjectStore, record: CommitRecord) -> pa.Table:
    """Return the dropped persons of a shard with their cameras, which are "" where frames name none."""
    frames, persons = record.object("frames"), record.object("persons")
    if frames is None or persons is None:
        return pa.table({name: pa.array([], pa.string()) for name in (*_COLUMNS, "camera")})
    with store.open(persons.path) as stream:
        found = pq.read_table(stream, columns=[*_COLUMNS, "kept"])
    found = found.filter(pc.invert(found["kept"]))
    with store.open(frames.path) as stream:
        cameras = pq.read_table(stream, columns=["frame_key", "camera", "status"])
    # A frame whose key was used before has an error and no persons.
    cameras = cameras.filter(pc.equal(cameras["status"], "ok"))
    at = pc.index_in(found["frame_key"], value_set=cameras["frame_key"].combine_chunks())
    reasons = found["drop_reason"].cast(pa.string())
    found = found.set_column(found.schema.get_field_index("drop_reason"), "drop_reason", reasons)
    return found.append_column("camera", pc.fill_null(cameras["camera"].take(at), ""))
