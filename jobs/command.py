"""What all commands share: their options, how settings are loaded, and how errors become exit codes.

Nothing heavy is imported here, so that `--help` comes at once: a command imports its work when it is called.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actors.errors import ConfigError, ShardError, StalledError

if TYPE_CHECKING:
    from actors.storage.object_store import ObjectStore
    from jobs.settings import LoadedSettings

EXIT_DONE = 0
"""Everything that could be done is done."""
EXIT_SOME_FAILED = 1
"""Some shards failed and are recorded."""
EXIT_CONFIG = 2
"""Settings or credentials are wrong, and nothing was started."""
EXIT_STALLED = 3
"""Nothing was committed within the deadline."""
EXIT_INTERRUPTED = 130
"""A person or the system stopped the command; what was committed is intact."""

_INTERRUPTED = "interrupted; committed shards are intact: run the same command again"

Config = Annotated[
    list[str] | None, typer.Option("--config", help="YAML file over conf/default.yaml; repeatable.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="key.path=value over the files; repeatable.")]
Input = Annotated[str | None, typer.Option("--input", help="Shards or images: folder, prefix, file, glob.")]
Output = Annotated[str | None, typer.Option("--output", help="Where results go: folder, s3://..., any URL.")]


def load(
    config: list[str] | None,
    overrides: list[str] | None,
    source: str | None = None,
    output: str | None = None,
    base: tuple[str, dict[str, Any]] | None = None,
) -> LoadedSettings:
    """The settings of a command from its options; `base` as for `jobs.settings.load_settings`.

    Raises:
        ConfigError: Naming the file or option, the key, what is wrong and what to do.
    """
    from jobs.settings import load_settings

    options = {"input.uri": ("--input", source), "output.uri": ("--output", output)}
    return load_settings(config or (), overrides or (), options, base)


def output_of(loaded: LoadedSettings) -> ObjectStore:
    """The output that the settings name.

    Raises:
        ConfigError: They name none.
    """
    from actors.storage.object_store import ObjectStore

    if not loaded.settings.output.uri:
        raise ConfigError("output.uri: missing; give --output")
    return ObjectStore(loaded.settings.output.uri, loaded.settings.storage)


def new_app() -> typer.Typer:
    """An empty command line in the style of this project."""
    return typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def run(command: Callable[..., None]) -> None:
    """`python -m jobs.<name> ...`: one command by itself, with this process's arguments."""
    app = new_app()
    app.command()(command)
    run_app(app)


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> None:
    """Run a command line and turn its errors into messages and exit codes; ends the process.

    Args:
        app: What understands the arguments.
        arguments: By default this process's own.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell's `&` starts its children with SIGINT ignored; a job must be stoppable all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: int
    try:
        code = app(None if arguments is None else list(arguments), standalone_mode=False) or EXIT_DONE
        if code == EXIT_INTERRUPTED:  # typer's own answer to Ctrl-C
            _say(_INTERRUPTED, code)
    except (ConfigError, ShardError) as error:
        code = _say(error, EXIT_CONFIG)
    except StalledError as error:
        code = _say(error, EXIT_STALLED)
    except KeyboardInterrupt:
        code = _say(_INTERRUPTED, EXIT_INTERRUPTED)
    except typer.Exit as done:
        code = done.exit_code
    except typer.TyperException as error:
        code = _say(getattr(error, "format_message", error.__str__)(), EXIT_CONFIG)
    except Exception as error:
        from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

        if not isinstance(error, STORAGE_ERRORS):
            raise
        code = _say(f"input or output: {storage_error_text(error)}", EXIT_CONFIG)
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads of Ray and of native libraries may not end by themselves after an interrupted run.
    os._exit(code)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _say(message: object, code: int) -> int:
    # Where only help was wanted there is none.
    if message:
        typer.echo(f"shopframe: {message}", err=True)
    return code
