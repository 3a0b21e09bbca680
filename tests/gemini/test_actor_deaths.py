"""The actor that asks Gemini dies before it has begun, as when its node goes."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError

from actors.gemini.online import OnlineAnnotator
from tests.servers.gemini_server import gemini_server
from tests.support import gemini_job, without_ray


def test_an_actor_that_dies_with_its_node_is_no_wrong_setting(tmp_path, monkeypatch: pytest.MonkeyPatch):
    def dies(*_: object) -> None:
        raise ActorDiedError

    gemini_job.write_backlog(tmp_path, shards=1, persons=2)
    with gemini_server() as server, monkeypatch.context() as patch:
        patch.setattr(OnlineAnnotator, "begin", dies)
        done = without_ray.gemini(tmp_path, server.base_url, expect=3)
        assert "Ray failed while Gemini was asked" in done.stderr
        assert "Traceback" not in done.stderr
        patch.undo()
        without_ray.gemini(tmp_path, server.base_url)
    assert gemini_job.outcomes(tmp_path) == {"ok": 2}
