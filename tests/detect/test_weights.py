"""The detector's weights are found, checked and exported once, and a problem stops the job with an error."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from actors.detect.settings import DetectorSettings, resolve_detector
from actors.errors import WeightsError
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from tests.conftest import REPO_ROOT
from tests.servers.refusing_proxy import refusing_proxy


def settings_for(weights, cache, **changes):
    return DetectorSettings(weights=str(weights), cache_dir=cache, **changes)


def resolve(settings):
    return resolve_detector(settings, StorageSettings())


# --- weights ---


def test_weights_are_found_by_path_and_by_uri_and_pinned(checkpoint, cache, tmp_path):
    content = checkpoint.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    ObjectStore(f"file://{tmp_path}/bucket").write("models/people.pt", content)
    by_path = resolve(settings_for(checkpoint, cache, sha256=sha256.upper(), backend="onnx"))
    by_uri = resolve(settings_for(f"file://{tmp_path}/bucket/models/people.pt", cache, backend="onnx"))
    assert by_path.weights_sha256 == by_uri.weights_sha256 == sha256
    assert by_path.files == by_uri.files
    assert by_path.fingerprint == by_uri.fingerprint
    assert len(repr(by_path)) < 1000


def test_weights_are_found_in_a_bucket(checkpoint, cache, bucket):
    ObjectStore(bucket).write("models/people.pt", checkpoint.read_bytes())
    found = resolve(settings_for(f"{bucket}/models/people.pt", cache, backend="onnx"))
    assert found.weights_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    with pytest.raises(WeightsError, match=rf"no object {bucket}/models/nobody\.pt"):
        resolve(settings_for(f"{bucket}/models/nobody.pt", cache))
    with pytest.raises(WeightsError, match=r"detector\.weights: .*no-such-bucket"):
        resolve(settings_for("s3://no-such-bucket/people.pt", cache))


def test_the_fingerprint_changes_with_what_changes_boxes_and_with_nothing_else(checkpoint, cache):
    base = resolve(settings_for(checkpoint, cache, backend="openvino")).fingerprint
    same = [{"actors": 3}, {"threads": 2}, {"sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest()}]
    other = [
        {"confidence": 0.3},
        {"iou": 0.5},
        {"max_detections": 10},
        {"image_size": 320},
        {"backend": "onnx"},
        {"precision": "float32"},
        {"precision": "bfloat16"},
    ]

    def fingerprint(changes):
        return resolve(settings_for(checkpoint, cache, **({"backend": "openvino"} | changes))).fingerprint

    assert {fingerprint(changes) for changes in same} == {base}
    assert len({base, *map(fingerprint, other)}) == len(other) + 1


def test_a_wrong_checksum_says_both(checkpoint, cache):
    with pytest.raises(WeightsError) as error:
        resolve(settings_for(checkpoint, cache, sha256="0" * 64))
    assert "detector.sha256: expected " + "0" * 64 in str(error.value)
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in str(error.value)


@pytest.mark.parametrize("weights", ["{tmp}/none.pt", "file://{tmp}/none.pt", "{tmp}", "nosuch://a/b.pt"])
def test_weights_that_are_not_there_are_named(weights, cache, tmp_path):
    weights = weights.format(tmp=tmp_path)
    with pytest.raises(WeightsError, match=r"detector\.weights"):
        resolve(settings_for(weights, cache))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    import torch

    cache = tmp_path / "cache"

    contents = {"text.pt": b"not a network", "empty.pt": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"weights": [1, 2, 3]}, tmp_path / "other.pt")
    for name in (*contents, "other.pt"):
        with pytest.raises(WeightsError, match=rf"detector\.weights: .*{name}: .*YOLO"):
            resolve(settings_for(tmp_path / name, cache, backend="onnx"))
    assert not list((cache / "exports").glob(".making-*"))


def test_a_checkpoint_for_another_task_or_without_persons_is_refused(cache, tmp_path):
    from ultralytics import YOLO

    YOLO("yolov8n-cls.yaml", task="classify").save(str(tmp_path / "classes.pt"))
    with pytest.raises(WeightsError, match="task classify"):
        resolve(settings_for(tmp_path / "classes.pt", cache, backend="torch"))
    nobody = YOLO("yolov8n.yaml", task="detect")
    nobody.model.names = {index: f"thing {index}" for index in range(80)}
    nobody.save(str(tmp_path / "things.pt"))
    with pytest.raises(WeightsError, match=r"no class named person.*thing 0"):
        resolve(settings_for(tmp_path / "things.pt", cache, backend="torch"))


def test_a_hub_out_of_reach_is_said_at_once_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(WeightsError, match=r"yolov8n\.pt.*can't be reached.*path or bucket URI"):
        resolve(settings_for("yolov8n.pt", tmp_path / "cache"))
    assert time.monotonic() - started < 5


def test_a_hub_that_never_answers_is_given_up_within_seconds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(WeightsError, match="can't be reached"):
            resolve(settings_for("yolov8n.pt", tmp_path / "cache"))
    assert time.monotonic() - started < 15


def test_a_published_name_is_taken_from_the_cache(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    (tmp_path / "cache" / "weights").mkdir(parents=True)
    (tmp_path / "cache" / "weights" / "yolov8n.pt").write_bytes(checkpoint.read_bytes())
    resolved = resolve(settings_for("yolov8n.pt", tmp_path / "cache", backend="torch"))
    assert resolved.weights_sha256 == hashlib.sha256(checkpoint.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actors": 0}, "give auto, a number of at least 1, or min and max"),
        ({"device": "cuda", "backend": "openvino"}, "runs on the CPU"),
        ({"backend": "onnx", "precision": "bfloat16"}, "needs backend openvino"),
        ({"confidence": 1.5}, "less than or equal to 1"),
        ({"image_size": 500}, "multiple of 32"),
        ({"sha256": "abc"}, "pattern"),
    ],
)
def test_settings_that_can_not_be_are_refused(changes, said):
    with pytest.raises(ValidationError, match=said):
        DetectorSettings(**changes)


# --- the cache of exports ---

EXPORT = """
import sys
from pathlib import Path
from actors.detect.person_detector import PersonDetector
from actors.detect.settings import DetectorSettings, resolve_detector
from actors.storage.settings import StorageSettings
settings = DetectorSettings(weights=sys.argv[1], cache_dir=Path(sys.argv[2]), backend=sys.argv[3])
resolved = resolve_detector(settings, StorageSettings())
PersonDetector(settings, resolved)
print(resolved.fingerprint)
"""


def start_export(checkpoint, cache, backend="onnx", **variables):
    return subprocess.Popen(
        [sys.executable, "-c", EXPORT, str(checkpoint), str(cache), backend],
        env={**os.environ, "PYTHONPATH": str(REPO_ROOT), **variables},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_two_processes_that_export_at_once_both_succeed_and_report_no_usage(checkpoint, tmp_path):
    cache = tmp_path / "cache"
    with refusing_proxy() as proxy:
        variables = {**proxy.environment, "HOME": str(tmp_path)}
        both = [start_export(checkpoint, cache, "openvino", **variables) for _ in range(2)]
        said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0] == said[1] != ""
    assert len(list((cache / "exports").iterdir())) == 1
    assert resolve(settings_for(checkpoint, cache, backend="openvino")).fingerprint == said[0].strip()
    assert proxy.asked == [], "OpenVINO and ultralytics tell others that they are used"


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_export_leaves_nothing_that_counts(checkpoint, tmp_path):
    process = start_export(checkpoint, tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("exports/.making-*/checkpoint.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.glob("exports/.making-*/checkpoint.pt"))
    assert not list(tmp_path.glob("exports/onnx-*"))
    assert resolve(settings_for(checkpoint, tmp_path, backend="onnx")).files
    left = next(tmp_path.glob("exports/.making-*"))
    os.utime(left, (0, 0))
    for entry in tmp_path.glob("exports/onnx-*/model.onnx"):
        entry.write_bytes(entry.read_bytes()[:1000])
    repaired = resolve(settings_for(checkpoint, tmp_path, backend="onnx"))
    assert len(repaired.files[0]) > 1_000_000
    assert not left.exists()


def test_a_second_start_takes_the_export_from_the_cache(checkpoint, cache):
    first = resolve(settings_for(checkpoint, cache, backend="onnx"))
    written = {path: path.stat().st_mtime_ns for path in (cache / "exports").rglob("model.onnx")}
    second = resolve(settings_for(checkpoint, cache, backend="onnx"))
    assert second == first
    assert written == {path: path.stat().st_mtime_ns for path in (cache / "exports").rglob("model.onnx")}


def test_two_exports_at_once_are_the_same_network_from_then_on(checkpoint, tmp_path):
    settings = settings_for(checkpoint, tmp_path, backend="onnx")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(resolve, [settings, settings])
    assert first.files == second.files == resolve(settings).files


def test_a_cache_that_can_not_be_written_is_named(checkpoint, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match=r"detector\.cache_dir"):
        resolve(settings_for(checkpoint, tmp_path / "file", backend="onnx"))
