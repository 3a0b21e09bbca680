"""Label Studio: a labeling configuration and tasks with predictions, and back its JSON export.

Source: `https://labelstud.io/guide/predictions` and `https://labelstud.io/guide/export`. The items of one
region have the same id and repeat its rectangle in percent of the image. When a reviewer takes over a
prediction, its regions get new ids, so the person's id is a text of the region.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET

from actors.attribute import AttributeValue
from actors.attributes import AttributeSchema
from actors.corrections.decision import Box
from actors.errors import ConfigError
from jobs.exchange.exported import FRAMES, Exported, ExportedFrame, ExportedPerson
from jobs.exchange.regions import (
    FRAMES_PER_FILE,
    NOT_A_PERSON,
    PERSON,
    PERSON_ID,
    attribute_id,
    normalised,
    rotated,
    text_of,
    value_of,
)
from jobs.exchange.seen import MALFORMED, SeenFrame, SeenPerson, Unread

CONFIGURATION = "labelstudio-config.xml"

# No attribute has such a name.
_IMAGE = "shopframe-image"
_REGION = "shopframe-region"
_LOCAL_FILES = "/data/local-files/?d="
"""Where Label Studio serves files below `LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT`."""
_TICKED = "not a person"


def files(exported: Exported, frames_at: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of the labeling configuration and of each file of tasks.

    Args:
        exported: The frames and persons.
        frames_at: URL of the folder of the frames, by default that of Label Studio's local files.
    """
    schema = exported.schema_of_attributes
    yield CONFIGURATION, _configuration(schema)
    folder = (frames_at or f"{_LOCAL_FILES}{FRAMES}").rstrip("/")
    for number, start in enumerate(range(0, len(exported.frames), FRAMES_PER_FILE), start=1):
        frames = exported.frames[start : start + FRAMES_PER_FILE]
        tasks = [_task(frame, f"{folder}/{quote(frame.file_name)}", schema) for frame in frames]
        yield f"labelstudio-{number:04d}.json", json.dumps(tasks, ensure_ascii=False, indent=1).encode()


def read_tasks(name: str, content: bytes, exported: Exported) -> Iterator[SeenFrame]:
    """Yield what each reviewer said about each frame. Tasks that nobody has submitted say nothing.

    Args:
        name: Name of the file, for messages.
        content: Label Studio's export as JSON.
        exported: What was exported.

    Raises:
        ConfigError: The content is not such an export.
    """
    frames = {frame.file_name: frame for frame in exported.frames}
    schema = exported.schema_of_attributes
    try:
        for task in json.loads(content):
            file_name = _file_name(task["data"])
            frame = frames.get(file_name)
            for annotation in task.get("annotations", []):
                if annotation.get("was_cancelled"):
                    continue
                persons = () if frame is None else tuple(_persons(annotation["result"], frame, schema))
                yield SeenFrame(file_name, persons, _reviewer(annotation), _time(annotation))
    except MALFORMED as error:
        raise ConfigError(
            f"{name}: not an export of Label Studio ({type(error).__name__}: {error}); choose Export, JSON"
        ) from error


def _configuration(schema: AttributeSchema) -> bytes:
    view = ET.Element("View")
    ET.SubElement(view, "Image", name=_IMAGE, value="$image", zoom="true", zoomControl="true")
    labels = ET.SubElement(view, "RectangleLabels", name=_REGION, toName=_IMAGE)
    ET.SubElement(labels, "Label", value=PERSON)

    def control(tag: str, name: str, title: str, **options: str) -> ET.Element:
        ET.SubElement(view, "Header", value=title, size="5")
        return ET.SubElement(view, tag, {"name": name, "toName": _IMAGE, "perRegion": "true", **options})

    for attribute in schema:
        name = attribute_id(attribute.name, schema)
        title = f"{attribute.name}: {attribute.description}" if attribute.description else attribute.name
        if attribute.type == "integer":
            numbers = [str(value) for value in attribute.values if value is not None]
            control("Number", name, title, min=numbers[0], max=numbers[-1], step="1")
            continue
        choices = control("Choices", name, title, choice="single", showInline="true")
        for value in attribute.values:
            ET.SubElement(choices, "Choice", value=text_of(value, attribute))
    ticks = control("Choices", NOT_A_PERSON, "Tick it if the box shows no person", choice="multiple")
    ET.SubElement(ticks, "Choice", value=_TICKED)
    control("TextArea", PERSON_ID, "person_id: leave it as it is", maxSubmissions="1", editable="false")
    ET.indent(view)
    written: bytes = ET.tostring(view, encoding="utf-8")
    return written


