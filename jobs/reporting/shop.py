"""The section of the report about what the shop did, from the last `shopframe analyze`."""

from __future__ import annotations

import base64
import json
from typing import Any

from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.analysis.analysing import SUMMARY
from jobs.reporting.charts import occupancy_chart, queue_chart


def shop_section(store: ObjectStore) -> dict[str, Any]:
    """Return what the template shows of the analysis in an output; `shop` is None if there is none."""
    try:
        shop = json.loads(store.read(f"{layout.ANALYSIS}/{SUMMARY}"))
    except FileNotFoundError:
        return {"shop": None}
    lengths: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in shop["queue_lengths"]:
        lengths.setdefault((row["zone"], row["camera"]), []).append((row["length"], row["share"]))
    maps = []
    for one in shop["heat_maps"]:
        try:
            picture = store.read(f"{layout.ANALYSIS}/{one['file']}")
        except FileNotFoundError:
            continue
        maps.append((one, f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"))
    hours = [(row["hour"], row["occupancy"]) for row in shop["hours"]]
    return {
        "shop": shop,
        "shop_hours": occupancy_chart("shop-hours", hours, shop["timezone"]) if hours else None,
        "shop_queues": [
            (queue, queue_chart(f"queue{number}", queue["zone"], lengths[queue["zone"], queue["camera"]]))
            for number, queue in enumerate(shop["queues"])
        ],
        "shop_maps": maps,
    }
