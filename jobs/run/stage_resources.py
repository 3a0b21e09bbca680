"""Decide how many workers each stage gets, and what each of them reserves."""

from __future__ import annotations

import logging
import math
import os
import socket
from dataclasses import dataclass, replace

from actors.actor_bounds import ActorBounds
from actors.errors import ConfigError
from actors.smolvlm.fitting_batches import MOST_PIXELS_BYTES
from actors.stages import Resources
from jobs.settings import Settings

log = logging.getLogger("shopframe")

_COMMIT_CPUS = 0.1
"""Cores of a commit worker of a local Ray. It waits for the store most of the time."""
_DETECTORS_PER_COMMIT = 2
_COMMITS = (2, 128)
"""Fewest and most commit workers. S3 takes 3,500 writes per second and prefix, which is what 128 workers make
that write five objects a shard with an answer in 0.2 s."""

_CLUSTER_COMMIT_CPUS = 0.001
"""Cores of a commit worker of a cluster. Their time is the part of a core that each detector reserves for it.
What they reserve themselves only keeps them off a head without cores, because Ray Data sets aside what all of
them together may reserve, even before they are needed."""
_CPUS_BESIDE_DETECTOR = 0.05
"""Cores that a detector of a cluster reserves for half a commit, so that detectors never fill a node."""
_LEAST_DETECTOR_CPUS = 0.5
_ANNOTATOR_CPUS = 0.9
"""Cores of an annotator of a cluster: with a detector and commits it fits on a node with two cores."""

_DETECTOR_BYTES = 450 * 10**6
"""Memory of a detector without a shard, measured."""
_BLOCKS_PER_DETECTOR = 4
"""Memory of a detector for a shard, in sizes of the largest block."""
_ANNOTATOR_BYTES = 2 * 2**30
"""Memory of an annotator without a shard: torch and the default model in float32, and small batches. One with
a GPU has larger batches, whose pixels it prepares in the memory of its node, too."""

_REACHABLE_S = 10.0
"""Seconds in which a cluster has to accept a connection."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a cluster can grow to; None where it isn't known.

    Attributes:
        cpus: Number of cores of all nodes that the autoscaler may start and detectors may run on.
        gpus: Number of GPUs of all nodes that the autoscaler may start and annotators may run on.
        node_cpus: Number of cores of the largest node for detectors that is up or that may be started.
        states_memory: Whether the autoscaler knows how much memory a node will have. Where it doesn't, it
            starts no node for a worker that reserves memory.
    """

    cpus: float | None = None
    gpus: float | None = None
    node_cpus: float | None = None
    states_memory: bool = True


@dataclass(frozen=True, slots=True)
class StageResources:
    """The resources of each stage. `annotate` is None if no local annotator is enabled."""

    detect: Resources
    annotate: Resources | None
    commit: Resources

    @property
    def cpus(self) -> float:
        """Number of cores that the workers reserve together at the start."""
        stages = [self.detect, self.commit, *([self.annotate] if self.annotate else [])]
        return sum(stage.workers * stage.cpus for stage in stages)


def uses_cluster(settings: Settings) -> bool:
    """Return whether the run connects to a cluster instead of starting a Ray of its own."""
    return ray_address(settings) != "local"


def ray_address(settings: Settings) -> str:
    """Return the address of the cluster, or "local"."""
    return settings.ray.address or os.environ.get("RAY_ADDRESS") or "local"


def check_reachable(settings: Settings) -> None:
    """Check that the cluster, if there is one, accepts connections.

    Ray itself would retry for minutes without a message.

    Raises:
        ConfigError: The cluster can't be reached.
    """
    address = ray_address(settings)
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


def plan_resources(
    settings: Settings, cpus: float, gpus: float | None, reach: Reach = Reach()
) -> StageResources:
    """Divide the cores: annotators first, then commits, then a detector on each remaining core.

    A local Ray keeps its workers. On a cluster, the pools of actors grow and shrink between bounds: they
    start with what is up, and follow the work as nodes come and go. The number of commit workers follows
    from those that they work for, so that commits keep up with a cluster of any size.

    Args:
        settings: The settings.
        cpus: Number of cores that detectors may use; for a local Ray, those of the machine.
        gpus: Number of GPUs that annotators may use, or None if it isn't known yet.
        reach: What the cluster can grow to.

    Raises:
        ConfigError: If the settings ask for a GPU and there is none.
    """
    if uses_cluster(settings):
        return _plan_cluster(settings, cpus, gpus or 0, reach)
    return _plan_machine(settings, int(cpus), gpus)


