"""Commits keep up with the cluster: the number of their workers follows from its cores."""

from __future__ import annotations

import json

import pytest

from jobs.run.stage_resources import Reach, plan_resources
from jobs.settings import Settings, load_settings
from tests.support import job, ray_cluster


@pytest.fixture
def elsewhere(monkeypatch):
    """An address of a cluster that isn't connected to: the cores are given."""
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")


def _settings(*overrides: str) -> Settings:
    return load_settings((), ["smolvlm.model=any", *overrides]).settings


@pytest.mark.parametrize("cores", [4, 16, 100, 400, 2000])
@pytest.mark.parametrize("overrides", [("smolvlm.enabled=false",), (), ("detector.threads=4",)])
def test_all_workers_fit_the_cluster_and_commits_take_little_of_it(elsewhere, cores, overrides):
    planned = plan_resources(_settings(*overrides), cores, 0)
    assert planned.cpus <= cores
    assert planned.commit.workers * planned.commit.cpus <= max(1, 0.06 * cores)


def test_commits_grow_with_the_detectors_that_there_may_be_up_to_a_bound(elsewhere):
    settings = _settings("smolvlm.enabled=false")
    workers = [plan_resources(settings, 0, 0, Reach(n)).commit.workers for n in (2, 16, 100, 400, 2000)]
    assert workers == [2, 8, 48, 128, 128]


def test_commits_follow_a_number_of_detectors_that_is_given(elsewhere):
    assert plan_resources(_settings("detector.actors=20"), 400, 0).commit.workers == 11


# The real graph on a real Ray node that claims more cores than the machine has. Only the work is made up:
# each commit waits until as many others are in progress as there are workers.
_MEETING = """
import asyncio
import json

import ray

from actors.attempt_tracker import start_tracker
from actors.commit.accounting import ShardSummary
from actors.records import Shard
from actors.shard_block import ShardTask
from actors.stage_workers import StageContext
from actors.stages import BlockStage
from jobs.run.graph import run_graph
from jobs.run.ray_session import ray_session
from jobs.run.stage_resources import plan_resources
from jobs.settings import load_settings

settings = load_settings((), ["smolvlm.enabled=false", "detector.actors=5"]).settings


@ray.remote(num_cpus=0)
class Meeting:
    def __init__(self, expected):
        self.expected, self.present, self.complete = expected, 0, asyncio.Event()

    async def arrive(self):
        self.present += 1
        if self.present == self.expected:
            self.complete.set()
        await asyncio.wait_for(self.complete.wait(), 120)
        return self.present


with ray_session(settings) as session:
    resources = plan_resources(settings, session.cpus, session.gpus)
    meeting = Meeting.remote(resources.commit.workers)

    def detect(block, report_progress):
        return block

    def commit(block, report_progress):
        present = ray.get(meeting.arrive.remote())
        return block.committed(ShardSummary(block.task.shard.shard_id, "done", error=str(present)).to_json())

    stages = [
        BlockStage("detect", resources.detect, detect),
        BlockStage("commit", resources.commit, commit, keeps_state=False),
    ]
    tasks = [ShardTask(Shard(f"s{i:02d}", f"in/{i}", "webdataset", "e", 1), "detect") for i in range(24)]
    summaries = list(run_graph(tasks, stages, StageContext(start_tracker(), 3)))
    print(json.dumps([session.cpus, resources.detect.workers, resources.commit.workers,
                      [s.state for s in summaries]]))
"""


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_node_with_six_cores_commits_three_shards_at_once(tmp_path):
    script = tmp_path / "meeting.py"
    script.write_text(_MEETING)
    node = ray_cluster.new_cluster(num_cpus=6)
    try:
        done = job.finish(job.start_program(script, environment={"RAY_ADDRESS": str(node.address)}))
    finally:
        node.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    # Ray may write warnings about the many workers to the same stream.
    said = next(line for line in done.stdout.splitlines() if line.startswith("["))
    cores, detectors, commits, states = json.loads(said)
    assert (cores, detectors, commits) == (6, 5, 3)
    assert states == ["done"] * 24
