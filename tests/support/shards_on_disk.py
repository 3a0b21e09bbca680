"""Write shards to a folder, and read them until an error occurs."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.errors import ShardError
from actors.read.frames import read_frames
from actors.read.settings import InputSettings
from actors.records import Frame, Shard
from actors.storage.settings import StorageSettings

STORAGE = StorageSettings(retries=1, timeout_s=10)


def shard_of(path: Path, content: bytes, kind: str = "webdataset") -> Shard:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Shard(path.stem, str(path), kind, "etag", len(content))


def read_until_error(shard: Shard, **options) -> tuple[list[Frame], str]:
    """Return the frames before the shard failed, and the error message."""
    found: list[Frame] = []
    with pytest.raises(ShardError) as raised:
        found.extend(read_frames(shard, InputSettings(**options), STORAGE))
    assert str(raised.value).startswith(shard.uri)
    return found, str(raised.value)
