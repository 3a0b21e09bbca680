"""Commit a block: write its objects, then the commit record that makes them valid."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from actors.attributes import AttributeSchema
from actors.commit.accounting import ShardSummary, count, count_outcomes, sum_costs
from actors.commit.committed_shard import input_identity
from actors.commit.objects import Attempt, NewObject, build_objects, document_paths
from actors.commit.pending import PendingAnnotator, with_pending
from actors.commit.settings import OutputSettings
from actors.errors import PreconditionError
from actors.shard_block import ShardBlock
from actors.storage import layout
from actors.storage.commit_record import (
    CommitRecord,
    CommittedObject,
    new_attempt_id,
    publish,
    read_record,
)
from actors.storage.object_store import ObjectStore

_WRITERS = 16


@dataclass(frozen=True, slots=True)
class Committer:
    """Commits the shards of one run.

    Attributes:
        store: The output.
        settings: The `output` settings.
        schema: The attributes.
        fingerprints: Fingerprints by stage: hashes of everything that the stage's results depend on.
        pending: Enabled annotators that answer after the commit.
    """

    store: ObjectStore
    settings: OutputSettings
    schema: AttributeSchema
    fingerprints: dict[str, str]
    pending: tuple[PendingAnnotator, ...] = ()

    def commit(self, block: ShardBlock) -> ShardSummary:
        """Write the shard's objects, then its commit record with a conditional write.

        Args:
            block: A block that is complete, or has a fault of its input.

        Raises:
            OSError: The store can't be written. Nothing is committed, and the shard must be processed again.
        """
        started = time.perf_counter()
        shard_id = block.task.shard.shard_id
        previous = read_record(self.store, shard_id)
        if (previous[1] if previous else None) != block.task.record_etag:
            return self._winner(shard_id)
        attempt = self._attempt(block, previous[0] if previous else None)
        objects = build_objects(attempt, self.settings, self.schema, self.fingerprints)
        self._write(objects)
        record = self._record(attempt, objects, time.perf_counter() - started)
        try:
            publish(self.store, record, block.task.record_etag)
        except PreconditionError:
            self.store.delete(o.entry.path for o in objects if attempt.attempt_id in o.entry.path)
            return self._winner(shard_id)
        self._tidy_up(attempt, record)
        return ShardSummary.of_record(record)

    def _attempt(self, block: ShardBlock, previous: CommitRecord | None) -> Attempt:
        """Return what to commit: the block with pending rows for annotators that answer after the commit."""
        if block.error is None:
            known = self._fingerprints(block, previous)
            for annotator in self.pending:
                asked = self.fingerprints[annotator.name]
                block = with_pending(block, annotator, self.schema, known, asked)
        return Attempt(
            block=block,
            attempt_id=new_attempt_id(block.task.attempt),
            fingerprints=self._fingerprints(block, previous),
            previous=previous,
        )

    def _fingerprints(self, block: ShardBlock, previous: CommitRecord | None) -> dict[str, str]:
        """Return the fingerprints of the new record: those of the stages that ran, and the previous ones."""
        ran = {"person_json", *block.annotated}
        kept = {}
        if previous is None or block.task.work == "detect":
            ran.add("detect")
        else:
            kept = previous.fingerprints
        return {**kept, **{stage: self.fingerprints[stage] for stage in ran if stage in self.fingerprints}}

    def _write(self, objects: Iterable[NewObject]) -> None:
        files = [file for new in objects for file in new.files]
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(lambda file: self.store.write(*file), files))

    def _record(self, attempt: Attempt, objects: Iterable[NewObject], commit_s: float) -> CommitRecord:
        block = attempt.block
        failed = block.error is not None
        written = [new.entry for new in objects]
        carried = () if failed else self._carried(attempt, written)
        source = input_identity(block.task.shard)
        if attempt.previous is not None and block.task.work != "detect":
            # Only detection reads the input. Other work must not claim a version that no attempt has seen.
            source = attempt.previous.input
        return CommitRecord(
            shard_id=block.task.shard.shard_id,
            state="failed" if failed else "done",
            attempt=block.task.attempt,
            attempt_id=attempt.attempt_id,
            input=source,
            fingerprints=attempt.fingerprints,
            counts=count(block),
            annotators={} if failed else count_outcomes(block.annotations),
            cost_usd={} if failed else sum_costs(block.annotations),
            objects=(*carried, *written),
            timings_s={**block.timings_s, "commit": round(commit_s, 3)},
            committed_at=datetime.now(UTC).isoformat(timespec="seconds"),
            error=block.error,
        )

    def _carried(self, attempt: Attempt, written: Iterable[CommittedObject]) -> tuple[CommittedObject, ...]:
        """Return the entries of the previous record that are still valid.

        After new answers the previews aren't, because their labels show the old ones.
        """
        previous, block = attempt.previous, attempt.block
        if previous is None or block.task.work == "detect":
            return ()
        replaced = {"json", *(entry.kind for entry in written)}
        drawn = set(block.annotated) - {annotator.name for annotator in self.pending}
        if drawn & previous.annotators.keys():
            replaced.add("preview")
        return tuple(entry for entry in previous.objects if entry.kind not in replaced)

    def _tidy_up(self, attempt: Attempt, record: CommitRecord) -> None:
        """Delete the objects that the new record no longer names.

        JSON documents have no attempt in their names, so documents of persons that are no longer kept are
        found by listing the shard's folder.
        """
        folder = layout.json_folder(record.shard_id)
        if attempt.previous is not None:
            kept = {entry.path for entry in record.objects} | {folder}
            self.store.delete(entry.path for entry in attempt.previous.objects if entry.path not in kept)
        current = document_paths(attempt.block, self.settings)
        self.store.delete([o.path for o in self.store.list(folder) if o.path not in current])

    def _winner(self, shard_id: str) -> ShardSummary:
        """Return the summary of the attempt that committed first.

        It may be an earlier try of this run, whose worker died after the commit.
        """
        found = read_record(self.store, shard_id)
        if found is None:
            return ShardSummary(shard_id, "postponed", error="its commit record was deleted; run again")
        return ShardSummary.of_record(found[0])
