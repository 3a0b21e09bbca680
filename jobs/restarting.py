"""Start a run again when its process dies, as a job on the head of a cluster needs it.

`ray job submit` starts its command once. A driver that is killed, for example by the kernel because memory
ran out, or that loses Ray, leaves committed shards behind, and the same command goes on with them. Ray ends
such a process itself, so the run says when it ends on its own (`jobs/run/supervision.py`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Annotated, NoReturn

import typer

from actors.errors import ConfigError
from jobs import command
from jobs.run import supervision

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 300.0
_RECOVERED_AFTER_S = 600.0
"""Seconds after which a run that dies counts as the first one to die, as in Kubernetes, whose back-off of
containers starts anew after ten minutes."""

_FINAL = (command.EXIT_DONE, command.EXIT_SOME_FAILED, command.EXIT_CONFIG, command.EXIT_INTERRUPTED)
"""Exit codes of a run that has ended by itself and would do the same again."""

Restarts = Annotated[
    int,
    typer.Option(
        "--restarts",
        min=0,
        help="How often in a row the run is started again if its process dies or stalls. Runs of ten minutes "
        "and more don't count.",
    ),
]


def keep_running(restarts: int) -> NoReturn:
    """Run the command line of this process in processes of their own, until one of them ends by itself.

    Args:
        restarts: How often in a row the command is started again.

    Raises:
        typer.Exit: With the exit code of the last process, which is 128 and the number of the signal if one
            killed it.
    """
    left, pause_s = restarts, _FIRST_PAUSE_S
    has_begun = False
    while True:
        started = time.monotonic()
        code, said = _run_once()
        # A cluster that was there before may be coming back.
        may_come_back = has_begun and "began" not in said and code == command.EXIT_CONFIG
        if "ended" in said and code in _FINAL and not may_come_back:
            raise typer.Exit(code)
        has_begun |= "began" in said
        if time.monotonic() - started > _RECOVERED_AFTER_S:
            left, pause_s = restarts, _FIRST_PAUSE_S
        if left == 0:
            raise typer.Exit(code if code > 0 else 128 - code)
        reason = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        typer.echo(
            f"shopframe: the run ended with {reason}; it is started again in {pause_s:.0f} s, "
            f"and at most {left} times",
            err=True,
        )
        time.sleep(pause_s)
        left, pause_s = left - 1, min(_LONGEST_PAUSE_S, 2 * pause_s)


def refuse_with(restarts: int, *, force: bool) -> None:
    """Refuse restarts of a run that would do everything again each time.

    Raises:
        ConfigError: If both are wanted.
    """
    if restarts and force:
        raise ConfigError(
            "--restarts and --force exclude each other: each restart would do every shard again"
        )


def _run_once() -> tuple[int, set[str]]:
    """Run the command once, and pass interrupts on to it.

    Returns:
        Its exit code, negative for a signal, and what it has said (`supervision.Word`).
    """
    reading, writing = os.pipe()
    # The last of several --restarts holds. Because the child has a group of its own, Ctrl-C reaches it once.
    child = subprocess.Popen(  # noqa: S603  our own
        [*sys.orig_argv, "--restarts", "0"],
        process_group=0,
        pass_fds=[writing],
        env={**os.environ, supervision.VARIABLE: str(writing)},
    )
    os.close(writing)
    try:
        while True:
            try:
                return child.wait(), supervision.said(reading)
            except KeyboardInterrupt:
                os.kill(child.pid, signal.SIGTERM)
    finally:
        os.close(reading)
