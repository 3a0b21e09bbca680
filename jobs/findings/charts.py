"""The charts of what was found about the shop and about how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jobs.evaluation.calibration_points import CalibrationPoint
from jobs.findings.drawing import BAR, INK, figure, svg


def occupancy_chart(name: str, hours: Sequence[tuple[int, float]], timezone: str) -> str:
    """Draw the mean number of people at once by hour of the day."""
    drawn, axis = figure(1.6)
    axis.bar([hour for hour, _ in hours], [people for _, people in hours], width=0.8, color=BAR)
    axis.set_xlim(-0.6, 23.6)
    axis.set_xticks(range(0, 24, 3))
    axis.set_xlabel(f"hour ({timezone})")
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.grid(visible=True, axis="y")
    drawn.subplots_adjust(left=0.17, right=0.95, bottom=0.29, top=0.95)
    listed = ", ".join(f"{people:.2f} from {hour}:00" for hour, people in hours)
    said = f"People at once by hour of the day ({timezone}): {listed}"
    return svg(drawn, name, said)


def queue_chart(name: str, zone: str, lengths: Sequence[tuple[int, float]]) -> str:
    """Draw the share of the time in which a queue had each length."""
    drawn, axis = figure(1.6)
    axis.bar([length for length, _ in lengths], [share for _, share in lengths], width=0.8, color=BAR)
    axis.set_xlabel("people in the zone")
    axis.set_xlim(-0.6, lengths[-1][0] + 0.6)
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(visible=True, axis="y")
    drawn.subplots_adjust(left=0.17, right=0.95, bottom=0.29, top=0.95)
    longest = lengths[-1][0]
    return svg(drawn, name, f"Length of the queue at {zone}, as shares of the time: at most {longest}")


def course_chart(
    name: str,
    camera: str,
    course: Sequence[tuple[datetime, float]],
    step_s: float,
    most: float,
    timezone: str,
) -> str:
    """Draw the mean number of people at once over the time, with gaps where there are no frames.

    Args:
        name: What ids begin with.
        camera: The camera.
        course: Beginnings of steps in local time, with the occupancy.
        step_s: Length of a step in seconds.
        most: The largest occupancy that the axis has.
        timezone: The time zone of these times.
    """
    drawn, axis = figure(1.6)
    step = timedelta(seconds=step_s)
    runs: list[list[tuple[datetime, float]]] = []
    for began, people in course:
        if not runs or began - runs[-1][-1][0] > step:
            runs.append([])
        runs[-1].append((began, people))
    for run in runs:
        ends = [began for began, _ in run] + [run[-1][0] + step]
        heights = [people for _, people in run] + [run[-1][1]]
        places = [float(place) for place in date2num(ends)]  # type: ignore[no-untyped-call]
        axis.fill_between(places, heights, step="post", color=BAR, linewidth=0.8)
        # Frames without people have a line at 0, which a time without frames lacks.
        axis.step(places, heights, where="post", color=BAR, linewidth=2.5)
    locator = AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    # The date is on the right.
    axis.set_xlabel(f"time ({timezone})", loc="left")
    axis.set_ylim(0, most * 1.05 or 1)
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.grid(visible=True, axis="y")
    drawn.subplots_adjust(left=0.17, right=0.95, bottom=0.33, top=0.95)
    busiest, people_then = max(course, key=lambda one: one[1])
    then = f"{busiest:%Y-%m-%d %H:%M} {timezone}"
    said = f"People at once over time at {camera}: most ({people_then:.2f}) from {then}"
    return svg(drawn, name, said)


def calibration_chart(
    name: str, said_by: str, points: Sequence[CalibrationPoint], curve: Sequence[tuple[float, float]]
) -> str:
    """Draw how often answers are right, by how sure the annotator is.

    Args:
        name: What ids begin with.
        said_by: The annotator and the attribute.
        points: Measured shares of right answers with their intervals.
        curve: Stated confidences with what the calibration makes of them, if there is one.
    """
    drawn, axis = figure(2.4)
    axis.plot([0, 1], [0, 1], color=INK, linewidth=0.7, linestyle="--")
    if curve:
        axis.plot([stated for stated, _ in curve], [right for _, right in curve], color=INK, linewidth=1.2)
    for point in points:
        low, high = point.right.low, point.right.high
        if low is not None and high is not None:
            axis.plot([point.stated, point.stated], [low, high], color=BAR, linewidth=1.5)
    axis.plot(
        [point.stated for point in points],
        [point.right.value or 0.0 for point in points],
        color=BAR,
        marker="o",
        markersize=4,
        linestyle="none",
    )
    for ticks in (axis.xaxis, axis.yaxis):
        ticks.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("the model says that it is sure")
    axis.set_ylabel("it is right")
    axis.grid(visible=True)
    drawn.subplots_adjust(left=0.2, right=0.95, bottom=0.2, top=0.96)
    return svg(
        drawn,
        name,
        f"How often answers of {said_by} are right by their confidence; the table has the numbers",
    )
