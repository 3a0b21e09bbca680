"""Runs and erasures keep off each other: a run could bring back what is erased beside it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from actors.errors import ConfigError
from actors.gemini.backlog.claims import Claims
from actors.storage import layout
from actors.storage.object_store import ObjectStore

_ERASURE = "erase"
_LOOK_EVERY_S = 0.5


@contextmanager
def working(output: ObjectStore) -> Iterator[None]:
    """Show that a run works on an output.

    Raises:
        ConfigError: Persons are being erased from the output.
        OSError: The store can't be read or written.
    """
    claims = Claims(output, f"run-{layout.new_run_id()}")
    try:
        # An erasure first claims the output and then looks for runs, so one of the two sees the other.
        claims.appear()
        if claims.is_held(_ERASURE):
            raise ConfigError(
                f"output.uri: persons are being erased from {output.uri}; run again when that is done"
            )
        yield
    finally:
        claims.close()


@contextmanager
def erasing(output: ObjectStore) -> Iterator[None]:
    """Claim an output for an erasure.

    Raises:
        ConfigError: A run, or another erasure, works on the output.
        OutputError: The object in the claim's place is not a claim.
        OSError: The store can't be read or written.
    """
    claims = Claims(output, f"erase-{layout.new_run_id()}")
    try:
        while (claim := claims.take(_ERASURE)) == "unknown":
            time.sleep(_LOOK_EVERY_S)
        if claim == "theirs":
            raise ConfigError(f"output.uri: another erasure works on {output.uri}; run again when it is done")
        try:
            if claims.others():
                raise ConfigError(
                    f"output.uri: a run works on {output.uri} and could bring back who is erased; wait "
                    "until it has ended, or stop it, and run again"
                )
            yield
        finally:
            claims.release(_ERASURE)
    finally:
        claims.close()
