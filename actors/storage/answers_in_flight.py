"""Answers of shards that are not committed yet, so that a killed run doesn't lose hours of answers.

They are found by their shard. Once they are filed in the index of answers, they are found by their crop too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from actors.errors import OutputError
from actors.storage import layout
from actors.storage.answer_index import AnswerIndex, KeptAnswer
from actors.storage.flat_listing import list_flat
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore
from actors.storage.rewriting import rewrite

IndexName = tuple[str, str]
"""Annotator and fingerprint, which name an index of answers."""

_OBJECTS_AT_ONCE = 500


def write_in_flight(
    store: ObjectStore, annotator: str, shard_id: str, fingerprint: str, answers: Sequence[KeptAnswer]
) -> None:
    """Write answers of a shard that is not committed yet.

    Raises:
        OSError: The store can't be written.
    """
    content = "".join(f"{answer.to_json()}\n" for answer in answers).encode()
    store.write(layout.new_in_flight(annotator, shard_id, fingerprint), content)


def read_in_flight(
    store: ObjectStore, annotator: str, shard_id: str, fingerprint: str
) -> dict[str, KeptAnswer]:
    """Return the answers to one question that earlier attempts at a shard have left, by crop digest.

    Raises:
        OutputError: An object does not hold answers.
        OSError: The store can't be read.
    """
    found: dict[str, KeptAnswer] = {}
    for info in store.list(layout.in_flight_folder(annotator, shard_id)):
        name = layout.parse_in_flight(info.path)
        if name is not None and fingerprint.startswith(name.fingerprint):
            found |= {answer.crop_sha256: answer for answer in _read(store, info.path)}
    return found


def file_in_flight(store: ObjectStore) -> None:
    """Move all answers in flight to the index, where a search by their crops finds them.

    This does no harm while their shards are still in progress, because annotators search both places.

    Raises:
        OutputError: An object does not hold answers.
        OSError: The store can't be read or written.
    """
    listed = (info.path for info in list_flat(store, layout.ANSWERS_IN_FLIGHT))

    def read(path: str) -> Iterator[tuple[IndexName, KeptAnswer]]:
        name = layout.parse_in_flight(path)
        if name is not None:
            yield from (((name.annotator, name.fingerprint), answer) for answer in _read(store, path))

    move_to_index(store, (path for path in listed if layout.parse_in_flight(path) is not None), read)


def move_to_index(
    store: ObjectStore,
    paths: Iterable[str],
    read: Callable[[str], Iterable[tuple[IndexName, KeptAnswer]]],
) -> None:
    """Add the answers in some objects to their indexes, and delete each object once its answers are there.

    Args:
        store: The output.
        paths: The objects.
        read: Function that returns the answers in an object, each with its index.

    Raises:
        OSError: The store can't be read or written.
    """
    remaining = iter(paths)
    while some := list(islice(remaining, _OBJECTS_AT_ONCE)):
        by_index: defaultdict[IndexName, list[KeptAnswer]] = defaultdict(list)
        for answers in map_ahead(lambda path: list(read(path)), some):
            for index, answer in answers:
                by_index[index].append(answer)
        add_answers(store, by_index)
        store.delete(some)


def add_answers(store: ObjectStore, answers: Mapping[IndexName, Sequence[KeptAnswer]]) -> None:
    """Add answers to their indexes."""
    for (annotator, fingerprint), some in answers.items():
        AnswerIndex(store, annotator, fingerprint).add(some)


def remove_in_flight(store: ObjectStore, digests: Collection[str], apply: bool) -> int:
    """Remove answers about crops from those in flight, and return how many these are.

    Args:
        store: The output.
        digests: Digests of the crops.
        apply: Whether to remove them. Otherwise, they are only counted.

    Raises:
        OutputError: An object does not hold answers.
        OSError: The store can't be read or written.
    """
    removed = 0
    for info in list_flat(store, layout.ANSWERS_IN_FLIGHT):
        if layout.parse_in_flight(info.path) is None:
            continue
        answers = list(_read(store, info.path))
        left = [answer for answer in answers if answer.crop_sha256 not in digests]
        removed += len(answers) - len(left)
        if apply and len(left) < len(answers):
            rewrite(store, info.path, "".join(f"{answer.to_json()}\n" for answer in left).encode())
    return removed


def _read(store: ObjectStore, path: str) -> Iterator[KeptAnswer]:
    try:
        # Other separators of lines, which splitlines would take too, may be in an answer.
        lines = store.read(path).decode().removesuffix("\n").split("\n")
    except FileNotFoundError:  # Another run has moved it to the index.
        return
    try:
        yield from map(KeptAnswer.from_json, lines)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise OutputError(
            f"{store.full(path)}: not answers of this version; delete it, and its persons are asked again"
        ) from error
