"""Build the report of an output: count, cut thumbnails, draw charts, and write the page."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.corrections.decision_log import read_decisions
from actors.gemini.settings import GeminiSettings
from actors.read.settings import InputSettings
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.time_text import duration, moment
from jobs.evaluation.shares import MIN_LABELS
from jobs.findings.how_sure import how_sure_section
from jobs.findings.shop import heat_map, shop_section
from jobs.reporting.charts import confidence_chart, hours_chart, shares_chart
from jobs.reporting.corrections import Corrections, count_corrections
from jobs.reporting.gallery import Gallery, choose
from jobs.reporting.in_short import in_short
from jobs.reporting.measures import UNSURE, Measures, label
from jobs.reporting.page import render
from jobs.reporting.roi_drops import RoiDrops
from jobs.reporting.thumbnails import Wanted, cut_thumbnails
from jobs.reporting.truth import compared_with_truth
from jobs.run.output_status import output_status
from jobs.run.record_pass import RecordPass
from jobs.run.run_record import RunRecord, read_run

MOST_INLINE = 2000
"""Number of persons up to which the pictures are in the file. Those of more persons are in a folder."""
_CAMERAS_OF_DROPS = 50
_TROUBLES_SHOWN = 5


@dataclass(slots=True)
class Built:
    """What was built.

    Attributes:
        uri: Where the report is.
        persons: Number of persons in the gallery.
        pictures: Number of pictures.
        size_bytes: Size of the file.
        folder: The folder of pictures beside it, or None if they are in the file.
        missing: Why pictures were not cut from the input, by shard.
    """

    uri: str
    persons: int = 0
    pictures: int = 0
    size_bytes: int = 0
    folder: str | None = None
    missing: dict[str, str] = field(default_factory=dict)


def build_report(store: ObjectStore, to: ObjectStore, name: str, most_persons: int) -> Built:
    """Write the report of an output.

    Args:
        store: The output.
        to: The folder of the report.
        name: Its file name.
        most_persons: Maximum number of persons in the gallery.

    Raises:
        ConfigError: The output has no run, or no consolidated persons.
        OutputError: A record or a decision is not of this version.
        OSError: The output can't be read, or the report can't be written.
    """
    run = read_run(store)
    gemini = run.section("gemini", GeminiSettings)
    schema = AttributeSchema(run.section("schema", SchemaSettings))
    seen = RecordPass(run.question, gemini.cameras, remembers_objects=False)
    drops = RoiDrops()
    drops.read(store, (record for record, _ in seen.read(store)))
    status = output_status(store, seen=seen)
    built = Built(to.uri_of(name))
    # Times are on the clock of the analysis, if there is one.
    shop = shop_section(store, lambda file: _picture(heat_map(store, file)))
    timezone = shop["shop"]["timezone"] if shop["shop"] else run.section("input", InputSettings).timezone
    with Measures.of(store, schema) as measures:
        gallery = choose(measures, most_persons, timezone)
        if len(gallery.people) > MOST_INLINE:
            built.folder = layout.report_pictures(name)
        built.persons = len(gallery.people)
        samples = _cut(store, run, to, gallery, drops, built)
        decisions = read_decisions(store).values()
        corrections = count_corrections(one for some in decisions for one in some)
        sure, compared = how_sure_section(store), compared_with_truth(store)
        attributes = _attributes(measures, timezone)
        categories = [a.name for a in schema if a.type == "category"]
        content = {
            "made_at": moment(datetime.now(UTC)),
            "run": run,
            "started_at": moment(run.started_at) if run.started_at else "an unknown time",
            "settings": json.dumps(run.config, ensure_ascii=False, indent=1),
            "last": _last_run(store),
            "status": status,
            "output": store.uri,
            "checks": list(_checks(status, measures)),
            "folder": built.folder,
            "unsure": UNSURE,
            **_failures(measures, drops, status),
            **_drops(drops, samples, measures),
            **attributes,
            "short": in_short([found for found, _ in attributes["shares"]], sure, compared, categories),
            "min_labels": MIN_LABELS,
            **_corrections(corrections, measures),
            "compared": compared,
            "sure": sure,
            **shop,
            "gallery": gallery,
            "gallery_data": {
                "people": gallery.people,
                "attributes": [a.name for a in measures.attributes],
                "orders": [[label(value) for value in a.values] for a in measures.attributes],
                "annotators": list(measures.annotators),
            },
            "missing": list(built.missing.items())[:_TROUBLES_SHOWN],
            "missing_more": max(0, len(built.missing) - _TROUBLES_SHOWN),
        }
    page = render(content).encode()
    built.size_bytes = len(page)
    to.write(name, page)
    return built


def _last_run(store: ObjectStore) -> dict[str, Any]:
    """Return what `progress.json` says about the last run, or nothing."""
    try:
        found = json.loads(store.read(layout.PROGRESS)).get("run")
    except (FileNotFoundError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    seconds = found.get("seconds")
    return found | ({"took": duration(seconds)} if isinstance(seconds, int | float) else {})


def _checks(status: dict[str, Any], measures: Measures) -> Iterator[tuple[str, str, bool]]:
    """Yield sums that must add up, in words, and whether they do."""
    shards, frames, persons = status["shards"], status["frames"], status["persons"]
    parts = {name: shards[name] for name in ("done", "failed", "pending")}
    yield _sum("shards", shards["total"], parts)
    yield _sum("frames", frames["total"], {name: frames[name] for name in ("ok", "failed")})
    yield _sum(
        "persons detected", persons["detected"], {"kept": persons["kept"], "dropped": persons["dropped"]}
    )
    yield _sum("persons dropped", persons["dropped"], status["dropped"])
    for name, outcomes in status["annotators"].items():
        given = {outcome: n for outcome, n in outcomes.items() if n}
        not_asked = persons["kept"] - sum(given.values())
        if not_asked > 0:
            given["not annotated (the annotator was off)"] = not_asked
        yield _sum(f"persons kept, at {name}", persons["kept"], given)
    yield _sum("persons kept", persons["kept"], {"rows of consolidated": measures.kept()})
    rows, failed = measures.frames()
    yield _sum("frames", frames["total"], {"rows of consolidated_frames": rows})
    yield _sum("frames failed", frames["failed"], {"failed rows of consolidated_frames": failed})


def _sum(what: str, total: int, parts: dict[str, int]) -> tuple[str, str, bool]:
    terms = " + ".join(f"{number:,} {name}" for name, number in parts.items()) or "0"
    return what, f"{total:,} = {terms}", total == sum(parts.values())


def _failures(measures: Measures, drops: RoiDrops, status: dict[str, Any]) -> dict[str, Any]:
    return {
        "failed_shards": drops.failures(),
        "failed_frames": measures.failed_frames(),
        "unanswered": {name: measures.unanswered(name) for name in measures.annotators},
        "postponed": status["postponed"][:_TROUBLES_SHOWN],
    }


def _drops(drops: RoiDrops, samples: dict[str, list[tuple[str, str]]], measures: Measures) -> dict[str, Any]:
    by_camera = drops.by_camera()
    detected = {camera: found for camera, _, found, _ in measures.cameras()}
    listed = [
        {
            "camera": camera,
            "reasons": reasons,
            "dropped": sum(reasons.values()),
            "detected": detected.get(camera),
            "samples": samples.get(camera, []),
        }
        for camera, reasons in by_camera[:_CAMERAS_OF_DROPS]
    ]
    others = by_camera[_CAMERAS_OF_DROPS:]
    return {
        "drops": listed,
        "other_drops": (len(others), sum(sum(reasons.values()) for _, reasons in others)),
        "cameras": measures.cameras(),
    }


def _attributes(measures: Measures, timezone: str) -> dict[str, Any]:
    shares, confidences = [], []
    for number, attribute in enumerate(measures.attributes):
        found = measures.shares(attribute)
        if found.values:
            shares.append((found, shares_chart(f"shares{number}", found)))
        sure = measures.confidence(attribute)
        if sure is not None:
            confidences.append((sure, confidence_chart(f"confidence{number}", sure)))
    hours = measures.hours(timezone)
    return {
        "shares": shares,
        "confidences": confidences,
        "agreements": list(measures.agreements()),
        "annotators": measures.annotators,
        "hours": hours_chart("hours", hours, timezone) if hours else None,
        "kept": measures.kept(),
        "not_persons": measures.not_persons(),
    }


def _corrections(corrections: Corrections, measures: Measures) -> dict[str, Any]:
    return {"corrections": corrections, "human_values": measures.human_values()}


def _cut(
    store: ObjectStore, run: RunRecord, to: ObjectStore, gallery: Gallery, drops: RoiDrops, built: Built
) -> dict[str, list[tuple[str, str]]]:
    """Cut all thumbnails. Put those of the gallery into its people or the folder, and return the others.

    Returns:
        Reasons and pictures of dropped persons by camera.
    """
    wanted: defaultdict[str, list[Wanted]] = defaultdict(list)
    groups = {}
    for (camera, reason), some in drops.samples.items():
        for shard_id, person in some:
            wanted[shard_id].append(person)
            groups[person.name] = (camera, reason)
    for shard_id, people in gallery.wanted.items():
        wanted[shard_id] += people
    samples: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    written = set()
    for shard in cut_thumbnails(store, run, wanted):
        built.pictures += len(shard.pictures)
        if shard.trouble is not None:
            built.missing[shard.shard_id] = shard.trouble
        for name, picture in shard.pictures.items():
            if name in groups:
                camera, reason = groups[name]
                samples[camera].append((reason, _data_uri(picture)))
            elif built.folder is None:
                gallery.people[int(name)]["picture"] = _data_uri(picture)
            else:
                path = layout.report_picture(built.folder, int(name))
                to.write(path, picture)
                gallery.people[int(name)]["picture"] = quote(path)
                written.add(path)
    if built.folder is not None:
        # An earlier report may have had more.
        pictures = [info.path for info in to.list(built.folder) if layout.is_report_picture(info.path)]
        to.delete(path for path in pictures if path not in written)
    return {camera: sorted(pictures) for camera, pictures in samples.items()}


def _picture(content: bytes | None) -> str | None:
    return None if content is None else _data_uri(content)


def _data_uri(picture: bytes) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
