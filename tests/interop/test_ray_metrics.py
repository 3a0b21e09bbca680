"""Prometheus reads the metrics of a run from the nodes of a cluster. Their Ray has the extra `default`."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from tests.interop.conftest import REPO_ROOT


def _start(port: int, tries: int = 3) -> None:
    """Start a node, once more if it isn't up within half a minute, for which Ray raises a plain Exception."""
    try:
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            _metrics_export_port=port,
            _system_config={"metrics_report_interval_ms": 1000},
        )
    except Exception as error:
        if type(error) is not Exception or tries == 1:
            raise
        ray.shutdown()
        _start(port, tries - 1)


@pytest.fixture
def node() -> Iterator[tuple[str, str]]:
    """A node: the address of its cluster, and the URL of its metrics."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    _start(port)
    yield ray.get_runtime_context().gcs_address, f"http://127.0.0.1:{port}/metrics"
    ray.shutdown()


def scraped(url: str) -> dict[str, tuple[str, float]]:
    """Return kind and value of each sample of the run by its name."""
    with suppress(OSError), urllib.request.urlopen(url, timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            sample.name: (family.type, sample.value)
            for family in families
            for sample in family.samples
            if sample.labels.get("run") == "r1"
        }
    return {}


@pytest.mark.timeout(600)
def test_a_node_exports_every_metric_of_a_run_with_the_prefix_of_ray(node: tuple[str, str]):
    address, url = node
    driver = subprocess.Popen(
        [REPO_ROOT / ".venv" / "bin" / "python", "-m", "tests.interop.report_metrics", address],
        cwd=REPO_ROOT,
        env=os.environ | {"PYTHONPATH": str(REPO_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stdout is not None
        expected = dict(line.split() for line in iter(driver.stdout.readline, "reported\n"))
        assert len(expected) > 15
        deadline = time.monotonic() + 240
        while len(found := scraped(url)) < len(expected) and time.monotonic() < deadline:
            time.sleep(0.5)
    finally:
        driver.communicate(timeout=240)
    for name, kind in expected.items():
        if kind == "histogram":
            assert found[f"ray_{name}_count"] == ("histogram", 1)
            assert found[f"ray_{name}_sum"] == ("histogram", 2)
        else:
            assert found[f"ray_{name}"] == (kind, 2)
