"""The section What the shop did, from the last `shopframe analyze`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.analysis.analysing import SUMMARY
from jobs.findings.charts import course_chart, occupancy_chart, queue_chart

_COURSES = 12
"""Cameras with a chart over time. The tables beside the summary have all of them."""


def read_analysis(store: ObjectStore) -> dict[str, Any] | None:
    """Return the summary of the last analysis in an output, or None if there is none."""
    try:
        found: dict[str, Any] = json.loads(store.read(f"{layout.ANALYSIS}/{SUMMARY}"))
    except FileNotFoundError:
        return None
    return found


def heat_map(store: ObjectStore, file: str) -> bytes | None:
    """Return a picture of the last analysis, or None if it is gone or was never one."""
    found = read_analysis(store)
    if found is None or file not in {one["file"] for one in found["heat_maps"]}:
        return None
    try:
        return store.read(f"{layout.ANALYSIS}/{file}")
    except FileNotFoundError:
        return None


def is_outdated(store: ObjectStore) -> bool:
    """Return whether people have decided anything, or tables were written, since the last analysis."""
    made = store.info(f"{layout.ANALYSIS}/{SUMMARY}").modified_s
    since = (*store.list(layout.CORRECTIONS), *store.list(layout.CONSOLIDATED))
    # Not every store knows when an object was written.
    return made is not None and any((info.modified_s or 0) > made for info in since)


def shop_section(store: ObjectStore, picture: Callable[[str], str | None]) -> dict[str, Any]:
    """Return what the template shows of the analysis in an output; `shop` is None if there is none.

    Args:
        store: The output.
        picture: Returns the address of a heat map by its file name, or None if it is gone.
    """
    shop = read_analysis(store)
    if shop is None:
        return {"shop": None}
    lengths: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in shop["queue_lengths"]:
        lengths.setdefault((row["zone"], row["camera"]), []).append((row["length"], row["share"]))
    maps = [(one, address) for one in shop["heat_maps"] if (address := picture(one["file"])) is not None]
    hours = [(row["hour"], row["occupancy"]) for row in shop["hours"]]
    return {
        "shop": shop,
        "shop_is_outdated": is_outdated(store),
        "shop_hours": occupancy_chart("shop-hours", hours, shop["timezone"]) if hours else None,
        "shop_courses": list(_courses(shop)),
        "shop_queues": [
            (queue, queue_chart(f"queue{number}", queue["zone"], lengths[queue["zone"], queue["camera"]]))
            for number, queue in enumerate(shop["queues"])
        ],
        "shop_maps": maps,
    }


def _courses(shop: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the busiest cameras with their charts over time, all on one scale."""
    course = shop.get("course")
    if not course or not course["rows"]:
        return []
    most = max(row["occupancy"] for row in course["rows"])
    by_camera: dict[str, list[tuple[datetime, float]]] = {}
    for row in course["rows"]:
        began = datetime.fromisoformat(row["began_at"])
        by_camera.setdefault(row["camera"], []).append((began, row["occupancy"]))
    busiest = sorted(by_camera, key=lambda camera: -sum(people for _, people in by_camera[camera]))
    return [
        (
            camera,
            course_chart(
                f"course{number}", camera, by_camera[camera], course["step_s"], most, shop["timezone"]
            ),
        )
        for number, camera in enumerate(sorted(busiest[:_COURSES]))
    ]
