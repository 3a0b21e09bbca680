"""The decoders return OpenCV's pixels and refuse images that OpenCV would silently fill with grey."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.errors import FrameError
from actors.read.frame_decoder import decode_frame
from actors.read.image_headers import read_size
from actors.read.jpeg_decoder import PixelBuffer, decode_jpeg
from tests.support import bad_inputs as bad

MAX_PIXELS = 50_000_000

ODD_BUT_GOOD = {
    "jpeg": bad.jpeg(),
    "progressive jpeg": bad.progressive_jpeg(),
    "jpeg with restart markers": bad.restart_jpeg(),
    "jpeg with a thumbnail": bad.jpeg_with_thumbnail(),
    "jpeg with bytes after its end": bad.jpeg() + b"\0\0camera padding\0",
    "cmyk jpeg": bad.cmyk_jpeg(),
    "grey jpeg": bad.grey_jpeg(),
    "exif rotated jpeg": bad.exif_rotated_jpeg(),
    "png": bad.png(),
    "png with bytes after its end": bad.png() + b"more",
    "16-bit png": bad.png_16_bit(),
    "16-bit grey png": bad.grey_png_16_bit(),
    "transparent png": bad.transparent_png(),
    "palette png": bad.palette_png(),
    "webp": bad.webp(),
    "lossless webp": bad.webp(lossless=True),
    "bmp": bad.bmp(),
    "gif": bad.gif(),
    "1x1 jpeg": bad.jpeg(1, 1),
    "1x1 png": bad.png(1, 1),
    "1x1 gif": bad.gif(1, 1),
    "1x1 webp": bad.webp(1, 1),
    "1x10000": bad.jpeg(1, 10_000),
    "10000x1": bad.png(10_000, 1),
}


@pytest.mark.parametrize("name", ODD_BUT_GOOD)
def test_pixels_are_those_of_imread_whatever_the_file_is_called(name: str, tmp_path):
    data = ODD_BUT_GOOD[name]
    path = tmp_path / "misnamed.jpg"
    path.write_bytes(data)
    expected = cv2.imread(str(path))
    found = decode_frame(data, MAX_PIXELS)
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.array_equal(found, expected)


USUAL = {
    "jpeg": bad.jpeg(),
    "progressive jpeg": bad.progressive_jpeg(),
    "jpeg with restart markers": bad.restart_jpeg(),
    "grey jpeg": bad.grey_jpeg(),
    "upright by its exif": bad.exif_rotated_jpeg(1),
}
LEFT_TO_OPENCV = {
    "cmyk jpeg": bad.cmyk_jpeg(),
    "exif of another format": bad.exif_rotated_jpeg(6)
    .replace(b"II*\0", b"XX*\0")
    .replace(b"MM\0*", b"XX\0*"),
    "two orientations": bad.with_second_exif(bad.exif_rotated_jpeg(1), 6),
    **{f"exif orientation {value}": bad.exif_rotated_jpeg(value) for value in (0, *range(2, 10))},
}


def by_imread(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize("name", USUAL)
def test_usual_jpegs_are_decoded_by_simplejpeg_to_the_same_pixels(name: str):
    found = decode_jpeg(USUAL[name], read_size(USUAL[name]))
    assert found is not None
    assert np.array_equal(found, by_imread(USUAL[name]))


@pytest.mark.parametrize("name", LEFT_TO_OPENCV)
def test_other_jpegs_are_left_to_opencv(name: str):
    data = LEFT_TO_OPENCV[name]
    assert decode_jpeg(data, read_size(data)) is None
    assert np.array_equal(decode_frame(data, MAX_PIXELS), by_imread(data))


@pytest.mark.parametrize("quality", [30, 85, 100])
@pytest.mark.parametrize("sampling", ["411", "420", "422", "440", "444"])
def test_every_chroma_subsampling_gives_the_same_pixels(sampling: str, quality: int):
    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")
    noise = np.random.default_rng(1).integers(0, 256, (121, 243, 3), np.uint8)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    for width, height in ((243, 121), (16, 16), (17, 31), (8, 1), (1, 9)):
        data = cv2.imencode(".jpg", noise[:height, :width], options)[1].tobytes()
        found = decode_jpeg(data, read_size(data))
        assert found is not None
        assert np.array_equal(found, by_imread(data))


def test_damaged_pixels_are_those_of_opencv():
    """libjpeg-turbo warns of most damage; such files go to OpenCV, so a frame is what it has always been."""
    data = bad.jpeg(256, 256)
    compared = warned = 0
    for at in range(len(data) // 2, len(data) - 4, len(data) // 150):
        damaged = bad.with_flipped_byte(data, at)
        try:
            found = decode_frame(damaged, MAX_PIXELS)
        except FrameError:
            continue
        compared += 1
        warned += decode_jpeg(damaged, read_size(damaged)) is None
        assert np.array_equal(found, by_imread(damaged))
    assert compared > 40
    assert 0 < warned <= compared


def test_a_buffer_is_used_again_and_makes_no_difference():
    buffer = PixelBuffer()
    frames = [bad.jpeg(64, 48, seed=1), bad.jpeg(300, 200, seed=2), bad.jpeg(64, 48, seed=3), bad.grey_jpeg()]
    for data in frames:
        assert np.array_equal(decode_frame(data, MAX_PIXELS, buffer), by_imread(data))
    first, second = (decode_frame(data, MAX_PIXELS, buffer) for data in frames[1:3])
    assert np.shares_memory(first, second)


def test_exif_rotation_is_applied():
    assert decode_frame(bad.exif_rotated_jpeg(6), MAX_PIXELS).shape == (64, 48, 3)
    assert decode_frame(bad.exif_rotated_jpeg(1), MAX_PIXELS).shape == (48, 64, 3)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind: str):
    found = decode_frame(bad.animated(kind), MAX_PIXELS)
    assert found.shape == (24, 32, 3)
    assert found[12, 16].tolist() == [0, 0, 255]


@pytest.mark.parametrize("name", bad.BAD_IMAGES)
def test_bad_images_are_refused_with_the_reason(name: str):
    build, reason = bad.BAD_IMAGES[name]
    with pytest.raises(FrameError, match="^" + reason):
        decode_frame(build(), MAX_PIXELS)


def test_an_image_of_exactly_the_limit_is_decoded_and_one_more_pixel_is_not():
    assert decode_frame(bad.jpeg(40, 25), 1000).shape == (25, 40, 3)
    with pytest.raises(FrameError, match=r"40x25 pixels, more than input\.max_image_pixels allows"):
        decode_frame(bad.jpeg(40, 25), 999)


def test_a_bomb_costs_nothing():
    bomb = bad.png_bomb()
    started = time.process_time()
    with pytest.raises(FrameError):
        decode_frame(bomb, MAX_PIXELS)
    assert time.process_time() - started < 0.05


_CUT = ["jpeg", "progressive jpeg", "jpeg with restart markers", "png", "bmp", "gif", "webp", "lossless webp"]


@pytest.mark.parametrize(
    "data",
    [ODD_BUT_GOOD[name] for name in _CUT],
    ids=_CUT,
)
def test_no_truncation_passes_at_any_length(data: bytes):
    """An image cut at any length is refused or decodes to exactly the pixels of the whole image."""
    whole = decode_frame(data, MAX_PIXELS)
    for length in range(0, len(data), max(1, len(data) // 400)):
        try:
            found = decode_frame(data[:length], MAX_PIXELS)
        except FrameError:
            continue
        assert np.array_equal(found, whole), f"{length} of {len(data)} bytes passed as a whole image"


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["jpeg", "progressive jpeg", "png", "webp", "gif", "bmp", "16-bit png"]),
    damage=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=8
    ),
)
def test_damage_gives_a_frame_error_or_pixels_and_nothing_else(kind: str, damage):
    data = ODD_BUT_GOOD[kind]
    for where, mask in damage:
        data = bad.with_flipped_byte(data, int(where * len(data)), mask)
    try:
        found = decode_frame(data, 1_000_000)
    except FrameError:
        return
    assert found.ndim == 3
    assert found.dtype == np.uint8
    assert found.size <= 3_000_000


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a"])
)
def test_arbitrary_bytes_give_a_frame_error(tail: bytes, head: bytes):
    with pytest.raises(FrameError):
        decode_frame(head + tail, 10_000)


def test_a_marker_that_does_not_belong_among_the_pixels_is_damage():
    data = bytearray(bad.jpeg(256, 256))
    middle = len(data) * 2 // 3
    data[middle : middle + 2] = b"\xff\xc3"
    with pytest.raises(FrameError, match="damaged JPEG: marker c3"):
        decode_frame(bytes(data), MAX_PIXELS)


def test_real_frames_are_decoded_as_imread_does(frames_dir):
    paths = sorted(frames_dir.glob("*.jpg"))[:40]
    assert paths
    for path in paths:
        assert np.array_equal(decode_frame(path.read_bytes(), MAX_PIXELS), cv2.imread(str(path)))
