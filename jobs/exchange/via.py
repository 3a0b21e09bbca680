"""Projects of the VGG Image Annotator, version 2, and the same ones of version 3.

Source: the format is that of VIA 2.0.10, `https://www.robots.ox.ac.uk/~vgg/software/via/`. Values of regions
are texts; a checkbox is a mapping from the ids of its ticked options to true; an id may not contain `__`.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from actors.attribute import Attribute, AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.decision import Box
from actors.errors import ConfigError
from jobs.exchange import via3
from jobs.exchange.exported import FRAMES, Exported, ExportedFrame, ExportedPerson
from jobs.exchange.regions import (
    FRAMES_PER_FILE,
    NOT_A_PERSON,
    PERSON_ID,
    around,
    attribute_id,
    normalised,
)
from jobs.exchange.seen import MALFORMED, SeenFrame, SeenPerson, Unread

_NULL = "null"
_LOST = (
    "it lacks {}, so it says nothing about them: VIA 3 loses attributes when it imports a project of VIA 2; "
    "open via3-0001.json instead"
)


def projects(exported: Exported, frames_at: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each project, for VIA 2 and for VIA 3.

    Args:
        exported: The frames and persons.
        frames_at: URL of the folder of the frames, by default the folder beside the projects.
    """
    schema = exported.schema_of_attributes
    folder = (frames_at or FRAMES).rstrip("/")
    for number, start in enumerate(range(0, len(exported.frames), FRAMES_PER_FILE), start=1):
        frames = exported.frames[start : start + FRAMES_PER_FILE]
        name = f"via-{number:04d}"
        images = [_frame(frame, folder, schema) for frame in frames]
        metadata = {f"{image['filename']}{image['size']}": image for image in images}
        project = {
            "_via_settings": _settings(name),
            "_via_img_metadata": metadata,
            "_via_attributes": {"region": _attributes(schema), "file": {}},
            "_via_data_format_version": "2.0.10",
            "_via_image_id_list": list(metadata),
        }
        yield f"{name}.json", _json(project)
        name = f"via3-{number:04d}"
        yield f"{name}.json", _json(via3.project_of(project, name))


def _json(project: Mapping[str, Any]) -> bytes:
    return json.dumps(project, ensure_ascii=False, indent=1).encode()


def read_project(name: str, content: bytes, exported: Exported) -> Iterator[SeenFrame]:
    """Yield the frames of a project.

    Args:
        name: Name of the file, for messages.
        content: Its content: a project of VIA 2 or 3, or the mapping of a VIA 2 project's images alone.
        exported: What was exported.

    Raises:
        ConfigError: The content is not such a project.
    """
    try:
        project = json.loads(content)
        schema = exported.schema_of_attributes
        lost: list[str] = []
        if via3.is_project(project):
            images = list(via3.images(project))
            has = via3.attributes(project)
            lost = [attribute for attribute in schema.names if attribute_id(attribute, schema) not in has]
        else:
            images = list(project.get("_via_img_metadata", project).values())
        remark = f"{name}: {_LOST.format(', '.join(lost))}" if lost else ""
        frames = {frame.file_name: frame for frame in exported.frames}
        for image in images:
            file_name = str(image["filename"]).rpartition("/")[2]
            frame = frames.get(file_name)
            if frame is None:
                yield SeenFrame(file_name, ())
                continue
            regions = image["regions"]
            # VIA 1 and some exports have a mapping here.
            listed = regions.values() if isinstance(regions, Mapping) else regions
            persons = tuple(_person(region, frame, schema, lost) for region in listed)
            yield SeenFrame(file_name, persons, remark=remark)
    except MALFORMED as error:
        raise ConfigError(
            f"{name}: not a project of VIA ({type(error).__name__}: {error}); save it with Project, Save"
        ) from error


def _settings(name: str) -> dict[str, Any]:
    return {
        "ui": {
            "annotation_editor_height": 25,
            "annotation_editor_fontsize": 0.8,
            "leftsidebar_width": 18,
            "image_grid": {
                "img_height": 80,
                "rshape_fill": "none",
                "rshape_fill_opacity": 0.3,
                "rshape_stroke": "yellow",
                "rshape_stroke_width": 2,
                "show_region_shape": True,
                "show_image_policy": "all",
            },
            "image": {
                "region_label": "__via_region_id__",
                "region_color": "__via_default_region_color__",
                "region_label_font": "10px Sans",
                "on_image_annotation_editor_placement": "NEAR_REGION",
            },
        },
        "core": {"buffer_size": 18, "filepath": {}, "default_filepath": ""},
        "project": {"name": name},
    }


