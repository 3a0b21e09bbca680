"""Answers of shards that are not committed yet, so that a killed run doesn't lose hours of answers.

They are found by their shard. Once they are filed in the index of answers, they are found by their crop too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from actors.errors import OutputError
from actors.storage import layout
from actors.storage.answer_index import AnswerIndex, KeptAnswer
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore

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
    paths: list[str] = []
    for info in store.list(layout.ANSWERS_IN_FLIGHT):
        if layout.parse_in_flight(info.path) is not None:
            paths.append(info.path)
        if len(paths) == _OBJECTS_AT_ONCE:
            _file(store, paths)
            paths = []
    _file(store, paths)


def _file(store: ObjectStore, paths: Sequence[str]) -> None:
    by_index: defaultdict[tuple[str, str], list[KeptAnswer]] = defaultdict(list)
    for path, answers in zip(paths, map_ahead(lambda path: list(_read(store, path)), paths), strict=True):
        name = layout.parse_in_flight(path)
        if name is not None:
            by_index[name.annotator, name.fingerprint] += answers
    add_answers(store, by_index.items())
    store.delete(paths)


def add_answers(store: ObjectStore, answers: Iterable[tuple[tuple[str, str], Sequence[KeptAnswer]]]) -> None:
    """Add answers to their indexes, which are named by annotator and fingerprint."""
    for (annotator, fingerprint), some in answers:
        AnswerIndex(store, annotator, fingerprint).add(some)


def _read(store: ObjectStore, path: str) -> Iterator[KeptAnswer]:
    try:
        # Other separators of lines, which splitlines would take too, may be in an answer.
        lines = store.read(path).decode().removesuffix("\n").split("\n")
    except FileNotFoundError:  # Another run has moved it to the index.
        return
    try:
        yield from map(KeptAnswer.from_json, lines)
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(
            f"{store.full(path)}: not answers of this version; delete it, and its persons are asked again"
        ) from error
