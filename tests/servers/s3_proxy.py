"""A proxy to an S3 server that may change, refuse or lose requests and answers."""

from __future__ import annotations

import http.client
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.servers.seaweedfs import REGION, S3Server

_HOP = ("authorization", "connection", "host", "content-length", "expect", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the server: its status, headers and body."""

    status: int
    headers: Sequence[tuple[str, str]]
    content: bytes


class Exchange:
    """A request of a client, and what can be done with it.

    Attributes:
        method: Method of the request.
        path: Path with the query.
        headers: Headers by their names in lower case.
        body: Body of the request.
    """

    def __init__(self, server: S3Server, handler: BaseHTTPRequestHandler) -> None:
        self._server, self._handler = server, handler
        self.method, self.path = handler.command, handler.path
        self.headers: dict[str, str] = {name.lower(): value for name, value in handler.headers.items()}
        self.body = handler.rfile.read(int(self.headers.get("content-length", 0)))

    def forward(self, without: Sequence[str] = ()) -> Reply:
        """Send the request to the server, without some headers, and return its answer."""
        server, target = self._server, urlsplit(self._server.endpoint_url)
        kept = {name: value for name, value in self.headers.items() if name not in (*without, *_HOP)}
        # The client has signed its headers for this proxy, so what is left of them is signed again.
        request = AWSRequest(self.method, f"{server.endpoint_url}{self.path}", kept, self.body)
        S3SigV4Auth(Credentials(server.access_key, server.secret_key), "s3", REGION).add_auth(request)
        connection = http.client.HTTPConnection(str(target.hostname), target.port)
        try:
            connection.request(self.method, self.path, self.body, dict(request.headers))
            reply = connection.getresponse()
            return Reply(reply.status, reply.getheaders(), reply.read())
        finally:
            connection.close()

    def answer(self, reply: Reply, share: float = 1.0) -> None:
        """Answer the client; with a `share` below 1, close the connection before the body is complete."""
        handler = self._handler
        handler.send_response_only(reply.status)
        length = str(len(reply.content))
        for name, value in reply.headers:
            if name.lower() == "content-length":
                length = value  # To HEAD, of the object and not of this answer.
            elif name.lower() not in _HOP:
                handler.send_header(name, value)
        handler.send_header("Content-Length", length)
        handler.end_headers()
        handler.wfile.write(reply.content[: int(len(reply.content) * share)])
        if share < 1:
            handler.close_connection = True

    def refuse(self, status: int, code: str, message: str = "") -> None:
        """Answer with an error code of S3."""
        content = (
            f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message or code}</Message></Error>"
        )
        self.answer(Reply(status, [("Content-Type", "application/xml")], content.encode()))

    def reset(self) -> None:
        """Reset the connection instead of answering."""
        connection = self._handler.connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        self._handler.close_connection = True


@contextmanager
def s3_proxy(server: S3Server, serve: Callable[[Exchange], None]) -> Iterator[str]:
    """Run a proxy to a server, and yield the proxy's URL.

    Args:
        server: The server.
        serve: Answers each request, in a thread of its own.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            # A client may have closed the connection.
            with suppress(ConnectionError):
                serve(Exchange(server, self))

        def finish(self) -> None:
            # Nothing can be flushed into a connection that was reset.
            with suppress(OSError, ValueError):
                super().finish()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _serve  # noqa: N815

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