def _task(frame: ExportedFrame, image: str, schema: AttributeSchema) -> dict[str, Any]:
    items = [
        item
        for number, person in enumerate(frame.persons)
        for item in _items(f"r{number}", person, frame, schema)
    ]
    return {
        "data": {"image": image, "file_name": frame.file_name},
        "predictions": [{"model_version": "shopframe", "result": items}],
    }


def _items(
    region: str, person: ExportedPerson, frame: ExportedFrame, schema: AttributeSchema
) -> Iterator[dict[str, Any]]:
    x1, y1, x2, y2 = (100 * value for value in person.box)
    rectangle = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}

    def item(name: str, kind: str, value: Any) -> dict[str, Any]:
        return {
            "id": region,
            "from_name": name,
            "to_name": _IMAGE,
            "type": kind,
            "original_width": frame.width,
            "original_height": frame.height,
            "image_rotation": 0,
            "value": {**rectangle, kind: value},
        }

    yield item(_REGION, "rectanglelabels", [PERSON])
    for attribute in schema:
        value, name = person.values.get(attribute.name), attribute_id(attribute.name, schema)
        if value is None and (attribute.type == "integer" or not attribute.nullable):
            continue
        if attribute.type == "integer":
            yield item(name, "number", value)
        else:
            yield item(name, "choices", [text_of(value, attribute)])
    text = item(PERSON_ID, "textarea", None)
    text["value"] = {**rectangle, "text": [person.person_id]}
    yield text


def _file_name(data: Mapping[str, Any]) -> str:
    # A project may have been set up with images only.
    return str(data.get("file_name") or unquote(str(data["image"]).rpartition("/")[2]))


def _persons(
    result: Sequence[Mapping[str, Any]], frame: ExportedFrame, schema: AttributeSchema
) -> Iterator[SeenPerson]:
    regions: dict[str, dict[str, Mapping[str, Any]]] = {}
    for item in result:
        if "value" in item:
            regions.setdefault(str(item["id"]), {})[str(item["from_name"])] = item["value"]
    for items in regions.values():
        rectangle = items.get(_REGION)
        if rectangle is None:
            continue
        values: dict[str, AttributeValue | Unread] = {
            attribute.name: value_of(_said(items, attribute_id(attribute.name, schema)), attribute)
            for attribute in schema
        }
        yield SeenPerson(
            person_id=str(_said(items, PERSON_ID) or "").strip() or None,
            box=_box(rectangle, frame),
            values=values,
            not_a_person=_said(items, NOT_A_PERSON) is not None,
        )


def _said(items: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    """Return what a control says about a region, or None."""
    value = items.get(name, {})
    said = value.get("choices", value.get("text", value.get("number")))
    if isinstance(said, list):
        return said[0] if said else None
    return said


def _box(value: Mapping[str, float], frame: ExportedFrame) -> Box:
    # A turned rectangle keeps its corner. It is turned in pixels, since percents of both sides differ.
    x, y = value["x"] * frame.width / 100, value["y"] * frame.height / 100
    width, height = value["width"] * frame.width / 100, value["height"] * frame.height / 100
    x, y, width, height = rotated(x, y, width, height, value.get("rotation", 0), (x, y))
    return normalised(x, y, width, height, frame)


def _reviewer(annotation: Mapping[str, Any]) -> str | None:
    by = annotation.get("completed_by")
    if isinstance(by, Mapping):
        by = by.get("email") or by.get("id")
    return None if by is None else str(by)


def _time(annotation: Mapping[str, Any]) -> datetime | None:
    text = annotation.get("updated_at") or annotation.get("created_at")
    if text is None:
        return None
    time = datetime.fromisoformat(str(text))
    return time if time.tzinfo else time.replace(tzinfo=UTC)
