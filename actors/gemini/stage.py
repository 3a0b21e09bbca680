"""The Gemini stage of a run, which hands shards of the backlog to an annotator actor."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_fixed

from actors.attributes import AttributeSchema
from actors.commit.committer import Committer
from actors.detect.restored_crops import CropRestorer
from actors.errors import ConfigError
from actors.gemini.backlog.admission import MOST_SHARDS, admits_another
from actors.gemini.backlog.claims import BEAT_S, Claim
from actors.gemini.backlog.drain import Drained, ShardDrainer
from actors.gemini.backlog.drain_actor import DrainActor
from actors.gemini.batch import BatchAnnotator
from actors.gemini.batch_records import open_batches
from actors.gemini.gemini_run import GeminiRun
from actors.gemini.in_flight import persons_ahead
from actors.gemini.online import OnlineAnnotator
from actors.gemini.protocol import DrainTask, Progress, Stop
from actors.gemini.quota.quota import Clock
from actors.gemini.sender import begin_run
from actors.gemini.settings import GeminiSettings, ResolvedGemini
from actors.gemini.stall_watch import StallWatch
from actors.log_lines import LineFields, about_shard, log_passed_on
from actors.storage.object_store import ObjectStore

log = logging.getLogger(__name__)

_NAMESPACE = "shopframe"
_CALLS = 1000
"""Concurrent calls that the actor accepts: shards that wait, not requests in flight."""

_NAME_TRIES = 20
"""Number of tries, a second apart, to start the actor while that of an ended job still has its name."""

_MOST_LOSSES = 5
"""How often the actor that works off shards may die with one, after Ray's own tries for it."""

_LONGEST_AWAY_S = 300.0
"""Seconds for which that actor may be away when everything else is done. A node that is gone is noticed
sooner."""


def start_annotator(
    settings: GeminiSettings,
    resolved: ResolvedGemini,
    schema: AttributeSchema,
    store: ObjectStore,
    run_id: str,
    clock: Clock | None = None,
    log_run_id: str | None = None,
) -> Any:
    """Return the throttled actor for these settings and this output, and start it if it isn't running yet.

    Jobs with the same settings, prompt, schema and output share one actor, and one run in the ledger. Other
    jobs have their own actor, but share the ledger. If the actor dies, Ray restarts it on any node with room,
    and it reads from the ledger what was spent. The actor ends with the job that started it, whose id is in
    the lines of its log. Another job that needs it then starts a new one.

    Returns:
        The handle of the actor.
    """
    asked = f"{settings.model_dump_json()} {resolved.fingerprint} {store.uri}"
    name = f"gemini-{hashlib.sha256(asked.encode()).hexdigest()[:16]}"
    remote = ray.remote(OnlineAnnotator).options(
        name=name,
        namespace=_NAMESPACE,
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        max_concurrency=_CALLS,
    )
    # When a job ends, Ray forgets the actor's class before the actor's name. Until the name is gone too, it
    # finds an actor that it can't load, which it reports by a failed assertion.
    attempts = Retrying(
        retry=retry_if_exception_type(AssertionError),
        wait=wait_fixed(1),
        stop=stop_after_attempt(_NAME_TRIES),
        reraise=True,
    )
    return attempts(lambda: remote.remote(settings, resolved, schema, store, clock, run_id, log_run_id))


@dataclass(frozen=True, slots=True)
class _Claimed:
    """A shard to try again at a time: another run has claimed it, or the actor that had it was lost."""

    task: DrainTask
    claim: Claim
    again_at: float


