"""A dry run says what a run would do again and why, and a run says it in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import job, without_ray
from tests.support.in_process import run_in_process
from tests.support.job import Models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EIGHT = ("gemini.enabled=true", "gemini.base_url=http://127.0.0.1:9", "gemini.persons_per_request=8")


@pytest.fixture(scope="module")
def annotated(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an input of four shards and the output of a run over them."""
    folder = tmp_path_factory.mktemp("reasons")
    job.write_shards(folder / "in", "abcd")
    without_ray.annotate(folder / "in", folder / "out", *models.options())
    return folder


@pytest.fixture
def output(annotated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(annotated / "out", tmp_path / "out"))


@pytest.fixture
def dry_run(annotated: Path, output: Path, models: Models, capsys, monkeypatch):
    """Do a dry run and return what is said about the plan."""

    def run(*settings: str, options: tuple[str, ...] = ()) -> str:
        records, record = job.records(output), (output / "run.json").read_bytes()
        overrides = [part for setting in (*settings, "output.previews=1") for part in ("--set", setting)]
        given = ["--input", annotated / "in", "--output", output, *models.options(), *overrides, *options]
        code = run_in_process(monkeypatch, "annotate", "--dry-run", *given)
        said = capsys.readouterr()
        assert code == 0, said.err
        assert (job.records(output), (output / "run.json").read_bytes()) == (records, record)
        keys, begin, rest = said.out.partition("a run would do ")
        assert " keys, and the camera and time of each:\n" in keys
        return begin + rest.partition(str(output))[0]

    return run


