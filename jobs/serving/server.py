"""The web server of the page: static files, an API in JSON, and pictures, all in one process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

import duckdb
from aiohttp import web
from pydantic import BaseModel, ValidationError

from actors.errors import ConfigError, ShopframeError
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.findings import page as findings
from jobs.serving.access import access_control, new_token
from jobs.serving.deciding import Action
from jobs.serving.pictures import NoPictureError
from jobs.serving.session import Session, as_json
from jobs.serving.view import View

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_MOST_PERSONS = 500
_MAX_REQUEST_BYTES = 1 << 20
_Result = TypeVar("_Result")
_Model = TypeVar("_Model", bound=BaseModel)


class _Empty(BaseModel):
    pass


class _PersonsRequest(BaseModel):
    view: View = View()
    after: int = 0
    limit: int = 60
    fresh: bool = False


class _ChartsRequest(BaseModel):
    view: View = View()
    columns: list[str]


class _PersonRequest(BaseModel):
    view: View = View()
    id: int


class _UndoRequest(BaseModel):
    view: View = View()
    action: int


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    address: str
    runner: web.AppRunner


async def start(session: Session, host: str, port: int) -> Served:
    """Start to answer.

    Args:
        session: What it answers from.
        host: Name or address to listen on.
        port: The port, or 0 for a free one.

    Raises:
        ConfigError: The port is in use, or the host is not this machine.
    """
    token = new_token()
    app = web.Application(
        middlewares=[access_control(token, host), _errors], client_max_size=_MAX_REQUEST_BYTES
    )
    page = _Page(session)
    app.add_routes(page.routes(f"/{token}"))
    # Addresses hold the token, so they are not logged.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        await runner.cleanup()
        raise ConfigError(
            f"--port {port}: can't listen on {host}:{port}: {error.strerror or error}; choose another "
            "one, or 0 for a free one"
        ) from error
    bound = runner.addresses[0][1]
    name = f"[{host}]" if ":" in host else host
    return Served(f"http://{name}:{bound}/{token}/", runner)


@web.middleware
async def _errors(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
    try:
        answer: web.StreamResponse = await handler(request)
    except (ConfigError, ValidationError) as error:
        return _said(400, _first_problem(error) if isinstance(error, ValidationError) else str(error))
    except NoPictureError as error:
        return _said(404, str(error))
    except ShopframeError as error:
        return _said(503, str(error))
    except STORAGE_ERRORS as error:
        return _said(503, storage_error_text(error))
    return answer


class _Page:
    """The handlers of requests. What blocks is done in threads."""

    def __init__(self, session: Session) -> None:
        self._session = session
        # Decisions are made one after the other, in the order of the requests.
        self._deciding = asyncio.Lock()
        self._counting = asyncio.Lock()
        folder = files("jobs.serving") / "page"
        self._files = {file.name: file.read_bytes() for file in folder.iterdir() if _type_of(file.name)}
        self._files["findings.css"] = findings.style().encode()

    def routes(self, base: str) -> list[web.RouteDef]:
        """Return the routes under a path."""
        return [
            web.get(f"{base}/", self._file),
            web.get(f"{base}/{{name:[a-z_]+\\.[a-z]+}}", self._file),
            web.get(f"{base}/numbers", self._numbers),
            web.get(f"{base}/heat-maps/{{file:[^/]+}}", self._heat_map),
            web.get(f"{base}/thumbnails/{{id:\\d+}}", self._thumbnail),
            web.get(f"{base}/frames/{{id:\\d+}}", self._frame),
            web.post(f"{base}/api/about", self._about),
            web.post(f"{base}/api/persons", self._persons),
            web.post(f"{base}/api/charts", self._charts),
            web.post(f"{base}/api/queue", self._queue),
            web.post(f"{base}/api/person", self._person),
            web.post(f"{base}/api/decide", self._decide),
            web.post(f"{base}/api/undo", self._undo),
        ]

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "index.html")
        content = self._files.get(name)
        if content is None:
            raise web.HTTPNotFound
        return web.Response(body=content, content_type=_type_of(name), charset="utf-8")

    async def _numbers(self, _: web.Request) -> web.Response:
        # Each reads all persons, so not many at once.
        async with self._counting:
            text = await self._read(self._session.numbers)
        return web.Response(text=text, content_type="text/html")

    async def _heat_map(self, request: web.Request) -> web.Response:
        content = await self._read(partial(self._session.heat_map, request.match_info["file"]))
        if content is None:
            raise web.HTTPNotFound
        return web.Response(body=content, content_type="image/jpeg")

    async def _thumbnail(self, request: web.Request) -> web.Response:
        row = await self._read(partial(self._session.person_row, int(request.match_info["id"])))
        return web.Response(body=await self._session.pictures.thumbnail(row), content_type="image/jpeg")

    async def _frame(self, request: web.Request) -> web.Response:
        row = await self._read(partial(self._session.person_row, int(request.match_info["id"])))
        content = await self._session.pictures.frame(row)
        return web.Response(body=content, content_type=_image_type(content))

    async def _about(self, request: web.Request) -> web.Response:
        await _body(request, _Empty)
        async with self._deciding:
            await asyncio.to_thread(self._session.refresh)
        return _json(await self._read(self._session.about))

    async def _persons(self, request: web.Request) -> web.Response:
        asked = await _body(request, _PersonsRequest)
        limit = min(max(1, asked.limit), _MOST_PERSONS)
        shown, rows = await self._read(
            partial(self._session.persons, asked.view, max(0, asked.after), limit, asked.fresh)
        )
        self._session.pictures.prepare(rows)
        return _json(shown)

    async def _charts(self, request: web.Request) -> web.Response:
        asked = await _body(request, _ChartsRequest)
        return _json(await self._read(partial(self._session.charts, asked.view, asked.columns[:100])))

    async def _queue(self, request: web.Request) -> web.Response:
        asked = await _body(request, _PersonsRequest)
        return _json(await self._read(partial(self._session.queue, asked.view)))

    async def _person(self, request: web.Request) -> web.Response:
        asked = await _body(request, _PersonRequest)
        return _json(await self._read(partial(self._session.person, asked.id, asked.view)))

    async def _decide(self, request: web.Request) -> web.Response:
        action = await _body(request, Action)
        async with self._deciding:
            return _json(await self._read(partial(self._session.decide, action)))

    async def _undo(self, request: web.Request) -> web.Response:
        asked = await _body(request, _UndoRequest)
        async with self._deciding:
            return _json(await self._read(partial(self._session.undo, asked.action, asked.view)))

    async def _read(self, function: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.to_thread(function)
        except duckdb.IOException:
            # A consolidation has deleted the files of the version before.
            await asyncio.to_thread(self._session.refresh, True)
            return await asyncio.to_thread(function)


async def _body(request: web.Request, kind: type[_Model]) -> _Model:
    """Return what a request says. A form of another page can't send this type."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="send application/json")
    return kind.model_validate_json(await request.read() or b"{}")


def _type_of(name: str) -> str | None:
    return _TYPES.get(name.rpartition(".")[2])


def _json(content: object) -> web.Response:
    return web.json_response(content, dumps=partial(json.dumps, default=as_json))


def _said(status: int, message: str) -> web.Response:
    return web.json_response({"error": message}, status=status)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def _image_type(content: bytes) -> str:
    if content.startswith(b"\xff\xd8"):
        return "image/jpeg"
    if content.startswith(b"\x89PNG"):
        return "image/png"
    return "image/gif" if content.startswith(b"GIF") else "image/webp"
