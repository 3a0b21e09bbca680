"""Who is answered: requests with the page's token that a page of this server, or its user, has made."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Middleware

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Pictures of people don't stay in the browser's cache.
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def new_token() -> str:
    """Return a new token, which can't be guessed, for the path of every address of a server."""
    return secrets.token_urlsafe(24)


def access_control(token: str, host: str) -> Middleware:
    """Return the middleware that refuses all other requests with 403, and adds headers to all responses.

    The token is the first part of the path. So no cookie is needed, which other servers on the same host
    would be sent, and no page that doesn't know the token can make a request that counts. A page elsewhere
    that has given its name the address of this machine is known by the header Host.

    Args:
        token: The token.
        host: Name or address that the server was told to listen on.
    """

    @web.middleware
    async def control(request: web.Request, handler: Handler) -> web.StreamResponse:
        reason = _refusal(request, token, host)
        try:
            response = web.Response(status=403, text=reason) if reason else await handler(request)
        except web.HTTPException as error:
            error.headers.update(_HEADERS)
            raise
        response.headers.update(_HEADERS)
        return response

    return control


def _refusal(request: web.Request, token: str, host: str) -> str | None:
    """Return why a request is refused, or None if it is answered."""
    if not _is_own_name(_name_in(f"//{request.host}"), host):
        return "this host name is not answered; use the address that shopframe serve has printed"
    origin = request.headers.get("Origin")
    if origin is not None and origin != f"{request.scheme}://{request.host}":
        return "requests from other pages are not answered"
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return "requests from other pages are not answered"
    given = request.path.split("/")[1] if "/" in request.path else ""
    if not hmac.compare_digest(given.encode(), token.encode()):
        return "the token is missing or wrong; use the address that shopframe serve has printed"
    return None


def _name_in(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _is_own_name(name: str, host: str) -> bool:
    if name in ("localhost", host.lower()):
        return True
    try:
        # Another page can give its own name the address of this machine, but it can't have a bare address.
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
