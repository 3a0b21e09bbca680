"""The exceptions that Shopframe raises on purpose.

    ShopframeError
    ├── ConfigError                settings or credentials are wrong; nothing is started (exit code 2)
    │   ├── InputError             the input is missing, empty or can't be listed
    │   ├── WeightsError           model weights are missing, unreachable or not the pinned ones
    │   │   └── TokenizationError  a model's tokenizer doesn't suit the engine that is to run it
    │   ├── OutputError            the output can't be written
    │   └── GeminiRefusedError     Gemini refuses the key, model or settings; its stage stops
    │       ├── GeminiKeyError     Gemini refuses the key
    │       └── GeminiModelError   Gemini doesn't have the model
    ├── ShardError                 the content of one shard can't be used; the shard is recorded as failed
    ├── ShardUnavailableError      one shard can't be processed now; its commit stays as it is
    │   └── CropRestoreError       crops were not kept and can't be cut again
    ├── StoreError                 a store can't be reached or refuses a request; try again later
    ├── ServerUnavailableError     the server of the local annotator's model doesn't answer; try again later
    ├── FrameError                 one frame can't be read or decoded; its row states the reason
    ├── GeminiRateLimitedError     Gemini's quota is used up for now; wait as it says
    ├── GeminiUnavailableError     Gemini can't be reached or fails; try again later
    ├── PreconditionError          a conditional write failed because another writer was faster
    └── StalledError               nothing moved within the deadline (exit code 3)

Catch errors by their type. Every message names the file, shard, key or field, says what is wrong
with it and, if there is one, gives the remedy.
"""

from typing import Self


class ShopframeError(Exception):
    """The base class of all errors below."""


class ConfigError(ShopframeError):
    """Settings or credentials are wrong; the message names the field and the remedy."""


class InputError(ConfigError):
    """The input is missing, empty or can't be listed."""


class WeightsError(ConfigError):
    """Model weights are missing, unreachable or differ from the pinned checksum."""


class TokenizationError(WeightsError):
    """A model's tokenizer doesn't split texts as the engine assumes that is to run the model."""


class OutputError(ConfigError):
    """The output can't be written."""


class GeminiRefusedError(ConfigError):
    """Gemini refuses the key, the model or the settings, so no request would be answered.

    Attributes:
        code: HTTP status of the response, if it was the reason.
        may_be_counted: Whether the refused request may count against the project's quota. It doesn't if the
            key or the model is unknown.
    """

    def __init__(self, message: str, code: int | None = None, may_be_counted: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.may_be_counted = may_be_counted

    def __reduce__(self) -> tuple[type[Self], tuple[str, int | None, bool]]:
        return type(self), (str(self), self.code, self.may_be_counted)


class GeminiKeyError(GeminiRefusedError):
    """Gemini refuses the key."""


class GeminiModelError(GeminiRefusedError):
    """Gemini doesn't have the model."""


class ShardError(ShopframeError):
    """The content of one shard can't be used. The shard is recorded as failed; the others continue."""


class ShardUnavailableError(ShopframeError):
    """One shard can't be processed now, for a reason that isn't in its content. Trying again soon won't help.

    The shard is postponed: its commit, if it has one, stays as it is. The others continue.
    """


class CropRestoreError(ShardUnavailableError):
    """Crops of a committed shard were not kept and can't be cut again."""


class StoreError(ShopframeError):
    """A store can't be reached or refuses a request; the same request may work later."""


class ServerUnavailableError(ShopframeError):
    """The server of the local annotator's model can't be reached, is too busy, or fails.

    The same request may work later.
    """


class FrameError(ShopframeError):
    """One frame can't be read or decoded; the others continue."""


class GeminiRateLimitedError(ShopframeError):
    """Gemini answered 429 because a quota is used up.

    Attributes:
        per_day: Whether it is the daily quota, rather than the one per minute.
        retry_after_s: Seconds to wait according to the server, or None if it gave no time. Don't rely on
            it with `per_day`: servers have answered less than a minute.
        quota_id: Google's name of the quota, if the response has it.
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
    """Gemini could not be reached, answered too late, or failed; the same request may work later.

    Attributes:
        retry_after_s: Seconds to wait according to the server, or None if it gave no time.
        was_sent: Whether the request can have reached the server.
        may_be_billed: Whether the server may have answered the request, although the answer didn't arrive.
    """

    def __init__(
        self,
        message: str,
        retry_after_s: float | None = None,
        was_sent: bool = True,
        may_be_billed: bool = False,
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.was_sent = was_sent
        self.may_be_billed = may_be_billed

    def __reduce__(self) -> tuple[type[Self], tuple[str, float | None, bool, bool]]:
        return type(self), (str(self), self.retry_after_s, self.was_sent, self.may_be_billed)


class PreconditionError(ShopframeError):
    """A conditional write found a different version of the object than it expected."""


class StalledError(ShopframeError):
    """Nothing moved within the deadline."""
