"""Crops contain the person and stay within the frame, and an odd box never makes cropping fail."""

import cv2
import numpy as np
import pytest

from actors.detect.crops import CropSettings, cut_crop
from actors.errors import FrameError

TIGHT = CropSettings(padding=0, max_side_px=4096, jpeg_quality=100)


def frame(height=200, width=300):
    """Return an image in which blue encodes the column and green encodes the row."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 255, width)[None]
    image[..., 1] = np.linspace(0, 255, height)[:, None]
    return image


def cut(image, box, settings=TIGHT):
    encoded = cut_crop(image, np.array(box, np.float32), settings)
    assert encoded[:3] == b"\xff\xd8\xff"
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)


def test_the_crop_is_the_box_rounded_outwards():
    image = frame()
    crop = cut(image, [50.2, 40.7, 99.5, 120.1])
    assert crop.shape == (121 - 40, 100 - 50, 3)
    assert np.abs(crop.astype(int) - image[40:121, 50:100]).mean() < 2


def test_padding_is_a_share_of_the_box_and_clamped_to_the_frame():
    settings = TIGHT.model_copy(update={"padding": 0.1})
    assert cut(frame(), [100, 100, 150, 140], settings).shape == (48, 60, 3)
    assert cut(frame(), [0, 0, 300, 200], settings).shape == (200, 300, 3)


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ([100, 50, 100, 150], (100, 1)),
        ([100, 50, 100, 50], (1, 1)),
        ([300, 0, 300, 200], (200, 1)),
        ([-50, -50, -10, -10], (1, 1)),
        ([400, 400, 500, 500], (1, 1)),
        ([-1000, 10, 1000, 11], (1, 300)),
        ([0, 0, 300, 200], (200, 300)),
    ],
)
def test_odd_boxes_give_at_least_a_pixel(box, shape):
    assert cut(frame(), box).shape[:2] == shape


def test_large_crops_are_scaled_down_and_small_ones_left():
    settings = CropSettings(padding=0, max_side_px=64)
    assert cut(frame(), [0, 0, 300, 200], settings).shape[:2] == (43, 64)
    assert cut(frame(), [0, 0, 30, 20], settings).shape[:2] == (20, 30)
    assert cut(frame(2, 3000), [0, 0, 3000, 2], settings).shape[:2] == (1, 64)


def test_equal_arguments_give_equal_bytes_and_the_frame_is_left_alone():
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    before = image.copy()
    box = np.array([3.3, 4.4, 80.8, 70.1, 0.9], np.float32)
    assert cut_crop(image, box, CropSettings()) == cut_crop(image.copy(), box, CropSettings())
    np.testing.assert_array_equal(image, before)


def test_quality_is_obeyed():
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    box = np.array([0, 0, 120, 90])
    low, high = (cut_crop(image, box, CropSettings(jpeg_quality=q)) for q in (20, 95))
    assert len(low) < len(high) / 2


def test_boxes_that_are_no_numbers_and_empty_frames_are_frame_errors():
    for box in ([0, 0, np.nan, 10], [0, -np.inf, 5, 10]):
        with pytest.raises(FrameError, match="can't cut the box"):
            cut_crop(frame(), np.array(box), TIGHT)
    with pytest.raises(FrameError):
        cut_crop(np.zeros((0, 10, 3), np.uint8), np.array([0, 0, 1, 1]), TIGHT)
