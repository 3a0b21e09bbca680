"""Find what no commit record names and no running command may need.

Nothing reads these objects, but they may show people. An object that no record names is dead, which means
that no record will ever name it, in any of these cases:

1. Its attempt has the number of its shard's record, or a lower one. Only an attempt with the next number
   replaces a record.
2. It was written before its shard's record. An attempt that may still succeed has read that record before it
   wrote anything. This also finds attempts from before a record was deleted, when the numbers started again.
3. It is so old that no attempt can still be running.

Any other object may belong to an attempt that is running now.

Claims of dead runs and logs of runs that ended long ago are leftovers too.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby

import pyarrow as pa

from actors.commit.documents import document_paths
from actors.errors import OutputError
from actors.storage import layout
from actors.storage.commit_record import CommitRecord, read_record
from actors.storage.flat_listing import list_flat, names_in
from actors.storage.map_ahead import map_ahead
from actors.storage.object_info import ObjectInfo
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from actors.storage.temporary_file import is_temporary
from actors.time_text import duration
from jobs.run.claims_left import dead_claims
from jobs.run.logs_left import KEPT_S, old_logs

DEAD_AFTER_S = 24 * 3600.0
"""Age from which an object counts as dead. An attempt writes all its objects within minutes."""

_CLOCKS_DIFFER_S = 60.0
"""Largest difference between the times that the machines of one store give to objects."""

_AT_ONCE = 5000
"""Number of suspicious objects that are examined together. It bounds the memory."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """An object that no commit record names.

    Attributes:
        kind: The folder of its table, such as persons, or previews, dry-run pictures, documents, temporary
            files, probes, claims or logs.
        info: What the listing said about it.
        dead: Whether it can be deleted. Otherwise, a running command may still need it.
        reason: Why it is dead or kept.
    """

    kind: str
    info: ObjectInfo
    dead: bool
    reason: str


class LeftoverFinder:
    """Finds the leftovers of an output.

    Args:
        store: The output.
        dead_after_s: Age in seconds from which an object that no record names counts as dead.
    """

    def __init__(self, store: ObjectStore, dead_after_s: float = DEAD_AFTER_S) -> None:
        self._store = store
        self._dead_after_s = dead_after_s
        self._now_s = time.time()

    def find_all(self) -> Iterator[Leftover]:
        """Yield every leftover. This lists all documents, and reads the persons of each shard that has some.

        Raises:
            OutputError: If a commit record can't be read by this version.
            OSError: If the store can't be read.
        """
        # Hashes take a quarter of the memory of the paths, of which there are several per shard. What is
        # suspicious is compared with the record itself, and a collision only leaves an object for later.
        named = {hash(entry.path) for record, _ in read_records(self._store) for entry in record.objects}
        yield from self._of_attempts(named, with_documents=False)
        yield from self._documents(list_flat(self._store, layout.DOCUMENTS), named)
        if self._store.is_local:
            others = (o for o in self._store.list() if o.path.partition("/")[0] not in layout.ATTEMPT_FOLDERS)
            yield from self._temporary_files(others)
        for name in names_in(self._store, ""):
            probes = list_flat(self._store, name) if layout.is_probe(f"{name}/") else ()
            yield from (self._by_age("probes", info) for info in probes)
        yield from self._claims()
        yield from self._logs()

    def find_in_listings(self, named: Container[int]) -> Iterator[Leftover]:
        """Yield the leftovers that the listings of tables and previews show, at the cost of these listings.

        Documents are looked at only for shards with leftover tables. Raises the same errors as `find_all`.

        Args:
            named: Hashes of the paths that the commit records name, possibly those of some time ago: what
                isn't among them is compared with its record.
        """
        yield from self._of_attempts(named, with_documents=True)
        if self._store.is_local:
            top = (name for name in names_in(self._store, "") if is_temporary(name))
            in_commits = list_flat(self._store, layout.COMMITS, is_temporary)
            yield from self._temporary_files(chain(self._present(top), in_commits))
        yield from self._logs()

    def _of_attempts(self, named: Container[int], with_documents: bool) -> Iterator[Leftover]:
        suspects: defaultdict[str, list[ObjectInfo]] = defaultdict(list)
        count = 0

        def is_unnamed(path: str) -> bool:
            return hash(path) not in named

        listings = (list_flat(self._store, folder, is_unnamed) for folder in layout.ATTEMPT_FOLDERS)
        for info in chain.from_iterable(listings):
            attempt = layout.attempt_of(info.path)
            if attempt is not None:
                suspects[attempt[0]].append(info)
                count += 1
            elif info.path.startswith(f"{layout.PREVIEWS}/") and info.path.endswith(".jpg"):
                dry = info.path.startswith(f"{layout.DRY_RUN}/")
                yield self._by_age("dry-run pictures" if dry else "previews", info)
            else:
                yield from self._temporary_files([info])
            if count >= _AT_ONCE:
                yield from self._examine(suspects, with_documents)
                suspects.clear()
                count = 0
        yield from self._examine(suspects, with_documents)

    def _examine(self, suspects: dict[str, list[ObjectInfo]], with_documents: bool) -> Iterator[Leftover]:
        for found in map_ahead(lambda item: self._judge(*item), suspects.items()):
            yield from found
        if with_documents:
            for shard_id in suspects:
                tar = self._present([layout.json_tar_path(shard_id)])
                folder = list_flat(self._store, layout.json_folder(shard_id))
                yield from self._documents(chain(tar, folder), set())

    def _documents(self, listed: Iterable[ObjectInfo], named: set[int]) -> Iterator[Leftover]:
        unnamed = (info for info in listed if hash(info.path) not in named)
        groups = ((s, list(g)) for s, g in groupby(unnamed, lambda o: layout.shard_of_document(o.path)))
        known = ((shard_id, infos) for shard_id, infos in groups if shard_id is not None)
        for found in map_ahead(lambda item: self._judge(*item), known):
            yield from found

    def _judge(self, shard_id: str, infos: list[ObjectInfo]) -> list[Leftover]:
        """Return the leftovers among some objects of one shard, which are all tables or all documents."""
        # The time is looked up before the record is read. If another record is published in between, the
        # objects that this one names are not taken for older than it.
        written_s = next((o.modified_s for o in self._present([layout.commit_path(shard_id)])), None)
        try:
            found = read_record(self._store, shard_id)
            record = found[0] if found is not None else None
            named = set() if record is None else self._named_by(record, infos)
        except (OutputError, pa.ArrowException) as error:
            reason = f"what belongs to its shard can't be read, see shopframe verify ({error})"
            return [Leftover(_kind(info), info, False, reason) for info in infos]
        unnamed = [info for info in infos if info.path not in named]
        return [self._judge_one(info, record, written_s) for info in unnamed]

    def _named_by(self, record: CommitRecord, infos: list[ObjectInfo]) -> set[str]:
        if layout.shard_of_document(infos[0].path) is not None:
            return document_paths(self._store, record, None)
        return {entry.path for entry in record.objects}

    def _judge_one(
        self, info: ObjectInfo, record: CommitRecord | None, record_written_s: float | None
    ) -> Leftover:
        attempt = layout.attempt_of(info.path)
        if record is not None and attempt is not None and attempt[1] <= record.attempt:
            reason = f"attempt {record.attempt} of its shard was committed instead"
            return Leftover(_kind(info), info, True, reason)
        before_s = None if record_written_s is None else record_written_s - _CLOCKS_DIFFER_S
        if record is not None and before_s is not None and (info.modified_s or before_s) < before_s:
            reason = f"attempt {record.attempt} of its shard was committed after it was written"
            return Leftover(_kind(info), info, True, reason)
        return self._by_age(_kind(info), info)

    def _present(self, paths: Iterable[str]) -> Iterator[ObjectInfo]:
        for path in paths:
            try:
                yield self._store.info(path)
            except FileNotFoundError:
                continue

    def _temporary_files(self, listed: Iterable[ObjectInfo]) -> Iterator[Leftover]:
        yield from (self._by_age("temporary files", info) for info in listed if is_temporary(info.path))

    def _claims(self) -> Iterator[Leftover]:
        for info in dead_claims(self._store, self._now_s - self._dead_after_s):
            yield Leftover("claims", info, True, "its run has stopped beating")

    def _logs(self) -> Iterator[Leftover]:
        for info in old_logs(self._store, self._now_s - KEPT_S):
            yield Leftover("logs", info, True, f"its run wrote nothing for more than {duration(KEPT_S)}")

    def _by_age(self, kind: str, info: ObjectInfo) -> Leftover:
        if info.modified_s is None:
            reason = "no record names it, but the store doesn't say how old it is"
            return Leftover(kind, info, False, reason)
        age_s = self._now_s - info.modified_s
        reason = f"no record names it, and it was written {duration(age_s)} ago"
        return Leftover(kind, info, age_s >= self._dead_after_s, reason)


def _kind(info: ObjectInfo) -> str:
    if layout.shard_of_document(info.path) is not None:
        return "documents"
    return info.path.rpartition("/")[0]
