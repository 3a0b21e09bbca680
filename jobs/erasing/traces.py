"""Remove what is kept about persons outside of the objects of their shard."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from actors.boxes import SAME_PERSON_IOU, box_ious
from actors.commit.committed_shard import shard_from_record
from actors.corrections.decision import MISSED, Box, Decision
from actors.corrections.decision_log import remove_decisions
from actors.corrections.matching import match_boxes
from actors.erasure.left_out import place_of
from actors.gemini.answer_journal import remove_from_journal
from actors.gemini.batch_records import remove_from_batches
from actors.gemini.egress_log import remove_from_egress
from actors.storage import layout
from actors.storage.answer_index import remove_answers
from actors.storage.answers_in_flight import remove_in_flight
from actors.storage.object_store import ObjectStore
from actors.storage.rewriting import rewrite
from jobs.erasing.selection import ChosenShard

EVALUATION_FILES = "files of evaluation/"
ANALYSIS_FILES = "files of analysis/"
REPORT_FILES = "files of the report"
_BETWEEN_WORDS = re.compile(rb"[\s\"'\\,;:()\[\]{}]+")


def erase_traces(store: ObjectStore, chosen: Sequence[ChosenShard], apply: bool) -> Counter[str]:
    """Remove answers, corrections, log entries and pictures of persons, and return their numbers by kind.

    Args:
        store: The output.
        chosen: The persons by shard.
        apply: Whether to remove them. Otherwise, they are only counted.

    Raises:
        OutputError: An object can't be read by this version.
        OSError: The store can't be read or written.
    """
    digests = {p.crop_sha256 for shard in chosen for p in shard.persons if p.crop_sha256 is not None}
    keys = {key for shard in chosen for key in shard.person_keys()}
    ids = {name for shard in chosen for name in shard.person_ids()}
    about = _DecisionsAbout(chosen)
    found: Counter[str] = Counter()
    # Answers move from the journal and from those in flight to the index, never back.
    found["answers of Gemini that are not committed"] = remove_from_journal(store, digests, apply)
    found["answers of shards in progress"] = remove_in_flight(store, digests, apply)
    found["answers in the index"] = remove_answers(store, digests, apply)
    found["persons in batch jobs"] = remove_from_batches(store, keys, digests, apply)
    found["persons in the record of what was sent"] = remove_from_egress(store, keys, digests, apply)
    found["corrections"] = remove_decisions(store, about.is_one, apply)
    found["dry-run pictures"] = _delete(store, _dry_run_pictures(store, chosen), apply)
    if keys or digests:
        found["lines of logs"] = _erase_log_lines(store, keys | ids | digests, apply)
        # They name single persons that were wrong, and count persons that are gone.
        found[EVALUATION_FILES] = _delete(store, _paths(store, layout.EVALUATION), apply)
        found[ANALYSIS_FILES] = _delete(store, _paths(store, layout.ANALYSIS), apply)
        found[REPORT_FILES] = _delete(store, _report(store), apply)
    return found


def _delete(store: ObjectStore, paths: Iterable[str], apply: bool) -> int:
    found = list(paths)
    if apply:
        store.delete(found)
    return len(found)


def _paths(store: ObjectStore, folder: str) -> Iterator[str]:
    return (info.path for info in store.list(folder))


def _report(store: ObjectStore) -> Iterator[str]:
    if store.exists(layout.REPORT):
        yield layout.REPORT
    yield from filter(layout.is_report_picture, _paths(store, layout.report_pictures(layout.REPORT)))


def _dry_run_pictures(store: ObjectStore, chosen: Sequence[ChosenShard]) -> Iterator[str]:
    names = {layout.dry_run_path(shard.record.shard_id, key) for shard in chosen for key in shard.frames}
    return (path for path in _paths(store, layout.DRY_RUN) if path in names)


def _erase_log_lines(store: ObjectStore, names: set[str], apply: bool) -> int:
    wanted = {name.encode("utf-8", "surrogateescape") for name in names}
    # A line is compared word by word, because there may be millions of lines and thousands of names.
    with_spaces = [name for name in wanted if _BETWEEN_WORDS.search(name)]
    removed = 0
    logs = [path for path in (layout.LOG, layout.EARLIER_LOG) if store.exists(path)]
    for path in (*logs, *_paths(store, layout.LOGS)):
        lines = store.read(path).splitlines(keepends=True)
        left = [
            line
            for line in lines
            if wanted.isdisjoint(_BETWEEN_WORDS.split(line)) and not any(name in line for name in with_spaces)
        ]
        removed += len(lines) - len(left)
        if apply and len(left) < len(lines):
            rewrite(store, path, b"".join(left))
    return removed


class _DecisionsAbout:
    """Tells which decisions are about persons that are erased."""

    def __init__(self, chosen: Sequence[ChosenShard]) -> None:
        self._chosen: dict[tuple[str, str], ChosenShard] = {}
        for shard in chosen:
            for key in shard.frames:
                for name in {shard.record.shard_id, place_of(shard_from_record(shard.record))}:
                    self._chosen[name, key] = shard
        self._gone = {id(shard): _gone_boxes(shard) for shard in chosen}

    def is_one(self, decision: Decision) -> bool:
        shard = self._chosen.get((decision.shard_id, decision.frame_key))
        if shard is None:
            return False
        key = decision.frame_key
        gone, everybody = self._gone[id(shard)].get(key, []), shard.boxes.get(key, [])
        if len(gone) == len(everybody):
            return True
        boxes = [decision.bbox] if decision.new_bbox is None else [decision.bbox, decision.new_bbox]
        if decision.detection != MISSED:
            # Of two persons that both overlap the box, the decision is about the nearer one.
            nearest = match_boxes([decision.bbox], everybody)
            if nearest:
                return everybody[nearest[0]] in gone
        return bool((box_ious(boxes, gone) >= SAME_PERSON_IOU).any())


def _gone_boxes(shard: ChosenShard) -> dict[str, list[Box]]:
    found: dict[str, list[Box]] = {}
    for person in shard.persons:
        found.setdefault(person.frame_key, []).append(person.bbox)
    return found
