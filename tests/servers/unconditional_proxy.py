"""An S3 store without conditional writes, or one that is away: a proxy that changes or refuses requests."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.servers.seaweedfs import REGION, S3Server

_NOT_IMPLEMENTED = (
    b"<?xml version='1.0'?><Error><Code>NotImplemented</Code>"
    b"<Message>A header you provided implies functionality that is not implemented</Message></Error>"
)
_SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce</Message></Error>"
_HOP = ("authorization", "connection", "host", "content-length", "expect", "transfer-encoding")


@contextmanager
def unconditional_proxy(
    server: S3Server, without: Sequence[str] = ("if-none-match", "if-match"), refuse: bool = False
) -> Iterator[str]:
    """Run a proxy to a server, and yield the proxy's URL.

    Args:
        server: The server.
        without: Headers, in lower case, that the store doesn't know.
        refuse: Whether the store answers 501 to these headers instead of ignoring them.
    """
    with _proxy(server, without, refuse, lambda *_: False) as url:
        yield url


@contextmanager
def failing_proxy(server: S3Server, fails: Callable[[str, str], bool]) -> Iterator[str]:
    """Run a proxy to a server that answers 503 to some requests, and yield the proxy's URL.

    Args:
        server: The server.
        fails: Is given the method and the path of each request, and says whether it fails.
    """
    with _proxy(server, (), False, fails) as url:
        yield url


@contextmanager
def _proxy(
    server: S3Server, without: Sequence[str], refuse: bool, fails: Callable[[str, str], bool]
) -> Iterator[str]:
    target = urlsplit(server.endpoint_url)
    signer = S3SigV4Auth(Credentials(server.access_key, server.secret_key), "s3", REGION)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if fails(self.command, self.path):
                self.answer(503, [], _SLOW_DOWN)
                return
            given = {name.lower(): value for name, value in self.headers.items()}
            if refuse and any(name in given for name in without):
                self.answer(501, [], _NOT_IMPLEMENTED)
                return
            kept = {name: value for name, value in given.items() if name not in (*without, *_HOP)}
            # The client has signed its headers, so what is left of them is signed again.
            request = AWSRequest(self.command, f"{server.endpoint_url}{self.path}", kept, body)
            signer.add_auth(request)
            connection = http.client.HTTPConnection(str(target.hostname), target.port)
            try:
                connection.request(self.command, self.path, body, dict(request.headers))
                reply = connection.getresponse()
                self.answer(reply.status, reply.getheaders(), reply.read())
            finally:
                connection.close()

        def answer(self, status: int, headers: Sequence[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            length = str(len(content))
            for name, value in headers:
                if name.lower() == "content-length":
                    length = value  # To HEAD, of the object and not of this answer.
                elif name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
