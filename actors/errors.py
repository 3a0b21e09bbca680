"""Everything that Shopframe raises on purpose.

    ShopframeError
    ├── ConfigError                settings or credentials are wrong: nothing is started (exit code 2)
    │   ├── InputError             the input is missing, empty or can't be listed
    │   ├── WeightsError           model weights are missing, unreachable or not the pinned ones
    │   ├── OutputError            the output can't be written
    │   └── GeminiRefusedError     Gemini refuses the key, the model or the settings: its stage stops
    ├── ShardError                 one shard can't be read or processed: the shard is recorded as failed
    │   └── CropRestoreError       crops were not kept and can't be cut again: the committed shard stays
    ├── FrameError                 one frame can't be read or decoded: the frame becomes a row with its reason
    ├── GeminiRateLimitedError     Gemini's quota is spent for now: wait as it says
    ├── GeminiUnavailableError     Gemini can't be reached or has trouble of its own: try again later
    ├── PreconditionError          a conditional write lost: another attempt was faster
    └── StalledError               no shard was committed within the deadline (exit code 3)

Catch by type. Every message names the thing (file, shard, key or field), what is wrong with it
and, where there is one, the remedy.
"""

from typing import Self


class ShopframeError(Exception):
    """Base of all errors below."""


class ConfigError(ShopframeError):
    """Settings or credentials are wrong; the message names the field and the remedy."""


class InputError(ConfigError):
    """The input is missing, empty or can't be listed."""


class WeightsError(ConfigError):
    """Model weights are missing, unreachable or differ from the pinned checksum."""


class OutputError(ConfigError):
    """The output can't be written."""


class GeminiRefusedError(ConfigError):
    """Gemini refuses the key, the model or the settings: no request would be answered.

    Attributes:
        code: HTTP status that was answered, where that was the reason.
    """

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[Self], tuple[str, int | None]]:
        return type(self), (str(self), self.code)


class ShardError(ShopframeError):
    """One shard can't be read or processed; the others go on."""


class CropRestoreError(ShardError):
    """Crops of a committed shard were not kept and can't be cut again; what is committed of it stands."""


class FrameError(ShopframeError):
    """One frame can't be read or decoded; the others go on."""


class GeminiRateLimitedError(ShopframeError):
    """Gemini answered 429: a quota is spent.

    Attributes:
        per_day: Whether the day's quota is spent, rather than that of the minute.
        retry_after_s: Seconds to wait as the server said, or None if it did not say. With `per_day` it
            is no measure of the wait: the server was seen to say less than a minute.
        quota_id: Google's name of the quota, where given.
    """

    def __init__(
        self,
        message: str,
        per_day: bool = False,
        retry_after_s: float | None = None,
        quota_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.per_day = per_day
        self.retry_after_s = retry_after_s
        self.quota_id = quota_id

    def __reduce__(self) -> tuple[type[Self], tuple[str, bool, float | None, str | None]]:
        return type(self), (str(self), self.per_day, self.retry_after_s, self.quota_id)


class GeminiUnavailableError(ShopframeError):
    """Gemini could not be reached, answered too late, or failed: the same request may work later.

    Attributes:
        retry_after_s: Seconds to wait as the server said, or None if it did not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type[Self], tuple[str, float | None]]:
        return type(self), (str(self), self.retry_after_s)


class PreconditionError(ShopframeError):
    """A conditional write found another version of the object than it expected."""


class StalledError(ShopframeError):
    """No shard was committed within the deadline."""
