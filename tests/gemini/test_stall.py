"""Gemini's stage is noticed when it doesn't move, and not when it waits on purpose."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import pytest

from actors.errors import StalledError
from actors.gemini.protocol import Progress
from actors.gemini.quota.ledger import pacific_day
from actors.gemini.stall_watch import StallWatch
from jobs.command import EXIT_STALLED
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import KEY, MODEL, gemini_server
from tests.support import gemini_job
from tests.support.in_process import run_in_process


class Watched:
    """A watch on a clock that the test sets; `said` is what it told the user."""

    def __init__(self) -> None:
        self.time = 0.0
        self.said: list[str] = []
        self.watch = StallWatch(600, 3600, self.said.append, lambda: self.time)

    def look(
        self,
        after_s: float,
        progress: Progress | None,
        shards_done: int = 0,
        in_progress: Sequence[str] = ("shard-7",),
        may_end: bool = True,
    ) -> None:
        self.time += after_s
        self.watch.look(progress, shards_done, in_progress, may_end)


def test_a_stage_that_does_not_move_is_told_of_once_and_then_ends():
    watched = Watched()
    for _ in range(35):
        watched.look(100, Progress(steps=3))
    assert len(watched.said) == 1
    assert "nothing moved for" in watched.said[0]
    assert "shard-7" in watched.said[0]
    with pytest.raises(StalledError, match=r"shard-7.*run the same command again"):
        watched.look(300, Progress(steps=3))


def test_an_annotator_that_does_not_answer_is_a_stall_too():
    watched = Watched()
    watched.look(601, None)
    assert len(watched.said) == 1
    with pytest.raises(StalledError):
        watched.look(3000, None)


def test_a_stage_that_does_not_move_beside_other_work_is_told_of_and_ends_afterwards():
    watched = Watched()
    for _ in range(40):
        watched.look(100, Progress(steps=3), may_end=False)
    assert len(watched.said) == 1
    with pytest.raises(StalledError):
        watched.look(100, Progress(steps=3))


def test_a_stage_without_work_is_not_stalled_beside_other_work():
    watched = Watched()
    for _ in range(40):
        watched.look(100, Progress(), in_progress=(), may_end=False)
    watched.look(100, Progress())
    assert watched.said == []


@pytest.mark.parametrize("moves", ["steps", "shards"])
def test_answers_and_shards_are_movements(moves):
    watched = Watched()
    for number in range(100):
        steps, shards = (number, 0) if moves == "steps" else (0, number)
        watched.look(500, Progress(steps), shards)
    assert watched.said == []


def test_a_wait_on_purpose_is_no_stall_but_what_comes_after_it_is():
    watched = Watched()
    watched.look(1, Progress(wait_s=50_000, reason="per_day"))
    watched.look(50_000, Progress())
    assert watched.said == []
    watched.look(601, Progress())
    assert len(watched.said) == 1


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_run_whose_request_never_ends_is_stalled(tmp_path):
    gemini_job.write_backlog(tmp_path, shards=1, persons=2)
    deadlines = [
        part for name, s in (("warning", 2), ("fail", 4)) for part in ("--set", f"run.stall_{name}_s={s}")
    ]
    with gemini_server(faults=[Fault("hang")]) as server:
        done = gemini_job.gemini(
            tmp_path, server.base_url, *deadlines, expect=EXIT_STALLED, timeout_s=3600, own_ray=True
        )
    said = " ".join((done.stdout + done.stderr).split())
    assert "gemini: nothing moved for" in said
    assert "shard-000" in said
    assert "Traceback" not in said


def test_the_reset_of_a_day_that_was_declared_spent_opens_it_again(tmp_path, monkeypatch, capfd):
    """The tier was raised after the server had declared the day spent."""
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    gemini_job.write_backlog(tmp_path, 0, 0)
    options = gemini_job.options("http://127.0.0.1:9")
    path = tmp_path / "quota" / f"default.{MODEL}.json"
    path.parent.mkdir()
    today = pacific_day(time.time()).isoformat()
    path.write_text(json.dumps({"days": {today: 20}, "spent_day": today}))

    def quota() -> dict[str, object]:
        assert run_in_process(monkeypatch, "status", "--output", tmp_path, "--json") == 0
        return json.loads(capfd.readouterr().out)["quota"]

    assert run_in_process(monkeypatch, "gemini", "--output", tmp_path, *options) == 0
    capfd.readouterr()
    assert quota()["left_today"] == 0
    assert run_in_process(monkeypatch, "gemini", "--output", tmp_path, "--quota-reset", *options) == 0
    assert "is open again for project default" in capfd.readouterr().err
    assert (quota()["left_today"], quota()["spent_today"]) == (230, 20)
