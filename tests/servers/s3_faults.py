"""Faults of an S3 store, which a proxy injects into some requests, chosen by a seed."""

from __future__ import annotations

import dataclasses
import json
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Literal, get_args

from tests.servers.s3_proxy import Exchange, Reply, s3_proxy
from tests.servers.seaweedfs import S3Server

Fault = Literal[
    "error 500",
    "slow down",
    "reset",
    "slow",
    "cut body",
    "stale listing",
    "error after success",
    "reset after success",
    "expired credentials",
    "full bucket",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

LASTING: tuple[Fault, ...] = ("expired credentials", "full bucket")
"""Faults that don't go away by themselves. They begin after a number of requests."""

_SLOW_S = 0.5

_STATE, _MEND = "/_faults", "/_faults/mend"
"""Paths at which the proxy says what it did, and is told to do no more."""


class FaultyStore:
    """Decides which requests fail, and how.

    Attributes:
        injected: How often each fault was injected.
        is_mended: Whether no more faults are injected.
    """

    def __init__(self, faults: tuple[Fault, ...], seed: int, share: float) -> None:
        self._faults, self._share = faults, share
        self._random = random.Random(seed)
        self._lock = Lock()
        self._listings: dict[str, Reply] = {}
        self._lasts_after = self._random.randint(20, 120)
        self.requests = 0
        self.injected: Counter[Fault] = Counter()
        self.is_mended = False

    def serve(self, exchange: Exchange) -> None:
        """Answer a request, possibly with a fault."""
        if exchange.path == _MEND:
            self.is_mended = True
        if exchange.path in (_STATE, _MEND):
            exchange.answer(Reply(200, [], json.dumps(self.injected).encode()))
            return
        fault = self._chosen(exchange)
        if fault is not None:
            self._inject(exchange, fault)
            return
        reply = exchange.forward()
        if _is_listing(exchange) and reply.status == 200:
            with self._lock:
                self._listings.setdefault(exchange.path, reply)
        exchange.answer(reply)

    def _chosen(self, exchange: Exchange) -> Fault | None:
        with self._lock:
            self.requests += 1
            fault = self._random.choice(self._faults)
            drawn = self._random.random() < self._share
            if self.is_mended or not self._can(exchange, fault):
                return None
            if fault in LASTING:
                drawn = self.requests > self._lasts_after
            if drawn:
                self.injected[fault] += 1
            return fault if drawn else None

    def _can(self, exchange: Exchange, fault: Fault) -> bool:
        """Return whether a fault can happen to this kind of request."""
        is_conditional = bool({"if-none-match", "if-match"} & exchange.headers.keys())
        return {
            "cut body": exchange.method == "GET",
            "stale listing": _is_listing(exchange) and exchange.path in self._listings,
            "error after success": exchange.method == "PUT" and is_conditional,
            "reset after success": exchange.method in ("PUT", "POST", "DELETE"),
            "full bucket": exchange.method == "PUT",
        }.get(fault, True)

    def _inject(self, exchange: Exchange, fault: Fault) -> None:
        match fault:
            case "error 500":
                exchange.refuse(500, "InternalError")
            case "slow down":
                exchange.refuse(503, "SlowDown")
            case "reset":
                exchange.reset()
            case "slow":
                time.sleep(_SLOW_S)
                exchange.answer(exchange.forward())
            case "cut body":
                exchange.answer(exchange.forward(), share=0.5)
            case "stale listing":
                exchange.answer(self._listings[exchange.path])
            case "error after success":
                exchange.forward()
                exchange.refuse(500, "InternalError")
            case "reset after success":
                exchange.forward()
                exchange.reset()
            case "expired credentials":
                exchange.refuse(400, "ExpiredToken")
            case "full bucket":
                exchange.refuse(507, "InsufficientStorage")


def _is_listing(exchange: Exchange) -> bool:
    return exchange.method == "GET" and "list-type=2" in exchange.path


class FaultyStoreProcess:
    """The proxy in its own process, because native code may wait for it without letting go of Python's lock.

    Attributes:
        url: URL of the proxy.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def injected(self) -> Counter[str]:
        """Return how often each fault was injected."""
        with urllib.request.urlopen(f"{self.url}{_STATE}", timeout=60) as answer:
            return Counter(json.load(answer))

    def mend(self) -> None:
        """Inject no more faults."""
        request = urllib.request.Request(f"{self.url}{_MEND}", method="POST")
        urllib.request.urlopen(request, timeout=60).close()


@contextmanager
def faulty_store(
    server: S3Server, faults: tuple[Fault, ...], seed: int, share: float = 0.05
) -> Iterator[FaultyStoreProcess]:
    """Run a proxy to a server that injects faults.

    Args:
        server: The server.
        faults: The faults, of which one is drawn for each request.
        seed: Seed of the draws.
        share: Share of the requests that fail, of those that the drawn fault can happen to.
    """
    asked = json.dumps([dataclasses.asdict(server), faults, seed, share])
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.servers.s3_faults", asked],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        url = process.stdout.readline().strip()
        assert url, "the proxy didn't start"
        try:
            yield FaultyStoreProcess(url)
        finally:
            process.stdin.close()


def _main(asked: str) -> None:
    server, faults, seed, share = json.loads(asked)
    store = FaultyStore(tuple(faults), seed, share)
    with s3_proxy(S3Server(**server), store.serve) as url:
        print(url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _main(sys.argv[1])
