"""The work of a run on Ray: the planned shards, with Gemini beside them.

Only a run that has work imports this module, because Ray takes seconds to import and to start.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import ray

from actors.attempt_tracker import Snapshot, start_tracker
from actors.commit.committer import Committer
from actors.commit.preview_frames import PreviewFrames
from actors.detect.restored_crops import CropRestorer
from actors.detect.shard_detector import ShardDetector
from actors.gemini.gemini_run import GeminiRun
from actors.gemini.stage import make_stage
from actors.gemini.stall_watch import StallWatch
from actors.log_lines import LineFields, log_passed_on
from actors.smolvlm.shard_annotator import ShardAnnotator
from actors.stage_workers import StageContext
from actors.stages import BlockStage, annotate_stage, commit_stage, detect_stage
from actors.storage.object_store import ObjectStore
from jobs.run.gemini_display import GeminiDisplay
from jobs.run.graph import Retries, run_graph
from jobs.run.metrics import RunMetrics, finish_measured, run_metrics
from jobs.run.prepare import PreparedRun
from jobs.run.progress import ProgressDisplay, watch
from jobs.run.ray_session import ray_failed, ray_session
from jobs.run.resolve import Resolved
from jobs.run.run_log import RunLog, log
from jobs.run.stage_resources import StageResources, plan_resources, uses_cluster
from jobs.run.totals import Totals
from jobs.run.words import counted
from jobs.settings import RunSettings, Settings


@dataclasses.dataclass(frozen=True, slots=True)
class _Work:
    """The work of a run, and its log with the terminal that shows its progress."""

    settings: Settings
    resolved: Resolved
    prepared: PreparedRun
    output: ObjectStore
    log: RunLog


def work_on_ray(
    settings: Settings,
    resolved: Resolved,
    prepared: PreparedRun,
    output: ObjectStore,
    opened: RunLog,
    totals: Totals,
) -> GeminiRun:
    """Do the planned shards, and ask Gemini about the persons that wait for it.

    Args:
        settings: The settings.
        resolved: Models and fingerprints.
        prepared: The plan, and Gemini's part of the run.
        output: The output.
        opened: The log of the run.
        totals: Sums to which each shard is added when it is committed or can't be.

    Returns:
        What Gemini did.

    Raises:
        ConfigError: Ray can't be reached or started, or no node can start a worker.
        StalledError: Nothing moved within the deadline, or Ray failed.
    """
    plan = prepared.plan
    try:
        return _run_tasks(_Work(settings, resolved, prepared, output, opened), totals)
    except ray.exceptions.RayError as error:
        done = f"after {sum(totals.shards.values()):,} of {counted(len(plan.tasks), 'shard')}"
        raise ray_failed(error, done if plan.tasks else "while Gemini was asked", opened.uri) from error


def _run_tasks(work: _Work, totals: Totals) -> GeminiRun:
    settings, backlog, tasks = work.settings, work.prepared.backlog, work.prepared.plan.tasks
    sizes = {task.shard.shard_id: task.shard.size_bytes for task in tasks}
    with (
        ray_session(settings) as session,
        run_metrics(settings.metrics, work.log.run_id, uses_cluster(settings), len(tasks)) as metrics,
        ProgressDisplay(work.log.terminal, sizes) as display,
    ):
        resources = plan_resources(settings, session.cpus, session.gpus, session.reach)
        context = StageContext(
            start_tracker(), settings.run.max_attempts, work.log.run_id, settings.crops.max_block_bytes
        )
        crop_restorer = CropRestorer(
            settings.input, settings.storage, settings.crops, work.resolved.fingerprints["detect"]
        )
        committer = _committer(work)
        stages = _stages(work, resources, crop_restorer, committer)
        summaries = run_graph(tasks, stages, context, _retries(settings.run))
        gemini = None
        if backlog is not None:
            gemini = make_stage(
                settings.gemini,
                backlog.resolved,
                backlog.resolved.schema,
                committer,
                crop_restorer,
                log_run_id=work.log.run_id,
            )
            gemini.offer(backlog.at_once())
        stalls = StallWatch(settings.run.stall_warning_s, settings.run.stall_fail_s, display.say)
        snapshot = _snapshots(context, metrics, display)
        for summary in watch(
            summaries,
            snapshot,
            display,
            settings.run.stall_warning_s,
            settings.run.stall_fail_s,
        ):
            totals.add(summary)
            display.add(summary)
            metrics.add(summary)
            if metrics.is_due:
                snapshot()
            log.info("shard", extra=dataclasses.asdict(summary) | {"counts": summary.counts.model_dump()})
            if gemini is not None and backlog is not None:
                gemini.offer(backlog.committed(summary))
                gemini.advance(stalls)
                metrics.look_at_gemini(gemini)
        snapshot()  # What workers have logged since the last one, and the last values of metrics.
        if gemini is None or backlog is None:
            return GeminiRun()
        gemini.offer(backlog.afterwards())
        return finish_measured(gemini, GeminiDisplay(display.say), stalls, metrics)


def _retries(settings: RunSettings) -> Retries:
    return Retries(
        shards=settings.max_infrastructure_retries,
        pause_s=settings.infrastructure_pause_s,
        worker_starts=settings.max_worker_starts,
    )


def _stages(
    work: _Work, resources: StageResources, crop_restorer: CropRestorer, committer: Committer
) -> list[BlockStage]:
    """Return the stages of a shard: detect, annotate if a local annotator is enabled, commit."""
    settings, resolved = work.settings, work.resolved
    detector = ShardDetector(
        input=settings.input,
        storage=settings.storage,
        detector=settings.detector,
        resolved=resolved.detector,
        roi=settings.roi,
        crops=settings.crops,
        max_failed_frames=settings.run.max_failed_frames,
    )
    detects = any(task.work == "detect" for task in work.prepared.plan.tasks)
    since = settings.output.retained_since()
    stages = [detect_stage(resources.detect, detector, crop_restorer, work.output, detects, since)]
    if resolved.smolvlm is not None and resources.annotate is not None:
        workers = resources.annotate.workers
        each = math.ceil(workers / _nodes()) if uses_cluster(settings) else workers
        annotator = ShardAnnotator(
            settings.smolvlm, resolved.smolvlm, resolved.schema, each, work.output, settings.annotate
        )
        stages.append(annotate_stage(resources.annotate, annotator))
    stages.append(commit_stage(resources.commit, committer))
    return stages


def _nodes() -> int:
    """Return the number of machines of the cluster that are up."""
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return max(1, len([node for node in nodes if node["Alive"]]))


def _committer(work: _Work) -> Committer:
    resolved = work.resolved
    pending = () if resolved.gemini is None else (resolved.gemini.pending,)
    frames = PreviewFrames(work.settings.input, work.settings.storage)
    return Committer(
        work.output, work.settings.output, resolved.schema, resolved.fingerprints, pending, frames
    )


def _snapshots(context: StageContext, metrics: RunMetrics, display: ProgressDisplay) -> Any:
    told: set[str] = set()

    def snapshot() -> Snapshot:
        try:
            found: Snapshot = ray.get(context.tracker.snapshot.remote(), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):
            return Snapshot()
        metrics.look(found)
        for line in found.lines:
            log_passed_on(line)
            # Every worker that loads a model warns of the same.
            if _is_about_loading(line) and line["msg"] not in told:
                told.add(line["msg"])
                display.say(f"warning: {line['msg']}")
        return found

    return snapshot


def _is_about_loading(line: LineFields) -> bool:
    """Return whether a worker of ours warned while it was loading, and so of the whole run."""
    return "shard_id" not in line and line["name"].startswith("actors.")
