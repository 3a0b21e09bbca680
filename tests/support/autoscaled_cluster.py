"""A Ray cluster whose autoscaler starts nodes as they are needed: real processes of Ray, on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

ADDRESS = "127.0.0.1:6379"
"""Ray's provider of local nodes looks for the head at this port, so there is one such cluster at a time."""

ENVIRONMENT = {"RAY_ADDRESS": ADDRESS, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment of those that connect to the cluster."""

_IDLE_MINUTES = 0.2

_EMPTY_LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
    "rsync_exclude",
    "rsync_filter",
)
"""Keys that Ray's schema wants."""


@contextmanager
def autoscaled_cluster(node_types: Mapping[str, tuple[int, Mapping[str, float]]]) -> Iterator[Path]:
    """Start a head without cores, whose autoscaler may start nodes and stops those that are idle for 12 s.

    Args:
        node_types: For each type of nodes, how many there may be and what each has.

    Yields:
        A folder that has the configuration where a home folder has it on a head that Ray's launcher made.
    """
    folder = Path(tempfile.mkdtemp(prefix="shopframe-ray-", dir="/tmp"))
    configuration = json.dumps(_configuration(node_types))
    (folder / "ray_bootstrap_config.yaml").write_text(configuration)
    (folder / "autoscaler.json").write_text(configuration)
    lock = FileLock(Path(tempfile.gettempdir()) / "shopframe-autoscaled-cluster.lock")
    with lock, (folder / "head.log").open("w") as log:
        head = subprocess.Popen(
            [
                sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=6379",
                "--num-cpus=0", "--num-gpus=0", "--include-dashboard=false",
                f"--object-store-memory={100 * 2**20}", f"--temp-dir={folder / 'ray'}",
                f"--autoscaling-config={folder / 'autoscaler.json'}",
            ],
            env={
                **os.environ,
                **ENVIRONMENT,
                "RAY_FAKE_CLUSTER": "1",
                "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                "RAY_enable_metrics_collection": "0",
                "RAY_event_stats": "0",
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            _wait_for_port(head, folder)
            yield folder
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                head.wait(timeout=30)
            with suppress(ProcessLookupError):
                os.killpg(head.pid, signal.SIGKILL)
            head.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _wait_for_port(head: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert head.poll() is None, (folder / "head.log").read_text()
        try:
            socket.create_connection(("127.0.0.1", 6379), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError((folder / "head.log").read_text())


def _configuration(node_types: Mapping[str, tuple[int, Mapping[str, float]]]) -> dict[str, object]:
    head = {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0}
    return {
        "cluster_name": "local",
        "max_workers": sum(count for count, _ in node_types.values()),
        "idle_timeout_minutes": _IDLE_MINUTES,
        "upscaling_speed": 100,
        # All nodes have one address, so their ids tell them apart. There is no SSH to start Ray again with.
        "provider": {"type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True},
        "available_node_types": {
            "ray.head.default": head,
            **{
                name: {
                    "resources": dict(resources),
                    "node_config": {},
                    "min_workers": 0,
                    "max_workers": count,
                }
                for name, (count, resources) in node_types.items()
            },
        },
        "head_node_type": "ray.head.default",
        **{name: {} for name in ("auth", "docker", "file_mounts")},
        **{name: [] for name in _EMPTY_LISTS},
    }
