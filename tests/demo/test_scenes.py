"""The demo's scenes depend only on seed and position, vary as promised, and match their truth."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.read.frames import read_frames
from actors.read.listing import list_shards
from actors.read.settings import InputSettings
from actors.storage.settings import StorageSettings
from demo.drawing.cameras import CAMERA_NAMES, FRAME_HEIGHT, FRAME_WIDTH
from demo.drawing.composition import compose
from demo.drawing.episodes import EPISODE_FRAMES, make_episode
from demo.drawing.figures import Pose, draw_figure
from demo.drawing.people import age_colour, age_group, draw_appearance
from demo.scenes import Scene, generate_scenes, write_shards
from tests.conftest import REPO_ROOT

SEED = 3
FRAMES = 18
SCHEMA = AttributeSchema(SchemaSettings())
STORAGE = StorageSettings(retries=1, timeout_s=10)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return list(generate_scenes(SEED, 80))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the command writes: frames in shards of 4. One frame shows no person."""
    output = tmp_path_factory.mktemp("scenes")
    options = ["--output", output, "--frames", FRAMES, "--seed", SEED, "--frames-per-shard", 4]
    done = subprocess.run(
        [sys.executable, "-m", "demo.scenes", *map(str, options)],
        cwd=REPO_ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return output


def pixels(scene_box: tuple[float, ...]) -> list[float]:
    return [s * size for s, size in zip(scene_box, [FRAME_WIDTH, FRAME_HEIGHT] * 2, strict=True)]


def test_a_scene_depends_on_seed_and_position_alone(scenes):
    for again, scene in zip(generate_scenes(SEED, 6), scenes, strict=False):
        np.testing.assert_array_equal(again.image, scene.image)
        assert dataclasses.replace(again, image=scene.image) == scene


def test_another_seed_is_another_store(scenes):
    others = list(generate_scenes(SEED + 1, 16))
    assert [s.key for s in others] == [s.key for s in scenes[:16]]
    assert [s.persons for s in others] != [s.persons for s in scenes[:16]]
    here, there = ({p.track_id for s in some for p in s.persons} for some in (others, scenes))
    assert here.isdisjoint(there)


def test_frames_come_from_four_cameras_with_backgrounds_of_their_own(scenes):
    assert {scene.image.shape for scene in scenes} == {(FRAME_HEIGHT, FRAME_WIDTH, 3)}
    assert {scene.image.dtype for scene in scenes} == {np.dtype(np.uint8)}
    assert len({scene.key for scene in scenes}) == len(scenes)
    assert {scene.camera for scene in scenes} == set(CAMERA_NAMES)
    views = {
        name: np.median([s.image for s in scenes if s.camera == name], axis=0).astype(np.float32)
        for name in CAMERA_NAMES
    }
    for scene in scenes:
        differences = {name: np.abs(scene.image - view).mean() for name, view in views.items()}
        assert min(differences, key=differences.__getitem__) == scene.camera


def test_time_passes_between_the_frames_of_a_camera(scenes):
    for name in CAMERA_NAMES:
        times = [scene.captured_at for scene in scenes if scene.camera == name]
        assert times == sorted(set(times))
        assert all(time.tzinfo is not None for time in times)


def test_every_value_is_frequent_enough_to_be_learnt(scenes):
    people = [person.attributes for scene in scenes for person in scene.persons]
    assert len(people) > 100
    for attribute in SCHEMA:
        values = [person[attribute.name] for person in people]
        if attribute.type == "boolean":
            least = 0.1 if attribute.name in ("cap", "hood", "headscarf") else 0.3
            assert least < np.mean(values) < 1 - least, attribute.name
        elif attribute.type == "category":
            expected = set(attribute.values) - {"unknown"}
            assert set(values) == expected, attribute.name
            for value in expected:
                assert values.count(value) > 0.3 * len(values) / len(expected), value
        else:
            assert min(values) < 12
            assert max(values) > 70
    assert {len(scene.persons) for scene in scenes} >= {0, 1, 2, 3, 4}
    assert max(len(scene.persons) for scene in scenes) <= 6


def test_attributes_are_answers_of_the_default_schema(scenes):
    for person in (person for scene in scenes for person in scene.persons):
        assert SCHEMA.parse(SCHEMA.nest(person.attributes)) == person.attributes
        assert sum(person.attributes[name] for name in ("cap", "hood", "headscarf")) <= 1


@pytest.mark.parametrize("age", range(101))
def test_an_age_is_within_its_group(age):
    group = age_group(age)
    limits = [int(number) for number in re.findall(r"\d+", group)]
    low, high = {"under 18": (0, 18), "58 and over": (58, 200)}.get(group) or limits
    assert low <= age < high


def test_ages_have_colours_far_enough_apart():
    hues = [
        int(cv2.cvtColor(np.array([[age_colour(age)]], np.uint8), cv2.COLOR_BGR2HSV_FULL)[0, 0, 0])
        for age in range(6, 81, 6)
    ]
    differences = [(b - a) % 256 for a, b in pairwise(hues)]
    assert min(differences) >= 8
    assert sum(differences) < 256, "two ages have the same hue"


def test_a_person_looks_the_same_along_a_track(scenes):
    tracks: dict[str, list[tuple[str, dict]]] = {}
    for scene in scenes:
        for person in scene.persons:
            tracks.setdefault(person.track_id, []).append((scene.camera, person.attributes))
    assert max(map(len, tracks.values())) == EPISODE_FRAMES
    for seen in tracks.values():
        lasting = [
            (camera, {k: v for k, v in a.items() if k not in ("occlusion", "facing_camera")})
            for camera, a in seen
        ]
        assert all(one == lasting[0] for one in lasting)


def test_nobody_is_listed_who_can_hardly_be_seen(scenes):
    people = [person for scene in scenes for person in scene.persons]
    for person in people:
        assert 0.42 <= person.visible <= 1
        assert not 0.76 <= person.visible < 0.9, "a person is neither clearly hidden nor clearly visible"
        assert person.attributes["occlusion"] == (person.visible < 0.8)
        left, top, right, bottom = pixels(person.bbox)
        assert min(right - left, bottom - top) > 40
        assert bottom - top > 80


def test_boxes_fit_what_changes_in_the_picture_without_the_person():
    """The truth comes from masks. This test uses none: it draws each frame with and without the person."""
    errors = []
    for number in range(40):
        episode = make_episode(SEED, number % 4, number)
        for step, planned in enumerate(episode.frames):
            if len(planned) != 1:
                continue
            image, placed = compose(episode, step, np.random.default_rng(0))
            if not placed:
                continue
            alone = dataclasses.replace(episode, frames=tuple(() for _ in episode.frames))
            empty, nobody = compose(alone, step, np.random.default_rng(0))
            assert not nobody
            change = np.abs(image.astype(int) - empty).max(axis=2)
            # A shadow changes pixels by less than 75, as does a hood that is as grey as the wall behind it.
            x, y, width, height = cv2.boundingRect((change > 75).astype(np.uint8))
            rows, columns = np.nonzero(placed[0].mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            errors.append(np.abs(np.subtract((x, y, x + width, y + height), box)))
    assert len(errors) >= 8
    assert np.mean(np.array(errors) <= 4) > 0.9
    assert np.max(errors) <= 20


def test_the_truth_is_the_smallest_box_about_the_visible_pixels(scenes):
    episode = make_episode(SEED, 0, 0)
    for step in range(EPISODE_FRAMES):
        _, placed = compose(episode, step, np.random.default_rng(0))
        assert [p.standing.track_id for p in placed] == [p.track_id for p in scenes[step].persons]
        for one, person in zip(placed, scenes[step].persons, strict=True):
            left, top, right, bottom = (round(value) for value in pixels(person.bbox))
            inside = one.mask[top:bottom, left:right]
            assert inside.sum() == one.mask.sum()
            assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))


