"""`shopframe clean` deletes what nothing may still need, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from actors.gemini.backlog.claims import Claims
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.run.leftovers import LeftoverFinder
from jobs.run.sweep import delete_dead
from tests.commit.test_committer import block, committed_attempt, committer, files
from tests.jobs.test_sweep import age
from tests.support.committed import Found, said, write_output
from tests.support.in_process import run_in_process

PERSON = Found((0, 0, 1, 1), answers={"smolvlm": said()})


@pytest.fixture
def output(tmp_path) -> Path:
    """An output of two shards that are both committed."""
    write_output(ObjectStore(str(tmp_path / "out")), {"s": {"f": [PERSON, PERSON]}, "t": {"f": [PERSON]}})
    return tmp_path / "out"


@pytest.fixture
def clean(capsys, monkeypatch):
    """Clean an output and return what is said."""

    def run(output: object, *options: object, expect: int = 0) -> str:
        assert run_in_process(monkeypatch, "clean", "--output", output, *options) == expect
        said = capsys.readouterr()
        return said.out if expect == 0 else said.err

    return run


def put(output: Path, *names: str) -> None:
    for name in names:
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        (output / name).write_bytes(b"12345")


def test_an_output_without_leftovers_stays_as_it_is(output: Path, clean):
    age(output, "**/*", 1000)
    before = files(ObjectStore(str(output)))
    assert clean(output) == "nothing to delete\n"
    assert files(ObjectStore(str(output))) == before


DEBRIS = (
    "persons/s.002-0123abcd.parquet",
    "annotations/gemini/gone.001-0123abcd.parquet",
    "json/gone/f/0.json",
    "json/gone.tar",
    "json/s/f/7.json",
    "json/s/g/0.json",
    "previews/gone.f.jpg",
    "previews/gone.001-0123abcd.f.jpg",
    "previews/dry-run/s.f.jpg",
    f"consolidated/.{'0' * 32}.tmp",
    f".probe-{'0' * 32}/object",
)


def test_debris_is_deleted_when_no_run_may_need_it(output: Path, clean):
    before = files(ObjectStore(str(output)))
    put(output, *DEBRIS)
    said = clean(output)
    assert "nothing to delete" in said
    assert f"kept, because they may still be needed: {len(DEBRIS)} objects, 55 bytes" in said
    for name in DEBRIS:
        age(output, name, 25)
    said = clean(output, "--dry-run")
    for name in DEBRIS:
        assert f"would delete {name} (5 bytes): " in said
    assert "no record names it, and it was written 25 h ago" in said
    assert files(ObjectStore(str(output))) == before | set(DEBRIS)
    said = clean(output)
    lines = [line.split() for line in said.splitlines()]
    assert said.startswith(f"deleted {len(DEBRIS)} objects, 55 bytes")
    assert ["documents", "4", "20", "bytes"] in lines
    assert ["persons", "1", "5", "bytes"] in lines
    assert ["dry-run", "pictures", "1", "5", "bytes"] in lines
    assert files(ObjectStore(str(output))) == before


def test_the_age_is_a_matter_of_the_user(output: Path, clean):
    put(output, "json/gone/f/0.json")
    age(output, "json/gone/f/0.json", 3)
    assert "nothing to delete" in clean(output, "--older-than-hours", 4)
    assert "deleted 1 object, 5 bytes" in clean(output, "--older-than-hours", 2)


def test_documents_from_before_a_shard_was_committed_again_are_deleted_at_once(output: Path, clean):
    put(output, "json/s/f/7.json", "json/s.tar")
    age(output, "json/s/**/*", 0.5)
    age(output, "json/s.tar", 0.5)
    said = clean(output, "--dry-run")
    assert "attempt 1 of its shard was committed after it was written" in said
    assert "deleted 2 objects" in clean(output)
    assert sorted(p.name for p in output.glob("json/s/f/*")) == ["0.json", "1.json"]


def test_documents_whose_persons_cannot_be_read_are_kept(output: Path, clean):
    persons = {name: next(output.glob(f"persons/{name}.*")) for name in "st"}
    persons["s"].unlink()
    persons["t"].write_bytes(b"no table")
    age(output, "json/**/*", 1000)
    assert "would keep json/t/f/0.json" in clean(output, "--dry-run")
    assert "see shopframe verify" in clean(output, "--dry-run")
    assert "nothing to delete" in clean(output)
    assert len(list(output.glob("json/[st]/f/*"))) == 3


def test_a_document_that_a_run_writes_again_meanwhile_is_kept(output: Path):
    store = ObjectStore(str(output))
    put(output, "json/s/f/7.json", "json/s/f/8.json")
    age(output, "json/s/f/[78].json", 25)
    found = list(LeftoverFinder(store).find_all())
    assert [leftover.dead for leftover in found] == [True, True]
    put(output, "json/s/f/7.json")
    done = {leftover.info.path: leftover.dead for leftover in delete_dead(store, found)}
    assert done == {"json/s/f/7.json": False, "json/s/f/8.json": True}
    assert sorted(p.name for p in output.glob("json/s/f/*")) == ["0.json", "1.json", "7.json"]


def test_documents_that_are_still_to_be_written_are_kept(output: Path, clean):
    record = json.loads((output / "commits/s.json").read_bytes())
    (output / "commits/s.json").write_text(json.dumps(record | {"documents": "due"}))
    put(output, "json/s/f/7.json")
    age(output, "json/s/f/7.json", 25)
    assert clean(output) == "nothing to delete\n"


def test_files_of_others_are_left_alone(output: Path, clean):
    names = ("persons/notes.txt", "json/readme.md", "json/s/f/notes.json", "previews/mine.png", "mine.jpg")
    put(output, *names, ".hidden/x", ".probe-mine/x", "frames/old.parquet")
    age(output, "**/*", 1000)
    assert clean(output) == "nothing to delete\n"


def test_a_folder_that_is_no_output_is_refused(tmp_path, clean):
    put(tmp_path, "json/s/f/0.json")
    age(tmp_path, "json/s/f/*", 1000)
    assert "no run.json here" in clean(tmp_path, expect=2)
    assert (tmp_path / "json/s/f/0.json").exists()


def test_claims_of_dead_runs_are_deleted_and_those_of_living_runs_kept(output: Path, clean):
    store = ObjectStore(str(output))
    living, dead = Claims(store, "living"), Claims(store, "dead")
    assert (living.take("s"), dead.take("t")) == ("ours", "ours")
    living.close()
    dead.close()
    # A run that is killed leaves its heartbeat behind, and one that waits for the quota holds its claim long.
    put(output, "gemini/holders/living", "gemini/holders/dead")
    age(output, "gemini/claims/*", 100)
    age(output, "gemini/holders/dead", 30)
    assert "deleted 2 objects" in clean(output)
    (claim,) = output.glob("gemini/claims/*")
    assert json.loads(claim.read_bytes())["holder"] == "living"
    assert [path.name for path in output.glob("gemini/holders/*")] == ["living"]


def test_logs_of_runs_that_ended_long_ago_are_deleted_and_that_of_the_last_run_kept(output: Path, clean):
    old, going_on, last = (f"2020010{day}T000000Z-0123abcd" for day in (1, 2, 3))
    parts = [layout.log_path(run_id, number) for run_id in (old, going_on, last) for number in (1, 2)]
    put(output, *parts, f"logs/{old}/notes.txt")
    age(output, "logs/*/*", 31 * 24)
    age(output, layout.log_path(going_on, 2), 1)
    assert f"would delete {parts[0]} (5 bytes): its run wrote nothing" in clean(output, "--dry-run")
    assert "deleted 2 objects" in clean(output)
    assert {f"logs/{path.parent.name}/{path.name}" for path in output.glob("logs/*/*")} == {
        *parts[2:],
        f"logs/{old}/notes.txt",
    }


def test_a_bucket_is_cleaned_too(bucket: str, clean):
    store = ObjectStore(f"{bucket}/out")
    write_output(store, {"s": {"f": [PERSON]}})
    committer(store).commit(block(replaces=committed_attempt(store), attempt=2))
    before = {info.path for info in store.list()}
    lost = "persons/s.002-0123abcd.parquet"
    debris = [name for name in DEBRIS if name != lost and not name.endswith(".tmp")]
    for name in [*debris, lost]:
        store.write(name, b"12345")
    assert "deleted 1 object, 5 bytes" in clean(store.uri), "another attempt 2 was committed"
    assert {info.path for info in store.list()} == before | set(debris)
    assert f"deleted {len(debris)} objects" in clean(store.uri, "--older-than-hours", 0)
    assert {info.path for info in store.list()} == before
