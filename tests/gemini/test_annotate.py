"""`shopframe annotate` with both annotators: what it sends, what it never sends again, and what it prints."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pytest

from actors.fingerprint import crop_sha256
from actors.log_lines import NODE
from tests.servers.gemini_clock import ServerClock
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import KEY, MODEL, Seen, gemini_server
from tests.support import gemini_job, job, ray_cluster, without_ray
from tests.support.job import Models
from tests.support.metrics import read_metrics, total

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

WRONG_KEY = "AIza-that-nobody-gave-out"
ENOUGH_PERSONS = ("--set", "detector.max_detections=300")


def annotate(
    source: Path, output: Path, *options: object, key: str | None = KEY, expect: int = 0, on_ray: bool = False
) -> CompletedProcess[str]:
    environment = {"GEMINI_API_KEY": key or ""}
    given = ["annotate", "--input", source, "--output", output, "--set", "output.keep_crops=always", *options]
    if not on_ray:
        return without_ray.command(*given, environment=environment, expect=expect)
    done = job.shopframe(*given, environment=environment)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def crops(output: Path, **frame: Any) -> set[str]:
    """Return the digests of the kept persons' crops, of all cameras or of the given `camera`."""
    cameras = {(r["shard_id"], r["frame_key"]): r["camera"] for r in job.table(output, "frames").to_pylist()}
    return {
        crop_sha256(row["crop"])
        for row in job.table(output, "persons").to_pylist()
        if row["kept"] and frame.get("camera") in (None, cameras[row["shard_id"], row["frame_key"]])
    }


def sent(journal: list[Seen]) -> Counter[str]:
    return Counter(image for seen in journal for image in seen.images)


@pytest.fixture(scope="module")
def both(models: Models, tmp_path_factory):
    """Four runs with both annotators.

    Two persons are blocked in the first run, which is on Ray. The second run is the same, the third retries
    Gemini, and the fourth keeps more persons per frame. The server's clock is an hour ahead.
    """
    folder = tmp_path_factory.mktemp("both")
    source, output = folder / "in", folder / "out"
    job.write_shards(source, "abc")
    found = SimpleNamespace(output=output, journals=[], outcomes=[], said=[], crops=[], metrics=[])
    textfile = folder / "shopframe.prom"
    with gemini_server(faults=[Fault("safety", 2)], clock=ServerClock(time.time() + 3600)) as server:
        # With one person per request, each fault hits only one person.
        asking = gemini_job.options(server.base_url, requests_per_minute=1000, persons_per_request=1)
        again = [[], [], ["--retry-annotator", "gemini"], ["--set", "roi.max_persons=3"]]
        for more in again:
            begun = len(server.journal)
            measured = ["--set", f"metrics.textfile={textfile}"]
            options = [*models.options(), *ENOUGH_PERSONS, *asking, *measured, *more]
            done = annotate(source, output, *options, on_ray=not found.journals)
            found.journals.append(server.journal[begun:])
            found.outcomes.append(gemini_job.outcomes(output))
            found.crops.append(crops(output))
            found.said.append(done.stdout + done.stderr)
            found.metrics.append(read_metrics(textfile.read_text()))
            if len(found.journals) == 1:
                found.lines_of_workers = ray_cluster.worker_lines()
                log = (output / "processing.log").read_text()
                found.lines = [json.loads(line) for line in log.splitlines()]
    return found


def test_metrics_are_what_the_first_run_did(both):
    found, crops, requests = both.metrics[0], len(both.crops[0]), len(both.journals[0])
    assert total(found, "shards_total", outcome="done") == 3
    assert total(found, "frames_total") == total(found, "frames_total", outcome="ok") == 6
    assert total(found, "persons_total", outcome="kept") == crops
    assert total(found, "annotations_total", annotator="smolvlm", outcome="ok") == crops
    for stage in ("detect", "annotate", "commit"):
        assert total(found, "stage_duration_seconds_count", stage=stage) == 3
    assert total(found, "gemini_requests_total", outcome="answered") == requests
    assert total(found, "gemini_persons_total") == crops
    assert total(found, "gemini_tokens_total", direction="input") > 0
    assert total(found, "gemini_cost_dollars_total") > 0
    assert total(found, "gemini_backlog_shards") == 0
    assert total(found, "gemini_breaker_open") == 0
    assert total(found, "shards_waiting") == 0
    assert total(found, "shards_in_progress") == 0
    assert total(found, "run_active") == 0


