"""Whole runs of `shopframe annotate`: committed data, counts that reconcile, and what a rerun repeats."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pyarrow as pa
import pytest

from actors.storage.tables import from_parquet, to_parquet
from tests.support import job, without_ray
from tests.support.job import Models

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PROMPT = "Describe this person. Answer in JSON:\n{schema}\n"


@pytest.fixture(scope="module")
def first(models: Models, tmp_path_factory):
    """The output of one run over four shards.

    The tests rerun into the same output, in their order. Those that change settings add them to `options`, so
    the tests after them need no run that changes the settings back.
    """
    folder = tmp_path_factory.mktemp("job")
    source, output = folder / "in", folder / "out"
    job.write_shards(source, "abcd")
    job.annotate(source, output, *models.options())
    return SimpleNamespace(source=source, output=output, options=models.options())


def test_every_shard_is_committed_and_all_counts_reconcile(first):
    found = job.records(first.output)
    assert list(found) == ["a", "b", "c", "d"]
    assert {record["state"] for record in found.values()} == {"done"}
    frames, persons = job.table(first.output, "frames"), job.table(first.output, "persons")
    answers = job.table(first.output, "annotations/smolvlm")
    assert frames.num_rows == 8
    assert Counter(frames["status"].to_pylist()) == {"ok": 8}
    assert set(frames["camera"].to_pylist()) == {"cam-0", "cam-1"}
    kept = persons.filter(persons["kept"])
    assert 0 < kept.num_rows < persons.num_rows
    assert answers.select(job.ROW_KEYS).to_pylist() == kept.select(job.ROW_KEYS).to_pylist()
    counts = [record["counts"] for record in found.values()]
    assert sum(c["frames_ok"] for c in counts) == 8
    assert sum(c["detected"] for c in counts) == persons.num_rows == sum(frames["detected"].to_pylist())
    assert sum(c["kept"] for c in counts) == kept.num_rows == sum(frames["kept"].to_pylist())
    assert sum(sum(c["dropped"].values()) for c in counts) == persons.num_rows - kept.num_rows
    outcomes = sum((Counter(r["annotators"]["smolvlm"]) for r in found.values()), Counter())
    assert outcomes == Counter(answers["status"].to_pylist())
    assert len(job.bytes_of(first.output, "json")) == kept.num_rows
    assert len(job.consolidated(first.output)) == kept.num_rows
    assert not job.debris(first.output)


def test_status_and_progress_say_what_the_records_say(first):
    done = job.shopframe("status", "--output", first.output, "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status["shards"] == {"total": 4, "done": 4, "failed": 0, "pending": 0}
    assert status["frames"] == {"total": 8, "ok": 8, "failed": 0}
    assert status["persons"]["detected"] == status["persons"]["kept"] + status["persons"]["dropped"]
    assert sum(status["annotators"]["smolvlm"].values()) == status["persons"]["kept"]
    written = job.progress(first.output)
    assert written.pop("run").keys() >= {"shards_done", "shards_failed", "shards_skipped"}
    assert written == status


def test_a_persons_document_and_consolidated_row_agree_with_its_answer(first):
    answers = job.table(first.output, "annotations/smolvlm").to_pylist()
    for answer, row in zip(answers, job.consolidated(first.output), strict=True):
        path = f"json/{answer['shard_id']}/{answer['frame_key']}/{answer['person_index']}.json"
        document = json.loads((first.output / path).read_bytes())
        said = document["annotations"]["SmolVLM"]
        assert document["bbox"] == pytest.approx(row["bbox"], abs=1e-4)
        assert said["status"] == answer["status"] == row["smolvlm_status"]
        assert said["prompt_sha256"] == answer["prompt_sha256"]
        assert said["gender"] == answer["gender"] == row["smolvlm_gender"]
        assert said["attributes"]["hood"] == answer["hood"]


def test_a_rerun_changes_nothing_and_one_with_news_does_just_these(first):
    before = job.bytes_of(first.output, "commits")
    without_ray.annotate(first.source, first.output, *first.options)
    assert job.bytes_of(first.output, "commits") == before
    assert job.progress(first.output)["run"]["shards_skipped"] == 4

    (first.output / "commits/a.json").unlink()
    job.write_shard(first.source / "b.tar", seed=7, frames=3)
    job.write_shard(first.source / "e.tar", seed=8)
    without_ray.annotate(first.source, first.output, *first.options)
    run = job.progress(first.output)["run"]
    assert (run["shards_done"], run["shards_skipped"]) == (3, 2)
    after = job.bytes_of(first.output, "commits")
    assert {name for name in after if after[name] != before.get(name)} == {
        "commits/a.json",
        "commits/b.json",
        "commits/e.json",
    }
    found = job.records(first.output)
    assert (found["b"]["attempt"], found["b"]["counts"]["frames"]) == (2, 3)
    assert len(job.consolidated(first.output)) == sum(r["counts"]["kept"] for r in found.values())


def test_a_new_prompt_and_attribute_reopen_only_the_annotator(first, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text(PROMPT)
    before = job.records(first.output)
    crops = job.bytes_of(first.output, "frames") | job.bytes_of(first.output, "persons")
    scarf = "{type: boolean, description: Wears a scarf}"
    first.options += ["--set", f"smolvlm.prompt={prompt}", "--set", f"schema.attributes.scarf={scarf}"]
    without_ray.annotate(first.source, first.output, *first.options)
    assert (job.bytes_of(first.output, "frames") | job.bytes_of(first.output, "persons")) == crops
    after = job.records(first.output)
    for shard_id, record in after.items():
        assert record["attempt"] == before[shard_id]["attempt"] + 1
        assert record["fingerprints"]["detect"] == before[shard_id]["fingerprints"]["detect"]
        assert record["fingerprints"]["smolvlm"] != before[shard_id]["fingerprints"]["smolvlm"]
    answers = job.table(first.output, "annotations/smolvlm")
    assert len(set(answers["prompt_sha256"].to_pylist())) == 1
    assert set(answers["scarf"].to_pylist()) <= {True, False, None}
    documents = [json.loads(content) for content in job.bytes_of(first.output, "json").values()]
    said = [document["annotations"]["SmolVLM"]["attributes"]["scarf"] for document in documents]
    assert Counter(said) == Counter(answers["scarf"].to_pylist())


def test_an_annotator_that_owes_nothing_is_not_asked_again(first):
    before = job.bytes_of(first.output, "commits")
    # All answers are ok, so the annotator owes none of them.
    assert all(set(r["annotators"]["smolvlm"]) <= {"ok"} for r in job.records(first.output).values())
    without_ray.annotate(first.source, first.output, *first.options, "--retry-annotator", "smolvlm")
    assert job.bytes_of(first.output, "commits") == before


def test_force_does_everything_again_with_the_same_result(first):
    """No crop has been asked about by itself yet: the last digits of confidences depend on a crop's batch."""
    before, debris = job.records(first.output), job.debris(first.output)
    rows = job.consolidated(first.output)
    documents = job.bytes_of(first.output, "json")
    without_ray.annotate(first.source, first.output, *first.options, "--force")
    after = job.records(first.output)
    assert {name: r["attempt"] for name, r in after.items()} == {
        name: r["attempt"] + 1 for name, r in before.items()
    }
    assert job.consolidated(first.output) == rows
    assert job.bytes_of(first.output, "json") == documents
    assert job.debris(first.output) == debris


