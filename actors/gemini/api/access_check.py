"""Find out before a run whether Gemini refuses its key, or doesn't have its model."""

from __future__ import annotations

import asyncio
import difflib
import logging

from actors.errors import (
    GeminiKeyError,
    GeminiModelError,
    GeminiRateLimitedError,
    GeminiRefusedError,
    GeminiUnavailableError,
)
from actors.gemini.api.client import GeminiClient
from actors.gemini.settings import GeminiSettings, ResolvedGemini

log = logging.getLogger(__name__)

_LONGEST_S = 10.0
"""Seconds to wait for an answer. A run can begin without one."""


def check_access(settings: GeminiSettings, resolved: ResolvedGemini) -> None:
    """Ask for the model's description, which costs no quota, and refuse a key or model that Gemini refuses.

    A model without a description is refused only if Gemini doesn't count tokens for it either. Any other
    answer, or none, is left to the first request about persons: Gemini may answer by then, and a gateway may
    permit that request only.

    Raises:
        GeminiKeyError: Gemini refuses the key. The message names the variable and the remedy.
        GeminiModelError: Gemini doesn't have the model. The message names the field and the remedy.
        ConfigError: GEMINI_API_KEY is not set.
    """
    asyncio.run(_check(settings, resolved))


async def _check(settings: GeminiSettings, resolved: ResolvedGemini) -> None:
    hurried = settings.model_copy(update={"timeout_s": min(settings.timeout_s, _LONGEST_S)})
    client = GeminiClient(hurried, resolved, resolved.schema)
    try:
        await client.check()
    except GeminiKeyError:
        raise
    except GeminiModelError as error:
        raise GeminiModelError(
            f"{error}{await _suggestion(client)}", error.code, error.may_be_counted
        ) from None
    except (GeminiRateLimitedError, GeminiRefusedError, GeminiUnavailableError) as error:
        log.info("key and model were not checked: %s", error)
    except Exception as error:  # noqa: BLE001  libraries that are not ours can raise anything
        # Only errors of Shopframe are known to lack the key in their texts.
        log.info("key and model were not checked: %s", type(error).__name__)
    finally:
        await client.close()


async def _suggestion(client: GeminiClient) -> str:
    try:
        async with asyncio.timeout(_LONGEST_S):
            names = await client.model_names()
    except Exception:  # noqa: BLE001  the run ends with the reason that it has, whatever happens here
        return ""
    near = difflib.get_close_matches(client.resolved.model, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
