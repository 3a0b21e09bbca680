"""The index of answers, in which an annotator's answer is found by the crop that it is about.

An answer belongs to a picture and a question, not to a shard. The index holds the answers to one question in
segments, which are Parquet files sorted by the digest of the crop. A segment's name says with which
hexadecimal digits all of its digests begin. A new segment has none. When a prefix has more than a few
segments, they are merged, and the result is distributed to the 16 longer prefixes if it is large. A search
therefore reads a few segments per digit, and in each only the rows around the digest.

Segments are never changed, and the same answer may be in several of them. Writers therefore need no lock: two
that merge the same segments only write the same answers twice.
"""

from __future__ import annotations

import json
import logging
import time
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from actors.records import Annotation
from actors.storage import layout
from actors.storage.map_ahead import map_ahead
from actors.storage.object_store import ObjectStore

log = logging.getLogger(__name__)

_LEAF_ROWS = 50_000
"""Rows from which merged segments are distributed to longer prefixes. It bounds the memory of a merge."""

_MOST_SEGMENTS = 4
"""Segments of one prefix that are not merged yet."""

_ROW_GROUP_ROWS = 512
"""Rows that are read to find one of them."""

_WHOLE_BYTES = 1 << 20
"""Size up to which a segment is read by one request instead of several."""

_RELISTS = 20
"""How often a search lists the segments because some were merged away before it had read them."""

_LISTED_FOR_S = 600.0

_COLUMNS = pa.schema([("crop_sha256", pa.string()), ("answer", pa.string())])


