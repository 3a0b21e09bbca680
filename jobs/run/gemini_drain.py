"""A run of `shopframe gemini`: it works off the backlog within the quota, without any local work."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console

from actors.attributes import AttributeSchema
from actors.errors import ConfigError
from actors.gemini.api.access_check import check_access
from actors.gemini.api.client import read_api_key
from actors.gemini.backlog.listing import WaitingShards
from actors.gemini.backlog.selection import Backlog
from actors.gemini.gemini_run import GeminiRun
from actors.gemini.quota.place import ledger_notice
from actors.gemini.quota.quota import Clock
from actors.gemini.sender import reset_quota
from actors.gemini.settings import ADDRESS, ANNOTATOR, ResolvedGemini, resolve_gemini
from actors.records import SETTLED
from actors.storage.object_store import ObjectStore
from jobs.run.answer_filing import file_answers
from jobs.run.person_json_mode import choose_person_json
from jobs.run.plan_reasons import asked_of_gemini
from jobs.run.presence import working
from jobs.run.record_pass import RecordPass
from jobs.run.resolve import gemini_model
from jobs.run.run_log import run_log, warn
from jobs.run.run_record import RunRecord, read_run, write_run
from jobs.run.store_probe import probe_output
from jobs.run.summary import print_summary
from jobs.run.words import counted, wait_of
from jobs.run.wrap_up import wrap_up
from jobs.settings import CONF, LoadedSettings, Settings

_NOT_FROM_OUTPUT = (*ADDRESS, "prompt")
"""Settings of Gemini that are never taken from `run.json`."""

_OF_THE_MACHINE = ("ray", "storage", "metrics")
"""Sections of the settings that are never taken from `run.json`."""


def inherited(run: RunRecord) -> dict[str, Any]:
    """Return the settings of the last run that a drain uses unless it is given others.

    They keep a forgotten `--config` from asking about every person again. What depends on the machine is
    left out. Whoever can write to the output could change `run.json`, so it names no address, which would
    receive the API key and the pictures, and no file, which would be written or sent.
    """
    kept = {key: value for key, value in run.config.items() if key not in _OF_THE_MACHINE}
    section = kept.get(ANNOTATOR, {})
    return {**kept, ANNOTATOR: {key: value for key, value in section.items() if key not in _NOT_FROM_OUTPUT}}


def refuse_other_address(run: RunRecord, loaded: LoadedSettings) -> None:
    """Refuse to send to another address than the last run unless the settings of this run name it.

    Without this, a run that goes through a gateway would be followed by one that goes around it.

    Raises:
        ConfigError: The addresses differ, and this run names none.
    """
    section = run.config.get(ANNOTATOR, {})
    default = f"{CONF / 'default.yaml'}"
    for key in _NOT_FROM_OUTPUT:
        name, now = f"{ANNOTATOR}.{key}", getattr(loaded.settings.gemini, key)
        recorded = section.get(key, now)
        if recorded != now and loaded.sources.get(name, default) == default:
            raise ConfigError(
                f"{name}: run.json says {recorded!r} and the default is {now!r}; addresses and files are "
                "never taken from the output, so pass the one that you trust with --config or "
                f"--set {name}=..."
            )


def drain(settings: Settings, clock: Clock | None = None, quota_reset: bool = False) -> GeminiRun:
    """Ask Gemini about every pending person, within the quota, and return what was done.

    Args:
        settings: The settings of the run that made the output, overridden by those given now.
        clock: The clock that the quota uses, by default that of this machine.
        quota_reset: Whether to forget first that the server declared the day's quota spent.

    Raises:
        ConfigError: If Gemini isn't enabled or refuses the API key, there is none, or the output has no run.
    """
    if not settings.gemini.enabled:
        raise ConfigError(
            "gemini.enabled: false; crops of people are sent to Google only with --set gemini.enabled=true"
        )
    read_api_key()
    output = ObjectStore(str(settings.output.uri), settings.storage)
    schema = AttributeSchema(settings.attributes)
    before = read_run(output)
    resolved = resolve_gemini(settings.gemini, schema, before.earlier_requests, settings.annotate)
    warning = probe_output(output)
    started = time.monotonic()
    with run_log(output) as opened, working(output):
        terminal = opened.terminal
        gemini = settings.gemini
        shared = ledger_notice(output, gemini.ledger_uri, gemini.project, gemini.model)
        for notice in (warning, *resolved.notices, shared):
            warn(notice, terminal)
        if quota_reset:
            reset_quota(settings.gemini, output, clock)
            print(
                f"the quota of {gemini.model} is open again for project {gemini.project}; requests that were "
                "sent today stay counted",
                file=terminal,
            )
        settings, _ = choose_person_json(settings, before, ())
        run_record = _with_model(before, settings, resolved)
        seen = RecordPass(run_record.question, gemini.cameras)
        in_backlog = WaitingShards(resolved.question)
        for record, denied in seen.read(output):
            in_backlog.add(record, denied)
        waiting = in_backlog.in_order()
        if waiting:
            check_access(settings.gemini, resolved)
        # `status` finds the quota by the settings of Gemini in this record.
        write_run(output, run_record)
        backlog = Backlog(output, settings.gemini, resolved, SETTLED, waiting)
        asked = asked_of_gemini(waiting, settings.gemini)
        about = f": it is asked about {asked}" if asked.persons else ""
        persons = wait_of(sum(asked.causes.values()))
        print(f"{persons} for Gemini, in {counted(len(waiting), 'shard')}{about}", file=terminal)
        done = GeminiRun()
        if waiting:
            if settings.output.answer_index:
                file_answers(output, {shard.shard_id for shard in waiting})
            from jobs.run.backlog_on_ray import ask_on_ray

            done = ask_on_ray(settings, run_record, backlog, opened, clock)
        if done.stop is not None and done.stop.kind == "refused":
            # A key or model that was refused must not become the default of the next run.
            write_run(output, before)
        run: dict[str, Any] = {
            "shards_done": done.shards,
            "shards_failed": 0,
            "shards_postponed": len(done.errors),
            "shards_skipped": run_record.plan.shards - len(waiting),
            "frames": 0,
            "persons": done.answered,
            "gemini": done.as_dict(),
            "log": opened.uri,
            "seconds": round(time.monotonic() - started, 1),
        }
        unchanged = None if waiting else seen
        status = wrap_up(
            output, schema, settings.output, settings.consensus, run, done.postponed, seen=unchanged
        )
    print_summary(Console(soft_wrap=False), status, run)
    return done


def _with_model(before: RunRecord, settings: Settings, resolved: ResolvedGemini) -> RunRecord:
    """Return the record of the last run with the settings of Gemini of this one."""
    now = settings.as_dict()
    return before.model_copy(
        update={
            "models": before.models.model_copy(update={"gemini": gemini_model(resolved)}),
            "fingerprints": {**before.fingerprints, ANNOTATOR: resolved.stage_fingerprint},
            "gemini_requests": before.earlier_requests,
            "config": {**before.config, **{name: now[name] for name in ("gemini", "annotate")}},
        }
    )
