"""A run that cuts shards by the size of their crops gives the rows of one that doesn't."""

from __future__ import annotations

import gzip
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support import bad_inputs as bad
from tests.support import job, without_ray
from tests.support.job import Models

pytestmark = pytest.mark.timeout(900)


def write_input(folder: Path) -> None:
    """Write a shard in each format of files, none of which is divided before it is read."""
    folder.mkdir(parents=True)
    images = [bad.jpeg(320, 240, seed) for seed in range(17)]
    files = {f"frame-{index:03d}.jpg": image for index, image in enumerate(images)}
    named = list(files.items())
    (folder / "compressed.tar.gz").write_bytes(gzip.compress(bad.tar(named[:6])))
    (folder / "plain.tar").write_bytes(bad.tar(named[6:9]))
    (folder / "zipped.zip").write_bytes(bad.zipped(named[9:12]))
    columns = {"image": images[12:], "camera": ["a", "b", "a", "b", "a"]}
    (folder / "rows.parquet").write_bytes(bad.parquet(columns, row_group_size=100))


def rows(output: Path, kind: str) -> list[dict[str, object]]:
    """Return the rows of a kind without the parts that their shards were cut into."""
    found = job.table(output, kind).to_pylist()
    named = [row | {"shard_id": row["shard_id"].partition(".from-")[0]} for row in found]
    return sorted(named, key=lambda row: (row["shard_id"], row["frame_key"], row.get("person_index", 0)))


def limit_of(output: Path) -> int:
    """Return a size that the crops of no two frames exceed, but those of most sets of three do."""
    sizes: Counter[str] = Counter()
    for row in rows(output, "persons"):
        sizes[f"{row['shard_id']} {row['frame_key']}"] += 256 + len(row["crop"] or b"")
    return 2 * (max(sizes.values()) + 256)


@pytest.mark.long
@pytest.mark.ray
def test_a_run_that_cuts_shards_and_is_killed_gives_the_rows_of_one_that_does_not(models: Models, tmp_path):
    source, whole, cut = tmp_path / "in", tmp_path / "whole", tmp_path / "cut"
    write_input(source)
    options = models.options(smolvlm=False)
    without_ray.annotate(source, whole, *options)
    assert set(job.records(whole)) == {"compressed", "plain", "zipped", "rows"}
    limit = ["--set", f"crops.max_block_bytes={limit_of(whole)}"]

    process = job.start("annotate", "--input", source, "--output", cut, *options, *limit)
    job.wait_for((cut / "commits/compressed.json").exists, process)
    os.kill(process.pid, signal.SIGKILL)
    job.finish(process)
    before = job.attempts(cut)
    job.annotate(source, cut, *options, *limit)

    records = job.records(cut)
    assert before.items() <= job.attempts(cut).items()
    assert {record["attempt"] for record in records.values()} == {1}
    assert len([name for name in records if name.startswith("compressed")]) in (3, 4)
    assert len(records) > 7
    for kind in ("frames", "persons"):
        assert rows(cut, kind) == rows(whole, kind)
    run = job.progress(cut)
    assert run["shards"] == {"total": len(records), "done": len(records), "failed": 0, "pending": 0}
    assert run["frames"]["total"] == 17
    assert run["run"]["shards_done"] + run["run"]["shards_skipped"] == len(records)
    ours, theirs = (
        [{**row, "shard_id": row["shard_id"].partition(".from-")[0]} for row in job.consolidated(output)]
        for output in (cut, whole)
    )
    keys = ("shard_id", "frame_key", "person_index")
    assert sorted(ours, key=lambda r: [r[k] for k in keys]) == sorted(
        theirs, key=lambda r: [r[k] for k in keys]
    )
    assert job.shopframe("verify", "--output", cut).returncode == 0

    # With the default limit nothing is done again, and a new rule detects the same parts again.
    without_ray.annotate(source, cut, *options)
    assert job.progress(cut)["run"]["shards_skipped"] == len(records)
    without_ray.annotate(source, cut, *options, "--set", "roi.min_height_px=40")
    again = job.records(cut)
    assert {name: record["attempt"] for name, record in again.items()} == dict.fromkeys(records, 2)
    assert [row["frame_key"] for row in rows(cut, "frames")] == [
        row["frame_key"] for row in rows(whole, "frames")
    ]


@pytest.mark.slow
def test_a_truncation_leaves_the_parts_before_it_committed(models: Models, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    content = bad.tar({f"frame-{i:03d}.jpg": bad.jpeg(320, 240, i) for i in range(4)})
    cut = content[: bad.tar_member_offsets(content)[2] + 700]
    (source / "day.tar.gz").write_bytes(gzip.compress(cut))
    options = [*models.options(smolvlm=False), "--set", "crops.max_block_bytes=1"]
    without_ray.annotate(source, output, *options, expect=1)
    states = {name: record["state"] for name, record in job.records(output).items()}
    assert states == {"day": "done", "day.from-00000001": "failed"}
    status = job.progress(output)
    assert status["shards"] == {"total": 2, "done": 1, "failed": 1, "pending": 0}
    assert (status["frames"]["total"], status["frames"]["ok"]) == (2, 1)
    assert "truncated" in status["failures"][0]["error"]

    (source / "day.tar.gz").write_bytes(gzip.compress(content))
    without_ray.annotate(source, output, *options)
    assert set(job.records(output)) == {
        "day", "day.from-00000001", "day.from-00000002", "day.from-00000003",
    }  # fmt: skip
    assert job.progress(output)["frames"] == {"total": 4, "ok": 4, "failed": 0}
