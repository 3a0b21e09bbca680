"""Train the demo's detector from scratch on simulated scenes, with YOLOv8n's architecture and one class.

    python -m demo.training.train_detector [--output demo/models] [--images 1000] [--epochs 10] [--seed 0]

The command writes detector.pt (half precision, without the optimizer) and detector.json (how the model was
trained, and its accuracy on a store that it was not trained on). On one machine, the same options give the
same weights. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from demo.drawing.cameras import FRAME_HEIGHT, FRAME_WIDTH
from demo.scenes import encode_jpeg, generate_scenes

TRAINING_SEED, TEST_SEED = 1000, 2000
"""Seeds of two stores: the first is used for training, the second only for measuring accuracy."""

IMAGE_SIZE = 320
"""Longer side of the network's input in pixels, for `detector.image_size`. A frame is scaled to 320x192."""

_PERSON = 0
_BATCH = 16

_OPTIONS: dict[str, Any] = {
    "optimizer": "AdamW",
    "lr0": 0.002,
    "lrf": 0.02,
    "cos_lr": True,
    "warmup_epochs": 1.0,
    "warmup_bias_lr": 0.002,
    "nbs": _BATCH,
    # Without mosaics: scenes are crowded enough. The frame's own shape takes half the work of a square.
    "rect": True,
    "mosaic": 0.0,
    "close_mosaic": 0,
    "scale": 0.2,
    "translate": 0.05,
    "erasing": 0.0,
    "hsv_h": 0.01,
    "hsv_s": 0.3,
    "hsv_v": 0.3,
}


def train_detector(output: Path, images: int, test_images: int, epochs: int, seed: int, threads: int) -> None:
    """Train, measure on unseen scenes, and write the checkpoint with its record.

    Args:
        output: Folder for detector.pt and detector.json.
        images: Number of scenes to train on.
        test_images: Number of scenes of another store to measure on.
        epochs: Number of passes over the training scenes.
        seed: Seed of the weights and of the order of images.
        threads: Number of CPU threads.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="train-detector-") as made:
        folder = Path(made)
        # ultralytics reads these on import: no pip, no network, no usage reports, no settings kept.
        os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="1", YOLO_CONFIG_DIR=str(folder))
        import torch
        from ultralytics.models import YOLO

        torch.set_num_threads(threads)
        _write_images(folder / "train", TRAINING_SEED, images)
        _write_images(folder / "test", TEST_SEED, test_images)
        dataset = folder / "scenes.yaml"
        # JSON is valid YAML.
        dataset.write_text(
            json.dumps({"path": made, "train": "train", "val": "test", "names": {_PERSON: "person"}})
        )
        common: dict[str, Any] = {
            "data": str(dataset),
            "imgsz": IMAGE_SIZE,
            "device": "cpu",
            "workers": 0,
            "plots": False,
            "project": made,
        }
        began = time.monotonic()
        model = YOLO("yolov8n.yaml", task="detect")
        # The weights of this model aren't used: training sets the seed and initialises its own.
        model.train(
            **common,
            **_OPTIONS,
            pretrained=False,
            batch=_BATCH,
            epochs=epochs,
            seed=seed,
            cache="ram",
            amp=False,
            val=False,
        )
        training_s = time.monotonic() - began
        trainer: Any = model.trainer
        _save(trainer.last, output / "detector.pt")
        measured = YOLO(str(output / "detector.pt")).val(**common, rect=True, batch=_BATCH)
    record = {
        "architecture": "YOLOv8n, 1 class",
        "image_size": IMAGE_SIZE,
        "training": {"scene_seed": TRAINING_SEED, "images": images, "epochs": epochs, "seed": seed},
        "training_minutes": round(training_s / 60, 1),
        "threads": threads,
        "test": {
            "scene_seed": TEST_SEED,
            "images": test_images,
            "AP50": round(float(measured.box.map50), 4),
            "AP50-95": round(float(measured.box.map), 4),
            "precision": round(float(measured.box.mp), 4),
            "recall": round(float(measured.box.mr), 4),
        },
        "versions": {name: version(name) for name in ("torch", "ultralytics-opencv-headless")},
    }
    (output / "detector.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _write_images(folder: Path, seed: int, images: int) -> None:
    """Write JPEGs, each with a text file of its boxes.

    A line of the text file holds the class, centre and size of a box, in shares of the frame.
    """
    folder.mkdir()
    for scene in generate_scenes(seed, images):
        (folder / f"{scene.key}.jpg").write_bytes(encode_jpeg(scene))
        boxes = np.array([person.bbox for person in scene.persons]).reshape(-1, 4)
        centres, sizes = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        lines = [" ".join(f"{value:.6f}" for value in row) for row in np.hstack([centres, sizes])]
        text = "".join(f"{_PERSON} {line}\n" for line in lines)
        (folder / f"{scene.key}.txt").write_text(text, encoding="utf-8")


def _save(trained: Path, target: Path) -> None:
    """Save the trained network without the optimizer, times and the paths of this machine."""
    import torch
    from ultralytics.models import YOLO

    network: Any = YOLO(str(trained), task="detect").model
    network.args = {"imgsz": IMAGE_SIZE}
    network.criterion = None
    del network.pt_path
    for parameter in network.parameters():
        parameter.requires_grad = False
    torch.save(
        {
            "model": network.half(),
            "train_args": {"imgsz": IMAGE_SIZE, "task": "detect"},
            "license": "AGPL-3.0",
        },
        target,
    )


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m demo.training.train_detector", description="Train the detector"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent.parent / "models")
    parser.add_argument("--images", type=int, default=1000, help=f"{FRAME_WIDTH}x{FRAME_HEIGHT} scenes")
    parser.add_argument("--test-images", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    train_detector(**vars(parser.parse_args()))


if __name__ == "__main__":
    _main()
