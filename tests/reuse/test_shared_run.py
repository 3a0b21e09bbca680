"""A run that asks once about one person: it adds up, and each answer can be had later."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from actors.smolvlm.shard_annotator import ShardAnnotator
from demo.scenes import SHARDS_FOLDER, write_shards
from tests.support import job, without_ray


def run(folder: Path, command: str, *options: str) -> str:
    given = ("--config", "conf/demo.yaml", "--set", f"input.uri={folder / SHARDS_FOLDER}")
    done = without_ray.command(command, "--output", folder / "out", *given, *options)
    return f"{done.stdout}{done.stderr}"


def outcomes(folder: Path) -> dict[str, int]:
    said = without_ray.command("status", "--output", folder / "out", "--json").stdout
    status = json.loads(said)
    counts = {name: n for name, n in status["annotators"]["smolvlm"].items() if n}
    assert sum(counts.values()) == status["persons"]["kept"]
    return counts


@pytest.mark.slow
def test_a_run_that_shares_answers_adds_up_and_every_answer_can_be_had_later(tmp_path, monkeypatch):
    write_shards(tmp_path, seed=5, frames=12, frames_per_shard=12, sequences=True)
    asked: list[str] = []
    real = ShardAnnotator._ask
    monkeypatch.setattr(
        ShardAnnotator, "_ask", lambda self, s, crops, r: (asked.extend(crops), real(self, s, crops, r))[1]
    )
    output = tmp_path / "out"
    tried = run(tmp_path, "annotate", "--dry-run")
    run(tmp_path, "annotate", "--set", "annotate.reuse=10")
    first = outcomes(tmp_path)
    assert first.keys() == {"ok", "inherited"}
    assert len(asked) == first["ok"]
    assert f"annotate.reuse=10 would save {first['inherited']} questions of {sum(first.values())}" in tried
    for command in ("verify", "verify --quick"):
        without_ray.command(*command.split(), "--output", output)
    documents = [json.loads(path.read_bytes()) for path in (output / "json").rglob("*.json")]
    answers = [document["annotations"]["SmolVLM"] for document in documents]
    assert Counter(answer["status"] for answer in answers) == first
    shared = [answer for answer in answers if answer["status"] == "inherited"]
    assert all(answer["gender"] and answer["reuse_group"] for answer in shared)
    assert all(0.78 <= answer["reuse_similarity"] <= 1 for answer in shared)
    consolidated = job.consolidated(output)
    assert Counter(row["smolvlm_status"] for row in consolidated) == first
    assert all(row["gender"] is not None for row in consolidated)

    committed = job.attempts(output)
    run(tmp_path, "annotate", "--set", "annotate.reuse=10", "--retry-annotator", "smolvlm")
    assert job.attempts(output) == committed

    asked.clear()
    assert "annotate.reuse 10" in run(tmp_path, "annotate")
    assert len(asked) == first["inherited"]
    assert outcomes(tmp_path) == {"ok": sum(first.values())}
    committed = job.attempts(output)
    # Everybody has an answer of their own now, which is worth more than an inherited one.
    run(tmp_path, "annotate", "--set", "annotate.reuse=10")
    assert job.attempts(output) == committed
