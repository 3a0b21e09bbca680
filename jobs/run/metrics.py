"""Measure a run for Prometheus: what its driver knows becomes the metrics of `metric_names`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from actors.attempt_tracker import Snapshot
from actors.commit.accounting import ShardSummary
from actors.gemini.gemini_run import GeminiRun
from actors.gemini.protocol import Progress
from actors.gemini.stage import BacklogWorker
from actors.gemini.stall_watch import StallWatch
from actors.storage.request_counts import counted_so_far
from jobs.run import metric_names as names
from jobs.run.metric_names import Metric
from jobs.run.metric_sinks import PrometheusSink, RaySink, Sink
from jobs.settings import MetricsSettings

_PUBLISH_EVERY_S = 5.0


class RunMetrics:
    """Turns what the driver knows into metrics. Without sinks its methods return at once.

    Args:
        sinks: Where the values go.
        planned: Number of shards of the plan.
    """

    def __init__(self, sinks: tuple[Sink, ...] = (), planned: int = 0) -> None:
        self._sinks = sinks
        self._planned = planned
        self._finished = 0
        self._in_progress = 0
        self._stages: set[str] = set()
        self._seen: dict[tuple[str, ...], float] = {}
        self._published_at = 0.0
        self._set(names.RUN_ACTIVE, 1)
        self._set(names.SHARDS_WAITING, planned)
        self._publish(now=True)

    @property
    def is_on(self) -> bool:
        """Whether anybody takes the values."""
        return bool(self._sinks)

    @property
    def is_due(self) -> bool:
        """Whether readers should see newer values."""
        return self.is_on and time.monotonic() - self._published_at >= _PUBLISH_EVERY_S

    def add(self, summary: ShardSummary) -> None:
        """Count a shard that was committed or couldn't be."""
        if not self._sinks:
            return
        self._planned += summary.has_rest
        self._finished += 1
        counts = summary.counts
        self._add(names.SHARDS, 1, outcome=summary.state)
        self._add(names.FRAMES, counts.frames_ok, outcome="ok")
        self._add(names.FRAMES, counts.frames_failed, outcome="failed")
        self._add(names.PERSONS, counts.kept, outcome="kept")
        self._add(names.PERSONS, sum(counts.dropped.values()), outcome="dropped")
        for annotator, outcomes in summary.annotators.items():
            for outcome, persons in outcomes.items():
                self._add(names.ANNOTATIONS, persons, annotator=annotator, outcome=outcome)
        for stage, seconds in summary.timings_s.items():
            for sink in self._sinks:
                sink.observe(names.STAGE_SECONDS, seconds, {"stage": stage})
        self._set_waiting()

    def look(self, snapshot: Snapshot) -> None:
        """Take the state of the stages."""
        if not self._sinks:
            return
        self._in_progress = sum(snapshot.in_progress.values())
        # A stage in which nothing is in progress any more is set to 0.
        self._stages |= snapshot.in_progress.keys()
        for stage in self._stages:
            self._set(names.SHARDS_IN_PROGRESS, snapshot.in_progress.get(stage, 0), stage=stage)
        self._set_waiting()
        self._grow_to(names.SHARD_RETRIES, "tracker", snapshot.retries)
        for stage, deaths in snapshot.deaths.items():
            self._grow_to(names.WORKER_DEATHS, "tracker", deaths, stage=stage)
        self._store("stages", snapshot.store_requests)
        self._store("driver", counted_so_far())
        self._publish()

    def look_at_gemini(self, gemini: BacklogWorker) -> None:
        """Take the state of Gemini's stage."""
        if not self._sinks:
            return
        self._grow_to(names.GEMINI_PERSONS, "run", gemini.done.answered)
        self._set(names.GEMINI_BACKLOG, gemini.backlog)
        self._store("backlog", gemini.store_requests)
        self._store("driver", counted_so_far())
        if gemini.progress is not None:
            self._take_progress(gemini.progress)
        self._publish()

    def close(self) -> None:
        """Say that the run has ended."""
        self._set(names.RUN_ACTIVE, 0)
        self._publish(now=True)
        for sink in self._sinks:
            sink.close()

    def _take_progress(self, progress: Progress) -> None:
        self._set(names.GEMINI_IN_FLIGHT, progress.in_flight)
        self._store("annotator", progress.store_requests)
        if progress.traffic is not None:
            traffic = progress.traffic
            for outcome, requests in traffic.requests.items():
                self._grow_to(names.GEMINI_REQUESTS, "annotator", requests, outcome=outcome)
            self._grow_to(names.GEMINI_TOKENS, "annotator", traffic.input_tokens, direction="input")
            self._grow_to(names.GEMINI_TOKENS, "annotator", traffic.output_tokens, direction="output")
            self._grow_to(names.GEMINI_COST, "annotator", traffic.cost_usd)
        if progress.quota is not None:
            self._set(names.GEMINI_BREAKER, progress.quota.breaker_open)
            if progress.quota.left_today is not None:
                self._set(names.GEMINI_QUOTA_LEFT, progress.quota.left_today)

    def _store(self, source: str, counts: Mapping[tuple[str, str], int]) -> None:
        for (operation, result), requests in counts.items():
            self._grow_to(names.STORE_REQUESTS, source, requests, operation=operation, result=result)

    def _set_waiting(self) -> None:
        self._set(names.SHARDS_WAITING, max(0, self._planned - self._finished - self._in_progress))

    def _set(self, metric: Metric, value: float, **labels: str) -> None:
        for sink in self._sinks:
            sink.set(metric, value, labels)

    def _add(self, metric: Metric, amount: float, **labels: str) -> None:
        if amount:
            for sink in self._sinks:
                sink.add(metric, amount, labels)

    def _grow_to(self, metric: Metric, source: str, total: float, **labels: str) -> None:
        """Let a counter grow to the sum that a source reports, which begins again if the source does."""
        key = (metric.name, source, *labels.values())
        before = self._seen.get(key, 0)
        self._seen[key] = total
        self._add(metric, total - before if total >= before else total, **labels)

    def _publish(self, now: bool = False) -> None:
        if now or self.is_due:
            self._published_at = time.monotonic()
            for sink in self._sinks:
                sink.publish()


