"""The detector runs in int8 only where it agrees with float32, and all runs of an output use one network."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from actors.detect.agreement import Agreement
from actors.detect.int8_choice import Int8Choice
from actors.detect.settings import resolve_detector
from actors.errors import ConfigError
from actors.read.listing import list_shards
from actors.storage.model_paths import int8_choice_path, network_sha256
from actors.storage.object_store import ObjectStore
from demo.scenes import write_shards
from jobs.run.detector_network import FEWEST_FRAMES, choose_network, int8_key
from jobs.settings import load_settings
from tests.servers.refusing_proxy import refusing_proxy
from tests.support import bad_inputs as bad
from tests.support import job, without_ray

FRAMES = 54
FRAMES_PER_SHARD = 9


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_shards(folder, 31, FRAMES, FRAMES_PER_SHARD)
    return folder / "shards"


def given(source: Path, cache: Path, precision: str) -> dict[str, object]:
    return {
        "input.uri": source,
        "detector.weights": Path("demo/models/detector.pt").absolute(),
        "detector.cache_dir": cache,
        "detector.image_size": 320,
        "detector.actors": 1,
        "detector.precision": precision,
        "smolvlm.enabled": "false",
    }


def options(source: Path, cache: Path, precision: str) -> list[str]:
    return [
        part for key, value in given(source, cache, precision).items() for part in ("--set", f"{key}={value}")
    ]


def choose(source: Path, cache: Path, output: Path, precision: str = "auto", **changes):
    """Choose the network of an output, and return what was said.

    Args:
        source: The input.
        cache: Folder of exported networks.
        output: The output.
        precision: The setting.
        changes: `times`, how many times as large each shard claims to be; `frames_done`; `shards`.
    """
    settings = load_settings((), [f"{k}={v}" for k, v in given(source, cache, precision).items()]).settings
    detector = resolve_detector(settings.detector, settings.storage)
    shards = changes.get("shards")
    if shards is None:
        times = changes.get("times", 1)
        listed = list_shards(settings.input, settings.storage)
        shards = [replace(shard, size_bytes=shard.size_bytes * times) for shard in listed]
    terminal = io.StringIO()
    store = ObjectStore(str(output), settings.storage)
    frames_done = changes.get("frames_done", 0)
    return choose_network(settings, detector, store, shards, frames_done, terminal), terminal.getvalue()


def spoiled(scenes: Path, folder: Path) -> Path:
    """Write the scenes with black frames in the shards that the network is quantised on."""
    folder.mkdir()
    # Square frames get no grey bars, which would show the network what light is.
    black = cv2.imencode(".jpg", np.zeros((540, 540, 3), np.uint8))[1].tobytes()
    for number, shard in enumerate(sorted(scenes.glob("*.tar"))):
        with tarfile.open(shard) as tar:
            files = {m.name: tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")}
        files = files if number % 3 == 2 else dict.fromkeys(files, black)
        (folder / shard.name).write_bytes(bad.tar(files))
    return folder


@pytest.mark.slow
def test_a_network_that_was_quantised_badly_is_refused(scenes, cache, tmp_path):
    """Frames without light say nothing about the values that the network meets by day."""
    source, output = spoiled(scenes, tmp_path / "in"), tmp_path / "out"
    arguments = ["annotate", "--output", output, *options(source, cache, "int8")]
    # The address of a cluster would be tried first. No Ray is started for a run that is refused.
    arguments += ["--set", "ray.address=local"]
    with refusing_proxy() as proxy:
        variables = {**job.NO_RAY, **proxy.environment, "HOME": str(tmp_path)}
        done = job.shopframe(*arguments, environment=variables)
    assert proxy.asked == [], "nncf and OpenVINO tell others that they are used"
    assert done.returncode == 2, done.stdout + done.stderr
    assert "detector.precision: int8 can't take the place of float32: finds" in done.stderr
    assert "of the persons (at least 93%)" in done.stderr
    assert "of the 31 persons of float32" in done.stderr
    assert not (output / "models").exists()
    assert not (output / "commits").exists()


@pytest.mark.slow
def test_the_network_is_kept_in_the_output_for_all_later_runs(scenes, cache, tmp_path):
    output = tmp_path / "out"
    said = without_ray.annotate(scenes, output, *options(scenes, cache, "int8")).stdout
    recorded = json.loads((output / "run.json").read_bytes())["models"]["detector"]
    files = [output / "models" / recorded["network"] / name for name in ("network.xml", "network.bin")]
    assert network_sha256([path.read_bytes() for path in files]) == recorded["network"]
    assert recorded["precision"] == "int8"
    assert recorded["int8"]["taken"]
    assert recorded["int8"]["calibration_frames"] == 36
    assert recorded["int8"]["agreement"]["persons"] == 31
    assert recorded["int8"]["agreement"]["found"] > 0.93
    assert "int8: over 18 frames, int8 finds" in " ".join(said.split())
    assert job.progress(output)["detector"]["precision"] == "int8"
    persons = job.table(output, "persons").num_rows
    assert persons > 80

    # A run with nothing to do changes nothing; without Ray and nncf's seconds it can only follow the record.
    idle = job.shopframe(
        "annotate", "--output", output, *options(scenes, cache, "int8"), environment=job.NO_RAY
    )
    assert idle.returncode == 0, idle.stdout + idle.stderr
    assert "starting Ray" not in idle.stdout + idle.stderr
    assert json.loads((output / "run.json").read_bytes())["models"]["detector"] == recorded

    for precision in ("int8", "auto"):
        chosen, _ = choose(scenes, cache, output, precision, shards=[])
        assert chosen.detector.precision == "int8"
        assert chosen.detector.files == tuple(path.read_bytes() for path in files)

    files[1].write_bytes(b"damaged")
    chosen, terminal = choose(scenes, cache, output, shards=[])
    assert chosen.detector.precision in ("float32", "bfloat16")
    assert "is missing or damaged, so it is made again" in terminal


def test_auto_does_not_try_for_few_frames_or_where_many_are_done_without(scenes, cache, tmp_path):
    size = sum(path.stat().st_size for path in scenes.glob("*.tar"))
    assert size // 100_000 < FEWEST_FRAMES
    many = 3 * FEWEST_FRAMES * 100_000 // size
    for changes in ({}, {"times": many, "frames_done": FEWEST_FRAMES}):
        chosen, terminal = choose(scenes, cache, tmp_path / "out", **changes)
        assert chosen.choice is None
        assert chosen.detector.precision in ("float32", "bfloat16")
        assert terminal == ""
    assert not (tmp_path / "out").exists()


def test_auto_follows_what_the_output_has_decided(scenes, cache, tmp_path):
    """Even where int8 would be tried, an output that was begun without it goes on without."""
    (tmp_path / "models").mkdir()
    choice = Int8Choice(
        taken=False,
        network="0" * 64,
        calibration_frames=100,
        agreement=Agreement(
            frames=50, persons=90, found=0.8, added=0, score_difference=0.01, ap50=0.9, ap50_95=0.8
        ),
        milliseconds=20,
        instead="bfloat16",
        instead_milliseconds=30,
        packages={},
    )
    chosen, _ = choose(scenes, cache, tmp_path)
    key = int8_key(chosen.detector, 320)
    (tmp_path / int8_choice_path(key)).write_text(choice.model_dump_json())
    many = 3 * FEWEST_FRAMES * 100_000 // sum(path.stat().st_size for path in scenes.glob("*.tar"))
    chosen, terminal = choose(scenes, cache, tmp_path, times=many)
    assert chosen.choice == choice
    assert chosen.detector.precision in ("float32", "bfloat16")
    assert terminal == ""
    (tmp_path / int8_choice_path(key)).write_text("{}")
    with pytest.raises(ConfigError, match=r"not a valid record of a trial; delete it"):
        choose(scenes, cache, tmp_path)


@pytest.mark.parametrize("backend", ["onnx", "torch"])
def test_int8_needs_openvino(scenes, backend):
    with pytest.raises(ConfigError, match="precision int8 needs backend openvino"):
        load_settings((), ["detector.precision=int8", f"detector.backend={backend}"])
