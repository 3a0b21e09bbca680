"""Bad shards and bad frames fail alone, each with its reason, and the good ones beside them are done."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.support import bad_inputs as bad
from tests.support import job, without_ray
from tests.support.job import Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SHARDS_THAT_FAIL = ("empty object", "tar of other things", "cut in a member")


@pytest.fixture(scope="module")
def troubled(models: Models, tmp_path_factory):
    """The output of one run over good and bad shards, one of which has good and bad frames."""
    folder = tmp_path_factory.mktemp("troubled")
    source, output = folder / "in", folder / "out"
    job.write_shards(source, "ab")
    images = {f"{number:02d}.jpg": make() for number, (make, _) in enumerate(bad.BAD_IMAGES.values())}
    mixed = {**images, **{f"good-{i}.jpg": bad.jpeg(320, 240, i) for i in range(6)}}
    (source / "bad-images.tar").write_bytes(bad.tar(mixed))
    for name in SHARDS_THAT_FAIL:
        (source / f"{name.replace(' ', '-')}.tar").write_bytes(bad.BAD_TARS[name][0]())
    options = models.options(smolvlm=False)
    job.annotate(source, output, *options, expect=1)
    return SimpleNamespace(source=source, output=output, options=options)


def test_bad_shards_fail_with_their_reasons_and_good_ones_are_done(troubled):
    found = job.records(troubled.output)
    assert {name for name, r in found.items() if r["state"] == "done"} == {"a", "b", "bad-images"}
    for name in SHARDS_THAT_FAIL:
        record = found[name.replace(" ", "-")]
        assert bad.BAD_TARS[name][1] in record["error"], name
        assert record["counts"]["frames_ok"] == 0
    run = job.progress(troubled.output)
    assert (run["run"]["shards_done"], run["run"]["shards_failed"]) == (3, len(SHARDS_THAT_FAIL))
    assert run["shards"]["failed"] == len(SHARDS_THAT_FAIL)
    assert "--retry-failed" in run["next"]


def test_bad_frames_have_a_row_with_their_reason_each(troubled):
    rows = job.table(troubled.output, "frames").to_pylist()
    errors = {r["frame_key"]: r["error"] for r in rows if r["shard_id"] == "bad-images"}
    assert len(errors) == len(bad.BAD_IMAGES) + 6
    for number, (name, (_, reason)) in enumerate(bad.BAD_IMAGES.items()):
        assert reason in errors[f"{number:02d}"], name
    assert [errors[f"good-{i}"] for i in range(6)] == [None] * 6


def test_retry_failed_runs_failed_shards_and_no_new_ones(troubled):
    before = job.bytes_of(troubled.output, "commits")
    job.write_shard(troubled.source / "empty-object.tar", seed=70)
    job.write_shard(troubled.source / "new.tar", seed=80)
    without_ray.annotate(troubled.source, troubled.output, *troubled.options, "--retry-failed", expect=1)
    found = job.records(troubled.output)
    assert "new" not in found
    assert (found["empty-object"]["state"], found["empty-object"]["attempt"]) == ("done", 2)
    after = job.bytes_of(troubled.output, "commits")
    assert all(after[f"commits/{name}.json"] == before[f"commits/{name}.json"] for name in ("a", "b"))
    run = job.progress(troubled.output)
    assert run["run"]["shards_failed"] == len(SHARDS_THAT_FAIL) - 1
    assert run["shards"]["pending"] == 1
