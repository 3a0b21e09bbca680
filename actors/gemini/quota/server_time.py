"""The time by the server's clock, which decides when a minute or a day of the quota begins."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from actors.gemini.quota.lease import Clock

log = logging.getLogger(__name__)

_WARN_FROM_S = 5.0
"""A smaller difference between the clocks is not worth a warning."""


class ServerTime:
    """A clock that is corrected by the `Date` header of the server's responses.

    A response tells the server's time to the second, between the sending of the request and the arrival of
    the response. A clock that agrees with that is left alone, so a machine with the right time never jumps.

    Args:
        clock: This machine's clock.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ahead_s = 0.0
        self._warned = False

    def now(self) -> float:
        """Return the seconds since the epoch by the server's clock, as far as it is known."""
        return self._clock.now() - self._ahead_s

    async def sleep(self, seconds: float) -> None:
        """Wait for the given number of seconds."""
        await self._clock.sleep(seconds)

    def local(self) -> float:
        """Return the seconds since the epoch by this machine's clock."""
        return self._clock.now()

    def observe(self, headers: Mapping[str, str], sent_at: float) -> None:
        """Compare the clocks by a response that has just arrived.

        Args:
            headers: Headers of the response.
            sent_at: When the request was sent, from `local`.
        """
        value = next((text for name, text in headers.items() if name.lower() == "date"), "")
        try:
            date_s = parsedate_to_datetime(value).timestamp()
        except ValueError:
            return
        least_s, most_s = sent_at - (date_s + 1), self._clock.now() - date_s
        if least_s <= self._ahead_s <= most_s:
            return
        self._ahead_s = (least_s + most_s) / 2
        if abs(self._ahead_s) >= _WARN_FROM_S and not self._warned:
            self._warned = True
            log.warning(
                "this machine's clock is %.0f s %s Gemini's, which counts for the quota; synchronise it",
                abs(self._ahead_s),
                "ahead of" if self._ahead_s > 0 else "behind",
            )
