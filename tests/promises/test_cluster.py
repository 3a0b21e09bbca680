"""Runs on an existing Ray cluster: one of several nodes dies, or the cluster can't be reached."""

from __future__ import annotations

import pytest

from tests.support import job, without_ray
from tests.support.job import Models
from tests.support.ray_cluster import STORE_BYTES

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.mark.long
def test_a_node_that_dies_costs_nothing(models: Models, tmp_path, cluster):
    source, undisturbed, output = tmp_path / "in", tmp_path / "undisturbed", tmp_path / "out"
    job.write_shards(source, "abcdefgh", frames=8)
    options = models.options(smolvlm=False)
    without_ray.annotate(source, undisturbed, *options)
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES) for _ in range(2)]
    cluster.wait_for_nodes()
    process = job.start(
        "annotate", "--input", source, "--output", output, *options, "--set", "detector.actors=2",
        environment={"RAY_ADDRESS": str(cluster.address)},
    )  # fmt: skip
    assert job.wait_for(lambda: job.records(output), process)
    assert process.poll() is None, "the job ended before its node could die"
    cluster.remove_node(nodes[0], allow_graceful=False)
    done = job.finish(process)
    assert done.returncode == 0, done.stdout + done.stderr
    found = job.records(output)
    assert sorted(found) == list("abcdefgh")
    assert {record["state"] for record in found.values()} == {"done"}
    for kind in ("frames", "persons"):
        rows, expected = (job.table(o, kind).to_pylist() for o in (output, undisturbed))
        assert rows == expected, kind


def test_a_cluster_out_of_reach_is_said_before_any_work(models: Models, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    job.write_shards(source, "a")
    done = job.annotate(
        source, output, *models.options(smolvlm=False), "--set", "ray.address=127.0.0.1:1", expect=2
    )
    assert "ray.address: can't use 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not job.records(output)
