"""What a kind of bad input is, and how its outcome reads in the table of docs/reliability.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_WORDS = ("no", "one", "two", "three", "four", "five", "six")


@dataclass(frozen=True)
class BadShard:
    """A file that is given to a run beside good ones.

    Attributes:
        name: Name of the kind.
        suffix: How its file's name ends, by which it is recognised.
        make: Returns the content, which is the same each time.
        frames: For each of its frames a part of the reason why it fails, or None if it is done.
        error: A part of the reason why the whole shard fails, or None if it doesn't.
    """

    name: str
    suffix: str
    make: Callable[[], bytes]
    frames: tuple[str | None, ...] = ()
    error: str | None = None

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        if self.error is not None:
            return f"the shard fails: {self.error}"
        reasons = [reason for reason in self.frames if reason is not None]
        done = len(self.frames) - len(reasons)
        said = f"{_WORDS[done]} frame{'s' * (done != 1)} done"
        return said + "".join(f"; a frame fails: {reason}" for reason in dict.fromkeys(reasons))


@dataclass(frozen=True)
class BadImage:
    """An image that is a frame among others.

    Attributes:
        name: Name of the kind.
        extension: The extension that it is given.
        make: Returns the content.
        reason: A part of the reason why the frame fails, or None if it is decoded.
    """

    name: str
    extension: str
    make: Callable[[], bytes]
    reason: str | None = None

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        return "decoded" if self.reason is None else f"the frame fails: {self.reason}"


@dataclass(frozen=True)
class BadSidecar:
    """A sidecar beside a good image.

    Attributes:
        name: Name of the kind.
        content: The sidecar.
        note: A part of the frame's note, or None if it has none.
        camera: The camera that the frame then has.
    """

    name: str
    content: bytes
    note: str | None = None
    camera: str | None = None

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        return "taken as text" if self.note is None else f"the frame is done, with the note: {self.note}"


@dataclass(frozen=True)
class BadText:
    """A file or text for a reader that refuses it, or takes it for what it says.

    Attributes:
        name: Name of the kind.
        content: The content.
        says: A part of the message with which it is refused, or None if it is taken.
        remark: The outcome in words, where it is taken.
    """

    name: str
    content: bytes
    says: str | None = None
    remark: str = ""

    @property
    def outcome(self) -> str:
        """The outcome in words."""
        return self.remark if self.says is None else f"refused: {self.says}"
