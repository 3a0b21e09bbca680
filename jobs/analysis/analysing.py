"""Analyse an output: read its tables, compute all figures, and write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.errors import ConfigError
from actors.read.settings import InputSettings
from actors.storage.object_store import ObjectStore
from actors.storage.tables import to_parquet
from jobs.analysis import figures
from jobs.analysis.attribute_shares import AttributeShares
from jobs.analysis.dwell import DWELL_SCHEMA, dwell_of
from jobs.analysis.figures import BY
from jobs.analysis.heat_maps import draw_heat_maps, foot_points
from jobs.analysis.linking import link_people
from jobs.analysis.observations import TIME_COLUMNS, Coverage, Observations
from jobs.analysis.shop import Shop
from jobs.analysis.spreadsheets import for_spreadsheets
from jobs.analysis.visitors import VISITORS_SCHEMA, visitors
from jobs.analysis_settings import AnalyzeSettings
from jobs.evaluation.audited import AuditedOutput
from jobs.run.run_record import read_run
from jobs.run.words import counted, time_in_words

SUMMARY = "summary.json"
"""File in the folder of an analysis that has all figures that a page shows."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was computed.

    Attributes:
        summary: All figures that fit into a page, as JSON.
        tables: Tables by name, each of which becomes a Parquet and a CSV file.
        pictures: JPEGs by file name.
    """

    summary: dict[str, Any]
    tables: Mapping[str, pa.Table]
    pictures: Mapping[str, bytes]


def analyse(store: ObjectStore, shop: Shop, settings: AnalyzeSettings, by: Sequence[str]) -> Analysis:
    """Compute all figures of an output.

    Args:
        store: The output.
        shop: What is known about the shop.
        settings: How frames belong together.
        by: Columns that figures are grouped by.

    Raises:
        ConfigError: The output has no run or no consolidated tables, a zone names a camera that it doesn't
            have, or it can't be grouped by one of the columns.
    """
    unknown = [name for name in by if name not in BY]
    if unknown or not by:
        raise ConfigError(f"--by {','.join(by)}: {(unknown or ['nothing'])[0]}: use some of {', '.join(BY)}")
    run = read_run(store)
    schema = AttributeSchema(run.section("schema", SchemaSettings))
    attributes = [attribute for attribute in schema if attribute.type == "category"]
    names = [attribute.name for attribute in attributes]
    shop = shop.in_zone(run.section("input", InputSettings).timezone)
    with Observations.of(store, shop, settings.max_gap_s, names) as seen:
        attributes = [attribute for attribute in attributes if seen.has(attribute.name)]
        _check_cameras(shop, seen.cameras())
        coverage = seen.coverage()
        lengths = figures.queue_lengths(seen, shop)
        hours = figures.hours(seen, shop)
        course, step_s = figures.course(seen, coverage.typical_interval_s)
        points = foot_points(seen)
        maps = list(draw_heat_maps(seen, points, store, run.section("input", InputSettings)))
        links = list(link_people(seen, [attribute.name for attribute in attributes], settings.max_link_s))
        dwells = [
            dwell_of(one, settings.max_link_s, [attribute.name for attribute in attributes]) for one in links
        ]
        summed = [one for one in links if one.camera in shop.counted(seen.cameras())]
        shares = AttributeShares(seen, shop, attributes, AuditedOutput.of(store))
        in_all = sum(figures.occupancy(seen, shop, [])["person_seconds"].drop_null().to_pylist())
        ranges, why_not = visitors(summed, in_all, shop.visitors)
        tables = {
            "occupancy": _in_zone(figures.occupancy(seen, shop, by), shop),
            "zones": _in_zone(figures.by_zone(seen, shop, by), shop),
            "queues": lengths,
            "attributes": _in_zone(shares.by(by), shop),
            "course": _in_zone(course, shop),
            "hours": _in_zone(hours, shop),
            "heat_maps": points,
            "dwell": pa.Table.from_pylist([asdict(dwell) for dwell in dwells], DWELL_SCHEMA),
            "visitors": pa.Table.from_pylist([asdict(one) for one in ranges], VISITORS_SCHEMA),
        }
        peaks = figures.peaks(hours)
        summary = {
            "output": store.uri,
            "timezone": shop.timezone,
            "by": list(by),
            "coverage": asdict(coverage),
            "notes": list(notes(coverage, shop, settings)),
            "cameras": figures.occupancy(seen, shop, ["camera"]).to_pylist(),
            "zones": figures.by_zone(seen, shop, ["zone"]).to_pylist(),
            "queues": [asdict(queue) for queue in figures.queues(lengths)],
            "queue_lengths": lengths.to_pylist(),
            "course": {
                "step_s": step_s,
                "rows": [
                    {**row, "began_at": row["began_at"].isoformat()}
                    for row in course.select(["camera", "began_at", "occupancy"]).to_pylist()
                ],
            },
            "hours": hours.to_pylist(),
            "busiest": peaks.busiest,
            "quietest": peaks.quietest,
            "no_peaks": peaks.unknown if coverage.frames else None,
            "attributes": shares.by([]).to_pylist(),
            "dwell": [asdict(dwell) for dwell in dwells],
            "visitors": {"ranges": [asdict(one) for one in ranges], "unknown": why_not},
            "heat_maps": [
                {
                    "camera": one.camera,
                    "file": one.file_name,
                    "empty_frames": one.empty_frames,
                    "trouble": one.trouble,
                }
                for one in maps
            ],
        }
    return Analysis(summary, tables, {one.file_name: one.picture for one in maps})


def notes(coverage: Coverage, shop: Shop, settings: AnalyzeSettings) -> list[str]:
    """Return what a reader of the figures has to know, in whole sentences."""
    said = []
    if not coverage.frames:
        said.append("No frame has a time, so there are no figures: input.key_pattern reads times from paths.")
    else:
        said.append(
            "People are those that the detector found, so their numbers are a model's guess without an "
            "interval; shopframe evaluate --truth with a table of boxes measures how many it misses."
        )
    if coverage.without_time:
        said.append(f"Left out: {counted(coverage.without_time, 'frame')} without a time.")
    if coverage.failed:
        said.append(f"Left out: {counted(coverage.failed, 'frame')} that failed.")
    if coverage.closed:
        said.append(f"Left out: {counted(coverage.closed, 'frame')} outside the opening hours.")
    if coverage.gaps:
        said.append(
            f"Observed: {time_in_words(coverage.observed_s)}, the cameras' times added up, between frames at "
            f"most {settings.max_gap_s:g} s apart (analyze.max_gap_s). Left out of person-seconds: "
            f"{counted(coverage.gaps, 'longer gap')}, together {time_in_words(coverage.left_out_s)}."
        )
    if coverage.staff:
        said.append(f"{coverage.staff:,} persons in staff zones are in no figure but that of their zone.")
    if shop.same_place:
        groups = "; ".join(", ".join(group) for group in shop.same_place)
        said.append(f"Of cameras that see the same place, the first counts in sums ({groups}).")
    return said


def write_analysis(analysis: Analysis, to: ObjectStore) -> list[str]:
    """Write all tables as Parquet and CSV, the pictures, and the summary as JSON; return their URIs."""
    written = []
    for name, table in analysis.tables.items():
        sink = pa.BufferOutputStream()
        pa_csv.write_csv(for_spreadsheets(table), sink)
        for ending, content in (("parquet", to_parquet(table)), ("csv", sink.getvalue().to_pybytes())):
            to.write(f"{name}.{ending}", content)
            written.append(to.uri_of(f"{name}.{ending}"))
    for name, picture in analysis.pictures.items():
        to.write(name, picture)
        written.append(to.uri_of(name))
    to.write(SUMMARY, json.dumps(analysis.summary, indent=1).encode())
    return [*written, to.uri_of(SUMMARY)]


def _check_cameras(shop: Shop, cameras: Sequence[str]) -> None:
    named = {zone.camera for zone in shop.zones} - {"*"}
    named |= {camera for group in shop.same_place for camera in group}
    missing = sorted(named - set(cameras))
    if missing:
        known = ", ".join(camera or "(none)" for camera in cameras) or "none at all"
        raise ConfigError(f"--zones: no frame is of the camera {missing[0]}; frames are of {known}")


def _in_zone(table: pa.Table, shop: Shop) -> pa.Table:
    """Return a table that names the time zone of its columns with local times, if it has any."""
    if not {*TIME_COLUMNS, "began_at"} & {*table.column_names}:
        return table
    return table.append_column("timezone", pa.repeat(shop.timezone, table.num_rows))
