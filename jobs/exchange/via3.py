"""Projects of the VGG Image Annotator, version 3, in which an imported project of version 2 is saved.

Source: the constants and the import of version 2 in VIA 3.0.13's own page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.exchange.regions import around

_RECTANGLE, _CIRCLE, _ELLIPSE = 2, 3, 4


def is_project(content: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is a project of version 3."""
    return {"project", "attribute", "file", "metadata", "view"} <= content.keys()


def images(project: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the images of a project in the form of version 2.

    Raises:
        KeyError, TypeError, ValueError: The project is not of version 3.
    """
    names = {number: attribute["aname"] for number, attribute in project["attribute"].items()}
    found = {
        number: {"filename": project["file"][view["fid_list"][0]]["fname"], "regions": []}
        for number, view in project["view"].items()
    }
    for one in project["metadata"].values():
        # Without a shape it is about the whole image.
        if one["xy"]:
            region = {
                "shape_attributes": _shape(one["xy"]),
                "region_attributes": {names.get(number): value for number, value in one["av"].items()},
            }
            found[one["vid"]]["regions"].append(region)
    yield from found.values()


def _shape(xy: Sequence[float]) -> dict[str, Any]:
    """Return a shape, whose first number is its kind, as a circle, an ellipse or the rectangle around it."""
    kind, *numbers = xy
    if kind == _CIRCLE:
        return {"name": "circle", **dict(zip(("cx", "cy", "r"), numbers, strict=True))}
    if kind == _ELLIPSE:
        return {"name": "ellipse", **dict(zip(("cx", "cy", "rx", "ry"), numbers, strict=True))}
    if kind != _RECTANGLE:
        numbers = list(around(zip(numbers[::2], numbers[1::2], strict=True)))
    return {"name": "rect", **dict(zip(("x", "y", "width", "height"), numbers, strict=True))}
