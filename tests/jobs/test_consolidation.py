"""The consolidated tables are the committed shards, before or after a consolidation and never in between."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import duckdb
import pytest
from deltalake import DeltaTable

from actors.corrections.decision import Decision
from actors.corrections.decision_log import append
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.run import consolidated_file
from jobs.run.output_status import output_status
from jobs.run.verification import check_snapshot
from jobs.settings import Settings
from tests.support import job
from tests.support.committed import write_output
from tests.support.consolidating import (
    BOX,
    FIRST,
    TABLES,
    consolidate,
    consolidate_all_at_once,
    files_of,
    globbed,
    one,
    person,
    persons_of,
    shards,
    snapshot,
)


@pytest.fixture
def store(tmp_path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "out"))


def female(shard_id: str) -> Decision:
    """Somebody's decision about the person of `one`."""
    about = {"shard_id": shard_id, "frame_key": "f", "bbox": BOX, "detection": "001-00000000"}
    given = {"reviewer": "ann", "tool": "test", "kind": "value", "attribute": "gender", "value": "female"}
    return Decision.model_validate(about | given)


# --- what changes, and what stays ---


def test_a_glob_and_a_snapshot_are_the_committed_shards(store):
    write_output(store, shards("abc"))
    done = consolidate(store)
    assert (done.shards, done.persons, done.frames) == (3, 6, 6)
    assert persons_of(store) == {"a": 2, "b": 2, "c": 2}
    row = globbed(store)[0]
    assert row["bbox"] == pytest.approx(BOX)
    assert row["smolvlm_gender"] == "male"
    assert (row["width"], row["smolvlm_status"], row["camera"]) == (2000, "ok", None)


def test_a_second_consolidation_writes_nothing(store):
    write_output(store, shards("abc"))
    consolidate(store)
    before = (
        [DeltaTable(store.uri_of(folder)).version() for folder in TABLES],
        job.bytes_of(Path(store.root), "consolidated"),
    )
    assert consolidate(store).written == 0
    after = (
        [DeltaTable(store.uri_of(folder)).version() for folder in TABLES],
        job.bytes_of(Path(store.root), "consolidated"),
    )
    assert after == before


def test_a_changed_shard_rewrites_one_file_of_each_table(store):
    names = [f"{first}x{n}" for first in FIRST for n in range(5)] + FIRST
    write_output(store, {name: one() for name in names})
    consolidate(store)
    before = {folder: files_of(store, folder) for folder in TABLES}
    assert all(len(files) >= 3 for files in before.values())
    write_output(store, {names[7]: {"f": [person(), person(gender="female")]}})
    assert consolidate(store).written == 2
    for folder in TABLES:
        after = files_of(store, folder)
        assert len(after - before[folder]) == len(before[folder] - after) == 1
    assert persons_of(store) == dict.fromkeys(names, 1) | {names[7]: 2}


def test_a_correction_rewrites_one_file_of_the_persons_and_another_precedence_all(store):
    first, second = FIRST[:2]
    write_output(store, {first: one(gender="male"), second: one(gender="male")})
    consolidate(store)
    append(store, [female(first)])
    assert consolidate(store).written == 1
    assert [(row["gender"], row["gender_source"]) for row in globbed(store)] == [
        ("female", "human"), ("male", "smolvlm"),
    ]  # fmt: skip
    assert consolidate(store).written == 0
    machines = Settings.model_validate({"consensus": {"precedence": ["smolvlm"]}})
    assert consolidate(store, of=machines).written == 2
    assert [row["gender"] for row in globbed(store)] == ["male", "male"]


@pytest.mark.parametrize("shard_id", ["a", "gone"])
def test_corrections_that_are_not_consolidated_are_the_next_thing_to_do(store, shard_id):
    write_output(store, shards("a"))
    consolidate(store)
    assert "consolidate" not in output_status(store)["next"].replace("/consolidated/", "")
    append(store, [female(shard_id)])
    status = output_status(store)
    assert status["corrections"] == {"consolidated": False}
    assert (
        status["next"] == f"consolidated/ lacks corrections: run shopframe consolidate --output {store.uri}"
    )
    consolidate(store)
    assert output_status(store)["corrections"] == {"consolidated": True}
    version = DeltaTable(store.uri_of("consolidated")).version()
    consolidate(store)
    assert DeltaTable(store.uri_of("consolidated")).version() == version


