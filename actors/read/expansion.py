"""Refuse compressed files that expand to far more than images do."""

from __future__ import annotations

from typing import IO

from actors.errors import ShardError

_ALWAYS_ALLOWED_BYTES = 64 * 2**20
_MOST_TIMES = 100
"""Encoded images hardly get smaller by compression. Drawn ones that aren't encoded may, by this much."""


def check_expansion(size_bytes: int, compressed_bytes: int) -> None:
    """Check that something compressed is not much larger than the bytes that hold it.

    Args:
        size_bytes: Size after decompression, as far as it is known.
        compressed_bytes: Size before it.

    Raises:
        ShardError: It is a bomb.
    """
    if size_bytes > max(_ALWAYS_ALLOWED_BYTES, _MOST_TIMES * compressed_bytes):
        raise ShardError(
            f"expands to {size_bytes} bytes or more, from {compressed_bytes}: more than {_MOST_TIMES} times "
            "its size, so it isn't made of images; pack it again without compression"
        )


class ExpandingFile:
    """A decompressing file that is read forward, and only as far as images can expand."""

    def __init__(self, file: IO[bytes], compressed_bytes: int) -> None:
        self._file = file
        self._compressed_bytes = compressed_bytes

    def read(self, size: int = -1) -> bytes:
        """Read as a file does. Raises ShardError."""
        data = self._file.read(size)
        check_expansion(self._file.tell(), self._compressed_bytes)
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        """Seek as a file does, which decompresses everything before the position. Raises ShardError."""
        check_expansion(position, self._compressed_bytes)
        return self._file.seek(position, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()
