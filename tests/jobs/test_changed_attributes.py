"""Attributes that change between runs: each table is read by the schema that it was written with."""

from __future__ import annotations

import json

import pytest

from tests.servers.gemini_server import gemini_server
from tests.support import gemini_job, job, without_ray
from tests.support.job import Models

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHANGED = [
    "--set", "schema.attributes.bag={type: boolean}",
    "--set", "schema.attributes.exact_age={type: boolean, min: null, max: null, nullable: false}",
    "--set", "schema.attributes.mask=null",
]  # fmt: skip


def test_one_annotator_answers_new_attributes_beside_the_old_answers_of_the_other(models: Models, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    job.write_shards(source, "ab")
    without_ray.annotate(source, output, *models.options())
    documents = {path: json.loads(content) for path, content in job.bytes_of(output, "json").items()}
    assert documents
    with gemini_server() as server:
        asking = gemini_job.options(server.base_url, requests_per_minute=1000)
        without_ray.annotate(source, output, *models.options(smolvlm=False), *asking, *CHANGED)
    outcomes = job.progress(output)["annotators"]["gemini"]
    assert outcomes["ok"] == len(documents)
    for path, content in job.bytes_of(output, "json").items():
        answers = json.loads(content)["annotations"]
        assert answers["SmolVLM"] == documents[path]["annotations"]["SmolVLM"]
        assert isinstance(answers["GeminiVLM"]["exact_age"], bool) or isinstance(
            answers["GeminiVLM"]["attributes"]["exact_age"], bool
        )
        assert "bag" in answers["GeminiVLM"]["attributes"]
        assert "mask" not in answers["GeminiVLM"]["attributes"]
