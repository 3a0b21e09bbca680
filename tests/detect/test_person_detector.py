"""The detector finds the same boxes as ultralytics alone, in a process that needs little memory."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from actors.detect.backends import letterbox_of, person_boxes, to_frame
from actors.detect.person_detector import PersonDetector
from actors.detect.settings import DetectorSettings, resolve_detector
from actors.errors import FrameError
from actors.storage.settings import StorageSettings
from tests.conftest import REPO_ROOT

SHARED = REPO_ROOT.parent / "shared"
REAL_WEIGHTS = SHARED / "models" / "yolov8n.pt"
FRAMES = SHARED / "frames"
needs_real = pytest.mark.skipif(
    not (REAL_WEIGHTS.is_file() and FRAMES.is_dir()), reason="needs trained weights and photographs"
)

ODD_SHAPES = [(1080, 1920), (1920, 1080), (480, 640), (97, 1031), (1500, 40), (3, 2), (1, 1)]
PIXEL_TOLERANCE = 0.05
SCORE_TOLERANCE = 0.001


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Return a function that exports a checkpoint with ultralytics, as a user of ultralytics would."""
    done = {}

    def export(weights, backend):
        from ultralytics import YOLO

        if backend == "torch":
            return weights
        if (weights, backend) not in done:
            copy = tmp_path_factory.mktemp("ultralytics") / "own.pt"
            copy.write_bytes(Path(weights).read_bytes())
            done[weights, backend] = YOLO(str(copy)).export(format=backend, dynamic=True, verbose=False)
        return done[weights, backend]

    return export


def settings_for(weights, cache, **changes):
    return DetectorSettings(weights=str(weights), cache_dir=cache, **changes)


def resolve(settings):
    return resolve_detector(settings, StorageSettings())


def load(weights, cache, **changes):
    settings = settings_for(weights, cache, **changes)
    return PersonDetector(settings, resolve(settings))


def by_ultralytics(path, images, confidence, precision="float32"):
    """Return the boxes (n, 5) that ultralytics alone finds in each image, one image at a time."""
    from ultralytics import YOLO

    model = YOLO(str(path), task="detect")
    predict = {"classes": [0], "conf": confidence, "verbose": False, "device": "cpu"}
    model.predict(images[0], **predict)
    backend = model.predictor.model
    if hasattr(backend, "ov_compiled_model"):
        # ultralytics has no setting for OpenVINO's precision, which is bfloat16 by default on some machines.
        network = backend.ov.Core().read_model(next(Path(path).glob("*.xml")))
        hint = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}
        backend.backend.ov_compiled_model = backend.ov.Core().compile_model(network, "CPU", hint)
    return [model.predict(i, **predict)[0].boxes.data.numpy()[:, :5] for i in images]


def assert_same_boxes(ours, theirs, step=0.0):
    """Assert that boxes are equal but for a tolerance, and for a step that is a share of each number."""
    assert [len(boxes) for boxes in ours] == [len(boxes) for boxes in theirs]
    for mine, their in zip(ours, theirs, strict=True):
        assert mine.dtype == np.float32
        assert mine.shape == (len(their), 5)
        np.testing.assert_allclose(mine[:, 4], their[:, 4], atol=SCORE_TOLERANCE, rtol=step or 1e-7)
        np.testing.assert_allclose(mine[:, :4], their[:, :4], atol=PIXEL_TOLERANCE, rtol=step or 1e-7)


def scenes(shapes):
    random = np.random.default_rng(5)
    for height, width in shapes:
        coarse = random.integers(0, 256, (9, 9, 3), np.uint8)
        yield cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


# --- the same boxes as ultralytics ---


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnx", "torch"])
def test_boxes_are_those_of_ultralytics_on_any_shape(checkpoint, cache, exported, backend):
    images = list(scenes(ODD_SHAPES))
    detector = load(checkpoint, cache, backend=backend, precision="float32", confidence=0.3)
    ours = detector.detect(images)
    assert sum(len(boxes) for boxes in ours) > 50
    assert_same_boxes(ours, by_ultralytics(exported(checkpoint, backend), images, 0.3))


@needs_real
@pytest.mark.slow
@pytest.mark.parametrize(
    "backend", ["openvino", *(pytest.param(name, marks=pytest.mark.long) for name in ("onnx", "torch"))]
)
def test_boxes_on_photographs_are_those_of_ultralytics(cache, exported, backend):
    images = [cv2.imread(str(path)) for path in sorted((FRAMES / "images").iterdir())[:40:2]]
    images.append(cv2.resize(images[3], (1920, 1080)))
    detector = load(REAL_WEIGHTS, cache, backend=backend, precision="float32", confidence=0.05)
    ours = detector.detect(images)
    assert sum(len(boxes) for boxes in ours) > 50
    assert_same_boxes(ours, by_ultralytics(exported(REAL_WEIGHTS, backend), images, 0.05))


