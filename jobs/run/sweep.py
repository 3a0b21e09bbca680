"""Delete the objects of dead attempts. Nothing reads them, but they may hold crops of people."""

from __future__ import annotations

from collections import defaultdict

from actors.storage import layout
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records


def sweep(store: ObjectStore) -> int:
    """Delete the objects that killed attempts left under `frames/`, `persons/` and `annotations/`.

    An object is dead if no commit record names it and none ever will. An attempt with a higher number than
    its shard's record may still be running. An attempt with the same or a lower number has lost, because a
    record is replaced only by the attempt that follows it. Only failed shards and shards with two objects of
    one kind are examined, so an output without leftovers costs only its listing.

    Args:
        store: The output.

    Returns:
        Number of objects that were deleted.

    Raises:
        OSError: If the store can't be listed, or an object can't be deleted.
    """
    suspects: defaultdict[str, set[str]] = defaultdict(set)
    # The index is kept because the records of this run are read again.
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
