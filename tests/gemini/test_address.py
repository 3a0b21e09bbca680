"""The address that key and pictures go to comes from the configuration of the run, never from the output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.servers.gemini_server import KEY, gemini_server
from tests.support import gemini_job, without_ray
from tests.support.in_process import run_in_process


def record_in_output(output: Path, **gemini: Any) -> None:
    """Change the recorded Gemini settings of the last run, as anybody who can write to the output could."""
    record = json.loads((output / "run.json").read_bytes())
    record["config"]["gemini"] |= {"enabled": True, **gemini}
    (output / "run.json").write_text(json.dumps(record))


KEYS = [
    ("base_url", None),
    ("api_version", "v1alpha"),
    ("ledger_uri", "s3://strangers/ledger"),
    ("prompt", "/etc/hostname"),
]


@pytest.mark.parametrize(("key", "value"), KEYS)
def test_an_address_in_the_output_gets_no_request(tmp_path, capsys, monkeypatch, key, value):
    monkeypatch.setenv("GEMINI_API_KEY", KEY)
    gemini_job.write_backlog(tmp_path, 1, 4)
    with gemini_server() as stranger:
        record_in_output(tmp_path, **{key: value or stranger.base_url})
        assert run_in_process(monkeypatch, "gemini", "--output", tmp_path) == 2
        assert stranger.journal == []
    said = capsys.readouterr().err
    assert f"gemini.{key}: run.json says '{value or stranger.base_url}'" in said
    assert f"--set gemini.{key}=..." in said


def test_the_address_of_this_runs_configuration_gets_all_requests(tmp_path):
    output, config = tmp_path / "out", tmp_path / "shop.yaml"
    gemini_job.write_backlog(output, 1, 4)
    with gemini_server() as stranger, gemini_server() as own:
        record_in_output(output, base_url=stranger.base_url, persons_per_request=2)
        config.write_text(json.dumps({"gemini": {"base_url": own.base_url}}))
        without_ray.command("gemini", "--output", output, "--config", config)
        assert stranger.journal == []
        # Other settings of the last run hold: two persons a request.
        assert [len(seen.images) for seen in own.journal] == [2, 2]
    assert gemini_job.outcomes(output) == {"ok": 4}
