"""Find and check the detector's weights, and export them once for the backend that runs them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import Any, Literal

from botocore.exceptions import BotoCoreError

from actors.errors import ShopframeError, WeightsError
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import storage_error_text
from actors.time_text import duration

Backend = Literal["openvino", "onnx", "torch"]

_PROGRAM = Path(__file__).with_name("export_checkpoint.py")
_HUB = "https://github.com"
_HUB_TIMEOUT_S = 8.0
_FETCH_TIMEOUT_S = 600.0
_EXPORT_TIMEOUT_S = 900.0
_ABANDONED_S = 3600.0
"""Age after which an unfinished export is certain to be left over from a killed process."""

_FILES: dict[Backend, tuple[str, ...]] = {
    "openvino": ("model.xml", "model.bin"),
    "onnx": ("model.onnx",),
    "torch": ("model.pt",),
}
_EXPORTED_BY: dict[Backend, tuple[str, ...]] = {
    "openvino": ("torch", "openvino"),
    "onnx": ("torch", "onnx", "onnxslim"),
    "torch": (),
}


@dataclass(frozen=True, slots=True)
class ExportedModel:
    """A network in the form that its backend loads.

    Attributes:
        files: Contents of the files: XML and weights (openvino), ONNX (onnx) or checkpoint (torch).
        names: Class names by index.
        stride: Input sides are multiples of this many pixels.
        exporter: Package and version that loaded the checkpoint.
    """

    files: tuple[bytes, ...]
    names: dict[int, str]
    stride: int
    exporter: str


def read_weights(weights: str, cache_dir: Path, storage: StorageSettings) -> bytes:
    """Return the checkpoint's bytes.

    A published checkpoint is downloaded once and kept in the cache.

    Args:
        weights: A path, the URI of an object in a bucket, or a name that ultralytics publishes.
        cache_dir: Folder of the cache; created if missing.
        storage: How to reach the bucket.

    Raises:
        WeightsError: The checkpoint doesn't exist or can't be reached.
    """
    if "://" in weights:
        folder, _, name = weights.rpartition("/")
        try:
            return ObjectStore(folder, storage).read(name)
        except FileNotFoundError as error:
            raise WeightsError(f"detector.weights: there is no object {weights}") from error
        except (OSError, BotoCoreError, ShopframeError) as error:
            raise WeightsError(f"detector.weights: {weights}: {storage_error_text(error)}") from error
    path = Path(weights).expanduser()
    if not path.exists() and path.name == weights:
        path = _fetch(weights, cache_dir / "weights")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise WeightsError(f"detector.weights: there is no file {path.absolute()}") from None
    except OSError as error:
        raise WeightsError(f"detector.weights: can't read {path.absolute()}: {error.strerror}") from error


def check_sha256(weights: str, content: bytes, expected: str | None) -> str:
    """Return the content's SHA-256, hexadecimal.

    Raises:
        WeightsError: It isn't the expected one.
    """
    found = hashlib.sha256(content).hexdigest()
    if expected is not None and found != expected.lower():
        raise WeightsError(
            f"detector.sha256: expected {expected.lower()}, found {found} in {weights} "
            f"({len(content):,} bytes); get the right file, or correct the checksum if this is the right one"
        )
    return found


def may_run_code() -> bool:
    """Return whether the environment lets a checkpoint, which is a pickle, run code when it is read.

    It may not unless `ULTRALYTICS_SAFE_LOAD` is set to anything but true.
    """
    return os.environ.get("ULTRALYTICS_SAFE_LOAD", "1").strip().lower() not in ("1", "true", "yes", "on")


def export_model(weights: str, content: bytes, backend: Backend, cache_dir: Path) -> ExportedModel:
    """Return the network for a backend, from the cache or exported into it.

    The export is written to a temporary folder that is then renamed. A killed export therefore leaves no
    entry, and if two run at once, the first to finish is kept. Entries carry checksums, and a damaged entry
    is exported again.

    Args:
        weights: Name of the checkpoint in the settings, for messages.
        content: The checkpoint.
        backend: The library that will run the network.
        cache_dir: Folder of the cache; created if missing.

    Raises:
        WeightsError: The checkpoint is not a YOLO detector, the export failed, or the cache can't be
            written.
    """
    made_by = [f"{package} {version(package)}" for package in _EXPORTED_BY[backend]]
    key = hashlib.sha256(
        json.dumps([hashlib.sha256(content).hexdigest(), backend, _ultralytics_version(), made_by]).encode()
    ).hexdigest()[:32]
    entry = cache_dir / "exports" / f"{backend}-{key}"
    found = _read_entry(entry, backend)
    if found is not None:
        return found
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        _delete_abandoned(entry.parent)
        with tempfile.TemporaryDirectory(prefix=".making-", dir=entry.parent) as made:
            _export(weights, content, backend, Path(made), cache_dir)
            return _publish(Path(made), entry, backend)
    except OSError as error:
        raise WeightsError(
            f"detector.cache_dir: can't write {entry.parent}: {error.strerror or error}"
        ) from error


def _export(weights: str, content: bytes, backend: Backend, folder: Path, cache_dir: Path) -> None:
    checkpoint = folder / "checkpoint.pt"
    checkpoint.write_bytes(content)
    trouble = _run_program(
        ["export", str(checkpoint), backend, str(folder)], folder, cache_dir, _EXPORT_TIMEOUT_S
    )
    checkpoint.unlink()
    if trouble is not None:
        raise WeightsError(
            f"detector.weights: {weights}: {trouble}; give a YOLO detection checkpoint such as yolov8n.pt "
            "(ULTRALYTICS_SAFE_LOAD=0 in the environment, together with detector.sha256, lets a checkpoint "
            "that you trust run its own code)"
        )


def _fetch(name: str, folder: Path) -> Path:
    target = folder / name
    if target.is_file():
        return target
    remedy = f"give detector.weights the path or bucket URI of a copy, or put one at {target}"
    if Path(name).suffix != ".pt":
        raise WeightsError(f"detector.weights: there is no file {name} here; {remedy}")
    if not _is_reachable(_HUB):
        raise WeightsError(
            f"detector.weights: there is no file {name} here, and {_HUB}, from where ultralytics would "
            f"download it, can't be reached; {remedy}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as made:
            trouble = _run_program(["fetch", name, made], Path(made), folder.parent, _FETCH_TIMEOUT_S)
            if trouble is not None:
                raise WeightsError(f"detector.weights: {name}: {trouble}; {remedy}")
            (Path(made) / name).replace(target)
    except OSError as error:
        raise WeightsError(f"detector.cache_dir: can't write {folder}: {error.strerror or error}") from error
    return target


def _is_reachable(hub: str) -> bool:
    """Return whether a web server answers within seconds, through the proxy set in the environment."""
    request = urllib.request.Request(hub, method="HEAD")  # noqa: S310  the URL is a constant
    answered = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(request, timeout=_HUB_TIMEOUT_S):  # noqa: S310
                answered.append(True)
        except urllib.error.HTTPError:
            answered.append(True)
        except (OSError, ValueError):
            return

    # The request runs in a thread because the DNS lookup has no timeout.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_TIMEOUT_S)
    return bool(answered)


def _run_program(arguments: list[str], folder: Path, cache_dir: Path, timeout_s: float) -> str | None:
    """Run export_checkpoint.py; return None, or the reason of the failure in one line."""
    environment = {**os.environ, "YOLO_CONFIG_DIR": str(cache_dir / "ultralytics")}
    Path(environment["YOLO_CONFIG_DIR"]).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(_PROGRAM), *arguments]
    try:
        ended = subprocess.run(  # noqa: S603  the program is a constant
            command, env=environment, cwd=folder, capture_output=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        return f"ultralytics did not finish within {duration(timeout_s)}"
    if ended.returncode == 0:
        return None
    said = folder / "error.txt"
    if said.is_file():
        return said.read_text(encoding="utf-8")
    last = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"ultralytics ended with exit status {ended.returncode}: {last}"


def _publish(folder: Path, entry: Path, backend: Backend) -> ExportedModel:
    """Make an export the cache's entry, and return what the entry holds: an earlier export, if there is one.

    Two exports of one checkpoint differ in their bytes, since ultralytics writes the date into them.
    """
    exported = _read_files(folder, backend)
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _FILES[backend]}
    (folder / "sha256.json").write_text(json.dumps(sums), encoding="utf-8")
    try:
        folder.rename(entry)
    except OSError:
        # Another process may have been faster.
        if (kept := _read_entry(entry, backend)) is not None:
            return kept
        shutil.rmtree(entry, ignore_errors=True)
        folder.rename(entry)
    return exported


def _read_entry(entry: Path, backend: Backend) -> ExportedModel | None:
    """Return the content of a cache entry, or None if the entry is missing or damaged."""
    try:
        sums = json.loads((entry / "sha256.json").read_text(encoding="utf-8"))
        exported = _read_files(entry, backend)
    except (OSError, ValueError, KeyError):
        return None
    found = [hashlib.sha256(content).hexdigest() for content in exported.files]
    return exported if found == [sums.get(name) for name in _FILES[backend]] else None


def _read_files(folder: Path, backend: Backend) -> ExportedModel:
    info: dict[str, Any] = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    return ExportedModel(
        files=tuple((folder / name).read_bytes() for name in _FILES[backend]),
        names={int(index): name for index, name in info["names"].items()},
        stride=info["stride"],
        exporter=info["exporter"],
    )


def _delete_abandoned(folder: Path) -> None:
    for left in folder.glob(".making-*"):
        if time.time() - left.stat().st_mtime > _ABANDONED_S:
            shutil.rmtree(left, ignore_errors=True)


def _ultralytics_version() -> str:
    for name in ("ultralytics-opencv-headless", "ultralytics"):
        try:
            return f"ultralytics {version(name)}"
        except PackageNotFoundError:
            continue
    raise WeightsError(
        "detector: the package ultralytics is not installed; install ultralytics-opencv-headless"
    )
