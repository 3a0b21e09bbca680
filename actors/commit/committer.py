"""A block becomes a committed shard: objects first, then the record that makes them count."""

from __future__ import annotations

import base64
import hashlib
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from actors.attributes import AttributeSchema
from actors.commit.crop_retention import KeepCrops, needs_crops, persons_parquet
from actors.commit.previews import preview_of_block
from actors.errors import PreconditionError
from actors.gemini.backlog.pending_shard import ANNOTATOR, pending_shard
from actors.gemini.settings import ResolvedGemini
from actors.records import FRAMES_SCHEMA
from actors.settings_section import Section
from actors.shard_block import ShardBlock
from actors.storage import layout
from actors.storage.commit_record import (
    CommitRecord,
    CommittedObject,
    Counts,
    InputIdentity,
    new_attempt_id,
    publish,
    read_record,
)
from actors.storage.object_store import ObjectStore
from actors.storage.person_json import person_documents, to_tar
from actors.storage.tables import METERED, to_parquet

_WRITERS = 16


class OutputSettings(Section):
    """What is written, and where."""

    uri: str | None = Field(None, description="Where results go: a folder, s3://..., any fsspec URL")
    person_json: Literal["files", "tar", "off"] = Field(
        "files", description="Per-person JSON: one object each, one tar a shard, or none"
    )
    keep_crops: KeepCrops = Field(
        "until_annotated",
        description="How long crops of kept persons stay in persons/: until every enabled annotator has "
        "answered (as long as none is enabled, too), always, or never. Whoever needs one that is gone cuts "
        "it again from the input",
    )
    previews: int = Field(
        12, ge=0, description="About how many frames of a run are drawn with boxes and labels"
    )
    preview_max_side_px: int = Field(1280, ge=64, description="Longest side of a preview, in pixels")
    consolidate: bool = Field(True, description="Bring consolidated/ up to date at the end of a run")