def change(output: Path, shard_id: str, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Edit a commit record."""
    path = output / f"commits/{shard_id}.json"
    record = json.loads(path.read_bytes())
    edit(record)
    path.write_text(json.dumps(record))


def kept(output: Path, shard_ids: str = "abcd") -> int:
    return sum(record["counts"]["kept"] for name, record in job.records(output).items() if name in shard_ids)


def test_nothing_to_do(dry_run):
    assert dry_run() == "a run would do 0 of 4 shards, and skip 4 with nothing to do\n"


def test_each_cause_is_told_apart(output: Path, dry_run):
    (output / "commits/a.json").unlink()
    change(output, "b", lambda record: record["input"].update(etag="other", size_bytes=1))
    change(output, "c", lambda record: record["input"].update(etag="other"))
    change(output, "d", lambda record: record.update(state="failed"))
    first, *lines = dry_run().splitlines()
    assert first == "a run would do 4 of 4 shards, and skip 0 with nothing to do"
    assert lines == [
        "- 1 new",
        "- 1 changed in the input (other size)",
        "- 1 changed in the input (same size, other etag)",
        "- 1 failed before",
        "- SmolVLM would be asked about the persons of 4 shards to be detected "
        f"(before, they had {kept(output, 'bc')})",
    ]


def test_a_changed_setting_of_detection_is_named_with_both_values(output: Path, dry_run):
    said = dry_run("roi.max_persons=1", "roi.dynamic.ratio=0.25", "gemini.temperature=1")
    why = "settings changed: roi.dynamic.ratio 0.5 -> 0.25, roi.max_persons 2 -> 1\n"
    assert f"- 4 to be detected again, because {why}" in said
    persons = f"the persons of 4 shards to be detected (before, they had {kept(output)})"
    assert f"SmolVLM would be asked about {persons}" in said
    assert "temperature" not in said


def test_an_added_attribute_asks_again(output: Path, dry_run):
    said = dry_run("schema.attributes.backpack={type: boolean, description: Carries a backpack}")
    assert (
        "- 4 to be annotated again by SmolVLM, because settings changed: schema.attributes.backpack" in said
    )
    assert f"SmolVLM would be asked about at most {kept(output)} persons: " in said


def test_a_prompt_with_other_text_under_the_same_name_is_noticed(output: Path, dry_run, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Describe the person. {schema}")
    record = json.loads((output / "run.json").read_bytes())
    record["config"]["smolvlm"]["prompt"] = str(prompt)
    (output / "run.json").write_text(json.dumps(record))
    said = dry_run(f"smolvlm.prompt={prompt}")
    old = record["models"]["smolvlm"]["prompt_sha256"][:19]
    assert f"because settings changed: smolvlm.prompt prompt_sha256 {old} -> prompt_sha256 " in said


def test_settings_that_no_longer_differ_from_the_last_run_are_of_an_earlier_one(output: Path, dry_run):
    change(output, "a", lambda record: record["fingerprints"].update(detect="of another run"))
    assert "- 1 to be detected again, because other settings applied in a run before the last" in dry_run()


def test_documents_in_another_form_and_documents_that_a_kill_has_left_out(output: Path, dry_run):
    said = dry_run("output.person_json=tar")
    why = "settings changed: output.person_json files -> tar"
    assert f"- 4 with documents to be written again, because {why}" in said
    change(output, "a", lambda record: record.update(documents="due"))
    assert "- 1 with documents to be written\n" in dry_run()


def test_missing_and_retryable_answers(output: Path, dry_run):
    change(output, "a", lambda record: record["fingerprints"].pop("smolvlm"))
    change(output, "b", lambda record: record["annotators"].update(smolvlm={"error": 2, "ok": 1}))
    first, *lines = dry_run().splitlines()
    assert "2 of 4" in first
    asked = kept(output, "a")
    assert lines == [
        "- 1 not annotated by SmolVLM yet",
        "- 1 with answers of SmolVLM to be asked for again",
        f"- SmolVLM would be asked about at most {asked + 2} persons: "
        f"{asked} have no answer yet, 2 had no valid answer",
    ]


def test_gemini_is_announced_with_persons_and_requests_before_it_is_asked(output: Path, dry_run, monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "no-key")
    persons = kept(output)
    requests = -(-persons // 8)
    counted = f"{requests} request" + ("" if requests == 1 else "s")
    said = dry_run(*EIGHT)
    assert f"- Gemini would be asked about at most {persons} persons in {counted}: " in said
    assert f": {persons} have no answer yet\n" in said
    assert "at most 3 persons in 1 request: " in dry_run(*EIGHT, "gemini.max_persons=3")
    assert f"in {persons} requests" in dry_run(*EIGHT[:2], "gemini.persons_per_request=1")
    said = dry_run(*EIGHT, "roi.max_persons=1")
    before = f"before, they had {persons} in {counted}"
    assert f"Gemini would be asked about the persons of 4 shards to be detected ({before})" in said
    last = json.loads((output / "run.json").read_bytes())
    last["config"]["gemini"]["reasoning"] = True
    last["fingerprints"]["gemini"] = "before"
    (output / "run.json").write_text(json.dumps(last))
    for name in "abcd":
        change(output, name, lambda record: record["fingerprints"].update(gemini="before"))
        change(output, name, lambda record: record["annotators"].update(gemini={"pending": 1, "ok": 2}))
    said = dry_run(*EIGHT)
    assert "had an answer, but settings changed: gemini.reasoning true -> false" in said
    (output / "commits/a.json").unlink()
    assert "and the persons of 1 shard to be detected" in dry_run(*EIGHT)


def test_shards_that_others_replace_are_named(output: Path, dry_run):
    said = dry_run("input.max_shard_bytes=4096")
    assert (
        "- 4 committed shards to be replaced by them, which are other parts of the same input: a, b, c"
        in said
    )


def test_the_options_of_a_run_hold_for_a_dry_run(output: Path, dry_run):
    assert "- 4 done again as requested" in dry_run(options=("--force",))
    change(output, "a", lambda record: record.update(state="failed"))
    change(output, "b", lambda record: record["input"].update(etag="other"))
    assert dry_run(options=("--retry-failed",)).splitlines()[1] == "- 1 failed before"
    change(output, "c", lambda record: record["annotators"].update(smolvlm={"invalid": 1, "ok": 1}))
    said = dry_run(options=("--retry-annotator", "smolvlm"))
    assert "SmolVLM would be asked about at most 1 person: 1 had no valid answer" in said


def test_a_run_says_it_in_one_line_and_progress_json_has_it_as_data(
    annotated: Path, output: Path, models: Models
):
    change(output, "a", lambda record: record["input"].update(etag="other"))
    given = [*models.options(), "--set", "smolvlm.dtype=bfloat16"]
    done = without_ray.annotate(annotated / "in", output, *given)
    (line,) = (line for line in done.stderr.splitlines() if "in the input" in line)
    assert line == (
        "4 shards in the input, 4 to do: 1 changed in the input (same size, other etag); 3 to be annotated "
        "again by SmolVLM, because settings changed: smolvlm.dtype auto -> bfloat16; SmolVLM is asked about "
        f"at most {kept(output, 'bcd')} persons and the persons of 1 shard to be detected "
        f"(before, they had {kept(output, 'a')}); starting Ray"
    )
    plan = job.progress(output)["run"]["plan"]
    assert plan["reasons"] == [
        {"cause": "etag", "stage": None, "shards": 1},
        {"cause": "settings", "stage": "smolvlm", "shards": 3},
    ]
    changed = {"setting": "smolvlm.dtype", "old": "auto", "new": "bfloat16"}
    assert plan["changed_settings"] == {"smolvlm": [changed]}
    again = without_ray.annotate(annotated / "in", output, *given)
    assert "4 shards in the input, 0 to do\n" in again.stderr
