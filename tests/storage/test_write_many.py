"""Many objects are written at once, over as many connections."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, BrokenBarrierError, Thread

from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings

_TOGETHER = 48


@contextmanager
def _slow_store() -> Iterator[tuple[str, dict[str, bytes]]]:
    """Run an S3 server that answers no write before 48 of them have come, and yield its URL and objects."""
    together = Barrier(_TOGETHER, timeout=30)
    objects: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                together.wait()
                objects[self.path] = content
                self.send_response(200)
            except BrokenBarrierError:
                self.send_response(403)
            self.send_header("ETag", '"e"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", objects
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_many_objects_are_in_flight_at_once(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with _slow_store() as (endpoint, objects):
        store = ObjectStore("s3://bucket/out", StorageSettings(endpoint_url=endpoint, retries=1))
        store.write_many((f"json/{number}.json", b"%d" % number) for number in range(2 * _TOGETHER))
    assert objects == {f"/bucket/out/json/{number}.json": b"%d" % number for number in range(2 * _TOGETHER)}
