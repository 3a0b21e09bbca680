"""Charts as SVG that goes into a page: by matplotlib, with the page's colours, without scripts.

matplotlib is in the project already, and its SVG needs no script, where those of plotly or Vega would make
each report much larger. Its text stays text, for screen readers and searches. Styles become attributes, so
that the page can forbid all styles but its own.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jobs.reporting.measures import BINS, Confidence, Shares

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_COLOURS = {"#010203": "var(--ink)", "#010204": "var(--bar)", "#010205": "var(--line)"}
_INK, _BAR, _LINE = _COLOURS
_STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "shopframe",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_WIDTH_INCHES = 3.5
_LONGEST_LABEL = 17
"""Characters of a value that fit beside its bar. The table beside the chart has all of them."""


def shares_chart(name: str, shares: Shares) -> str:
    """Draw the share of each value as a bar."""
    figure, axis = _figure(0.45 + 0.22 * max(2, len(shares.values)))
    places = range(len(shares.values))
    found = [share for _, share in shares.values]
    middles = [share.share or 0.0 for share in found]
    axis.barh(places, middles, height=0.68, color=_BAR)
    axis.set_yticks(list(places), [_short(value) for value, _ in shares.values])
    axis.set_ylim(max(2, len(shares.values)) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.tick_params(axis="y", length=0)
    axis.grid(visible=True, axis="x")
    figure.subplots_adjust(left=0.36, right=0.93, bottom=0.28 / figure.get_figheight(), top=0.97)
    return _svg(figure, name, f"Shares of {shares.name}: bars; the table has the numbers")


def confidence_chart(name: str, confidence: Confidence) -> str:
    """Draw a histogram of the confidence of an attribute's values."""
    figure, axis = _figure(1.5)
    axis.bar([(b + 0.5) / BINS for b in range(BINS)], confidence.bins, width=0.9 / BINS, color=_BAR)
    axis.set_xlim(0, 1)
    axis.set_xlabel("confidence")
    _count_axis(axis)
    figure.subplots_adjust(left=0.17, right=0.95, bottom=0.3, top=0.95)
    low, middle, high = confidence.quartiles
    return _svg(
        figure,
        name,
        f"Histogram of the confidence of {confidence.name}: quartiles {low:.2f}, {middle:.2f} and {high:.2f}",
    )


def hours_chart(name: str, hours: Sequence[int]) -> str:
    """Draw the number of persons by hour of the day."""
    figure, axis = _figure(1.6)
    axis.bar(range(24), hours, width=0.8, color=_BAR)
    axis.set_xlim(-0.6, 23.6)
    axis.set_xticks(range(0, 24, 3))
    axis.set_xlabel("hour (UTC)")
    _count_axis(axis)
    figure.subplots_adjust(left=0.17, right=0.95, bottom=0.29, top=0.95)
    busiest = max(range(24), key=lambda hour: hours[hour])
    said = f"Persons by hour of the day: most ({hours[busiest]:,}) from {busiest}:00 UTC"
    return _svg(figure, name, said)


def occupancy_chart(name: str, hours: Sequence[tuple[int, float]], timezone: str) -> str:
    """Draw the mean number of people at once by hour of the day."""
    figure, axis = _figure(1.6)
    axis.bar([hour for hour, _ in hours], [people for _, people in hours], width=0.8, color=_BAR)
    axis.set_xlim(-0.6, 23.6)
    axis.set_xticks(range(0, 24, 3))
    axis.set_xlabel(f"hour ({timezone})")
    axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.grid(visible=True, axis="y")
    figure.subplots_adjust(left=0.17, right=0.95, bottom=0.29, top=0.95)
    busiest, most = max(hours, key=lambda one: one[1])
    said = f"People at once by hour of the day: most ({most:.2f}) from {busiest}:00 {timezone}"
    return _svg(figure, name, said)


def queue_chart(name: str, zone: str, lengths: Sequence[tuple[int, float]]) -> str:
    """Draw the share of the time in which a queue had each length."""
    figure, axis = _figure(1.6)
    axis.bar([length for length, _ in lengths], [share for _, share in lengths], width=0.8, color=_BAR)
    axis.set_xlabel("people in the zone")
    axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(visible=True, axis="y")
    figure.subplots_adjust(left=0.17, right=0.95, bottom=0.29, top=0.95)
    longest = lengths[-1][0]
    return _svg(figure, name, f"Length of the queue at {zone}, as shares of the time: at most {longest}")


def _figure(height_inches: float) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches))
        return figure, figure.subplots()


def _count_axis(axis: Axes) -> None:
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.grid(visible=True, axis="y")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"


def _svg(figure: Figure, name: str, said: str) -> str:
    """Return a figure as an SVG element whose ids begin with `name`, which says `said` to a screen reader."""
    sink = io.BytesIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A value in a script that matplotlib's font doesn't have; the browser's fonts draw it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(sink, format="svg")
    root = ET.fromstring(sink.getvalue())  # noqa: S314 - matplotlib has just written it
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        _make_plain(element, name)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib.update({"role": "img", "class": "chart", "aria-label": said})
    ET.register_namespace("", _SVG)
    text = ET.tostring(root, encoding="unicode")
    # HTML knows these namespaces by itself.
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)


def _make_plain(element: ET.Element, name: str) -> None:
    """Turn the style of an element into attributes, and make its id and references those of one chart."""
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = declaration.partition(":")
        # Fonts are the page's.
        if key.strip() and not key.strip().startswith("font"):
            element.set(key.strip(), value.strip())
    link = element.attrib.pop(_LINK, None)
    if link is not None:
        element.set("href", link)
    if "id" in element.attrib:
        element.set("id", f"{name}-{element.get('id')}")
    for key, value in element.attrib.items():
        if key == "href" and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif "url(#" in value:
            element.set(key, value.replace("url(#", f"url(#{name}-"))
        elif value in _COLOURS:
            element.set(key, _COLOURS[value])
