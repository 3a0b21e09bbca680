"""Everything that Shopframe raises on purpose.

    ShopframeError
    ├── ConfigError          settings or credentials are wrong: nothing is started (exit code 2)
    │   ├── InputError       the input is missing, empty or can't be listed
    │   ├── WeightsError     model weights are missing, unreachable or not the pinned ones
    │   └── OutputError      the output can't be written
    ├── ShardError           one shard can't be read or processed: the shard is recorded as failed
    ├── FrameError           one frame can't be read or decoded: the frame becomes a row with its reason
    ├── PreconditionError    a conditional write lost: another attempt got there first
    └── StalledError         no shard was committed within the deadline (exit code 3)

Catch by type. Every message names the thing (file, shard, key or field), what is wrong with it
and, where there is one, the remedy.
"""


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


class ShardError(ShopframeError):
    """One shard can't be read or processed; the others go on."""


class FrameError(ShopframeError):
    """One frame can't be read or decoded; the others go on."""


class PreconditionError(ShopframeError):
    """A conditional write found another version of the object than it expected."""


class StalledError(ShopframeError):
    """No shard was committed within the deadline."""
