"""Other ways to find people in frames, each in a process of its own: the peers of `benchmarks.detect`."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Barrier
from typing import Any

import cv2
import numpy as np
import simplejpeg

from actors.detect.person_detector import PersonDetector
from actors.detect.settings import DetectorSettings, ResolvedDetector

WIDTH, HEIGHT = 1920, 1080

_MANY = 304
"""Number of frames of a pass."""

_DAFT_PASSES = 48, 1328
"""Number of frames of two passes of Daft, whose rate is that of the additional frames in the additional time.
The start of its processes varies by seconds, so the second pass is long."""

_BATCH = 16
_QUIET = {
    "YOLO_AUTOINSTALL": "false",
    "YOLO_VERBOSE": "false",
    "YOLO_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "DAFT_ANALYTICS_ENABLED": "0",
}


def prototype_rate(frames: list[Path], weights: Path, output: Path) -> float:
    """Measure the frames per second of the prototype's way."""
    return _apart(_run_prototype, frames, weights, output)


def _run_prototype(frames: list[Path], weights: Path, output: Path) -> float:
    os.environ.update(_QUIET)
    from ultralytics.models import YOLO

    output.mkdir(parents=True)
    model: Any = YOLO(str(weights))
    model.predict(str(frames[0]), classes=[0], verbose=False)
    started = time.perf_counter()
    for path in frames:
        result = model.predict(str(path), classes=[0], verbose=False)[0]
        for index, (x1, y1, x2, y2, score, _) in enumerate(result.boxes.data.tolist()):
            name = f"{path.stem}-{index}"
            crop = result.orig_img[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1]
            cv2.imwrite(str(output / f"{name}.jpg"), crop)
            document = {"frame": path.name, "bbox": [x1, y1, x2, y2], "score": score}
            (output / f"{name}.json").write_text(json.dumps(document, indent=2))
    return len(frames) / (time.perf_counter() - started)


def ray_rate(frames: list[Path], weights: Path, processes: int) -> float:
    """Measure the frames per second of Ray's documented way: `read_images`, and ultralytics in an actor pool.

    Ray is told of twice as many cores as there are actors. With as many, the actors leave none to the
    readers, and it waits for ever.
    """
    return _apart(_run_ray, frames, weights, processes)


def _run_ray(frames: list[Path], weights: Path, processes: int) -> float:
    os.environ.update(_QUIET)
    import ray.data

    ray.init(
        address="local",
        num_cpus=2 * processes,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": _QUIET},
    )
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False

    images = ray.data.read_images(_repeated(frames, _MANY))
    found = images.map_batches(
        _Ultralytics,
        fn_constructor_args=(str(weights),),
        batch_size=_BATCH,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=processes),
    )
    # Between batches that come out, as the job's rate is that between its commits.
    came = [
        (time.perf_counter(), len(batch["persons"]))
        for batch in found.iter_batches(batch_size=None, prefetch_batches=0)
    ]
    assert sum(count for _, count in came) == _MANY
    first = len(came) // 5
    return sum(count for _, count in came[first + 1 :]) / (came[-1][0] - came[first][0])


class _Ultralytics:
    def __init__(self, weights: str) -> None:
        from ultralytics.models import YOLO

        self._model: Any = YOLO(weights)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        images = [np.ascontiguousarray(image[..., ::-1]) for image in batch["image"]]
        results = self._model.predict(images, classes=[0], verbose=False)
        return {"persons": np.array([len(result.boxes) for result in results])}


def daft_is_installed() -> bool:
    """Return whether Daft, which only this benchmark uses, is installed."""
    return find_spec("daft") is not None


def daft_rate(
    frames: list[Path], settings: DetectorSettings, resolved: ResolvedDetector, processes: int, output: Path
) -> float:
    """Measure the frames per second of Daft: decoder and network in a UDF, boxes written to Parquet."""
    return _apart(_run_daft, frames, settings, resolved, processes, output)


def _run_daft(
    frames: list[Path], settings: DetectorSettings, resolved: ResolvedDetector, processes: int, output: Path
) -> float:
    os.environ.update(_QUIET)
    import daft
    from daft.functions import download

    found_person = daft.DataType.list(daft.DataType.float32())
    found_people = daft.DataType.list(found_person)

    class Network:
        def __init__(self) -> None:
            self._memory = np.empty(WIDTH * HEIGHT * 3, np.uint8)
            self._detector = PersonDetector(settings, resolved)

        @daft.method.batch(return_dtype=found_people, batch_size=_BATCH)  # type: ignore[untyped-decorator]
        def detect(self, contents: Any) -> list[list[list[float]]]:
            images = (decode(content, self._memory) for content in contents.to_pylist())
            return [self._detector.detect([image])[0].tolist() for image in images]

    network = daft.cls(Network, max_concurrency=processes, use_process=True)()

    def detect(count: int) -> int:
        paths = [str(path) for path in _repeated(frames, count)]
        table = daft.from_pydict({"path": paths}).with_column("content", download(daft.col("path")))
        table = table.select("path", network.detect(daft.col("content")).alias("persons"))
        table.write_parquet(str(output / str(count)))
        return count

    return _additional_rate(detect)


def bare_rate(
    frames: list[Path], settings: DetectorSettings, resolved: ResolvedDetector, processes: int, each: int
) -> float:
    """Measure the frames per second of a bare loop: the same decoder and network, and nothing else.

    The processes start together, and the time ends when the last one ends.
    """
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, context) as pool:
        together = manager.Barrier(processes)
        running = [
            pool.submit(_run_bare, frames, settings, resolved, each, together) for _ in range(processes)
        ]
        times = [future.result() for future in running]
    return processes * each / (max(stop for _, stop in times) - min(start for start, _ in times))


def _run_bare(
    frames: list[Path], settings: DetectorSettings, resolved: ResolvedDetector, count: int, together: Barrier
) -> tuple[float, float]:
    contents = [path.read_bytes() for path in frames]
    memory = np.empty(WIDTH * HEIGHT * 3, np.uint8)
    detector = PersonDetector(settings, resolved)
    detector.detect([decode(contents[0], memory)])
    together.wait()
    started = time.monotonic()  # the clock of the machine, so that processes can be compared
    for index in range(count):
        detector.detect([decode(contents[index % len(contents)], memory)])
    return started, time.monotonic()


def decode(content: bytes, memory: np.ndarray) -> np.ndarray:
    """Decode a frame into memory that is used again, as the job's detectors do."""
    image: np.ndarray = simplejpeg.decode_jpeg(content, colorspace="BGR", buffer=memory)
    return image


def _apart(measure: Callable[..., float], *arguments: object) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def _repeated(frames: Sequence[Path], count: int) -> list[str]:
    return [str(frames[index % len(frames)]) for index in range(count)]


def _additional_rate(detect: Callable[[int], int]) -> float:
    """Return the frames per second of the larger pass's additional frames."""
    seconds = []
    for count in _DAFT_PASSES:
        started = time.perf_counter()
        assert detect(count) == count
        seconds.append(time.perf_counter() - started)
    few, many = _DAFT_PASSES
    return (many - few) / (seconds[1] - seconds[0])
