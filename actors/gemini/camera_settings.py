"""Settings that say of which cameras crops may be sent to Google."""

from __future__ import annotations

from pydantic import Field

from actors.settings_section import Section


class GeminiCameras(Section):
    """Cameras whose crops may be sent to Google."""

    allow: tuple[str, ...] | None = Field(
        None,
        description="Cameras whose crops may be sent. By default, all cameras. If `allow` or `deny` is set, "
        "crops from frames without a camera are never sent.",
    )
    deny: tuple[str, ...] = Field((), description="Cameras whose crops are never sent.")

    @property
    def is_limited(self) -> bool:
        """Whether some crops may not be sent."""
        return self.allow is not None or bool(self.deny)

    def permits(self, camera: str | None) -> bool:
        """Whether crops from this camera may be sent. None stands for a frame that names no camera."""
        if not self.is_limited:
            return True
        known = camera is not None and camera not in self.deny
        return known and (self.allow is None or camera in self.allow)
