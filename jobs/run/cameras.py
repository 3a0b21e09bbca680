"""Cameras that the settings name but no frame has: their zones and limits silently do nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from actors.detect.roi import RoiSettings
from actors.gemini.camera_settings import GeminiCameras
from actors.storage.commit_record import Counts

_NAMED = 10


@dataclass(slots=True)
class SeenCameras:
    """The cameras of an output's frames, as far as its commit records list them.

    Attributes:
        frames: Number of frames by camera.
        listed: Number of frames in the shards whose records list their cameras.
        not_listed: Number of frames in the other shards.
    """

    frames: Counter[str] = field(default_factory=Counter)
    listed: int = 0
    not_listed: int = 0

    def add(self, counts: Counts) -> None:
        """Add the frames of one shard."""
        if counts.cameras is None:
            self.not_listed += counts.frames
            return
        self.frames.update(counts.cameras)
        self.listed += counts.frames

    def warnings(self, roi: RoiSettings, gemini: GeminiCameras) -> list[str]:
        """Return a line for each setting that names cameras of which there is no frame."""
        if not self.listed:
            return []
        return [
            f"{setting}: none of the {self.listed:,} frames is of camera {', '.join(missing)}, so it has no "
            f"effect there ({self._describe()}); check the names, input.sidecars, input.camera_column and "
            "input.key_pattern"
            for setting, missing in absent_cameras(roi, gemini, self.frames)
        ]

    def _describe(self) -> str:
        names = sorted(self.frames)
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        parts = [f"cameras found: {', '.join(names[:_NAMED]) or 'none'}{more}"]
        if unnamed := self.listed - self.frames.total():
            parts.append(f"{unnamed:,} frames name no camera")
        if self.not_listed:
            parts.append(f"the cameras of {self.not_listed:,} other frames are not in their commit records")
        return "; ".join(parts)


def absent_cameras(
    roi: RoiSettings, gemini: GeminiCameras, seen: Container[str]
) -> Iterator[tuple[str, list[str]]]:
    """Yield each setting that names cameras which weren't seen, and those cameras."""
    named = {
        "roi.static": {zone.camera for zone in roi.static} - {"*"},
        "gemini.cameras.allow": set(gemini.allow or ()),
        "gemini.cameras.deny": set(gemini.deny),
    }
    for setting, cameras in named.items():
        missing = sorted(camera for camera in cameras if camera not in seen)
        if missing:
            yield setting, missing
