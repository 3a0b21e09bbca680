"""A file that a killed process has left half written beside others is none of them."""

from __future__ import annotations

import pytest

from actors.gemini.answer_journal import file_journal, read_journal, remove_from_journal
from actors.gemini.batch_records import open_batches, remove_from_batches
from actors.gemini.egress_log import remove_from_egress
from actors.gemini.question import Question
from actors.storage import layout
from actors.storage.object_store import ObjectStore

QUESTION = Question("0" * 64)
LEFT = f".{'0' * 32}.tmp"


@pytest.mark.parametrize("content", [b"", b'[{"crop_sha256": "0'])
def test_what_a_killed_write_has_left_is_no_record_of_gemini(tmp_path, content: bytes):
    store = ObjectStore(str(tmp_path))
    folders = (layout.journal_folder("a"), layout.BATCHES, f"{layout.EGRESS}/2026-01-31")
    for folder in folders:
        store.write(f"{folder}/{LEFT}", content)
    assert read_journal(store, "a", QUESTION) == {}
    file_journal(store)
    assert list(open_batches(store, QUESTION)) == []
    assert remove_from_journal(store, {"0" * 64}, apply=True) == 0
    assert remove_from_batches(store, {"a/f/0"}, {"0" * 64}, apply=True) == 0
    assert remove_from_egress(store, {"a/f/0"}, {"0" * 64}, apply=True) == 0
