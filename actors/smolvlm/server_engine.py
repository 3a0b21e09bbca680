"""The engine `server`: annotate crops with a model that a server runs.

A request that fails after all its retries says little: the server may be restarting, or this one crop may
crash it. So the crops that failed are asked about again, one at a time, and a crop is only blamed if the
server answers a question about a grey picture before and after it. If it doesn't answer that one, it is the
server that fails; the worker waits for it, and in the end gives the shard up for now, without an outcome.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from http import HTTPStatus
from threading import Event

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from actors.attributes import AttributeSchema
from actors.errors import ConfigError, ServerUnavailableError
from actors.records import Annotation
from actors.smolvlm.server_client import Refusal, ServerClient
from actors.smolvlm.server_settings import API_KEY_VARIABLE, read_server_key
from actors.smolvlm.settings import ResolvedSmolVLM, SmolVLMSettings

log = logging.getLogger(__name__)

_LONGEST_WAIT_S = 30.0
_PROBE_SIDE_PX = 224
_NOT_PERMITTED = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class ServerEngine:
    """Annotates crops by requests to one server."""

    def __init__(self, settings: SmolVLMSettings, resolved: ResolvedSmolVLM, schema: AttributeSchema) -> None:
        """Check that the server answers as it must. A server that can't be reached may come up later.

        Raises:
            ConfigError: The server refuses the key, the model, pictures or the schema.
        """
        self._settings = settings.server
        self._address = resolved.source
        self._model = resolved.model
        self._client = ServerClient(
            resolved.source,
            settings.server,
            resolved.model,
            resolved.prompt,
            schema,
            settings.reasoning,
            read_server_key(),
        )
        try:
            found = self._client.ask(self._grey_picture, patiently=False)
        except ServerUnavailableError as error:
            log.warning("%s; shards wait for it", error)
            return
        if isinstance(found, Refusal):
            raise ConfigError(self._explain(found))
        if found.status == "invalid":
            log.warning(
                "smolvlm.server: %s does not keep to the JSON schema; its answer about a grey picture is %s",
                self._address,
                found.reason,
            )

    def annotate(
        self,
        crops: Sequence[bytes],
        answered: Callable[[int, Sequence[Annotation]], None] = lambda _start, _answers: None,
    ) -> list[Annotation]:
        """Annotate each crop, as `CropEngine` says; one by one.

        The outcome is "error" for a crop that the server refuses or fails on, while it answers about others.

        Raises:
            ServerUnavailableError: The server doesn't answer.
        """
        answers: dict[int, Annotation] = {}

        def settle(index: int, answer: Annotation) -> None:
            answers[index] = answer
            answered(index, [answer])

        waiting = list(range(len(crops)))
        while waiting:
            refused, failed, waiting = self._ask_together(crops, waiting, settle)
            if refused or failed:
                self._wait_for_server()
            for index, refusal in refused.items():
                settle(index, _refused(refusal))
            for index in failed:
                settle(index, self._ask_alone(crops[index]))
        return [answers[index] for index in range(len(crops))]

    def _ask_together(
        self, crops: Sequence[bytes], indices: Sequence[int], settle: Callable[[int, Annotation], None]
    ) -> tuple[dict[int, Refusal], list[int], list[int]]:
        """Ask about many crops at once, until a request fails.

        Returns:
            What the server refuses, the crops that were in flight when it failed, and those that were not
            asked about any more.
        """
        has_failed = Event()

        def ask(index: int) -> Annotation | Refusal | ServerUnavailableError | None:
            if has_failed.is_set():
                return None
            try:
                return self._client.ask(crops[index])
            except ServerUnavailableError as error:
                has_failed.set()
                return error

        refused: dict[int, Refusal] = {}
        failed, left = [], []
        with ThreadPoolExecutor(self._settings.max_in_flight, thread_name_prefix="questions") as pool:
            asked = {pool.submit(ask, index): index for index in indices}
            for future in as_completed(asked):
                index, found = asked[future], future.result()
                if isinstance(found, Annotation):
                    settle(index, found)
                elif isinstance(found, Refusal):
                    refused[index] = found
                elif found is None:
                    left.append(index)
                else:
                    failed.append(index)
        return refused, sorted(failed), sorted(left)

    def _ask_alone(self, crop: bytes) -> Annotation:
        try:
            found = self._client.ask(crop, patiently=False)
        except ServerUnavailableError as error:
            self._wait_for_server()
            return Annotation("error", f"the server fails on this crop: {error}")
        return _refused(found) if isinstance(found, Refusal) else found

    def _wait_for_server(self) -> None:
        """Return once the server answers a question about a grey picture.

        Raises:
            ServerUnavailableError: It doesn't within the time set for an outage.
        """
        patiently = Retrying(
            retry=retry_if_exception_type(ServerUnavailableError),
            wait=wait_random_exponential(multiplier=1, max=_LONGEST_WAIT_S),
            stop=stop_after_delay(self._settings.outage_s),
            reraise=True,
        )
        patiently(self._probe)

    def _probe(self) -> None:
        found = self._client.ask(self._grey_picture, patiently=False)
        if isinstance(found, Refusal):
            # For example, while the server loads its model again.
            raise ServerUnavailableError(self._explain(found))

    def _explain(self, refusal: Refusal) -> str:
        """Return what to do about a question that can't be the crop's fault."""
        said = f"smolvlm.server: {self._address} refuses: {refusal.reason}"
        if refusal.status in _NOT_PERMITTED:
            return f"{said}; set its key in {API_KEY_VARIABLE} on every node"
        models = self._client.models()
        if models and self._model not in models:
            return (
                f"{said}; it has no model {self._model}: set smolvlm.model to one of {', '.join(models[:10])}"
            )
        return f"{said}; does {self._model} take pictures, and the server response_format json_schema?"

    @cached_property
    def _grey_picture(self) -> bytes:
        from PIL import Image

        sink = io.BytesIO()
        Image.new("RGB", (_PROBE_SIDE_PX, _PROBE_SIDE_PX), (127, 127, 127)).save(sink, "JPEG")
        return sink.getvalue()


def _refused(refusal: Refusal) -> Annotation:
    return Annotation("error", f"the server refuses this crop: {refusal.reason}")
