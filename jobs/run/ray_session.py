"""A Ray to run on, and how many workers of each stage fit into it."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

import actors
import conf
import jobs
from actors.errors import ConfigError
from actors.stages import Resources
from jobs.settings import Settings

log = logging.getLogger("shopframe")

_REACHABLE_S = 10.0

_UNREAD_STATISTICS = ("RAY_enable_metrics_collection", "RAY_event_stats")
"""Nobody reads them on a Ray without a dashboard. Its idle processes, six actors among them, took 17 % of a
core with them and 9 % without."""


_COMMIT = Resources(workers=2, cpus=0.25)
"""Commits wait for the bucket most of the time: they take little of a core."""


@dataclass(frozen=True, slots=True)
class StageResources:
    """What each stage of a run takes; `annotate` is None where no local annotator is enabled."""

    detect: Resources
    annotate: Resources | None
    commit: Resources

    @property
    def cpus(self) -> float:
        """Cores that all workers reserve together."""
        stages = [self.detect, self.commit, *([self.annotate] if self.annotate else [])]
        return sum(stage.workers * stage.cpus for stage in stages)


@contextmanager
def ray_session(settings: Settings) -> Iterator[tuple[float, float]]:
    """Connect to the configured cluster, or start a Ray of its own for the time of the run.

    After an error the connection stays, for this process is about to end.

    Yields:
        Cores and GPUs that there are.

    Raises:
        ConfigError: The cluster can't be reached.
    """
    address = settings.ray.address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if address == "local":
        cores = settings.ray.num_cpus or len(os.sched_getaffinity(0))
        # Annotators and commits wait for other things than a core that a detector could use: Ray
        # gets room for them beside a detector on every core.
        options["num_cpus"] = math.ceil(plan_resources(settings, cores, None).cpus) + 1
        options["object_store_memory"] = settings.ray.object_store_bytes
        for name in _UNREAD_STATISTICS:
            os.environ.setdefault(name, "0")
    else:
        _check_reachable(address)
    environment = dict(settings.ray.runtime_env)
    if address != "local" and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        environment.setdefault("py_modules", [actors, jobs, conf])
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(address=address, runtime_env=environment or None, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ConfigError(f"ray.address: can't use {address}: {error}") from error
    except Exception as error:
        # Ray has no type of its own for a node that isn't up within half a minute.
        if type(error) is not Exception:
            raise
        raise ConfigError(f"Ray did not start: {error}; is the machine very busy? Run again") from error
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus = cores if address == "local" else resources.get("CPU", 0.0)
    yield float(cpus), float(resources.get("GPU", 0.0))
    # Not after an error or an interrupt: the thread that runs the graph may be at work still, and Ray ends
    # the whole process of a thread that uses it after shutdown. Ray's processes end with this one.
    ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself goes on trying for minutes, without a word."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_S).close()
    except OSError as error:
        raise ConfigError(
            f"ray.address: can't use {address}: {error}; start the cluster, or take the address (and "
            "RAY_ADDRESS) away to run on this machine"
        ) from error


def plan_resources(settings: Settings, cpus: float, gpus: float | None) -> StageResources:
    """Share out the cores: annotators first, then a detector on each core that is left.

    Args:
        settings: `detector.actors` and `smolvlm.actors` are taken as they are, unless "auto".
        cpus: Cores; on a Ray of its own, those of the machine.
        gpus: GPUs, or None while they aren't known.

    Raises:
        ConfigError: What is asked for can't run here.
    """
    vlm, detector = settings.smolvlm, settings.detector
    local = (settings.ray.address or os.environ.get("RAY_ADDRESS") or "local") == "local"
    if gpus == 0 and local:
        if vlm.enabled and vlm.gpus_per_actor > 0:
            raise ConfigError(
                f"smolvlm.gpus_per_actor: {vlm.gpus_per_actor} asked for and this machine has no GPU; set it "
                "to 0 to run on the CPU"
            )
        if detector.device != "cpu":
            raise ConfigError(f"detector.device: {detector.device} asked for and this machine has no GPU")
    annotators = 0
    if vlm.enabled:
        fitting = int((gpus or 1) // vlm.gpus_per_actor) if vlm.gpus_per_actor > 0 else 1
        annotators = max(1, fitting) if vlm.actors == "auto" else vlm.actors
    reserved = 0 if local else annotators + 1
    free = max(1, int(cpus) - reserved) // detector.threads
    detectors = max(1, free) if detector.actors == "auto" else detector.actors
    planned = StageResources(
        detect=Resources(
            workers=detectors, gpus=0 if detector.device == "cpu" else 1, gpu_setting="detector.device"
        ),
        annotate=Resources(workers=annotators, gpus=vlm.gpus_per_actor, gpu_setting="smolvlm.gpus_per_actor")
        if vlm.enabled
        else None,
        commit=_COMMIT,
    )
    if not local and gpus is not None and planned.cpus > cpus:
        log.warning("the job wants %.1f cores and the cluster has %.0f: it may wait", planned.cpus, cpus)
    return planned
