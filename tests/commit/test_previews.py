"""Previews show kept persons, dropped persons with the reason, and every label within the picture."""

import cv2
import numpy as np
import pyarrow as pa
import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.commit.previews import DrawnPerson, describe_answer, draw_persons, draw_zones, preview_of_block
from actors.detect.roi import RoiSettings
from actors.records import PERSONS_SCHEMA, Annotation, Shard
from actors.shard_block import ShardBlock, ShardTask
from actors.storage.tables import annotations_table

SCHEMA = AttributeSchema(SchemaSettings())
GREY = 120
LONG = "male 28 to 38 | glasses, cap, occlusion, facing camera, winter\nsecond annotator: invalid"
CORNERS = [(0, 0, 0.1, 0.2), (0.9, 0, 1, 0.2), (0, 0.8, 0.1, 1), (0.9, 0.8, 1, 1)]


def blank(height, width):
    return np.full((height, width, 3), GREY, np.uint8)


def drawn(image, persons, max_side_px=1920):
    encoded = draw_persons(image, persons, max_side_px)
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)


def has_colour(picture, bgr, within=40):
    return bool((np.abs(picture.astype(int) - bgr).max(axis=2) < within).any())


@pytest.mark.parametrize(
    ("size", "most", "shape"),
    [
        ((1080, 1920), 1280, (720, 1280)),
        ((480, 640), 1280, (480, 640)),
        ((60, 80), 1280, (360, 480)),
        ((1, 1), 1280, (480, 480)),
        ((40, 4000), 1280, (13, 1280)),
        ((480, 640), 64, (48, 64)),
    ],
)
def test_pictures_have_the_size_asked_for_whatever_the_frame(size, most, shape):
    persons = [DrawnPerson(box, LONG) for box in CORNERS]
    assert drawn(blank(*size), persons, most).shape == (*shape, 3)


def test_kept_people_are_green_and_dropped_ones_are_not():
    kept = drawn(blank(480, 640), [DrawnPerson((0.2, 0.2, 0.5, 0.9), "0.91")])
    dropped = drawn(blank(480, 640), [DrawnPerson((0.2, 0.2, 0.5, 0.9), "0.91", "min_height")])
    green = (90, 220, 60)
    assert has_colour(kept, green)
    assert not has_colour(dropped, green)
    assert has_colour(dropped, (170, 170, 170), 15)


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (640, 480)])
@pytest.mark.parametrize("box", CORNERS)
def test_a_label_in_a_corner_is_as_large_as_one_in_the_middle(size, box):
    """Text that ran over the edge would lose pixels there."""

    def white(bbox):
        return int((drawn(blank(*size), [DrawnPerson(bbox, LONG)]).min(axis=2) > 225).sum())

    middle = white((0.4, 0.5, 0.5, 0.7))
    assert middle > 500
    assert white(box) == pytest.approx(middle, rel=0.1)


def test_labels_of_a_crowd_do_not_cover_each_other():
    """Labels that cover each other would show less white text than the same labels drawn one by one."""
    boxes = [(x, y, x + 0.06, y + 0.15) for x in np.arange(0.02, 0.9, 0.06) for y in (0.4, 0.45)]

    def white(persons):
        return int((drawn(blank(1080, 1920), persons).min(axis=2) > 225).sum())

    alone = sum(white([DrawnPerson(box, "female 18 to 28 | winter")]) for box in boxes)
    assert white([DrawnPerson(box, "female 18 to 28 | winter") for box in boxes]) > 0.9 * alone


def test_the_same_arguments_give_the_same_bytes_and_leave_the_frame_alone():
    image = blank(480, 640)
    persons = [DrawnPerson(box, "Ünïcode Привет 你好") for box in CORNERS]
    assert draw_persons(image, persons, 1280) == draw_persons(image, persons, 1280)
    assert (image == GREY).all()


