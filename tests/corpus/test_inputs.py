"""Bad shards, images and sidecars beside good ones, through `shopframe annotate` in one process.

Nothing crashes, hangs or fills the memory, nothing is written outside the output, each bad thing has its
stated outcome, and everything good beside it is done once.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow.dataset as ds
import pytest

from tests.corpus.images import IMAGES
from tests.corpus.kinds import BadShard
from tests.corpus.lying_parquets import LYING_PARQUETS
from tests.corpus.parquets import PARQUETS
from tests.corpus.sidecars import SIDECARS
from tests.corpus.tars import TARS
from tests.corpus.zips import ZIPS
from tests.support import bad_inputs as bad
from tests.support import job
from tests.support.job import Models
from tests.support.without_ray import command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

SHARDS = (*TARS, *ZIPS, *PARQUETS, *LYING_PARQUETS)
MAX_IMAGE_BYTES = 2 * 2**20
MAX_IMAGE_PIXELS = 1_000_000
MOST_MORE_BYTES = 512 * 2**20
"""What the bad input may take more than good input does. Each bomb is larger, or is one of many copies."""
GOOD = 4
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def shard_name(number: int) -> str:
    return f"shard-{number:03d}"


def write_input(source: Path) -> None:
    """Write two good shards, all bad ones, and images and sidecars in a tar and as files."""
    job.write_shards(source, "ab")
    for number, kind in enumerate(SHARDS):
        (source / f"{shard_name(number)}{kind.suffix}").write_bytes(kind.make())
    images = {f"good-{n}.jpg": bad.jpeg(320, 240, n) for n in range(GOOD)}
    images |= {f"{n:03d}.{kind.extension}": kind.make() for n, kind in enumerate(IMAGES)}
    (source / "images.tar").write_bytes(bad.tar(images))
    # Equal frames in a row are detected once.
    beside: dict[str, bytes] = {}
    for number, kind in enumerate(SIDECARS):
        beside |= {f"{number:03d}.jpg": bad.jpeg(320, 240), f"{number:03d}.json": kind.content}
    (source / "sidecars.tar").write_bytes(bad.tar(beside))
    (source / "loose").mkdir()
    for name, content in [*list(beside.items())[:20], *((f"i{n}", c) for n, c in list(images.items())[:30])]:
        (source / "loose" / name).write_bytes(content)


def files_beside(folder: Path) -> dict[str, bytes | None]:
    """Return the content of everything in a folder that isn't an output."""
    found = sorted(path for path in folder.rglob("*") if folder / "out" not in (path, *path.parents))
    return {str(path): path.read_bytes() if path.is_file() else None for path in found}


