"""Print an analysis in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.run.words import time_in_words

_NO_CAMERA = "(no camera)"


def print_analysis(console: Console, summary: dict[str, Any], files: list[str]) -> None:
    """Print what the shop did, what that rests on, and where the tables are."""
    coverage = summary["coverage"]
    console.print(Text(f"What the shop did: {summary['output']}", style="bold"), soft_wrap=True)
    if coverage["began_at"]:
        console.print(
            Text(
                f"{coverage['frames']:,} frames from {coverage['began_at']} to {coverage['ended_at']} "
                f"({summary['timezone']}), {coverage['persons']:,} persons in them"
            ),
            soft_wrap=True,
        )
    people = ("people at once", "most", "person-time", "frames")
    _print(console, "Cameras", ("camera", *people), (_row(c, "camera") for c in summary["cameras"]))
    _print(console, "Zones", ("zone", *people), (_row(z, "zone") for z in summary["zones"]))
    _print(
        console,
        "Queues at tills (people in the zone)",
        ("till", "camera", "mean", "median", "90%", "longest", "empty"),
        (
            (
                queue["zone"],
                queue["camera"] or _NO_CAMERA,
                f"{queue['mean']:.2f}",
                str(queue["median"]),
                str(queue["p90"]),
                str(queue["longest"]),
                f"{queue['empty']:.0%}",
            )
            for queue in summary["queues"]
        ),
    )
    _print_dwell(console, summary["dwell"])
    for one in summary["visitors"]["ranges"]:
        said = f"visitors: {one['low']:,} to {one['high']:,}, from {one['rests_on']}"
        console.print(Text(said), soft_wrap=True)
    if coverage["frames"] and summary["visitors"]["unknown"]:
        console.print(Text(summary["visitors"]["unknown"]), soft_wrap=True)
    for what in ("busiest", "quietest"):
        hours = ", ".join(
            f"{row['hour']:02d}:00 ({row['occupancy']:.2f} people at once)" for row in summary[what]
        )
        if hours:
            console.print(Text(f"{what} hours of the day ({summary['timezone']}): {hours}"), soft_wrap=True)
    if summary["no_peaks"]:
        console.print(Text(summary["no_peaks"]), soft_wrap=True)
    _print_attributes(console, summary["attributes"])
    for one in summary["heat_maps"]:
        if one["trouble"]:
            grey = "" if one["empty_frames"] else ", so it is grey"
            said = f"background of the heat map of {one['camera'] or _NO_CAMERA}: {one['trouble']}{grey}"
            console.print(Text(said), soft_wrap=True)
    for line in summary["notes"]:
        console.print(Text(line), soft_wrap=True)
    for uri in files:
        console.print(Text(f"wrote {uri}"), soft_wrap=True)


def _print_attributes(console: Console, rows: list[dict[str, Any]]) -> None:
    """Print shares, with a column of intervals if one of them has one, and below what they rest on."""
    sure = any(row["low"] is not None for row in rows)
    _print(
        console,
        "People in frames, by attribute (somebody who is in ten frames counts ten times)",
        ("attribute", "value", "share", *(("95% interval",) if sure else ()), "number"),
        (
            (
                row["attribute"],
                "can't tell" if row["value"] is None else row["value"],
                f"{row['share']:.1%}",
                *((_interval(row),) if sure else ()),
                _number(row),
            )
            for row in rows
        ),
    )
    for name, rests_on in dict.fromkeys((row["attribute"], row["rests_on"]) for row in rows):
        console.print(Text(f"{name}: {rests_on}"), soft_wrap=True)


def _print_dwell(console: Console, dwells: list[dict[str, Any]]) -> None:
    _print(
        console,
        "How long people stand in one place",
        ("camera", "times", "mean", "median", "90%", "linked detections"),
        (
            (
                one["camera"] or _NO_CAMERA,
                f"{one['stops']:,}",
                *(time_in_words(one[key]) for key in ("mean_s", "median_s", "p90_s")),
                f"{one['linked_share']:.0%}",
            )
            for one in dwells
            if one["stops"]
        ),
    )
    by_text: dict[str, list[str]] = {}
    for one in dwells:
        if one["said"]:
            by_text.setdefault(one["said"], []).append(one["camera"] or _NO_CAMERA)
    for said, cameras in by_text.items():
        console.print(Text(f"{', '.join(cameras)}: {said}"), soft_wrap=True)


def _row(found: dict[str, Any], key: str) -> tuple[str, ...]:
    name = found[key] or _NO_CAMERA
    return (
        name if found.get("kind", "area") == "area" else f"{name} ({found['kind']})",
        f"{found['occupancy']:.2f}",
        str(found["most_in_a_frame"]),
        time_in_words(found["person_seconds"]),
        f"{found['frames']:,}",
    )


def _interval(row: dict[str, Any]) -> str:
    return "none" if row["low"] is None else f"{row['low']:.1%} to {row['high']:.1%}"


def _number(row: dict[str, Any]) -> str:
    if row["number_low"] is None:
        return "none" if row["number"] is None else f"{row['number']:,.0f}"
    return f"{row['number']:,.0f} ({row['number_low']:,.0f} to {row['number_high']:,.0f})"


def _print(console: Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=0)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    if table.row_count:
        console.print(table)
