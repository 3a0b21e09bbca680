"""The report's charts of shares, confidences and hours."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jobs.findings.drawing import BAR, figure, svg
from jobs.reporting.measures import BINS, Confidence, Shares

_LONGEST_LABEL = 17
"""Characters of a value that fit beside its bar. The table beside the chart has all of them."""


def shares_chart(name: str, shares: Shares) -> str:
    """Draw the share of each value as a bar."""
    drawn, axis = figure(0.45 + 0.22 * max(2, len(shares.values)))
    places = range(len(shares.values))
    found = [share for _, share in shares.values]
    middles = [share.share or 0.0 for share in found]
    axis.barh(places, middles, height=0.68, color=BAR)
    axis.set_yticks(list(places), [_short(value) for value, _ in shares.values])
    axis.set_ylim(max(2, len(shares.values)) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=True, axis="x")
    drawn.subplots_adjust(left=0.36, right=0.93, bottom=0.28 / drawn.get_figheight(), top=0.97)
    return svg(drawn, name, f"Shares of {shares.name}: bars; the table has the numbers")


def confidence_chart(name: str, confidence: Confidence) -> str:
    """Draw a histogram of the confidence of an attribute's values."""
    drawn, axis = figure(1.5)
    axis.bar([(b + 0.5) / BINS for b in range(BINS)], confidence.bins, width=0.9 / BINS, color=BAR)
    axis.set_xlim(0, 1)
    axis.set_xlabel("confidence")
    _count_axis(axis)
    drawn.subplots_adjust(left=0.17, right=0.95, bottom=0.3, top=0.95)
    low, middle, high = confidence.quartiles
    return svg(
        drawn,
        name,
        f"Histogram of the confidence of {confidence.name}: quartiles {low:.2f}, {middle:.2f} and {high:.2f}",
    )


def hours_chart(name: str, hours: Sequence[int], timezone: str) -> str:
    """Draw the number of persons by hour of the day in a time zone."""
    drawn, axis = figure(1.6)
    axis.bar(range(24), hours, width=0.8, color=BAR)
    axis.set_xlim(-0.6, 23.6)
    axis.set_xticks(range(0, 24, 3))
    axis.set_xlabel(f"hour ({timezone})")
    _count_axis(axis)
    drawn.subplots_adjust(left=0.17, right=0.95, bottom=0.29, top=0.95)
    listed = ", ".join(f"{number:,} from {hour}:00" for hour, number in enumerate(hours) if number)
    said = f"Persons by hour of the day ({timezone}): {listed}"
    return svg(drawn, name, said)


def _count_axis(axis: Axes) -> None:
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.grid(visible=True, axis="y")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"