def test_actors_of_gemini_log_json_lines_with_run_shard_attempt_and_node(both):
    (run_id,) = {line["run_id"] for line in both.lines}
    lines = [line for line in both.lines_of_workers if line["run_id"] == run_id]
    assert {line["node"] for line in lines} == {NODE}
    drained = [line for line in lines if line["logger"] == "actors.gemini.backlog.drain"]
    assert {(line["shard_id"], line["attempt"]) for line in drained} == {("a", 2), ("b", 2), ("c", 2)}
    assert {line["level"] for line in drained} == {"INFO"}
    assert [line for line in both.lines if line["logger"] == "actors.gemini.backlog.drain"] == []


def test_warnings_of_the_actor_that_asks_gemini_are_in_the_log_of_the_run(both):
    (warned,) = (line for line in both.lines if line["logger"] == "actors.gemini.quota.server_time")
    assert "behind Gemini's" in warned["message"]
    assert (warned["level"], warned["node"], warned["attempt"]) == ("WARNING", NODE, 2)
    assert warned["shard_id"] in "abc"
    kept = [line for line in both.lines_of_workers if line["logger"] == "actors.gemini.quota.server_time"]
    assert [line["message"] for line in kept if line["run_id"] == warned["run_id"]] == [warned["message"]]


def test_everybody_is_sent_once_and_has_an_outcome(both):
    assert sent(both.journals[0]) == Counter(both.crops[0])
    assert both.outcomes[0] == {"blocked": 2, "ok": len(both.crops[0]) - 2}


def test_a_rerun_sends_nothing(both):
    assert both.journals[1] == []
    assert both.outcomes[1] == both.outcomes[0]


def test_retrying_the_annotator_asks_about_those_without_an_answer_alone(both):
    blocked = sent([seen for seen in both.journals[0] if seen.fault == "safety"])
    assert sent(both.journals[2]) == blocked
    assert both.outcomes[2] == {"ok": len(both.crops[2])}


def test_after_detecting_again_only_new_crops_are_sent(both):
    before, after = both.crops[2], both.crops[3]
    assert before < after
    assert sent(both.journals[3]) == Counter(after - before)
    assert both.outcomes[3] == {"ok": len(after)}


def test_documents_and_consolidated_rows_have_both_annotators_side_by_side(both):
    rows = job.consolidated(both.output)
    answers = {
        name: job.table(both.output, f"annotations/{name}").to_pylist() for name in ("smolvlm", "gemini")
    }
    assert len(rows) == len(both.crops[3])
    for row, smolvlm, gemini in zip(rows, answers["smolvlm"], answers["gemini"], strict=True):
        path = f"json/{row['shard_id']}/{row['frame_key']}/{row['person_index']}.json"
        document = json.loads((both.output / path).read_bytes())
        assert document["annotations"].keys() == {"SmolVLM", "GeminiVLM"}
        assert document["annotations"]["SmolVLM"]["gender"] == smolvlm["gender"] == row["smolvlm_gender"]
        said = document["annotations"]["GeminiVLM"]
        assert said["gender"] == gemini["gender"] == row["gemini_gender"]
        assert said["attributes"]["hood"] == gemini["hood"] == row["gemini_hood"]
        assert said["status"] == row["gemini_status"] == "ok"


def test_the_record_of_what_was_sent_is_what_the_server_saw(both):
    seen = sum((sent(journal) for journal in both.journals), Counter())
    assert gemini_job.egress(both.output) == seen


