"""`shopframe verify` finds what is not as the commit records say, and says what to do about it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.corrections.settings import ConsensusSettings
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore
from jobs.run.consolidation import consolidate_output
from jobs.run.shard_check import check_shard
from tests.commit.test_committer import block, committed_attempt, committer
from tests.support.committed import SCHEMA, Found, said, write_output
from tests.support.in_process import run_in_process

BOX = (0.1, 0.1, 0.3, 0.9)
PERSON = {"smolvlm": said({"gender": 0.75}, gender="male"), "gemini": said(gender="female")}
SHARDS = {
    "a": {"f1": [Found(BOX, answers=PERSON), Found(BOX, 0.4, kept=False)], "f2": "truncated JPEG"},
    "b": {"f1": [Found(BOX, answers=PERSON)], "f2": [Found(BOX, answers={"smolvlm": said()})]},
}


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Path:
    """An output of two shards with documents as files and a snapshot, which tests copy."""
    folder = tmp_path_factory.mktemp("verify") / "out"
    store = ObjectStore(str(folder))
    write_output(store, SHARDS)
    consolidate_output(store, SCHEMA, ConsensusSettings(), keep_versions_days=0)
    return folder


@pytest.fixture
def output(committed: Path, tmp_path) -> Path:
    return Path(shutil.copytree(committed, tmp_path / "out"))


@pytest.fixture
def verify(capsys, monkeypatch) -> Callable[..., list[dict[str, str]]]:
    """Verify an output, check that the exit code fits, and return the problems."""

    def run(output: object, *options: str) -> list[dict[str, str]]:
        code = run_in_process(monkeypatch, "verify", "--output", output, "--json", *options)
        found = json.loads(capsys.readouterr().out)
        assert found["shards"] == 2
        assert code == bool(found["problems"])
        return found["problems"]

    return run


def only(output: Path, pattern: str) -> Path:
    (found,) = output.glob(pattern)
    return found


def change_record(output: Path, shard: str, change: Callable[[dict], None]) -> None:
    path = output / f"commits/{shard}.json"
    record = json.loads(path.read_bytes())
    change(record)
    path.write_text(json.dumps(record))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_table(output: Path, pattern: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write another table in the place of one, together with a record that has its size and checksum."""
    path = only(output, pattern)
    pq.write_table(change(pq.read_table(path)), path)
    content = path.read_bytes()
    name = str(path.relative_to(output))

    def as_it_is(record: dict) -> None:
        for entry in record["objects"]:
            if entry["path"] == name:
                entry |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    change_record(output, path.name.partition(".")[0], as_it_is)


def set_in_document(path: Path, key: str, value: object) -> None:
    document = json.loads(path.read_bytes())
    document["annotations"]["SmolVLM"][key] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("person_json", ["files", "tar", "none"])
@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_nothing_is_wrong_with_what_a_run_wrote(tmp_path, verify, person_json, quick):
    store = ObjectStore(str(tmp_path / "out"))
    write_output(store, SHARDS, person_json=person_json)
    assert verify(store.uri, *quick) == []
    consolidate_output(store, SCHEMA, ConsensusSettings(), keep_versions_days=0)
    assert verify(store.uri, *quick) == []


class Damage(NamedTuple):
    """Something that is done to an output.

    `said` is part of the problem that is found. `quick` is that with --quick, or None if nothing is found.
    """

    how: Callable[[Path], object]
    path: str
    said: str
    quick: str | None = None


def doubled(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(0, 1)] * 2)


def of_shard_x(table: pa.Table) -> pa.Table:
    return table.set_column(0, "shard_id", pa.array(["x"] * table.num_rows))


def with_strange_age(table: pa.Table) -> pa.Table:
    place = table.column_names.index("exact_age")
    field = table.schema.field(place)
    return table.set_column(place, field, pa.array([200] * table.num_rows, field.type))


MISSING = "is named in the commit record but missing"
SUMS = "counts 2 frames, but 2 ok + 3 failed"
UNCOUNTED = "counts no outcomes for annotations/gemini"
MOVED = "is the commit record of another shard, c"
DUE = "has documents that are still to be written"
TWO_DOCUMENTS = "holds 2 documents with"

