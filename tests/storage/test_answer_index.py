"""The index of answers: what is added is found, whatever its size and whoever else merges it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from actors.records import Annotation
from actors.storage import answer_index, layout
from actors.storage.answer_index import AnswerIndex, KeptAnswer
from actors.storage.answers_in_flight import file_in_flight, read_in_flight, write_in_flight
from actors.storage.object_store import ObjectInfo, ObjectStore

QUESTION = "f" * 64


def digest_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def an_answer(number: int, age: int = 30, status: str = "ok") -> KeptAnswer:
    annotation = Annotation(status, values={"age": age} if status == "ok" else {}, confidence={"age": 0.25})
    return KeptAnswer(digest_of(number), "shard", annotation, {"model": "m"})


@pytest.fixture
def small(monkeypatch) -> None:
    """Let segments be distributed to longer prefixes from a few rows on."""
    monkeypatch.setattr(answer_index, "_LEAF_ROWS", 40)
    monkeypatch.setattr(answer_index, "_ROW_GROUP_ROWS", 8)
    monkeypatch.setattr(answer_index, "_WHOLE_BYTES", 0)


def prefixes(store: ObjectStore) -> list[str]:
    folder = layout.answer_index_folder("smolvlm", QUESTION)
    return sorted(str(layout.prefix_of_segment(o.path)) for o in store.list(folder))


def test_every_answer_is_found_and_no_other_at_any_size(small, tmp_path):
    store = ObjectStore(str(tmp_path))
    index = AnswerIndex(store, "smolvlm", QUESTION, listed_for_s=0)
    numbers = list(range(1500))
    random.Random(5).shuffle(numbers)
    for start in range(0, 1500, 150):
        index.add(an_answer(n) for n in numbers[start : start + 150])
        known = set(numbers[: start + 150])
        asked = random.Random(start).sample(range(2000), 20)
        found = index.find([digest_of(n) for n in asked])
        assert found == {digest_of(n): an_answer(n) for n in asked if n in known}
    assert index.find([]) == {}
    depths = {len(prefix) for prefix in prefixes(store)}
    assert {1, 2} <= depths
    assert all(prefixes(store).count(prefix) <= 4 for prefix in prefixes(store))


def test_answers_to_another_question_are_not_found(tmp_path):
    store = ObjectStore(str(tmp_path))
    AnswerIndex(store, "smolvlm", QUESTION).add([an_answer(1)])
    assert AnswerIndex(store, "smolvlm", "e" * 64).find([digest_of(1)]) == {}
    assert AnswerIndex(store, "gemini", QUESTION).find([digest_of(1)]) == {}


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_answers_an_ok_is_found_in_whatever_order_they_came(small, order, tmp_path):
    store = ObjectStore(str(tmp_path))
    index = AnswerIndex(store, "smolvlm", QUESTION, listed_for_s=0)
    several = [an_answer(1, status="invalid"), an_answer(1, 31), an_answer(1, 30), an_answer(1, 44)]
    for answer in several[::order]:
        index.add([answer])
        index.add([an_answer(2)])
    assert index.find([digest_of(1)])[digest_of(1)].annotation == an_answer(1, 30).annotation


def test_writers_that_merge_the_same_segments_at_once_lose_nothing(small, tmp_path):
    def write(first: int) -> None:
        mine = AnswerIndex(ObjectStore(str(tmp_path)), "smolvlm", QUESTION, listed_for_s=0)
        for start in range(first, first + 120, 30):
            mine.add(an_answer(n) for n in range(start, start + 30))
            assert len(mine.find([digest_of(n) for n in range(first, start + 30)])) == start + 30 - first

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(0, 480, 120)))
    store = ObjectStore(str(tmp_path))
    found = AnswerIndex(store, "smolvlm", QUESTION).find([digest_of(n) for n in range(480)])
    assert len(found) == 480


class _MergedMeanwhile(ObjectStore):
    """A store whose index has one segment merged, under another path, after each listing."""

    def list(self, *args: Any, **options: Any) -> Iterator[ObjectInfo]:
        found = list(super().list(*args, **options))
        yield from found
        oldest = min(found, key=lambda info: Path(self.full(info.path)).stat().st_mtime_ns)
        self.write(layout.new_segment(str(Path(oldest.path).parent), ""), self.read(oldest.path))
        self.delete([oldest.path])


def test_a_search_ends_although_others_merge_after_each_of_its_listings(tmp_path):
    index = AnswerIndex(ObjectStore(str(tmp_path)), "smolvlm", QUESTION)
    for n in range(4):
        index.add([an_answer(n)])
    reader = AnswerIndex(_MergedMeanwhile(str(tmp_path)), "smolvlm", QUESTION, listed_for_s=0)
    assert len(reader.find([digest_of(n) for n in range(4)])) == 4


def test_an_index_that_was_listed_before_a_merge_still_finds_everything(small, tmp_path):
    store = ObjectStore(str(tmp_path))
    early = AnswerIndex(store, "smolvlm", QUESTION)
    early.add(an_answer(n) for n in range(30))
    assert len(early.find([digest_of(n) for n in range(30)])) == 30
    late = AnswerIndex(store, "smolvlm", QUESTION)
    for start in range(30, 300, 30):
        late.add(an_answer(n) for n in range(start, start + 30))
    assert len(early.find([digest_of(n) for n in range(300)])) == 300


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\n"])
def test_an_answer_in_flight_may_contain_any_line_separator(character, tmp_path):
    store = ObjectStore(str(tmp_path))
    answer = KeptAnswer(
        digest_of(1), "shard", Annotation("ok", reasoning=f"one{character}two"), {"model": "m"}
    )
    write_in_flight(store, "smolvlm", "shard", QUESTION, [answer, an_answer(2)])
    assert read_in_flight(store, "smolvlm", "shard", QUESTION)[digest_of(1)] == answer


def test_answers_in_flight_are_found_by_their_shard_and_once_filed_by_their_crop(tmp_path):
    store = ObjectStore(str(tmp_path))
    write_in_flight(store, "smolvlm", "shard", QUESTION, [an_answer(1), an_answer(2)])
    write_in_flight(store, "smolvlm", "shard", "e" * 64, [an_answer(3)])
    expected = {digest_of(1): an_answer(1), digest_of(2): an_answer(2)}
    assert read_in_flight(store, "smolvlm", "shard", QUESTION) == expected
    assert read_in_flight(store, "smolvlm", "other", QUESTION) == {}
    file_in_flight(store)
    assert not list(store.list(layout.ANSWERS_IN_FLIGHT))
    index = AnswerIndex(store, "smolvlm", QUESTION)
    assert index.find([digest_of(n) for n in (1, 2, 3)]) == expected
