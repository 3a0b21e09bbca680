"""OpenVINO's networks of fixed shape give the outputs of the one for every shape, and only a few are kept."""

from __future__ import annotations

import numpy as np
import pytest

from actors.detect.openvino_network import MOST_SHAPES, OpenVinoNetwork
from actors.detect.settings import DetectorSettings, resolve_detector
from actors.storage.settings import StorageSettings

SHAPES = [(64, 96), (96, 96), (96, 64), (32, 96), (96, 32), (64, 64)]


@pytest.fixture(scope="module")
def files(checkpoint, cache):
    settings = DetectorSettings(weights=str(checkpoint), cache_dir=cache, backend="openvino")
    return resolve_detector(settings, StorageSettings()).files


def picture(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def test_outputs_do_not_depend_on_the_frames_before(files):
    """The first four shapes get networks of their own; the others don't, and it makes no difference."""
    one_way, other_way = (OpenVinoNetwork(*files, "float32", 1) for _ in range(2))
    forwards = {shape: one_way(picture(shape)).copy() for shape in SHAPES}
    backwards = {shape: other_way(picture(shape)).copy() for shape in reversed(SHAPES)}
    assert one_way.fixed_shapes == SHAPES[:MOST_SHAPES]
    assert other_way.fixed_shapes == SHAPES[: -MOST_SHAPES - 1 : -1]
    for shape in SHAPES:
        np.testing.assert_array_equal(forwards[shape], backwards[shape])
        np.testing.assert_array_equal(one_way(picture(shape)), forwards[shape])
        assert not np.array_equal(one_way(picture(shape, 1)), forwards[shape])


def test_a_shape_that_comes_often_takes_the_place_of_the_one_that_was_used_least_recently(files):
    network = OpenVinoNetwork(*files, "float32", 1, frames_worth_compiling=3)
    for shape in SHAPES[:MOST_SHAPES]:
        network(picture(shape))
    network(picture(SHAPES[0]))
    often, seldom = SHAPES[MOST_SHAPES], SHAPES[MOST_SHAPES + 1]
    outputs = [network(picture(often)).copy(), network(picture(often)).copy()]
    network(picture(seldom))
    assert network.fixed_shapes == [*SHAPES[1:MOST_SHAPES], SHAPES[0]]
    outputs.append(network(picture(often)).copy())
    assert network.fixed_shapes == [*SHAPES[2:MOST_SHAPES], SHAPES[0], often]
    assert all(np.array_equal(output, outputs[0]) for output in outputs)
