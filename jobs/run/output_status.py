"""`shopframe status`: what is done, what failed, what is pending, and what to do next."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.commit.committed_shard import shard_from_record
from actors.detect.roi import RoiSettings
from actors.gemini.backlog.uncommitted import Uncommitted, read_uncommitted
from actors.gemini.quota.quota import SystemClock
from actors.gemini.quota.status import read_status
from actors.gemini.settings import ANNOTATOR, GeminiSettings
from actors.read.loose_images import input_of_frame
from actors.records import OUTCOMES, RETRYABLE
from actors.storage import layout
from actors.storage.commit_record import CommitRecord
from actors.storage.object_store import ObjectStore
from actors.time_text import moment
from jobs.run.measured import measured_accuracy
from jobs.run.record_pass import RecordPass
from jobs.run.run_record import DetectorModel, RunRecord, SmolVLMModel, read_run
from jobs.run.totals import Totals
from jobs.run.words import counted, wait_of

_FAILURES_SHOWN = 5

_FRAME_KEYS = {"shard_id": "shard", "frame_key": "frame", "error": "error"}


def output_status(
    store: ObjectStore,
    keep_index: bool = False,
    postponed: Sequence[dict[str, str]] | None = None,
    gemini: GeminiSettings | None = None,
    seen: RecordPass | None = None,
) -> dict[str, Any]:
    """Return the state of an output, from its commit records and the number of planned shards in `run.json`.

    Args:
        store: The output.
        keep_index: Passed to `read_records`.
        postponed: The shards that a run has postponed, by default those of the last run.
        gemini: Settings of Gemini that a run would have, by default those of the last run.
        seen: An earlier pass over the records, which is used if no record has changed since.

    Raises:
        ConfigError: If the output has no run.
    """
    run = read_run(store)
    gemini = gemini or run.section("gemini", GeminiSettings)
    if seen is None or not seen.answers_for(run.question, gemini.cameras) or not seen.is_current(store):
        seen = RecordPass(run.question, gemini.cameras, remembers_objects=False)
        seen.finish(store, keep_index)
    totals, parts, answers = seen.totals, seen.parts, seen.answers
    uncommitted = Uncommitted()
    if run.models.gemini is not None:
        uncommitted = read_uncommitted(store, run.question, run.models.gemini.model)
    if uncommitted.persons:
        totals.annotators.setdefault(ANNOTATOR, Counter())
        totals.cost_usd[ANNOTATOR] += uncommitted.cost_usd
    done, failed = totals.shards["done"], totals.shards["failed"]
    # The run counts a shard that is cut as one; each of its later parts counts as soon as it is known.
    total = max(run.plan.shards, done + failed - parts.committed) + parts.committed + len(parts.not_committed)
    detector = run.models.detector
    status = {
        "output": store.uri,
        "shards": {"total": total, "done": done, "failed": failed, "pending": total - done - failed},
        "frames": {key: totals.frames[key] for key in ("total", "ok", "failed")},
        "keys_not_matched": totals.keys_not_matched,
        "persons": {key: totals.persons[key] for key in ("detected", "kept", "dropped")},
        "dropped": dict(sorted(totals.dropped.items())),
        "annotators": {
            name: {outcome: counts[outcome] for outcome in OUTCOMES}
            for name, counts in sorted(totals.annotators.items())
        },
        "answers": {"gemini": {model: n for model, n in sorted(answers.items()) if n}},
        "not_committed": {ANNOTATOR: uncommitted.persons},
        "cost_usd": {name: round(cost, 6) for name, cost in sorted(totals.cost_usd.items())},
        "quota": _quota(store, run, gemini, max(0, seen.waiting - uncommitted.persons)),
        "models": {"demo": run.models.demo, "notice": run.models.notice},
        "detector": None if detector is None else _detector(detector),
        "smolvlm": None if run.models.smolvlm is None else _smolvlm(run.models.smolvlm),
        "postponed": _last_postponed(store) if postponed is None else list(postponed),
        "failures": totals.failures,
        "failed_frames": _failed_frames(store, seen.with_failed_frames),
        "places": _places(store, seen),
        "corrections": {"consolidated": _has_all_decisions(store)},
        "accuracy": measured_accuracy(store),
        "warnings": [
            *seen.cameras.warnings(run.section("roi", RoiSettings), gemini.cameras),
            *_key_warnings(totals),
        ],
    }
    return status | {"next": what_next(status)}


def _has_all_decisions(store: ObjectStore) -> bool:
    # Delta Lake takes a third of a second to import, and most outputs have no corrections.
    if next(store.list(layout.CORRECTIONS), None) is None:
        return True
    from jobs.run.consolidation import has_all_decisions

    return has_all_decisions(store)


def _key_warnings(totals: Totals) -> Iterator[str]:
    if totals.keys_not_matched:
        yield (
            f"input.key_pattern: the keys of {totals.keys_not_matched:,} of the {totals.frames['total']:,} "
            f"frames don't match it, so camera or time are missing there ({layout.CONSOLIDATED_FRAMES} notes "
            "it for each); compare it with the keys that shopframe annotate --dry-run prints"
        )


def _detector(detector: DetectorModel) -> dict[str, str | None]:
    """Return the precision of the detector, and what was compared if int8 was tried."""
    compared = None if detector.int8 is None else detector.int8.text()
    return {"precision": detector.precision, "int8": compared}


def _smolvlm(smolvlm: SmolVLMModel) -> dict[str, str | None]:
    """Return the digest of the vision tower if it isn't torch's, and what was compared if one was tried."""
    return {"tower": smolvlm.tower, "vision": None if smolvlm.vision is None else smolvlm.vision.text()}


def _places(store: ObjectStore, seen: RecordPass) -> dict[str, str | None]:
    """Return where pictures and report are and what opens the review queues; None for what there is not."""
    return {
        "previews": store.uri_of(layout.PREVIEWS) if seen.previews else None,
        "report": store.uri_of(layout.REPORT) if store.exists(layout.REPORT) else None,
        "review": f"shopframe serve --output {store.uri}" if seen.totals.persons["kept"] else None,
    }


def _last_postponed(store: ObjectStore) -> list[dict[str, str]]:
    try:
        found: list[dict[str, str]] = json.loads(store.read(layout.PROGRESS)).get("postponed", [])
    except (FileNotFoundError, ValueError):
        return []
    return found


def _failed_frames(store: ObjectStore, records: Sequence[CommitRecord]) -> list[dict[str, str]]:
    """Return the first failed frames of the shards that are done, their places and their errors."""
    found: list[dict[str, str]] = []
    for record in records:
        entry = record.object("frames")
        if entry is None:
            continue
        with store.open(entry.path) as stream:
            table = pq.read_table(stream, columns=[*_FRAME_KEYS, "status"])
        shard = shard_from_record(record)
        rows = table.filter(pc.equal(table["status"], "error")).slice(0, _FAILURES_SHOWN).to_pylist()
        found += [
            {name: row[key] for key, name in _FRAME_KEYS.items()}
            | {"input": input_of_frame(shard, row["frame_key"])}
            for row in rows
        ]
    return found[:_FAILURES_SHOWN]


def _quota(
    store: ObjectStore, run: RunRecord, settings: GeminiSettings, waiting: int
) -> dict[str, Any] | None:
    """Return the state of Gemini's quota, or None if the last run did not use Gemini."""
    model = run.models.gemini
    if model is None:
        return None
    found = read_status(settings.ledger_place(store), settings.quota_limits, SystemClock().now())
    requests = -(-waiting // settings.persons_per_request)
    return {
        "model": settings.model,
        "persons_waiting": waiting,
        "spent_today": found.spent_today,
        "left_today": found.left_today,
        "resets_at": found.resets_at.isoformat(timespec="minutes"),
        "spent_this_minute": found.window_requests,
        "requests_per_minute": found.requests_per_minute,
        "held_until": None if found.held_until is None else found.held_until.isoformat(timespec="seconds"),
        "days_left": found.days_left(requests),
    }


def what_next(status: dict[str, Any]) -> str:
    """Return what the user should do next, in most cases the commands to run."""
    done = f"all done: query {status['output']}/{layout.CONSOLIDATED}/*.parquet"
    return "; then ".join(_steps(status)) or done


def _steps(status: dict[str, Any]) -> Iterator[str]:
    shards, output = status["shards"], status["output"]
    postponed = len(status["postponed"])
    again = max(postponed, shards["pending"])
    if again:
        yield (
            f"{counted(again, 'shard')} still to do: run the same shopframe annotate command again"
            + (" when the causes above are gone" if postponed else "")
        )
    if shards["failed"]:
        yield (
            f"{counted(shards['failed'], 'shard')} failed: fix what the errors say, and run "
            f"shopframe annotate ... --output {output} --retry-failed"
        )
    if status["quota"] is not None and status["quota"]["persons_waiting"]:
        quota = status["quota"]
        when = "now" if quota["left_today"] != 0 else f"after {moment(quota['resets_at'])}"
        waiting = f"{wait_of(quota['persons_waiting'])} for Gemini"
        yield f"{waiting}: run shopframe gemini --output {output} ({when})"
    for name, outcomes in status["annotators"].items():
        owed = sum(n for outcome, n in outcomes.items() if outcome in RETRYABLE)
        if owed and name != "gemini":
            yield (f"{wait_of(owed)} for {name}: run shopframe annotate ... --retry-annotator {name}")
    if not status["corrections"]["consolidated"]:
        yield f"{layout.CONSOLIDATED}/ lacks corrections: run shopframe consolidate --output {output}"
