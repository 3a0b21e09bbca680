"""Objects of dead attempts are deleted: nobody reads them, but they may hold crops of people."""

from __future__ import annotations

from collections import defaultdict

from actors.storage import layout
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records


def sweep(store: ObjectStore) -> int:
    """Delete what killed attempts left under `frames/`, `persons/` and `annotations/`.

    Dead is what no record names and what none ever will: an attempt with a number above its record's may
    still be at work, one with that number or a lower has lost, since a record is replaced only by the
    attempt that follows it. Only shards with two objects of one kind, and failed ones, are looked at, so
    an output without debris costs its listing.

    Args:
        store: The output.

    Returns:
        How many objects were deleted.

    Raises:
        OSError: The store can't be listed, or an object can't be deleted.
    """
    suspects: defaultdict[str, set[str]] = defaultdict(set)
    # The index is kept, for whoever reads the records of this run next.
    records = read_records(store, keep_index=True)
    failed = {record.shard_id for record, _ in records if record.state == "failed"}
    for folder in layout.ATTEMPT_FOLDERS:
        seen: dict[tuple[str, str], str] = {}
        for found in store.list(folder):
            attempt = layout.attempt_of(found.path)
            if attempt is None:
                continue
            first = seen.setdefault((found.path.rpartition("/")[0], attempt[0]), found.path)
            if first != found.path or attempt[0] in failed:
                suspects[attempt[0]] |= {first, found.path}
    return sum(_delete_dead(store, shard_id, paths) for shard_id, paths in suspects.items())


def _delete_dead(store: ObjectStore, shard_id: str, paths: set[str]) -> int:
    found = read_record(store, shard_id)
    if found is None:
        return 0
    record = found[0]
    named = {entry.path for entry in record.objects}
    attempts = {path: layout.attempt_of(path) for path in paths - named}
    dead = [path for path, attempt in attempts.items() if attempt and attempt[1] <= record.attempt]
    store.delete(dead)
    return len(dead)
