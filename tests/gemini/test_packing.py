"""Crops share requests in a fixed shuffled order, and mixed-up answers are noticed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gemini.api.packing import INLINE_BYTES, Crop, halves, mismatch, pack, request_of

CROPS = [Crop(f"shard/{number:03}/0", bytes([number])) for number in range(100)]


@settings(deadline=None)
@given(keys=st.sets(st.text(max_size=8), max_size=60), per_request=st.integers(1, 16), seed=st.integers())
def test_every_crop_is_in_one_request(keys, per_request, seed):
    requests = list(pack([Crop(key, b"") for key in keys], per_request, seed))
    assert sorted(crop.key for request in requests for crop in request.crops) == sorted(keys)
    assert all(1 <= len(request.crops) <= per_request for request in requests)
    # Each request costs quota, so there must be as few as possible.
    assert len(requests) == -(-len(keys) // per_request)
    for request in requests:
        assert len(set(request.ids)) == len(request.ids) == len(request.crops)


def test_the_order_is_shuffled_and_depends_on_the_seed_alone():
    order = [crop.key for request in pack(CROPS, 8, seed=1) for crop in request.crops]
    assert order != sorted(order)
    assert order == [c.key for request in pack(CROPS[::-1], 8, seed=1) for c in request.crops]
    assert order != [c.key for request in pack(CROPS, 8, seed=2) for c in request.crops]


def test_what_is_left_keeps_its_order():
    order = [crop.key for request in pack(CROPS, 8, seed=1) for crop in request.crops]
    left = [crop for crop in CROPS if crop.key in order[24:]]
    assert [c.key for request in pack(left, 8, seed=1) for c in request.crops] == order[24:]


def test_ids_tell_nothing_of_the_position():
    (request,) = pack(CROPS[:8], 8, seed=0)
    assert not any(echo_id.isdigit() and int(echo_id) < 8 for echo_id in request.ids)
    # Together with other crops, the crop's id may only become longer.
    alone = request_of([request.crops[3]], seed=0)
    assert request.ids[3].startswith(alone.ids[0])


def test_ids_differ_even_among_very_many():
    many = [Crop(str(number), b"") for number in range(2000)]
    (request,) = pack(many, 2000, seed=0)
    assert len(set(request.ids)) == 2000
    assert len(request.ids[0]) > 4


def test_equal_images_have_ids_of_their_own():
    (request,) = pack([Crop("a", b"same"), Crop("b", b"same")], 8, seed=0)
    assert request.ids[0] != request.ids[1]


def test_the_same_crop_twice_is_refused():
    with pytest.raises(ValueError, match="'a' was passed twice"):
        list(pack([Crop("a", b"1"), Crop("a", b"2")], 8, seed=0))


def test_a_request_stays_below_the_most_tokens():
    requests = list(pack(CROPS, 8, seed=0, tokens=lambda _: 258, max_tokens=1000))
    assert [len(request.crops) for request in requests] == [3] * 33 + [1]


def test_a_crop_above_the_most_tokens_goes_alone():
    requests = list(pack(CROPS[:3], 8, seed=0, tokens=lambda _: 5000, max_tokens=1000))
    assert [len(request.crops) for request in requests] == [1, 1, 1]


def test_a_request_stays_below_the_most_bytes():
    large = [Crop(str(number), b"x" * (INLINE_BYTES // 3)) for number in range(4)]
    assert [len(request.crops) for request in pack(large, 8, seed=0)] == [3, 1]


def test_halves_hold_the_same_crops_under_the_same_ids():
    (request,) = pack(CROPS[:7], 8, seed=0)
    first, second = halves(request)
    assert first.crops + second.crops == request.crops
    assert first.ids + second.ids == request.ids
    assert (len(first.crops), len(second.crops)) == (3, 4)


def test_a_single_crop_has_no_halves():
    with pytest.raises(ValueError, match="one crop"):
        halves(request_of(CROPS[:1], seed=0))


def test_a_request_is_named_after_its_content():
    name = request_of(CROPS[:3], seed=0).key
    assert name == request_of(CROPS[:3], seed=0).key
    other_image = [*CROPS[:2], Crop(CROPS[2].key, b"another")]
    others = [request_of(CROPS[:2], 0), request_of(CROPS[2::-1], 0), request_of(other_image, 0)]
    assert name not in [other.key for other in others]


def test_ids_that_came_back_once_each_match_in_any_order():
    (request,) = pack(CROPS[:4], 8, seed=0)
    assert mismatch(request, list(request.ids)[::-1]) is None


@pytest.mark.parametrize(
    ("spoil", "counted"),
    [
        (lambda ids: ids[:-1], "1 missing, 0 doubled, 0 foreign"),
        (lambda ids: [*ids, ids[0]], "0 missing, 1 doubled, 0 foreign"),
        (lambda ids: [*ids, "none"], "0 missing, 0 doubled, 1 foreign"),
        (lambda ids: ["none", *ids[1:]], "1 missing, 0 doubled, 1 foreign"),
        (lambda ids: [ids[1], *ids[1:]], "1 missing, 1 doubled, 0 foreign"),
        (lambda ids: [], "4 missing, 0 doubled, 0 foreign"),
    ],
)
def test_missing_doubled_and_foreign_ids_are_counted(spoil, counted):
    (request,) = pack(CROPS[:4], 8, seed=0)
    found = mismatch(request, spoil(list(request.ids)))
    assert found is not None
    assert counted in found
