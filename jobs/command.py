"""The options, the loading of settings and the exit codes that all subcommands share.

Heavy modules are not imported here, so that `--help` responds at once. Each subcommand imports what it needs
when it is called.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors.errors import ConfigError, ShardError, ShardUnavailableError, StalledError, StoreError
from jobs.run import supervision

if TYPE_CHECKING:
    from actors.storage.object_store import ObjectStore
    from jobs.settings import LoadedSettings

EXIT_DONE = 0
"""Everything that could be done is done."""
EXIT_SOME_FAILED = 1
"""Some shards failed and are recorded, or were postponed to the next run."""
EXIT_DAMAGED = 1
"""`shopframe verify` found something wrong in the output."""
EXIT_CONFIG = 2
"""Settings or credentials are wrong, and nothing was started."""
EXIT_STALLED = 3
"""No shard was committed within the deadline, or Ray failed."""
EXIT_INTERRUPTED = 130
"""The user or the system stopped the command. Committed shards are intact."""

CACHE = Path("~/.cache/shopframe/serve")
"""Default folder of the pictures and tables that `shopframe serve` keeps on this machine."""

_GC_THRESHOLD = 50_000
"""New objects after which cyclic garbage is collected. With Python's default, 700, collections took a third
of the CPU time of a run over 100,000 shards, whose plan is large and has no cycles."""

_INTERRUPTED = "interrupted; committed shards are intact. Run the same command again to continue"

_OF_THE_LAST_RUN = ("output", "schema", "consensus")
"""Sections of the configuration that derived data depend on."""

_CONTEXT = {"help_option_names": ["-h", "--help"]}

Config = Annotated[
    list[str] | None, typer.Option("--config", help="YAML file that overrides conf/default.yaml. Repeatable.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="key.path=value that overrides the files. Repeatable.")
]
Input = Annotated[
    str | None, typer.Option("--input", help="Shards or images: a folder, bucket prefix, file or glob.")
]
Output = Annotated[
    str | None,
    typer.Option("--output", help="Where results are written: a folder, s3://... or any fsspec URL."),
]


def load(
    config: list[str] | None,
    overrides: list[str] | None,
    source: str | None = None,
    output: str | None = None,
    base: tuple[str, dict[str, Any]] | None = None,
) -> LoadedSettings:
    """Load the settings of a subcommand from its options. `base` is passed to `jobs.settings.load_settings`.

    Raises:
        ConfigError: If a setting is wrong. The message names the file or option, the key, the problem and
            the remedy.
    """
    from jobs.settings import load_settings

    options = {"input.uri": ("--input", source), "output.uri": ("--output", output)}
    return load_settings(config or (), overrides or (), options, base)


def load_as_last_run(
    config: list[str] | None, overrides: list[str] | None, output: str | None
) -> LoadedSettings:
    """Load settings of which those of derived data are those of the last run unless they are given.

    Raises:
        ConfigError: If a setting is wrong, or the output has no run.
    """
    from jobs.run.run_record import read_run

    store = output_of(load(config, overrides, output=output))
    earlier = {key: value for key, value in read_run(store).config.items() if key in _OF_THE_LAST_RUN}
    return load(config, overrides, output=output, base=("run.json", earlier))


def output_of(loaded: LoadedSettings) -> ObjectStore:
    """Return the output that the settings name.

    Raises:
        ConfigError: If `output.uri` is not set.
    """
    from actors.storage.object_store import ObjectStore

    if not loaded.settings.output.uri:
        raise ConfigError("output.uri: missing; pass --output")
    return ObjectStore(loaded.settings.output.uri, loaded.settings.storage)


def new_app() -> typer.Typer:
    """Return an empty typer app with Shopframe's options."""
    return typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings=_CONTEXT,
    )


def run(command: Callable[..., None]) -> None:
    """Run a single subcommand, as `python -m jobs.<name> ...`, with this process's arguments."""
    app = new_app()
    # With a single command, typer ignores the context settings of the app.
    app.command(context_settings=_CONTEXT)(command)
    run_app(app)


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run a command line, turn its errors into messages and exit codes, and end the process.

    Args:
        app: The typer app that parses the arguments.
        arguments: The arguments, by default those of this process.
    """
    gc.set_threshold(_GC_THRESHOLD)
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell starts background commands (`&`) with SIGINT ignored, but a run must stay interruptible.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: int
    try:
        code = app(None if arguments is None else list(arguments), standalone_mode=False) or EXIT_DONE
        if code == EXIT_INTERRUPTED:  # typer handles Ctrl-C itself and returns this code
            _say(_INTERRUPTED, code)
    except (ConfigError, ShardError, ShardUnavailableError) as error:
        code = _say(error, EXIT_CONFIG)
    except StoreError as error:
        code = _say(error, EXIT_SOME_FAILED)
    except StalledError as error:
        code = _say(error, EXIT_STALLED)
    except KeyboardInterrupt:
        code = _say(_INTERRUPTED, EXIT_INTERRUPTED)
    except typer.Exit as done:
        code = done.exit_code
    except typer.TyperException as error:
        said = str(getattr(error, "format_message", error.__str__)())
        code = _say(said.replace(": Value error, ", ": "), EXIT_CONFIG)
    except Exception as error:
        from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

        if not isinstance(error, STORAGE_ERRORS):
            raise
        code = _say(f"input or output: {storage_error_text(error)}", EXIT_CONFIG)
    sys.stdout.flush()
    sys.stderr.flush()
    supervision.say("ended")
    # After an interrupted run, threads of Ray and of native libraries may not end by themselves.
    os._exit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _say(message: object, code: int) -> int:
    # The message is empty if only the help was requested.
    if message:
        typer.echo(f"shopframe: {message}", err=True)
    return code