class BacklogWorker:
    """Hands shards to the actor in the order in which they are offered, to keep enough persons in progress.

    Args:
        find_annotator: Returns the handle of the annotator's actor, and starts the actor if it isn't running.
        drainer: Works off a shard.
        holder: Name of this run in its claims.
        run_id: Id of this run in the ledger.
        waits_for_all: The attribute of the same name of the annotator's class.
        persons_ahead: Number of persons that should be in progress.
        log_run_id: Id of this run in the lines of its log, which its actors write, too; None if they don't.

    Attributes:
        done: What was done so far.
        progress: What the annotator said last about itself.
        store_requests: What was asked of the stores for the shards that were worked off.

    Raises:
        ConfigError: The annotator's actor can't start.
    """

    def __init__(
        self,
        find_annotator: Callable[[], Any],
        drainer: ShardDrainer,
        holder: str,
        run_id: str,
        waits_for_all: bool,
        persons_ahead: int,
        log_run_id: str | None = None,
    ) -> None:
        self.done = GeminiRun()
        self.progress: Progress | None = None
        self.store_requests: Counter[tuple[str, str]] = Counter()
        self._find_annotator = find_annotator
        self._annotator = find_annotator()
        self._asked_progress: Any = None
        self._waits_for_all = waits_for_all
        self._persons_ahead = persons_ahead
        self._worker: Any = (
            ray.remote(DrainActor)
            .options(num_cpus=0, max_concurrency=MOST_SHARDS, max_restarts=-1, max_task_retries=2)
            .remote(drainer, find_annotator, holder, log_run_id)
        )
        self._offered: deque[DrainTask] = deque()
        self._later: deque[DrainTask] = deque()
        self._committed: set[str] = set()
        self._running: dict[Any, DrainTask] = {}
        self._claimed: list[_Claimed] = []
        self._losses: Counter[str] = Counter()
        self._finished = 0
        try:
            ray.get(self._annotator.begin.remote(run_id))
        except ray.exceptions.RayActorError as error:
            if not error.actor_init_failed:
                raise  # It died, for example with its node.
            reason = str(error).strip().splitlines()[-1]
            needed = "on a cluster every node needs GEMINI_API_KEY in its environment"
            raise ConfigError(f"gemini: the actor can't start; {needed}: {reason}") from None

    @property
    def backlog(self) -> int:
        """Number of shards that are offered and not worked off, those in progress included."""
        return len(self._offered) + len(self._later) + len(self._running) + len(self._claimed)

    def offer(self, tasks: Iterable[DrainTask]) -> None:
        """Add shards to the backlog."""
        self._offered.extend(tasks)

    def advance(self, watch: StallWatch) -> list[Drained]:
        """Start the shards that can start, and return those that have finished, beside other work of the run.

        The run is told if nothing moves, but goes on with its other work. Once the stage has stopped, shards
        in progress still finish, but no others start. If the annotator waits for all shards, nothing starts
        before `finish`.
        """
        if self._waits_for_all:
            return []
        finished = self._advance(timeout_s=0.0)
        self._look(watch, may_end=False)
        return finished

    def _advance(self, timeout_s: float) -> list[Drained]:
        now = time.monotonic()
        self._offered.extend(claimed.task for claimed in self._claimed if claimed.again_at <= now)
        self._claimed = [claimed for claimed in self._claimed if claimed.again_at > now]
        if not self._offered:
            self._offered, self._later = self._later, self._offered
        while (
            self._offered
            and self.done.stop is None
            and admits_another(self._running.values(), self._persons_ahead)
        ):
            task = self._offered.popleft()
            self._running[self._worker.drain.remote(task)] = task
        if not self._running:
            time.sleep(timeout_s)
            return []
        ready, _ = ray.wait([*self._running], num_returns=len(self._running), timeout=timeout_s)
        finished = []
        for reference in ready:
            task = self._running.pop(reference)
            drained = self._get(reference, task)
            if drained is None:
                self._claimed.append(_Claimed(task, "unknown", time.monotonic() + BEAT_S))
                continue
            self._finished += 1
            self.store_requests.update(drained.store_requests)
            _log(drained.lines)
            if drained.claim == "ours":
                self._count(drained)
                finished.append(drained)
                self._later.extend([] if drained.error else task.rest(drained.waiting))
            else:
                self._claimed.append(_Claimed(task, drained.claim, time.monotonic() + BEAT_S))
        return finished

    def _get(self, reference: Any, task: DrainTask) -> Drained | None:
        """Return what was done, or None if the actor couldn't be reached or died, and Ray has given up.

        Ray tries a few times, because a shard may be what kills the actor. If its node is gone, all tries can
        be spent before Ray knows that, and starts the actor on another node.
        """
        try:
            drained: Drained = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            is_away = isinstance(error, ray.exceptions.ActorUnavailableError)
            self._losses[task.shard_id] += not is_away
            if error.actor_init_failed or self._losses[task.shard_id] > _MOST_LOSSES:
                raise
            with about_shard(task.shard_id):
                log.warning("gemini: shard %s is tried again: %s", task.shard_id, error)
            return None
        return drained

    def finish(
        self, said: Callable[[GeminiRun, int], None], watch: StallWatch, poll_s: float = 0.5
    ) -> GeminiRun:
        """Work until there is nothing left to do or the stage stops.

        Shards that another living run works on are left to it. Shards of a dead run are taken over; it takes
        some seconds to find out that a run is dead.

        Args:
            said: Called repeatedly with what was done so far and the number of shards that are left.
            watch: Notices that nothing moves.
            poll_s: Longest time between two such calls, in seconds.

        Raises:
            StalledError: Nothing moves.
        """
        stop = self._collect(said, watch, poll_s) if self._waits_for_all and self._offered else None
        while self._running or (self.done.stop is None and self._has_more):
            self._advance(poll_s)
            said(self.done, len(self._running) + len(self._offered) + len(self._later))
            self._look(watch)
        self.done.held = sum(claimed.claim == "theirs" for claimed in self._claimed)
        attempts = Retrying(
            retry=retry_if_exception_type(ray.exceptions.ActorUnavailableError),
            wait=wait_fixed(BEAT_S),
            stop=stop_after_delay(_LONGEST_AWAY_S),
            reraise=True,
        )
        self.done.spent, lines = attempts(lambda: ray.get(self._worker.finish.remote()))
        _log(lines)
        with suppress(ray.exceptions.RayActorError):  # The actor of another run may have ended with that run.
            self._take(ray.get(self._annotator.progress.remote()))
        # The stop takes effect only now, so that answers that came before it are still committed.
        self.done.stop = self.done.stop or stop
        return self.done

    @property
    def _has_more(self) -> bool:
        return bool(self._offered or self._later or any(c.claim == "unknown" for c in self._claimed))

    def _look(self, watch: StallWatch, may_end: bool = True) -> None:
        """Ask how far the annotator is, without waiting for its answer, and look whether anything moves."""
        if self._asked_progress is None:
            self._asked_progress = self._annotator.progress.remote()
        if ray.wait([self._asked_progress], timeout=0)[0]:
            try:
                self._take(ray.get(self._asked_progress))
            except ray.exceptions.RayActorError:  # The actor of another run has ended with that run.
                self._annotator = self._find_annotator()
            self._asked_progress = None
            found = self.progress
        else:
            found = None
        in_progress = [task.shard_id for task in self._running.values()]
        watch.look(found, self._finished, in_progress, may_end)

    def _take(self, progress: Progress) -> None:
        self.progress = progress
        _log(progress.lines)

    def _collect(
        self, said: Callable[[GeminiRun, int], None], watch: StallWatch, poll_s: float
    ) -> Stop | None:
        running = self._annotator.collect.remote(list(self._offered))
        while not ray.wait([running], timeout=poll_s)[0]:
            said(self.done, len(self._offered))
            self._look(watch)
        stop: Stop | None = ray.get(running)
        if stop is not None:
            log.warning("gemini stopped: %s: %s", stop.kind, stop.reason)
        return stop

    def _count(self, drained: Drained) -> None:
        self.done.answered += drained.answered
        self._committed |= set() if drained.summary is None else {drained.shard_id}
        self.done.shards = len(self._committed)
        if drained.stop is not None and self.done.stop is None:
            self.done.stop = drained.stop
            log.warning("gemini stopped: %s: %s", drained.stop.kind, drained.stop.reason)
        if drained.error is not None:
            self.done.errors.append((drained.shard_id, drained.error))
            with about_shard(drained.shard_id):
                log.error("gemini: shard %s: %s", drained.shard_id, drained.error)


