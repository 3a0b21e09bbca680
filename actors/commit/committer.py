"""Commit a block: write its objects, then the commit record that makes them valid."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from actors.attributes import AttributeSchema
from actors.commit.accounting import (
    ShardSummary,
    count,
    count_by_model,
    count_denied,
    count_outcomes,
    sum_costs,
)
from actors.commit.committed_shard import input_identity
from actors.commit.documents import build_documents, document_paths, settle_documents, settle_due
from actors.commit.objects import Attempt, build_objects
from actors.commit.pending import PendingAnnotator, with_pending
from actors.commit.preview_frames import PreviewFrames
from actors.commit.settings import OutputSettings
from actors.errors import PreconditionError
from actors.shard_block import ShardBlock
from actors.storage.commit_record import (
    CommitRecord,
    CommittedObject,
    new_attempt_id,
    publish,
    read_record,
)
from actors.storage.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class Committer:
    """Commits the shards of one run.

    Attributes:
        store: The output.
        settings: The `output` settings.
        schema: The attributes.
        fingerprints: Fingerprints by stage: hashes of everything that the stage's results depend on.
        pending: Enabled annotators that answer after the commit.
        preview_frames: Reads frames again whose previews get new labels. Without it, previews whose labels
            no longer hold are deleted.
    """

    store: ObjectStore
    settings: OutputSettings
    schema: AttributeSchema
    fingerprints: dict[str, str]
    pending: tuple[PendingAnnotator, ...] = ()
    preview_frames: PreviewFrames | None = None

    def commit(self, block: ShardBlock) -> ShardSummary:
        """Write the shard's objects, then its commit record with a conditional write.

        Args:
            block: A block that is complete, or has a fault of its input.

        Raises:
            OSError: The store can't be written. Nothing is committed, and the shard must be processed again.
        """
        started = time.perf_counter()
        shard_id = block.task.shard.shard_id
        previous, etag = read_record(self.store, shard_id) or (None, None)
        if (previous.attempt_id if previous else None) != block.task.replaces:
            if previous is not None and etag is not None:
                # It may be an earlier try of this run, whose worker died before it had written them.
                settle_due(self.store, self.schema, previous, etag)
            return self._winner(shard_id)
        if previous is not None and etag is not None and self._settle(block, previous, etag):
            return self._winner(shard_id)
        attempt = self._attempt(block, previous)
        objects = build_objects(attempt, self.settings, self.schema, self.fingerprints)
        documents = build_documents(attempt.block, self.settings.person_json, self.schema)
        stale = self._previous_documents(attempt) - documents.paths
        self.store.write_many((new.entry.path, new.content) for new in objects)
        entries = [new.entry for new in objects] + ([documents.entry] if documents.entry else [])
        is_due = bool(documents.files or stale)
        record = self._record(attempt, entries, is_due, time.perf_counter() - started)
        try:
            etag = publish(self.store, record, etag)
        except PreconditionError:
            self.store.delete(new.entry.path for new in objects)
            return self._winner(shard_id)
        if is_due:
            settle_documents(self.store, self.schema, record, etag, documents, stale)
        self._tidy_up(attempt, record)
        return ShardSummary.of_record(record)

    def _settle(self, block: ShardBlock, previous: CommitRecord, etag: str) -> bool:
        """Write the documents that a dead worker owes, and return whether the shard needs nothing else.

        The record says which documents these are, so its attempt stays. If this version would write others,
        nothing is done here.
        """
        stage = "person_json"
        is_same = previous.fingerprints.get(stage) == self.fingerprints.get(stage)
        if block.task.work != "write" or previous.documents != "due" or not is_same:
            return False
        documents = build_documents(block, self.settings.person_json, self.schema)
        if documents.entry != previous.object("json"):
            return False
        stale = document_paths(self.store, previous, block.persons) - documents.paths
        settle_documents(self.store, self.schema, previous, etag, documents, stale)
        return True

    def _attempt(self, block: ShardBlock, previous: CommitRecord | None) -> Attempt:
        """Return what to commit: the block with pending rows for annotators that answer after the commit."""
        if block.error is None:
            known = self._fingerprints(block, previous)
            for annotator in self.pending:
                asked = self.fingerprints[annotator.name]
                block = with_pending(block, annotator, self.schema, known, asked)
            if (
                previous is not None
                and block.task.work != "detect"
                and block.annotated
                and self.preview_frames
            ):
                block = replace(block, previews=self.preview_frames.read(block, previous))
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

    def _previous_documents(self, attempt: Attempt) -> set[str]:
        """Return the paths of the previous record's documents. Only detection changes who is a person."""
        known = attempt.block.persons if attempt.block.task.work != "detect" else None
        return document_paths(self.store, attempt.previous, known)

    def _record(
        self, attempt: Attempt, written: Sequence[CommittedObject], is_due: bool, commit_s: float
    ) -> CommitRecord:
        block = attempt.block
        failed = block.error is not None
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
            models={} if failed else count_by_model(block.annotations),
            cost_usd={} if failed else sum_costs(block.annotations),
            denied={} if failed else count_denied(block),
            objects=(*carried, *written),
            documents="due" if is_due else "written",
            timings_s={**block.timings_s, "commit": round(commit_s, 3)},
            committed_at=datetime.now(UTC).isoformat(timespec="seconds"),
            error=block.error,
        )

    def _carried(self, attempt: Attempt, written: Iterable[CommittedObject]) -> tuple[CommittedObject, ...]:
        """Return the entries of the previous record that are still valid.

        After new answers the previews aren't, because their labels show the old ones: they are drawn anew, or
        are gone if their frames can't be read again.
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
        """Delete the objects that the new record no longer names."""
        if attempt.previous is not None:
            kept = {entry.path for entry in record.objects}
            before = (entry for entry in attempt.previous.objects if entry.kind != "json")
            self.store.delete(entry.path for entry in before if entry.path not in kept)

    def _winner(self, shard_id: str) -> ShardSummary:
        """Return the summary of the attempt that committed first.

        It may be an earlier try of this run, whose worker died after the commit.
        """
        found = read_record(self.store, shard_id)
        if found is None:
            return ShardSummary(shard_id, "postponed", error="its commit record was deleted; run again")
        return ShardSummary.of_record(found[0])
