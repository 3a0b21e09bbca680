"""If Ray itself fails, the run says what is done, and that what is committed is intact."""

from __future__ import annotations

from io import StringIO

import pytest
import ray

from actors.errors import StalledError
from actors.records import Shard
from actors.shard_block import ShardTask
from actors.storage.object_store import ObjectStore
from jobs.run import work_on_ray
from jobs.run.plan import Plan
from jobs.run.prepare import PreparedRun
from jobs.run.run_log import RunLog
from jobs.run.totals import Totals
from jobs.settings import Settings

TASK = ShardTask(Shard("a", "in/a.tar", "webdataset", "etag", 10), "detect")


@pytest.mark.parametrize(
    ("tasks", "said"),
    [([TASK, TASK], "Ray failed after 1 of 2 shards: "), ([], "Ray failed while Gemini was asked: ")],
)
def test_an_error_of_ray_says_how_far_the_run_was(tasks, said, tmp_path, monkeypatch):
    def fail(*_):
        raise ray.exceptions.RaySystemError("the raylet is gone")

    monkeypatch.setattr(work_on_ray, "_run_tasks", fail)
    totals = Totals()
    totals.shards["done"] = 1
    prepared = PreparedRun(Plan(tasks), None, None, None, 0, None)
    with pytest.raises(StalledError) as failed:
        work_on_ray.work_on_ray(
            Settings(),
            None,
            prepared,
            ObjectStore(str(tmp_path)),
            RunLog(StringIO(), "out/log", "run"),
            totals,
        )
    message = str(failed.value)
    assert message.startswith(said)
    assert "the raylet is gone" in message
    assert "committed shards are intact and details are in out/log" in message
