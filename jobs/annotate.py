"""`shopframe annotate`: settings, plan, graph, report, exit code."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import ray
from rich.console import Console

from actors.annotate_shard import SmolVLMShardAnnotator
from actors.attempt_tracker import Snapshot, start_tracker
from actors.committer import Committer
from actors.detect_shard import ShardDetector
from actors.drain_shard import SETTLED
from actors.errors import ConfigError, OutputError, StalledError
from actors.kept_crops import NOT_ANNOTATORS
from actors.recut import Recutter
from actors.shard_listing import list_shards
from actors.stages import StageContext
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.backlog import RETRY_KEEPS, Backlog, read_backlog
from jobs.consolidate import consolidate
from jobs.demo import check_scenes
from jobs.dry_run import draw_roi
from jobs.gemini import GeminiDisplay
from jobs.gemini_stage import GeminiRun, make_stage
from jobs.graph import Pools, Stages, run_graph
from jobs.plan import Committed, Plan, Scope, make_plan
from jobs.progress import ProgressDisplay, print_summary, watch
from jobs.ray_session import plan_pools, ray_session
from jobs.resolve import Resolved, models_of, resolve
from jobs.run_log import iso_now, log, run_log
from jobs.settings import LoadedSettings, Settings
from jobs.status import Totals, output_status, read_run
from jobs.sweep import sweep

EXIT_DONE, EXIT_SOME_FAILED, EXIT_STALLED = 0, 1, 3

_PACKAGES = (
    "ray",
    "torch",
    "torchvision",
    "transformers",
    "ultralytics-opencv-headless",
    "openvino",
    "onnxruntime",
    "opencv-python-headless",
    "xgrammar",
    "google-genai",
    "pyarrow",
)


def annotate(loaded: LoadedSettings, scope: Scope, annotator: str | None, dry_run: bool) -> int:
    """Annotate whatever of the input is not done yet; returns the exit code.

    Args:
        loaded: The settings; `input.uri` and `output.uri` are needed.
        scope: How much to do again.
        annotator: With scope "annotator": whose answers.
        dry_run: Only draw what the ROI makes of a sample of frames.

    Raises:
        ConfigError: Before any work, when settings, weights, input or output won't do.
    """
    settings = loaded.settings
    if not settings.input.uri:
        raise ConfigError("input.uri: missing; give --input with a folder, bucket prefix or shard")
    if not settings.output.uri:
        raise ConfigError("output.uri: missing; give --output with a folder or bucket prefix")
    check_scenes(loaded)
    output = ObjectStore(settings.output.uri, settings.storage)
    _check_writable(output)
    console = Console(soft_wrap=False)
    with run_log(output) as terminal:
        log.info("start", extra={"input": settings.input.uri, "version": version("shopframe")})
        try:
            print("checking models, input and output", file=terminal)
            resolved = resolve(settings)
            if dry_run:
                drawn = draw_roi(settings, resolved.detector, output)
                console.print(f"drew the ROI and its verdicts on {len(drawn)} frames:")
                console.print("\n".join(output.uri_of(path) for path in drawn), soft_wrap=True)
                return EXIT_DONE
            plan = _plan(settings, output, resolved, scope, annotator)
            backlog = _backlog(settings, output, resolved, plan, scope, annotator)
            run = _run(_Work(settings, resolved, plan, backlog, output, terminal))
        except BaseException as error:
            log.error("stopped: %s: %s", type(error).__name__, error)
            raise
        sweep(output)
        if settings.output.consolidate:
            consolidate(output, resolved.schema)
        status = output_status(output, keep_index=True)
        output.write(layout.PROGRESS, json.dumps({**status, "run": run}, indent=2).encode())
        log.info("end", extra={"run": run, "shards": status["shards"]})
    print_summary(console, status, run)
    return EXIT_SOME_FAILED if run["shards_failed"] or run["gemini"]["failed"] else EXIT_DONE


def _check_writable(output: ObjectStore) -> None:
    probe = ".shopframe-probe"
    try:
        output.write(probe, b"")
        output.delete([probe])
    except STORAGE_ERRORS as error:
        raise OutputError(f"output.uri: can't write to {output.uri}: {storage_error_text(error)}") from error


def _plan(
    settings: Settings, output: ObjectStore, resolved: Resolved, scope: Scope, annotator: str | None
) -> Plan:
    known = [name for name in resolved.fingerprints if name not in NOT_ANNOTATORS]
    if annotator is not None and annotator not in known:
        raise ConfigError(
            f"--retry-annotator {annotator}: not an enabled annotator (enabled: {', '.join(known) or 'none'})"
        )
    committed = {
        record.shard_id: Committed.of(record, etag) for record, etag in read_records(output, keep_index=True)
    }
    shards = list_shards(settings.input, settings.storage)
    plan = make_plan(shards, committed, resolved.fingerprints, scope, annotator, settings.output.previews)
    _refuse_foreign(plan, output, scope)
    before = _last_run(output)
    if scope in ("failed", "annotator"):
        _refuse_other_settings(before, settings, resolved, annotator)
    if plan.superseded:
        log.warning("superseded by other parts of the same input", extra={"shards": plan.superseded[:20]})
        output.delete(layout.commit_path(shard_id) for shard_id in plan.superseded)
    content = {
        "shopframe": version("shopframe"),
        "started_at": iso_now(),
        "config": settings.as_dict(),
        "fingerprints": resolved.fingerprints,
        "plan": {"shards": plan.shards, "to_do": len(plan.tasks), "skipped": plan.skipped},
        "models": models_of(resolved, before.get("models", {})),
        "packages": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "python": platform.python_version(),
    }
    output.write(layout.RUN, json.dumps(content, indent=2).encode())
    log.info("plan", extra={"shards": plan.shards, "to_do": len(plan.tasks), "skipped": plan.skipped})
    return plan


def _refuse_foreign(plan: Plan, output: ObjectStore, scope: Scope) -> None:
    if not plan.foreign or scope == "force":
        return
    shard, other = plan.foreign[0]
    raise ConfigError(
        f"output.uri: {output.uri} holds a shard {shard.shard_id} of another input, {other}, and "
        f"{shard.uri} would take its place ({len(plan.foreign)} such shards); give each input an output of "
        "its own, or both the folder above them as --input, or replace what is there with --force"
    )


def _last_run(output: ObjectStore) -> dict[str, Any]:
    try:
        return read_run(output)
    except ConfigError:
        return {}


def _refuse_other_settings(
    before: dict[str, Any], settings: Settings, resolved: Resolved, annotator: str | None
) -> None:
    """A retry leaves most shards as they are, so it must not say of them that they were made otherwise."""
    known = before.get("fingerprints", {})
    differ = [s for s, f in resolved.fingerprints.items() if s != annotator and known.get(s, f) != f]
    if before and before["config"]["schema"] != settings.as_dict()["schema"]:
        differ.append("schema")
    if differ:
        raise ConfigError(
            f"--retry-{'annotator' if annotator else 'failed'}: these are not the settings of the last run "
            f"(they differ in {', '.join(differ)}): give the same --config and --set as then; without "
            "--retry, everything is brought to the new settings"
        )


def _backlog(
    settings: Settings,
    output: ObjectStore,
    resolved: Resolved,
    plan: Plan,
    scope: Scope,
    annotator: str | None,
) -> Backlog | None:
    """Gemini's part of the run; shards that are to be done locally first are not in it yet."""
    if resolved.gemini is None:
        return None
    keep = RETRY_KEEPS if annotator == "gemini" else SETTLED
    local = {task.shard.shard_id for task in plan.tasks}
    waits = scope in ("missing", "force") or annotator == "gemini"
    waiting = read_backlog(output, resolved.gemini, keep) if waits else []
    ready = [shard for shard in waiting if shard.shard_id not in local]
    return Backlog(output, settings.gemini, resolved.gemini, keep, ready, bool(local))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class _Work:
    """What there is to do in a run, and where to show it."""

    settings: Settings
    resolved: Resolved
    plan: Plan
    backlog: Backlog | None
    output: ObjectStore
    terminal: Any


