"""A TCP proxy that loses answers: the server has done the work, but the client never learns of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock, Thread
from urllib.parse import urlsplit


@contextmanager
def lossy_proxy(endpoint_url: str, method: str = "PUT", losses: int = 1) -> Iterator[tuple[str, list[str]]]:
    """Run a proxy to a plain HTTP server that loses the first answers to requests of one method.

    Yields:
        The proxy's URL, and a list with the method of each answer lost so far.
    """
    target = urlsplit(endpoint_url)
    lost: list[str] = []
    lock = Lock()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection((target.hostname, target.port)) as server:
            requests = Thread(target=pump, args=(client, server), daemon=True)
            requests.start()
            while answer := server.recv(65_536):
                with lock:
                    swallow = (
                        len(lost) < losses and seen.get(client) == method and b"100 Continue" not in answer
                    )
                    if swallow:
                        lost.append(method)
                if swallow:
                    # Closing alone would not end the connection while the other thread reads from it.
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(answer)

    seen: dict[socket.socket, str] = {}

    def pump(client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65_536):
                word = data.split(b" ", 1)[0]
                if word in (b"PUT", b"GET", b"HEAD", b"POST", b"DELETE"):
                    seen[client] = word.decode()
                server.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lost
    finally:
        listener.close()
