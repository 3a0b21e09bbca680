"""What is sent to Gemini is recorded before it is sent, by digests, and in few objects."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from actors.fingerprint import crop_sha256
from actors.gemini.api.packing import Crop
from actors.gemini.egress_log import egress_of, merge_egress, record_egress
from actors.gemini.online import OnlineAnnotator
from actors.gemini.protocol import AskedCrop
from actors.gemini.settings import resolve_gemini
from actors.storage.object_store import ObjectStore
from tests.servers.gemini_clock import ServerClock
from tests.servers.gemini_server import MODEL, gemini_server
from tests.support import gemini_job, job
from tests.support.gemini_asking import SCHEMA, jpeg, settings_for
from tests.support.online_asking import ask
from tests.support.quota_simulation import SimulatedClock

NOON = datetime.fromisoformat("2026-06-10T12:00:00-07:00").timestamp()
MIDNIGHT = 1_790_208_000.0
"""2026-09-24, 00:00 UTC."""


def asked(number: int) -> AskedCrop:
    return AskedCrop("till-2026", Crop(f"till-2026/frame/{number}", jpeg(number)))


def files(output: Path) -> list[Path]:
    return sorted((output / "gemini" / "egress").rglob("*.json*"))


def test_a_picture_is_recorded_when_it_arrives(tmp_path, monkeypatch):
    known_at_arrival: list[bool] = []
    with gemini_server() as server:
        monkeypatch.setenv("GEMINI_API_KEY", server.key)
        settings = settings_for(server.base_url, requests_per_minute=1000, persons_per_request=4)
        answer = server.reply_to

        def reply_to(request: Any, *arguments: Any) -> Any:
            known_at_arrival.append({i.sha256 for i in request.images} <= gemini_job.egress(tmp_path).keys())
            return answer(request, *arguments)

        monkeypatch.setattr(server, "reply_to", reply_to)

        async def run() -> None:
            annotator = OnlineAnnotator(
                settings,
                resolve_gemini(settings, SCHEMA),
                SCHEMA,
                ObjectStore(str(tmp_path)),
                SimulatedClock(),
            )
            await annotator.ask([asked(number) for number in range(10)])

        asyncio.run(run())
    assert known_at_arrival == [True] * 3


def test_records_name_nobody(tmp_path):
    store = ObjectStore(str(tmp_path))
    record_egress(store, egress_of("key", [asked(1), asked(2)], "model", MIDNIGHT))
    merge_egress(store)
    (path,) = files(tmp_path)
    assert b"till" not in path.read_bytes()
    assert b"frame" not in path.read_bytes()
    (line,) = map(json.loads, path.read_text().splitlines())
    assert line["crops"][0] == {
        "person_sha256": hashlib.sha256(b"till-2026/frame/1").hexdigest(),
        "crop_sha256": crop_sha256(jpeg(1)),
    }
    assert (line["request"], line["model"], line["at"]) == ("key", "model", "2026-09-24T00:00:00+00:00")


def test_many_requests_are_few_objects_and_a_request_sent_twice_stays_two_records(tmp_path):
    store = ObjectStore(str(tmp_path))
    for number in range(1100):
        record_egress(store, egress_of(f"{number % 1000:032x}", [asked(number % 1000)], "model", MIDNIGHT))
    record_egress(store, egress_of("next", [asked(0)], "model", MIDNIGHT + 86_400))
    expected = Counter(crop_sha256(jpeg(number % 1000)) for number in [*range(1100), 0])
    assert gemini_job.egress(tmp_path) == expected
    merge_egress(store)
    assert [path.parent.name for path in files(tmp_path)] == ["2026-09-24"] * 2 + ["2026-09-25"]
    assert gemini_job.egress(tmp_path) == expected
    before = job.bytes_of(tmp_path, "gemini")
    merge_egress(store)
    assert job.bytes_of(tmp_path, "gemini") == before


def test_merges_at_the_same_time_lose_no_record(tmp_path):
    store = ObjectStore(str(tmp_path))
    for number in range(300):
        record_egress(store, egress_of(f"{number:032x}", [asked(number)], "model", MIDNIGHT))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: merge_egress(store), range(4)))
    assert gemini_job.egress(tmp_path) == Counter(crop_sha256(jpeg(number)) for number in range(300))
    assert 1 <= len(files(tmp_path)) <= 4


def test_names_that_an_earlier_version_recorded_become_digests_and_other_objects_stay(tmp_path):
    folder = tmp_path / "gemini" / "egress" / "2026-09-24"
    folder.mkdir(parents=True)
    crop = {"shard_id": "till-2026", "person": "till-2026/frame/1", "crop_sha256": crop_sha256(jpeg(1))}
    old = {"request": "f" * 32, "model": "m", "at": "2026-09-24T00:00:00+00:00", "crops": [crop]}
    (folder / f"{'f' * 32}.0123abcd.json").write_text(json.dumps(old, indent=1))
    (folder / f"{'e' * 32}.0123abcd.json").write_text("not a record")
    merge_egress(ObjectStore(str(tmp_path)))
    kept, merged = sorted(files(tmp_path), key=lambda path: path.suffix)
    assert kept.read_text() == "not a record"
    (line,) = map(json.loads, merged.read_text().splitlines())
    assert line.pop("record") == "0123abcd"
    person = hashlib.sha256(b"till-2026/frame/1").hexdigest()
    assert line == {**old, "crops": [{"person_sha256": person, "crop_sha256": crop_sha256(jpeg(1))}]}


def test_requests_that_a_run_does_not_send_are_not_recorded(tmp_path, monkeypatch):
    """They wait with their records when the day's quota is spent."""
    with gemini_server(clock=ServerClock(NOON, speed=0)) as server:
        limits = {"requests_per_day": 3, "persons_per_request": 1, "max_in_flight": 2}
        found = ask(tmp_path, server, monkeypatch, 10, **limits)
        assert len(server.journal) == 3
    assert found.stop is not None
    assert found.stop.kind == "daily_quota"
    assert gemini_job.egress(tmp_path) == gemini_job.answered(server.journal)