def _run(work: _Work) -> dict[str, Any]:
    plan = work.plan
    started = time.monotonic()
    totals = Totals()
    gemini = GeminiRun()
    if plan.tasks or (work.backlog is not None and work.backlog.ready):
        print(
            f"{plan.shards:,} shards in the input, {len(plan.tasks):,} to do; starting Ray",
            file=work.terminal,
        )
        try:
            gemini = _run_tasks(work, totals)
        except ray.exceptions.RayError as error:
            log.exception("Ray gave up")
            done = sum(totals.shards.values())
            raise StalledError(
                f"Ray could not go on after {done} of {len(plan.tasks)} shards: {_last_line(error)}; what "
                f"was committed stays, details are in {work.output.uri_of(layout.LOG)}: mend that and run "
                "the same command again"
            ) from error
    finished = sum(totals.shards.values())
    if finished != len(plan.tasks):
        raise StalledError(
            f"{len(plan.tasks) - finished} of {len(plan.tasks)} shards left the job without an outcome; "
            "they are not committed: run the same command again"
        )
    return {
        "shards_done": totals.shards["done"] + totals.shards["superseded"],
        "shards_failed": totals.shards["failed"] + totals.shards["unrecorded"],
        "shards_skipped": plan.skipped,
        "frames": totals.frames["total"],
        "persons": totals.persons["kept"],
        "gemini": gemini.as_dict(),
        "seconds": round(time.monotonic() - started, 1),
    }


