"""Delete what no commit record names and no running command may need."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import replace

from actors.storage import layout
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from jobs.run.leftovers import Leftover, LeftoverFinder

_DELETED_AT_ONCE = 200


def sweep(store: ObjectStore, named: Container[int]) -> int:
    """Delete the leftovers that listings show. Each run does this at its end.

    Args:
        store: The output.
        named: Hashes of the paths that the commit records name, possibly those of some time ago.

    Returns:
        Number of objects that were deleted.

    Raises:
        OSError: If the store can't be listed, or an object can't be deleted.
    """
    leftovers = LeftoverFinder(store).find_in_listings(named)
    return sum(leftover.dead for leftover in delete_dead(store, leftovers))


def delete_dead(store: ObjectStore, leftovers: Iterable[Leftover]) -> Iterator[Leftover]:
    """Delete the leftovers that are dead, some hundred at a time, and yield all of them.

    Raises:
        OSError: If an object can't be deleted.
    """
    waiting: list[Leftover] = []
    for leftover in leftovers:
        waiting.append(leftover)
        if len(waiting) == _DELETED_AT_ONCE:
            yield from _delete(store, waiting)
            waiting.clear()
    yield from _delete(store, waiting)


def _delete(store: ObjectStore, leftovers: list[Leftover]) -> list[Leftover]:
    checked = list(map_ahead(lambda leftover: _as_it_is_now(store, leftover), leftovers))
    store.delete([leftover.info.path for leftover in checked if leftover.dead])
    return checked


def _as_it_is_now(store: ObjectStore, leftover: Leftover) -> Leftover:
    """Return the leftover, or one that is kept if its object was written again since it was found.

    Only an object whose name contains no attempt can be written again: a running command may just have made
    it count.
    """
    if not leftover.dead or layout.attempt_of(leftover.info.path) is not None:
        return leftover
    try:
        now = store.info(leftover.info.path)
    except FileNotFoundError:
        return leftover
    # A listing on S3 and a single look-up differ in the fractions of a second that they give.
    if int(now.modified_s or 0) == int(leftover.info.modified_s or 0):
        return leftover
    return replace(leftover, dead=False, reason="it was written again while this command ran")
