"""Projects of the VGG Image Annotator, version 3.

VIA 3 also imports projects of version 2, but gives the number 10 to every attribute after the ninth, because
it sorts numbers as texts. Only the last one of them is left, so a project of version 3 is written as well.

Source: the constants and the import of version 2 in VIA 3.0.13's own page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jobs.exchange.regions import around

_RECTANGLE, _CIRCLE, _ELLIPSE = 2, 3, 4
_TYPES = {"text": 1, "checkbox": 2, "radio": 3, "dropdown": 4}
_IMAGE = 2
_AT_HTTP, _AT_FILE = 2, 3
_OF_REGIONS = "FILE1_Z0_XY1"


def project_of(version_2: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a project of version 2, with rectangles only, as VIA 3's import would without its mistake.

    Args:
        version_2: The project.
        name: Name of the new one.
    """
    described = version_2["_via_attributes"]["region"]
    numbers = {attribute: str(number) for number, attribute in enumerate(described, start=1)}
    images = list(version_2["_via_img_metadata"].values())
    views = [str(number) for number in range(1, len(images) + 1)]
    return {
        "project": {
            "pid": "__VIA_PROJECT_ID__",
            "rev": "__VIA_PROJECT_REV_ID__",
            "rev_timestamp": "__VIA_PROJECT_REV_TIMESTAMP__",
            "pname": name,
            "data_format_version": "3.1.1",
            "creator": "Shopframe",
            "created": 0,
            "vid_list": views,
        },
        "config": {
            "file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}},
            "ui": {
                "file_content_align": "center",
                "file_metadata_editor_visible": True,
                "spatial_metadata_editor_visible": True,
                "temporal_segment_metadata_editor_visible": True,
                "spatial_region_label_attribute_id": "",
                "gtimeline_visible_row_count": "4",
            },
        },
        "attribute": {
            numbers[attribute]: {
                "aname": attribute,
                "anchor_id": _OF_REGIONS,
                "type": _TYPES[about["type"]],
                "desc": about["description"],
                "options": about.get("options", {}),
                "default_option_id": "",
            }
            for attribute, about in described.items()
        },
        "file": {view: _file(view, image["filename"]) for view, image in zip(views, images, strict=True)},
        "view": {view: {"fid_list": [view]} for view in views},
        "metadata": {
            f"{view}_{number}": {
                "vid": view,
                "flg": 0,
                "z": [],
                "xy": [
                    _RECTANGLE,
                    *(region["shape_attributes"][side] for side in ("x", "y", "width", "height")),
                ],
                "av": {
                    numbers[attribute]: ",".join(value) if isinstance(value, Mapping) else value
                    for attribute, value in region["region_attributes"].items()
                },
            }
            for view, image in zip(views, images, strict=True)
            for number, region in enumerate(image["regions"])
        },
    }


def _file(number: str, name: str) -> dict[str, Any]:
    place = _AT_HTTP if name.startswith(("http://", "https://")) else _AT_FILE
    return {"fid": number, "fname": name, "type": _IMAGE, "loc": place, "src": name}


def is_project(content: Mapping[str, Any]) -> bool:
    """Return whether a JSON object is a project of version 3."""
    return {"project", "attribute", "file", "metadata", "view"} <= content.keys()


def attributes(project: Mapping[str, Any]) -> set[str]:
    """Return the names of the attributes that a project has.

    Raises:
        KeyError, TypeError, AttributeError: The project is not of version 3.
    """
    return {attribute["aname"] for attribute in project["attribute"].values()}


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
