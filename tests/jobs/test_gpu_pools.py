"""Stages that want GPUs, on Ray nodes that pretend to have them: this machine may have none."""

from __future__ import annotations

import pytest
from ray.cluster_utils import Cluster

from tests.conftest import RAY_STORE_BYTES
from tests.support import job
from tests.support.job import Models

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def gpu_cluster():
    """A node that says it has two GPUs; Ray believes it."""
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 4,
            "num_gpus": 2,
            "object_store_memory": RAY_STORE_BYTES,
            "include_dashboard": False,
        },
    )
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
    assert "was given a GPU and finds no CUDA device" in said
    assert "Traceback" not in done.stderr
    assert not job.records(output)
