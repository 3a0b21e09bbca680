"""Gemini's stage of a run: the throttled actor, and shards of the backlog handed to it a few at a time."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray

from actors.attributes import AttributeSchema
from actors.committer import Committer
from actors.drain_shard import Drained, DrainTask, ShardDrainer
from actors.errors import ConfigError
from actors.gemini_annotator import Asked, GeminiAnnotator, Stop
from actors.gemini_batches import BatchRun, GeminiBatches
from actors.gemini_egress import AskedCrop
from actors.gemini_settings import GeminiSettings, ResolvedGemini
from actors.quota import Clock
from actors.recut import Recutter
from actors.storage.object_store import ObjectStore
from jobs.run_log import log

_NAMESPACE = "shopframe"
_CALLS = 1000
"""Of the actor at once: shards that wait, not requests."""

_AT_ONCE = 8
"""Shards in work: enough to fill a request with the few persons that each may have left, few enough to
hold their crops in memory."""


def start_annotator(
    settings: GeminiSettings,
    resolved: ResolvedGemini,
    schema: AttributeSchema,
    store: ObjectStore,
    clock: Clock | None = None,
) -> Any:
    """The throttled actor of these settings and this output, started if the cluster hasn't got it.

    Jobs that ask alike share it; others have one of their own, and share the ledger. It restarts wherever
    there is room, and knows what was spent from the ledger.

    Returns:
        Its handle.
    """
    asked = f"{settings.model_dump_json()} {resolved.fingerprint} {store.uri}"
    name = f"gemini-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"
    remote = ray.remote(GeminiAnnotator)
    return remote.options(
        name=name,
        namespace=_NAMESPACE,
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=_CALLS,
    ).remote(settings, resolved, schema, store, clock)


@dataclass(slots=True)
class GeminiRun:
    """What the stage did in this run."""

    answered: int = 0
    shards: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)
    stop: Stop | None = None

    @property
    def failed(self) -> bool:
        """Whether something went wrong that waiting for the quota won't mend."""
        return bool(self.errors) or (self.stop is not None and self.stop.kind in ("refused", "unreachable"))

    def as_dict(self) -> dict[str, Any]:
        """For `progress.json`."""
        return {
            "answered": self.answered,
            "shards": self.shards,
            "failed": self.failed,
            "errors": dict(self.errors[:5]),
            "stopped": None if self.stop is None else asdict(self.stop),
        }


class GeminiStage:
    """Hands shards to the actor, a few at a time, in the order in which they are offered.

    Args:
        annotator: Handle of the throttled actor.
        drainer: What works off a shard.
        is_batch: Whether the annotator is one of batch mode.
    """

    def __init__(self, annotator: Any, drainer: ShardDrainer, is_batch: bool = False) -> None:
        self.done = GeminiRun()
        self._annotator = annotator
        self._is_batch = is_batch
        self._worker: Any = (
            ray.remote(_DrainWorker)
            .options(num_cpus=0, max_concurrency=_AT_ONCE, max_restarts=-1, max_task_retries=2)
            .remote(drainer, annotator)
        )
        self._offered: deque[DrainTask] = deque()
        self._running: list[Any] = []
        try:
            ray.get(annotator.begin.remote())
        except ray.exceptions.RayActorError as error:
            raise ConfigError(
                "gemini: its actor can't start; on a cluster every node needs GEMINI_API_KEY in its "
                f"environment: {str(error).strip().splitlines()[-1]}"
            ) from None

    def offer(self, tasks: Iterable[DrainTask]) -> None:
        """Add to the backlog."""
        self._offered.extend(tasks)

    def advance(self, timeout_s: float = 0.0) -> list[Drained]:
        """Begin what can begin, and take what is finished; waits so long for the first.

        Once the stage has stopped, shards in work end by themselves and no others begin. In batch mode
        nothing begins before all shards are known.
        """
        return [] if self._is_batch else self._advance(timeout_s)

    def _advance(self, timeout_s: float) -> list[Drained]:
        while self._offered and len(self._running) < _AT_ONCE and self.done.stop is None:
            self._running.append(self._worker.drain.remote(self._offered.popleft()))
        if not self._running:
            return []
        ready, self._running = ray.wait(
            self._running, num_returns=len(self._running), timeout=timeout_s, fetch_local=True
        )
        finished = [ray.get(reference) for reference in ready]
        for drained in finished:
            self._count(drained)
        return finished

    def finish(self, said: Callable[[GeminiRun, int], None], poll_s: float = 0.5) -> GeminiRun:
        """Work until there is nothing to do or the stage stops.

        Args:
            said: Called now and then with what was done and how many shards are left.
            poll_s: How often.
        """
        stop = self._run_batches(said, poll_s) if self._is_batch and self._offered else None
        while self._running or (self._offered and self.done.stop is None):
            self._advance(poll_s)
            said(self.done, len(self._running) + len(self._offered))
        ray.get(self._annotator.finish.remote())
        # Kept back until now: what a stopped batch had brought is committed all the same.
        self.done.stop = self.done.stop or stop
        return self.done

    def _run_batches(self, said: Callable[[GeminiRun, int], None], poll_s: float) -> Stop | None:
        running = self._annotator.run.remote(list(self._offered))
        while not ray.wait([running], timeout=poll_s)[0]:
            said(self.done, len(self._offered))
        batches: BatchRun = ray.get(running)
        if batches.stop is not None:
            log.warning("gemini stops: %s: %s", batches.stop.kind, batches.stop.reason)
        return batches.stop

    def _count(self, drained: Drained) -> None:
        self.done.answered += drained.answered
        self.done.shards += drained.summary is not None
        if drained.stop is not None and self.done.stop is None:
            self.done.stop = drained.stop
            log.warning("gemini stops: %s: %s", drained.stop.kind, drained.stop.reason)
        if drained.error is not None:
            self.done.errors.append((drained.shard_id, drained.error))
            log.error("gemini: shard %s: %s", drained.shard_id, drained.error)


def make_stage(
    settings: GeminiSettings,
    resolved: ResolvedGemini,
    schema: AttributeSchema,
    committer: Committer,
    recutter: Recutter,
    clock: Clock | None = None,
) -> GeminiStage:
    """The stage of a run, its actor started."""
    drainer = ShardDrainer(committer, schema, resolved, settings.cameras, recutter)
    if settings.mode == "batch":
        remote = ray.remote(GeminiBatches).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        return GeminiStage(remote.remote(settings, drainer, clock), drainer, is_batch=True)
    annotator = start_annotator(settings, resolved, schema, committer.store, clock)
    return GeminiStage(annotator, drainer)


class _DrainWorker:
    """Works off several shards at once, in threads: they wait for Gemini nearly all of the time."""

    def __init__(self, drainer: ShardDrainer, annotator: Any) -> None:
        self._drainer = drainer
        self._annotator = annotator

    def drain(self, task: DrainTask) -> Drained:
        """One shard."""
        return self._drainer.drain(task, self._ask)

    def _ask(self, crops: Sequence[AskedCrop]) -> Asked:
        answer: Asked = ray.get(self._annotator.ask.remote(list(crops)))
        return answer
