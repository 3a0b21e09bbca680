"""Persons of cameras that are not permitted are `denied` instead of sent, and are asked about later."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from actors.fingerprint import crop_sha256
from actors.gemini.backlog.listing import read_backlog
from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.settings import GeminiSettings, ResolvedGemini, resolve_gemini
from actors.records import NOT_PERMITTED
from actors.storage.object_store import ObjectStore
from actors.storage.tables import from_parquet, to_parquet
from tests.servers.gemini_server import GeminiServer, gemini_server
from tests.support import gemini_draining, gemini_job, job
from tests.support.committed import Found, write_output
from tests.support.gemini_asking import SCHEMA, jpeg

CAMERAS = {"till-0": "till", "till-1": "till", "door": "door"}
FRAMES = [*CAMERAS, "unnamed"]
TILL = GeminiCameras(deny=("till",))
ALL = GeminiCameras()


@pytest.fixture
def output(tmp_path) -> Path:
    """Two shards with a person each in frames of two cameras and in one that names none."""
    shards = {
        name: {key: [Found((0.1, 0.1, 0.2, 0.3), crop=jpeg(10 * number + n))] for n, key in enumerate(FRAMES)}
        for number, name in enumerate("ab")
    }
    write_output(ObjectStore(str(tmp_path)), shards, cameras=CAMERAS)
    return tmp_path


def resolved() -> ResolvedGemini:
    return resolve_gemini(GeminiSettings(), SCHEMA)


def causes(output: Path, cameras: GeminiCameras) -> Counter[str]:
    found = Counter[str]()
    for shard in read_backlog(ObjectStore(str(output)), resolved(), cameras):
        found.update(shard.causes)
    return found


def drain(output: Path, server: GeminiServer, cameras: GeminiCameras, **settings: object) -> list[int]:
    """Work off the backlog, and return how many persons of each shard got an answer."""
    drained = gemini_draining.drain(output, server, cameras=cameras, **settings)
    assert [shard.error for shard in drained] == [None] * len(drained)
    return [shard.answered for shard in drained]


def by_frame(output: Path) -> dict[str, list[str]]:
    rows = job.table(output, gemini_job.ANSWERS).to_pylist()
    return {key: [row["status"] for row in rows if row["frame_key"] == key] for key in FRAMES}


def images(numbers: Sequence[int]) -> Counter[str]:
    return Counter(crop_sha256(jpeg(n)) for n in numbers)


@pytest.fixture
def server(monkeypatch):
    with gemini_server() as found:
        monkeypatch.setenv("GEMINI_API_KEY", found.key)
        yield found


def test_denied_persons_wait_for_their_camera_and_nothing_else(output, server):
    assert causes(output, TILL) == {"missing": 8}
    assert drain(output, server, TILL) == [1, 1]
    once = {"till-0": ["denied"] * 2, "till-1": ["denied"] * 2, "door": ["ok"] * 2, "unnamed": ["denied"] * 2}
    assert by_frame(output) == once
    assert gemini_job.answered(server.journal) == images([2, 12])
    before = job.bytes_of(output, "commits")
    assert drain(output, server, TILL) == []
    assert job.bytes_of(output, "commits") == before
    # Frames without a camera are still denied while any list is set.
    assert causes(output, GeminiCameras(deny=("yard",))) == {"camera": 4}
    assert causes(output, ALL) == {"camera": 6}
    assert drain(output, server, ALL) == [3, 3]
    assert by_frame(output) == {key: ["ok", "ok"] for key in FRAMES}
    assert gemini_job.answered(server.journal) == images([*range(4), *range(10, 14)])


@pytest.mark.parametrize("policy", ["oldest", "random"])
def test_a_budget_is_not_spent_on_persons_that_may_not_be_sent(output, server, policy):
    assert sum(drain(output, server, TILL, policy=policy, max_persons=1)) == 1
    assert sum(gemini_job.answered(server.journal).values()) == 1
    drain(output, server, TILL, policy=policy, max_persons=5)
    assert by_frame(output)["door"] == ["ok", "ok"]
    assert causes(output, TILL) == {}
    assert gemini_job.outcomes(output) == {"ok": 2, "denied": 6}


def make_old(output: Path) -> None:
    """Change an output to what version 0.2 wrote: the outcome `blocked`, with a reason that tells them apart.

    The person in one frame of each shard is really blocked.
    """
    for path in (output / "commits").glob("[!_]*.json"):
        record = json.loads(path.read_bytes())
        assert record.pop("denied") == {"gemini": {"": 1, "till": 2}}
        record["annotators"]["gemini"] = {"blocked": 4}
        (model,) = record["models"]["gemini"]
        record["models"]["gemini"] = {model: {"blocked": 4}}
        for entry in record["objects"]:
            if entry["kind"] == gemini_job.ANSWERS:
                table = from_parquet((output / entry["path"]).read_bytes())
                rows = [
                    row | {"status": "blocked", "reason": row["reason"] or "SAFETY"}
                    for row in table.to_pylist()
                ]
                old = pa.Table.from_pylist(rows, table.schema)
                (output / entry["path"]).write_bytes(to_parquet(old))
        path.write_text(json.dumps(record))
    for folder in ("answers", "gemini"):
        for path in (output / folder).rglob("*"):
            if path.is_file():
                path.unlink()


def test_persons_that_an_earlier_version_called_blocked_are_told_apart_by_their_reason(output, server):
    drain(output, server, TILL)
    make_old(output)
    assert gemini_job.outcomes(output) == {"blocked": 8}
    assert causes(output, TILL) == {}
    assert causes(output, ALL) == {"camera": 6}
    assert causes(output, GeminiCameras(allow=("till",))) == {"camera": 4}
    sent_before = len(server.journal)
    assert drain(output, server, GeminiCameras(allow=("till",))) == [2, 2]
    expected = {
        "till-0": ["ok"] * 2,
        "till-1": ["ok"] * 2,
        "door": ["blocked"] * 2,
        "unnamed": ["denied"] * 2,
    }
    assert by_frame(output) == expected
    reasons = Counter(job.table(output, gemini_job.ANSWERS)["reason"].to_pylist())
    assert reasons == {None: 4, "SAFETY": 2, NOT_PERMITTED: 2}
    assert gemini_job.answered(server.journal[sent_before:]) == images([0, 1, 10, 11])