def test_people_hide_each_other_and_show_no_pixel_twice():
    hidden = 0
    for number in range(12):
        episode = make_episode(SEED, number % 4, number)
        for step in range(EPISODE_FRAMES):
            _, placed = compose(episode, step, np.random.default_rng(0))
            shown = sum((one.mask.astype(int) for one in placed), np.zeros((FRAME_HEIGHT, FRAME_WIDTH), int))
            assert shown.max(initial=0) <= 1
            hidden += sum(one.visible < 0.8 for one in placed)
    assert hidden > 5


ATTRIBUTES_SEEN = {
    "gender": ("male", "female"),
    "age": (24, 52),
    "headgear": (None, "cap", "hood", "headscarf"),
    "glasses": (False, True),
    "mask": (False, True),
    "season": ("summer", "winter"),
}


@pytest.mark.parametrize("facing", [True, False])
@pytest.mark.parametrize("name", ATTRIBUTES_SEEN)
def test_each_attribute_changes_the_figure_from_the_front_and_from_behind(name, facing):
    """At least 1 % of the figure's pixels change clearly, even far away, whatever else the person wears."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        person = draw_appearance(rng)
        pictures = [
            draw_figure(dataclasses.replace(person, **{name: value}), Pose(facing, 0.3), 180).astype(int)
            for value in ATTRIBUTES_SEEN[name]
        ]
        for number, one in enumerate(pictures):
            for other in pictures[:number]:
                changed = np.count_nonzero(np.abs(one - other).max(axis=2) > 60)
                assert changed > 0.01 * np.count_nonzero(one[:, :, 3])


def test_a_face_is_seen_from_the_front_only():
    rng = np.random.default_rng(2)
    for _ in range(20):
        person = draw_appearance(rng)
        front, back = (draw_figure(person, Pose(facing, 0.0), 180).astype(int) for facing in (True, False))
        assert np.count_nonzero(np.abs(front - back).max(axis=2) > 60) > 0.02 * np.count_nonzero(
            front[:, :, 3]
        )


def test_the_jobs_reader_reads_the_shards(written, scenes):
    settings = InputSettings(uri=str(written / "shards"))
    shards = list(list_shards(settings, STORAGE))
    assert [shard.shard_id for shard in shards] == [f"scenes-{n:05d}" for n in range(5)]
    read = [frame for shard in shards for frame in read_frames(shard, settings, STORAGE)]
    assert [frame.key for frame in read] == [scene.key for scene in scenes[:FRAMES]]
    for frame, scene in zip(read, scenes, strict=False):
        assert (frame.error, frame.note) == (None, None)
        assert (frame.camera, frame.captured_at) == (scene.camera, scene.captured_at)
        image = cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_COLOR)
        assert np.abs(image.astype(int) - scene.image).mean() < 4


def test_the_truth_joins_the_frames_of_the_shards(written, scenes):
    settings = InputSettings(uri=str(written / "shards"))
    frames = {
        (shard.shard_id, frame.key)
        for shard in list_shards(settings, STORAGE)
        for frame in read_frames(shard, settings, STORAGE)
    }
    table = pq.read_table(written / "truth.parquet")
    assert set(SCHEMA.names) <= set(table.column_names)
    rows = table.to_pylist()
    assert {(row["shard_id"], row["frame_key"]) for row in rows} == frames
    for row in rows:
        assert (row["bbox"] is None) == (row["frame_key"] in {s.key for s in scenes if not s.persons})
    rows = [row for row in rows if row["bbox"] is not None]
    expected = [(scene.key, person) for scene in scenes[:FRAMES] for person in scene.persons]
    assert len(rows) == len(expected) > 0
    for row, (key, person) in zip(rows, expected, strict=True):
        assert (row["frame_key"], row["track_id"]) == (key, person.track_id)
        np.testing.assert_allclose(row["bbox"], person.bbox, atol=1e-6)
        assert {name: row[name] for name in SCHEMA.names} == person.attributes


def test_writing_again_gives_the_same_bytes(written, tmp_path):
    write_shards(tmp_path, SEED, FRAMES, 4)
    files = [path.relative_to(written) for path in sorted(written.rglob("*")) if path.is_file()]
    assert len(files) == 6
    for path in files:
        assert (tmp_path / path).read_bytes() == (written / path).read_bytes(), path


def test_a_shard_of_no_frames_is_refused(tmp_path):
    with pytest.raises(ValueError, match="frames_per_shard is 0"):
        write_shards(tmp_path, SEED, 1, 0)
