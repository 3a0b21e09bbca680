"""A store that fails or goes away takes nothing, and the same command finishes when it is back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.storage.object_store import ObjectStore
from jobs.run.resolve import resolve
from jobs.settings import load_settings
from tests.servers.seaweedfs import S3Server
from tests.servers.unconditional_proxy import failing_proxy
from tests.support import job
from tests.support.committed import Found, said, write_output
from tests.support.job import Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PERSON = Found((0, 0, 0.5, 1), answers={"smolvlm": said()})
NO_RETRY = ["--set", "run.max_infrastructure_retries=0", "--set", "storage.retries=0"]


class Store:
    """Decides which requests the store answers with 503."""

    def __init__(self) -> None:
        self.failing: str | None = None
        self.lost_after: str | None = None
        self.is_lost = False

    def fails(self, method: str, path: str) -> bool:
        if self.is_lost:
            return True
        if self.lost_after is not None and method == "PUT" and path.endswith(self.lost_after):
            self.is_lost = True  # This request is still answered.
            return False
        return self.failing is not None and method == "PUT" and path.endswith(self.failing)


@pytest.mark.long
def test_a_store_that_fails_or_goes_away_in_a_run_takes_nothing(
    bucket: str, s3: S3Server, models: Models, tmp_path: Path
):
    source, output = tmp_path / "in", f"{bucket}/out"
    job.write_shards(source, "ab")
    options = models.options()
    given = [o for o in options if o != "--set"]
    places = [f"input.uri={source}", f"output.uri={output}"]
    settings = load_settings((), [*given, *places, "output.person_json=files"]).settings
    store = ObjectStore(output)
    prints = resolve(settings).fingerprints
    write_output(store, {"a": {"f": [PERSON]}, "b": {"f": [PERSON]}}, settings, fingerprints=prints)
    before = store.read("commits/b.json")
    state = Store()
    with failing_proxy(s3, state.fails) as url:

        def run(*more: str):
            return job.shopframe(
                "annotate", "--input", source, "--output", output, *options, *more, *NO_RETRY,
                environment={"AWS_ENDPOINT_URL_S3": url}, own_ray=True,
            )  # fmt: skip

        tar = ["--set", "output.person_json=tar"]
        state.failing = "/commits/b.json"
        done = run(*tar)
        assert done.returncode == 1, done.stdout + done.stderr
        progress = json.loads(store.read("progress.json"))
        assert [shard["shard"] for shard in progress["postponed"]] == ["b"]
        assert progress["postponed"][0]["error"].startswith("commit: ")
        assert progress["shards"] == {"total": 2, "done": 2, "failed": 0, "pending": 0}
        assert store.read("commits/b.json") == before
        assert "run the same shopframe annotate command again" in progress["next"]

        state.failing, state.lost_after = None, "/commits/b.json"
        done = run(*tar)
        assert state.is_lost
        assert done.returncode == 1, done.stdout + done.stderr
        assert f"shopframe: {output}: " in done.stderr
        assert "run the same command again when the store can be reached" in done.stderr
        assert "Traceback" not in done.stderr

        state.is_lost, state.lost_after = False, None
        done = run(*tar)
        assert done.returncode == 0, done.stdout + done.stderr
    progress = json.loads(store.read("progress.json"))
    assert (progress["postponed"], progress["shards"]["done"], progress["persons"]["kept"]) == ([], 2, 2)
    assert job.shopframe("verify", "--output", output).returncode == 0
