"""Requests of the S3 protocol that fsspec doesn't offer, and answers that it doesn't tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aiohttp
import fsspec
from botocore.exceptions import BotoCoreError, ClientError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from actors.storage.map_ahead import map_ahead
from actors.storage.settings import StorageSettings
from actors.storage.store_errors import storage_error_text

_KEYS = 1000
"""Maximum number of keys in one request to delete objects."""

_READS = 5
"""How often an object is read whose answer breaks off."""


def s3_options(settings: StorageSettings, connections: int) -> dict[str, Any]:
    """Return the options of an s3fs filesystem with the credentials of the environment.

    Args:
        settings: Endpoint, retries and deadlines.
        connections: Number of requests that may be sent at once.
    """
    options: dict[str, Any] = {
        "anon": settings.anon,
        "use_listings_cache": False,
        "config_kwargs": {
            "retries": {"max_attempts": settings.retries, "mode": "standard"},
            "connect_timeout": min(10.0, settings.timeout_s),
            "read_timeout": settings.timeout_s,
            "max_pool_connections": connections,
        },
    }
    if settings.s3_endpoint:
        options["endpoint_url"] = settings.s3_endpoint
    return options


@retry(
    retry=retry_if_exception_type(aiohttp.ClientPayloadError),
    stop=stop_after_attempt(_READS),
    wait=wait_exponential_jitter(initial=0.1, max=5),
    reraise=True,
)
async def get_s3(fs: fsspec.AbstractFileSystem, bucket: str, key: str) -> tuple[bytes, str]:
    """Return the content of an object and its ETag.

    s3fs repeats a request that fails, but not one whose answer breaks off, so that is done here.
    """
    reply = await fs._call_s3("get_object", Bucket=bucket, Key=key)
    async with reply["Body"] as body:
        return await body.read(), reply["ETag"]


def delete_s3(fs: fsspec.AbstractFileSystem, paths: Sequence[str]) -> None:
    """Delete objects of one bucket, a thousand per request. Objects that don't exist are skipped.

    Args:
        fs: An s3fs filesystem.
        paths: Bucket and key of each object.

    Raises:
        OSError: An object can't be deleted.
    """
    chunks = [paths[start : start + _KEYS] for start in range(0, len(paths), _KEYS)]
    for refused in map_ahead(lambda chunk: _delete_chunk(fs, chunk), chunks):
        if refused:
            first = refused[0]
            raise OSError(f"{first['Key']}: can't be deleted: {first.get('Message') or first.get('Code')}")


def _delete_chunk(fs: fsspec.AbstractFileSystem, paths: Sequence[str]) -> list[dict[str, Any]]:
    split = [fs.split_path(path) for path in paths]
    wanted = {"Objects": [{"Key": key} for _, key, _ in split], "Quiet": True}
    try:
        reply = fsspec.asyn.sync(fs.loop, fs._call_s3, "delete_objects", Bucket=split[0][0], Delete=wanted)
    except ClientError as error:
        from s3fs.errors import translate_boto_error

        raise translate_boto_error(error) from error
    except BotoCoreError as error:
        raise ConnectionError(storage_error_text(error)) from error
    return [found for found in reply.get("Errors", []) if found.get("Code") != "NoSuchKey"]


def is_lost_condition(error: ClientError) -> bool:
    """Return whether a conditional write was refused because of another writer's object."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = error.response.get("Error", {}).get("Code")
    # S3 answers 409 to the loser of two concurrent conditional writes, and NoSuchKey to an If-Match on a
    # deleted object. The status 404 is not enough: a missing bucket has it too, without a competing writer.
    return status in (409, 412) or code in ("PreconditionFailed", "NoSuchKey")
