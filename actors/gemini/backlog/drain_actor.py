"""The actor of a run that works off the shards of the backlog."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ray.exceptions import ActorDiedError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_fixed

from actors.errors import ShopframeError
from actors.gemini.backlog.claims import Claims
from actors.gemini.backlog.drain import Drained, ShardDrainer
from actors.gemini.protocol import Answers, AskedCrop, DrainTask
from actors.gemini.quota.ledger import RunSpend
from actors.log_lines import LineFields, NewLines, about_shard
from actors.storage.request_counts import NewRequests
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text

_ACTOR_TRIES = 4
"""Number of tries per call, because an actor that another run has started ends with that run."""

_THREADS = 16
"""Number of shards that are loaded or committed at the same time."""


class DrainActor:
    """Works off many shards at once, which spend nearly all their time waiting for answers.

    Args:
        drainer: Works off a shard.
        find_annotator: Returns the handle of the annotator's actor, and starts the actor if it isn't running.
        holder: Name of this run in its claims.
        log_run_id: Id of the run in the lines of its log, if this process logs as a worker.
    """

    def __init__(
        self,
        drainer: ShardDrainer,
        find_annotator: Callable[[], Any],
        holder: str,
        log_run_id: str | None = None,
    ) -> None:
        self._lines = NewLines(log_run_id)
        self._drainer = drainer
        self._find_annotator = find_annotator
        self._annotator = find_annotator()
        self._claims = Claims(drainer.committer.store, holder)
        self._has_threads = False
        self._store_requests = NewRequests()

    async def drain(self, task: DrainTask) -> Drained:
        """Work off one shard, unless another run works on it."""
        with about_shard(task.shard_id):
            drained = await self._drain(task)
        return replace(drained, store_requests=self._store_requests.take(), lines=self._lines.take())

    async def _drain(self, task: DrainTask) -> Drained:
        self._use_threads()
        try:
            claim = await asyncio.to_thread(self._claims.take, task.shard_id)
            if claim != "ours":
                return Drained(task.shard_id, claim=claim)
            try:
                return await self._drainer.drain(task, self._ask)
            finally:
                await asyncio.to_thread(self._claims.release, task.shard_id)
        except ShopframeError as error:
            return Drained(task.shard_id, error=str(error))
        except STORAGE_ERRORS as error:
            return Drained(task.shard_id, error=storage_error_text(error))

    async def finish(self) -> tuple[RunSpend, tuple[LineFields, ...]]:
        """End the annotator's run and the claims when there is nothing more to ask.

        Returns:
            What the run has spent, and the last warnings and errors that were logged here.
        """
        spent: RunSpend = await self._call("finish")
        await asyncio.to_thread(self._claims.close)
        return spent, self._lines.take()

    def _use_threads(self) -> None:
        """Give the loop enough threads for loading and committing, which mostly wait for the store."""
        if not self._has_threads:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "gemini-shards"))
            self._has_threads = True

    async def _ask(self, crops: Sequence[AskedCrop]) -> Answers:
        answer: Answers = await self._call("ask", list(crops))
        return answer

    async def _call(self, method: str, *arguments: Any) -> Any:
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(ActorDiedError),
            wait=wait_fixed(1),
            stop=stop_after_attempt(_ACTOR_TRIES),
            before=self._find_again,
            reraise=True,
        )

        async def call() -> Any:
            return await getattr(self._annotator, method).remote(*arguments)

        return await attempts(call)

    async def _find_again(self, state: RetryCallState) -> None:
        if state.attempt_number > 1:
            self._annotator = await asyncio.to_thread(self._find_annotator)
