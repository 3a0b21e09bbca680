"""The local annotator asks once about one person, and every kept person has an outcome."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.fingerprint import crop_sha256
from actors.reuse.groups import find_groups
from actors.reuse.settings import ReuseSettings
from actors.shard_block import ShardBlock
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from actors.smolvlm.shard_annotator import ANNOTATOR, ShardAnnotator
from actors.storage.object_store import ObjectStore
from tests.servers.chat_server import MODEL, ChatServer, chat_server
from tests.support.sequences import Seen, sequences

SCHEMA = AttributeSchema(SchemaSettings())
REUSE = ReuseSettings(reuse=10)


@pytest.fixture(scope="module")
def seen() -> Seen:
    return sequences(12)


@pytest.fixture
def server():
    with chat_server() as found:
        yield found


def annotator(server: ChatServer, output: Path, reuse: ReuseSettings = REUSE) -> ShardAnnotator:
    given = {"base_url": server.base_url, "retries": 0, "outage_s": 0}
    settings = SmolVLMSettings.model_validate({"engine": "server", "model": MODEL, "server": given})
    resolved = resolve_smolvlm(settings, SCHEMA)
    return ShardAnnotator(settings, resolved, SCHEMA, 1, ObjectStore(str(output)), reuse)


def rows_of(block: ShardBlock) -> list[dict[str, Any]]:
    return block.annotations[ANNOTATOR].to_pylist()


def annotate(
    block: ShardBlock, server: ChatServer, output: Path, reuse: ReuseSettings = REUSE
) -> list[dict[str, Any]]:
    """Return the rows of the shard's table of annotations."""
    return rows_of(annotator(server, output, reuse).annotate(block))


def asked_about(server: ChatServer, seen: Seen) -> Counter[str]:
    """Return how often each crop was asked about. The first question to a server is about no crop."""
    crops = {crop_sha256(crop) for crop in seen.crops}
    return Counter({digest: count for digest, count in server.asked.items() if digest in crops})


def groups_of(seen: Seen) -> tuple[tuple[int, ...], ...]:
    return find_groups(seen.block.frames, seen.block.kept_persons(), REUSE, REUSE.reuse).groups


def test_one_of_each_group_is_asked_and_the_others_inherit_its_answer(seen, server, tmp_path):
    rows = annotate(seen.block, server, tmp_path)
    groups = groups_of(seen)
    inheriting = {person: group for group in groups for person in group[1:]}
    assert Counter(row["status"] for row in rows) == {
        "ok": len(rows) - len(inheriting),
        "inherited": len(inheriting),
    }
    assert asked_about(server, seen) == Counter(
        crop_sha256(crop) for number, crop in enumerate(seen.crops) if number not in inheriting
    )
    for person, group in inheriting.items():
        row, source = rows[person], rows[group[0]]
        assert (
            row["reuse_group"] == source["reuse_group"] == f"{source['frame_key']}/{source['person_index']}"
        )
        assert REUSE.reuse_similarity <= row["reuse_similarity"] <= 1
        assert source["reuse_similarity"] is None
        assert {name: row[name] for name in SCHEMA.names} == {name: source[name] for name in SCHEMA.names}
        assert row["confidence_gender"] == source["confidence_gender"]
    alone = set(range(len(rows))) - {person for group in groups for person in group}
    assert all(rows[person]["reuse_group"] is None for person in alone)


def test_where_an_answer_is_cut_off_somebody_else_of_the_group_is_asked(seen, server, tmp_path):
    group = max(groups_of(seen), key=len)
    server.bad_crops[crop_sha256(seen.crops[group[0]])] = "truncated"
    rows = annotate(seen.block, server, tmp_path)
    assert rows[group[0]]["status"] == "truncated"
    assert rows[group[1]]["status"] == "ok"
    assert {rows[person]["status"] for person in group[2:]} <= {"ok", "inherited"}
    assert "inherited" in {rows[person]["status"] for person in group[2:]}


def test_a_retry_asks_only_about_those_without_an_answer(seen, server, tmp_path):
    group = max(groups_of(seen), key=len)
    single = next(p for p in range(len(seen.crops)) if all(p not in group for group in groups_of(seen)))
    answered = annotator(server, tmp_path).annotate(seen.block)
    before = rows_of(answered)
    server.asked.clear()
    # Both have no answer, but the second one inherits that of its group.
    rows = [
        row | {"status": "error", "reuse_similarity": None} if number in (single, group[1]) else row
        for number, row in enumerate(before)
    ]
    table = answered.annotations[ANNOTATOR]
    block = answered.with_answers(ANNOTATOR, pa.Table.from_pylist(rows, table.schema))
    task = replace(block.task, work="annotate", retry_outcomes=("error",), recall=False)
    assert rows_of(annotator(server, tmp_path).annotate(replace(block, task=task))) == before
    assert asked_about(server, seen) == {crop_sha256(seen.crops[single]): 1}


def test_without_reuse_everybody_is_asked_and_the_table_has_no_groups(seen, server, tmp_path):
    rows = annotate(seen.block, server, tmp_path, ReuseSettings())
    assert {row["status"] for row in rows} == {"ok"}
    assert asked_about(server, seen).total() == len(rows)
    assert "reuse_group" not in rows[0]
