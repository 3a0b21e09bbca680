"""Several crops in one request, and their answers back.

Each crop goes with an id that its answer must echo. Models that are shown several images now and then
leave one out, answer twice, or shift their answers by one, so an answer is used only if it echoes each id
exactly once; otherwise the request is asked again in halves. Ids are not numbers in a row, which a model
could count up without looking.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

_ID_CHARS = 4
"""Hex digits of an id; more where two crops of a request would share one."""

INLINE_BYTES = 14 << 20
"""Most bytes of images in one request: base64 makes 4/3 of them, and a request may have 20 MB
(ai.google.dev/gemini-api/docs/image-understanding)."""


@dataclass(frozen=True, slots=True)
class Crop:
    """One person to be asked about.

    Attributes:
        key: Who it is, to the caller; unique among the crops that are packed together.
        jpeg: Encoded image.
    """

    key: str
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class PackedRequest:
    """Crops of one request.

    Attributes:
        crops: In the order in which they are shown; at least one.
        ids: What the answers must echo, one a crop, in the same order; all different.
    """

    crops: tuple[Crop, ...]
    ids: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of the request: the same crops in the same order have the same, anywhere and always."""
        digest = hashlib.sha256()
        for echo_id, crop in zip(self.ids, self.crops, strict=True):
            digest.update(f"{echo_id}\n{crop.key}\n{hashlib.sha256(crop.jpeg).hexdigest()}\n".encode())
        return digest.hexdigest()[:32]


def pack(
    crops: Iterable[Crop],
    per_request: int,
    seed: int,
    tokens: Callable[[Crop], int] | None = None,
    max_tokens: int | None = None,
) -> Iterator[PackedRequest]:
    """Put crops together in a shuffled order, so that neighbours in a frame seldom share a request.

    The order is that of a hash of seed and key: it depends on nothing else, so a run that was
    interrupted puts the rest in the same order as it would have.

    Args:
        crops: With unique keys.
        per_request: Most crops of a request.
        seed: Other seeds give other orders.
        tokens: Estimated input tokens of a crop; needed with `max_tokens`.
        max_tokens: Most tokens of a request's crops together; a crop above goes alone.

    Raises:
        ValueError: Two crops have the same key.
    """
    ordered = sorted(crops, key=lambda crop: (_digest(seed, crop.key), crop.key))
    repeated = [key for key, count in Counter(crop.key for crop in ordered).items() if count > 1]
    if repeated:
        raise ValueError(f"crop {repeated[0]!r} is to be packed twice")
    group: list[Crop] = []
    group_bytes = group_tokens = 0
    for crop in ordered:
        crop_tokens = tokens(crop) if tokens else 0
        too_many = max_tokens is not None and group_tokens + crop_tokens > max_tokens
        if group and (len(group) == per_request or too_many or group_bytes + len(crop.jpeg) > INLINE_BYTES):
            yield request_of(group, seed)
            group, group_bytes, group_tokens = [], 0, 0
        group.append(crop)
        group_bytes += len(crop.jpeg)
        group_tokens += crop_tokens
    if group:
        yield request_of(group, seed)


def request_of(crops: Sequence[Crop], seed: int) -> PackedRequest:
    """One request of these crops, in this order."""
    digests = [_digest(seed, crop.key) for crop in crops]
    length = _ID_CHARS
    while len({digest[:length] for digest in digests}) < len(digests):
        length += 1
    return PackedRequest(tuple(crops), tuple(digest[:length] for digest in digests))


def halves(request: PackedRequest) -> tuple[PackedRequest, PackedRequest]:
    """The two requests that a mixed-up one is asked again as; each crop keeps its id.

    Raises:
        ValueError: The request has a single crop.
    """
    if len(request.crops) < 2:
        raise ValueError("a request of one crop can't be split")
    middle = len(request.crops) // 2
    first = PackedRequest(request.crops[:middle], request.ids[:middle])
    return first, PackedRequest(request.crops[middle:], request.ids[middle:])


def mismatch(request: PackedRequest, echoed_ids: Iterable[str]) -> str | None:
    """How the ids that came back differ from those asked for, or None if each came exactly once.

    Args:
        request: What was asked.
        echoed_ids: The id of each answer.
    """
    echoed = Counter(echoed_ids)
    missing = [echo_id for echo_id in request.ids if not echoed[echo_id]]
    doubled = [echo_id for echo_id in request.ids if echoed[echo_id] > 1]
    foreign = sum(count for echo_id, count in echoed.items() if echo_id not in request.ids)
    if not (missing or doubled or foreign):
        return None
    counted = f"{len(missing)} missing, {len(doubled)} doubled, {foreign} foreign"
    return f"the answers don't echo the {len(request.ids)} ids: {counted}"


def _digest(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}\n{key}".encode()).hexdigest()
