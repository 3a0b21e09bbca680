"""What a client has sent and got: requests by outcome, tokens and cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from actors.errors import GeminiRateLimitedError, GeminiRefusedError, GeminiUnavailableError
from actors.gemini.api.answer import GeminiAnswer


@dataclass(frozen=True, slots=True)
class Traffic:
    """Sums since the process of the client started.

    Attributes:
        requests: Number of requests by outcome: `answered`, `rate_limited` (429), `refused` or `unavailable`.
        input_tokens: Input tokens by the server's count.
        output_tokens: Output tokens by the server's count, thinking included.
        cost_usd: Cost of these tokens in US dollars.
    """

    requests: Mapping[str, int]
    input_tokens: int
    output_tokens: int
    cost_usd: float


class TrafficCounter:
    """Adds up the traffic of a client."""

    def __init__(self) -> None:
        self._requests: Counter[str] = Counter()
        self._input_tokens = self._output_tokens = 0
        self._cost_usd = 0.0

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Count the request that is sent in this context, if it fails."""
        try:
            yield
        except GeminiRateLimitedError:
            self._requests["rate_limited"] += 1
            raise
        except GeminiUnavailableError:
            self._requests["unavailable"] += 1
            raise
        except GeminiRefusedError:
            self._requests["refused"] += 1
            raise

    def answered(self, answer: GeminiAnswer, cost_usd: float) -> None:
        """Count a response and what it cost."""
        self._requests["answered" if answer.refusal is None else "refused"] += 1
        self._input_tokens += answer.usage.input
        self._output_tokens += answer.usage.output + answer.usage.thinking
        self._cost_usd += cost_usd

    def so_far(self) -> Traffic:
        """Return the sums."""
        return Traffic(dict(self._requests), self._input_tokens, self._output_tokens, self._cost_usd)