DAMAGES = {
    "a table is deleted": Damage(
        lambda out: only(out, "persons/a.*").unlink(), "persons/a.001-", MISSING, MISSING
    ),
    "answers are deleted": Damage(
        lambda out: only(out, "annotations/gemini/a.*").unlink(),
        "annotations/gemini/a.001-",
        MISSING,
        MISSING,
    ),
    "a table is cut": Damage(
        lambda out: os.truncate(only(out, "frames/a.*"), 9), "frames/a.001-", "has 9 bytes", "has 9 bytes"
    ),
    "a byte is flipped": Damage(
        lambda out: flip_a_byte(only(out, "persons/a.*")), "persons/a.001-", "has another SHA-256"
    ),
    "a row is lost": Damage(
        lambda out: replace_table(out, "annotations/smolvlm/b.*", lambda t: t.slice(0, 1)),
        "annotations/smolvlm/b.001-",
        "has the outcomes 1 ok, but the commit record counts 2 ok",
    ),
    "a row is doubled": Damage(
        lambda out: replace_table(out, "annotations/smolvlm/b.*", doubled),
        "annotations/smolvlm/b.001-",
        "is not about the kept persons, once each: f1/0, f2/0",
    ),
    "a frame is doubled": Damage(
        lambda out: replace_table(out, "frames/b.*", doubled),
        "frames/b.001-",
        "has frames more than once: f1",
    ),
    "a column is lost": Damage(
        lambda out: replace_table(out, "frames/b.*", lambda t: t.drop_columns(["camera"])),
        "frames/b.001-",
        "has other columns than its schema: camera is missing",
    ),
    "a table is of another shard": Damage(
        lambda out: replace_table(out, "frames/b.*", of_shard_x),
        "frames/b.001-",
        "has rows of other shards: x",
    ),
    "persons are counted wrong": Damage(
        lambda out: change_record(out, "b", lambda r: r["counts"].update(kept=1, dropped={"roi": 1})),
        "persons/b.001-",
        "has 2 persons = 2 kept, but the commit record counts 2 persons = 1 kept + 1 roi",
        "commits/b.json counts 1 kept person, but 2 outcomes of gemini",
    ),
    "counts don't add up": Damage(
        lambda out: change_record(out, "b", lambda r: r["counts"].update(frames_failed=3)),
        "commits/b.json",
        SUMS,
        SUMS,
    ),
    "an annotator is not counted": Damage(
        lambda out: change_record(out, "a", lambda r: r["annotators"].pop("gemini")),
        "commits/a.json",
        UNCOUNTED,
        UNCOUNTED,
    ),
    "a value is not allowed": Damage(
        lambda out: replace_table(out, "annotations/smolvlm/b.*", with_strange_age),
        "annotations/smolvlm/b.001-",
        "has values of exact_age that are not allowed: 200",
    ),
    "an attribute is lost": Damage(
        lambda out: replace_table(out, "annotations/smolvlm/b.*", lambda t: t.drop_columns(["mask"])),
        "annotations/smolvlm/b.001-",
        "has other columns than its schema: mask is missing",
    ),
    "the cost is another": Damage(
        lambda out: change_record(out, "a", lambda r: r["cost_usd"].update(gemini=1.5)),
        "annotations/gemini/a.001-",
        "but the commit record says 1.500000",
    ),
    "a record is no record": Damage(
        lambda out: (out / "commits/a.json").write_text("{}"),
        "commits/a.json",
        "not a commit record",
        "not a commit record",
    ),
    "a record is in the place of another": Damage(
        lambda out: change_record(out, "b", lambda r: r.update(shard_id="c")), "commits/b.json", MOVED, MOVED
    ),
    "a document is deleted": Damage(
        lambda out: (out / "json/b/f1/0.json").unlink(),
        "json/b",
        "lacks 1 of 2 documents: f1/0.json",
        "holds 1 document with",
    ),
    "documents are due": Damage(
        lambda out: change_record(out, "b", lambda r: r.update(documents="due")), "json/b", DUE, DUE
    ),
    "a document has another answer": Damage(
        lambda out: set_in_document(out / "json/b/f2/0.json", "gender", "female"),
        "json/b",
        "holds 1 document unlike the tables: f2/0.json",
        TWO_DOCUMENTS,
    ),
    "a document has another form": Damage(
        lambda out: (out / "json/b/f2/0.json").open("a").write("\n"),
        "json/b",
        "holds other bytes than were committed",
        TWO_DOCUMENTS,
    ),
    "the snapshot is of another state": Damage(
        lambda out: change_record(out, "b", lambda r: r.update(state="failed")),
        "consolidated",
        "has 2 rows of this shard, but the commit records have no such shard that is done",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_found_with_its_place_and_remedy(output: Path, verify, name):
    damage = DAMAGES[name]
    damage.how(output)
    for found, expected in ((verify(output), damage.said), (verify(output, "--quick"), damage.quick)):
        if expected is None:
            assert found == []
            continue
        said = [f"{p['object']} {p['problem']}" for p in found]
        assert any(text.startswith(damage.path) and expected in text for text in said) or expected in said, (
            said
        )
        assert {p["shard"] for p in found} == {"a" if "a." in damage.path else "b"}
        assert all("run " in p["remedy"] for p in found)


def test_the_remedy_of_a_shard_is_to_do_it_once_more(output: Path, verify):
    only(output, "persons/a.*").unlink()
    (found,) = verify(output)
    assert found["remedy"].startswith(f"delete {output}/commits/a.json, then run the same shopframe annotate")


def test_the_remedy_of_documents_is_to_write_them_again(output: Path, verify):
    (output / "json/b/f1/0.json").unlink()
    (found,) = verify(output)
    assert f'set "documents" to "due" in {output}/commits/b.json' in found["remedy"]


def test_documents_that_no_record_explains_are_found_and_cleaned(output: Path, verify, monkeypatch, capsys):
    for name in ("json/gone/f/0.json", "json/a/f9/7.json"):
        (output / name).parent.mkdir(parents=True)
        (output / name).write_text("{}")
    (output / "json/b.tar").write_bytes(b"")
    found = verify(output)
    assert [p["object"] for p in found] == ["json/a", "json/b.tar", "json/gone"]
    assert all("holds documents that no commit record explains" in p["problem"] for p in found)
    assert {p["remedy"] for p in found} == {f"run shopframe clean --output {output}"}
    assert [p["object"] for p in verify(output, "--quick")] == ["json/a", "json/b.tar", "json/gone"]
    assert run_in_process(monkeypatch, "clean", "--output", output, "--older-than-hours", 0) == 0
    capsys.readouterr()
    assert verify(output) == []


def test_a_tar_of_documents_is_compared_with_the_tables(tmp_path, verify):
    store = ObjectStore(str(tmp_path / "out"))
    write_output(store, SHARDS, person_json="tar")
    path = tmp_path / "out/json/b.tar"
    with tarfile.open(path) as tar:
        first = tar.getmembers()[0]
        content = tar.extractfile(first).read().replace(b'"male"', b'"unknown"')
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        first.size = len(content)
        tar.addfile(first, io.BytesIO(content))
    path.write_bytes(sink.getvalue())
    assert "has another SHA-256 than the commit record says" in verify(store.uri)[0]["problem"]

    def as_it_is(record: dict) -> None:
        (entry,) = (e for e in record["objects"] if e["kind"] == "json")
        entry |= {"size_bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    change_record(tmp_path / "out", "b", as_it_is)
    assert [(p["object"], p["problem"]) for p in verify(store.uri)] == [
        ("json/b.tar", "lacks 1 of 2 documents: f2/0.json"),
        ("json/b.tar", "holds 1 document unlike the tables: f1/0.json"),
    ]


def test_the_terminal_shows_each_problem_and_the_sum(output: Path, capsys, monkeypatch):
    assert run_in_process(monkeypatch, "verify", "--output", output) == 0
    assert "2 shards with" in capsys.readouterr().out
    only(output, "persons/a.*").unlink()
    assert run_in_process(monkeypatch, "verify", "--output", output) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("persons/a.001-")
    assert lines[0].endswith("is named in the commit record but missing (shard a)")
    assert lines[-1].endswith(": 1 problem")


def test_a_shard_that_is_committed_again_meanwhile_has_nothing_wrong(tmp_path):
    store = ObjectStore(str(tmp_path / "out"))
    committer(store).commit(block())

    class Overtaken(ObjectStore):
        """Another attempt commits the shard right before its persons are read."""

        def read(self, path):
            if path.startswith("persons/s.001"):
                committer(store).commit(block(replaces=committed_attempt(store), attempt=2))
            return super().read(path)

    checked = check_shard(Overtaken(store.uri), "s", quick=False)
    assert checked.problems == []
    assert checked.record.attempt == 2
    assert not list((tmp_path / "out/persons").glob("s.001*"))


def test_a_bucket_is_verified_too(bucket: str, verify):
    store = ObjectStore(f"{bucket}/out")
    write_output(store, SHARDS)
    consolidate_output(store, SCHEMA, ConsensusSettings(), keep_versions_days=0)
    assert verify(store.uri) == []
    assert verify(store.uri, "--quick") == []
    path = read_record(store, "a")[0].object("persons").path
    store.delete([path, "json/b/f1/0.json"])
    store.write("json/gone/f/0.json", b"{}")
    assert [p["object"] for p in verify(store.uri)] == [path, "json/b", "json/gone"]
    assert [p["object"] for p in verify(store.uri, "--quick")] == [path, "json/b", "json/gone"]
