"""`shopframe serve`: look at persons and correct them, on a local page."""

from __future__ import annotations

import asyncio
import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import command

if TYPE_CHECKING:
    from jobs.serving.session import Session


def serve(
    output: command.Output = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8440,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. By default only this machine can connect.")
    ] = "127.0.0.1",
    reviewer: Annotated[
        str | None, typer.Option("--reviewer", help="Who decides. By default your user name.")
    ] = None,
    cache: Annotated[
        Path, typer.Option("--cache", help="Folder on this machine for pictures and copies of remote tables.")
    ] = command.CACHE,
    cache_gib: Annotated[
        float, typer.Option("--cache-gib", min=0.01, help="Maximum size of the pictures in it, in GiB.")
    ] = 2.0,
    config: command.Config = None,
    overrides: command.Set = None,
) -> None:
    """Look at persons and correct them, on a local page."""
    from jobs.serving.session import Session

    store = command.output_of(command.load(config, overrides, output=output))
    who = (reviewer or getpass.getuser()).strip()
    typer.echo(f"reading {store.uri} ...", err=True)
    session = Session(store, who, cache.expanduser(), round(cache_gib * 2**30))
    try:
        asyncio.run(_serve(session, host, port))
    except KeyboardInterrupt:
        typer.echo("stopped; all decisions are in the output", err=True)
        if session.unsaved:
            typer.echo(f"next: shopframe consolidate --output {store.uri}", err=True)
    raise typer.Exit(command.EXIT_DONE)


async def _serve(session: Session, host: str, port: int) -> None:
    from jobs.serving.server import start

    served = await start(session, host, port)
    typer.echo(served.address)
    typer.echo(
        "Open it in a browser. It is a key: everyone who has it can see and correct the persons.", err=True
    )
    typer.echo("Ctrl-C stops it.", err=True)
    try:
        await asyncio.Event().wait()
    finally:
        await served.runner.cleanup()
        session.close()


if __name__ == "__main__":
    command.run(serve)
