"""Groups hold one person, seen from the same side, in frames of one camera that follow each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from actors.reuse.groups import CropGroups, find_groups
from actors.reuse.pictures import picture_of, similarity
from actors.reuse.settings import ReuseSettings
from demo.scenes import generate_sequences
from tests.support.gemini_asking import jpeg
from tests.support.sequences import Seen, block_of, sequences

WITHIN_S = 10.0


@pytest.fixture(scope="module")
def seen() -> Seen:
    """Four sequences, one of each camera."""
    return sequences(48)


def groups_of(seen: Seen, within_s: float = WITHIN_S, **settings: float) -> CropGroups:
    given = ReuseSettings.model_validate(settings)
    return find_groups(seen.block.frames, seen.block.kept_persons(), given, within_s)


def test_most_people_are_found_again_and_nobody_is_mixed_up_with_somebody_else(seen):
    groups = groups_of(seen)
    people = len(seen.tracks)
    questions = len(groups.next_step(range(people), ()).asked)
    assert people / questions > 2
    for group in groups.groups:
        assert len({seen.tracks[person] for person in group}) == 1
        # A person is in a frame once.
        assert max(Counter(groups.keys[person][0] for person in group).values()) == 1
        assert all(groups.similarity(group[0], person) >= groups.least for person in group)
    members = [person for group in groups.groups for person in group]
    assert len(members) == len(set(members))


def test_people_in_the_same_clothes_who_stand_in_the_same_place_are_not_alike(seen):
    pictures = [picture_of(crop) for crop in seen.crops]
    assert all(picture is not None for picture in pictures)
    least = ReuseSettings().reuse_similarity
    others = [
        similarity(pictures[a], pictures[b])
        for a in range(0, len(pictures), 3)
        for b in range(a)
        if seen.tracks[a] != seen.tracks[b]
    ]
    assert len(others) > 1000
    assert max(others) < least


def test_the_same_picture_is_wholly_alike_and_the_order_does_not_matter(seen):
    one, other = picture_of(seen.crops[0]), picture_of(seen.crops[1])
    # OpenCV computes in float32, on each CPU in its own order.
    assert similarity(one, one) == pytest.approx(1, abs=1e-5)
    assert similarity(one, other) == similarity(other, one)


def test_a_crop_without_anything_to_see_is_in_no_group():
    assert picture_of(b"not a picture") is None
    assert picture_of(jpeg(1)) is None
    assert picture_of(jpeg(1, 12, 30)) is None


@pytest.mark.parametrize("knows", ["camera", "captured_at"])
def test_frames_without_camera_or_time_have_no_groups(knows: str):
    assert groups_of(sequences(12, knows=knows)).groups == ()


def test_nobody_is_followed_over_a_longer_time_than_is_set():
    scenes = list(generate_sequences(5, 12))
    # After the sixth frame nobody is seen for a minute.
    scenes = [
        replace(scene, captured_at=scene.captured_at + timedelta(seconds=60 * (number > 5)))
        for number, scene in enumerate(scenes)
    ]
    seen = block_of(scenes)
    early = {scene.key for scene in scenes[:6]}

    def crossing(within_s: float) -> int:
        groups = groups_of(seen, within_s)
        return sum(len({groups.keys[p][0] in early for p in group}) > 1 for group in groups.groups)

    assert crossing(60) == 0
    assert crossing(62) > 0
    assert groups_of(seen, 0).groups == ()


def test_a_box_that_overlaps_too_little_is_another_person(seen):
    strict, loose = groups_of(seen, reuse_overlap=0.95), groups_of(seen, reuse_overlap=0.1)
    assert sum(map(len, strict.groups)) < sum(map(len, loose.groups))


def test_the_next_clearest_is_asked_where_the_clearest_got_no_answer(seen):
    groups = groups_of(seen)
    group = max(groups.groups, key=len)
    first = groups.next_step(group, ())
    assert first.asked == (group[0],)
    assert first.inherits == {}
    # The clearest has an outcome without values, so somebody else is asked.
    second = groups.next_step(group[1:], ())
    assert group[1] in second.asked
    assert second.inherits == {}
    done = groups.next_step(set(group[1:]) - set(second.asked), second.asked)
    assert done.asked == ()
    assert {*done.inherits, *second.asked} == set(group[1:])
    assert all(alike >= groups.least for _, alike in done.inherits.values())