def test_the_key_is_nowhere(both):
    files = [path for path in both.output.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert [said for said in both.said if KEY in said] == []


@pytest.fixture(scope="module")
def troubled(models: Models, tmp_path_factory):
    """Four runs: the key is refused, then a small daily quota, enough for the rest, and all cameras.

    Frames of one camera must not be sent in the first three of them.
    """
    folder = tmp_path_factory.mktemp("troubled")
    source, output = folder / "in", folder / "out"
    job.write_shards(source, "abc")
    local = [*models.options(smolvlm=False), *ENOUGH_PERSONS]
    found = SimpleNamespace(output=output, runs=[], records=[], journals=[])

    def note(done: CompletedProcess[str]) -> None:
        found.runs.append(done)
        found.records.append(job.records(output))
        found.journals.append(list(server.journal))

    settings = {"requests_per_day": 2, "persons_per_request": 2, "cameras": {"deny": ["cam-1"]}}
    with gemini_server(faults=[Fault("invalid_key", where="online")]) as server:
        note(annotate(source, output, *local, *gemini_job.options(server.base_url, **settings), expect=1))
    with gemini_server(requests_per_day=2) as server:
        note(annotate(source, output, *local, *gemini_job.options(server.base_url, **settings)))
    with gemini_server() as server:
        note(without_ray.gemini(output, server.base_url, **{**settings, "requests_per_day": 50}))
        found.outcomes = gemini_job.outcomes(output)
        found.reasons = {r["reason"] for r in job.table(output, gemini_job.ANSWERS).to_pylist()}
        found.egress = gemini_job.egress(output)
        server.journal.clear()
        permitted = {"requests_per_day": 50, "persons_per_request": 2, "cameras": {"deny": []}}
        note(without_ray.gemini(output, server.base_url, **permitted))
    return found


def test_a_key_that_is_refused_during_the_run_stops_gemini_alone(troubled):
    records = troubled.records[0]
    assert {record["state"] for record in records.values()} == {"done"}
    assert len(records) == 3
    for record in records.values():
        assert record["annotators"]["gemini"] == {"pending": record["counts"]["kept"]}
    said = " ".join(troubled.runs[0].stdout.split())
    assert "set GEMINI_API_KEY to a valid key" in said
    assert KEY not in said + troubled.runs[0].stderr
    assert [seen.fault for seen in troubled.journals[0]] == ["invalid_key"]


def test_a_spent_day_is_no_failure_and_says_who_waits_and_until_when(troubled):
    asked = [seen for seen in troubled.journals[1] if seen.status == 200]
    assert len(asked) == len(troubled.journals[1]) == 2
    said = " ".join(troubled.runs[1].stdout.split())
    kept = sum(record["counts"]["kept"] for record in troubled.records[1].values())
    unsettled = sum(
        record["annotators"]["gemini"].get("pending", 0) for record in troubled.records[1].values()
    )
    assert 0 < unsettled <= kept
    assert f"{unsettled} persons wait for Gemini" in said
    assert "the day's quota is spent; it resets at 20" in said
    assert "2 requests spent today, 0 left today" in said


def test_the_rest_is_asked_later_and_nobody_again(troubled):
    seen = sent([*troubled.journals[1], *troubled.journals[2]])
    assert set(seen) == crops(troubled.output, camera="cam-0")
    assert set(seen.values()) == {1}


def test_a_camera_that_must_not_be_sent_is_not_and_its_persons_are_denied(troubled):
    denied = crops(troubled.output, camera="cam-1")
    assert denied
    assert not denied & set(sent([*troubled.journals[1], *troubled.journals[2]]))
    assert not denied & set(troubled.egress)
    allowed = crops(troubled.output, camera="cam-0")
    assert troubled.outcomes == {"denied": len(denied), "ok": len(allowed)}
    assert troubled.reasons == {None, "not sent: gemini.cameras does not permit its camera"}
    said = " ".join(troubled.runs[2].stdout.split())
    assert "0 persons wait" in said


def test_a_camera_that_is_permitted_later_is_asked_about_then(troubled):
    denied = crops(troubled.output, camera="cam-1")
    assert sent(troubled.journals[3]) == Counter(denied)
    assert gemini_job.outcomes(troubled.output) == {"ok": len(crops(troubled.output))}


@pytest.mark.parametrize(
    ("key", "model", "remedy"),
    [
        (WRONG_KEY, MODEL, "set GEMINI_API_KEY to a valid key"),
        (
            KEY,
            "gemini-3.5-flash-ltie",
            f"check gemini.model, gemini.base_url and gemini.api_version; did you mean {MODEL}?",
        ),
    ],
)
def test_a_key_or_model_that_gemini_refuses_ends_the_run_before_ray_is_started(
    models: Models, tmp_path, key, model, remedy
):
    source, output = tmp_path / "in", tmp_path / "out"
    job.write_shards(source, "a")
    local = ["annotate", "--input", source, "--output", output, *models.options(smolvlm=False)]
    with gemini_server() as server:
        asking = gemini_job.options(server.base_url, model=model)
        for arguments in ([*local, *asking], ["gemini", "--output", output, *asking]):
            done = job.shopframe(*arguments, environment={**job.NO_RAY, "GEMINI_API_KEY": key})
            assert done.returncode == 2
            assert remedy in " ".join(done.stderr.split())
            assert "starting Ray" not in done.stdout + done.stderr
            assert WRONG_KEY not in done.stdout + done.stderr
            if arguments[0] == "annotate":
                assert not output.exists()
                gemini_job.write_backlog(output, shards=1, persons=1)
                before = (output / "run.json").read_bytes()
        assert (output / "run.json").read_bytes() == before
        assert server.journal == []


def test_without_a_key_nothing_is_begun(models: Models, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    job.write_shards(source, "a")
    asking = gemini_job.options("http://127.0.0.1:9")
    done = annotate(source, output, *models.options(smolvlm=False), *asking, key=None, expect=2)
    assert "GEMINI_API_KEY: not set" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (output / "commits").exists()
