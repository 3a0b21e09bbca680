"""A run of `shopframe annotate`: settings, plan, graph with Gemini beside it, summary."""

from __future__ import annotations

import dataclasses
import os
import time
from importlib.metadata import version
from typing import Any

import ray
from rich.console import Console

from actors.attempt_tracker import Snapshot, start_tracker
from actors.commit.committer import Committer
from actors.detect.restored_crops import CropRestorer
from actors.detect.shard_detector import ShardDetector
from actors.errors import StalledError, StoreError
from actors.gemini.backlog.selection import Backlog
from actors.gemini.stage import GeminiRun, make_stage
from actors.gemini.stall_watch import StallWatch
from actors.smolvlm.shard_annotator import ShardAnnotator
from actors.stages import BlockStage, StageContext, annotate_stage, commit_stage, detect_stage
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.run.answer_filing import file_answers
from jobs.run.gemini_drain import GeminiDisplay
from jobs.run.graph import Retries, run_graph
from jobs.run.output_status import Totals
from jobs.run.plan import Plan, Scope
from jobs.run.prepare import check_input, check_places, prepare_run
from jobs.run.progress import ProgressDisplay, watch
from jobs.run.ray_session import StageResources, plan_resources, ray_session
from jobs.run.resolve import Resolved
from jobs.run.run_log import RunLog, log, run_log, warn
from jobs.run.run_record import write_run
from jobs.run.summary import print_summary
from jobs.run.words import counted
from jobs.run.wrap_up import wrap_up
from jobs.settings import LoadedSettings, RunSettings, Settings


def annotate_input(loaded: LoadedSettings, scope: Scope, annotator: str | None) -> bool:
    """Annotate every shard of the input that is not done yet.

    Args:
        loaded: The settings. `input.uri` and `output.uri` are required.
        scope: Which shards to do again.
        annotator: The annotator to ask again, with scope "annotator".

    Returns:
        Whether everything that could be done is done. False if shards failed or were postponed, or if Gemini
        failed for another reason than its quota.

    Raises:
        ConfigError: If settings, weights, input or output can't be used. This is raised before any work,
            unless it is a worker that can't start on its machine.
        StalledError: If no shard was committed within the deadline, or Ray failed.
        StoreError: If the output can't be reached any more during the run.
    """
    settings = loaded.settings
    output, warning = check_places(loaded)
    totals = Totals()
    with run_log(output) as opened:
        terminal = opened.terminal
        warn(warning, terminal)
        log.info("start", extra={"input": settings.input.uri, "version": version("shopframe")})
        found = check_input(loaded, output, annotator, terminal)
        settings, resolved = found.settings, found.resolved
        prepared = prepare_run(found, output, scope, annotator, keep_index=True)
        write_run(output, prepared.record)
        starts = "; starting Ray" if prepared.has_work else ""
        print(f"{prepared.reasons.line()}{starts}", file=terminal)
        plan = prepared.plan
        try:
            _file_replaced(settings, output, plan, prepared.backlog)
            run = _run(_Work(settings, resolved, plan, prepared.backlog, output, opened), totals)
            run |= {"log": opened.uri, "documents": found.documents, "plan": prepared.reasons.as_dict()}
            status = wrap_up(
                output,
                resolved.schema,
                settings.output,
                settings.consensus,
                run,
                totals.postponed,
                plan.superseded,
            )
        except STORAGE_ERRORS as error:
            committed = counted(totals.shards["done"] + totals.shards["failed"], "shard")
            raise StoreError(
                f"{output.uri}: {storage_error_text(error)}; this run committed {committed} of "
                f"{len(plan.tasks):,}: run the same command again when the store can be reached"
            ) from error
    print_summary(Console(soft_wrap=False), status, run)
    return not (run["shards_failed"] or run["shards_postponed"] or run["gemini"]["failed"])


def _file_replaced(settings: Settings, output: ObjectStore, plan: Plan, backlog: Backlog | None) -> None:
    """File the answers that this run may replace, so that it finds them under every other shard."""
    replaced = {task.shard.shard_id for task in plan.tasks if task.replaces is not None}
    replaced.update(plan.superseded)
    if backlog is not None:
        replaced.update(shard.shard_id for shard in backlog.ready)
    if replaced and settings.output.answer_index:
        file_answers(output, replaced)