@pytest.mark.parametrize("seed", range(3))
def test_rows_taken_from_a_replaced_file_are_those_that_the_shard_has(store, tmp_path, monkeypatch, seed):
    monkeypatch.setattr(consolidated_file, "_ROW_GROUP_ROWS", 5)
    rng = random.Random(seed)
    names = [f"{first}x{n:02d}" for first in FIRST for n in range(12)] + FIRST
    write_output(store, {name: {"f": [person()] * rng.randrange(4)} for name in names})
    for _ in range(4):
        consolidate(store)
        for name in rng.sample(names, 3):
            write_output(store, {name: {"f": [person(gender="female")] * rng.randrange(4)}})
        append(store, [female(name) for name in rng.sample(names, 2)])
        for name in rng.sample(names, 2):
            Path(store.root, layout.commit_path(name)).unlink(missing_ok=True)
    consolidate(store)
    afresh = ObjectStore(str(tmp_path / "afresh"))
    shutil.copytree(store.root, afresh.root)
    for table in TABLES:
        shutil.rmtree(Path(afresh.root, table))
    consolidate(afresh)
    for table in TABLES:
        assert globbed(store, table) == globbed(afresh, table)
        assert snapshot(store, table) == snapshot(afresh, table)


def test_a_replaced_file_that_is_damaged_is_not_read(store):
    names = [f"{FIRST[0]}x{n}" for n in range(5)]
    write_output(store, {name: one() for name in names})
    consolidate(store)
    for folder in TABLES:
        (path,) = Path(store.root, folder).glob("*.parquet")
        content = path.read_bytes()
        path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    write_output(store, {names[2]: one(gender="female")})
    assert consolidate(store).incomplete == {}
    assert persons_of(store) == dict.fromkeys(names, 1)


def test_the_rows_of_new_removed_and_failed_shards_come_and_go(store):
    write_output(store, shards("abc"))
    consolidate(store)
    write_output(store, shards("d") | shards("a"), errors={"a": "broken"})
    store.delete([layout.commit_path("b")])
    consolidate(store)
    assert persons_of(store) == {"c": 2, "d": 2}
    store.delete(layout.commit_path(name) for name in "acd")
    assert consolidate(store).files == 0
    assert files_of(store, "consolidated") == set()
    assert snapshot(store) == []


def test_rows_are_in_the_order_of_shard_frame_and_person(store):
    write_output(store, {name: {"g": [person(), person()], "f": [person()]} for name in "cab"})
    consolidate(store)
    read = duckdb.sql(f"SELECT shard_id, frame_key, person_index FROM '{store.root}/consolidated/*.parquet'")
    assert read.fetchall() == [(s, f, i) for s in "abc" for f, i in (("f", 0), ("g", 0), ("g", 1))]


def test_failed_frames_are_found_in_the_consolidated_frames_alone(store):
    write_output(store, shards("ab"), errors={"b": "most frames are bad"})
    consolidate(store)
    failed = duckdb.sql(
        f"SELECT shard_id, frame_key, error FROM '{store.root}/consolidated_frames/*.parquet' "
        "WHERE status = 'error' ORDER BY ALL"
    ).fetchall()
    assert failed == [
        ("a", "torn", "truncated"),
        ("b", "f", "shard failed: most frames are bad"),
        ("b", "torn", "truncated"),
    ]


def test_lost_files_of_a_table_are_written_again(store):
    write_output(store, shards("abc"))
    consolidate(store)
    for name in files_of(store, "consolidated"):
        Path(store.root, "consolidated", name).unlink()
    consolidate(store)
    assert persons_of(store) == {"a": 2, "b": 2, "c": 2}


def test_files_of_the_earlier_layout_are_removed(store):
    write_output(store, shards("a"))
    consolidate(store)
    old = Path(store.root, "consolidated", next(iter(files_of(store, "consolidated"))))
    content = old.read_bytes()
    shutil.rmtree(old.parent)
    old.parent.mkdir()
    (old.parent / "a.parquet").write_bytes(content)
    consolidate(store)
    assert persons_of(store) == {"a": 2}


# --- versions ---


def test_an_old_version_stays_readable_for_as_long_as_the_setting_says(store):
    write_output(store, shards("a"))
    consolidate(store, keep_versions_days=1)
    before = DeltaTable(store.uri_of("consolidated"))
    write_output(store, shards("a", persons=3))
    consolidate(store, keep_versions_days=1)
    assert len(before.to_pyarrow_table()) == 2
    assert len(snapshot(store)) == 3
    assert len(globbed(store)) == 5, "a glob reads kept versions too"
    assert list(check_snapshot(store, {"a": 3})) == [], "verify doesn't"
    consolidate(store, keep_versions_days=0)
    assert persons_of(store) == {"a": 3}


# --- two at once, and those that die ---


class Meanwhile(ObjectStore):
    """Does something else once, before it uploads the first file of a table."""

    folder = "consolidated/"
    action = staticmethod(lambda: None)

    def upload(self, path, source):
        super().upload(path, source)
        if path.startswith(self.folder):
            action, self.action = self.action, lambda: None
            action()


