"""An S3 store without conditional writes, or one that is away: a proxy that changes or refuses requests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests.servers.s3_proxy import Exchange, s3_proxy
from tests.servers.seaweedfs import S3Server

_NOT_IMPLEMENTED = "A header you provided implies functionality that is not implemented"


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

    def serve(exchange: Exchange) -> None:
        if refuse and any(name in exchange.headers for name in without):
            exchange.refuse(501, "NotImplemented", _NOT_IMPLEMENTED)
        else:
            exchange.answer(exchange.forward(without))

    with s3_proxy(server, serve) as url:
        yield url


@contextmanager
def failing_proxy(server: S3Server, fails: Callable[[str, str], bool]) -> Iterator[str]:
    """Run a proxy to a server that answers 503 to some requests, and yield the proxy's URL.

    Args:
        server: The server.
        fails: Is given the method and the path of each request, and says whether it fails.
    """

    def serve(exchange: Exchange) -> None:
        if fails(exchange.method, exchange.path):
            exchange.refuse(503, "SlowDown")
        else:
            exchange.answer(exchange.forward())

    with s3_proxy(server, serve) as url:
        yield url
