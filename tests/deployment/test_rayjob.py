"""The run on Kubernetes that `conf/kuberay/rayjob.yaml` describes."""

from __future__ import annotations

import shlex
from importlib.metadata import version
from itertools import pairwise
from typing import Any

import pytest
import yaml

from jobs.settings import load_settings
from tests.support.job import REPO_ROOT


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    job = yaml.safe_load((REPO_ROOT / "conf" / "kuberay" / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    found: dict[str, Any] = job["spec"]
    return found


@pytest.fixture(scope="module")
def groups(spec) -> dict[str, Any]:
    cluster = spec["rayClusterSpec"]
    workers = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"], **workers}


def test_the_run_starts_again_when_its_driver_or_cluster_is_lost(spec):
    arguments = shlex.split(spec["entrypoint"])
    assert arguments[:3] == ["python", "-m", "jobs.annotate"]
    assert int(arguments[arguments.index("--restarts") + 1]) > 0
    assert spec["backoffLimit"] > 0
    assert spec["submitterConfig"]["backoffLimit"] > 0


def test_its_settings_are_valid_and_its_pools_fit_the_pods_that_there_may_be(spec, groups):
    arguments = shlex.split(spec["entrypoint"])
    given = [value for option, value in pairwise(arguments) if option == "--set"]
    settings = load_settings((), given).settings
    placed = {"detect": settings.detector.node_resource, "annotate": settings.smolvlm.node_resource}
    for name, resource in placed.items():
        assert f'"{resource}\\": 1' in groups[name]["rayStartParams"]["resources"].replace('{\\"', '{"')
    cores = int(groups["detect"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert settings.detector.actors.max == groups["detect"]["maxReplicas"] * int(cores / 1.05)
    assert settings.smolvlm.actors.max == groups["annotate"]["maxReplicas"]


def test_pods_come_from_zero_are_bounded_and_are_not_root(spec, groups):
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert spec["rayClusterSpec"]["rayVersion"] == version("ray")
    for name, group in groups.items():
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"], name
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert pod["nodeSelector"] == {"shopframe/pool": name}
        secret = [entry for entry in container["env"] if "value" in entry]
        assert not secret, "credentials are references"
        if name != "head":
            assert (group["minReplicas"], group["replicas"]) == (0, 0)
    (annotator,) = groups["annotate"]["template"]["spec"]["containers"]
    assert annotator["resources"]["limits"]["nvidia.com/gpu"] == "1"
