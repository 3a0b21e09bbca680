"""Runs on several real Ray nodes: each stage is where the settings say, and nodes are asked for and go.

Where the whole of a run is looked at, it is the real command. Where GPUs matter, only the work is made up:
nodes claim to have GPUs, which Ray doesn't check, and the real graph runs on them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support import job, ray_cluster
from tests.support.autoscaled_cluster import ENVIRONMENT, autoscaled_cluster
from tests.support.job import Models
from tests.support.outcomes import assert_whole, outcome

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1800), pytest.mark.long]


def test_three_nodes_give_what_one_gives_and_each_stage_is_where_it_should_be(models: Models, tmp_path: Path):
    source, alone, output = (tmp_path / name for name in ("in", "alone", "out"))
    job.write_shards(source, "abcdefghijkl", frames=4)
    options = [*models.options(), "--set", "output.person_json=files"]
    job.annotate(source, alone, *options)
    cluster = ray_cluster.new_cluster(num_cpus=0)
    try:
        detecting = [ray_cluster.add_node(cluster, num_cpus=2, resources={"detect": 1}) for _ in range(2)]
        annotating = ray_cluster.add_node(cluster, num_cpus=3, resources={"annotate": 1})
        placed = ["--set", "detector.node_resource=detect", "--set", "smolvlm.node_resource=annotate"]
        placed += ["--set", "detector.actors=2", "--set", "smolvlm.actors=2"]
        run = job.start(
            "annotate", "--input", source, "--output", output, *options, *placed,
            environment={"RAY_ADDRESS": str(cluster.address)},
        )  # fmt: skip
        seen: dict[str, set[ray_cluster.Actor]] = {"detect": set(), "annotate": set()}

        def look() -> bool:
            for stage, actors in seen.items():
                actors.update(ray_cluster.actors(cluster, stage))
            return run.poll() is not None

        job.wait_for(look, run)
        done = job.finish(run)
        detect_nodes, annotate_node = {node.node_id for node in detecting}, annotating.node_id
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {actor.node for actor in seen["detect"]} == detect_nodes
    assert [actor.node for actor in seen["annotate"]] == [annotate_node] * 2
    assert_whole(str(output), outcome(str(alone)))


_FROM_ZERO = """
import asyncio
import json
import time
from dataclasses import replace

import ray

from actors.attempt_tracker import start_tracker
from actors.commit.accounting import ShardSummary
from actors.records import Shard
from actors.shard_block import ShardTask
from actors.stage_workers import StageContext
from actors.stages import BlockStage
from jobs.run import graph
from jobs.run.ray_session import ray_session
from jobs.run.stage_resources import plan_resources
from jobs.settings import load_settings


@ray.remote(num_cpus=0, max_concurrency=100)
class Meeting:
    '''Where workers wait until three are there at once.'''

    def __init__(self):
        self.present, self.complete = 0, asyncio.Event()

    async def meet(self):
        self.present += 1
        if self.present == 3:
            self.complete.set()
        await self.complete.wait()


def noted(block, stage):
    context = ray.get_runtime_context()
    gpus, node = len(context.get_accelerator_ids()["GPU"]), context.get_node_id()
    return replace(block, timings_s={**block.timings_s, f"{stage} gpus": gpus, f"{stage} on {node}": 1})


def annotate(block, report_progress):
    return noted(block, "annotate")


def commit(block, report_progress):
    said = json.dumps(dict(block.timings_s))
    return block.committed(ShardSummary(block.task.shard.shard_id, "done", error=said).to_json())


settings = load_settings((), [
    "smolvlm.model=any", "smolvlm.gpus_per_actor=1", "smolvlm.actors=auto",
    "detector.node_resource=detect", "smolvlm.node_resource=annotate",
]).settings
with ray_session(settings) as session:
    assert (session.cpus, session.gpus) == (0, 0)
    resources = plan_resources(settings, session.cpus, session.gpus, session.reach)
    meeting = Meeting.remote()

    def detect(block, report_progress):
        if int(block.task.shard.shard_id) < 4:
            # Detection is what takes the time, so Ray finds that detectors are what it needs more of.
            time.sleep(2)
        else:
            ray.get(meeting.meet.remote())
        return noted(block, "detect")

    stages = [
        BlockStage("detect", resources.detect, detect),
        # No worker looks for CUDA, which isn't there.
        BlockStage("annotate", replace(resources.annotate, gpu_setting=""), annotate),
        BlockStage("commit", resources.commit, commit, keeps_state=False),
    ]
    tasks = [ShardTask(Shard(f"{i:02d}", f"in/{i}", "webdataset", "e", 1), "detect") for i in range(24)]
    found = {}
    for summary in graph.run_graph(tasks, stages, StageContext(start_tracker(), 3)):
        found[summary.shard_id] = json.loads(summary.error)
    nodes = {
        kind: [node["NodeID"] for node in ray.nodes() if node["Resources"].get(kind)]
        for kind in ("GPU", "detect")
    }
    deadline = time.monotonic() + 240
    while sum(n["Alive"] for n in ray.nodes()) > 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    left = sum(n["Alive"] for n in ray.nodes())
    print(json.dumps({"found": found, "nodes": nodes, "left": left}))
"""


def test_nodes_come_from_zero_as_stages_need_them_and_go_when_idle():
    types = {
        "cpu": (3, {"CPU": 3, "detect": 3}),
        "gpu": (1, {"CPU": 1, "GPU": 1, "annotate": 1}),
    }
    with autoscaled_cluster(types) as home:
        environment = {
            **ENVIRONMENT,
            "HOME": str(home),
            # Ray Data asks the autoscaler at most every ten seconds by default.
            "RAY_DATA_MIN_GAP_BETWEEN_AUTOSCALING_REQUESTS": "1",
        }
        done = job.finish(job.start_command([sys.executable, "-c", _FROM_ZERO], environment))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert sorted(told["found"]) == [f"{number:02d}" for number in range(24)]
    (gpu_node,) = told["nodes"]["GPU"]
    for shard in told["found"].values():
        assert (shard["detect gpus"], shard["annotate gpus"]) == (0, 1)
        assert f"annotate on {gpu_node}" in shard
        assert {f"detect on {node}" for node in told["nodes"]["detect"]} & shard.keys()
    # One node has room for two detectors, and the shards waited until three were there.
    assert len(told["nodes"]["detect"]) >= 2
    assert told["left"] == 1, "only the head stays"
