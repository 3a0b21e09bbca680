"""A rerun, even one that detects everything again, brings no erased person back."""

from __future__ import annotations

from pathlib import Path

from actors.storage.object_store import ObjectStore
from tests.erase.found import Person, traces
from tests.support import job, without_ray
from tests.support.in_process import run_in_process
from tests.support.job import Models


def persons(output: Path) -> list[Person]:
    rows = job.table(output, "persons").to_pylist()
    return [Person(r["shard_id"], r["frame_key"], r["person_index"], r["crop"]) for r in rows if r["kept"]]


def test_force_leaves_an_erased_person_and_the_persons_of_an_erased_frame_out(
    models: Models, tmp_path, monkeypatch
):
    job.write_shards(tmp_path / "in", "a", frames=3)
    output, keep = tmp_path / "out", ["--set", "output.keep_crops=always"]
    options = [*models.options(smolvlm=False), *keep]
    without_ray.annotate(tmp_path / "in", output, *options)
    before = persons(output)
    counts = {key: sum(person.frame_key == key for person in before) for key in {p.frame_key for p in before}}
    several = next(person for person in before if counts[person.frame_key] > 1)
    other = next(person for person in before if person.frame_key != several.frame_key)
    erase = ("erase", "--output", output, "--yes")
    assert run_in_process(monkeypatch, *erase, "--person", several.person_id) == 0
    assert run_in_process(monkeypatch, *erase, "--frame", f"a/{other.frame_key}") == 0
    erased = [several, *(person for person in before if person.frame_key == other.frame_key)]
    rows = {kind: job.table(output, kind).to_pylist() for kind in ("frames", "persons")}
    without_ray.annotate(tmp_path / "in", output, *options, "--force")
    assert {kind: job.table(output, kind).to_pylist() for kind in rows} == rows
    assert persons(output) == [person for person in before if person not in erased]
    for person in erased:
        assert traces(ObjectStore(str(output)), person) == set()
    names = [path.name for path in (output / "previews").glob("*.jpg")]
    assert names
    assert not [name for name in names if other.frame_key in name or several.frame_key in name]
    assert run_in_process(monkeypatch, "verify", "--output", output) == 0
