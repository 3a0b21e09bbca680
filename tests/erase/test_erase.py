"""`shopframe erase` leaves nothing of a person anywhere in an output, and everything of all others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.corrections.decision_log import read_decisions
from actors.errors import ConfigError
from actors.gemini.backlog import claims
from actors.gemini.backlog.claims import Claims
from actors.storage import layout
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore
from actors.storage.settings import StorageSettings
from actors.storage.tables import from_parquet
from jobs.run.erased_decisions import without_erased
from jobs.run.local_copies import copies_of
from jobs.run.presence import erasing, working
from tests.erase.found import Person, traces
from tests.erase.outputs import PERSONS, decision, fill
from tests.support import job
from tests.support.committed import Found, write_output
from tests.support.in_process import run_in_process

FIRST = PERSONS[0]
Erase = Callable[..., str]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("erase") / "out"
    fill(ObjectStore(str(folder)))
    return folder


@pytest.fixture
def output(filled: Path, tmp_path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "out"))


@pytest.fixture
def erase(capsys, monkeypatch) -> Erase:
    """Run the command and return what it prints, to standard error if it fails."""

    def run(output: object, *options: object, expect: int = 0, command: str = "erase") -> str:
        assert run_in_process(monkeypatch, command, "--output", output, *options) == expect
        said = capsys.readouterr()
        return said.out if expect == 0 else said.err

    return run


@pytest.fixture
def quick(monkeypatch) -> None:
    """Find out in a moment whether the holder of a claim is dead."""
    monkeypatch.setattr(claims, "_DEAD_AFTER_S", 0.2)
    monkeypatch.setattr(claims, "_LOOK_EVERY_S", 0.02)


def everything(output: Path) -> dict[str, bytes]:
    return {str(p.relative_to(output)): p.read_bytes() for p in output.rglob("*") if p.is_file()}


def left(output: Path) -> set[Person]:
    store = ObjectStore(str(output))
    return {person for person in PERSONS if traces(store, person)}


def test_every_place_has_something_of_each_person_before(output: Path):
    for person in PERSONS:
        found = traces(ObjectStore(str(output)), person)
        assert {what for _, what in found} == {"crop", "crop_sha256", "person_id", "person_sha256"}
        assert {path.partition("/")[0] for path, _ in found} == {
            "annotations",
            "answers",
            "consolidated",
            "evaluation",
            "gemini",
            "json",
            "persons",
            "processing.log",
            "report.html",
            "report_pictures",
        }


def test_without_yes_nothing_changes_and_what_would_go_is_said(output: Path, erase: Erase):
    before = everything(output)
    said = erase(output, "--person", FIRST.person_id)
    assert everything(output) == before
    assert said.startswith("would erase 1 person (1 frame, 1 shard)\n")
    counts = {line[:60].rsplit(None, 1)[0].strip(): line.split()[-1] for line in said.splitlines()[1:-1]}
    assert counts == {
        "answers in the index": "3",
        "answers of Gemini that are not committed": "1",
        "answers of shards in progress": "1",
        "corrections": "1",
        "documents": "1",
        "files of analysis/": "1",
        "files of evaluation/": "6",
        "files of the report": "7",
        "lines of logs": "1",
        "persons in batch jobs": "1",
        "persons in the record of what was sent": "1",
    }
    assert "the same command with --yes erases them" in said


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        (["--person", "a/f1/0"], [0]),
        (["--frame", "a/f2"], [2, 3]),
        (["--frame", "f1"], [0, 1]),
        (["--camera", "till"], [2, 3, 4, 5]),
        (["--before", "2026-02-01"], [0, 1]),
        (["--before", "2027-01-01"], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_nothing_is_left_of_the_erased_and_everything_of_the_others(
    output: Path, erase: Erase, options: list[str], gone: list[int]
):
    said = erase(output, *options, "--yes")
    assert said.startswith(f"erased {len(gone)} person")
    store = ObjectStore(str(output))
    for number, person in enumerate(PERSONS):
        found = traces(store, person)
        assert {what for _, what in found} == (set() if number in gone else set(person.needles)), found
    erase(output, command="verify")
    frames = {
        (r["shard_id"], r["frame_key"]): (r["detected"], r["kept"])
        for r in job.table(output, "frames").to_pylist()
    }
    staying = [person for number, person in enumerate(PERSONS) if number not in gone]
    numbers = {key: sum((p.shard_id, p.frame_key) == key for p in staying) for key in frames}
    assert frames == {key: (number, number) for key, number in numbers.items()}
    rows = job.consolidated(output)
    assert [(r["shard_id"], r["frame_key"], r["person_index"]) for r in rows] == [
        (p.shard_id, p.frame_key, p.index) for p in staying
    ]
    assert sum(map(len, read_decisions(store).values())) == len(staying)


def test_an_erasure_is_recorded_without_whom(output: Path, erase: Erase):
    erase(output, "--person", FIRST.person_id, "--yes")
    begun, done = (json.loads(path.read_text()) for path in sorted((output / "erasures").glob("*.json")))
    assert (begun["step"], done["step"]) == ("begun", "done")
    assert done["selection"] == "person"
    assert done["counts"]["persons"] == 1
    remembered = b"".join(path.read_bytes() for path in (output / "erasures").rglob("*") if path.is_file())
    for name in (b'"f1"', b"a/f1", *FIRST.needles.values()):
        assert name not in remembered


def test_pictures_of_the_frame_are_gone_and_those_of_others_stay(output: Path, erase: Erase):
    erase(output, "--person", "a/f2/1", "--yes")
    record, _ = read_record(ObjectStore(str(output)), "b") or (None, "")
    assert record is not None
    assert [str(path.relative_to(output)) for path in (output / "previews").rglob("*.jpg")] == [
        entry.path for entry in record.objects if entry.kind == "preview"
    ]


@pytest.mark.parametrize("person_json", ["tar", "none"])
def test_documents_in_a_tar_and_outputs_without_documents(tmp_path, erase: Erase, person_json: str):
    fill(ObjectStore(str(tmp_path / "out")), person_json=person_json)
    erase(tmp_path / "out", "--frame", "a/f1", "--yes")
    assert left(tmp_path / "out") == set(PERSONS[2:])
    erase(tmp_path / "out", command="verify")


def test_pictures_that_the_local_page_keeps_are_gone(output: Path, erase: Erase, tmp_path):
    copies, others = copies_of(ObjectStore(str(output)), tmp_path / "c"), tmp_path / "c" / "other"
    for folder in (copies, others):
        (folder / "pictures").mkdir(parents=True)
        (folder / "pictures" / "picture").write_bytes(FIRST.crop)
    named = ["--person", FIRST.person_id, "--cache", tmp_path / "c"]
    found = "pictures and tables in the cache of shopframe serve          1"
    assert found in erase(output, *named)
    assert copies.exists()
    assert found in erase(output, *named, "--yes")
    assert not copies.exists()
    assert others.exists()


def test_what_was_deleted_whole_is_said_with_the_commands_that_make_it_again(output: Path, erase: Erase):
    said = erase(output, "--person", FIRST.person_id, "--yes")
    assert f"next: shopframe report --output {output}" in said
    assert f"next: shopframe evaluate --output {output} --truth" in said


def test_decisions_about_somebody_who_was_erased_meanwhile_are_left_out(output: Path, erase: Erase):
    store = ObjectStore(str(output))
    decisions = [decision(person, kind="not_a_person") for person in PERSONS]
    assert without_erased(store, decisions) == decisions
    erase(output, "--person", FIRST.person_id, "--yes")
    assert without_erased(store, decisions) == decisions[1:]


def test_a_person_keeps_its_number_and_a_correction_its_person(output: Path, erase: Erase):
    erase(output, "--person", "a/f1/0", "--yes")
    (row,) = (r for r in job.consolidated(output) if (r["shard_id"], r["frame_key"]) == ("a", "f1"))
    assert (row["person_index"], row["gender"], row["gender_source"]) == (1, "female", "human")


def test_erasing_again_finds_nobody_and_a_wrong_name_is_refused(output: Path, erase: Erase):
    erase(output, "--person", FIRST.person_id, "--yes")
    said = erase(output, "--person", FIRST.person_id, "--yes")
    assert "an earlier erasure was about this person" in said
    before = everything(output)
    of_frame = FIRST.person_id.rpartition("/")[0]
    for options in (
        ["--person", "a/f9/0"],
        ["--person", f"{of_frame}/22"],
        ["--person", of_frame],
        ["--frame", "f9"],
        ["--camera", "roof"],
    ):
        said = erase(output, *options, "--yes", expect=2)
        assert options[1] in said
    assert "pass one of a/f2, b/f2" in erase(output, "--frame", "f2", expect=2)
    assert "not a time such as" in erase(output, "--before", "yesterday", expect=2)
    assert "pass one of" in erase(output, "--frame", "f1", "--camera", "till", expect=2)
    assert everything(output) == before


def test_frames_without_a_time_are_said(tmp_path, erase: Erase):
    write_output(ObjectStore(str(tmp_path)), {"s": {"f": [Found((0, 0, 1, 1))], "g": []}})
    said = erase(tmp_path, "--before", "2026-01-01", "--yes")
    assert said.startswith("erased 0 persons")
    assert "2 frames have no time, so an erasure by time leaves them alone" in said


def test_clean_erases_what_is_older_than_the_days_to_retain(output: Path, erase: Erase):
    old = ["--set", "output.retain_days=0.5"]
    said = erase(output, *old, "--dry-run", command="clean")
    assert "output.retain_days=0.5: would erase 6 persons (3 frames, 2 shards)" in said
    assert left(output) == set(PERSONS)
    said = erase(output, *old, command="clean")
    assert "output.retain_days=0.5: erased 6 persons" in said
    assert left(output) == set()
    assert "erased 0 persons" in erase(output, *old, command="clean")
    erase(output, command="clean")


def test_an_erasure_and_a_run_keep_off_each_other(output: Path, erase: Erase, quick, monkeypatch):
    store = ObjectStore(str(output))
    before = everything(output)
    beating = Claims(store, "run-of-another-machine")
    monkeypatch.setattr(claims, "BEAT_S", 0.05)
    beating.appear()
    try:
        said = erase(output, "--person", FIRST.person_id, "--yes", expect=2)
    finally:
        beating.close()
    assert "a run works on" in said
    assert everything(output) == before
    with erasing(store), pytest.raises(ConfigError, match="persons are being erased"), working(store):
        pass
    with working(store):
        pass


_WRITES_BETWEEN_KILLS = 7


class _Killed(BaseException):
    """The process dies here."""


class _Countdown:
    """Lets a store be written some times, and then never again, as if the process had been killed."""

    def __init__(self, writes: int) -> None:
        self._left = writes

    def over(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def run(store: ObjectStore, first: object, *others: object) -> Any:
            # The heartbeat comes at any time.
            if not str(first).startswith(layout.HOLDERS):
                self._left -= 1
                if self._left < 0:
                    raise _Killed
            return method(store, first, *others)

        return run


def is_killed_after(writes: int, output: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    countdown = _Countdown(writes)
    with monkeypatch.context() as patched:
        for name in ("write", "create", "replace", "upload", "delete"):
            patched.setattr(ObjectStore, name, countdown.over(getattr(ObjectStore, name)))
        try:
            assert run_in_process(patched, "erase", "--output", output, "--frame", "a/f1", "--yes") == 0
        except _Killed:
            return True
    return False


@pytest.mark.slow
def test_a_kill_at_any_write_leaves_an_output_that_readers_can_use_and_the_same_command_completes(
    filled: Path, tmp_path, monkeypatch, erase: Erase, quick
):
    kills = 0
    for writes in range(0, 1000, _WRITES_BETWEEN_KILLS):
        output = Path(shutil.copytree(filled, tmp_path / f"{writes}"))
        if not is_killed_after(writes, output, monkeypatch):
            break
        kills += 1
        for path in (output / "commits").glob("*.json"):
            for entry in json.loads(path.read_text())["objects"]:
                if entry["kind"].partition("/")[0] in ("frames", "persons", "annotations"):
                    from_parquet((output / entry["path"]).read_bytes())
        erase(output, "--frame", "a/f1", "--yes")
        assert left(output) == set(PERSONS[2:]), writes
        erase(output, command="verify")
        shutil.rmtree(output)
    assert kills > 5


def test_an_erasure_in_a_bucket(bucket: str, erase: Erase):
    store = ObjectStore(f"{bucket}/out", StorageSettings())
    fill(store)
    erase(store.uri, "--camera", "till", "--yes")
    assert {person for person in PERSONS if traces(store, person)} == set(PERSONS[:2])
    erase(store.uri, command="verify")
