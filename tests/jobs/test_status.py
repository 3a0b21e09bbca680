"""The summary of an output for the user: numbers that add up, and failed frames with their reasons."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from actors.storage.object_store import ObjectStore
from jobs.run.output_status import output_status, what_next
from jobs.run.summary import print_summary
from tests.support.committed import Found, said, write_output

BOX = (0.1, 0.1, 0.2, 0.4)


def summary_of(store: ObjectStore) -> str:
    text = StringIO()
    print_summary(Console(file=text, width=200), output_status(store), {})
    return text.getvalue()


def test_persons_of_a_run_without_the_annotator_are_not_lost_from_the_sum(tmp_path):
    store = ObjectStore(str(tmp_path))
    answered = Found(BOX, answers={"smolvlm": said()})
    write_output(store, {"a": {"f": [answered, answered]}, "b": {"g": [Found(BOX)]}})
    assert "3 = 2 ok + 1 not annotated (the annotator was off)" in summary_of(store)


def test_frames_that_failed_are_named_with_their_reasons_and_no_more_than_five(tmp_path):
    store = ObjectStore(str(tmp_path))
    broken = {f"{number}": f"truncated JPEG {number}" for number in range(4)}
    write_output(store, {"a": {"f": [Found(BOX)], **broken}, "b": {"g": [Found(BOX)]}, "c": broken})
    named = [line for line in summary_of(store).splitlines() if line.startswith("failed frame")]
    assert named[0].endswith("a.tar: 0: truncated JPEG 0")
    assert [line.split(": ")[1].rpartition("/")[2] for line in named] == ["a.tar"] * 4 + ["c.tar"]


def test_what_to_do_next_names_shards_that_failed_and_persons_that_wait():
    status = {
        "output": "out",
        "shards": {"pending": 0, "failed": 1},
        "postponed": [],
        "quota": {"persons_waiting": 7, "left_today": 0, "resets_at": "2026-11-26T08:00+00:00"},
        "annotators": {"smolvlm": {"error": 2, "ok": 5}},
        "corrections": {"consolidated": True},
    }
    failed, waiting, owed = what_next(status).split("; then ")
    assert failed.startswith("1 shard failed: ")
    assert failed.endswith("shopframe annotate ... --output out --retry-failed")
    assert waiting.startswith("7 persons wait for Gemini: run shopframe gemini --output out (after ")
    assert owed == "2 persons wait for smolvlm: run shopframe annotate ... --retry-annotator smolvlm"