def _attributes(schema: AttributeSchema) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for attribute in schema:
        described: dict[str, Any] = {
            "type": {"category": "dropdown", "boolean": "radio", "integer": "text"}[attribute.type],
            "description": attribute.description,
        }
        if attribute.type == "integer":
            described["default_value"] = ""
        else:
            described["options"] = {_option(value, attribute): _label(value) for value in attribute.values}
            described["default_options"] = {}
        found[attribute_id(attribute.name, schema)] = described
    found[NOT_A_PERSON] = {
        "type": "checkbox",
        "description": "Tick it if the box shows no person",
        "options": {"yes": "not a person"},
        "default_options": {},
    }
    found[PERSON_ID] = {"type": "text", "description": "Leave it as it is", "default_value": ""}
    return found


def _option(value: AttributeValue, attribute: Attribute) -> str:
    """Return the id of an option. VIA puts ids into the page's markup, so they are kept plain."""
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    is_plain = re.fullmatch(r"[\w .,+-]+", text) and "__" not in text and text != _NULL
    is_plain = is_plain or value not in attribute.values
    return text if is_plain else f"value-{attribute.values.index(value)}"


def _label(value: AttributeValue) -> str:
    names = {None: "can't be told", True: "yes", False: "no"}
    # VIA puts labels into the page as markup.
    return names[value] if value is None or isinstance(value, bool) else html.escape(str(value))


def _pixels(box: Box, frame: ExportedFrame) -> tuple[int, int, int, int]:
    """Return x, y, width and height in whole pixels, at least one pixel wide and high."""
    x1, y1 = round(box[0] * frame.width), round(box[1] * frame.height)
    x2, y2 = round(box[2] * frame.width), round(box[3] * frame.height)
    return x1, y1, max(1, x2 - x1), max(1, y2 - y1)


def shown_box(box: Box, frame: ExportedFrame) -> Box:
    """Return a box as it comes back if nobody has moved it."""
    return normalised(*_pixels(box, frame), frame)


def _frame(frame: ExportedFrame, folder: str, schema: AttributeSchema) -> dict[str, Any]:
    return {
        # VIA 3 doesn't look for a name without a folder, but asks for each file.
        "filename": f"{folder}/{frame.file_name}",
        "size": frame.size_bytes,
        "regions": [_region(person, frame, schema) for person in frame.persons],
        "file_attributes": {},
    }


def _region(person: ExportedPerson, frame: ExportedFrame, schema: AttributeSchema) -> dict[str, Any]:
    x, y, width, height = _pixels(person.box, frame)
    given = {attribute_id(a.name, schema): _text(person.values.get(a.name), a) for a in schema}
    return {
        "shape_attributes": {"name": "rect", "x": x, "y": y, "width": width, "height": height},
        "region_attributes": {
            **{name: text for name, text in given.items() if text},
            NOT_A_PERSON: {},
            PERSON_ID: person.person_id,
        },
    }


def _text(value: AttributeValue, attribute: Attribute) -> str:
    """Return a value as VIA has it. A text field shows a null as nothing."""
    if attribute.type == "integer":
        return "" if value is None else str(value)
    # A person without an answer has no value, and an attribute that can't be null has no option for it.
    return "" if value is None and not attribute.nullable else _option(value, attribute)


def _person(
    region: Mapping[str, Any], frame: ExportedFrame, schema: AttributeSchema, lost: Collection[str]
) -> SeenPerson:
    x, y, width, height = _rectangle(region["shape_attributes"])
    given = region.get("region_attributes", {})
    values: dict[str, AttributeValue | Unread] = {}
    for attribute in schema:
        if attribute.name in lost:
            continue
        text = str(given.get(attribute_id(attribute.name, schema)) or "")
        values[attribute.name] = _value(text, attribute)
    return SeenPerson(
        person_id=str(given.get(PERSON_ID) or "") or None,
        box=normalised(x, y, width, height, frame),
        values=values,
        not_a_person=bool(given.get(NOT_A_PERSON)),
    )


def _rectangle(shape: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Return x, y, width and height in pixels of a rectangle, or of that around another shape."""
    kind = shape["name"]
    if kind == "rect":
        return shape["x"], shape["y"], shape["width"], shape["height"]
    if kind in ("polygon", "polyline"):
        return around(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
    rx, ry = shape.get("rx", shape.get("r", 0)), shape.get("ry", shape.get("r", 0))
    return shape["cx"] - rx, shape["cy"] - ry, 2 * rx, 2 * ry


def _value(text: str, attribute: Attribute) -> AttributeValue | Unread:
    if text == "":
        return None
    for value in attribute.values:
        if text in (_option(value, attribute), str(value)):
            return value
    return Unread(text, attribute.choices)
