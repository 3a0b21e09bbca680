"""The consolidated tables have the columns of all tables, by whatever attributes these were written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from actors.records import Annotation
from actors.storage.object_store import ObjectStore
from tests.support import job
from tests.support.committed import Found, said, write_output
from tests.support.consolidating import (
    BOX,
    FIRST,
    TABLES,
    consolidate,
    files_of,
    globbed,
    one,
    settings,
    snapshot,
)


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "out"))


def column(store: ObjectStore, name: str) -> dict[str, Any]:
    assert globbed(store) == snapshot(store)
    return {row["shard_id"]: row[name] for row in globbed(store)}


def test_attributes_that_were_added_and_dropped_are_null_where_they_are_unknown(store):
    a, b, c = FIRST
    write_output(store, {a: one(mask=True), b: one(mask=True)})
    consolidate(store)
    now = settings(backpack={"type": "boolean"}, mask=None)
    write_output(store, {b: one(backpack=True)}, now)
    assert consolidate(store, of=now).written == 3, "both of persons, one of frames"
    assert column(store, "smolvlm_backpack") == {a: None, b: True}
    assert column(store, "smolvlm_mask") == {a: True, b: None}
    assert column(store, "smolvlm_gender") == {a: "male", b: "male"}
    write_output(store, {c: one(backpack=False)}, now)
    assert consolidate(store, of=now).written == 2
    assert column(store, "smolvlm_mask") == {a: True, b: None, c: None}
    write_output(store, {a: one(backpack=False)}, now)
    consolidate(store, of=now)
    assert column(store, "smolvlm_backpack") == {a: False, b: True, c: False}
    assert "smolvlm_mask" not in globbed(store)[0], "no table has it any more"


def test_the_snapshot_does_not_depend_on_its_history(store):
    write_output(store, {"a": one(mask=True), "b": one(mask=True)})
    consolidate(store)
    now = settings(backpack={"type": "boolean"}, mask=None)
    write_output(store, {"b": one(backpack=True)}, now)
    consolidate(store, of=now)
    rows, columns = globbed(store), DeltaTable(store.uri_of("consolidated")).schema()
    for folder in TABLES:
        shutil.rmtree(Path(store.root, folder))
    consolidate(store, of=now)
    assert globbed(store) == rows
    assert DeltaTable(store.uri_of("consolidated")).schema() == columns


@pytest.mark.parametrize(
    ("attribute", "value", "before"),
    [
        ({"type": "category", "values": ["sun", "none"]}, "sun", "true"),
        ({"type": "integer", "min": 0, "max": 2}, 2, None),
    ],
)
def test_an_attribute_of_another_type_has_that_of_the_last_run(store, attribute, value, before):
    a, b, _ = FIRST
    write_output(store, {a: one(glasses=True), b: one(glasses=True)})
    consolidate(store)
    now = settings(glasses=attribute)
    write_output(store, {b: one(glasses=value)}, now)
    consolidate(store, of=now)
    assert column(store, "smolvlm_glasses") == {a: before, b: value}


def test_a_dropped_attribute_of_two_types_is_text(store):
    write_output(store, {"a": one(glasses=True), "b": one(glasses=True), "c": one()})
    write_output(store, {"b": one(glasses=2)}, settings(glasses={"type": "integer", "min": 0, "max": 2}))
    now = settings(glasses=None)
    write_output(store, {"c": one()}, now)
    consolidate(store, of=now)
    assert column(store, "smolvlm_glasses") == {"a": "true", "b": "2", "c": None}


def test_an_annotator_that_only_some_shards_have_is_null_for_the_others(store):
    a, b, c = FIRST
    both = Found(BOX, answers={"smolvlm": said(), "gemini": said(gender="female")})
    write_output(store, {a: one(), b: {"f": [both]}, c: {"f": [Found(BOX)]}})
    consolidate(store)
    assert column(store, "gemini_gender") == {a: None, b: "female", c: None}
    assert column(store, "smolvlm_status") == {a: "ok", b: "ok", c: None}
    assert len(files_of(store, "consolidated")) == 3
    write_output(store, {a: one(gender="unknown")})
    assert consolidate(store).written == 2
    assert column(store, "gemini_gender") == {a: None, b: "female", c: None}


def test_refused_answers_of_an_older_schema_keep_their_reason(store):
    blocked = Found(BOX, answers={"smolvlm": Annotation("blocked", reason="safety")})
    write_output(store, {"a": {"f": [blocked]}, "b": one()})
    now = settings(backpack={"type": "boolean"})
    write_output(store, {"b": one(backpack=True)}, now)
    done = job.shopframe("consolidate", "--output", store.root)
    assert done.returncode == 0, done.stderr
    assert column(store, "smolvlm_reason") == {"a": "safety", "b": None}
    assert column(store, "smolvlm_backpack") == {"a": None, "b": True}
