"""Persons of frames that are older than `output.retain_days` are never sent, whatever waits for an answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from actors.commit.settings import OutputSettings
from actors.fingerprint import crop_sha256
from actors.gemini.online import OnlineAnnotator
from actors.gemini.protocol import DrainTask
from actors.storage.object_store import ObjectStore
from tests.servers.gemini_server import gemini_server
from tests.support import gemini_draining, gemini_job, job
from tests.support.committed import Found, write_output
from tests.support.gemini_asking import SCHEMA, jpeg

AGES = {"a-year-old": 365, "of-today": 0, "without-a-time": None}


@pytest.fixture
def output(tmp_path) -> Path:
    """A shard with a person in a frame of a year ago, in one of today, and in one that names no time."""
    frames = {key: [Found((0.1, 0.1, 0.2, 0.3), crop=jpeg(n))] for n, key in enumerate(AGES)}
    now = datetime.now(UTC)
    times = {key: now - timedelta(days=days) for key, days in AGES.items() if days is not None}
    write_output(ObjectStore(str(tmp_path)), {"a": frames}, times=times)
    return tmp_path


def drain(output: Path, server, retain_days: float | None) -> None:
    drainer, given = gemini_draining.drainer_of(output, server)
    settings = OutputSettings(keep_crops="always", retain_days=retain_days)
    drainer = replace(drainer, committer=replace(drainer.committer, settings=settings))
    annotator = OnlineAnnotator(given, drainer.resolved, SCHEMA, drainer.committer.store)

    async def ask_all() -> None:
        drained = await drainer.drain(DrainTask("a"), annotator.ask)
        await annotator.finish()
        assert drained.error is None
        assert drained.waiting == 0

    asyncio.run(ask_all())


def test_nobody_is_sent_who_is_older_than_the_retention(output, monkeypatch):
    with gemini_server() as server:
        monkeypatch.setenv("GEMINI_API_KEY", server.key)
        drain(output, server, retain_days=30)
        assert gemini_job.answered(server.journal) == Counter(crop_sha256(jpeg(n)) for n in (1, 2))
        rows = job.table(output, gemini_job.ANSWERS).to_pylist()
        found = {row["frame_key"]: row["status"] for row in rows}
        assert found == {"a-year-old": "pending", "of-today": "ok", "without-a-time": "ok"}
        # Once it is kept for longer, the person is asked about.
        drain(output, server, retain_days=None)
    assert gemini_job.answered(server.journal).total() == 3
    assert gemini_job.outcomes(output) == {"ok": 3}
