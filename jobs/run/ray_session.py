"""Connect to Ray or start it."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import ray
import yaml
from tenacity import retry, retry_if_exception, stop_after_attempt

import actors
import conf
import jobs
from actors.errors import ConfigError, StalledError
from jobs.run import supervision
from jobs.run.stage_resources import Reach, check_reachable, plan_resources, ray_address
from jobs.settings import Settings

log = logging.getLogger("shopframe")

_STARTS = 3
"""How often a local Ray is started if its node isn't up in time."""

_UNREAD_STATISTICS = ("RAY_enable_metrics_collection", "RAY_event_stats")
"""Statistics that nothing reads if there is no dashboard. Ray's idle processes, including six actors, used
17% of a core with these statistics and 9% without."""

_WORKER_NICENESS = "5"
"""Ray's own 15 leaves hardly any room for detectors to give way to the other workers."""

_LAUNCHED = Path("~/ray_bootstrap_config.yaml")
"""Configuration of the autoscaler, which Ray's cluster launcher leaves on the head."""


@dataclass(frozen=True, slots=True)
class Session:
    """A connection to Ray.

    Attributes:
        cpus: Number of cores that are up and that detectors may use.
        gpus: Number of GPUs that are up and that annotators may use.
        reach: What the cluster can grow to.
    """

    cpus: float
    gpus: float
    reach: Reach


_UNHEARD_S = 0.002
"""Seconds for which the handler of SIGTERM may be away while Ray shuts down."""


@contextmanager
def ray_session(settings: Settings) -> Iterator[Session]:
    """Connect to the configured cluster, or start a local Ray for the duration of the run.

    After an error the connection stays open, because the process is about to end.

    Yields:
        What is up, and what the cluster can grow to.

    Raises:
        ConfigError: If the cluster can't be reached, or Ray can't start.
    """
    address = ray_address(settings)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    if address == "local":
        cores = settings.ray.num_cpus or joblib.cpu_count()
        # Annotators and commits don't occupy a core that a detector could use, because they mostly wait for
        # other things. Ray gets room for them in addition to one detector per core.
        options["num_cpus"] = math.ceil(plan_resources(settings, cores, None).cpus) + 1
        options["object_store_memory"] = settings.ray.object_store_bytes
        for name in _UNREAD_STATISTICS:
            os.environ.setdefault(name, "0")
        os.environ.setdefault("RAY_worker_niceness", _WORKER_NICENESS)
    else:
        check_reachable(settings)
    environment = dict(settings.ray.runtime_env)
    if address != "local" and "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        environment.setdefault("py_modules", [actors, jobs, conf])
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Otherwise Ray starts an actor that collects what would be reported about the use of Ray Data.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        _start_patiently(address=address, runtime_env=environment or None, **options)
        # Ray takes SIGTERM for itself and ends the process with exit code 15.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ConfigError(f"ray.address: can't use {address}: {error}") from error
    except Exception as error:
        if not _is_slow_start(error):
            raise
        raise ConfigError(f"Ray did not start: {error}; run again when the machine is less busy") from error
    supervision.say("began")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    up = _nodes_up()
    if address == "local":
        yield Session(float(cores), _total(up, "GPU", None), Reach())
    else:
        cpus = _total(up, "CPU", settings.detector.node_resource)
        gpus = _total(up, "GPU", settings.smolvlm.node_resource)
        yield Session(cpus, gpus, _reach(settings, up))
    # This is skipped after an error or interrupt: the thread that runs the graph may still be working, and
    # Ray ends the whole process if a thread uses it after shutdown. Ray's processes end with this one.
    _shut_down()


def _shut_down() -> None:
    """Shut Ray down, which takes a second, and have SIGTERM mean afterwards what it meant before.

    Ray's libraries give the signal back to the kernel somewhere on the way, so that it would end the process
    without a word, while Python still knows its handler.
    """
    if threading.current_thread() is not threading.main_thread():
        ray.shutdown()
        return
    on_terminate = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(ray.shutdown)
        has_ended = False
        while not has_ended:
            has_ended = bool(wait([ending], timeout=_UNHEARD_S).done)
            signal.signal(signal.SIGTERM, on_terminate)
    ending.result()


def ray_failed(error: ray.exceptions.RayError, when: str, log_uri: str) -> StalledError:
    """Log an error of Ray with its traceback, and return the error that ends the run for it.

    Args:
        error: The error, which is being handled.
        when: What the run was doing, as the end of a sentence.
        log_uri: Where the log is.
    """
    log.exception("Ray failed")
    # Ray's messages are whole tracebacks of its workers; the last line names the cause.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[-1] if lines else type(error).__name__
    return StalledError(
        f"Ray failed {when}: {cause}; committed shards are intact and details are in {log_uri}: "
        "fix the cause and run the same command again"
    )


_Nodes = Sequence[tuple[int, Mapping[str, float]]]
"""Numbers of nodes, and what each of these nodes has."""


def _nodes_up() -> _Nodes:
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return [(1, node["Resources"]) for node in nodes if node["Alive"]]


def _total(nodes: _Nodes, kind: str, node_resource: str | None) -> float:
    """Return how much the nodes have of a kind of resource, without nodes that lack the custom resource."""
    return sum(n * float(held.get(kind, 0)) for n, held in _having(nodes, node_resource))


def _having(nodes: _Nodes, node_resource: str | None) -> _Nodes:
    return [(n, held) for n, held in nodes if node_resource is None or held.get(node_resource)]


def _reach(settings: Settings, up: _Nodes) -> Reach:
    """Return what the autoscaler may start, if the driver is on a head that the cluster launcher made."""
    for_detectors, for_annotators = settings.detector.node_resource, settings.smolvlm.node_resource
    try:
        launched = yaml.safe_load(_LAUNCHED.expanduser().read_text(encoding="utf-8"))
        startable = [
            (int(group.get("max_workers", launched["max_workers"])), group.get("resources", {}))
            for name, group in launched["available_node_types"].items()
            if name != launched["head_node_type"]
        ]
        cpus, gpus = _total(startable, "CPU", for_detectors), _total(startable, "GPU", for_annotators)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        return Reach(node_cpus=_largest_node(_having(up, for_detectors)))
    return Reach(
        cpus,
        gpus,
        node_cpus=_largest_node(_having([*startable, *up], for_detectors)),
        states_memory=all("memory" in held for _, held in startable),
    )


def _largest_node(nodes: _Nodes) -> float | None:
    """Return the number of cores of the largest node, or None if none has any."""
    return max((float(held.get("CPU", 0)) for _, held in nodes), default=0) or None


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
