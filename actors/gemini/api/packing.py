"""Pack several crops into one request and match the answers to them.

Each crop is sent with an id that its answer must echo. Models that are shown several images sometimes skip
an image, answer it twice, or shift their answers by one. The answers to a request are therefore used only
if they echo each id exactly once; otherwise the request is sent again in halves. The ids aren't
consecutive numbers, because a model could count those up without looking at the images.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

_ID_CHARS = 4
"""Hex digits of an id. More are used if two crops of a request would otherwise share an id."""

INLINE_BYTES = 14 << 20
"""Maximum bytes of images in one request. Base64 makes them 4/3 as large, and a request may have 20 MB
(ai.google.dev/gemini-api/docs/image-understanding)."""


@dataclass(frozen=True, slots=True)
class Crop:
    """The crop of one person.

    Attributes:
        key: Identifies the person for the caller. Unique among the crops that are packed together.
        jpeg: Encoded image.
    """

    key: str
    jpeg: bytes


@dataclass(frozen=True, slots=True)
class PackedRequest:
    """The crops of one request and their ids.

    Attributes:
        crops: Crops in the order in which the model sees them; at least one.
        ids: The ids that the answers must echo, one per crop, in the same order. All are different.
    """

    crops: tuple[Crop, ...]
    ids: tuple[str, ...]

    @property
    def key(self) -> str:
        """Key of the request, which depends only on its crops, their order and their ids."""
        digest = hashlib.sha256()
        for echo_id, crop in zip(self.ids, self.crops, strict=True):
            digest.update(f"{echo_id}\n{crop.key}\n{hashlib.sha256(crop.jpeg).hexdigest()}\n".encode())
        return digest.hexdigest()[:32]

    def part(self, keys: Collection[str]) -> PackedRequest:
        """Return a request with the crops that have these keys. Each crop keeps its id."""
        kept = [(c, i) for c, i in zip(self.crops, self.ids, strict=True) if c.key in keys]
        return PackedRequest(tuple(crop for crop, _ in kept), tuple(echo_id for _, echo_id in kept))


def pack(
    crops: Iterable[Crop],
    per_request: int,
    seed: int,
    tokens: Callable[[Crop], int] | None = None,
    max_tokens: int | None = None,
) -> Iterator[PackedRequest]:
    """Pack crops in a shuffled order, so that neighbours in a frame seldom share a request.

    Crops are sorted by a hash of the seed and their key. The order depends on nothing else, so after an
    interruption the remaining crops are packed in the same order as before.

    Args:
        crops: Crops with unique keys.
        per_request: Maximum number of crops per request.
        seed: Seed of the order; different seeds give different orders.
        tokens: Returns the estimated input tokens of a crop; needed with `max_tokens`.
        max_tokens: Maximum total tokens of a request's crops. A crop with more gets its own request.

    Raises:
        ValueError: Two crops have the same key.
    """
    ordered = sorted(crops, key=lambda crop: (_digest(seed, crop.key), crop.key))
    repeated = [key for key, count in Counter(crop.key for crop in ordered).items() if count > 1]
    if repeated:
        raise ValueError(f"crop {repeated[0]!r} was passed twice; crop keys must be unique")
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
    """Return one request with these crops, in this order."""
    digests = [_digest(seed, crop.key) for crop in crops]
    length = _ID_CHARS
    while len({digest[:length] for digest in digests}) < len(digests):
        length += 1
    return PackedRequest(tuple(crops), tuple(digest[:length] for digest in digests))


def halves(request: PackedRequest) -> tuple[PackedRequest, PackedRequest]:
    """Split a request whose answer can't be used into two requests. Each crop keeps its id.

    Raises:
        ValueError: The request has a single crop.
    """
    if len(request.crops) < 2:
        raise ValueError("a request of one crop can't be split")
    middle = len(request.crops) // 2
    first = PackedRequest(request.crops[:middle], request.ids[:middle])
    return first, PackedRequest(request.crops[middle:], request.ids[middle:])


def mismatch(request: PackedRequest, echoed_ids: Iterable[str]) -> str | None:
    """Describe how the echoed ids differ from those of the request.

    Args:
        request: The request that was sent.
        echoed_ids: The id of each answer.

    Returns:
        The difference, or None if each id was echoed exactly once.
    """
    echoed = Counter(echoed_ids)
    missing = [echo_id for echo_id in request.ids if not echoed[echo_id]]
    doubled = [echo_id for echo_id in request.ids if echoed[echo_id] > 1]
    foreign = sum(count for echo_id, count in echoed.items() if echo_id not in request.ids)
    if not (missing or doubled or foreign):
        return None
    counted = f"{len(missing)} missing, {len(doubled)} doubled, {foreign} foreign"
    return f"{counted} of {len(request.ids)}"


def _digest(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}\n{key}".encode()).hexdigest()