@dataclass(frozen=True, slots=True)
class ShardSummary:
    """What the driver learns of a shard.

    `state` is that of the record that counts now; "superseded" if another attempt won, and
    "unrecorded" if not even the failure could be written, or is no reason to give up what was
    committed before (the shard is then still to do).
    """

    shard_id: str
    state: Literal["done", "failed", "superseded", "unrecorded"]
    counts: Counts = field(default_factory=Counts)
    annotators: dict[str, dict[str, int]] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Committer:
    """Writes the shards of one run.

    Attributes:
        store: The output.
        settings: What to write.
        schema: The attributes.
        fingerprints: Stage to the hash of all that its results depend on.
        gemini: Set where Gemini is enabled: whom it was not asked about is then committed as pending.
    """

    store: ObjectStore
    settings: OutputSettings
    schema: AttributeSchema
    fingerprints: dict[str, str]
    gemini: ResolvedGemini | None = None

    def commit(self, block: ShardBlock) -> ShardSummary:
        """Write the shard's objects, then its record, conditionally.

        Raises:
            OSError: The store could not be written; nothing counts and the shard is still to do.
        """
        started = time.perf_counter()
        shard_id = block.task.shard.shard_id
        previous = read_record(self.store, shard_id)
        if (previous[1] if previous else None) != block.task.record_etag:
            return self._superseded(shard_id)
        if block.keep_previous_commit:
            return ShardSummary(shard_id, "unrecorded", error=block.error)
        attempt_id = new_attempt_id(block.task.attempt)
        failed = block.error is not None
        before = previous[0] if previous else None
        if not failed and self.gemini is not None:
            self._add_pending(block, before, self.gemini)
        fingerprints = self._fingerprints(block, before)
        if failed:
            written = self._write_frames_only(block, attempt_id)
        else:
            written = self._write(block, attempt_id, before, fingerprints)
        carried = () if failed or before is None else _carried(before, block, written)
        record = CommitRecord(
            shard_id=shard_id,
            state="failed" if failed else "done",
            attempt=block.task.attempt,
            attempt_id=attempt_id,
            input=input_identity(block),
            fingerprints=fingerprints,
            counts=count(block),
            annotators={} if failed else count_outcomes(block.annotations),
            cost_usd={} if failed else sum_costs(block.annotations),
            objects=(*carried, *written),
            timings_s={**block.timings_s, "commit": round(time.perf_counter() - started, 3)},
            committed_at=datetime.now(UTC).isoformat(timespec="seconds"),
            error=block.error,
        )
        try:
            publish(self.store, record, block.task.record_etag)
        except PreconditionError:
            self.store.delete(o.path for o in written if attempt_id in o.path)
            return self._superseded(shard_id)
        if before is not None:
            self._delete_replaced(before, record)
        self._delete_stale_documents(block)
        return ShardSummary(shard_id, record.state, record.counts, record.annotators, record.error)

    def _add_pending(self, block: ShardBlock, previous: CommitRecord | None, gemini: ResolvedGemini) -> None:
        known = self._fingerprints(block, previous).get(ANNOTATOR)
        if ANNOTATOR not in block.annotations or known != gemini.fingerprint:
            block.annotations[ANNOTATOR] = pending_shard(block, None).table(self.schema, gemini)
            block.annotated.append(ANNOTATOR)

    def _write(
        self,
        block: ShardBlock,
        attempt_id: str,
        previous: CommitRecord | None,
        fingerprints: dict[str, str],
    ) -> list[CommittedObject]:
        shard_id = block.task.shard.shard_id
        objects = []
        if block.task.work == "detect":
            frames_path = layout.frames_path(shard_id, attempt_id)
            objects.append(self._put("frames", frames_path, to_parquet(block.frames)))
        with_crops = needs_crops(self.settings.keep_crops, self.fingerprints, fingerprints, block.annotations)
        persons = persons_parquet(block.persons, with_crops)
        committed = previous.object("persons") if previous and block.task.work != "detect" else None
        if committed is None or committed.sha256 != _sha256(persons):
            objects.append(self._put("persons", layout.persons_path(shard_id, attempt_id), persons))
        for name in block.annotated:
            path = layout.annotations_path(name, shard_id, attempt_id)
            objects.append(self._put(f"annotations/{name}", path, to_parquet(block.annotations[name])))
        objects.extend(self._write_documents(block))
        for frame_key, drawn in preview_of_block(block, self.schema, self.settings.preview_max_side_px):
            objects.append(self._put("preview", layout.preview_path(shard_id, frame_key), drawn))
        return objects

    def _write_frames_only(self, block: ShardBlock, attempt_id: str) -> list[CommittedObject]:
        if block.frames is None:
            return []
        path = layout.frames_path(block.task.shard.shard_id, attempt_id)
        return [self._put("frames", path, to_parquet(_all_failed(block.frames, str(block.error))))]

    def _write_documents(self, block: ShardBlock) -> list[CommittedObject]:
        if self.settings.person_json == "off":
            return []
        shard_id = block.task.shard.shard_id
        documents = person_documents(block.frames, block.persons, block.annotations, self.schema)
        if self.settings.person_json == "tar":
            return [self._put("json", layout.json_tar_path(shard_id), to_tar(documents))]
        folder = layout.json_folder(shard_id)
        entries = [(f"{folder}/{name}", content) for name, content in documents]
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(lambda entry: self.store.write(*entry), entries))
        return [_folder_object(folder, entries)]

    def _put(self, kind: str, path: str, content: bytes) -> CommittedObject:
        self.store.write(path, content)
        return CommittedObject(kind=kind, path=path, size_bytes=len(content), sha256=_sha256(content))

    def _fingerprints(self, block: ShardBlock, previous: CommitRecord | None) -> dict[str, str]:
        kept = {}
        if previous is not None and block.task.work != "detect":
            kept = previous.fingerprints
        current = {k: v for k, v in self.fingerprints.items() if k in ("detect", "person_json")}
        asked = {name: self.fingerprints[name] for name in block.annotated}
        return {**kept, **current, **asked}

    def _superseded(self, shard_id: str) -> ShardSummary:
        found = read_record(self.store, shard_id)
        if found is None:
            return ShardSummary(shard_id, "unrecorded", error="the commit record was deleted meanwhile")
        winner = found[0]
        return ShardSummary(shard_id, "superseded", winner.counts, winner.annotators, winner.error)

    def _delete_replaced(self, previous: CommitRecord, current: CommitRecord) -> None:
        kept = {o.path for o in current.objects}
        folder = layout.json_folder(current.shard_id)
        self.store.delete(o.path for o in previous.objects if o.path not in kept and o.path != folder)

    def _delete_stale_documents(self, block: ShardBlock) -> None:
        """Documents have no attempt in their names, so those of persons no longer kept are removed."""
        folder = layout.json_folder(block.task.shard.shard_id)
        current: set[str] = set()
        if self.settings.person_json == "files" and block.error is None and block.persons is not None:
            kept = block.persons.filter(block.persons["kept"]).select(["frame_key", "person_index"])
            current = {f"{folder}/{layout.person_json_name(**row)}" for row in kept.to_pylist()}
        self.store.delete([o.path for o in self.store.list(folder) if o.path not in current])


