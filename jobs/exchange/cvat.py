"""CVAT: annotations as `CVAT for images 1.1`, and the labels with their attributes for a new task.

Source: `https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/`. CVAT takes only attributes that
the task's labels have, and gives a default to those that a box leaves out, so every box has all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

from actors.attribute import Attribute, AttributeValue
from actors.attributes import AttributeSchema
from actors.errors import ConfigError
from jobs.exchange.exported import Exported, ExportedFrame, ExportedPerson
from jobs.exchange.regions import (
    FRAMES_PER_FILE,
    NOT_A_PERSON,
    PERSON,
    PERSON_ID,
    around,
    attribute_id,
    normalised,
    null_text,
    rotated,
    text_of,
    value_of,
)
from jobs.exchange.seen import MALFORMED, SeenFrame, SeenPerson, Unread

LABELS = "cvat-labels.json"


def files(exported: Exported, frames_at: str | None = None) -> Iterator[tuple[str, bytes]]:  # noqa: ARG001
    """Yield the name and content of the labels and of each file of annotations.

    Args:
        exported: The frames and persons.
        frames_at: Not used: CVAT knows images by their names, wherever a task has them from.
    """
    schema = exported.schema_of_attributes
    attributes = list(_attributes(schema))
    labels = [{"name": PERSON, "type": "rectangle", "attributes": attributes}]
    yield LABELS, json.dumps(labels, ensure_ascii=False, indent=1).encode()
    for number, start in enumerate(range(0, len(exported.frames), FRAMES_PER_FILE), start=1):
        frames = exported.frames[start : start + FRAMES_PER_FILE]
        name = f"cvat-{number:04d}"
        root = ET.Element("annotations")
        ET.SubElement(root, "version").text = "1.1"
        root.append(_task(name, len(frames), attributes))
        for position, frame in enumerate(frames):
            root.append(_image(position, frame, schema))
        ET.indent(root)
        yield f"{name}.xml", ET.tostring(root, encoding="utf-8", xml_declaration=True)


def read_annotations(name: str, content: bytes, exported: Exported) -> Iterator[SeenFrame]:
    """Yield the frames of a file of annotations.

    Args:
        name: Name of the file, for messages.
        content: Its content.
        exported: What was exported.

    Raises:
        ConfigError: The content is not such a file.
    """
    frames = {frame.file_name: frame for frame in exported.frames}
    schema = exported.schema_of_attributes
    try:
        for image in _images(content):
            file_name = image.attrib["name"].rpartition("/")[2]
            frame = frames.get(file_name)
            shapes = [] if frame is None else [shape for shape in image if shape.get("label") == PERSON]
            yield SeenFrame(
                file_name, tuple(_person(shape, frame, schema) for shape in shapes if frame is not None)
            )
    except (ET.ParseError, *MALFORMED) as error:
        raise ConfigError(
            f"{name}: not annotations of CVAT ({type(error).__name__}: {error}); export the task as CVAT for "
            "images 1.1 and unpack it"
        ) from error


def _images(content: bytes) -> Iterator[ET.Element]:
    # Expat limits what entities expand to, and ElementTree opens no external ones.
    root = ET.fromstring(content)  # noqa: S314
    if root.tag != "annotations" or root.find("track") is not None:
        raise ValueError(f"<{root.tag}> without images")
    return root.iter("image")


def _attributes(schema: AttributeSchema) -> Iterator[dict[str, Any]]:
    """Yield the attributes in the form of CVAT's label constructor."""

    def described(name: str, kind: str, default: str, values: list[str]) -> dict[str, Any]:
        return {
            "name": name,
            "input_type": kind,
            "mutable": False,
            "default_value": default,
            "values": values,
        }

    for attribute in schema:
        name = attribute_id(attribute.name, schema)
        if attribute.type == "integer":
            # A number of CVAT can't be empty.
            yield described(name, "text", "", [""])
            continue
        values = [text_of(value, attribute) for value in attribute.values]
        null = null_text(attribute)
        # A person without an answer has no value.
        yield described(name, "select", null, values if null in values else [*values, null])
    yield described(NOT_A_PERSON, "checkbox", "false", ["false"])
    yield described(PERSON_ID, "text", "", [""])


