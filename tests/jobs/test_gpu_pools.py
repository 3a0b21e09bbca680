"""Stages that ask for GPUs, on a Ray node that only claims to have some, so the tests need no GPU."""

from __future__ import annotations

import json

import pytest

from tests.support import job, ray_cluster
from tests.support.job import Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def gpu_cluster():
    """A cluster whose only node claims to have two GPUs; Ray doesn't check this."""
    made = ray_cluster.new_cluster(num_cpus=4, num_gpus=2)
    yield made
    made.shutdown()


@pytest.mark.parametrize("setting", ["smolvlm.gpus_per_actor=1", "detector.device=cuda"])
def test_a_worker_without_its_gpu_stops_the_run_with_one_sentence(
    models: Models, tmp_path, gpu_cluster, setting
):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, so the workers find theirs")
    source, output = tmp_path / "in", tmp_path / "out"
    job.write_shards(source, "ab")
    done = job.shopframe(
        "annotate", "--input", source, "--output", output, *models.options(), "--set", setting,
        environment={"RAY_ADDRESS": gpu_cluster.address},
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    said = done.stderr.strip().splitlines()[-1]
    assert said.startswith(f"shopframe: {setting.partition('=')[0]}: a worker on ")
    assert "was given a GPU but finds no CUDA device" in said
    assert "Traceback" not in done.stderr
    assert not job.records(output)


# This runs the real graph with real Ray workers, but the work only reports the GPUs that it was given,
# because a real model would need a real GPU.
_PLACED = """
import json
import os
import sys
from dataclasses import replace

import ray

from actors.attempt_tracker import start_tracker
from actors.commit.accounting import ShardSummary
from actors.records import Shard
from actors.shard_block import ShardTask
from actors.stage_workers import StageContext
from actors.stages import BlockStage, Resources
from jobs.run.graph import run_graph


def where(stage):
    def work(block, report_progress):
        gpus = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        told = {f"{stage} gpus": len(gpus), f"{stage} niceness": os.nice(0)}
        return replace(block, timings_s={**block.timings_s, **told})

    return work


def commit(block, report_progress):
    told = json.dumps(dict(block.timings_s))
    return block.committed(ShardSummary(block.task.shard.shard_id, "done", error=told).to_json())


stages = [
    BlockStage("detect", Resources(workers=2, gpus=0.5), where("detect"), niceness=2),
    BlockStage("annotate", Resources(workers=1, gpus=1), where("annotate")),
    BlockStage("commit", Resources(workers=2, cpus=0.25), commit, keeps_state=False),
]
ray.init(address=sys.argv[1], log_to_driver=False)
tasks = [ShardTask(Shard(name, f"in/{name}", "webdataset", "e", 1), "detect") for name in "abcde"]
summaries = list(run_graph(tasks, stages, StageContext(start_tracker(), 3)))
print(json.dumps({s.shard_id: json.loads(s.error) for s in summaries}))
"""


def test_stages_get_gpus_and_niceness_as_they_say_and_every_shard_passes_whole(gpu_cluster, tmp_path):
    script = tmp_path / "placed.py"
    script.write_text(_PLACED)
    done = job.finish(job.start_program(script, gpu_cluster.address))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert sorted(found) == list("abcde")
    for shard in found.values():
        assert (shard["detect gpus"], shard["annotate gpus"]) == (1, 1)
        assert shard["detect niceness"] == min(19, shard["annotate niceness"] + 2)