@needs_real
def test_openvino_in_bfloat16_is_ultralytics_in_bfloat16(cache, exported):
    images = [cv2.imread(str(path)) for path in sorted((FRAMES / "images").iterdir())[:40:2]]
    detector = load(REAL_WEIGHTS, cache, backend="openvino", precision="bfloat16")
    ours = detector.detect(images)
    theirs = by_ultralytics(exported(REAL_WEIGHTS, "openvino"), images, 0.25, "bfloat16")
    assert sum(len(boxes) for boxes in ours) > 20
    # Where a CPU computes in bfloat16, two compilations of a network round differently, by a step or two.
    assert_same_boxes(ours, theirs, step=2**-7)


@pytest.mark.parametrize("shape", [*ODD_SHAPES, (333, 499), (720, 1280), (641, 639)])
def test_letterbox_is_ultralytics_letterbox(shape):
    from ultralytics.data.augment import LetterBox
    from ultralytics.utils.ops import scale_boxes

    image = next(scenes([shape]))
    theirs = LetterBox((640, 640), auto=True, stride=32)(image=image)
    letterbox = letterbox_of(*shape, 640, 32)
    np.testing.assert_array_equal(letterbox.apply(image), theirs)
    boxes = np.random.default_rng(0).uniform(-20, 660, (50, 5)).astype(np.float32)
    expected = scale_boxes(theirs.shape[:2], boxes[:, :4].copy(), shape)
    np.testing.assert_array_equal(to_frame(boxes, letterbox, *shape)[:, :4], expected)


@pytest.mark.parametrize("most", [25, 300])
@pytest.mark.parametrize("iou", [0.2, 0.5, 0.7])
def test_duplicates_are_suppressed_as_ultralytics_does(iou, most):
    import torch
    from ultralytics.utils.nms import non_max_suppression

    random = np.random.default_rng(int(iou * 10))
    centres = random.uniform(50, 500, (2, 12)).repeat(60, axis=1)
    output = np.empty((84, 720), np.float32)
    output[:2] = centres + random.normal(0, 12, centres.shape)
    output[2:4] = random.uniform(20, 160, (2, 720))
    output[4:] = random.uniform(0, 0.6, (80, 720))
    output[4] = random.uniform(0, 1, 720)
    ours = person_boxes(output, person=0, confidence=0.25, iou=iou, most=most)
    theirs = non_max_suppression(torch.from_numpy(output.copy())[None], 0.25, iou, classes=[0], max_det=most)[
        0
    ].numpy()
    assert len(ours) == 25 if most == 25 else 25 < len(ours) < 300
    np.testing.assert_array_equal(ours, theirs[:, :5])


def test_a_network_that_suppresses_duplicates_itself_is_read_as_ultralytics_does():
    import torch
    from ultralytics.utils.nms import non_max_suppression

    random = np.random.default_rng(0)
    output = random.uniform(0, 640, (300, 6)).astype(np.float32)
    output[:, 4] = np.sort(random.uniform(0, 1, 300))[::-1]
    output[:, 5] = random.integers(0, 3, 300)
    ours = person_boxes(output, person=0, confidence=0.25, iou=0.7, most=50)
    theirs = non_max_suppression(torch.from_numpy(output.copy())[None], 0.25, 0.7, classes=[0], max_det=50)
    assert len(ours) == 50
    np.testing.assert_array_equal(ours, theirs[0].numpy()[:, :5])


@needs_real
@pytest.mark.slow
def test_accuracy_is_that_of_ultralytics_own_validation(cache, tmp_path):
    detector = load(REAL_WEIGHTS, cache, backend="openvino", precision="float32", confidence=0.001)
    ours = average_precision(detector)
    theirs = validated(REAL_WEIGHTS, tmp_path)
    print(f"AP50 of people: ours {ours:.4f}, ultralytics val {theirs:.4f}")
    assert theirs > 0.5
    assert ours == pytest.approx(theirs, abs=0.005)