def test_owed_answers_are_asked_for_again_and_nobody_elses(first):
    """The output is changed to look as if the model had run out of memory on two crops."""
    before = job.records(first.output)
    rows = job.table(first.output, "annotations/smolvlm").to_pylist()
    owing = next(name for name, record in before.items() if record["counts"]["kept"] >= 3)
    entry = next(e for e in before[owing]["objects"] if e["kind"] == "annotations/smolvlm")
    path = first.output / entry["path"]
    answers = from_parquet(path.read_bytes())
    owed = [
        dict.fromkeys(row)
        | {name: row[name] for name in (*job.ROW_KEYS, "model", "model_version", "prompt_sha256")}
        | {"status": "error", "reason": "out of memory"}
        if index < 2
        else row
        for index, row in enumerate(answers.to_pylist())
    ]
    path.write_bytes(to_parquet(pa.Table.from_pylist(owed, answers.schema)))
    record_path = first.output / f"commits/{owing}.json"
    kept = before[owing]["counts"]["kept"]
    outcomes = {"annotators": {"smolvlm": {"error": 2, "ok": kept - 2}}}
    record_path.write_text(json.dumps(before[owing] | outcomes))

    status = json.loads(job.shopframe("status", "--output", first.output, "--json").stdout)
    assert status["annotators"]["smolvlm"]["error"] == 2
    assert "--retry-annotator smolvlm" in status["next"]
    without_ray.annotate(first.source, first.output, *first.options, "--retry-annotator", "smolvlm")
    after = job.records(first.output)
    assert {name for name in after if after[name] != before[name]} == {owing}
    assert after[owing]["annotators"] == before[owing]["annotators"]
    assert after[owing]["attempt"] == before[owing]["attempt"] + 1
    again = job.table(first.output, "annotations/smolvlm").to_pylist()
    # The last digits of confidences depend on the number of crops in a batch.
    for new, old in zip(again, rows, strict=True):
        assert new == {k: pytest.approx(v, abs=1e-5) if isinstance(v, float) else v for k, v in old.items()}


def test_a_changed_zone_detects_again_and_its_drops_are_counted(first):
    before, debris = job.records(first.output), job.debris(first.output)
    first.options += ["--set", "roi.static=[{mode: include, rectangle: [0, 0, 1, 0.5]}]"]
    without_ray.annotate(first.source, first.output, *first.options)
    after = job.records(first.output)
    for name, record in after.items():
        assert record["attempt"] == before[name]["attempt"] + 1
        assert record["counts"]["detected"] == before[name]["counts"]["detected"]
    dropped = Counter(job.table(first.output, "persons")["drop_reason"].to_pylist())
    assert dropped["outside_include_zone"] > 0
    assert (
        sum(r["counts"]["dropped"].get("outside_include_zone", 0) for r in after.values())
        == dropped["outside_include_zone"]
    )
    assert len(job.bytes_of(first.output, "json")) == sum(r["counts"]["kept"] for r in after.values())
    assert job.debris(first.output) == debris
