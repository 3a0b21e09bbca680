"""COCO: instances whose `attributes` have the values, as CVAT, datumaro and FiftyOne write and read them.

Source: `https://cocodataset.org/#format-data`. Boxes are x, y, width and height in pixels.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from actors.attribute import AttributeValue
from actors.attributes import AttributeSchema
from actors.errors import ConfigError
from jobs.exchange.exported import Exported, ExportedFrame, ExportedPerson
from jobs.exchange.regions import (
    NOT_A_PERSON,
    PERSON,
    PERSON_ID,
    attribute_id,
    normalised,
    value_of,
)
from jobs.exchange.seen import MALFORMED, SeenFrame, SeenPerson, Unread

INSTANCES = "coco.json"


def files(exported: Exported, frames_at: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of the instances.

    Args:
        exported: The frames and persons.
        frames_at: URL of the folder of the frames, for `coco_url`. Without it, images have none.
    """
    schema = exported.schema_of_attributes
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, frame in enumerate(exported.frames, start=1):
        image: dict[str, Any] = {
            "id": number,
            "file_name": frame.file_name,
            "width": frame.width,
            "height": frame.height,
        }
        if frames_at is not None:
            image["coco_url"] = f"{frames_at.rstrip('/')}/{frame.file_name}"
        images.append(image)
        for person in frame.persons:
            annotations.append(_annotation(len(annotations) + 1, number, person, frame, schema))
    content = {
        "info": {"description": "Persons for review, from Shopframe"},
        "licenses": [],
        "categories": [{"id": 1, "name": PERSON, "supercategory": ""}],
        "images": images,
        "annotations": annotations,
    }
    yield INSTANCES, json.dumps(content, ensure_ascii=False, indent=1).encode()


def read_instances(name: str, content: bytes, exported: Exported) -> Iterator[SeenFrame]:
    """Yield the frames of a file of instances. An attribute that a person doesn't have is left alone.

    Args:
        name: Name of the file, for messages.
        content: Its content.
        exported: What was exported.

    Raises:
        ConfigError: The content is not such a file, or has no persons' category.
    """
    frames = {frame.file_name: frame for frame in exported.frames}
    schema = exported.schema_of_attributes
    try:
        given = json.loads(content)
        persons = _categories(given["categories"])
        by_image: defaultdict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in given["annotations"]:
            if annotation["category_id"] in persons:
                by_image[annotation["image_id"]].append(annotation)
        for image in given["images"]:
            file_name = str(image["file_name"]).rpartition("/")[2]
            frame = frames.get(file_name)
            listed = [] if frame is None else by_image[image["id"]]
            yield SeenFrame(
                file_name, tuple(_person(one, frame, schema) for one in listed if frame is not None)
            )
    except MALFORMED as error:
        raise ConfigError(f"{name}: not instances of COCO ({type(error).__name__}: {error})") from error


def _categories(given: Sequence[Mapping[str, Any]]) -> set[Any]:
    """Return the ids of the categories of persons."""
    persons = {one["id"] for one in given if str(one["name"]).lower() == PERSON}
    if not persons:
        raise ValueError(f"no category is named {PERSON}")
    return persons


def _annotation(
    number: int, image: int, person: ExportedPerson, frame: ExportedFrame, schema: AttributeSchema
) -> dict[str, Any]:
    x1, y1, x2, y2 = person.box
    x, y = x1 * frame.width, y1 * frame.height
    width, height = (x2 - x1) * frame.width, (y2 - y1) * frame.height
    values = {attribute_id(a.name, schema): person.values.get(a.name) for a in schema}
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [x, y, width, height],
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [],
        "attributes": {**values, NOT_A_PERSON: False, PERSON_ID: person.person_id},
    }


def _person(annotation: Mapping[str, Any], frame: ExportedFrame, schema: AttributeSchema) -> SeenPerson:
    given = annotation.get("attributes") or {}
    names = {attribute.name: attribute_id(attribute.name, schema) for attribute in schema}
    values: dict[str, AttributeValue | Unread] = {
        attribute.name: value_of(given[names[attribute.name]], attribute)
        for attribute in schema
        if names[attribute.name] in given
    }
    x, y, width, height = annotation["bbox"]
    return SeenPerson(
        person_id=str(given.get(PERSON_ID) or "").strip() or None,
        box=normalised(x, y, width, height, frame),
        values=values,
        not_a_person=str(given.get(NOT_A_PERSON, False)).lower() == "true",
    )
