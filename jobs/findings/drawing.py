"""Charts as SVG that goes into a page: by matplotlib, with the page's colours, without scripts.

matplotlib is in the project already, and its SVG needs no script, where those of plotly or Vega would make
each page much larger. Its text stays text, for screen readers and searches. Styles become attributes, so
that the page can forbid all styles but its own.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_COLOURS = {"#010203": "var(--ink)", "#010204": "var(--bar)", "#010205": "var(--line)"}
INK, BAR, LINE = _COLOURS
"""Colours that become those of the page: of text, of what is drawn, and of axes."""
_STYLE: dict[Any, object] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "shopframe",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
}
_WIDTH_INCHES = 3.5


def figure(height_inches: float) -> tuple[Figure, Axes]:
    """Return a figure of a height, as wide as a panel of the page."""
    with mpl.rc_context(_STYLE):
        made = Figure(figsize=(_WIDTH_INCHES, height_inches))
        return made, made.subplots()


def svg(drawn: Figure, name: str, said: str) -> str:
    """Return a figure as an SVG element whose ids begin with `name`, which says `said` to a screen reader."""
    sink = io.BytesIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # A value in a script that matplotlib's font doesn't have; the browser's fonts draw it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn.savefig(sink, format="svg")
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
