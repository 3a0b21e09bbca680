"""A run says that a model can't be decoded guided, and annotates with it all the same."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from tests.support import job
from tests.support.job import Models
from tests.support.tiny_smolvlm import add_prefix_space

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_the_terminal_and_the_log_have_the_warning_of_the_worker_once(models: Models, tmp_path):
    model = shutil.copytree(models.smolvlm, tmp_path / "model")
    add_prefix_space(model)
    job.write_shards(tmp_path / "in", "a", frames=1)
    attributes = [
        option
        for name in ("age_group", "exact_age", "season_clothing")
        for option in ("--set", f"schema.attributes.{name}=null")
    ]
    given = replace(models, smolvlm=model).options()
    done = job.annotate(tmp_path / "in", tmp_path / "out", *given, *attributes)
    warning = f"the tokenizer of {model} doesn't suit guided decoding"
    assert done.stderr.count(warning) == 1
    assert warning in (tmp_path / "out/processing.log").read_text()
    rows = job.table(tmp_path / "out", "annotations/smolvlm").to_pylist()
    assert rows
    assert {row["status"] for row in rows} == {"ok"}
    assert all(0 < row["confidence_gender"] <= 1 for row in rows)