def _log(lines: Iterable[LineFields]) -> None:
    for line in lines:
        log_passed_on(line)


def make_stage(
    settings: GeminiSettings,
    resolved: ResolvedGemini,
    schema: AttributeSchema,
    committer: Committer,
    crop_restorer: CropRestorer,
    clock: Clock | None = None,
    log_run_id: str | None = None,
) -> BacklogWorker:
    """Make the stage of a run and start its actors, which log lines with `log_run_id` if it is given."""
    # In batch mode all answers are there before the first shard is worked off.
    reask = settings.reask_violations and settings.mode == "online"
    drainer = ShardDrainer(committer, schema, resolved, settings.cameras, crop_restorer, reask)
    holder = uuid.uuid4().hex
    run_id = begin_run(settings, committer.store, clock)
    ahead = persons_ahead(settings.max_in_flight, settings.quota_limits, settings.persons_per_request)
    if settings.mode == "batch":
        remote = ray.remote(BatchAnnotator).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
        annotator = remote.remote(settings, drainer, holder, clock, run_id, log_run_id)
        waits = BatchAnnotator.waits_for_all
        return BacklogWorker(lambda: annotator, drainer, holder, run_id, waits, ahead, log_run_id)
    in_jobs = _ended_jobs(settings, drainer, holder, run_id, clock, log_run_id)
    drainer = replace(drainer, in_jobs=frozenset(in_jobs))
    store, waits = committer.store, OnlineAnnotator.waits_for_all
    find_annotator = partial(start_annotator, settings, resolved, schema, store, run_id, clock, log_run_id)
    stage = BacklogWorker(find_annotator, drainer, holder, run_id, waits, ahead, log_run_id)
    stage.done.in_jobs = len(in_jobs)
    return stage


def _ended_jobs(
    settings: GeminiSettings,
    drainer: ShardDrainer,
    holder: str,
    run_id: str,
    clock: Clock | None,
    log_run_id: str | None,
) -> list[str]:
    """Get the answers of batch jobs that have ended, and return the digests of crops in all others."""
    if next(open_batches(drainer.committer.store, drainer.resolved.question), None) is None:
        return []
    remote = ray.remote(BatchAnnotator).options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
    annotator: Any = remote.remote(settings, drainer, f"{holder}-jobs", clock, run_id, log_run_id)
    found: list[str] = ray.get(annotator.collect_ended.remote())
    _log(ray.get(annotator.progress.remote()).lines)
    return found