def average_precision(detector):
    """Return the AP50 of people in the labelled photographs, with the curves computed by ultralytics."""
    import torch
    from ultralytics.utils.metrics import ap_per_class, box_iou

    right, scores, total = [], [], 0
    for path in sorted((FRAMES / "images").iterdir()):
        image = cv2.imread(str(path))
        height, width = image.shape[:2]
        text = (FRAMES / "labels" / f"{path.stem}.txt").read_text().split()
        truth = np.array(text, float).reshape(-1, 5)[:, 1:] * [width, height, width, height]
        truth = np.concatenate([truth[:, :2] - truth[:, 2:] / 2, truth[:, :2] + truth[:, 2:] / 2], 1)
        found = detector.detect([image])[0]
        overlap = box_iou(torch.tensor(truth).float(), torch.from_numpy(found[:, :4])).numpy()
        hit = np.zeros(len(found), bool)
        pairs = np.argwhere(overlap >= 0.5)
        pairs = pairs[overlap[pairs[:, 0], pairs[:, 1]].argsort()[::-1]]
        pairs = pairs[np.unique(pairs[:, 1], return_index=True)[1]]
        pairs = pairs[np.unique(pairs[:, 0], return_index=True)[1]]
        hit[pairs[:, 1]] = True
        right.append(hit)
        scores.append(found[:, 4])
        total += len(truth)
    assert total > 200
    flat = np.concatenate(right)[:, None]
    ones = np.zeros(len(flat))
    return float(ap_per_class(flat, np.concatenate(scores), ones, np.zeros(total))[5][0, 0])


def validated(weights, folder):
    """Return the AP50 of people that `YOLO.val` measures on the same photographs."""
    from ultralytics import YOLO

    for part in ("images", "labels"):
        (folder / part).mkdir()
        for path in (FRAMES / part).iterdir():
            (folder / part / path.name).symlink_to(path)
    names = YOLO(str(weights)).names
    dataset = folder / "data.yaml"
    dataset.write_text(json.dumps({"path": str(folder), "train": "images", "val": "images", "names": names}))
    metrics = YOLO(str(weights)).val(
        data=str(dataset),
        conf=0.001,
        classes=[0],
        batch=1,
        workers=0,
        device="cpu",
        plots=False,
        verbose=False,
        project=str(folder),
        name="val",
    )
    return float(metrics.box.ap50[list(metrics.box.ap_class_index).index(0)])


# --- limits and bad images ---


def test_an_image_without_pixels_or_colours_is_refused(checkpoint, cache):
    detector = load(checkpoint, cache, backend="onnx")
    for bad in (np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(FrameError, match="can't detect"):
            detector.detect([bad])
    assert detector.detect([]) == []


def test_most_detections_and_confidence_are_obeyed(checkpoint, cache):
    image = next(scenes([(480, 640)]))
    everything = load(checkpoint, cache, backend="onnx", confidence=0.2).detect([image])[0]
    assert len(everything) > 8
    assert (np.diff(everything[:, 4]) <= 0).all()
    best = load(checkpoint, cache, backend="onnx", confidence=0.2, max_detections=5).detect([image])[0]
    np.testing.assert_array_equal(best, everything[:5])
    threshold = float(everything[3, 4])
    sure = load(checkpoint, cache, backend="onnx", confidence=threshold).detect([image])[0]
    assert len(sure) == int((everything[:, 4] > threshold).sum())


# --- the process that detects ---


def test_a_detector_process_loads_neither_torch_nor_ultralytics(checkpoint, cache, tmp_path):
    """A worker gets only a pickle: it needs no path, hub or cache, and less than 600 MiB of memory."""
    settings = settings_for(checkpoint, cache, backend="openvino", confidence=0.3)
    (tmp_path / "pickle").write_bytes(pickle.dumps((settings, resolve(settings))))
    program = r"""
import pickle, re, sys, time
started = time.perf_counter()
settings, resolved = pickle.load(open(sys.argv[1], "rb"))
from actors.detect.person_detector import PersonDetector
import numpy as np
found = PersonDetector(settings, resolved).detect([np.full((1080, 1920, 3), 90, np.uint8)])
peak_kib = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])
print(len(found[0]), "torch" in sys.modules, "ultralytics" in sys.modules, peak_kib // 1024,
      time.perf_counter() - started)
"""
    environment = {**os.environ, "PYTHONPATH": str(REPO_ROOT), "HOME": str(tmp_path / "nowhere")}
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "pickle")],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    print(f"detector process: peak memory {said[3]} MiB, first frame done after {float(said[4]):.1f} s")
    assert said[1:3] == ["False", "False"]
    assert int(said[3]) < 600
    assert not (tmp_path / "nowhere").exists()
