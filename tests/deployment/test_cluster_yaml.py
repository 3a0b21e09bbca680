"""The cluster on AWS that `cluster.yaml` describes, checked by Ray's and AWS's code without an account."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil

from tests.support.job import REPO_ROOT

NOT_LAUNCHED = ("SubnetIds",)
"""Keys of a node that Ray reads itself."""


@pytest.fixture(scope="module")
def prepared() -> dict[str, Any]:
    """The configuration as Ray's launcher uses it, with its defaults."""
    given = yaml.safe_load((REPO_ROOT / "cluster.yaml").read_text())
    made: dict[str, Any] = prepare_config(copy.deepcopy(given))
    return made


def test_ray_takes_the_configuration_and_installs_nothing(prepared):
    validate_config(prepared)
    for name in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert prepared[name] == [], name


def test_ec2_takes_every_node_with_an_encrypted_disk_and_a_named_group(prepared):
    model = botocore.session.Session().get_service_model("ec2").operation_model("RunInstances")
    nodes = prepared["available_node_types"]
    for name, node in nodes.items():
        given = {key: value for key, value in node["node_config"].items() if key not in NOT_LAUNCHED}
        report = ParamValidator().validate({**given, "MinCount": 1, "MaxCount": 1}, model.input_shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
        assert all(disk["Ebs"]["Encrypted"] is True for disk in given["BlockDeviceMappings"])
        assert given["MetadataOptions"] == {"HttpTokens": "required"}
        assert given["SecurityGroupIds"], "Ray's own group admits SSH from everywhere"
        assert given["IamInstanceProfile"]["Name"] == f"shopframe-{'head' if name == 'head' else 'worker'}"
        assert ("InstanceMarketOptions" in given) == name.endswith("-spot")
    assert not re.search(r"AKIA|aws_secret|AWS_SECRET", (REPO_ROOT / "cluster.yaml").read_text())


def test_the_dashboard_is_on_loopback_and_everybody_shows_the_token(prepared):
    (start,) = (line for line in prepared["head_start_ray_commands"] if "--head" in line)
    assert "--dashboard-host=127.0.0.1" in start.split()
    assert "--env RAY_AUTH_MODE=token" in prepared["docker"]["run_options"]
    assert "~/.ray/auth_token" in prepared["file_mounts"].values()


def _launched(
    prepared: dict[str, Any], demands: list[dict[str, float]], unavailable: tuple[str, ...] = ()
) -> Counter[str]:
    """Return the nodes that Ray's autoscaler would start for the demands, by type."""
    configured = AutoscalingConfig(copy.deepcopy(prepared), skip_content_hash=True)
    types = configured.get_node_type_configs()
    assert types is not None
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            node_type_configs=types,
            max_num_nodes=configured.get_max_num_nodes(),
            disable_launch_config_check=True,
            resource_requests=ResourceRequestUtil.group_by_count(
                [ResourceRequestUtil.make(demand) for demand in demands]
            ),
            recoverable_resource_availabilities=dict.fromkeys(unavailable, 0.0),
        )
    )
    assert not reply.infeasible_resource_requests
    return Counter({launch.instance_type: launch.count for launch in reply.to_launch})


DETECTOR = {"CPU": 1.05, "detect": 0.0001}
ANNOTATOR = {"CPU": 0.9, "GPU": 1, "annotate": 0.0001}


def test_nodes_come_from_zero_for_the_stage_that_waits_on_spot_and_else_on_demand(prepared):
    assert _launched(prepared, []) == {}, "an idle cluster is its head alone"
    assert _launched(prepared, [DETECTOR] * 30) == {"detect-spot": 2}
    assert _launched(prepared, [ANNOTATOR] * 3) == {"annotate-spot": 3}
    none_left = ("detect-spot", "annotate-spot")
    assert _launched(prepared, [DETECTOR] * 30, none_left) == {"detect-on-demand": 2}
    assert _launched(prepared, [ANNOTATOR] * 3, none_left) == {"annotate-on-demand": 3}


def test_the_image_has_the_packages_that_are_tested():
    locked = _pinned("requirements-cluster.lock")
    tested = _pinned("requirements.lock")
    assert all(versions <= tested.get(name, versions) for name, versions in locked.items())
    project = (REPO_ROOT / "pyproject.toml").read_text()
    wanted = [
        Requirement(line)
        for line in re.findall(
            r'^ {4}"(.+)",$', project.partition("[project.optional-dependencies]")[0], re.M
        )
    ]
    assert len(wanted) > 25
    for requirement in [*wanted, Requirement("boto3"), Requirement("ray[default]>=2.60")]:
        (version,) = locked[requirement.name.lower()]
        assert requirement.specifier.contains(version), requirement
    assert not {"pytest", "mypy", "playwright"} & locked.keys()


def _pinned(name: str) -> dict[str, set[str]]:
    """Return the versions of each package: several where they depend on the version of Python."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([a-z0-9._-]+)==(\S+)", (REPO_ROOT / name).read_text(), re.M):
        found.setdefault(package, set()).add(version)
    return found


def _policies() -> dict[str, dict[str, Any]]:
    """Return the policies that the runbook writes out, by the name of their profile."""
    text = (REPO_ROOT / "docs" / "operations.md").read_text()
    blocks = re.findall(r"`(shopframe-\w+)`[^`]*```json\n(.*?)```", text, re.S)
    return {name: json.loads(block) for name, block in blocks}


def test_the_policies_in_the_runbook_name_actions_that_exist_and_nothing_wider():
    policies = _policies()
    assert policies.keys() == {"shopframe-head", "shopframe-worker"}
    session = botocore.session.Session()
    # S3 names some actions otherwise than its operations.
    s3 = {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload"}
    for policy in policies.values():
        for statement in policy["Statement"]:
            for action in statement["Action"]:
                service, _, operation = action.partition(":")
                if service == "s3":
                    assert action in s3
                elif action != "iam:PassRole":
                    assert operation in session.get_service_model(service).operation_names, action
            if statement["Resource"] == "*":
                reads = all(re.search(r":(Describe|GetAuthorizationToken)", a) for a in statement["Action"])
                assert reads or "Condition" in statement, statement
    workers = {action for s in policies["shopframe-worker"]["Statement"] for action in s["Action"]}
    assert not [action for action in workers if action.startswith(("ec2:", "iam:"))]
