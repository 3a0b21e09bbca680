"""Connect to Ray or start it, and decide how many workers each stage gets."""

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
from tenacity import retry, retry_if_exception, stop_after_attempt

import actors
import conf
import jobs
from actors.errors import ConfigError
from actors.stages import Resources
from jobs.settings import Settings

log = logging.getLogger("shopframe")

_REACHABLE_S = 10.0

_STARTS = 3
"""How often a local Ray is started if its node isn't up in time."""

_UNREAD_STATISTICS = ("RAY_enable_metrics_collection", "RAY_event_stats")
"""Statistics that nothing reads if there is no dashboard. Ray's idle processes, including six actors, used
17% of a core with these statistics and 9% without."""


_COMMIT_CPUS = 0.1
"""Cores of a commit worker, which waits for the bucket most of the time."""
_DETECTORS_PER_COMMIT = 2
_COMMITS = (2, 128)
"""Fewest and most commit workers. S3 takes 3,500 writes per second and prefix, which is what 128 workers make
that write five objects a shard with an answer in 0.2 s."""


@dataclass(frozen=True, slots=True)
class StageResources:
    """The resources of each stage. `annotate` is None if no local annotator is enabled."""

    detect: Resources
    annotate: Resources | None
    commit: Resources

    @property
    def cpus(self) -> float:
        """Number of cores that all workers reserve together."""
        stages = [self.detect, self.commit, *([self.annotate] if self.annotate else [])]
        return sum(stage.workers * stage.cpus for stage in stages)


@contextmanager
def ray_session(settings: Settings) -> Iterator[tuple[float, float]]:
    """Connect to the configured cluster, or start a local Ray for the duration of the run.

    After an error the connection stays open, because the process is about to end.

    Yields:
        The number of cores and GPUs that are available.

    Raises:
        ConfigError: If the cluster can't be reached, or Ray can't start.
    """
    address = _address(settings)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if address == "local":
        cores = settings.ray.num_cpus or len(os.sched_getaffinity(0))
        # Annotators and commits don't occupy a core that a detector could use, because they mostly wait for
        # other things. Ray gets room for them in addition to one detector per core.
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
        _start_patiently(address=address, runtime_env=environment or None, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ConfigError(f"ray.address: can't use {address}: {error}") from error
    except Exception as error:
        if not _is_slow_start(error):
            raise
        raise ConfigError(f"Ray did not start: {error}; run again when the machine is less busy") from error
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus = cores if address == "local" else resources.get("CPU", 0.0)
    yield float(cpus), float(resources.get("GPU", 0.0))
    # This is skipped after an error or interrupt: the thread that runs the graph may still be working, and
    # Ray ends the whole process if a thread uses it after shutdown. Ray's processes end with this one.
    ray.shutdown()


def uses_cluster(settings: Settings) -> bool:
    """Return whether the run connects to a cluster instead of starting a Ray of its own."""
    return _address(settings) != "local"


def _address(settings: Settings) -> str:
    return settings.ray.address or os.environ.get("RAY_ADDRESS") or "local"


def _is_slow_start(error: BaseException) -> bool:
    """Return whether a node wasn't up within half a minute, for which Ray raises a plain Exception."""
    return type(error) is Exception


@retry(
    retry=retry_if_exception(_is_slow_start),
    stop=stop_after_attempt(_STARTS),
    before_sleep=lambda _: ray.shutdown(),
    reraise=True,
)
def _start_patiently(**options: Any) -> None:
    """Start Ray or connect to it. On a busy machine the first start of a node may take too long."""
    ray.init(**options)


def _check_reachable(address: str) -> None:
    """Check that the cluster accepts connections. Ray itself would retry for minutes without a message."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACHABLE_S).close()
    except OSError as error:
        raise ConfigError(
            f"ray.address: can't use {address}: {error}; start the cluster, or unset ray.address and "
            "RAY_ADDRESS to run on this machine"
        ) from error


def plan_resources(settings: Settings, cpus: float, gpus: float | None) -> StageResources:
    """Divide the cores: annotators first, then commits, then a detector on each remaining core.

    The number of commit workers follows from those that they work for, so that commits keep up with a cluster
    of any size.

    Args:
        settings: The settings. `detector.actors` and `smolvlm.actors` are used as given, unless "auto".
        cpus: Number of cores; for a local Ray, those of the machine.
        gpus: Number of GPUs, or None if it isn't known yet.

    Raises:
        ConfigError: If the settings ask for a GPU and there is none.
    """
    vlm, detector = settings.smolvlm, settings.detector
    local = not uses_cluster(settings)
    if gpus == 0 and local:
        if vlm.enabled and vlm.gpus_per_actor > 0:
            raise ConfigError(
                f"smolvlm.gpus_per_actor: {vlm.gpus_per_actor} is set but this machine has no GPU; set it to "
                "0 to run on the CPU"
            )
        if detector.device != "cpu":
            raise ConfigError(
                f"detector.device: {detector.device} is set but this machine has no GPU; set it to cpu"
            )
    annotators = 0
    if vlm.enabled:
        fitting = int((gpus or 1) // vlm.gpus_per_actor) if vlm.gpus_per_actor > 0 else 1
        annotators = max(1, fitting) if vlm.actors == "auto" else vlm.actors
    threads = detector.threads
    others = annotators + math.ceil(_commit_workers(int(cpus) // threads, annotators) * _COMMIT_CPUS)
    free = max(1, int(cpus) - (0 if local else others)) // threads
    detectors = max(1, free) if detector.actors == "auto" else detector.actors
    planned = StageResources(
        detect=Resources(
            workers=detectors, gpus=0 if detector.device == "cpu" else 1, gpu_setting="detector.device"
        ),
        annotate=Resources(workers=annotators, gpus=vlm.gpus_per_actor, gpu_setting="smolvlm.gpus_per_actor")
        if vlm.enabled
        else None,
        commit=Resources(
            workers=_commit_workers(detectors, annotators), cpus=_COMMIT_CPUS, shards_per_worker=8
        ),
    )
    if not local and gpus is not None and planned.cpus > cpus:
        log.warning("the run needs %.1f cores but the cluster has %.0f; it may wait", planned.cpus, cpus)
    return planned


def _commit_workers(detectors: int, annotators: int) -> int:
    fewest, most = _COMMITS
    return min(most, max(fewest, math.ceil(detectors / _DETECTORS_PER_COMMIT) + annotators))
