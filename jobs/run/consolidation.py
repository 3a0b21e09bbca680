"""`shopframe consolidate`: two Delta Lake tables of all committed shards, of frames and of persons."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import pyarrow as pa
from deltalake import Schema
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from actors.attributes import AttributeSchema
from actors.corrections.consensus import read_consensus
from actors.corrections.decision import Decision
from actors.corrections.decision_log import decisions_digest, read_decisions
from actors.corrections.settings import ConsensusSettings
from actors.errors import PreconditionError, StoreError
from actors.fingerprint import fingerprint_of
from actors.storage import layout
from actors.storage.commit_record import CommitRecord
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import list_records, read_some_records
from actors.storage.snapshot_table import NewFile, Snapshot, SnapshotTable, check_supported
from jobs.run.consolidated_file import UnchangedRows, columns_of_file
from jobs.run.consolidated_groups import Dependencies, ShardGroup, shard_groups, with_decisions
from jobs.run.consolidated_making import DAMAGE, FileMaker, Read, ReadOf
from jobs.run.consolidated_rows import (
    FRAME_COLUMNS,
    AnswerColumns,
    FinalValues,
    answer_columns,
    frame_rows,
    person_rows,
    read_current,
)
from jobs.run.words import counted

_EXPECTED_FROM = 64
"""Number of changed shards from which the columns of all are expected."""
_ATTEMPTS = 10
_WARNINGS = 5


@dataclass(slots=True)
class Consolidated:
    """The result of `consolidate_output`.

    Attributes:
        shards: Committed shards, failed ones included.
        frames: Rows of `consolidated_frames/`.
        persons: Rows of `consolidated/`.
        files: Files of both tables.
        written: Files that were written now.
        incomplete: Maps a shard whose rows are left out to the reason: an object of its record is missing or
            damaged.
        lost: Decisions that find no person, by shard, of the shards whose rows were made now.
        weighing: How values of annotators come about.
        not_promised: A line about attributes of which `consensus.min_accuracy` withholds nothing, if any.
    """

    shards: int = 0
    frames: int = 0
    persons: int = 0
    files: int = 0
    written: int = 0
    incomplete: dict[str, str] = field(default_factory=dict)
    lost: dict[str, tuple[Decision, ...]] = field(default_factory=dict)
    weighing: str = ""
    not_promised: list[str] = field(default_factory=list)

    def warnings(self) -> list[str]:
        """Return a line about decisions that find nobody, and one for each of the first shards left out."""
        lost = sum(map(len, self.lost.values()))
        found = [f"{counted(lost, 'correction')} without a person; shopframe review lost lists them"]
        return [*found[: bool(lost)], *self.not_promised] + [
            f"{shard_id}: left out of the consolidated tables: {reason}; restore the object, or do the shard "
            "again with shopframe annotate --force"
            for shard_id, reason in itertools.islice(self.incomplete.items(), _WARNINGS)
        ]


@dataclass(frozen=True, slots=True)
class _Written:
    """Files that were written but are not committed yet, and what the new version consists of."""

    schema: Schema
    added: list[NewFile]
    kept: tuple[str, ...]
    answers: AnswerColumns = field(default_factory=AnswerColumns)


def consolidate_output(
    store: ObjectStore,
    attributes: AttributeSchema,
    consensus: ConsensusSettings,
    keep_versions_days: float,
) -> Consolidated:
    """Bring `consolidated/` and `consolidated_frames/` up to date with the commit records.

    Each is brought up to date by one transaction. A file holds the rows of about 64 shards that follow each
    other in the listing of the records. The hash of a shard's id decides whether it
    starts a new file, so a shard that is new, changed or gone changes only the file that it belongs to. Which
    files that are is told by the listing alone: a file has the etags of its records in its name, as a digest.

    Args:
        store: The output.
        attributes: The attribute schema of the last run.
        consensus: The `consensus` settings.
        keep_versions_days: Days for which the files of a replaced version are kept.

    Raises:
        OutputError: Delta Lake can't be written to this kind of store, or a record can't be read.
        StoreError: A table can't be read or written, or was changed by others again and again.
        OSError: The store can't be reached or refuses.
    """
    check_supported(store)
    again = Retrying(
        retry=retry_if_exception_type(PreconditionError),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        reraise=True,
    )
    try:
        return again(_consolidate, store, attributes, consensus, keep_versions_days)
    except PreconditionError as error:
        raise StoreError(f"{error}, {_ATTEMPTS} times; run shopframe consolidate again") from error


def has_all_decisions(store: ObjectStore) -> bool:
    """Return whether `consolidated/` was made with all decisions that the output has.

    Raises:
        StoreError: The table can't be read.
        OSError: The store can't be read.
    """
    if not any(layout.is_decisions(found.path) for found in store.list(layout.CORRECTIONS)):
        return True
    made_for = SnapshotTable(store, layout.CONSOLIDATED).made_for()
    return made_for is None or made_for.endswith(f" {decisions_digest(store)}")


def _consolidate(
    store: ObjectStore,
    attributes: AttributeSchema,
    consensus: ConsensusSettings,
    keep_versions_days: float,
) -> Consolidated:
    tables = [SnapshotTable(store, folder) for folder in (layout.CONSOLIDATED_FRAMES, layout.CONSOLIDATED)]
    # The versions are read before what the new ones are made of. Another consolidation that knows later
    # records or decisions then makes a version that this one doesn't know, so this one can't replace it.
    of_frames, of_persons = [table.read() for table in tables]
    decided_by = decisions_digest(store)
    weighing = read_consensus(store, consensus)
    final = FinalValues(attributes, weighing, read_decisions(store))
    groups = list(shard_groups(list_records(store)))
    done = Consolidated(shards=sum(len(group.records) for group in groups))
    done.weighing = weighing.in_words(attributes.names)
    done.not_promised = weighing.broken_promises(attributes.names)
    frames = _Update(store, tables[0], of_frames, groups, done, Dependencies())
    frames.write(FRAME_COLUMNS, lambda _: partial(frame_rows, store))
    done.frames = frames.finish(keep_versions_days)
    decided = [with_decisions(group, final) for group in groups]
    persons = _Update(store, tables[1], of_persons, decided, done, Dependencies.of_persons(final))
    persons.write_persons(final, decided_by)
    done.persons = persons.finish(keep_versions_days)
    return done


class _Update:
    """One table's way to the newest version.

    Args:
        store: The output.
        table: The table.
        snapshot: Its version.
        groups: The shards of each file.
        done: Is told what was written.
        depends: What the rows follow from beside the records.
    """

    def __init__(
        self,
        store: ObjectStore,
        table: SnapshotTable,
        snapshot: Snapshot,
        groups: Sequence[ShardGroup],
        done: Consolidated,
        depends: Dependencies,
    ) -> None:
        self._store = store
        self._table = table
        self._snapshot = snapshot
        self._groups = groups
        self._done = done
        self._depends = depends
        self._rows = 0
        present = snapshot.files
        self._changed = [group for group in groups if group.digest not in present]
        self._kept = {group.digest: present[group.digest] for group in groups if group.digest in present}
        self._replaced = sorted(set(present.values()) - set(self._kept.values()))

    def write_persons(self, final: FinalValues, decided_by: str) -> None:
        """Write the persons, with the union of the columns of all annotations tables.

        Which columns these are is certain only when all tables have been read, and opening them is most of
        the work. So the first shards tell what to expect, and if other shards have other columns, the files
        are written once more.

        Args:
            final: What the final values follow from.
            decided_by: The digest of all decisions.

        Raises:
            PreconditionError: Another consolidation was faster.
        """
        attributes = final.attributes
        made_for = f"{fingerprint_of(attributes.to_json())} {decided_by}"
        if self._is_current(made_for):
            self._commit(_Written(self._snapshot.schema, [], tuple(self._kept.values())), made_for)
            return
        known = self._expected_columns()
        while True:
            columns = self._with_kept(known, attributes).person_columns(attributes)
            written = self._write(columns, partial(self._person_rows, columns, final))
            if self._with_kept(written.answers, attributes).person_columns(attributes) == columns:
                self._commit(written, made_for)
                return
            known = written.answers

    def _person_rows(self, columns: pa.Schema, final: FinalValues, shard_ids: Sequence[str]) -> Read:
        return partial(person_rows, self._store, columns=columns, final=final.only(shard_ids))

    def write(self, columns: pa.Schema, read_of: ReadOf) -> None:
        """Write rows with columns that are known.

        Raises:
            PreconditionError: Another consolidation was faster.
        """
        self._commit(self._write(columns, read_of), made_for="")

    def _is_current(self, made_for: str) -> bool:
        """Return whether nothing that the rows and their columns depend on has changed."""
        unchanged = not self._changed and self._snapshot.rows.keys() == set(self._kept.values())
        return unchanged and self._snapshot.made_for == made_for

    @cached_property
    def _unchanged(self) -> UnchangedRows:
        replaced = map(self._table.path_of, self._replaced if self._changed else ())
        return UnchangedRows(self._store, replaced, self._depends.made_with)

    def _expected_columns(self) -> AnswerColumns:
        known = AnswerColumns()
        to_read: list[str] = []
        for group in self._changed:
            entries = {
                shard_id: self._unchanged.entry(shard_id, self._depends.made_of(shard_id, etag))
                for shard_id, etag in group.records
            }
            for entry in {entry.columns: entry for entry in entries.values() if entry is not None}.values():
                known.update(entry.answers())
            if len(to_read) < _EXPECTED_FROM:
                to_read += [shard_id for shard_id, entry in entries.items() if entry is None]
        for found in map_ahead(self._columns_of, read_some_records(self._store, to_read, self._done.shards)):
            known.update(found)
        return known

    def _with_kept(self, known: AnswerColumns, attributes: AttributeSchema) -> AnswerColumns:
        """Return the columns of changed shards and of those whose files are kept.

        The files are asked only if the changed shards have other columns than the snapshot.
        """
        if Schema.from_arrow(known.person_columns(attributes)) == self._snapshot.schema:
            return known
        union = AnswerColumns()
        union.update(known)
        kept = map(self._table.path_of, self._kept.values())
        for content in map_ahead(partial(columns_of_file, self._store), kept):
            union.update(content)
        return union

    def _write(self, columns: pa.Schema, read_of: ReadOf) -> _Written:
        """Write the files of changed groups, or of all groups if the columns change."""
        schema = Schema.from_arrow(columns)
        changed, kept = self._changed, self._kept
        if schema != self._snapshot.schema:
            changed, kept = list(self._groups), {}
        maker = FileMaker(
            self._store,
            self._table.folder,
            self._snapshot.version,
            columns,
            self._depends,
            read_of,
            self._unchanged,
            self._done.shards,
        )
        answers = AnswerColumns()
        added = []
        for made in maker.make(changed):
            self._done.incomplete.update(made.incomplete)
            self._done.lost.update(made.lost)
            answers.update(made.answers)
            added.append(made.file)
        return _Written(schema, added, tuple(kept.values()), answers)

    def _commit(self, new: _Written, made_for: str) -> None:
        snapshot = self._snapshot
        gone = snapshot.rows.keys() - set(new.kept)
        # A transaction without changes makes sure that files of one that was killed are leftovers.
        is_new = new.schema != snapshot.schema or made_for != (snapshot.made_for or "")
        if new.added or gone or is_new or snapshot.unfinished:
            self._table.commit(snapshot, new.schema, new.added, new.kept, made_for)
        self._done.written += len(new.added)
        self._done.files += len(new.kept) + len(new.added)
        self._rows = sum(snapshot.rows[name] for name in new.kept) + sum(file.rows for file in new.added)

    def finish(self, keep_versions_days: float) -> int:
        """Delete what is no longer needed, and return the number of the table's rows."""
        self._table.vacuum(keep_versions_days)
        return self._rows

    def _columns_of(self, record: CommitRecord) -> AnswerColumns:
        try:
            found = read_current(self._store, record, lambda newest: answer_columns(self._store, newest))
        except DAMAGE:
            found = None
        return AnswerColumns() if found is None else found[1]