def test_a_consolidation_that_was_overtaken_starts_again_and_leaves_nothing_behind(store):
    write_output(store, shards("abc"))
    slow = Meanwhile(store.uri)

    def overtake() -> None:
        write_output(store, shards("b", persons=4) | shards("d"))
        consolidate(store)

    slow.action = overtake
    done = consolidate(slow)
    assert done.persons == 10
    assert persons_of(store) == {"a": 2, "b": 4, "c": 2, "d": 2}
    assert len(files_of(store, "consolidated")) == done.files / 2


class MeanwhileListed(ObjectStore):
    """Does something else once, when it has listed the records or the decisions."""

    folder = layout.COMMITS
    action = staticmethod(lambda: None)

    def list(self, prefix="", sub_folders=True):
        yield from super().list(prefix, sub_folders)
        if prefix == self.folder:
            action, self.action = self.action, lambda: None
            action()


def test_a_consolidation_that_listed_before_another_does_not_undo_it(store):
    write_output(store, shards("abc"))
    slow = MeanwhileListed(store.uri)

    def overtake() -> None:
        write_output(store, shards("b", persons=4) | shards("d"))
        consolidate(store)

    slow.action = overtake
    assert consolidate(slow).persons == 10
    assert persons_of(store) == {"a": 2, "b": 4, "c": 2, "d": 2}


def test_a_consolidation_that_read_decisions_before_another_does_not_undo_it(store):
    write_output(store, {"a": one(gender="male")})
    slow = MeanwhileListed(store.uri)
    slow.folder = layout.CORRECTIONS

    def overtake() -> None:
        append(store, [female("a")])
        consolidate(store)

    slow.action = overtake
    consolidate(slow)
    assert [row["gender"] for row in globbed(store)] == ["female"]


class KilledError(Exception):
    """Where a kill -9 would have hit."""


def kill() -> None:
    raise KilledError


def test_files_of_a_killed_consolidation_are_gone_after_the_next(store):
    write_output(store, shards("abc"))
    consolidate(store)
    write_output(store, shards("b", persons=3))
    killed = Meanwhile(store.uri)
    killed.action = kill
    with pytest.raises(KilledError):
        consolidate(killed)
    assert len(globbed(store)) > len(snapshot(store)) == 6
    consolidate(store)
    assert persons_of(store) == {"a": 2, "b": 3, "c": 2}


def test_files_of_a_killed_consolidation_are_gone_even_if_there_is_nothing_to_write(store):
    write_output(store, shards("abc"))
    consolidate(store)
    folder = Path(store.root, "consolidated")
    version = DeltaTable(str(folder)).version()
    live = next(iter(files_of(store, "consolidated")))
    shutil.copy(folder / live, folder / layout.snapshot_file("a", "0" * 16, version))
    assert consolidate(store).written == 0
    assert persons_of(store) == {"a": 2, "b": 2, "c": 2}
    assert DeltaTable(str(folder)).version() == version + 1, "its writer can't commit any more"


def test_many_consolidations_at_once_leave_every_row_once(store):
    write_output(store, shards("abcde"))
    consolidate_all_at_once(store)
    assert persons_of(store) == dict.fromkeys("abcde", 2)
    write_output(store, shards("ce", persons=3))
    consolidate_all_at_once(store)
    assert persons_of(store) == {"a": 2, "b": 2, "c": 3, "d": 2, "e": 3}


class ReplacedWhileRead(ObjectStore):
    """Another run replaces shard a when its answers are read, and deletes what it no longer names."""

    replaced = False

    def read(self, path):
        if path.startswith("annotations/smolvlm/a.") and not self.replaced:
            self.replaced = True
            write_output(ObjectStore(self.uri), shards("a", persons=5))
        return super().read(path)


def test_a_record_that_is_replaced_while_its_objects_are_read_is_read_again(store):
    write_output(store, shards("ab"))
    replaced = ReplacedWhileRead(store.uri)
    done = consolidate(replaced)
    assert replaced.replaced
    assert not done.incomplete
    assert persons_of(store) == {"a": 5, "b": 2}


def test_a_shard_whose_object_is_missing_is_left_out_named_and_taken_in_when_it_is_back(store):
    write_output(store, shards("ab"))
    record = json.loads(store.read(layout.commit_path("a")))
    path = next(entry["path"] for entry in record["objects"] if entry["kind"] == "annotations/smolvlm")
    content = store.read(path)
    store.delete([path])
    done = job.shopframe("consolidate", "--output", store.root)
    assert done.returncode == 1, done.stderr
    assert "a: left out of the consolidated tables: FileNotFoundError" in done.stderr
    assert path in done.stderr
    assert persons_of(store) == {"b": 2}
    assert consolidate(store).incomplete.keys() == {"a"}, "it is said again"
    store.write(path, content)
    assert not consolidate(store).incomplete
    assert persons_of(store) == {"a": 2, "b": 2}
