"""Notice when answers are unusable for a lasting reason, before they cost a day's quota."""

from __future__ import annotations

from actors.gemini.api.answer import GeminiAnswer

_IN_A_ROW = 5
"""Number of answers in a row that are unusable for one reason, until the reason counts as lasting. One crop
that always spoils its answer makes at most two in a row while its request is split."""

_SHOWN_CHARS = 300


class UnusableAnswers:
    """Counts the answers in a row that hold nothing usable for the same reason."""

    def __init__(self) -> None:
        self._problem: str | None = None
        self._count = 0

    def note(self, answer: GeminiAnswer) -> str | None:
        """Count an answer.

        Returns:
            A message for the user if the reason is lasting: it has the reason, an answer and the remedy, and
            nothing of the crops. The answer may hold what the server was sent, so secrets have to be removed.
        """
        if answer.problem is None or answer.problem != self._problem:
            self._problem, self._count = answer.problem, 0
        if answer.problem is None:
            return None
        self._count += 1
        if self._count < _IN_A_ROW:
            return None
        reason = answer.split_reason or next(iter(answer.annotations.values())).reason
        shown = " ".join(answer.text.split())
        if len(shown) > _SHOWN_CHARS:
            shown = f"{shown[:_SHOWN_CHARS]}..."
        return (
            f"the last {self._count} answers were all unusable for one reason, so nothing more is asked: "
            f"{reason}; one of them was: {shown or '(empty)'}; check gemini.model, gemini.prompt, "
            "gemini.answer_tokens and schema.attributes, then run again"
        )
