"""A worker takes its part of the cores that its own process may use, whatever machine the driver is on."""

from __future__ import annotations

import os

import joblib
import psutil
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


def test_a_system_without_affinity_has_all_of_its_cores(monkeypatch):
    """macOS can't bind a process to cores, and Python has no function for it there."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.delattr(psutil.Process, "cpu_affinity")
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert threads(annotators=1) == 1
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT")
    assert 1 <= threads(annotators=1) <= (os.cpu_count() or 1)


def test_annotators_of_a_machine_share_its_cores():
    cores = joblib.cpu_count()
    assert threads(annotators=1) == cores
    assert threads(annotators=cores) == 1
    assert threads(annotators=10 * cores) == 1