def test_a_record_that_takes_long_does_not_use_up_the_time_in_which_a_request_may_be_sent(
    tmp_path, monkeypatch
):
    clock = ServerClock(NOON, speed=0)
    write = ObjectStore.write

    def write_slowly(store: ObjectStore, path: str, content: bytes) -> None:
        write(store, path, content)
        if "egress" in path:
            clock.advance(30)

    monkeypatch.setattr(ObjectStore, "write", write_slowly)
    with gemini_server(clock=clock) as server:
        # A request in flight beside another one would see the clock jump while it is granted.
        limits = {"requests_per_minute": 10, "persons_per_request": 1, "max_in_flight": 1}
        assert len(ask(tmp_path, server, monkeypatch, 6, **limits).entries) == 6
    assert len(server.counted) == 6
    (spent,) = json.loads((tmp_path / f"quota/default.{MODEL}.json").read_text())["days"].values()
    assert spent == 6
    assert gemini_job.egress(tmp_path) == gemini_job.answered(server.journal)


def test_the_record_of_a_request_that_waited_for_the_next_day_has_the_next_day(tmp_path, monkeypatch):
    clock = ServerClock(NOON, speed=0)
    with gemini_server(clock=clock) as server:
        limits = {"requests_per_day": 2, "persons_per_request": 1, "on_daily_quota": "wait"}
        assert len(ask(tmp_path, server, monkeypatch, 6, **limits).entries) == 6
    times = [datetime.fromisoformat(json.loads(file.read_text())["at"]) for file in files(tmp_path)]
    recorded = sorted(at.timestamp() for at in times)
    sent = sorted(seen.at for seen in server.journal)
    assert len(sent) == 6
    assert [int(at) for at in recorded] == [int(at) for at in sent]


def test_a_merge_leaves_the_records_of_requests_that_wait(tmp_path):
    store = ObjectStore(str(tmp_path))
    paths = [
        record_egress(store, egress_of(f"{number:032x}", [asked(number)], "model", MIDNIGHT))
        for number in range(3)
    ]
    merge_egress(store, unsent={paths[1]})
    assert [store.exists(path) for path in paths] == [False, True, False]
    assert len(files(tmp_path)) == 2
    assert gemini_job.egress(tmp_path) == Counter(crop_sha256(jpeg(number)) for number in range(3))
