"""Prepare a run: check input and output, plan the work, and say why it is done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from actors.commit.committed_shard import shard_from_record
from actors.errors import ConfigError
from actors.fingerprint import annotators_in
from actors.gemini.backlog.listing import WaitingShard, WaitingShards
from actors.gemini.backlog.selection import Backlog
from actors.gemini.quota.place import ledger_notice
from actors.gemini.settings import ANNOTATOR as GEMINI
from actors.read.listing import is_partial, list_shards
from actors.read.loose_images import list_members
from actors.records import ANSWERED, SETTLED, Outcome, Shard
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import read_records
from actors.storage.snapshot_table import check_supported
from jobs.run.changed_settings import changes_since, differences
from jobs.run.demo_models import check_scenes
from jobs.run.former_defaults import KeptDefaults, keep_former_defaults
from jobs.run.person_json_mode import choose_person_json
from jobs.run.plan import Committed, Plan, Scope, make_plan
from jobs.run.plan_reasons import PlanReasons, plan_reasons
from jobs.run.record_pass import RecordPass
from jobs.run.resolve import Resolved, models_of, resolve
from jobs.run.run_log import iso_now, log, warn
from jobs.run.run_record import Models, PlanCounts, RunRecord, last_run, new_run_record
from jobs.run.store_probe import probe_output, refuse_private
from jobs.settings import LoadedSettings, Settings

_SHARDING = ("format", "max_shard_bytes", "frames_per_shard")
"""Settings of the input that decide what a shard is."""


def check_places(loaded: LoadedSettings) -> tuple[ObjectStore, str | None]:
    """Check that input and output are set and that results can be written.

    Returns:
        The output, and a warning for the user if it lacks a guarantee that `storage.allow_unsafe` waives.

    Raises:
        ConfigError: If one of them is missing, can't be seen by workers, or the output can't be used.
    """
    settings = loaded.settings
    if not settings.input.uri:
        raise ConfigError("input.uri: missing; pass --input with a folder, bucket prefix or shard")
    if not settings.output.uri:
        raise ConfigError("output.uri: missing; pass --output with a folder or bucket prefix")
    refuse_private("input.uri", settings.input.uri)
    refuse_private("output.uri", settings.output.uri)
    check_scenes(loaded)
    output = ObjectStore(settings.output.uri, settings.storage)
    if settings.output.consolidate:
        check_supported(output)
    return output, probe_output(output)


@dataclass(frozen=True, slots=True)
class CheckedInput:
    """The input and the models of a run, found and checked.

    Attributes:
        settings: The settings, with everything that depended on the input or the last run decided.
        documents: What `choose_person_json` says about the documents.
        shards: The shards of the input.
        resolved: Models and fingerprints.
        kept_defaults: The settings whose former defaults the output keeps.
    """

    settings: Settings
    documents: str | None
    shards: list[Shard]
    resolved: Resolved
    kept_defaults: tuple[str, ...]


def check_input(
    loaded: LoadedSettings, output: ObjectStore, annotator: str | None, terminal: TextIO
) -> CheckedInput:
    """List the input and find the models. Warnings about models go to the log and the terminal.

    Args:
        loaded: The settings.
        output: Where results are written.
        annotator: The annotator to ask again, if one was named.
        terminal: Where the user reads.

    Raises:
        ConfigError: If settings, models or input can't be used.
    """
    print("checking models, input and output", file=terminal)
    before = last_run(output)
    kept = KeptDefaults(loaded.settings)
    if before is not None:
        kept = keep_former_defaults(loaded, before.config, before.kept_defaults)
    if kept.paths:
        print(kept.line(), file=terminal)
    settings = kept.settings
    since = settings.output.retained_since()
    if since is not None:
        print(
            f"output.retain_days={settings.output.retain_days:g}: detection leaves out persons of frames "
            f"before {since:%Y-%m-%d %H:%M} UTC",
            file=terminal,
        )
    shards = list(list_shards(settings.input, settings.storage))
    settings, documents = choose_person_json(settings, before, shards)
    settings = _with_reask(settings, annotator)
    resolved = resolve(settings, before)
    if resolved.gemini is not None:
        gemini = settings.gemini
        shared = ledger_notice(output, gemini.ledger_uri, gemini.project, gemini.model)
        for notice in (*resolved.gemini.notices, shared):
            warn(notice, terminal)
    return CheckedInput(settings, documents, shards, resolved, kept.paths)


@dataclass(frozen=True, slots=True)
class PreparedRun:
    """A run before its first work.

    Attributes:
        plan: The work.
        backlog: Gemini's part of the run, or None if Gemini isn't enabled.
        reasons: What the run does again and why.
        record: Content of `run.json`. It is not written yet.
        frames_done: Number of frames that the output has.
        seen: The pass over the records that planned the run, or None if there is work, after which its counts
            won't hold.
    """

    plan: Plan
    backlog: Backlog | None
    reasons: PlanReasons
    record: RunRecord
    frames_done: int
    seen: RecordPass | None

    @property
    def has_work(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.plan.tasks) or (self.backlog is not None and bool(self.backlog.ready))


def _with_reask(settings: Settings, annotator: str | None) -> Settings:
    """Return the settings of a run that asks an annotator again.

    For Gemini they say so themselves, and are recorded, so that `shopframe gemini` goes on with it.
    """
    if annotator != GEMINI:
        return settings
    gemini = settings.gemini.model_copy(update={"reask": True})
    return settings.model_copy(update={"gemini": gemini})


def prepare_run(
    found: CheckedInput,
    output: ObjectStore,
    scope: Scope,
    annotator: str | None,
    keep_index: bool = False,
) -> PreparedRun:
    """Compare the input with the output. This changes nothing that counts in the output.

    Args:
        found: The settings, models and shards of this run.
        output: Where results are written.
        scope: Which shards to do again.
        annotator: The annotator to ask again, with scope "annotator".
        keep_index: Passed to `read_records`.

    Raises:
        ConfigError: If the annotator isn't enabled, the output belongs to another input, or a retry has
            other settings than the last run.
    """
    settings, resolved, shards = found.settings, found.resolved, found.shards
    known = annotators_in(resolved.fingerprints)
    if annotator is not None and annotator not in known:
        raise ConfigError(
            f"--retry-annotator {annotator}: not an enabled annotator (enabled: {', '.join(known) or 'none'})"
        )
    before = last_run(output)
    models = models_of(resolved, before.models if before is not None else Models())
    counts = PlanCounts(shards=len(shards))
    record = new_run_record(
        iso_now(),
        settings.as_dict(),
        resolved.fingerprints,
        counts,
        models,
        found.kept_defaults,
        before,
    )
    seen = RecordPass(record.question, settings.gemini.cameras)
    in_backlog = _waiting_for_gemini(resolved, scope, annotator)
    committed = {}
    for read, denied in seen.read(output, keep_index):
        committed[read.shard_id] = Committed.of(read)
        if in_backlog is not None:
            in_backlog.add(read, denied)
    partial = is_partial(settings.input, settings.storage)
    plan = make_plan(
        shards, committed, resolved.fingerprints, scope, annotator, settings.output.previews, partial
    )
    _refuse_foreign(plan, output, scope)
    if partial:
        _refuse_overlapping(plan, output, settings)
    if before is not None and scope in ("failed", "annotator"):
        _refuse_other_settings(before, settings, resolved, annotator)
    counts = PlanCounts(shards=plan.shards, to_do=len(plan.tasks), skipped=plan.skipped)
    record = record.model_copy(update={"plan": counts})
    waiting = [] if in_backlog is None else in_backlog.in_order()
    backlog = _gemini_backlog(settings, output, resolved, plan, annotator, waiting)
    changes = {} if before is None else changes_since(before, record)
    reasons = plan_reasons(plan, known, changes, waiting, settings.gemini)
    log.info("plan", extra={"plan": reasons.as_dict()})
    prepared = PreparedRun(plan, backlog, reasons, record, seen.totals.frames["total"], seen)
    return replace(prepared, seen=None) if prepared.has_work else prepared


def _refuse_overlapping(plan: Plan, output: ObjectStore, settings: Settings) -> None:
    """Refuse a part of a folder whose images the output already has in groups with other images."""
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for task in plan.tasks:
        if task.shard.format == "images":
            wanted[task.shard.uri].update(list_members(task.shard.members))
    if not wanted:
        return
    planned = {task.shard.shard_id for task in plan.tasks}
    for record, _ in read_records(output):
        if record.shard_id in planned or record.input.format != "images":
            continue
        members = list_members(shard_from_record(record).members)
        if record.input.uri in wanted and not wanted[record.input.uri].isdisjoint(members):
            raise ConfigError(
                f"input.uri: {settings.input.uri} names images of {record.input.uri} that the output has in "
                f"groups with others ({record.shard_id}), so they would be counted twice; pass the folder as "
                "--input, or use another output"
            )


def _refuse_foreign(plan: Plan, output: ObjectStore, scope: Scope) -> None:
    if plan.colliding:
        raise ConfigError(
            f"output.uri: two shards of the input would be {plan.colliding[0]!r} in {output.uri}, because "
            "one was committed when another folder was the input; use another output"
        )
    if not plan.foreign or scope == "force":
        return
    shard, other = plan.foreign[0]
    raise ConfigError(
        f"output.uri: {output.uri} holds a shard {shard.shard_id} of another input, {other}, and "
        f"{shard.uri} would replace it ({len(plan.foreign)} such shards); use one output per input, pass "
        "their common parent as --input, or replace the committed shards with --force"
    )


def _refuse_other_settings(
    before: RunRecord, settings: Settings, resolved: Resolved, annotator: str | None
) -> None:
    """Refuse a retry with other settings: `run.json` would claim them for shards that stay as they are."""
    known = before.fingerprints
    differ = [s for s, f in resolved.fingerprints.items() if s != annotator and known.get(s, f) != f]
    if resolved.gemini is not None and resolved.gemini.question.is_asked_by(known.get("gemini")):
        differ = [stage for stage in differ if stage != "gemini"]
    now = settings.as_dict()["input"]
    if any(before.config["input"].get(key) != now[key] for key in _SHARDING):
        differ.append("the shards")
    if before.config["schema"] != settings.as_dict()["schema"]:
        differ.append("schema")
    if differ:
        keys = [change.setting for change in differences(before.config, settings.as_dict())]
        raise ConfigError(
            f"--retry-{'annotator' if annotator else 'failed'}: the settings differ from those of the last "
            f"run and change {', '.join(differ)} (settings that differ: {', '.join(keys) or 'none'}); pass "
            "the same --config and --set as then, or leave out the --retry option to bring every shard up "
            "to date with the new settings"
        )


def _kept(annotator: str | None) -> tuple[Outcome, ...]:
    """Return the outcomes about which Gemini is not asked again."""
    return ANSWERED if annotator == GEMINI else SETTLED


def _waiting_for_gemini(resolved: Resolved, scope: Scope, annotator: str | None) -> WaitingShards | None:
    """Return a collector of the shards whose persons wait for Gemini, or None if the run doesn't ask it."""
    if resolved.gemini is None or not (scope in ("missing", "force") or annotator == GEMINI):
        return None
    return WaitingShards(resolved.gemini.question, _kept(annotator))


def _gemini_backlog(
    settings: Settings,
    output: ObjectStore,
    resolved: Resolved,
    plan: Plan,
    annotator: str | None,
    waiting: Sequence[WaitingShard],
) -> Backlog | None:
    """Return Gemini's part of the run, or None if Gemini isn't enabled.

    Shards of `plan` are not ready for Gemini yet, because their local work comes first.
    """
    if resolved.gemini is None:
        return None
    local = {task.shard.shard_id for task in plan.tasks}
    ready = [shard for shard in waiting if shard.shard_id not in local]
    return Backlog(output, settings.gemini, resolved.gemini, _kept(annotator), ready, bool(local))