def _run_tasks(work: _Work, totals: Totals) -> GeminiRun:
    settings, backlog, tasks = work.settings, work.backlog, work.plan.tasks
    with ray_session(settings) as (cpus, gpus), ProgressDisplay(work.terminal, len(tasks)) as display:
        stages = _stages(settings, work.resolved, work.output, plan_pools(settings, cpus, gpus))
        gemini = None
        if backlog is not None:
            gemini = make_stage(
                settings.gemini, backlog.resolved, work.resolved.schema, stages.committer, stages.recutter
            )
            gemini.offer(backlog.at_once())
        for summary in watch(
            run_graph(tasks, stages),
            _snapshots(stages.context),
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
        return gemini.finish(GeminiDisplay(display.say))


def _last_line(error: BaseException) -> str:
    """Ray's messages are whole tracebacks of workers, whose last line names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _stages(settings: Settings, resolved: Resolved, output: ObjectStore, pools: Pools) -> Stages:
    detector = ShardDetector(
        input=settings.input,
        storage=settings.storage,
        detector=settings.detector,
        resolved=resolved.detector,
        roi=settings.roi,
        crops=settings.crops,
        max_failed_frames=settings.run.max_failed_frames,
    )
    annotator = None
    if resolved.smolvlm is not None:
        threads = max(1, (os.cpu_count() or 1) // pools.annotators)
        annotator = SmolVLMShardAnnotator(settings.smolvlm, resolved.smolvlm, resolved.schema, threads)
    return Stages(
        context=StageContext(start_tracker(), settings.run.max_attempts),
        pools=pools,
        detector=detector,
        recutter=Recutter(settings.input, settings.storage, settings.crops, resolved.fingerprints["detect"]),
        annotator=annotator,
        committer=Committer(output, settings.output, resolved.schema, resolved.fingerprints, resolved.gemini),
    )


def _snapshots(context: StageContext) -> Any:
    def snapshot() -> Snapshot:
        try:
            found: Snapshot = ray.get(context.tracker.snapshot.remote(), timeout=5)
        except (ray.exceptions.RayError, TimeoutError):
            return Snapshot()
        return found

    return snapshot


if __name__ == "__main__":
    from jobs.cli import main_of

    main_of("annotate")