@pytest.fixture(scope="module")
def done(models: Models, tmp_path_factory) -> SimpleNamespace:
    """The output of one run over all of it, and what the run said, changed and took."""
    folder = tmp_path_factory.mktemp("corpus")
    source, output = folder / "in", folder / "out" / "all"
    (folder / "here").mkdir()
    job.write_shards(folder / "good", "a")
    write_input(source)
    before = files_beside(folder)
    options = [
        *models.options(smolvlm=False),
        *("--set", f"input.max_image_bytes={MAX_IMAGE_BYTES}"),
        *("--set", f"input.max_image_pixels={MAX_IMAGE_PIXELS}"),
        *("--set", "run.max_failed_frames=1"),
        *("--set", "detector.image_size=64"),
        *("--set", "output.person_json=files"),
    ]
    program = [sys.executable, "-m", "tests.corpus.measured_run"]
    ended = subprocess.run(
        [*program, *map(str, (folder / "good", folder / "out" / "good", source, output)), *options],
        cwd=folder / "here",
        env={**os.environ, "PYTHONPATH": str(job.REPO_ROOT)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    command("consolidate", "--output", output)
    return SimpleNamespace(
        **json.loads(ended.stdout.splitlines()[-1]),
        output=output,
        source=source,
        options=options,
        is_untouched=files_beside(folder) == before,
        records=job.records(output),
        frames=job.table(output, "frames").to_pylist(),
    )


def frames_of(done: SimpleNamespace, shard: str) -> dict[str, dict[str, object]]:
    return {frame["frame_key"]: frame for frame in done.frames if frame["shard_id"] == shard}


def test_the_run_ends_and_nothing_waits_for_the_next_one(done):
    assert done.code == 1, done.said
    assert "Traceback" not in done.said
    assert job.progress(done.output)["postponed"] == []
    assert {record["state"] for record in done.records.values()} == {"done", "failed"}
    failed = {shard_name(number) for number, kind in enumerate(SHARDS) if kind.error is not None}
    assert {name for name, record in done.records.items() if record["state"] == "failed"} == failed


def test_memory_stays_within_the_caps(done):
    assert done.more_bytes < MOST_MORE_BYTES


def test_nothing_is_written_or_changed_outside_the_output(done):
    assert done.is_untouched
    named = {entry["path"] for record in done.records.values() for entry in record["objects"]}
    assert all((done.output / path).resolve().is_relative_to(done.output) for path in named)
    names = [path.relative_to(done.output).as_posix() for path in done.output.rglob("*")]
    assert all(re.fullmatch(r"[\w./=-]+", name) for name in names), names


@pytest.mark.parametrize("number", range(len(SHARDS)), ids=[kind.name for kind in SHARDS])
def test_a_bad_shard_has_its_outcome(done, number):
    kind: BadShard = SHARDS[number]
    record = done.records[shard_name(number)]
    rows = [frame for frame in done.frames if frame["shard_id"] == shard_name(number)]
    counts = record["counts"]
    assert counts["frames_ok"] + counts["frames_failed"] == len(rows)
    if kind.error is not None:
        assert kind.error in record["error"]
        assert counts["frames_ok"] == 0
        return
    assert len(rows) == len(kind.frames)
    assert counts["frames_ok"] == kind.frames.count(None)
    errors = sorted(row["error"] for row in rows if row["status"] == "error")
    for reason in {reason for reason in kind.frames if reason is not None}:
        assert sum(reason in error for error in errors) == kind.frames.count(reason), errors


def test_each_image_has_its_outcome_and_the_good_ones_are_done(done):
    frames = frames_of(done, "images")
    assert len(frames) == len(IMAGES) + GOOD
    for number, kind in enumerate(IMAGES):
        error = frames[f"{number:03d}"]["error"]
        assert error is None if kind.reason is None else kind.reason in error, kind.name
    assert [frames[f"good-{n}"]["error"] for n in range(GOOD)] == [None] * GOOD


def test_each_sidecar_has_its_outcome_and_no_frame_fails_by_one(done):
    frames = frames_of(done, "sidecars")
    assert len(frames) == len(SIDECARS)
    for number, kind in enumerate(SIDECARS):
        frame = frames[f"{number:03d}"]
        assert (frame["status"], frame["camera"]) == ("ok", kind.camera), kind.name
        assert frame["note"] is None if kind.note is None else kind.note in frame["note"], kind.name


def test_tables_for_spreadsheets_have_no_formulas_and_parquet_has_the_cameras_as_they_are(done):
    command("analyze", "--output", done.output)
    cells = set()
    for path in (done.output / "analysis").glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            cells |= {row.get("camera") for row in csv.DictReader(file)} - {None}
    formulas = {kind.camera for kind in SIDECARS if kind.camera and kind.camera.startswith(FORMULAS)}
    assert {f"'{formula}" for formula in formulas} <= cells
    assert not [cell for cell in cells if cell.startswith(FORMULAS)]
    cameras = ds.dataset(done.output / "analysis" / "occupancy.parquet").to_table()["camera"].to_pylist()
    assert formulas <= set(cameras)


def test_names_from_the_input_are_text_in_the_report(done):
    command("report", "--output", done.output)
    page = (done.output / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page
    assert "&lt;script&gt;alert(1)" in page


def test_all_adds_up(done):
    counts = Counter()
    for record in done.records.values():
        counts.update({k: v for k, v in record["counts"].items() if isinstance(v, int)})
    progress = job.progress(done.output)
    assert progress["shards"]["total"] == len(SHARDS) + 5 == len(done.records)
    assert progress["frames"]["total"] == len(done.frames) == counts["frames_ok"] + counts["frames_failed"]
    command("verify", "--output", done.output)