def _task(name: str, size: int, attributes: list[dict[str, Any]]) -> ET.Element:
    meta = ET.Element("meta")
    task = ET.SubElement(meta, "task")
    for key, text in (("name", name), ("size", str(size)), ("mode", "annotation")):
        ET.SubElement(task, key).text = text
    label = ET.SubElement(ET.SubElement(task, "labels"), "label")
    ET.SubElement(label, "name").text = PERSON
    ET.SubElement(label, "type").text = "rectangle"
    listed = ET.SubElement(label, "attributes")
    for attribute in attributes:
        described = ET.SubElement(listed, "attribute")
        for key in ("name", "mutable", "input_type", "default_value"):
            ET.SubElement(described, key).text = str(attribute[key])
        ET.SubElement(described, "values").text = "\n".join(attribute["values"])
    return meta


def _image(position: int, frame: ExportedFrame, schema: AttributeSchema) -> ET.Element:
    given = {"id": position, "name": frame.file_name, "width": frame.width, "height": frame.height}
    image = ET.Element("image", {name: str(value) for name, value in given.items()})
    for person in frame.persons:
        image.append(_box(person, frame, schema))
    return image


def _box(person: ExportedPerson, frame: ExportedFrame, schema: AttributeSchema) -> ET.Element:
    x1, y1, x2, y2 = person.box
    corners = {
        "xtl": x1 * frame.width,
        "ytl": y1 * frame.height,
        "xbr": x2 * frame.width,
        "ybr": y2 * frame.height,
    }
    given = {name: f"{value:.2f}" for name, value in corners.items()}
    fixed = {"label": PERSON, "source": "auto", "occluded": "0", "z_order": "0"}
    box = ET.Element("box", fixed | given)
    said = [(attribute_id(a.name, schema), _text(person.values.get(a.name), a)) for a in schema]
    for name, text in (*said, (NOT_A_PERSON, "false"), (PERSON_ID, person.person_id)):
        ET.SubElement(box, "attribute", name=name).text = text
    return box


def _text(value: AttributeValue, attribute: Attribute) -> str:
    return "" if value is None and attribute.type == "integer" else text_of(value, attribute)


def _person(shape: ET.Element, frame: ExportedFrame, schema: AttributeSchema) -> SeenPerson:
    given = {part.attrib["name"]: part.text or "" for part in shape.iter("attribute")}
    names = {attribute.name: attribute_id(attribute.name, schema) for attribute in schema}
    values: dict[str, AttributeValue | Unread] = {
        attribute.name: value_of(given[names[attribute.name]], attribute)
        for attribute in schema
        if names[attribute.name] in given
    }
    return SeenPerson(
        person_id=given.get(PERSON_ID, "").strip() or None,
        box=normalised(*_rectangle(shape), frame),
        values=values,
        not_a_person=given.get(NOT_A_PERSON, "").lower() == "true",
    )


def _rectangle(shape: ET.Element) -> tuple[float, float, float, float]:
    """Return x, y, width and height in pixels of a box, or of the one around another shape."""

    def number(name: str) -> float:
        return float(shape.attrib[name])

    if shape.tag == "box":
        x, y = number("xtl"), number("ytl")
        width, height = number("xbr") - x, number("ybr") - y
        turned = float(shape.get("rotation", 0))
        return rotated(x, y, width, height, turned, (x + width / 2, y + height / 2))
    if shape.tag == "ellipse":
        rx, ry = number("rx"), number("ry")
        return number("cx") - rx, number("cy") - ry, 2 * rx, 2 * ry
    if shape.tag == "mask":
        return number("left"), number("top"), number("width"), number("height")
    points = [point.split(",") for point in shape.attrib["points"].split(";")]
    return around((float(x), float(y)) for x, y in points)
