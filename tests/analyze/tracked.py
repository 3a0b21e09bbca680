"""Outputs whose people walk on known tracks, and what `shopframe analyze` says about them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from actors.storage.object_store import ObjectStore
from demo.tracks import Track, frames_of
from jobs.settings import Settings
from tests.support.committed import Found, said, write_output
from tests.support.consolidating import consolidate
from tests.support.in_process import run_in_process

BEGAN = datetime(2026, 3, 7, 9, 0, tzinfo=UTC)
"""A Saturday."""

Frames = Mapping[float, Sequence[Found] | str]
"""What a camera sees, by seconds after `BEGAN`; a text is the error of a frame that failed."""


def person(x: float, y: float, height: float = 0.4, **values: Any) -> Found:
    """A person whose feet are at a place, in shares of the frame, and what SmolVLM says about them."""
    box = (x - height / 8, y - height, x + height / 8, y)
    return Found(box, answers={"smolvlm": said(**values)})


def walked(tracks: Sequence[Track], times_s: Sequence[float], seed: int = 0, missed: float = 0) -> Frames:
    """What a camera sees of people on known tracks."""
    return {
        at: [
            Found(
                one.bbox,
                answers={
                    "smolvlm": said(gender=tracks[one.track].gender, age_group=tracks[one.track].age_group)
                },
            )
            for one in seen
        ]
        for at, seen in frames_of(tracks, times_s, seed, missed)
    }


def write(
    output: Path, cameras: Mapping[str | None, Frames], settings: Settings | None = None
) -> ObjectStore:
    """Commit and consolidate frames of cameras, one shard a camera."""
    store = ObjectStore(str(output))
    shards: dict[str, dict[str, Sequence[Found] | str]] = {}
    names, times = {}, {}
    for number, (camera, frames) in enumerate(cameras.items()):
        for place, (at, found) in enumerate(frames.items()):
            key = f"{number}-{place:06d}"
            shards.setdefault(f"shard-{number}", {})[key] = found
            times[key] = BEGAN + timedelta(seconds=at)
            if camera is not None:
                names[key] = camera
    write_output(store, shards, settings, cameras=names, times=times, person_json="none")
    consolidate(store, of=settings)
    return store


class Analyze:
    """Runs `shopframe analyze` in the process of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def says(self, store: ObjectStore, *options: object, expect: int = 0) -> str:
        """What it prints."""
        code = run_in_process(self._monkeypatch, "analyze", "--output", store.uri, *options)
        printed = self._capsys.readouterr()
        assert code == expect, printed.out + printed.err
        return printed.out + printed.err

    def finds(self, store: ObjectStore, *options: object) -> dict[str, Any]:
        """The object that it prints with `--json`."""
        found: dict[str, Any] = json.loads(self.says(store, "--json", *options))
        return found
