"""A shard that is cut while it runs: whatever is killed or set in between, each frame is in one part."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.commit.accounting import ShardSummary
from actors.commit.committed_shard import input_identity
from actors.read.frame_range import frames_of
from actors.records import Shard
from actors.shard_block import ShardTask
from actors.storage.commit_record import CommitRecord, Counts
from actors.storage.object_store import ObjectStore
from jobs.run import graph
from jobs.run.cut_shards import CutShards
from jobs.run.output_status import output_status
from jobs.run.plan import Committed, Plan, make_plan
from jobs.run.superseded import remove_superseded
from jobs.run.totals import Totals
from jobs.run.verification import Verification
from tests.support.committed import write_output

FRAMES = 12
INPUT = (
    Shard("day", "in/day.tar.gz", "webdataset", "etag", 10),
    Shard("night", "in/night.tar.gz", "webdataset", "etag", 10),
)


class KilledError(Exception):
    """The run is killed."""


@dataclass
class Output:
    """The commit records of an output, and runs that commit to it without Ray, models or files."""

    records: dict[str, CommitRecord] = field(default_factory=dict)

    def plan(self, detect: str, scope: str = "missing") -> Plan:
        committed = {shard_id: Committed.of(record) for shard_id, record in self.records.items()}
        return make_plan(INPUT, committed, {"detect": detect, "person_json": ""}, scope)

    def run(self, weights: list[int], cap: int, detect: str, scope: str = "missing", commits: int = 1000):
        """Run with crops of these sizes, and be killed after some commits.

        Returns:
            The ids of the shards that were done, in their order, and the totals of the run.
        """
        plan = self.plan(detect, scope)
        done: list[str] = []
        totals = Totals()

        def workers(waiting: deque[ShardTask], *_: Any) -> Iterator[tuple[ShardTask, ShardSummary]]:
            tasks = list(waiting)
            waiting.clear()
            for task in tasks:
                if len(done) == commits:
                    raise KilledError
                done.append(task.shard.shard_id)
                yield task, self._commit(task, weights, cap, detect)
                self.check_disjoint()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph, "_run_where_workers_start", workers)
            try:
                for summary in graph.run_graph(plan.tasks, [], None):  # type: ignore[arg-type]
                    totals.add(summary)
            except KilledError:
                return done, totals
        assert sum(totals.shards.values()) == len(plan.tasks) + totals.rests
        return done, totals

    def _commit(self, task: ShardTask, weights: list[int], cap: int, detect: str) -> ShardSummary:
        shard = task.shard
        before = self.records.get(shard.shard_id)
        assert (before.attempt_id if before else None) == task.replaces
        end = FRAMES if shard.stop_frame is None else min(FRAMES, shard.stop_frame)
        size = 0
        for number in range(shard.first_frame, end):
            size += weights[number]
            if size > cap and number > shard.first_frame:
                shard = frames_of(shard, shard.first_frame, number)
                break
        frames = (shard.stop_frame or FRAMES) - shard.first_frame
        record = CommitRecord(
            shard_id=shard.shard_id,
            state="done",
            attempt=task.attempt,
            attempt_id=f"{task.attempt}-{detect}",
            input=input_identity(shard),
            fingerprints={"detect": detect, "person_json": ""},
            counts=Counts(frames=frames, frames_ok=frames),
        )
        self.records[shard.shard_id] = record
        return ShardSummary.of_record(record)

    def frames(self) -> dict[str, list[int]]:
        """Return the numbers of the frames that each shard of the input has in all its parts."""
        found: dict[str, list[int]] = {shard.shard_id: [] for shard in INPUT}
        for record in self.records.values():
            source = record.input
            stop = FRAMES if source.stop_frame is None else source.stop_frame
            found[source.uri.removeprefix("in/").removesuffix(".tar.gz")] += range(source.first_frame, stop)
        return found

    def check_disjoint(self) -> None:
        for shard_id, frames in self.frames().items():
            assert len(frames) == len(set(frames)), f"{shard_id} has a frame twice"


sizes = st.lists(st.integers(0, 9), min_size=FRAMES, max_size=FRAMES)
change = st.tuples(sizes, st.integers(1, 30), st.sampled_from("abc"), st.booleans(), st.integers(0, 12))


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(change, min_size=1, max_size=5), last=change)
def test_every_frame_is_in_one_part_after_kills_and_changes(changes, last):
    output = Output()
    for weights, cap, detect, is_forced, commits in changes:
        output.run(weights, cap, detect, "force" if is_forced else "missing", commits)
        assert not output.plan(detect).superseded
    weights, cap, detect, _, _ = last
    output.run(weights, cap, detect)
    for shard_id, frames in output.frames().items():
        assert sorted(frames) == list(range(FRAMES)), shard_id
    assert {record.fingerprints["detect"] for record in output.records.values()} == {detect}
    assert output.run(weights, cap, detect)[0] == []


def test_a_rerun_after_a_kill_does_only_the_rest():
    output = Output()
    weights = [10] * FRAMES
    first, _ = output.run(weights, 40, "a", commits=3)
    assert first == ["day", "night", "night.from-00000004"]
    rest, _ = output.run(weights, 40, "a")
    assert rest == ["day.from-00000004", "night.from-00000008", "day.from-00000008"]
    parts = CutShards()
    for record in output.records.values():
        parts.add(record)
    assert (parts.committed, parts.not_committed) == (4, set())


def test_a_changed_limit_alone_does_nothing_again_and_larger_crops_only_divide_parts_further():
    output = Output()
    output.run([10] * FRAMES, 60, "a")
    assert set(output.records) >= {"day", "day.from-00000006"}
    assert output.run([10] * FRAMES, 30, "a")[0] == []
    done, _ = output.run([20] * FRAMES, 60, "b")
    assert sorted(shard_id for shard_id in done if shard_id.startswith("day")) == [
        "day", "day.from-00000003", "day.from-00000006", "day.from-00000009",
    ]  # fmt: skip
    assert output.records["day.from-00000003"].input.stop_frame == 6


def test_a_part_within_another_one_is_superseded():
    output = Output()
    output.run([10] * FRAMES, 60, "a")
    stray = output.records["day.from-00000006"]
    source = stray.input.model_copy(update={"first_frame": 4})
    output.records["day.from-00000004"] = stray.model_copy(
        update={"shard_id": "day.from-00000004", "input": source}
    )
    assert output.plan("a").superseded == {"day.from-00000004": ("day", "day.from-00000006")}


def test_a_shard_is_replaced_only_when_the_parts_of_its_successors_are_all_committed(tmp_path):
    store = ObjectStore(str(tmp_path / "out"))
    write_output(store, {"old": {"f": []}, "new": {"f": []}})
    path = tmp_path / "out/commits/new.json"
    record = CommitRecord.model_validate_json(path.read_bytes())
    cut = record.model_copy(update={"input": record.input.model_copy(update={"stop_frame": 1})})
    path.write_text(cut.model_dump_json())
    assert remove_superseded(store, {"old": ("new",)}) == 0
    rest = replace_record(cut, cut.next_id, first_frame=1)
    (tmp_path / f"out/commits/{rest.shard_id}.json").write_text(rest.model_dump_json())
    assert remove_superseded(store, {"old": ("new",)}) == 1


def test_a_shard_whose_rest_is_not_done_is_not_finished(tmp_path):
    store = ObjectStore(str(tmp_path / "out"))
    write_output(store, {"day": {"f": []}, "night": {"g": []}})
    path = tmp_path / "out/commits/day.json"
    record = CommitRecord.model_validate_json(path.read_bytes())
    cut = record.model_copy(update={"input": record.input.model_copy(update={"stop_frame": 1})})
    path.write_text(cut.model_dump_json())
    status = output_status(store)
    assert status["shards"] == {"total": 3, "done": 2, "failed": 0, "pending": 1}
    assert status["next"].startswith("1 shard still to do: run the same shopframe annotate command again")
    rest = replace_record(cut, cut.next_id, first_frame=1)
    (tmp_path / f"out/commits/{rest.shard_id}.json").write_text(rest.model_dump_json())
    assert output_status(store)["shards"] == {"total": 3, "done": 3, "failed": 0, "pending": 0}
    (tmp_path / "out/commits/night.json").unlink()
    assert output_status(store)["shards"] == {"total": 3, "done": 2, "failed": 0, "pending": 1}


def test_verify_names_parts_with_frames_that_another_part_has_too(tmp_path):
    store = ObjectStore(str(tmp_path / "out"))
    write_output(store, {"day": {"f": []}, "night": {"g": []}})
    path = tmp_path / "out/commits/night.json"
    whole = CommitRecord.model_validate_json(path.read_bytes())

    def overlapping() -> dict[str | None, str]:
        found = Verification(store, quick=True).run()
        return {problem.shard: problem.problem for problem in found if "too" in problem.problem}

    assert overlapping() == {}
    for first, stop in ((3, 8), (8, None), (5, 8)):
        part = replace_record(whole, f"night.from-{first:08d}", first)
        part = part.model_copy(update={"input": part.input.model_copy(update={"stop_frame": stop})})
        (tmp_path / f"out/commits/{part.shard_id}.json").write_text(part.model_dump_json())
    assert set(overlapping()) == {"night.from-00000003", "night.from-00000005", "night.from-00000008"}
    cut = whole.model_copy(update={"input": whole.input.model_copy(update={"stop_frame": 3})})
    path.write_text(cut.model_dump_json())
    assert overlapping() == {"night.from-00000005": "has frames that night.from-00000003 has too"}


def replace_record(record: CommitRecord, shard_id: str | None, first_frame: int) -> CommitRecord:
    """Return the record as that of the part from a frame up to the end."""
    source = record.input.model_copy(update={"first_frame": first_frame, "stop_frame": None})
    return record.model_copy(update={"shard_id": shard_id, "input": source, "objects": ()})


def test_the_rest_of_a_part_ends_where_the_next_one_begins():
    task = ShardTask(frames_of(INPUT[0], 4, 9), "detect")
    committed = ShardSummary(task.shard.shard_id, "done", stop_frame=6)
    rest = graph.rest_of(task, committed)
    assert rest is not None
    assert (rest.shard.shard_id, rest.shard.first_frame, rest.shard.stop_frame) == ("day.from-00000006", 6, 9)
    assert graph.rest_of(task, replace(committed, stop_frame=9)) is None
    assert graph.rest_of(task, replace(committed, stop_frame=None)) is None
