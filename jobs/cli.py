"""The `shopframe` command, and the `main` of every `python -m jobs.<name>`."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Annotated, Any

import typer

from actors.errors import ConfigError, ShardError, StalledError
from jobs.settings import LoadedSettings, describe, load_settings

EXIT_CONFIG, EXIT_INTERRUPTED = 2, 130

_INTERRUPTED = "interrupted; committed shards are intact: run the same command again"

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Annotate every person in archived store-camera frames.",
)

Config = Annotated[
    list[str] | None, typer.Option("--config", help="YAML file over conf/default.yaml; repeatable.")
]
Set = Annotated[list[str] | None, typer.Option("--set", help="key.path=value over the files; repeatable.")]
Input = Annotated[str | None, typer.Option("--input", help="Shards or images: folder, prefix, file, glob.")]
Output = Annotated[str | None, typer.Option("--output", help="Where results go: folder, s3://..., any URL.")]


@app.command()
def annotate(
    source: Input = None,
    output: Output = None,
    config: Config = None,
    overrides: Set = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Only the failed shards.")] = False,
    retry_annotator: Annotated[
        str | None, typer.Option("--retry-annotator", help="Only what this annotator did not answer well.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Everything again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only draw the ROI and its verdicts on a sample of frames.")
    ] = False,
) -> None:
    """Find and annotate the people in every shard that is not done yet."""
    if sum((retry_failed, retry_annotator is not None, force)) > 1:
        raise ConfigError("--retry-failed, --retry-annotator and --force exclude each other: give one")
    loaded = _load(config, overrides, source, output)
    from jobs.run.annotation import annotate as run
    from jobs.run.plan import Scope

    scope: Scope = "missing"
    if retry_failed:
        scope = "failed"
    elif retry_annotator is not None:
        scope = "annotator"
    elif force:
        scope = "force"
    raise typer.Exit(run(loaded, scope, retry_annotator, dry_run))


@app.command()
def gemini(output: Output = None, config: Config = None, overrides: Set = None) -> None:
    """Ask Gemini about whoever waits, under the quota, without any local work."""
    from jobs.run.gemini_drain import drain
    from jobs.run.output_status import read_run

    run = read_run(_output_of(_load(config, overrides, None, output)))
    # The run's own settings, so that nobody is asked again for want of a --config; Ray's and the
    # store's are those of this machine.
    earlier = {key: value for key, value in run["config"].items() if key not in ("ray", "storage")}
    options = {"output.uri": ("--output", output)}
    raise typer.Exit(
        drain(load_settings(config or (), overrides or (), options, ("run.json", earlier)).settings)
    )


@app.command()
def status(
    output: Output = None,
    config: Config = None,
    overrides: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what is done, what failed, what waits, and what to do next."""
    from rich.console import Console

    from jobs.run.output_status import output_status
    from jobs.run.progress import print_summary

    found = output_status(_output_of(_load(config, overrides, None, output)))
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_summary(Console(), found, {})


@app.command()
def consolidate(output: Output = None, config: Config = None, overrides: Set = None) -> None:
    """Bring consolidated/ up to date with the commit records."""
    from actors.attributes import AttributeSchema, SchemaSettings
    from jobs.run.consolidation import consolidate as run
    from jobs.run.output_status import read_run

    store = _output_of(_load(config, overrides, None, output))
    schema = AttributeSchema(SchemaSettings.model_validate(read_run(store)["config"]["schema"]))
    done = run(store, schema)
    typer.echo(
        f"{done.persons:,} persons of {done.shards:,} shards in {done.files:,} files under "
        f"{store.uri}/consolidated ({done.written:,} written now)"
    )


@app.command()
def evaluate(
    truth: Annotated[str, typer.Option("--truth", help="Parquet with one row a known person.")],
    output: Output = None,
    report: Annotated[
        str | None,
        typer.Option("--report", help="Where the evaluation goes; by default <output>/evaluation."),
    ] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Frames that the truth does not name show nobody.")
    ] = False,
    config: Config = None,
    overrides: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Measure the committed output against a truth table."""
    from rich.console import Console

    from actors.storage import layout
    from actors.storage.object_store import ObjectStore
    from jobs.evaluation.measures import evaluate as run
    from jobs.evaluation.terminal import print_evaluation

    store = _output_of(_load(config, overrides, None, output))
    place = ObjectStore(report or f"{store.uri}/{layout.EVALUATION}", store.settings)
    found, files = run(store, truth, place, complete)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
    else:
        print_evaluation(Console(), found, files)


@app.command()
def shards(
    images: Annotated[str, typer.Option("--images", help="Folder or prefix of images.")],
    output: Annotated[str, typer.Option("--output", help="Where the tars go.")],
    config: Config = None,
    overrides: Set = None,
    frames_per_shard: Annotated[int, typer.Option(min=1, help="Most images in one tar.")] = 2000,
) -> None:
    """Pack loose images into WebDataset shards."""
    from jobs.run.packing import pack_images

    storage = _load(config, overrides, None, None).settings.storage
    done = pack_images(images, output, storage, frames_per_shard=frames_per_shard)
    typer.echo(
        f"{done.frames:,} frames in {done.shards_written + done.shards_skipped:,} shards under {output} "
        f"({done.shards_written:,} written now, {len(done.left_out):,} images left out)"
    )
    for path, reason in done.left_out[:20]:
        typer.echo(f"left out: {path}: {reason}")


@app.command("config")
def show_config(
    config: Config = None,
    overrides: Set = None,
    source: Input = None,
    output: Output = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also what each key means.")] = False,
) -> None:
    """Print the effective configuration, validated, with where each value came from."""
    for path, value, origin, meaning in describe(_load(config, overrides, source, output)):
        if explain:
            typer.echo(f"# {meaning}")
        typer.echo(f"{path}: {json.dumps(value, ensure_ascii=False)}  # {origin}")


def _load(
    config: list[str] | None, overrides: list[str] | None, source: str | None, output: str | None
) -> LoadedSettings:
    options: dict[str, tuple[str, Any]] = {
        "input.uri": ("--input", source),
        "output.uri": ("--output", output),
    }
    return load_settings(config or (), overrides or (), options)


def _output_of(loaded: LoadedSettings) -> Any:
    from actors.storage.object_store import ObjectStore

    if not loaded.settings.output.uri:
        raise ConfigError("output.uri: missing; give --output")
    return ObjectStore(loaded.settings.output.uri, loaded.settings.storage)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and turn its errors into messages and exit codes."""
    signal.signal(signal.SIGTERM, _interrupt)
    # A shell's `&` starts its children with SIGINT ignored; a job must be stoppable all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code: int
    try:
        code = app(arguments, standalone_mode=False) or 0
        if code == EXIT_INTERRUPTED:  # typer's own answer to Ctrl-C
            _say(_INTERRUPTED, code)
    except (ConfigError, ShardError) as error:
        code = _say(error, EXIT_CONFIG)
    except StalledError as error:
        code = _say(error, 3)
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


def main_of(command: str) -> None:
    """`python -m jobs.<command> ...`: the same as `shopframe <command> ...`."""
    main([command, *sys.argv[1:]])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _say(message: object, code: int) -> int:
    # Where only help was wanted there is none.
    if message:
        typer.echo(f"shopframe: {message}", err=True)
    return code


if __name__ == "__main__":
    main()
