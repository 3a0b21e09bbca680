"""Crops for Gemini requests, and clients that send requests to a local server."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from PIL import Image
from pydantic import SecretStr

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.gemini.api.client import GeminiClient
from actors.gemini.api.packing import Crop, PackedRequest, pack, request_of
from actors.gemini.settings import GeminiSettings, resolve_gemini

Result = TypeVar("Result")

SCHEMA = AttributeSchema(SchemaSettings())


def jpeg(number: int, width: int = 60, height: int = 120) -> bytes:
    """Return a JPEG that is different for every number."""
    colour = (number % 256, number // 256 % 256, 90)
    out = io.BytesIO()
    image = Image.new("RGB", (width, height), colour)
    # Without the comment, neighbouring colours could give the same JPEG.
    image.save(out, "JPEG", comment=str(number).encode())
    return out.getvalue()


def crops(count: int) -> list[Crop]:
    return [Crop(f"shard/frame/{number}", jpeg(number)) for number in range(count)]


def packed(count: int) -> PackedRequest:
    """Return one request with the given number of crops."""
    (request,) = pack(crops(count), count, seed=0)
    return request


def single() -> PackedRequest:
    return request_of(crops(1), seed=0)


def settings_for(base_url: str, **changes: Any) -> GeminiSettings:
    return GeminiSettings(enabled=True, base_url=base_url, **changes)


@asynccontextmanager
async def client(base_url: str, key: str, **changes: Any) -> AsyncIterator[GeminiClient]:
    settings = settings_for(base_url, **changes)
    resolved = resolve_gemini(settings, SCHEMA)
    opened = GeminiClient(settings, resolved, SCHEMA, SecretStr(key))
    try:
        yield opened
    finally:
        await opened.close()


def asking(
    base_url: str, key: str, ask: Callable[[GeminiClient], Awaitable[Result]], **changes: Any
) -> Result:
    """Run `ask` with a new client, and return its result."""

    async def run() -> Result:
        async with client(base_url, key, **changes) as opened:
            return await ask(opened)

    return asyncio.run(run())
