"""Check before a run that its input and output give what runs depend on."""

from __future__ import annotations

import shutil
import uuid
from contextlib import suppress

import fsspec

from actors.errors import ConfigError, OutputError, PreconditionError
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, is_unsupported, storage_error_text


def refuse_private(name: str, uri: str) -> None:
    """Refuse a place that other processes can't see. `name` is the setting or option that holds `uri`.

    Raises:
        ConfigError: If the URI names the memory of this process.
    """
    if fsspec.utils.get_protocol(uri) == "memory":
        raise ConfigError(
            f"{name}: {uri} is in the memory of this process, which workers can't see and which is gone at "
            "the end; pass a folder or a bucket URI"
        )


def probe_output(output: ObjectStore) -> str | None:
    """Check that results can be written, and that only one of two competing writers succeeds.

    Commits depend on that: if two attempts at a shard both succeeded, the second would hide the results of
    the first. The object that is written for the check has a name of its own, so that runs on one output
    don't disturb each other, and is deleted again.

    Returns:
        None, or a warning for the user if the output lacks the guarantee and `storage.allow_unsafe` is on.

    Raises:
        OutputError: If the output can't be written, or lacks the guarantee and `storage.allow_unsafe` is off.
    """
    # With `allow_unsafe` the store would look before it writes, which passes any check without a competitor.
    strict = ObjectStore(output.uri, output.settings.model_copy(update={"allow_unsafe": False}))
    folder = layout.probe_folder(uuid.uuid4().hex)
    try:
        problem = _missing_guarantee(strict, f"{folder}/object")
        strict.delete([f"{folder}/object"])
    except STORAGE_ERRORS as error:
        with suppress(*STORAGE_ERRORS):
            strict.delete([f"{folder}/object"])
        raise OutputError(f"output.uri: can't write to {output.uri}: {storage_error_text(error)}") from error
    finally:
        if strict.is_local:
            shutil.rmtree(strict.full(folder), ignore_errors=True)
    if problem is None:
        return None
    if output.settings.allow_unsafe:
        return (
            f"{output.uri} {problem}. storage.allow_unsafe is on, so the run goes on; don't start a second "
            "run on this output, because the two could overwrite each other's results"
        )
    raise OutputError(
        f"output.uri: {output.uri} {problem}, so two runs could overwrite each other's results; choose an "
        "output with conditional writes (S3, or a disk with hard links), or set storage.allow_unsafe=true "
        "and never start two runs on this output"
    )


def _missing_guarantee(store: ObjectStore, path: str) -> str | None:
    """Return the guarantee that the store doesn't give, as the end of a sentence, or None."""
    # A store that refuses even this is one that can't be written at all.
    store.write(path, b"")
    store.delete([path])
    try:
        first = store.create(path, b"first")
    except OSError as error:
        if not is_unsupported(error):
            raise
        return "has no hard links" if store.is_local else "refuses conditional writes (If-None-Match)"
    try:
        store.create(path, b"second")
    except PreconditionError:
        pass
    else:
        return "accepts two creations of one object (it ignores If-None-Match)"
    store.replace(path, b"third", first)
    try:
        store.replace(path, b"fourth", first)
    except PreconditionError:
        return None
    return "replaces an object that has changed since (it ignores If-Match)"
