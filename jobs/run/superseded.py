"""Remove the shards whose input has been committed again as other shards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from actors.storage import layout
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from jobs.run.cut_shards import CutShards
from jobs.run.run_log import log


def remove_superseded(output: ObjectStore, superseded: Mapping[str, tuple[str, ...]]) -> int:
    """Remove superseded shards that have been replaced completely, and return how many these are.

    The others stay until a later run has committed the rest of their input.

    Args:
        output: The output.
        superseded: Ids of the shards that replace a shard, by its id.

    Raises:
        OSError: The store can't be read or written.
    """
    if not superseded:
        return 0
    committed = set()
    parts = CutShards()
    for record, _ in read_records(output):
        committed.add(record.shard_id)
        parts.add(record)
    replaced = [
        old
        for old, new in superseded.items()
        if committed.issuperset(new) and all(map(parts.is_complete, new))
    ]
    _remove(output, replaced)
    log.info("superseded shards", extra={"removed": len(replaced), "kept": len(superseded) - len(replaced)})
    return len(replaced)


def _remove(output: ObjectStore, shard_ids: Iterable[str]) -> None:
    for shard_id in shard_ids:
        found = read_record(output, shard_id)
        if found is None:
            continue
        # The record goes first, so that readers never see one without its objects.
        output.delete([layout.commit_path(shard_id)])
        output.delete(entry.path for entry in found[0].objects if entry.path != layout.json_folder(shard_id))
        output.delete([entry.path for entry in output.list(layout.json_folder(shard_id))])
