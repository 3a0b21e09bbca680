"""The decisions of an output: objects of JSON lines, each written once and never changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pydantic import ValidationError

from actors.corrections.decision import Decision
from actors.errors import OutputError
from actors.storage import layout
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore

_READERS = 32


def append(store: ObjectStore, decisions: Sequence[Decision]) -> None:
    """Add decisions to an output as one new object. No decisions add nothing.

    Raises:
        OSError: The store can't be written. None of the decisions counts.
    """
    if decisions:
        content = "".join(f"{decision.model_dump_json()}\n" for decision in decisions).encode()
        store.create(layout.new_decisions(), content)


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
