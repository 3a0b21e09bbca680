"""A server that runs the model and isn't there postpones shards; once it is back, a rerun does them."""

from __future__ import annotations

import pytest

from tests.servers.chat_server import MODEL, chat_server
from tests.support import job, without_ray
from tests.support.job import Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_shards_wait_for_a_server_and_no_person_is_asked_about_twice(models: Models, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    job.write_shards(source, "ab")
    with chat_server(is_down=True) as server:
        given = [f"model={MODEL}", "engine=server", f"server.base_url={server.base_url}"]
        given += ["server.retries=0", "server.outage_s=0"]
        options = [*models.options(), *(part for one in given for part in ("--set", f"smolvlm.{one}"))]
        options += ["--set", "run.max_infrastructure_retries=0"]
        done = job.annotate(source, output, *options, expect=1)
        assert job.progress(output)["run"]["shards_postponed"] == 2
        assert f"{server.base_url} can't be reached" in done.stdout + done.stderr
        assert job.records(output) == {}
        server.is_down = False
        without_ray.annotate(source, output, *options)
        rows = job.table(output, "annotations/smolvlm").to_pylist()
        crops = job.table(output, "persons").to_pylist()
        without_ray.annotate(source, output, *options)
    asked = {row["crop_sha256"] for row in crops if row["kept"]}
    assert rows
    assert {(row["status"], row["model"], row["model_version"]) for row in rows} == {("ok", MODEL, "")}
    assert {server.answered[sha256] for sha256 in asked} == {1}
    # Beside the persons, only the grey picture was asked about, by each worker that started.
    assert len(server.answered) == len(asked) + 1
