"""Only one of several runs works on a shard, and the claim of a dead run is taken over."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from actors.errors import OutputError
from actors.gemini.backlog import claims
from actors.gemini.backlog.claims import Claims
from actors.storage import layout
from actors.storage.object_store import ObjectStore


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path):
    return ObjectStore(str(tmp_path) if request.param == "disk" else request.getfixturevalue("bucket"))


@pytest.fixture
def holder(store, monkeypatch):
    """Return a function that creates holders. A holder that `dies` sends one heartbeat and then no more."""
    monkeypatch.setattr(claims, "_DEAD_AFTER_S", 3.0)
    made: list[Claims] = []

    def make(name: str, dies: bool = False) -> Claims:
        monkeypatch.setattr(claims, "BEAT_S", 3600 if dies else 0.1)
        made.append(Claims(store, name))
        return made[-1]

    yield make
    for one in made:
        one._ended.set()


def taken_by(who: Claims, name: str) -> str:
    """Try to take a claim until the result is known, and return the result."""
    while (claim := who.take(name)) == "unknown":
        time.sleep(0.05)
    return claim


def test_what_a_living_run_has_is_left_to_it_until_it_lets_go(holder):
    first, second = holder("first"), holder("second")
    assert first.take("shard") == "ours"
    assert second.take("shard") == "unknown"
    assert taken_by(second, "shard") == "theirs"
    assert second.take("other") == "ours"
    first.release("shard")
    assert second.take("shard") == "ours"
    assert taken_by(first, "shard") == "theirs"


def test_what_a_dead_run_had_is_taken_over_by_one(holder):
    assert holder("dead", dies=True).take("shard") == "ours"
    heirs = [holder(f"heir-{number}") for number in range(4)]
    with ThreadPoolExecutor(len(heirs)) as pool:
        ends = sorted(pool.map(lambda heir: taken_by(heir, "shard"), heirs))
    assert ends == ["ours", "theirs", "theirs", "theirs"]


def test_what_an_ended_run_forgot_is_free(holder, store):
    ended = holder("ended")
    assert ended.take("shard") == "ours"
    ended.close()
    assert not store.exists(layout.holder_path("ended"))
    assert holder("next").take("shard") == "ours"


def test_a_worker_that_comes_back_has_what_it_had(holder):
    assert holder("run", dies=True).take("shard") == "ours"
    assert holder("run").take("shard") == "ours"


def test_what_is_no_claim_is_said(holder, store):
    store.write(layout.claim_path("shard"), b"[1]")
    with pytest.raises(OutputError, match="not a claim of this version; delete it"):
        holder("one").take("shard")
