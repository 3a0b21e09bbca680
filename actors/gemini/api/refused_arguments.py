"""Find out whether the server refuses the arguments of all requests, and which settings they come from."""

from __future__ import annotations

import re

import cv2
import numpy as np

from actors.gemini.api.packing import Crop, PackedRequest, request_of

_SETTINGS = {
    "level": "gemini.thinking_level",
    "budget": "gemini.thinking_budget",
    "temperature": "gemini.temperature",
    "resolution": "gemini.media_resolution",
    "maxoutput": "gemini.answer_tokens",
    "schema": "schema.attributes",
    "states": "schema.attributes",
}
"""Maps words of the server's messages and field names to the settings that the arguments come from."""

_THINKING = ("gemini.thinking_level", "gemini.thinking_budget")


def remedy_of(message: str) -> str:
    """Return what the user should change after the server has refused an argument.

    Args:
        message: The server's message and the names of the fields that it refused. It may name none of them.
    """
    letters = re.sub(r"[^a-z]", "", message.lower())
    named = list(dict.fromkeys(setting for word, setting in _SETTINGS.items() if word in letters))
    if not named and "thinking" in letters:
        named = list(_THINKING)
    if named:
        return f"change {' and '.join(named)} to what the model accepts, or choose another gemini.model"
    known = ", ".join(dict.fromkeys(_SETTINGS.values()))
    return (
        f"the server names no setting: check {known} against the documentation of the model, or choose "
        "another gemini.model"
    )


def blank_request() -> PackedRequest:
    """Return a request with one grey image, which is only refused if its arguments are."""
    encoded = cv2.imencode(".jpg", np.full((64, 32, 3), 128, np.uint8))[1]
    return request_of([Crop("blank", encoded.tobytes())], seed=0)
