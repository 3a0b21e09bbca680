"""A batch job returns the same answers as online calls, is never created twice, and loses no person."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from actors.errors import GeminiRateLimitedError, GeminiRefusedError, GeminiUnavailableError
from actors.gemini.api.batch_jobs import (
    BatchJob,
    cancel,
    display_name,
    download,
    find_job,
    group_requests,
    look_at,
    read_results,
    request_line,
    submit,
)
from actors.gemini.api.client import GeminiClient
from actors.gemini.api.packing import PackedRequest, pack
from actors.gemini.batch_settings import GeminiBatch
from actors.gemini.settings import resolve_gemini
from tests.servers.gemini_clock import ServerClock
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import GeminiServer, gemini_server
from tests.support.gemini_asking import SCHEMA, asking, crops, settings_for


def requests_of(count: int, per_request: int = 4) -> list[PackedRequest]:
    return list(pack(crops(count), per_request, seed=0))


async def submitted(opened: GeminiClient, folder: Path, requests: list[PackedRequest], attempt: int = 0):
    lines = folder / "lines.jsonl"
    made = [request_line(r, opened.settings, opened.resolved, SCHEMA) for r in requests]
    lines.write_bytes(b"".join(made))
    return await submit(opened, lines, display_name(opened.resolved, requests, attempt))


async def finished(opened: GeminiClient, job: BatchJob) -> BatchJob:
    looked = await look_at(opened, job)
    assert looked is not None
    return looked


async def collected(opened: GeminiClient, job: BatchJob, folder: Path, requests: list[PackedRequest]):
    """Return each request's answer by the request's key, after checking that there is exactly one."""
    target = folder / "answers.jsonl"
    assert await download(opened, job, target)
    with target.open("rb") as lines:
        found = list(read_results(lines, requests, SCHEMA, opened.scrub))
    assert len(found) == len(requests)
    return {request.key: answer for request, answer in found}


def run_job(server: GeminiServer, folder: Path, requests: list[PackedRequest], **changes):
    async def run(opened: GeminiClient):
        job = await finished(opened, await submitted(opened, folder, requests))
        assert job.state == "succeeded"
        return await collected(opened, job, folder, requests)

    return asking(server.base_url, server.key, run, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reasoning": True, "media_resolution": "low", "thinking_budget": None, "temperature": None},
        {"thinking_budget": -1, "media_resolution": "high"},
    ],
)
def test_a_job_brings_the_answers_of_online_calls(tmp_path, changes):
    requests = requests_of(10)

    async def online(opened: GeminiClient):
        return {request.key: await opened.ask(request) for request in requests}

    with gemini_server() as server:
        asked = asking(server.base_url, server.key, online, **changes)
        of_job = run_job(server, tmp_path, requests, **changes)
        seen = {where: [s for s in server.journal if s.where == where] for where in ("online", "batch")}
    assert {k: a.annotations for k, a in of_job.items()} == {k: a.annotations for k, a in asked.items()}
    assert {k: a.usage for k, a in of_job.items()} == {k: a.usage for k, a in asked.items()}
    # The server understood both as the same requests.
    assert [(s.ids, s.images, s.tokens) for s in seen["online"]] == [
        (s.ids, s.images, s.tokens) for s in seen["batch"]
    ]
    # Batch jobs have their own limits and don't count against this quota.
    assert not any(s.counted for s in seen["batch"])


def test_what_is_sent_is_the_same_body_online_and_in_a_file(tmp_path):
    """Compare with the body that the SDK sends, because the SDK converts online requests itself."""
    bodies = []
    (request,) = requests_of(2)

    async def record(opened: GeminiClient):
        with pytest.raises(GeminiUnavailableError):
            await opened.ask(request)

    async def serve():
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(h.split(b":")[1]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-l")
            )
            bodies.append(json.loads(await reader.readexactly(length)))
            writer.close()

        listener = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        from tests.support.gemini_asking import client

        async with listener, client(f"http://127.0.0.1:{port}", "any", thinking_budget=64) as opened:
            await record(opened)
            return json.loads(request_line(request, opened.settings, opened.resolved, SCHEMA))

    line = asyncio.run(serve())
    assert line["key"] == request.key
    assert [camel_keys(body) for body in bodies] == [camel_keys(line["request"])]


def camel_keys(node):
    """Give both spellings of a key the same form, because Google accepts both.

    Lower case is enough for comparing them, because no key of our schemas has a capital letter.
    """
    if isinstance(node, dict):
        return {key.replace("_", "").lower(): camel_keys(value) for key, value in node.items()}
    return [camel_keys(item) for item in node] if isinstance(node, list) else node


def test_a_job_that_was_submitted_is_found_and_not_made_again(tmp_path):
    requests = requests_of(6)

    async def twice(opened: GeminiClient):
        first = await submitted(opened, tmp_path, requests)
        return first, await submitted(opened, tmp_path, requests)

    with gemini_server(batch_delay_s=3600) as server:
        first, second = asking(server.base_url, server.key, twice)
        third = asking(server.base_url, server.key, lambda c: submitted(c, tmp_path, requests))
        assert first.name == second.name == third.name
        assert len(server.batches.jobs) == 1
        assert first.display_name == server.batches.jobs[0].display_name
        assert not third.done


def test_a_job_whose_making_was_never_confirmed_is_found(tmp_path):
    requests = requests_of(6)

    async def dropped_then_again(opened: GeminiClient):
        with pytest.raises(GeminiUnavailableError):
            await submitted(opened, tmp_path, requests)
        return await submitted(opened, tmp_path, requests)

    with gemini_server(faults=[Fault("drop", where="batches")]) as server:
        job = asking(server.base_url, server.key, dropped_then_again)
        assert [made.name for made in server.batches.jobs] == [job.name]


def test_a_job_is_found_among_very_many(tmp_path):
    async def many(opened: GeminiClient):
        first = await submitted(opened, tmp_path, requests_of(2), attempt=0)
        for attempt in range(1, 120):
            await submitted(opened, tmp_path, requests_of(1), attempt)
        name = display_name(opened.resolved, requests_of(2), 0)
        return first, await find_job(opened, name), await find_job(opened, "shopframe-none")

    with gemini_server(batch_delay_s=3600) as server:
        first, found, nothing = asking(server.base_url, server.key, many)
    assert found == first
    assert nothing is None


@pytest.mark.parametrize(
    ("fault", "state"), [("job_failed", "failed"), ("job_expired", "expired"), (None, "cancelled")]
)
def test_a_job_that_came_to_nothing_is_made_anew(tmp_path, fault, state):
    requests = requests_of(3)

    async def run(opened: GeminiClient):
        job = await submitted(opened, tmp_path, requests)
        if fault is None:
            await cancel(opened, job)
        ended = await finished(opened, job)
        return ended, await submitted(opened, tmp_path, requests)

    faults = [Fault(fault)] if fault else []
    with gemini_server(faults=faults, batch_delay_s=0 if fault else 3600) as server:
        ended, again = asking(server.base_url, server.key, run)
    assert (ended.state, ended.done, ended.responses_file) == (state, True, None)
    assert again.name != ended.name
    with pytest.raises(ValueError, match="no file of answers"):
        asking(server.base_url, server.key, lambda c: download(c, ended, tmp_path / "none"))


def test_a_job_takes_its_time(tmp_path):
    clock = ServerClock(start=0, speed=0)

    async def run(opened: GeminiClient):
        job = await submitted(opened, tmp_path, requests_of(1))
        states = []
        for _ in range(3):
            states.append((await finished(opened, job)).state)
            clock.advance(1800)
        return job, states

    with gemini_server(clock=clock, batch_delay_s=3600) as server:
        job, states = asking(server.base_url, server.key, run)
    assert states == ["pending", "pending", "succeeded"]
    assert job.created_at is not None
    assert job.created_at.timestamp() == 0


def test_a_stuck_job_stays_running_until_it_is_cancelled(tmp_path):
    async def run(opened: GeminiClient):
        job = await submitted(opened, tmp_path, requests_of(1))
        stuck = await finished(opened, job)
        stuck = await finished(opened, stuck)
        await cancel(opened, stuck)
        return stuck, await finished(opened, stuck)

    with gemini_server(faults=[Fault("job_stuck")]) as server:
        stuck, ended = asking(server.base_url, server.key, run)
    assert (stuck.state, ended.state) == ("running", "cancelled")


def test_a_job_that_is_gone_is_told_from_a_refusal(tmp_path):
    gone = BatchJob("batches/gone", "", "running", None, None)
    with gemini_server() as server:
        assert asking(server.base_url, server.key, lambda c: look_at(c, gone)) is None
        ended = BatchJob("batches/gone", "", "succeeded", "files/gone", None)
        assert not asking(server.base_url, server.key, lambda c: download(c, ended, tmp_path / "none"))
        with pytest.raises(GeminiRefusedError, match="GEMINI_API_KEY"):
            asking(server.base_url, "wrong", lambda c: look_at(c, gone))


def test_lines_that_are_missing_or_failed_make_their_crops_pending_and_no_others(tmp_path):
    requests = requests_of(16)
    faults = [Fault("line_error"), Fault("line_missing"), Fault("unavailable"), Fault("safety")]
    with gemini_server(faults=faults) as server:
        found = run_job(server, tmp_path, requests)
    statuses = [sorted({a.status for a in found[r.key].annotations.values()}) for r in requests[:3]]
    assert statuses == [["pending"]] * 3
    for request in requests[:3]:
        assert list(found[request.key].annotations) == [crop.key for crop in request.crops]
        assert all(a.reason for a in found[request.key].annotations.values())
    assert found[requests[3].key].split_reason == "blocked: the answer was blocked: SAFETY"
    with gemini_server() as server:
        good = run_job(server, tmp_path, requests)
    assert all(a.status == "ok" for r in requests for a in good[r.key].annotations.values())


def test_a_line_that_would_fail_again_is_split_or_an_error(tmp_path):
    several, alone = requests_of(4)[0], requests_of(1)[0]
    with gemini_server(faults=[Fault("bad_image", times=2)]) as server:
        found = run_job(server, tmp_path, [several, alone])
    assert found[several.key].split_reason
    assert [a.status for a in found[alone.key].annotations.values()] == ["error"]


def test_answers_under_each_others_keys_are_noticed(tmp_path):
    """Jobs have mixed up keys before (github.com/googleapis/python-genai/issues/1909); the ids reveal it."""
    several, alone = requests_of(8), requests_of(3, per_request=1)
    requests = [*several, *alone[:2]]

    async def run(opened: GeminiClient):
        job = await finished(opened, await submitted(opened, tmp_path, requests))
        assert await download(opened, job, tmp_path / "answers.jsonl")

    with gemini_server() as server:
        asking(server.base_url, server.key, run)
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_bytes().splitlines()]
    swapped = {several[0].key: several[1].key, alone[0].key: alone[1].key}
    swapped |= {theirs: ours for ours, theirs in swapped.items()}
    moved = [json.dumps({**line, "key": swapped[line["key"]]}).encode() for line in lines]
    found = dict(read_results(moved, requests, SCHEMA, str))
    assert all("echo" in str(found[request].split_reason) for request in several)
    for request in alone[:2]:
        assert [a.status for a in found[request].annotations.values()] == ["invalid"]


def test_lines_that_cannot_be_read_lose_nobody():
    requests = requests_of(8)
    secret = "AIza-secret"
    lines = [
        b"not json\n",
        b"[]\n",
        b'{"key": ["x"]}\n',
        b'{"key": "of somebody else", "response": {}}\n',
        b"\xff\xfe\n",
        json.dumps({"key": requests[0].key, "error": {"code": 13, "message": f"bad {secret}"}}).encode(),
        json.dumps({"key": requests[0].key, "response": {}}).encode(),
    ]
    found = list(read_results(lines, requests, SCHEMA, lambda text: text.replace(secret, "***")))
    assert [request.key for request, _ in found] == [request.key for request in requests]
    statuses = {a.status for _, answer in found for a in answer.annotations.values()}
    assert statuses == {"pending"}
    assert sum(len(answer.annotations) for _, answer in found) == 8
    assert secret not in str(found)


def test_a_job_above_the_enqueued_tokens_waits(tmp_path):
    with gemini_server(batch_delay_s=3600) as server:
        server.batches.enqueued_token_limit = 10
        with pytest.raises(GeminiRateLimitedError) as raised:
            asking(server.base_url, server.key, lambda c: submitted(c, tmp_path, requests_of(1)))
        assert server.batches.jobs == []
    assert not raised.value.per_day
    assert raised.value.quota_id == "BatchEnqueuedTokensPerModel"


@pytest.mark.parametrize("fault", ["internal", "drop"])
def test_a_download_that_fails_is_transient_and_can_be_repeated(tmp_path, fault):
    requests = requests_of(3)

    async def run(opened: GeminiClient):
        job = await finished(opened, await submitted(opened, tmp_path, requests))
        # aiohttp repeats a GET once by itself if the server closes a connection that was kept open.
        server.script.faults.append(Fault(fault, where="files", times=2 if fault == "drop" else 1))
        with pytest.raises(GeminiUnavailableError):
            await download(opened, job, tmp_path / "answers.jsonl")
        return await collected(opened, job, tmp_path, requests)

    with gemini_server() as server:
        found = asking(server.base_url, server.key, run)
    assert {a.status for answer in found.values() for a in answer.annotations.values()} == {"ok"}


@pytest.mark.parametrize("fault", ["internal", "drop", "unavailable"])
def test_an_upload_that_fails_is_transient_and_makes_no_job(tmp_path, fault):
    with gemini_server(faults=[Fault(fault, where="files")]) as server:
        with pytest.raises(GeminiUnavailableError):
            asking(server.base_url, server.key, lambda c: submitted(c, tmp_path, requests_of(1)))
        assert server.batches.jobs == []


def test_a_large_file_is_uploaded_in_pieces(tmp_path):
    """The SDK uploads 8 MiB per piece, and this file is larger."""
    large = tmp_path / "large.jsonl"
    line = json.loads(
        request_line(
            requests_of(1)[0],
            settings_for("http://127.0.0.1:1"),
            resolve_gemini(settings_for("http://127.0.0.1:1"), SCHEMA),
            SCHEMA,
        )
    )
    line["request"]["contents"].append({"parts": [{"text": "x" * (9 << 20)}]})
    large.write_text(json.dumps(line) + "\n" + json.dumps(line) + "\n")
    with gemini_server(batch_delay_s=3600) as server:
        asking(server.base_url, server.key, lambda c: submit(c, large, "shopframe-large"))
        (job,) = server.batches.jobs
    assert [len(request.images) for _, request in job.lines] == [1, 1]


def test_requests_are_grouped_by_all_three_limits():
    requests = requests_of(20, per_request=1)
    settings = settings_for("http://127.0.0.1:1")
    resolved = resolve_gemini(settings, SCHEMA)

    def line(request: PackedRequest) -> bytes:
        return request_line(request, settings, resolved, SCHEMA)

    def sizes(**limits: int) -> list[int]:
        batch = GeminiBatch(**{"max_requests": 1000, "max_enqueued_tokens": 10**9, **limits})
        groups = list(group_requests(requests, batch, line, lambda _: 300))
        assert [r for group in groups for r in group] == requests
        return [len(group) for group in groups]

    assert sizes() == [20]
    assert sizes(max_requests=8) == [8, 8, 4]
    assert sizes(max_enqueued_tokens=1000) == [3] * 6 + [2]
    assert sizes(max_enqueued_tokens=1) == [1] * 20


def test_a_group_stays_below_the_largest_file():
    requests = requests_of(10, per_request=1)
    limits = GeminiBatch(max_file_bytes=1 << 20)
    groups = list(group_requests(requests, limits, lambda _: b"x" * (200 << 10), lambda _: 1))
    assert [len(group) for group in groups] == [5, 5]


def test_a_name_follows_from_the_content_and_the_attempt():
    settings = settings_for("http://127.0.0.1:1")
    resolved, requests = resolve_gemini(settings, SCHEMA), requests_of(8)
    other = resolve_gemini(settings_for("http://127.0.0.1:1", model="gemini-2.5-pro"), SCHEMA)
    name = display_name(resolved, requests)
    assert name == display_name(resolved, requests_of(8))
    others = [
        display_name(resolved, requests[:1]),
        display_name(resolved, requests[::-1]),
        display_name(resolved, requests, attempt=1),
        display_name(other, requests),
    ]
    assert len({name, *others}) == 5
