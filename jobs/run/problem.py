"""A problem that `shopframe verify` finds, and its remedy."""

from __future__ import annotations

from dataclasses import dataclass

from actors.storage import layout
from actors.storage.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in an output that is not as it should be.

    Attributes:
        shard: The shard, or None if the object belongs to no shard.
        object: Path of the object in the output; for documents it is the path of their folder or tar.
        problem: What is wrong with the object, as the end of a sentence that begins with its path.
        remedy: What the user can do about it.
    """

    shard: str | None
    object: str
    problem: str
    remedy: str


def redo(store: ObjectStore, shard_id: str) -> str:
    """Return the remedy for a shard of which something is missing or damaged."""
    return (
        f"delete {store.uri_of(layout.commit_path(shard_id))}, then run the same shopframe annotate command "
        "again: it processes this shard once more"
    )


def write_documents_again(store: ObjectStore, shard_id: str) -> str:
    """Return the remedy for a shard of which only documents are missing or damaged."""
    record = store.uri_of(layout.commit_path(shard_id))
    return (
        f'set "documents" to "due" in {record}, then run the same shopframe annotate command again: it '
        "writes the documents of this shard from its tables"
    )