_Texts = dict[tuple[str, str | None], str]
"""Answers as text, by the digest of the crop and the model."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An annotator's answer about one crop.

    Attributes:
        crop_sha256: SHA-256 of the crop, in hexadecimal digits.
        shard_id: The shard for which it was asked.
        annotation: The outcome and the attributes.
        provenance: The columns of the annotations table that tell the origin and the cost of the answer.
    """

    crop_sha256: str
    shard_id: str
    annotation: Annotation
    provenance: dict[str, Any]

    def to_json(self) -> str:
        """Return the answer as text; equal answers give equal text."""
        return json.dumps(asdict(self), ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the answer that `to_json` was called on.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: The text is something else.
        """
        content = json.loads(text)
        # JSON sorted the attributes by name, and nothing depends on their order.
        return cls(**{**content, "annotation": Annotation.from_json(content["annotation"])})


@dataclass(frozen=True, slots=True)
class _Segment:
    path: str
    prefix: str
    size_bytes: int


class AnswerIndex:
    """The answers of one annotator to one question. Safe to use from several threads and processes.

    Args:
        store: The output.
        annotator: Name of the annotator.
        fingerprint: Hash of everything but the crop that an answer depends on.
        listed_for_s: Seconds for which `find` may overlook answers that others have added.
    """

    def __init__(
        self, store: ObjectStore, annotator: str, fingerprint: str, listed_for_s: float = _LISTED_FOR_S
    ) -> None:
        self._store = store
        self._folder = layout.answer_index_folder(annotator, fingerprint)
        self._listed_for_s = listed_for_s
        self._listed: list[_Segment] = []
        self._listed_at = float("-inf")

    def find(self, digests: Collection[str]) -> dict[str, KeptAnswer]:
        """Return a known answer about each crop, by the digests of the crops.

        If there are several answers about one crop, an `ok` takes precedence, and every reader returns the
        same one of equals.

        Raises:
            OSError: The store can't be read.
        """
        return {digest: answers[0] for digest, answers in self.find_all(digests).items()}

    def find_all(self, digests: Collection[str]) -> dict[str, list[KeptAnswer]]:
        """Return the known answers about crops: at most one of each model, in the order of precedence.

        Raises:
            OSError: The store can't be read.
        """
        found: dict[str, list[KeptAnswer]] = {}
        for text in sorted(self._find(sorted(set(digests))).values(), key=_rank):
            answer = KeptAnswer.from_json(text)
            found.setdefault(answer.crop_sha256, []).append(answer)
        return found

    def add(self, answers: Iterable[KeptAnswer]) -> None:
        """Add answers.

        Raises:
            OSError: The store can't be written.
        """
        remaining = iter(answers)
        while some := list(islice(remaining, _LEAF_ROWS)):
            texts: _Texts = {}
            for answer in some:
                _keep_better(texts, answer.crop_sha256, answer.to_json())
            self._write("", _table(texts))
            self._merge("")

    def _find(self, wanted: Sequence[str]) -> _Texts:
        found: _Texts = {}
        read: set[str] = set()
        attempts = _RELISTS if wanted else 0
        while attempts:
            # What a segment says never changes, so the ones that were read need not be read again.
            segments = [segment for segment in self._segments() if segment.path not in read]
            searches = [(segment, _beginning_with(wanted, segment.prefix)) for segment in segments]
            attempts -= 1
            gone = None
            for path, rows in map_ahead(
                lambda search: self._try_rows(*search), (s for s in searches if s[1])
            ):
                if isinstance(rows, FileNotFoundError):
                    gone = rows
                    continue
                read.add(path)
                for digest, text in rows:
                    _keep_better(found, digest, text)
            if gone is None:
                break
            self._listed_at = float("-inf")
            if not attempts:
                raise gone
        return found

    def _segments(self) -> list[_Segment]:
        now = time.monotonic()
        if now - self._listed_at >= self._listed_for_s:
            self._listed, self._listed_at = list(self._list()), now
        return self._listed

    def _list(self) -> Iterator[_Segment]:
        for info in self._store.list(self._folder):
            prefix = layout.prefix_of_segment(info.path)
            if prefix is not None:
                yield _Segment(info.path, prefix, info.size_bytes)

    def _try_rows(
        self, segment: _Segment, wanted: Sequence[str]
    ) -> tuple[str, list[tuple[str, str]] | FileNotFoundError]:
        try:
            return segment.path, list(self._rows(segment, wanted))
        except FileNotFoundError as error:
            return segment.path, error

    def _rows(self, segment: _Segment, wanted: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Yield the rows of a segment whose digests are among some, which are sorted."""
        with self._open(segment) as file:
            for number in range(file.num_row_groups):
                bounds = file.metadata.row_group(number).column(0).statistics
                near = wanted[bisect_left(wanted, bounds.min) : bisect_right(wanted, bounds.max)]
                if not near:
                    continue
                digests = file.read_row_group(number, ["crop_sha256"], use_threads=False)[0].to_pylist()
                positions = [i for i, digest in enumerate(digests) if digest in set(near)]
                if positions:
                    answers = file.read_row_group(number, ["answer"], use_threads=False)[0].take(positions)
                    yield from zip((digests[i] for i in positions), answers.to_pylist(), strict=True)

    def _open(self, segment: _Segment) -> pq.ParquetFile:
        if segment.size_bytes <= _WHOLE_BYTES:
            return pq.ParquetFile(pa.BufferReader(self._store.read(segment.path)))
        # By default, fsspec reads megabytes ahead, of which this search needs kilobytes.
        options = {} if self._store.is_local else {"cache_type": "none"}
        return pq.ParquetFile(self._store.open(segment.path, **options))

    def _write(self, prefix: str, table: pa.Table) -> None:
        self._store.write(layout.new_segment(self._folder, prefix), _segment(table))

    def _merge(self, prefix: str) -> None:
        """Merge the segments of a prefix if there are many, and those of longer ones that this fills."""
        segments = [segment for segment in self._list() if segment.prefix == prefix]
        if len(segments) <= _MOST_SEGMENTS:
            return
        texts: _Texts = {}
        try:
            for segment in segments:
                table = pq.read_table(pa.BufferReader(self._store.read(segment.path)))
                for digest, text in zip(table[0].to_pylist(), table[1].to_pylist(), strict=True):
                    _keep_better(texts, digest, text)
        except FileNotFoundError:
            log.info("%s: another process merges the same segments", self._folder)
            return
        merged = _table(texts)
        if merged.num_rows <= _LEAF_ROWS:
            self._write(prefix, merged)
            longer = []
        else:
            digests = merged["crop_sha256"].to_pylist()
            longer = [f"{prefix}{digit}" for digit in "0123456789abcdef"]
            for child in longer:
                start, stop = _range_of(digests, child)
                if start < stop:
                    self._write(child, merged.slice(start, stop - start))
        self._store.delete(segment.path for segment in segments)
        for child in longer:
            self._merge(child)


def remove_answers(store: ObjectStore, digests: Collection[str], apply: bool) -> int:
    """Remove the answers about crops from every index, and return how many these are.

    Args:
        store: The output.
        digests: Digests of the crops.
        apply: Whether to remove them. Otherwise, they are only counted.

    Raises:
        OSError: The store can't be read or written.
    """
    wanted = sorted(digests)
    removed = 0
    for info in store.list(layout.ANSWERS):
        prefix = layout.prefix_of_segment(info.path)
        if prefix is None or not _beginning_with(wanted, prefix):
            continue
        table = pq.read_table(pa.BufferReader(store.read(info.path)))
        left = table.filter(pc.invert(pc.is_in(table["crop_sha256"], pa.array(wanted, pa.string()))))
        removed += table.num_rows - left.num_rows
        if not apply or left.num_rows == table.num_rows:
            continue
        if left.num_rows:
            path = layout.new_segment(info.path.rpartition("/")[0], prefix)
            store.write(path, _segment(left))
        store.delete([info.path])
    return removed


def _segment(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=_ROW_GROUP_ROWS)
    return bytes(sink.getvalue())


def _keep_better(texts: _Texts, digest: str, text: str) -> None:
    """Keep one of two answers of a model. The choice doesn't depend on the order in which they come."""
    key = (digest, json.loads(text)["provenance"].get("model"))
    known = texts.get(key)
    if known is None or _rank(text) < _rank(known):
        texts[key] = text


def _rank(text: str) -> tuple[bool, int, str]:
    answer = json.loads(text)
    # An answer that was chosen from several has their cost.
    return answer["annotation"]["status"] != "ok", -answer["provenance"].get("answers", 1), text


def _table(texts: _Texts) -> pa.Table:
    rows = sorted((digest, text) for (digest, _), text in texts.items())
    return pa.table([[digest for digest, _ in rows], [text for _, text in rows]], schema=_COLUMNS)


def _range_of(digests: Sequence[str], prefix: str) -> tuple[int, int]:
    # "g" follows all hexadecimal digits.
    return bisect_left(digests, prefix), bisect_left(digests, f"{prefix}g")


def _beginning_with(digests: Sequence[str], prefix: str) -> Sequence[str]:
    start, stop = _range_of(digests, prefix)
    return digests[start:stop]