@dataclasses.dataclass(frozen=True, slots=True)
class _Work:
    """The work of a run, and its log with the terminal that shows its progress."""

    settings: Settings
    resolved: Resolved
    plan: Plan
    backlog: Backlog | None
    output: ObjectStore
    log: RunLog


def _run(work: _Work, totals: Totals) -> dict[str, Any]:
    plan = work.plan
    started = time.monotonic()
    gemini = GeminiRun()
    if plan.tasks or (work.backlog is not None and work.backlog.ready):
        try:
            gemini = _run_tasks(work, totals)
        except ray.exceptions.RayError as error:
            log.exception("Ray failed")
            done = f"after {sum(totals.shards.values()):,} of {counted(len(plan.tasks), 'shard')}"
            raise StalledError(
                f"Ray failed {done if plan.tasks else 'while Gemini was asked'}: {_last_line(error)}; "
                f"committed shards are intact and details are in {work.log.uri}: fix the "
                "cause and run the same command again"
            ) from error
    finished, expected = sum(totals.shards.values()), len(plan.tasks) + totals.rests
    if finished != expected:
        raise StalledError(
            f"{expected - finished:,} of {counted(expected, 'shard')} ended without a result "
            "and are not committed; run the same command again"
        )
    return {
        "shards_done": totals.shards["done"],
        "shards_failed": totals.shards["failed"],
        "shards_postponed": totals.shards["postponed"],
        "shards_skipped": plan.skipped,
        "frames": totals.frames["total"],
        "persons": totals.persons["kept"],
        "gemini": gemini.as_dict(),
        "seconds": round(time.monotonic() - started, 1),
    }


def _run_tasks(work: _Work, totals: Totals) -> GeminiRun:
    settings, backlog, tasks = work.settings, work.backlog, work.plan.tasks
    sizes = {task.shard.shard_id: task.shard.size_bytes for task in tasks}
    with ray_session(settings) as (cpus, gpus), ProgressDisplay(work.log.terminal, sizes) as display:
        resources = plan_resources(settings, cpus, gpus)
        context = StageContext(start_tracker(), settings.run.max_attempts)
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
            )
            gemini.offer(backlog.at_once())
        for summary in watch(
            summaries,
            _snapshots(context),
            display,
            settings.run.stall_warning_s,
            settings.run.stall_fail_s,
        ):
            totals.add(summary)
            display.add(summary)
            log.info("shard", extra=dataclasses.asdict(summary) | {"counts": summary.counts.model_dump()})
            if gemini is not None and backlog is not None:
                gemini.offer(backlog.committed(summary))
                gemini.advance()
        if gemini is None or backlog is None:
            return GeminiRun()
        gemini.offer(backlog.afterwards())
        stalls = StallWatch(settings.run.stall_warning_s, settings.run.stall_fail_s, display.say)
        return gemini.finish(GeminiDisplay(display.say), stalls)


def _retries(settings: RunSettings) -> Retries:
    return Retries(
        shards=settings.max_infrastructure_retries,
        pause_s=settings.infrastructure_pause_s,
        worker_starts=settings.max_worker_starts,
    )


def _last_line(error: BaseException) -> str:
    """Return the line that names the cause. Ray's messages are whole tracebacks of its workers."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


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
    detects = any(task.work == "detect" for task in work.plan.tasks)
    stages = [detect_stage(resources.detect, detector, crop_restorer, work.output, detects)]
    if resolved.smolvlm is not None and resources.annotate is not None:
        threads = max(1, (os.cpu_count() or 1) // resources.annotate.workers)
        annotator = ShardAnnotator(settings.smolvlm, resolved.smolvlm, resolved.schema, threads, work.output)
        stages.append(annotate_stage(resources.annotate, annotator))
    stages.append(commit_stage(resources.commit, committer))
    return stages


def _committer(work: _Work) -> Committer:
    resolved = work.resolved
    pending = () if resolved.gemini is None else (resolved.gemini.pending,)
    return Committer(work.output, work.settings.output, resolved.schema, resolved.fingerprints, pending)


def _snapshots(context: StageContext) -> Any:
    def snapshot() -> Snapshot:
        try:
            found: Snapshot = ray.get(context.tracker.snapshot.remote(), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):
            return Snapshot()
        return found

    return snapshot
