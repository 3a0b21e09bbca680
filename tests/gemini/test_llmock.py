"""The client works with llmock, an independent implementation of a Gemini server."""

from __future__ import annotations

import asyncio
import json

from actors.errors import GeminiRateLimitedError
from actors.gemini.api.packing import pack
from tests.servers.gemini_server import gemini_server
from tests.servers.llmock_process import llmock_process
from tests.support.gemini_asking import SCHEMA, asking, client, crops, single


def test_a_wait_as_long_as_it_says_is_long_enough():
    """llmock allows 30 requests at first, and one more every 2 s."""
    requests = list(pack(crops(33), 1, seed=0))

    async def all_of_them(base_url: str):
        found, limited = {}, []
        async with client(base_url, "any", model="gemini-2.5-pro") as opened:
            waiting = list(requests)
            while waiting:
                try:
                    answer = await opened.ask(waiting[0])
                except GeminiRateLimitedError as error:
                    limited.append(error)
                    await asyncio.sleep(error.retry_after_s or 0)
                else:
                    found |= answer.annotations
                    del waiting[0]
        return found, limited

    with llmock_process("--rpm", "30") as server:
        found, limited = asyncio.run(all_of_them(server.base_url))
        seen = server.get("requests")["requests"]
        findings = server.get("verdict")["findings"]
    assert len(found) == len(requests)
    # llmock makes up an image id, because the schema doesn't say which ids are valid.
    assert {annotation.status for annotation in found.values()} == {"invalid"}
    assert all("echo" in str(annotation.reason) for annotation in found.values())
    assert not any(error.per_day for error in limited)
    # Each wait was long enough, so no request was refused twice.
    assert 1 <= len(limited) <= 3
    assert len(seen) == len(requests) + len(limited)
    assert "retry_after_ignored" not in str(findings)


def test_an_answer_with_the_right_id_is_taken():
    with gemini_server() as ours:
        good = asking(ours.base_url, ours.key, lambda c: c.ask(single()))
    (annotation,) = good.annotations.values()
    item = {"image_id": single().ids[0], **SCHEMA.nest(annotation.values)}
    with llmock_process() as server:
        server.script({"type": "reply", "text": json.dumps({"persons": [item]})})
        answer = asking(server.base_url, "any", lambda c: c.ask(single()), model="gemini-2.5-pro")
    assert answer.annotations == good.annotations
    assert answer.usage.input > 0
