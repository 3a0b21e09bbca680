"""What Shopframe is deployed with, checked by others: the recipe of the image and the pods of Kubernetes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.interop.conftest import REPO_ROOT


def test_a_linter_finds_nothing_in_the_recipe_of_the_image(tmp_path: Path):
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, REPO_ROOT / "Dockerfile"], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "")
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian\nRUN sudo apt-get install x\n")
    assert subprocess.run([hadolint, bad], check=False, capture_output=True).returncode == 1


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    job = yaml.safe_load((REPO_ROOT / "conf" / "kuberay" / "rayjob.yaml").read_text())
    found: dict[str, Any] = job["spec"]["rayClusterSpec"]
    return found


def _pods(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    groups = {"head": cluster["headGroupSpec"]}
    groups |= {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in groups.items()}


def test_kubernetes_knows_every_key_of_the_pods(cluster: dict[str, Any]):
    for name, spec in _pods(cluster).items():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        assert kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        misspelt = pod | {"spec": spec | {"nodeSelektor": {}}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(misspelt, kubernetes_validate.latest_version(), strict=True)