def input_identity(block: ShardBlock) -> InputIdentity:
    """What the record says of the shard's input."""
    shard = block.task.shard
    return InputIdentity(
        uri=shard.uri,
        format=shard.format,
        etag=shard.etag,
        size_bytes=shard.size_bytes,
        start=shard.start,
        stop=shard.stop,
        members=base64.b64encode(shard.members).decode(),
    )


def count(block: ShardBlock) -> Counts:
    """Count frames and persons; of a failed shard every frame counts as failed."""
    if block.frames is None:
        return Counts()
    frames = block.frames.num_rows
    if block.error is not None or block.persons is None:
        return Counts(frames=frames, frames_failed=frames)
    ok = sum(status == "ok" for status in block.frames["status"].to_pylist())
    dropped = Counter(r for r in block.persons["drop_reason"].to_pylist() if r is not None)
    return Counts(
        frames=frames,
        frames_ok=ok,
        frames_failed=frames - ok,
        detected=block.persons.num_rows,
        kept=pc.sum(block.persons["kept"]).as_py() or 0,
        dropped=dict(sorted(dropped.items())),
    )


def count_outcomes(annotations: dict[str, pa.Table]) -> dict[str, dict[str, int]]:
    """Annotator to outcome to number of persons."""
    return {
        name: dict(sorted(Counter(table["status"].to_pylist()).items()))
        for name, table in annotations.items()
    }


def sum_costs(annotations: dict[str, pa.Table]) -> dict[str, float]:
    """Annotator paid by the token to the estimated price of its answers in US dollars."""
    return {
        name: round(pc.sum(table["cost_usd"]).as_py() or 0.0, 9)
        for name, table in annotations.items()
        if name in METERED
    }


def _all_failed(frames: pa.Table, error: str) -> pa.Table:
    """A failed shard has no output, so no frame of it is ok."""
    rows = [
        row if row["status"] == "error" else {**row, "status": "error", "error": f"shard failed: {error}"}
        for row in frames.to_pylist()
    ]
    return pa.Table.from_pylist([{**row, "detected": 0, "kept": 0} for row in rows], FRAMES_SCHEMA)


def _carried(
    previous: CommitRecord, block: ShardBlock, written: Iterable[CommittedObject]
) -> tuple[CommittedObject, ...]:
    """Objects of the attempt before that are still right. Drawn labels aren't, after other answers."""
    if block.task.work == "detect":
        return ()
    replaced = {"json", *(o.kind for o in written)}
    if (set(block.annotated) - {ANNOTATOR}) & previous.annotators.keys():
        replaced.add("preview")
    return tuple(o for o in previous.objects if o.kind not in replaced)


def _folder_object(folder: str, entries: Iterable[tuple[str, bytes]]) -> CommittedObject:
    lines = sorted((path[len(folder) + 1 :], content) for path, content in entries)
    digest = "\n".join(f"{_sha256(content)}  {name}" for name, content in lines)
    return CommittedObject(
        kind="json",
        path=folder,
        size_bytes=sum(len(content) for _, content in lines),
        sha256=_sha256(digest.encode()),
        count=len(lines),
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
