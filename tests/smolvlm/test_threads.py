"""A worker takes its part of the cores that its own process may use, whatever machine the driver is on."""

from __future__ import annotations

import os

import pytest

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from actors.smolvlm.shard_annotator import ShardAnnotator
from actors.storage.object_store import ObjectStore

SCHEMA = AttributeSchema(SchemaSettings())


@pytest.fixture
def one_core():
    """Limit this process to one core for the test."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def threads(annotators: int) -> int:
    settings = SmolVLMSettings.model_validate(
        {"engine": "server", "server": {"base_url": "http://127.0.0.1:9/v1"}}
    )
    resolved = resolve_smolvlm(settings, SCHEMA)
    return ShardAnnotator(settings, resolved, SCHEMA, annotators, ObjectStore("/nowhere")).threads


def test_a_worker_uses_the_cores_of_its_process(one_core):
    assert threads(annotators=1) == 1


def test_annotators_of_a_machine_share_its_cores():
    cores = len(os.sched_getaffinity(0))
    assert threads(annotators=1) == cores
    assert threads(annotators=cores) == 1
    assert threads(annotators=10 * cores) == 1
