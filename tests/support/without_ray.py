"""Run whole commands in the process of the test, with every part of a run except for Ray.

A run on Ray takes ten seconds and more of a core to start processes. Most tests look at what a run decides,
reads and writes, which is the same without them. The shards pass the real stages one after another. The
actors of the Gemini stage are objects of this process, whose methods run in a loop of their own.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import io
import os
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import ray

from actors import log_lines
from actors.attempt_tracker import Snapshot
from actors.commit.accounting import ShardSummary
from actors.gemini import stage as gemini_stage
from actors.gemini.quota.quota import Clock
from actors.shard_block import ShardBlock, ShardTask, from_parcel, report_nothing, to_parcel
from actors.stage_workers import work_on
from actors.stages import BlockStage
from jobs.run import backlog_on_ray, gemini_drain, work_on_ray
from jobs.run.graph import rest_of
from jobs.run.ray_session import Session
from jobs.run.stage_resources import Reach
from tests.servers.gemini_server import KEY
from tests.support import gemini_job
from tests.support.in_process import run_in_process


def annotate(
    source: object, output: object, *options: object, expect: int = 0, clock: Clock | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `shopframe annotate`, which must end with the expected exit code.

    A shard that a fault of the infrastructure has stopped is not tried again.

    Args:
        source: The input.
        output: The output.
        options: Further options.
        expect: The exit code.
        clock: The clock that Gemini's quota uses, by default that of this machine.
    """
    return command("annotate", "--input", source, "--output", output, *options, expect=expect, clock=clock)


def gemini(
    output: object, base_url: str, *more: object, expect: int = 0, clock: Clock | None = None, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Run `shopframe gemini` with `settings` of the gemini section; the others are those of `annotate`."""
    given = gemini_job.options(base_url, **settings)
    return command("gemini", "--output", output, *given, *more, expect=expect, clock=clock)


def command(
    *arguments: object,
    expect: int | None = 0,
    clock: Clock | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run any command without Ray, which must end with the expected exit code.

    Args:
        arguments: The command and its options.
        expect: The exit code, or None for any.
        clock: The clock that Gemini's quota uses, by default that of this machine.
        environment: Variables to set during the run. By default, that is the key of the local Gemini server.
    """
    with pytest.MonkeyPatch.context() as patch, _outputs() as (stdout, stderr):
        for name, value in (environment or {"GEMINI_API_KEY": KEY}).items():
            patch.setenv(name, value)
        with _actors_here(patch):
            _leave_ray_out(patch, clock)
            code = run_in_process(patch, *arguments)
        done = subprocess.CompletedProcess(arguments, code, stdout(), stderr())
    assert expect in (None, done.returncode), done.stdout + done.stderr
    return done


@contextmanager
def _outputs() -> Iterator[tuple[Any, Any]]:
    """Capture standard output and standard error, which runs also write to by its number."""
    with tempfile.TemporaryFile("w+") as said, redirect_stdout(io.StringIO()) as printed:
        before = os.dup(2)
        os.dup2(said.fileno(), 2)

        def stderr() -> str:
            said.seek(0)
            return said.read()

        try:
            with redirect_stderr(said):
                yield printed.getvalue, stderr
        finally:
            os.dup2(before, 2)
            os.close(before)


def _leave_ray_out(patch: pytest.MonkeyPatch, clock: Clock | None) -> None:
    @contextmanager
    def no_session(_: object) -> Iterator[Session]:
        yield Session(cpus=1.0, gpus=0.0, reach=Reach())

    for module in (work_on_ray, backlog_on_ray):
        patch.setattr(module, "ray_session", no_session)
    patch.setattr(work_on_ray, "start_tracker", lambda: None)
    patch.setattr(work_on_ray, "_snapshots", lambda *_: Snapshot)
    patch.setattr(work_on_ray, "run_graph", _run_graph)
    # The actors' lines go where those of the driver go, because this is one process.
    patch.setattr(log_lines, "log_as_worker", lambda *_: None)
    if clock is not None:
        patch.setattr(work_on_ray, "make_stage", partial(gemini_stage.make_stage, clock=clock))
        patch.setattr(gemini_drain, "drain", partial(gemini_drain.drain, clock=clock))


def _run_graph(
    tasks: Sequence[ShardTask], stages: Sequence[BlockStage], *_: object
) -> Iterator[ShardSummary]:
    for stage in stages:
        if any(task.work in stage.concerns for task in tasks):
            stage.prepare()
    waiting = deque(tasks)
    while waiting:
        task = waiting.popleft()
        block = ShardBlock(task)
        for stage in stages:
            if task.work in stage.concerns and (block.error is None or stage.takes_failed):
                done = work_on(stage, block, report_nothing)
                (block,) = from_parcel(to_parcel([done]))
        summary = ShardSummary.from_block(block)
        rest = rest_of(task, summary)
        if rest is not None:
            waiting.appendleft(rest)
        yield replace(summary, has_rest=rest is not None)


class _Reference:
    """The result of a call, which can be awaited in a loop and waited for in a thread."""

    def __init__(self, running: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self.future = asyncio.run_coroutine_threadsafe(running, loop)

    def __await__(self) -> Iterator[Any]:
        return asyncio.wrap_future(self.future).__await__()


class _Actors:
    """Takes the place of the module `ray` in the Gemini stage."""

    exceptions = ray.exceptions

    def __init__(self) -> None:
        self.named: dict[str | None, object] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="actors", daemon=True)
        self._thread.start()

    def remote(self, actor: type) -> _Class:
        return _Class(self, actor)

    def start(self, running: Coroutine[Any, Any, Any]) -> _Reference:
        return _Reference(running, self._loop)

    def get(self, reference: _Reference) -> Any:
        return reference.future.result()

    def wait(
        self, references: Sequence[_Reference], timeout: float | None = None, **_: object
    ) -> tuple[list[_Reference], list[_Reference]]:
        concurrent.futures.wait([one.future for one in references], timeout)
        ready = [one for one in references if one.future.done()]
        return ready, [one for one in references if one not in ready]

    def stop(self) -> None:
        self.start(_cancel_others()).future.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_default_executor()


class _Class:
    def __init__(self, actors: _Actors, actor: type, name: str | None = None) -> None:
        self._actors, self._actor, self._name = actors, actor, name

    def options(self, name: str | None = None, **_: object) -> _Class:
        return _Class(self._actors, self._actor, name)

    def remote(self, *arguments: object) -> _Handle:
        """Return the actor with this name if there is one, as `get_if_exists` asks for."""
        made = self._actors.named.get(self._name) or self._actor(*arguments)
        if self._name is not None:
            self._actors.named[self._name] = made
        return _Handle(self._actors, made)


class _Handle:
    def __init__(self, actors: _Actors, made: object) -> None:
        self._actors, self._made = actors, made

    def __getattr__(self, name: str) -> _Method:
        return _Method(self._actors, getattr(self._made, name))


class _Method:
    def __init__(self, actors: _Actors, method: Any) -> None:
        self._actors, self._method = actors, method

    def remote(self, *arguments: object) -> _Reference:
        async def call() -> Any:
            found = self._method(*arguments)
            return await found if inspect.isawaitable(found) else found

        return self._actors.start(call())


@contextmanager
def _actors_here(patch: pytest.MonkeyPatch) -> Iterator[None]:
    actors = _Actors()
    patch.setattr(gemini_stage, "ray", actors)
    try:
        yield
    finally:
        actors.stop()
