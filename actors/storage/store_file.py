"""Tell the errors of a store from those of a library that reads a damaged file."""

from __future__ import annotations

from typing import IO, Any

from actors.errors import ShardUnavailableError, StoreError
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text


class StoreFile:
    """A file whose own errors can be told from those of a library, which reports some damage as OSError.

    A damaged file can also make a library seek to places that no file has. That is an OSError or ValueError.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Read as a file does. Raises StoreError, or ShardUnavailableError if the file is gone."""
        try:
            return self._file.read(size)
        except FileNotFoundError as error:
            raise ShardUnavailableError("no longer there, although it existed before") from error
        except STORAGE_ERRORS as error:
            raise StoreError(storage_error_text(error)) from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
