"""The decisions of an output: objects of JSON lines. Only an erasure ever changes one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from pydantic import ValidationError

from actors.corrections.decision import Decision
from actors.errors import OutputError
from actors.fingerprint import fingerprint_of
from actors.storage import layout
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.rewriting import rewrite

_READERS = 32


def append(store: ObjectStore, decisions: Sequence[Decision]) -> None:
    """Add decisions to an output as one new object. No decisions add nothing.

    Raises:
        OSError: The store can't be written. None of the decisions counts.
    """
    if decisions:
        store.create(layout.new_decisions(), _lines(decisions))


def read_decisions(store: ObjectStore) -> dict[str, list[Decision]]:
    """Return all decisions by shard, in the order of the objects' names, which is about that of time.

    Raises:
        OutputError: A line is not a decision of this version.
        OSError: The store can't be read.
    """
    found: defaultdict[str, list[Decision]] = defaultdict(list)
    paths = [info.path for info in store.list(layout.CORRECTIONS) if layout.is_decisions(info.path)]
    for decisions in map_ahead(lambda path: list(_read(store, path)), paths, _READERS):
        for decision in decisions:
            found[decision.shard_id].append(decision)
    return dict(found)


def decisions_digest(store: ObjectStore) -> str:
    """Return a digest of the objects with decisions, which changes with every decision.

    Raises:
        OSError: The store can't be read.
    """
    listed = [f"{o.path} {o.etag}" for o in store.list(layout.CORRECTIONS) if layout.is_decisions(o.path)]
    return fingerprint_of(sorted(listed))


def remove_decisions(store: ObjectStore, is_gone: Callable[[Decision], bool], apply: bool) -> int:
    """Remove decisions about erased persons, and return how many these are. No other command removes any.

    Args:
        store: The output.
        is_gone: Returns whether a decision is about an erased person.
        apply: Whether to remove them. Otherwise, they are only counted.

    Raises:
        OutputError: A line is not a decision of this version.
        OSError: The store can't be read or written.
    """
    removed = 0
    for info in store.list(layout.CORRECTIONS):
        if not layout.is_decisions(info.path):
            continue
        decisions = list(_read(store, info.path))
        left = [decision for decision in decisions if not is_gone(decision)]
        removed += len(decisions) - len(left)
        if apply and len(left) < len(decisions):
            rewrite(store, info.path, _lines(left))
    return removed


def _lines(decisions: Sequence[Decision]) -> bytes:
    return "".join(f"{decision.model_dump_json()}\n" for decision in decisions).encode()


def _read(store: ObjectStore, path: str) -> Iterator[Decision]:
    for number, line in enumerate(store.read(path).splitlines(), start=1):
        try:
            yield Decision.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = ".".join(map(str, problem["loc"])) or "decision"
            raise OutputError(
                f"{store.full(path)}, line {number}: {field}: {problem['msg']}; it is not a decision of this "
                "version: restore the object, or move it away"
            ) from None
