"""How wrong is `shopframe analyze` about people whose tracks are known?

    python -m benchmarks.analyze [--seeds 20] [--quick]

People walk through a simulated shop, stop and leave (`demo/tracks.py`), and a camera sees one frame in five
seconds, or two or four a second, in which a detector misses some of them and a model takes some for others.
The functions of the command read these tables. It prints how far occupancy, person-seconds by zone, the
dwell of people who stand and the number of visitors are from the tracks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from benchmarks.figures import Figures
from demo.tracks import AGES, SHELF, TILL, Track, frames_of, make_tracks, person_seconds
from jobs.analysis import figures
from jobs.analysis.dwell import dwell_of
from jobs.analysis.linking import link_people
from jobs.analysis.observations import Observations
from jobs.analysis.shop import Shop
from jobs.analysis.visitors import visitors

_DURATION_S = 3600
_VISITS_PER_HOUR = 60
_MEAN_STOP_S = 60
_ATTRIBUTES = ("gender", "age_group")
_BEGAN = datetime(2026, 3, 7, 9, tzinfo=UTC)
_MAX_GAP_S, _MAX_LINK_S = 60, 10
_CASES = ((5.0, 0, 0), (5.0, 0, 0.1), (0.5, 0, 0), (0.5, 0.02, 0), (0.5, 0.02, 0.1), (0.25, 0.02, 0.1))
"""Seconds between frames, share of the people in a frame that the detector misses, and of wrong answers."""
_OTHERS = {"gender": ("male", "female"), "age_group": AGES}


def tables_of(
    tracks: Sequence[Track], times_s: Sequence[float], seed: int, missed: float, wrong: float = 0
) -> dict[str, pa.Table]:
    """Return the frames and persons of a camera in the columns of the consolidated tables."""
    rng = np.random.default_rng((seed, 7))
    frames: list[dict[str, Any]] = []
    persons: list[dict[str, Any]] = []
    for place, (at, found) in enumerate(frames_of(tracks, times_s, seed, missed)):
        key = f"{place:06d}"
        frames.append(
            {
                "shard_id": "s",
                "frame_key": key,
                "camera": "floor",
                "captured_at": _BEGAN + timedelta(seconds=at),
                "width": 1920,
                "height": 1080,
                "detected": len(found),
                "status": "ok",
            }
        )
        for index, one in enumerate(found):
            track = tracks[one.track]
            values = {"gender": track.gender, "age_group": track.age_group}
            for name, others in _OTHERS.items():
                if rng.random() < wrong:
                    values[name] = str(rng.choice([value for value in others if value != values[name]]))
            sources = {f"{name}_source": "smolvlm" for name in _ATTRIBUTES}
            keys = {"shard_id": "s", "frame_key": key, "person_index": index, "is_person": True}
            persons.append({**keys, "bbox": list(one.bbox), "corrected_bbox": None, **values, **sources})
    columns = pa.Table.from_pylist(persons)
    boxes = pa.nulls(columns.num_rows, pa.list_(pa.float64()))
    at = columns.schema.get_field_index("corrected_bbox")
    return {
        "all_frames": pa.Table.from_pylist(frames),
        "all_persons": columns.set_column(at, "corrected_bbox", boxes),
    }


def one_seed(seed: int, interval_s: float, missed: float, wrong: float) -> dict[str, Any]:
    """Return the errors of one simulated hour."""
    tracks = make_tracks(seed, _DURATION_S, _VISITS_PER_HOUR, _MEAN_STOP_S)
    times = np.arange(0, _DURATION_S + interval_s / 2, interval_s).tolist()
    # What is on average stated of visits is their mean over many shops.
    others = [
        t for n in range(20) for t in make_tracks(1000 + n, _DURATION_S, _VISITS_PER_HOUR, _MEAN_STOP_S)
    ]
    dwell = float(np.mean([track.ended_s - track.began_s for track in others]))
    zones = {"till": TILL, "shelf": SHELF}
    shop = Shop.model_validate(
        {
            "zones": [{"name": name, "rectangle": place} for name, place in zones.items()],
            "visitors": {"dwell_s": [0.9 * dwell, 1.1 * dwell]},
        }
    )
    with duckdb.connect() as database:
        for name, table in tables_of(tracks, times, seed, missed, wrong).items():
            database.register(name, table)
        seen = Observations.over(database, shop, _MAX_GAP_S, _ATTRIBUTES)
        (floor,) = figures.occupancy(seen, shop, ["camera"]).to_pylist()
        in_zones = {row["zone"]: row for row in figures.by_zone(seen, shop, ["zone"]).to_pylist()}
        (links,) = link_people(seen, _ATTRIBUTES, _MAX_LINK_S)
    found = dwell_of(links, _MAX_LINK_S, _ATTRIBUTES)
    stops = [s.ended_s - s.began_s for t in tracks for s in t.stops if s.ended_s < _DURATION_S]
    in_view = person_seconds(tracks, _DURATION_S)
    ranges, _ = visitors([links], floor["person_seconds"], shop.visitors)
    return {
        "occupancy": floor["person_seconds"] / in_view - 1,
        **{
            name: in_zones[name]["person_seconds"] / person_seconds(tracks, _DURATION_S, place) - 1
            for name, place in zones.items()
        },
        "dwell": (found.mean_s or 0) / float(np.mean(stops)) - 1,
        "linked": found.linked_share,
        "visitors": len(tracks),
        "ranges": {one.by: (one.low, one.high) for one in ranges},
        "said": found.said,
    }


def main() -> None:
    """Print the errors of all seeds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.analyze", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="take one seed, to check that it runs")
    given = parser.parse_args()
    results = Figures("analyze", given.quick)
    seeds = range(1 if given.quick else given.seeds)
    for interval_s, missed, wrong in _CASES:
        rows = [one_seed(seed, interval_s, missed, wrong) for seed in seeds]
        case = f"{interval_s:g} s, {missed:.0%} missed, {wrong:.0%} wrong"
        print(
            f"a frame every {interval_s:g} s, {missed:.0%} missed, {wrong:.0%} of the answers wrong; "
            f"{len(rows)} hours of about {_VISITS_PER_HOUR} visits; {rows[0]['said']}"
        )
        print(f"  linked detections: {np.mean([row['linked'] for row in rows]):.1%}")
        errors = {
            name: np.array([100 * row[name] for row in rows])
            for name in ("occupancy", "till", "shelf", "dwell")
        }
        for name, found in errors.items():
            print(f"  {name}: mean error {found.mean():+.1f}%, largest {np.abs(found).max():.1f}%")
        largest = {name: float(np.abs(found).max()) for name, found in errors.items()}
        dwell = largest.pop("dwell")
        worst = max(largest, key=lambda name: largest[name])
        results.add(
            f"{case}: person-seconds, largest error",
            largest[worst],
            "%",
            at_most=2,
            note=f"{worst}, without the {missed:.0%}" if missed else worst,
        )
        results.add(f"{case}: dwell, largest error", dwell, "%", at_most=10)
        for by in rows[0]["ranges"]:
            within = [row["ranges"][by][0] <= row["visitors"] <= row["ranges"][by][1] for row in rows]
            widths = [(row["ranges"][by][1] - row["ranges"][by][0]) / row["visitors"] for row in rows]
            results.add(
                f"{case}: visitors by {by} with truth",
                100 * float(np.mean(within)),
                "%",
                at_least=95,
                note=f"mean width {np.mean(widths):.0%} of the truth",
            )


if __name__ == "__main__":
    main()