def _plan_machine(settings: Settings, cpus: int, gpus: float | None) -> StageResources:
    vlm, detector = settings.smolvlm, settings.detector
    if gpus == 0:
        if vlm.enabled and vlm.gpus_per_actor > 0:
            raise ConfigError(
                f"smolvlm.gpus_per_actor: {vlm.gpus_per_actor} is set but this machine has no GPU; set it to "
                "0 to run on the CPU"
            )
        if detector.device != "cpu":
            raise ConfigError(
                f"detector.device: {detector.device} is set but this machine has no GPU; set it to cpu"
            )
    annotators = vlm.actors.within(_fitting_annotators(settings, gpus or 1)) if vlm.enabled else 0
    detectors = detector.actors.within(max(1, cpus // detector.threads))
    return StageResources(
        detect=_detect(settings, detectors, cpus=detector.threads),
        annotate=_annotate(settings, annotators, cpus=1) if vlm.enabled else None,
        commit=_commit(_commit_workers(detectors, annotators), _COMMIT_CPUS),
    )


def _plan_cluster(settings: Settings, cpus: float, gpus: float, reach: Reach) -> StageResources:
    vlm, detector = settings.smolvlm, settings.detector
    block_bytes = settings.crops.max_block_bytes
    annotate, annotators, most_annotators = None, 0, 0
    if vlm.enabled:
        most_gpus = max(gpus, reach.gpus or 0)
        bounds = _bounded(vlm.actors, _fitting_annotators(settings, most_gpus))
        annotators = bounds.within(_fitting_annotators(settings, gpus))
        most_annotators = bounds.max or annotators
        annotate = replace(
            _annotate(settings, annotators, cpus=_ANNOTATOR_CPUS),
            bounds=bounds,
            memory_bytes=_annotator_bytes(settings) if reach.states_memory else None,
            node_resource=vlm.node_resource,
        )
    commits = _COMMITS[1] * _CLUSTER_COMMIT_CPUS
    each = detector.threads + _CPUS_BESIDE_DETECTOR
    # Where only detectors have a resource, annotators may still run on their nodes.
    shares_nodes = vlm.enabled and vlm.node_resource in (None, detector.node_resource)
    largest = reach.node_cpus or cpus
    if largest:
        # More than what a node has beside an annotator could never be reserved there.
        beside = _ANNOTATOR_CPUS if shares_nodes and not vlm.gpus_per_actor else 0
        each = max(_LEAST_DETECTOR_CPUS, min(each, largest - beside - commits))

    def fitting(cores: float, devices: float) -> int:
        taken = annotators * _ANNOTATOR_CPUS if shares_nodes else 0
        left = int((cores - taken - commits) / each)
        if detector.device != "cpu":
            left = min(left, int(devices - annotators * vlm.gpus_per_actor))
        return max(1, left)

    known = reach.cpus is not None
    most = fitting(max(cpus, reach.cpus or 0), max(gpus, reach.gpus or 0)) if known else None
    bounds = _bounded(detector.actors, most)
    planned = StageResources(
        detect=replace(
            _detect(settings, bounds.within(fitting(cpus, gpus)), cpus=each),
            bounds=bounds,
            memory_bytes=_DETECTOR_BYTES + _BLOCKS_PER_DETECTOR * block_bytes
            if reach.states_memory
            else None,
            node_resource=detector.node_resource,
        ),
        annotate=annotate,
        commit=_commit(_commit_workers(bounds.max, most_annotators), _CLUSTER_COMMIT_CPUS),
    )
    if planned.cpus > max(cpus, reach.cpus or 0):
        log.warning("the run needs %.1f cores but the cluster has %.0f; it may wait", planned.cpus, cpus)
    return planned


def _fitting_annotators(settings: Settings, gpus: float) -> int:
    each = settings.smolvlm.gpus_per_actor
    return max(1, int(gpus // each)) if each > 0 else 1


def _annotator_bytes(settings: Settings) -> int:
    pixels_bytes = MOST_PIXELS_BYTES if settings.smolvlm.gpus_per_actor > 0 else 0
    return _ANNOTATOR_BYTES + settings.crops.max_block_bytes + pixels_bytes


def _bounded(bounds: ActorBounds, most: int | None) -> ActorBounds:
    """Return the bounds with a maximum, if one is known, where the settings leave it to the cluster."""
    if bounds.max is not None or most is None:
        return bounds
    return ActorBounds(min=bounds.min, max=max(bounds.min, most))


def _detect(settings: Settings, workers: int, cpus: float) -> Resources:
    gpus = 0 if settings.detector.device == "cpu" else 1
    return Resources(workers, cpus, gpus, gpu_setting="detector.device")


def _annotate(settings: Settings, workers: int, cpus: float) -> Resources:
    return Resources(workers, cpus, settings.smolvlm.gpus_per_actor, gpu_setting="smolvlm.gpus_per_actor")


def _commit(workers: int, cpus: float) -> Resources:
    return Resources(workers, cpus, shards_per_worker=8)


def _commit_workers(detectors: int | None, annotators: int) -> int:
    fewest, most = _COMMITS
    if detectors is None:
        return most
    return min(most, max(fewest, math.ceil(detectors / _DETECTORS_PER_COMMIT) + annotators))
