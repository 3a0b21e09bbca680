"""A run of `shopframe annotate`: settings, plan, graph with Gemini beside it, summary."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, TextIO

from rich.console import Console

from actors.errors import StalledError, StoreError
from actors.gemini.api.access_check import check_access
from actors.gemini.backlog.selection import Backlog
from actors.gemini.gemini_run import GeminiRun
from actors.records import Shard
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.run.answer_filing import file_answers
from jobs.run.detector_network import choose_network
from jobs.run.key_sample import refuse_pattern_without_match, sample_keys
from jobs.run.plan import Plan, Scope
from jobs.run.prepare import PreparedRun, check_input, check_places, prepare_run
from jobs.run.presence import working
from jobs.run.resolve import Resolved, with_network, with_tower
from jobs.run.run_log import RunLog, log, run_log, warn
from jobs.run.run_record import write_run
from jobs.run.stage_resources import check_reachable
from jobs.run.summary import print_summary
from jobs.run.totals import Totals
from jobs.run.vision_tower import choose_tower
from jobs.run.words import counted
from jobs.run.wrap_up import wrap_up
from jobs.settings import LoadedSettings, Settings


def annotate_input(loaded: LoadedSettings, scope: Scope, annotator: str | None, run_id: str) -> bool:
    """Annotate every shard of the input that is not done yet.

    Args:
        loaded: The settings. `input.uri` and `output.uri` are required.
        scope: Which shards to do again.
        annotator: The annotator to ask again, with scope "annotator".
        run_id: Id of the run, for its log.

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
    with run_log(output, run_id) as opened, working(output):
        terminal = opened.terminal
        warn(warning, terminal)
        log.info("start", extra={"input": settings.input.uri, "version": version("shopframe")})
        found = check_input(loaded, output, annotator, terminal)
        settings, resolved = found.settings, found.resolved
        prepared = prepare_run(found, output, scope, annotator, keep_index=True)
        if resolved.gemini is not None and prepared.backlog is not None and prepared.has_work:
            check_access(settings.gemini, resolved.gemini)
        if prepared.has_work:
            check_reachable(settings)
        _check_pattern(settings, found.shards, prepared.plan)
        resolved, prepared = _with_network(settings, resolved, prepared, output, terminal)
        resolved, prepared = _with_tower(settings, resolved, prepared, output, terminal)
        write_run(output, prepared.record)
        starts = "; starting Ray" if prepared.has_work else ""
        print(f"{prepared.reasons.line()}{starts}", file=terminal)
        plan = prepared.plan
        try:
            _file_replaced(settings, output, plan, prepared.backlog)
            run = _run(settings, resolved, prepared, output, opened, totals)
            run |= {"log": opened.uri, "documents": found.documents, "plan": prepared.reasons.as_dict()}
            status = wrap_up(
                output,
                resolved.schema,
                settings.output,
                settings.consensus,
                run,
                totals.postponed,
                plan.superseded,
                prepared.seen,
            )
        except STORAGE_ERRORS as error:
            committed = counted(totals.shards["done"] + totals.shards["failed"], "shard")
            raise StoreError(
                f"{output.uri}: {storage_error_text(error)}; this run committed {committed} of "
                f"{len(plan.tasks):,}: run the same command again when the store can be reached"
            ) from error
    print_summary(Console(soft_wrap=False), status, run)
    return not (run["shards_failed"] or run["shards_postponed"] or run["gemini"]["failed"])


def _check_pattern(settings: Settings, shards: Sequence[Shard], plan: Plan) -> None:
    """Refuse an `input.key_pattern` that matches no key of the input, if frames are read with it."""
    if settings.input.key_pattern is not None and any(task.work == "detect" for task in plan.tasks):
        keys = sample_keys(shards, settings.input, settings.storage)
        refuse_pattern_without_match(keys, settings.input)


def _with_network(
    settings: Settings, resolved: Resolved, prepared: PreparedRun, output: ObjectStore, terminal: TextIO
) -> tuple[Resolved, PreparedRun]:
    """Return the models and the run with the network that detects, if the run detects anything."""
    shards = [task.shard for task in prepared.plan.tasks if task.work == "detect"]
    if not shards:
        return resolved, prepared
    chosen = choose_network(settings, resolved.detector, output, shards, prepared.frames_done, terminal)
    models = with_network(prepared.record.models, chosen)
    record = prepared.record.model_copy(update={"models": models})
    return replace(resolved, detector=chosen.detector), replace(prepared, record=record)


def _with_tower(
    settings: Settings, resolved: Resolved, prepared: PreparedRun, output: ObjectStore, terminal: TextIO
) -> tuple[Resolved, PreparedRun]:
    """Return the models and the run with SmolVLM's vision tower, if the run asks it about anybody."""
    shards = [task.shard for task in prepared.plan.tasks if task.work in ("detect", "annotate")]
    if not shards:
        return resolved, prepared
    kept = prepared.frames_done if prepared.plan.skipped else 0
    smolvlm, choice = choose_tower(settings, resolved, output, shards, kept, terminal)
    models = with_tower(prepared.record.models, smolvlm, choice)
    record = prepared.record.model_copy(update={"models": models})
    return replace(resolved, smolvlm=smolvlm), replace(prepared, record=record)


def _file_replaced(settings: Settings, output: ObjectStore, plan: Plan, backlog: Backlog | None) -> None:
    """File the answers that this run may replace, so that it finds them under every other shard."""
    replaced = {task.shard.shard_id for task in plan.tasks if task.replaces is not None}
    replaced.update(plan.superseded)
    if backlog is not None:
        replaced.update(shard.shard_id for shard in backlog.ready)
    if replaced and settings.output.answer_index:
        file_answers(output, replaced)


def _run(
    settings: Settings,
    resolved: Resolved,
    prepared: PreparedRun,
    output: ObjectStore,
    opened: RunLog,
    totals: Totals,
) -> dict[str, Any]:
    plan = prepared.plan
    started = time.monotonic()
    gemini = GeminiRun()
    if prepared.has_work:
        from jobs.run.work_on_ray import work_on_ray

        gemini = work_on_ray(settings, resolved, prepared, output, opened, totals)
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
