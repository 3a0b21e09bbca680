"""A run that is refused leaves no new folder behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from actors.errors import ConfigError, ShardError, ShardUnavailableError, StoreError
from actors.storage import layout
from actors.storage.store_errors import STORAGE_ERRORS
from actors.storage.uris import absolute_uri, is_local_uri
from jobs.run.log_files import delete_log_of


@contextmanager
def left_as_found(uri: str | None) -> Iterator[str]:
    """Delete the new folder of an output if the run ends with an error and nothing is there but its log.

    Another run may begin in the same folder meanwhile, so only this run's log and empty folders are deleted.

    Args:
        uri: The output, or None if none is given. In a store without folders nothing is deleted.

    Yields:
        An id for the run, which its log has to have.
    """
    folder = Path(absolute_uri(uri)) if uri and is_local_uri(uri) else None
    made = [] if folder is None else [*takewhile(lambda path: not path.exists(), (folder, *folder.parents))]
    run_id = layout.new_run_id()
    try:
        yield run_id
    except (ConfigError, ShardError, ShardUnavailableError, StoreError, *STORAGE_ERRORS):
        if folder is not None and made and _has_only_a_log(folder):
            with suppress(OSError):
                delete_log_of(folder / layout.LOG, run_id)
            inner = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
            for path in (*inner, *made):
                with suppress(OSError):  # It isn't there, or has got other content.
                    path.rmdir()
        raise


def _has_only_a_log(folder: Path) -> bool:
    return all(path.is_dir() or path == folder / layout.LOG for path in folder.rglob("*"))
