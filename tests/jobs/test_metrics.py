"""What Prometheus reads of a run: names by its rules, values that are those of the run."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from actors.attempt_tracker import Snapshot
from actors.commit.accounting import ShardSummary
from actors.errors import ConfigError
from actors.storage import request_counts
from actors.storage.commit_record import Counts
from jobs.run.metric_names import METRICS
from jobs.run.metric_sinks import PrometheusSink
from jobs.run.metrics import RunMetrics, run_metrics
from jobs.settings import MetricsSettings
from tests.support.metrics import Sample, read_metrics

DONE = ShardSummary(
    "a",
    "done",
    Counts(frames=7, frames_ok=5, frames_failed=2, detected=9, kept=6, dropped={"score": 2, "height": 1}),
    {"smolvlm": {"ok": 5, "invalid": 1}},
    timings_s={"detect": 2.0, "commit": 0.2},
)


def value(found: dict[Sample, float], name: str, **labels: str) -> float:
    return found[Sample(f"shopframe_{name}", frozenset({"run": "r1", **labels}.items()))]


def test_names_follow_the_conventions_of_prometheus():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"shopframe_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.name.endswith("_seconds") == (metric.kind == "histogram")
        assert metric.help.endswith(".")


def test_the_text_file_has_what_the_run_counted_and_says_when_it_has_ended(tmp_path: Path):
    path = tmp_path / "shopframe.prom"
    with run_metrics(MetricsSettings(textfile=str(path)), "r1", is_on_cluster=False, planned=4) as metrics:
        begun = read_metrics(path.read_text())
        assert value(begun, "run_active") == 1
        assert value(begun, "shards_waiting") == 4
        metrics.add(DONE)
        metrics.add(ShardSummary("b", "failed", Counts(frames=3, frames_failed=3)))
        metrics.add(ShardSummary("c", "postponed"))
    found = read_metrics(path.read_text())
    assert value(found, "run_active") == 0
    assert value(found, "shards_waiting") == 1
    assert [value(found, "shards_total", outcome=o) for o in ("done", "failed", "postponed")] == [1, 1, 1]
    assert value(found, "frames_total", outcome="ok") == 5
    assert value(found, "frames_total", outcome="failed") == 5
    assert value(found, "persons_total", outcome="kept") == 6
    assert value(found, "persons_total", outcome="dropped") == 3
    assert value(found, "annotations_total", annotator="smolvlm", outcome="invalid") == 1
    assert value(found, "stage_duration_seconds_sum", stage="detect") == 2.0
    assert value(found, "stage_duration_seconds_bucket", stage="detect", le="1.0") == 0
    assert value(found, "stage_duration_seconds_bucket", stage="detect", le="3.0") == 1


def test_the_endpoint_answers_while_the_run_works(tmp_path: Path):
    sink = PrometheusSink("r1", None, "127.0.0.1", 0)
    metrics = RunMetrics((sink,), planned=1)
    metrics.add(DONE)
    url = f"http://127.0.0.1:{sink.port}/metrics"
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert value(read_metrics(answer.read().decode()), "frames_total", outcome="ok") == 5
    metrics.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=30)


def test_what_workers_report_grows_also_after_a_restart_of_who_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The requests that this process has sent in other tests are not the run's.
    monkeypatch.setattr(request_counts, "_counted", Counter())
    path = tmp_path / "shopframe.prom"
    with run_metrics(MetricsSettings(textfile=str(path)), "r1", is_on_cluster=False, planned=9) as metrics:
        metrics.look(
            Snapshot(
                in_progress=Counter(detect=2, commit=1),
                deaths={"detect": 2},
                retries=3,
                store_requests={("PutObject", "ok"): 5, ("PutObject", "throttled"): 1},
            )
        )
        metrics.look(Snapshot(in_progress=Counter(detect=1), store_requests={("PutObject", "ok"): 8}))
        metrics.look(Snapshot(in_progress=Counter(detect=1), store_requests={("PutObject", "ok"): 2}))
    found = read_metrics(path.read_text())
    assert value(found, "store_requests_total", operation="PutObject", result="ok") == 10
    assert value(found, "store_requests_total", operation="PutObject", result="throttled") == 1
    assert value(found, "worker_deaths_total", stage="detect") == 2
    assert value(found, "shard_retries_total") == 3
    assert value(found, "shards_in_progress", stage="detect") == 1
    assert value(found, "shards_in_progress", stage="commit") == 0
    assert value(found, "shards_waiting") == 8


def test_a_file_or_port_that_cannot_be_used_is_named_with_the_remedy(tmp_path: Path):
    missing = MetricsSettings(textfile=str(tmp_path / "none" / "x.prom"))
    with pytest.raises(ConfigError, match=r"metrics\.textfile: can't write .*folder that exists"):
        run_metrics(missing, "r1", is_on_cluster=False).__enter__()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"metrics\.port: can't listen on 127\.0\.0\.1:{port}"):
            run_metrics(MetricsSettings(port=port), "r1", is_on_cluster=False).__enter__()


def test_a_run_that_nobody_measures_keeps_nothing():
    with run_metrics(MetricsSettings(), "r1", is_on_cluster=False, planned=2) as metrics:
        metrics.add(DONE)
        metrics.look(Snapshot(in_progress=Counter(detect=1)))
        assert not metrics.is_on
        assert not metrics.is_due
