"""A credential stays where it was given: in the environment.

A run with a credential in each variable that Shopframe or its libraries read writes none of them: not to the
output, not to the terminal or the metrics, and not to the files of Ray's session, where its workers log and
where the settings of the job are kept.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.storage.object_store import ObjectStore
from tests.servers.gemini_server import KEY, gemini_server
from tests.servers.seaweedfs import S3Server
from tests.support import gemini_job, job
from tests.support.job import Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PLANTED = {
    name: f"canary-{name.lower()}"
    for name in (
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "GOOGLE_API_KEY",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "AZURE_STORAGE_ACCOUNT_KEY",
        "AZURE_STORAGE_CONNECTION_STRING",
        "RAY_AUTH_TOKEN",
        "OPENAI_API_KEY",
        "SMOLVLM_API_KEY",
    )
}
"""Values that nothing accepts. Those of the store and of Gemini have to be real."""


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder for the files of Ray. Its path is short, because it is part of the names of sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_no_credential_is_written_anywhere(
    bucket: str, s3: S3Server, models: Models, ray_folder: Path, tmp_path: Path
):
    job.write_shards(tmp_path / "in", "a")
    (tmp_path / "in" / "b.tar").write_bytes(b"no tar")
    output, textfile = f"{bucket}/out", tmp_path / "shopframe.prom"
    secrets = {**PLANTED, "GEMINI_API_KEY": KEY, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
    with gemini_server() as server:
        # In a new interpreter, Ray has all of its processes, whose logs are looked at, too.
        process = job.start_command(
            [
                *(sys.executable, "-m", "jobs.cli"),
                *("annotate", "--input", tmp_path / "in", "--output", output),
                *models.options(smolvlm=False),
                *gemini_job.options(server.base_url),
                *("--set", f"metrics.textfile={textfile}"),
            ],
            environment={**secrets, "RAY_TMPDIR": str(ray_folder)},
            own_ray=True,
        )
        done = job.finish(process)
        asked = len(server.journal)
    # One shard is no tar, so that the texts of errors are looked at as well.
    assert done.returncode == 1, done.stdout + done.stderr
    assert asked > 0
    store = ObjectStore(output)
    written = {store.uri_of(found.path): store.read(found.path) for found in store.list()}
    assert len(written) > 10
    of_ray = {
        str(path): path.read_bytes()
        for path in ray_folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }
    logs = {Path(path).name for path in of_ray if "/logs/" in path}
    assert {"dashboard.log", "dashboard_agent.log", "log_monitor.log", "raylet.out"} <= logs
    said = {"terminal": (done.stdout + done.stderr).encode(), "metrics": textfile.read_bytes()}
    everything = {**written, **of_ray, **said}
    found = {
        (name, path)
        for name, secret in secrets.items()
        for path, content in everything.items()
        if secret.encode() in content
    }
    assert found == set()