@contextmanager
def run_metrics(
    settings: MetricsSettings, run_id: str, is_on_cluster: bool, planned: int = 0
) -> Iterator[RunMetrics]:
    """Measure a run where the settings say so.

    Args:
        settings: Where metrics go.
        run_id: Id of the run.
        is_on_cluster: Whether the run is connected to a cluster, and not to a Ray of its own.
        planned: Number of shards of the plan.

    Raises:
        ConfigError: The text file can't be written, or the port can't be used.
    """
    sinks: list[Sink] = []
    if settings.textfile is not None or settings.port is not None:
        textfile = None if settings.textfile is None else Path(settings.textfile)
        sinks.append(PrometheusSink(run_id, textfile, settings.host, settings.port))
    if is_on_cluster and settings.on_cluster:
        sinks.append(RaySink(run_id))
    metrics = RunMetrics(tuple(sinks), planned)
    try:
        yield metrics
    finally:
        metrics.close()


def finish_measured(
    gemini: BacklogWorker,
    display: Callable[[GeminiRun, int], None],
    stalls: StallWatch,
    metrics: RunMetrics,
) -> GeminiRun:
    """Let Gemini's stage work until there is nothing left to do, and measure it meanwhile.

    Raises:
        StalledError: Nothing moves.
    """

    def said(done: GeminiRun, shards_left: int) -> None:
        display(done, shards_left)
        metrics.look_at_gemini(gemini)

    done = gemini.finish(said, stalls)
    metrics.look_at_gemini(gemini)
    return done
