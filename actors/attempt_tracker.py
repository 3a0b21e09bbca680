"""Track which worker is processing which shard, and since when.

This limits the retries of shards that crash their workers, and tells a stall from slow work.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray._private.state import state as global_state
from ray.core.generated.common_pb2 import NODE_OUT_OF_MEMORY  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import WorkerTableData  # type: ignore[attr-defined]

from actors.log_lines import MOST_LINES, LineFields
from actors.records import RequestCounts


@dataclass(frozen=True, slots=True)
class InFlight:
    """A shard that a worker has started and not finished; `for_s` is the time since then, in seconds."""

    stage: str
    shard_id: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of all stages at one moment.

    Attributes:
        in_flight: Shards in progress, the longest first, at most 20.
        frames: Frames that the detector has processed so far, including those not committed yet.
        persons: Persons kept so far, including those not committed yet.
        answers: Answers of local annotators so far, including those not committed yet.
        steps: Number that grows whenever anything has moved: a frame, a person, an answer, or the start or
            end of a shard in a stage.
        in_progress: Number of shards in progress, by stage.
        deaths: Number of workers that died while they processed a shard, by stage.
        retries: Number of times that a shard is tried again after a fault of the infrastructure.
        store_requests: What the workers of the stages have asked of the stores.
        lines: Warnings and errors that workers have logged since the last snapshot.
    """

    in_flight: tuple[InFlight, ...] = ()
    frames: int = 0
    persons: int = 0
    answers: int = 0
    steps: int = 0
    in_progress: Mapping[str, int] = field(default_factory=dict)
    deaths: Mapping[str, int] = field(default_factory=dict)
    retries: int = 0
    store_requests: RequestCounts = field(default_factory=dict)
    lines: tuple[LineFields, ...] = ()


@dataclass(frozen=True, slots=True)
class Deaths:
    """How many workers died while they processed a shard, other than with their nodes.

    Attributes:
        by_shard: Those that the shard may have killed.
        for_memory: Those that Ray's memory monitor killed because their node was short of memory.
    """

    by_shard: int = 0
    for_memory: int = 0


@dataclass(frozen=True, slots=True)
class _Started:
    node_id: str
    worker_id: str
    deaths: Deaths
    is_begun: bool = True
    since: float = field(default_factory=time.monotonic)


