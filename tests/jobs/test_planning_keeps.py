"""Planning with another input or other settings never takes away what is committed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from actors.storage.object_store import ObjectStore
from jobs.run.superseded import remove_superseded
from tests.support import bad_inputs as bad
from tests.support import committed, job, without_ray
from tests.support.job import Models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def done(models: Models, tmp_path_factory):
    """The output of a run over two folders with two shards each, without an annotator."""
    folder = tmp_path_factory.mktemp("planning")
    source, output = folder / "in", folder / "out"
    job.write_shards(source / "monday", "ab")
    job.write_shards(source / "tuesday", "ab", first_seed=50)
    options = models.options(smolvlm=False)
    without_ray.annotate(source, output, *options)
    return SimpleNamespace(source=source, output=output, options=options)


def test_a_run_over_one_folder_of_the_input_finds_its_shards_done(done):
    before = job.bytes_of(done.output, ".")
    without_ray.annotate(done.source / "tuesday", done.output, *done.options)
    run = job.progress(done.output)["run"]
    assert (run["shards_done"], run["shards_skipped"], run["shards_replaced"]) == (0, 2, 0)
    after = job.bytes_of(done.output, ".")
    for folder in ("commits", "frames", "persons", "json"):
        kept, found = ({p: c for p, c in files.items() if p.startswith(folder)} for files in (before, after))
        assert kept == found, folder


def test_a_retry_with_other_sizes_of_shards_is_refused_and_deletes_nothing(done):
    before = job.bytes_of(done.output, "commits")
    refused = without_ray.annotate(
        done.source, done.output, *done.options, "--set", "input.max_shard_bytes=100000", "--retry-failed",
        expect=2,
    )  # fmt: skip
    assert "change the shards (settings that differ: input.max_shard_bytes" in refused.stderr
    assert job.bytes_of(done.output, "commits") == before


def test_a_shard_is_removed_with_all_it_had_when_its_parts_are_committed(done):
    rows = [row["frame_key"] for row in job.table(done.output, "frames").to_pylist()]
    size = (done.source / "monday/a.tar").stat().st_size
    smaller = ["--set", f"input.max_shard_bytes={size * 2 // 3}"]
    said = without_ray.annotate(done.source, done.output, *done.options, *smaller)
    run = job.progress(done.output)["run"]
    assert run["shards_replaced"] == 4
    assert "removed 4 shards whose input is now in other shards" in said.stdout
    found = job.records(done.output)
    assert len(found) == run["shards_done"] == 8
    assert sorted(rows) == sorted(r["frame_key"] for r in job.table(done.output, "frames").to_pylist())
    assert not job.debris(done.output)
    assert {path.split("/")[1] for path in job.bytes_of(done.output, "json")} <= set(found)


def test_a_part_of_a_folder_of_images_neither_replaces_its_groups_nor_doubles_them(models: Models, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(12):
        (source / f"day-{number % 3}-{number:02d}.jpg").write_bytes(bad.jpeg(320, 240, number))
    options = [*models.options(smolvlm=False), "--set", "input.frames_per_shard=4"]
    without_ray.annotate(source, output, *options)
    before = job.bytes_of(output, "commits")
    refused = without_ray.annotate(source / "day-1-*.jpg", output, *options, expect=2)
    assert "pass the folder as --input" in refused.stderr
    assert job.bytes_of(output, "commits") == before
    other = tmp_path / "other"
    without_ray.annotate(source / "day-1-*.jpg", other, *options)
    without_ray.annotate(source / "day-2-*.jpg", other, *options)
    keys = [row["frame_key"] for row in job.table(other, "frames").to_pylist()]
    assert sorted(keys) == sorted(p.stem for day in (1, 2) for p in source.glob(f"day-{day}-*"))


def test_a_shard_stays_until_all_its_parts_are_committed(tmp_path):
    store = ObjectStore(str(tmp_path / "out"))
    person = committed.Found((0, 0, 0.5, 0.5), answers={"smolvlm": committed.said()})
    committed.write_output(store, {name: {"f": [person]} for name in ("a", "a.part-0")})
    before = job.bytes_of(tmp_path / "out", ".")
    assert remove_superseded(store, {"a": ("a.part-0", "a.part-1")}) == 0
    assert job.bytes_of(tmp_path / "out", ".") == before
    assert remove_superseded(store, {"a": ("a.part-0",)}) == 1
    left = {path for path in job.bytes_of(tmp_path / "out", ".") if path != "run.json"}
    assert left
    assert all("a.part-0" in path for path in left)
