"""How many workers each stage gets, on a machine and on clusters that grow."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from actors.actor_bounds import ActorBounds
from actors.errors import ConfigError
from actors.smolvlm.fitting_batches import AHEAD_BYTES, BATCH_BYTES
from jobs.run.stage_resources import Reach, plan_resources
from jobs.settings import Settings, load_settings


@pytest.fixture
def elsewhere(monkeypatch):
    """An address of a cluster that isn't connected to: the cores are given."""
    monkeypatch.setenv("RAY_ADDRESS", "cluster:6379")


def _settings(*overrides: str) -> Settings:
    return load_settings((), ["smolvlm.model=any", *overrides]).settings


@pytest.mark.parametrize(
    ("given", "bounds", "written"),
    [
        ("auto", (1, None), "auto"),
        ("3", (3, 3), 3),
        ("{min: 2, max: 8}", (2, 8), {"min": 2, "max": 8}),
        ("{min: 4}", (4, None), {"min": 4, "max": None}),
        ("{max: 1}", (1, 1), 1),
    ],
)
def test_actors_are_a_number_or_bounds_or_auto(given, bounds, written):
    settings = _settings(f"detector.actors={given}")
    actors = settings.detector.actors
    assert (actors.min, actors.max) == bounds
    assert settings.as_dict()["detector"]["actors"] == written
    assert ActorBounds.model_validate(written) == actors


@pytest.mark.parametrize("given", ["0", "-1", "true", "some", "{min: 3, max: 2}", "{min: 0}", "{fewest: 1}"])
def test_bounds_that_make_no_sense_are_refused_by_name(given):
    with pytest.raises(ConfigError, match=r"detector\.actors"):
        _settings(f"detector.actors={given}")
    with pytest.raises((ConfigError, ValidationError)):
        _settings(f"smolvlm.actors={given}")


@pytest.mark.parametrize("cores", [1, 2, 8, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_machine_keeps_one_detector_for_each_core_and_one_annotator(monkeypatch, cores, threads):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    planned = plan_resources(_settings(f"detector.threads={threads}"), cores, None)
    assert planned.detect.workers == max(1, cores // threads)
    assert planned.detect.cpus == threads
    assert planned.annotate is not None
    assert planned.annotate.workers == 1
    for stage in (planned.detect, planned.annotate, planned.commit):
        assert stage.bounds is None
        assert stage.memory_bytes is None


def test_a_cluster_that_is_not_up_yet_gets_bounds_that_its_autoscaler_can_reach(elsewhere):
    settings = _settings("smolvlm.gpus_per_actor=0.5", "smolvlm.actors=auto")
    planned = plan_resources(settings, 0, 0, Reach(cpus=12 * 16 + 8 * 4, gpus=8))
    assert planned.annotate is not None
    assert (planned.detect.workers, planned.annotate.workers) == (1, 1)
    assert planned.annotate.bounds == ActorBounds(min=1, max=16)
    assert planned.detect.bounds is not None
    most = planned.detect.bounds.max
    assert most is not None
    assert 12 * 15 <= most <= 12 * 16 + 8 * 4
    assert planned.commit.workers == -(-most // 2) + 16


def test_a_cluster_of_unknown_reach_gets_as_many_detectors_as_there_are_shards(elsewhere):
    planned = plan_resources(_settings(), 32, 0)
    assert planned.detect.bounds == ActorBounds(min=1)
    assert planned.detect.bounds_for(1000) == ActorBounds(min=1, max=1000)
    assert planned.detect.workers >= 28
    assert planned.commit.workers == 128


def test_given_bounds_hold_whatever_the_cluster_has(elsewhere):
    settings = _settings("detector.actors={min: 3, max: 5}", "smolvlm.actors=2")
    for cores in (0, 4, 400):
        planned = plan_resources(settings, cores, 0, Reach(cpus=1000))
        assert planned.detect.bounds == ActorBounds(min=3, max=5)
        assert 3 <= planned.detect.workers <= 5
        assert planned.annotate is not None
        assert planned.annotate.bounds == ActorBounds(min=2, max=2)


def test_no_more_workers_than_shards(elsewhere):
    planned = plan_resources(_settings("detector.actors={min: 3, max: 5}"), 400, 0)
    assert planned.detect.bounds_for(2) == ActorBounds(min=2, max=2)


@pytest.mark.parametrize("threads", [1, 4])
def test_workers_of_a_cluster_reserve_what_they_use(elsewhere, threads):
    settings = _settings(f"detector.threads={threads}")
    planned = plan_resources(settings, 64, 0)
    assert threads < planned.detect.cpus <= 1.1 * threads
    assert planned.detect.memory_bytes is not None
    assert planned.detect.memory_bytes >= 4 * settings.crops.max_block_bytes
    assert planned.annotate is not None
    assert planned.annotate.memory_bytes is not None
    assert planned.annotate.memory_bytes >= settings.crops.max_block_bytes


def test_an_annotator_with_a_gpu_reserves_memory_for_the_pixels_of_its_batches(elsewhere):
    by_gpus = [
        plan_resources(_settings(f"smolvlm.gpus_per_actor={gpus}"), 64, 1).annotate for gpus in (0, 0.5)
    ]
    without, with_one = (stage.memory_bytes for stage in by_gpus if stage is not None)
    assert without is not None
    assert with_one is not None
    assert with_one - without >= 2 * BATCH_BYTES + AHEAD_BYTES


def test_no_memory_is_reserved_where_the_autoscaler_could_not_tell_which_node_has_it(elsewhere):
    planned = plan_resources(_settings(), 0, 0, Reach(cpus=64, gpus=0, states_memory=False))
    assert planned.annotate is not None
    assert planned.detect.memory_bytes is None
    assert planned.annotate.memory_bytes is None


@pytest.mark.parametrize("cores", [2, 4, 16])
def test_detectors_leave_room_for_commits_on_each_node(elsewhere, cores):
    """All that start fit a node of any size, and commits fit beside as many detectors as it can hold."""
    planned = plan_resources(_settings("detector.actors=100"), cores, 0)
    detectors = int(cores / planned.detect.cpus)
    assert detectors * planned.detect.cpus + planned.commit.cpus * 2 <= cores
    small = plan_resources(_settings(), 2, 0)
    assert small.annotate is not None
    assert small.detect.cpus + small.annotate.cpus + small.commit.cpus * 2 <= 2


def test_a_stage_that_needs_a_resource_runs_only_where_it_is(elsewhere):
    placed = ("detector.node_resource=detect", "smolvlm.node_resource=annotate")
    settings = _settings(*placed, "smolvlm.gpus_per_actor=1", "smolvlm.actors=auto")
    planned = plan_resources(settings, 32, 2, Reach(cpus=32, gpus=2, node_cpus=16))
    assert planned.annotate is not None
    assert (planned.detect.node_resource, planned.annotate.node_resource) == ("detect", "annotate")
    assert planned.commit.node_resource is None
    shared = plan_resources(_settings(*placed[:1], "smolvlm.actors=4"), 32, 0, Reach(cpus=32, node_cpus=16))
    alone = plan_resources(_settings(*placed, "smolvlm.actors=4"), 32, 0, Reach(cpus=32, node_cpus=16))
    assert alone.detect.workers > shared.detect.workers, (
        "annotators elsewhere leave the detectors their cores"
    )


def test_a_machine_has_no_custom_resources_and_so_ignores_them(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    planned = plan_resources(_settings("detector.node_resource=d", "smolvlm.node_resource=a"), 4, None)
    assert planned.annotate is not None
    assert (planned.detect.node_resource, planned.annotate.node_resource) == (None, None)
