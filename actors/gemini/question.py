"""The question that Gemini is asked, and which known answers are answers to it.

A question is a prompt and a schema. The model and the settings of its requests are not part of it, so answers
of an earlier model stay good when the model is changed, unless they are to be asked for again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from actors.fingerprint import fingerprint_of, question_of, reuse_of

_ANSWER_VERSION = 1
"""Raise this number when the same prompt and schema begin to be asked in a way that gives other answers."""

RequestSettings = Mapping[str, Any]
"""Settings of the requests of an earlier version, by their names in the gemini section."""

_REQUEST_KEYS = ("model", "temperature", "thinking_budget", "media_resolution", "max_side_px", "reasoning")

_FORMER_DEFAULT: RequestSettings = {
    "model": "gemini-2.5-flash",
    "temperature": 0,
    "thinking_budget": 0,
    "media_resolution": "auto",
    "max_side_px": 384,
    "reasoning": False,
}
"""The settings that version 0.1 used if nothing else was configured."""


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt and a schema, and the models whose answers are accepted.

    Attributes:
        fingerprint: Hash of the prompt and the schema.
        earlier: Fingerprints with which earlier versions recorded answers to the same question, and the model
            that gave these answers.
        only_model: The only model whose answers are accepted, or None to accept those of every model.
        reuse: What stands in a fingerprint for the groups that share an answer; "" if nobody inherits.
    """

    fingerprint: str
    earlier: Mapping[str, str] = field(default_factory=dict)
    only_model: str | None = None
    reuse: str = ""

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """All fingerprints with which answers to this question are recorded."""
        return (self.fingerprint, *self.earlier)

    def is_asked_by(self, fingerprint: str | None) -> bool:
        """Return whether answers that are recorded with this fingerprint are about this question."""
        return fingerprint is not None and question_of(fingerprint) in self.fingerprints

    def shares_as(self, fingerprint: str | None) -> bool:
        """Return whether answers that are recorded with this fingerprint are shared as in this run."""
        return fingerprint is not None and reuse_of(fingerprint) == self.reuse

    def accepts(self, model: object) -> bool:
        """Return whether answers of this model are accepted."""
        return self.only_model is None or model == self.only_model


def question_fingerprint(prompt_sha256: str, schema_sha256: str, reasoning: bool) -> str:
    """Return the fingerprint of a question."""
    return fingerprint_of(
        {
            "question": _ANSWER_VERSION,
            "prompt": prompt_sha256,
            "schema": schema_sha256,
            "reasoning": reasoning,
        }
    )


def request_settings(section: Mapping[str, Any]) -> RequestSettings | None:
    """Return what a recorded gemini section says about the requests, if an earlier version recorded it.

    Those versions included the model and the settings of the requests in their fingerprints.
    """
    if "reask" in section or any(key not in section for key in _REQUEST_KEYS):
        return None
    return {key: section[key] for key in _REQUEST_KEYS}


def earlier_fingerprints(
    requests: Iterable[RequestSettings], prompt_sha256: str, schema_sha256: str, reasoning: bool
) -> dict[str, str]:
    """Return the fingerprints of earlier versions for the same question, and the model of each.

    Nothing is guessed: a recorded fingerprint can only be equal to one of these if the prompt and the schema
    were the same.

    Args:
        requests: Settings of requests that may have been used; the former defaults are always included.
        prompt_sha256: SHA-256 of the prompt.
        schema_sha256: Fingerprint of the schema.
        reasoning: Whether answers include an explanation.
    """
    return {
        fingerprint_of({"answer": 1, "prompt": prompt_sha256, "schema": schema_sha256, **request}): str(
            request["model"]
        )
        for request in (_FORMER_DEFAULT, *requests)
        if request["reasoning"] == reasoning
    }
