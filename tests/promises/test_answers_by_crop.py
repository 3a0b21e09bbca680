"""An annotator is not asked again about a crop, wherever and in whichever shard the crop is found again."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.errors import ServerUnavailableError
from actors.fingerprint import crop_sha256
from actors.records import Shard
from actors.shard_block import ShardBlock, ShardTask
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from actors.smolvlm.shard_annotator import ShardAnnotator
from actors.storage import layout
from actors.storage.answer_index import AnswerIndex
from actors.storage.object_store import ObjectStore
from jobs.run.answer_filing import file_answers, file_uncommitted
from tests.servers.chat_server import MODEL, chat_server
from tests.servers.gemini_server import gemini_server
from tests.support import gemini_job, job, without_ray
from tests.support.committed import Found, said, write_output
from tests.support.gemini_asking import jpeg
from tests.support.job import Models

SCHEMA = AttributeSchema(SchemaSettings())


def answers_by_crop(output: Path, annotator: str) -> dict[str, dict[str, Any]]:
    """Return the answers of the committed shards, without what depends on the shard and what was paid."""
    digests = {
        tuple(row[key] for key in job.ROW_KEYS): row["crop_sha256"]
        for row in job.table(output, "persons").to_pylist()
    }
    found: dict[str, dict[str, Any]] = {}
    for row in job.table(output, f"annotations/{annotator}").to_pylist():
        digest = digests[tuple(row.pop(key) for key in job.ROW_KEYS)]
        for name in ("input_tokens", "output_tokens", "cost_usd"):
            row.pop(name, None)
        assert found.setdefault(digest, row) == row
    return found


@pytest.fixture(scope="module")
def runs(models: Models, tmp_path_factory):
    """Two runs over the same pictures, which are in other shards in the second one.

    One shard has another name, one is cut into parts, one was copied, and fewer persons are kept.
    """
    folder = tmp_path_factory.mktemp("answers")
    source, output = folder / "in", folder / "out"
    job.write_shards(source / "day", "ab", frames=4)
    found = SimpleNamespace(output=output, asked=[], requests=[], answers=[])
    real = ShardAnnotator._ask
    with gemini_server() as server, pytest.MonkeyPatch.context() as patch:

        def run(input_folder: Path, *options: str) -> None:
            asked: list[str] = []
            patch.setattr(
                ShardAnnotator,
                "_ask",
                lambda self, s, crops, r: (asked.extend(crops), real(self, s, crops, r))[1],
            )
            before = len(server.journal)
            given = [*models.options(), *gemini_job.options(server.base_url, requests_per_minute=1000)]
            without_ray.annotate(input_folder, output, *given, *options)
            found.asked.append(asked)
            found.requests.append(len(server.journal) - before)
            found.answers.append([answers_by_crop(output, name) for name in ("smolvlm", "gemini")])

        run(source / "day")
        (source / "day" / "a.tar").rename(source / "z.tar")
        shutil.copy(source / "day" / "b.tar", source / "c.tar")
        size = (source / "c.tar").stat().st_size
        run(source, "--set", f"input.max_shard_bytes={size // 2 + 512}", "--set", "roi.max_persons=1")
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_pictures_in_other_shards_are_not_asked_about_again(runs):
    assert len(runs.asked[0]) == len(set(runs.asked[0])) > 0
    assert runs.requests[0] > 0
    assert runs.asked[1] == []
    assert runs.requests[1] == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_they_keep_the_answers_that_they_had(runs):
    shards = job.records(runs.output)
    for beginning in ("z", "c", "day_b"):
        assert any(shard_id.startswith(beginning) for shard_id in shards)
    assert sum(shard_id.startswith("c.part") for shard_id in shards) > 1
    for before, after in zip(*runs.answers, strict=True):
        assert after.keys() < before.keys()
        assert after == {digest: before[digest] for digest in after}


class Killed(BaseException):
    """Ends a worker as a signal does, without any handler."""


def test_a_killed_shard_is_asked_only_about_crops_that_were_not_answered(models, tmp_path, monkeypatch):
    settings = SmolVLMSettings(model=str(models.smolvlm), batch_size=2)
    resolved = resolve_smolvlm(settings, SCHEMA)
    store = ObjectStore(str(tmp_path))
    crops = [jpeg(n, 24, 48) for n in range(7)]

    def annotator() -> ShardAnnotator:
        return ShardAnnotator(settings, resolved, SCHEMA, 1, store, keep_every_s=0)

    def block(shard_id: str) -> ShardBlock:
        people = [Found((0.1, 0.1, 0.2, 0.3), crop=crop) for crop in crops]
        return a_block(tmp_path / f"made-{shard_id}", shard_id, {"f": people})

    answered = 0

    def die(frames: int = 0, persons: int = 0, answers: int = 0) -> None:
        nonlocal answered
        answered += answers
        if answered >= 4:
            raise Killed

    with pytest.raises(Killed):
        annotator().annotate(block("first"), die)
    asked: list[str] = []
    real = ShardAnnotator._ask
    monkeypatch.setattr(
        ShardAnnotator, "_ask", lambda self, s, crops, r: (asked.extend(crops), real(self, s, crops, r))[1]
    )
    table = annotator().annotate(block("first")).annotations["smolvlm"]
    assert sorted(asked) == sorted(crop_sha256(crop) for crop in crops[4:])
    assert table["status"].to_pylist() == ["ok"] * 7
    asked.clear()
    file_uncommitted(store)
    assert not list(store.list(layout.ANSWERS_IN_FLIGHT))
    again = annotator().annotate(block("renamed")).annotations["smolvlm"]
    assert asked == []
    assert again.drop_columns(["shard_id"]) == table.drop_columns(["shard_id"])


def test_a_shard_whose_server_dies_is_asked_only_about_crops_that_were_not_answered(tmp_path):
    crops = [jpeg(n, 24, 48) for n in range(7)]
    with chat_server(dies_after=5) as server:
        given = {"base_url": server.base_url, "retries": 0, "outage_s": 0, "max_in_flight": 1}
        settings = SmolVLMSettings.model_validate({"engine": "server", "model": MODEL, "server": given})
        resolved = resolve_smolvlm(settings, SCHEMA)
        people = [Found((0.1, 0.1, 0.2, 0.3), crop=crop) for crop in crops]
        block = a_block(tmp_path / "made", "first", {"f": people})

        def annotate() -> ShardBlock:
            return ShardAnnotator(settings, resolved, SCHEMA, 1, ObjectStore(str(tmp_path))).annotate(block)

        with pytest.raises(ServerUnavailableError):
            annotate()
        server.is_down, server.dies_after = False, None
        table = annotate().annotations["smolvlm"]
    assert table["status"].to_pylist() == ["ok"] * 7
    assert {server.answered[crop_sha256(crop)] for crop in crops} == {1}


def a_block(folder: Path, shard_id: str, frames: dict[str, list[Found]]) -> ShardBlock:
    """Return a detected block, by way of a commit."""
    write_output(ObjectStore(str(folder)), {shard_id: frames}, keep_crops="always")
    task = ShardTask(Shard(shard_id, "in", "webdataset", "e", 1), "detect")
    return ShardBlock(task, persons=job.table(folder, "persons"))


def test_a_damaged_shard_is_filed_once_its_object_is_back(tmp_path):
    store = ObjectStore(str(tmp_path))
    person = Found((0.1, 0.1, 0.2, 0.3), crop=b"one", answers={"smolvlm": said()})
    write_output(store, {"a": {"f": [person]}})
    (table,) = (tmp_path / "annotations/smolvlm").glob("*.parquet")
    content = table.read_bytes()
    table.unlink()
    file_answers(store)
    assert AnswerIndex(store, "smolvlm", "s").find([crop_sha256(b"one")]) == {}
    table.write_bytes(content)
    file_answers(store)
    assert AnswerIndex(store, "smolvlm", "s").find([crop_sha256(b"one")])


def test_answers_are_filed_once_and_only_those_that_were_given(tmp_path):
    store = ObjectStore(str(tmp_path))
    person = Found((0.1, 0.1, 0.2, 0.3), crop=b"one", answers={"smolvlm": said()})
    waiting = Found((0.1, 0.1, 0.2, 0.3), crop=b"two")
    write_output(store, {"a": {"f": [person, waiting]}})
    file_answers(store)
    folder = layout.answer_index_folder("smolvlm", "s")
    segments = [o.path for o in store.list(folder)]
    assert len(segments) == 1
    file_answers(store)
    assert [o.path for o in store.list(folder)] == segments