def test_zones_are_shaded_for_their_camera_only():
    settings = RoiSettings(
        static=[
            {"mode": "include", "rectangle": [0, 0, 0.5, 1]},
            {"mode": "exclude", "camera": "door", "polygon": [[0.6, 0], [1, 0], [1, 1], [0.6, 1]]},
        ]
    )
    image = blank(100, 200)
    door, unknown = draw_zones(image, settings, "door"), draw_zones(image, settings, None)
    assert (image == GREY).all()
    green, red = door[50, 50].astype(int), door[50, 160].astype(int)
    assert green[1] > green[2] + 10
    assert red[2] > red[1] + 10
    assert (door[50, 110] == GREY).all()
    np.testing.assert_array_equal(unknown[50, 50], door[50, 50])
    assert (unknown[50, 160] == GREY).all()


def answer(**values):
    none = dict.fromkeys(SCHEMA.names, False)
    none |= {"gender": "unknown", "age_group": "unknown", "exact_age": None, "season_clothing": "unknown"}
    return Annotation("ok", values=none | values)


def test_answers_become_one_line():
    said = answer(gender="male", age_group="28 to 38", glasses=True, facing_camera=True)
    rows = {"status": "ok", **said.values}
    assert describe_answer(rows, SCHEMA) == "male 28 to 38 | glasses, facing camera"
    assert describe_answer({"status": "ok", **answer().values}, SCHEMA) == "unknown"
    assert describe_answer({"status": "blocked"}, SCHEMA) == "blocked"
    hidden = {"status": "ok", **answer(glasses=None, mask=True).values}
    assert describe_answer(hidden, SCHEMA) == "glasses?, mask"


def test_a_blocks_frames_are_drawn_with_their_people_and_in_order():
    def row(key, index, drop=None):
        return {
            "shard_id": "s",
            "frame_key": key,
            "person_index": index,
            "bbox": [0.3, 0.3, 0.6, 0.9],
            "score": 0.9,
            "kept": drop is None,
            "drop_reason": drop,
            "crop": b"x",
        }

    persons = pa.Table.from_pylist([row("a", 0), row("b", 0, "min_score"), row("c", 0)], PERSONS_SCHEMA)
    kept = persons.filter(persons["kept"])
    provenance = {"model": "m", "model_version": "v", "prompt_sha256": "p"}
    answers = annotations_table(kept, [answer(gender="male"), answer(gender="female")], SCHEMA, provenance)
    encoded = cv2.imencode(".png", blank(480, 640))[1].tobytes()
    block = ShardBlock(
        ShardTask(Shard("s", "file:///s", "images", "e", 1), "detect"),
        persons=persons,
        annotations={"smolvlm": answers},
        previews={"b": encoded, "a": encoded, "empty": encoded},
    )
    pictures = dict(preview_of_block(block, SCHEMA, 1280))
    assert list(pictures) == ["a", "b", "empty"]
    box = (0.3, 0.3, 0.6, 0.9)
    image = blank(480, 640)
    assert pictures["a"] == draw_persons(image, [DrawnPerson(box, "male")], 1280)
    assert pictures["b"] == draw_persons(image, [DrawnPerson(box, "", "min_score")], 1280)
    assert pictures["empty"] == draw_persons(image, [], 1280)
    assert not list(preview_of_block(ShardBlock(block.task, previews={"a": encoded}), SCHEMA, 1280))


def test_labels_do_not_hide_small_people():
    small, tall = (0.40, 0.40, 0.42, 0.45), (0.40, 0.46, 0.50, 0.95)
    said = "male 28 to 38 winter | mask, glasses"
    labelled = drawn(blank(540, 960), [DrawnPerson(small, said), DrawnPerson(tall, said)])
    bare = drawn(blank(540, 960), [DrawnPerson(small), DrawnPerson(tall)])
    rows, columns = slice(round(0.40 * 540), round(0.45 * 540)), slice(round(0.40 * 960), round(0.42 * 960))
    difference = cv2.absdiff(labelled, bare)[rows, columns]
    assert difference.max() < 40, "a label makes what is behind it much darker"
