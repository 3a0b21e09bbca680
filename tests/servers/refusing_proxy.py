"""An HTTP proxy that refuses every connection and remembers where it was to go."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True, slots=True)
class RefusingProxy:
    """The proxy.

    Attributes:
        environment: Variables with which programs connect through the proxy.
        asked: Where the connections that it refused were to go, `host:port` or a URL.
    """

    environment: dict[str, str]
    asked: list[str] = field(default_factory=list)


@contextmanager
def refusing_proxy() -> Iterator[RefusingProxy]:
    """Run a proxy on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            proxy.asked.append(self.path)
            self.send_error(403)

        do_CONNECT = do_GET = do_POST = do_HEAD = do_PUT = _refuse  # noqa: N815  names of the base class

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_address[1]}"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    proxy = RefusingProxy(dict.fromkeys(names, address) | {"no_proxy": "", "NO_PROXY": ""})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
