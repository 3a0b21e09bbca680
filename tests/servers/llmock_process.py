"""Run llmock, an independent implementation of a Gemini server, as a process on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_READY_WITHIN_S = 60


@dataclass(frozen=True)
class Llmock:
    """A running server."""

    url: str

    @property
    def base_url(self) -> str:
        """URL at which the server speaks the Gemini API."""
        return f"{self.url}/gemini"

    def script(self, *behaviors: dict[str, Any]) -> None:
        """Queue behaviours: {"type": "reply", "text": ...} or {"type": "fail", "status": 429, ...}."""
        body = json.dumps({"behaviors": behaviors}).encode()
        urllib.request.urlopen(f"{self.url}/_llmock/scenario", body, timeout=30).close()

    def get(self, path: str) -> Any:
        """Return the JSON at `/_llmock/<path>`, where the path is "requests" or "verdict"."""
        with urllib.request.urlopen(f"{self.url}/_llmock/{path}", timeout=30) as answer:
            return json.load(answer)


@contextmanager
def llmock_process(*options: str) -> Iterator[Llmock]:
    """Run `llmock serve` with the given options for as long as the context lasts.

    Raises:
        RuntimeError: The server did not start in time.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("llmock")), "serve", "--port", str(port), *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LLMOCK_")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    server = Llmock(f"http://127.0.0.1:{port}")
    try:
        _wait_until_ready(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(server: Llmock, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{server.url}/health", timeout=2).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"llmock did not start within {_READY_WITHIN_S} s")
