"""A look at a few keys of the input: what is read from them, and whether `input.key_pattern` can be right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

from actors.errors import ConfigError, ShardError, ShardUnavailableError, StoreError
from actors.read.frames import read_frames
from actors.read.key_facts import paths_of, with_key_facts
from actors.read.local_time import time_zone
from actors.read.settings import InputSettings
from actors.records import Frame, Shard
from actors.storage.map_ahead import map_ahead
from actors.storage.settings import StorageSettings
from jobs.run.words import counted

_KEYS = 10


@dataclass(frozen=True, slots=True)
class SampledKey:
    """A frame of the sample, without its image.

    Attributes:
        path: The path that the pattern is compared with.
        given: The frame with the camera and the time of its sidecar or row.
        found: The frame with what its key adds.
    """

    path: str
    given: Frame
    found: Frame

    def line(self, zone: str) -> str:
        """Return what was read. Times are shown in UTC, and also in `zone` if it is another."""
        parts = [
            self._said("camera", self.found.camera, self.given.camera),
            self._said("time", self._time(zone), self.given.captured_at),
        ]
        if self.found.note is not None:
            parts.append(self.found.note)
        return f"{self.path}: {'; '.join(parts)}"

    def _said(self, what: str, value: str | None, given: object) -> str:
        if value is None:
            return f"no {what}"
        return f"{what} {value} ({'key' if given is None else 'sidecar or column'})"

    def _time(self, zone: str) -> str | None:
        moment = self.found.captured_at
        if moment is None:
            return None
        shown = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
        return shown if zone == "UTC" else f"{shown} = {moment.astimezone(time_zone(zone)):%H:%M:%S} {zone}"


def sample_keys(
    shards: Sequence[Shard], settings: InputSettings, storage: StorageSettings
) -> list[SampledKey]:
    """Read the first frames of shards that are spread over the input, ten frames in all.

    Shards that can't be read give the frames before the fault, or none.
    """
    chosen = shards[:: max(1, len(shards) // _KEYS)][:_KEYS]
    share = -(-_KEYS // max(1, len(chosen)))
    without = settings.model_copy(update={"key_pattern": None})

    def sampled(shard: Shard) -> list[SampledKey]:
        return list(_sample_shard(shard, share, without, settings, storage))

    return [key for keys in map_ahead(sampled, chosen) for key in keys][:_KEYS]


def key_lines(keys: Sequence[SampledKey], settings: InputSettings) -> list[str]:
    """Return the lines that a dry run prints about keys and what is read from them."""
    lines = [f"{counted(len(keys), 'key')}, and the camera and time of each:"]
    lines += [f"- {key.line(settings.timezone)}" for key in keys]
    nothing = all(key.found.camera is None and key.found.captured_at is None for key in keys)
    if keys and nothing and settings.key_pattern is None:
        lines.append("if these paths name camera or time, set input.key_pattern")
    return lines


def _sample_shard(
    shard: Shard, count: int, without: InputSettings, settings: InputSettings, storage: StorageSettings
) -> Iterator[SampledKey]:
    try:
        with closing(read_frames(shard, without, storage)) as frames:
            for frame in islice(frames, count):
                given = replace(frame, data=None)
                found = given
                if settings.key_pattern is not None:
                    (found,) = with_key_facts([given], shard, settings)
                yield SampledKey(paths_of(shard, given)[0], given, found)
    except (ShardError, ShardUnavailableError, StoreError):
        return


def refuse_pattern_without_match(keys: Sequence[SampledKey], settings: InputSettings) -> None:
    """Refuse a pattern that none of the sampled keys matches, which would leave a whole run without cameras.

    Raises:
        ConfigError: None of the keys matches. Keys that needn't, because sidecars or columns say all, don't
            count.
    """
    compared = [key for key in keys if key.found.is_key_matched is not None]
    if compared and not any(key.found.is_key_matched for key in compared):
        raise no_match(settings, counted(len(compared), "sampled key"), compared[0].path)


def no_match(settings: InputSettings, compared: str, first: str) -> ConfigError:
    """Return the error of a pattern that matches nothing that it was compared with.

    Args:
        settings: The settings with the pattern.
        compared: How many of what it was compared with.
        first: The first path of these.
    """
    return ConfigError(
        f"input.key_pattern: {settings.key_pattern} matches none of {compared}, of which the first is {first}"
        "; write it so that it describes the end of this path, or leave it out"
    )
