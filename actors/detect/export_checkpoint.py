"""A program that fetches or exports a checkpoint with ultralytics, in a process of its own.

Importing ultralytics with torch takes seconds and close to a gigabyte of memory. Neither the driver nor a
detector needs it once the network is exported. The program is run by its file name, so it imports nothing
from the project:

    python export_checkpoint.py fetch NAME FOLDER
    python export_checkpoint.py export CHECKPOINT openvino|onnx|torch FOLDER

Both commands write their files to FOLDER and exit with 0. On failure they write the reason to
FOLDER/error.txt, as one line, and exit with 1. `export` also writes `info.json` with the task, the class
names, the stride and the exporter.
"""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any


def fetch(name: str, folder: Path) -> str | None:
    """Let ultralytics download one of its published checkpoints; return the reason on failure."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

    if name not in GITHUB_ASSETS_NAMES:
        return "ultralytics publishes no checkpoint with this name"
    target = folder / name
    try:
        attempt_download_asset(target, retry=1, progress=False)
    except (ConnectionError, OSError) as error:
        return f"the download failed: {_one_line(error)}"
    return None if target.is_file() else "the download left no file"


def export(checkpoint: Path, backend: str, folder: Path) -> str | None:
    """Check that the file is a YOLO detector and write it in the backend's format.

    The exported network accepts any batch size, and any image size that is a multiple of its stride.

    Returns:
        What is wrong with the checkpoint, or None.
    """
    if not zipfile.is_zipfile(checkpoint):
        return "it isn't a PyTorch checkpoint"
    import ultralytics
    from ultralytics.models import YOLO

    own = folder / "model.pt"
    shutil.copyfile(checkpoint, own)
    try:
        model = YOLO(str(own), task="detect", verbose=False)
        network: Any = model.model
        info = {
            "task": network.task,
            "names": {int(k): str(v) for k, v in network.names.items()},
            "stride": max(32, int(network.stride.max())),
            "exporter": f"ultralytics {ultralytics.__version__}",
        }
    except Exception as error:  # noqa: BLE001  unpickling a foreign file can raise anything
        return f"ultralytics can't load it as a YOLO checkpoint: {_one_line(error)}"
    if info["task"] != "detect":
        return f"it is a YOLO checkpoint for the task {info['task']}, not for the task detect"
    if backend != "torch":
        written = Path(model.export(format=backend, dynamic=True, device="cpu", verbose=False))
        if backend == "openvino":
            for suffix in (".xml", ".bin"):
                (written / f"model{suffix}").rename(folder / f"model{suffix}")
            shutil.rmtree(written)
        own.unlink()
    (folder / "info.json").write_text(json.dumps(info), encoding="utf-8")
    return None


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text.encode("ascii", "ignore").decode()[:300].strip()


def main(arguments: list[str]) -> int:
    """Run the command given on the command line and return the exit code."""
    # By default ultralytics installs missing packages with pip, and both it and OpenVINO report usage.
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_VERBOSE="false")
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    folder = Path(arguments[-1])
    if arguments[0] == "fetch":
        trouble = fetch(arguments[1], folder)
    else:
        os.environ["YOLO_OFFLINE"] = "1"
        # A checkpoint is a pickle. Unless the user trusts it, only known classes may be built from it.
        os.environ.setdefault("ULTRALYTICS_SAFE_LOAD", "1")
        trouble = export(Path(arguments[1]), arguments[2], folder)
    if trouble is not None:
        (folder / "error.txt").write_text(trouble, encoding="utf-8")
    return 0 if trouble is None else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
