"""Damaged files and texts of any shape: each reader takes them or refuses them with its own error."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from actors.corrections.decision_log import read_decisions
from actors.errors import ConfigError, FrameError, OutputError, ShardError
from actors.gemini.api.answer import GeminiAnswer, read_answer
from actors.gemini.api.batch_jobs import read_results
from actors.gemini.api.error_responses import Refusal, Scrubber, meaning_of
from actors.read.frame_decoder import decode_frame
from actors.read.parquet_frames import read_parquet
from actors.read.settings import InputSettings
from actors.read.sidecars import parse_sidecar
from actors.read.tar_frames import read_tar
from actors.read.tar_members import find_member
from actors.read.zip_frames import read_zip
from actors.records import LONGEST_REASON, Shard, ShardFormat
from actors.storage.object_store import ObjectStore
from jobs.exchange.importing import compare
from jobs.exchange.tools import TOOLS
from jobs.settings import CONF, Settings, load_settings
from jobs.yaml_text import InvalidYamlError, parse_yaml
from tests.corpus import decisions
from tests.corpus.answers import GOOD, SCHEMA
from tests.corpus.damage import as_json, changed, damaged, few, values
from tests.corpus.images import many_scans
from tests.corpus.parquets import written
from tests.support import bad_inputs as bad
from tests.support import thrift_compact
from tests.support.exchange import export_of, saved
from tests.support.gemini_asking import single

pytestmark = pytest.mark.timeout(3600)

LIMITS = InputSettings(max_image_bytes=2**20, max_image_pixels=1_000_000)
SHARDS = {
    "tar": bad.good_tar(3),
    "tar.gz": bad.tar_gz(bad.frames_with_sidecars(3)),
    "zip": bad.zipped(bad.frames_with_sidecars(3)),
    "zip of deflate": bad.zipped(bad.frames_with_sidecars(3), 8),
    "parquet": bad.parquet(
        {"image": [bad.jpeg(seed=n) for n in range(4)], "camera": ["a", "b", "c", None]}, 2
    ),
}
READERS = {"tar": (read_tar, "webdataset"), "zip": (read_zip, "zip"), "parquet": (read_parquet, "parquet")}


def shard_of(name: str, content: bytes, kind: ShardFormat) -> Shard:
    return Shard("a", f"a.{name}", kind, "e", len(content))


POOLS = [pa.default_memory_pool()]
"""Buffers may outlive the block in which their pool was the default one, and need it."""


@contextmanager
def memory_of_pyarrow() -> Iterator[pa.MemoryPool]:
    """Count what pyarrow takes in this block. The pool of the process only knows its highest mark."""
    POOLS.append(pa.proxy_memory_pool(POOLS[0]))
    pa.set_memory_pool(POOLS[-1])
    try:
        yield POOLS[-1]
    finally:
        pa.set_memory_pool(POOLS[0])


def test_memory_of_pyarrow_is_counted_for_each_block():
    for size in (2**25, 2**20):
        with memory_of_pyarrow() as pool:
            list(
                read_parquet(
                    io.BytesIO(bad.parquet({"image": [bytes(size)]})),
                    shard_of("parquet", b"", "parquet"),
                    LIMITS,
                )
            )
        assert size <= pool.max_memory() < 6 * size


@contextmanager
def may_be_refused(error_type: type[Exception], says: str = "") -> Iterator[None]:
    """Allow an error of this type, which says why, and no other."""
    try:
        yield
    except error_type as error:
        said = str(error)
    else:
        return
    assert said
    assert says in said


@few
@given(st.data())
@pytest.mark.parametrize("name", SHARDS)
def test_a_damaged_shard_gives_frames_within_the_limits_and_then_its_error(name, data):
    content = data.draw(damaged(SHARDS[name]))
    read, kind = READERS[name.partition(".")[0].partition(" ")[0]]
    keys = []
    with may_be_refused(ShardError):
        for frame in read(io.BytesIO(content), shard_of(name, content, kind), LIMITS):
            assert (frame.data is None) == (frame.error is not None)
            assert frame.data is None or 0 < len(frame.data) <= LIMITS.max_image_bytes
            frame.key.encode()
            if frame.error is None:
                keys.append(frame.key)
    assert len(set(keys)) == len(keys)


PARQUETS = {
    "plain": bad.parquet({"image": [bad.jpeg(seed=n) for n in range(4)], "camera": ["a", "b", "c", None]}, 2),
    "dictionary": written(pa.table({"image": [bad.jpeg()] * 9, "camera": ["a"] * 9}), compression="zstd"),
    **{
        encoding: written(
            pa.table({"image": [bad.jpeg(seed=n) for n in range(4)]}),
            use_dictionary=False,
            column_encoding=encoding,
            data_page_version=version,
        )
        for encoding, version in (("DELTA_LENGTH_BYTE_ARRAY", "1.0"), ("DELTA_BYTE_ARRAY", "2.0"))
    },
}
EXTREMES = (-1, 0, 1, 2, 6, 7, 8, 127, 2**16, 2**27, 2**31 - 1, 2**31, 2**40, 2**62, -(2**63))
MOST_OF_PYARROW = 2**29


@st.composite
def lying(draw: st.DrawFn, content: bytes) -> bytes:
    """Draw a Parquet file in whose footer or page headers a number is another one."""
    footer_at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer, _ = thrift_compact.decode(content, footer_at)
    pages, at = [], 4
    while at < footer_at:
        header, start = thrift_compact.decode(content, at)
        # After the last page there may be indexes of pages, which are no headers.
        if 3 not in header or header[3][0] != thrift_compact.I32:
            break
        at = start + header[3][1]
        pages.append((header, content[start:at]))
    lies = draw(st.lists(st.sampled_from(EXTREMES), min_size=1, max_size=3))
    for lie in lies:
        struct = draw(st.sampled_from([footer, *(header for header, _ in pages)]))
        last, key = draw(st.sampled_from(list(thrift_compact.numbers(struct))))
        last[key] = (last[key][0], lie)
    body = b"PAR1" + b"".join(thrift_compact.encode(header) + data for header, data in pages)
    written_footer = thrift_compact.encode(footer)
    body = body.ljust(footer_at, b"\0")
    return body + written_footer + len(written_footer).to_bytes(4, "little") + b"PAR1"


@few
@given(st.data())
@pytest.mark.parametrize("name", PARQUETS)
def test_a_lying_parquet_file_takes_little_memory(name, data):
    content = data.draw(lying(PARQUETS[name]))
    with memory_of_pyarrow() as pool, may_be_refused(ShardError):
        for frame in read_parquet(io.BytesIO(content), shard_of("parquet", content, "parquet"), LIMITS):
            frame.key.encode()
    assert pool.max_memory() <= MOST_OF_PYARROW


@few
@given(damaged(bad.good_tar(3)), st.integers(0, 20))
def test_the_parts_of_a_damaged_tar_end(content, block):
    find_member(io.BytesIO(content), 512 * block)
    part = replace(shard_of("tar", content, "webdataset"), start=512 * block)
    with may_be_refused(ShardError):
        list(read_tar(io.BytesIO(content), part, LIMITS))


IMAGES = {
    "jpeg": bad.jpeg(),
    "progressive jpeg": many_scans(3),
    "jpeg with exif": bad.exif_rotated_jpeg(),
    "png": bad.png(),
    "palette png": bad.palette_png(),
    "webp": bad.webp(),
    "animated webp": bad.animated("WEBP"),
    "gif": bad.gif(),
    "bmp": bad.bmp(),
}


@few
@given(st.data())
@pytest.mark.parametrize("name", IMAGES)
def test_a_damaged_image_is_decoded_within_the_limit_or_refused(name, data):
    content = data.draw(damaged(IMAGES[name]))
    with may_be_refused(FrameError):
        pixels = decode_frame(content, LIMITS.max_image_pixels)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        assert 0 < pixels.shape[0] * pixels.shape[1] <= LIMITS.max_image_pixels


SIDECAR = {"camera": "till", "captured_at": "2026-03-07T10:00:00Z"}


@few
@given(st.one_of(as_json(changed(SIDECAR)), damaged(json.dumps(SIDECAR).encode())))
def test_a_sidecar_of_any_shape_gives_facts_and_perhaps_a_note(content):
    facts = parse_sidecar("a.json", content, LIMITS)
    assert facts.camera is None or facts.camera.encode()
    assert facts.captured_at is None or facts.captured_at.tzinfo is not None


DEFAULT = (CONF / "default.yaml").read_text(encoding="utf-8")


@few
@given(damaged(DEFAULT.encode()))
def test_a_damaged_configuration_is_yaml_or_refused_with_its_place(content):
    with may_be_refused(InvalidYamlError, "not valid YAML"):
        parse_yaml(content.decode("utf-8", "replace"))


@few
@given(changed(Settings().as_dict()))
def test_a_configuration_of_any_shape_is_taken_or_refused(tmp_path_factory, document):
    path = tmp_path_factory.getbasetemp() / "drawn.yaml"
    path.write_bytes(yaml.safe_dump(document, allow_unicode=False).encode("utf-8", "replace"))
    with may_be_refused(ConfigError):
        json.dumps(load_settings([str(path)]).settings.as_dict())


def gemini_says(text: str) -> dict[str, object]:
    return {"candidates": [{"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}]}


@few
@given(st.one_of(changed(GOOD), values))
def test_an_answer_of_any_shape_has_the_attributes_of_the_schema_or_none(answer):
    request = single()
    item = {"image_id": request.ids[0], **answer} if isinstance(answer, dict) else answer
    found = read_answer(gemini_says(json.dumps({"persons": [item]})), request, SCHEMA)
    (annotation,) = found.annotations.values()
    if annotation.status == "ok":
        assert set(annotation.values) == set(SCHEMA.names)
        assert all(annotation.values[a.name] in (*a.values, None) for a in SCHEMA)
    else:
        assert (annotation.status, annotation.values) == ("invalid", {})


RESPONSE = {
    **gemini_says("{}"),
    "usageMetadata": {"promptTokenCount": 1},
    "modelVersion": "m",
    "responseId": "r",
    "promptFeedback": {"blockReason": "SAFETY"},
}
ERROR = {
    "code": 400,
    "message": "m",
    "status": "INVALID_ARGUMENT",
    "details": [
        {"@type": "x.ErrorInfo", "reason": "r"},
        {"@type": "x.QuotaFailure", "violations": [{"quotaId": "q", "quotaValue": "1"}]},
        {"@type": "x.RetryInfo", "retryDelay": "1s"},
        {"@type": "x.BadRequest", "fieldViolations": [{"field": "f"}]},
    ],
}


def can_be_written(found: GeminiAnswer) -> bool:
    """Return whether an answer has an outcome that tables and journals can hold."""
    (annotation,) = found.annotations.values()
    json.dumps([asdict(annotation), found.model_version, found.response_id], ensure_ascii=False).encode()
    numbers = (found.usage.input, found.usage.output, found.usage.thinking)
    return all(0 <= number < 2**31 for number in numbers) and len(annotation.reason or "") <= LONGEST_REASON


@few
@given(changed(RESPONSE))
def test_a_response_of_any_shape_is_an_outcome(body):
    found = read_answer(body if isinstance(body, dict) else {}, single(), SCHEMA)
    (annotation,) = found.annotations.values()
    assert annotation.status in ("invalid", "blocked", "truncated", "error")
    assert can_be_written(found)


@few
@given(changed(ERROR), st.sampled_from([200, 400, 401, 403, 404, 429, 500, 503]))
def test_an_error_of_any_shape_is_one_of_ours_and_can_be_written(error, code):
    found = meaning_of(code, {"error": error}, {}, "a model", Scrubber("key"))
    said = found.reason if isinstance(found, Refusal) else str(found)
    assert len(said.encode()) < 3000


@few
@given(st.data())
def test_a_line_of_any_shape_gives_each_request_its_outcome(data):
    request = single()
    line = {"key": request.key, "response": RESPONSE, "error": ERROR}
    del line[data.draw(st.sampled_from(["response", "error"]))]
    strategy = st.one_of(as_json(changed(line)), damaged(json.dumps(line).encode()))
    lines = data.draw(strategy).split(b"\n")
    ((asked, found),) = read_results(lines, [request], SCHEMA, Scrubber("key"))
    assert asked == request
    assert can_be_written(found)


@few
@given(st.one_of(as_json(changed(decisions.GOOD)), damaged(decisions.line() * 3)))
def test_a_decision_of_any_shape_is_taken_or_refused_with_its_line(tmp_path_factory, content):
    folder: Path = tmp_path_factory.getbasetemp() / "drawn"
    path = folder / "corrections" / "20260307T100000Z-00000000.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with may_be_refused(OutputError, f"{path}, line "):
        found = read_decisions(ObjectStore(str(folder)))
        assert all(all(map(math.isfinite, one.bbox)) for some in found.values() for one in some)


@few
@given(st.data())
@pytest.mark.parametrize("tool", TOOLS)
def test_a_changed_file_of_a_tool_is_compared_or_refused_by_its_name(tool, data):
    exported = export_of(tool, SCHEMA, 3)
    name, content = data.draw(st.sampled_from(list(saved(exported))))
    strategy = damaged(content)
    if tool != "cvat":
        strategy = st.one_of(as_json(changed(json.loads(content))), strategy)
    with may_be_refused(ConfigError, name):
        compare(exported, list(TOOLS[tool].read(name, data.draw(strategy), exported)), "ann", {})