def live_nodes() -> set[str]:
    """Return the ids of the nodes that are alive."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]


def killed_for_memory(worker_id: str) -> bool:
    """Return whether Ray's memory monitor has killed a worker.

    Without a dashboard, no public interface of Ray says it.
    """
    told = global_state._connect_and_get_accessor().get_worker_info(ray.WorkerID.from_hex(worker_id))
    if told is None:
        return False
    return bool(WorkerTableData.FromString(told).exit_type == NODE_OUT_OF_MEMORY)


class AttemptTracker:
    """Counts how often each shard has killed a worker of each stage.

    Ray runs a task again whenever its worker dies. That is right if the worker was killed by chance, but
    never ends if the shard itself crashes its workers; only the count tells the two apart. A worker that died
    with its node doesn't count, and those that were killed because their nodes were short of memory have a
    count of their own, because others may have taken the memory. The counts last for one run, so a killed run
    never counts against the shards that it was processing.

    Args:
        live_nodes: Returns the ids of the nodes that are alive.
        killed_for_memory: Returns whether the worker with this id was killed because memory was short.
    """

    def __init__(
        self,
        live_nodes: Callable[[], set[str]] = live_nodes,
        killed_for_memory: Callable[[str], bool] = killed_for_memory,
    ) -> None:
        self._live_nodes = live_nodes
        self._killed_for_memory = killed_for_memory
        self._started: dict[tuple[str, str], _Started] = {}
        self._seen: Counter[str] = Counter()
        self._refusals: dict[str, str] = {}
        self._steps = 0
        self._deaths: Counter[str] = Counter()
        self._retries = 0
        self._lines: deque[LineFields] = deque(maxlen=MOST_LINES)
        self._store_requests: Counter[tuple[str, str]] = Counter()

    def start_together(self, stage: str, shard_ids: Sequence[str], node_id: str, worker_id: str) -> bool:
        """Record that a worker on a node has all shards of a parcel, and begins with the first.

        Returns:
            False if a worker has died with them. Nothing is recorded then, and each must be started by itself
            and without the others, because only then can it be known which one the worker dies of.
        """
        before = [self._started.pop((stage, shard_id), None) for shard_id in shard_ids]
        if any(before):
            self._deaths[stage] += 1
            return False
        for number, shard_id in enumerate(shard_ids):
            self._started[stage, shard_id] = _Started(node_id, worker_id, Deaths(), is_begun=number == 0)
        self._steps += 1
        return True

    def begin(self, stage: str, shard_id: str, worker_id: str) -> None:
        """Record that a worker has begun with a shard of its parcel, and is done with those before."""
        begun = self._started.get((stage, shard_id))
        if begun is None or begun.worker_id != worker_id:
            return
        for key, other in self._started.items():
            if other.is_begun and key[0] == stage and other.worker_id == worker_id:
                self._started[key] = replace(other, is_begun=False)
        self._started[stage, shard_id] = replace(begun, is_begun=True, since=time.monotonic())

    def start(self, stage: str, shard_id: str, node_id: str, worker_id: str) -> Deaths:
        """Record that a worker on a node starts a shard, and return how many died of the shard before."""
        before = self._started.get((stage, shard_id))
        deaths = Deaths()
        if before is not None:
            deaths = self._with_death(before)
            self._deaths[stage] += 1
        self._started[stage, shard_id] = _Started(node_id, worker_id, deaths)
        # A shard that a worker starts again and again doesn't move.
        self._steps += before is None
        return deaths

    def _with_death(self, before: _Started) -> Deaths:
        if before.node_id not in self._live_nodes():
            return before.deaths
        if self._killed_for_memory(before.worker_id):
            return replace(before.deaths, for_memory=before.deaths.for_memory + 1)
        return replace(before.deaths, by_shard=before.deaths.by_shard + 1)

    def finish(self, stage: str, shard_ids: Sequence[str], store_requests: RequestCounts) -> None:
        """Record that the worker has finished shards, successfully or not, and what it asked of stores."""
        for shard_id in shard_ids:
            self._started.pop((stage, shard_id), None)
        self._steps += 1
        self._store_requests.update(store_requests)

    def try_again(self, shards: int) -> None:
        """Record that shards are tried again after a fault of the infrastructure."""
        self._retries += shards

    def report_progress(self, frames: int = 0, persons: int = 0, answers: int = 0) -> None:
        """Add progress within a shard."""
        self._seen.update(frames=frames, persons=persons, answers=answers)
        self._steps += frames + persons + answers

    def log(self, line: LineFields) -> None:
        """Keep a line that a worker has logged until the driver asks. The oldest of too many is dropped."""
        self._lines.append(line)

    def refuse(self, node_id: str, reason: str) -> None:
        """Record that a worker can't start on a node, for example because the model can't be loaded there."""
        self._refusals.setdefault(node_id, reason)

    def refusals(self) -> dict[str, str]:
        """Return the nodes on which a worker could not start, with the first reason of each."""
        return dict(self._refusals)

    def snapshot(self) -> Snapshot:
        """Return the current state of all stages, for the driver."""
        now, lines = time.monotonic(), tuple(self._lines)
        self._lines.clear()
        begun = [item for item in self._started.items() if item[1].is_begun]
        flying = sorted(begun, key=lambda item: item[1].since)[:20]
        return Snapshot(
            in_flight=tuple(InFlight(stage, shard, now - e.since) for (stage, shard), e in flying),
            frames=self._seen["frames"],
            persons=self._seen["persons"],
            answers=self._seen["answers"],
            steps=self._steps,
            in_progress=Counter(stage for (stage, _), _ in begun),
            deaths=dict(self._deaths),
            retries=self._retries,
            store_requests=dict(self._store_requests),
            lines=lines,
        )


def start_tracker() -> Any:
    """Start a tracker as a Ray actor, which restarts on any node with room, and return its handle."""
    remote = ray.remote(AttemptTracker)
    return remote.options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
