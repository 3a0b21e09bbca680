"""Run `shopframe` as a user would, in separate processes, and read the output that it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from actors.storage.tables import from_parquet
from tests.support import bad_inputs as bad
from tests.support import ray_cluster
from tests.support.fork_server import Kind, fork_server
from tests.support.forked_process import ForkedProcess

REPO_ROOT = Path(__file__).resolve().parents[2]

may_use_ray = False
"""Whether the current test is marked with `ray`; `conftest.py` sets it before each test."""

NO_RAY = {"RAY_ADDRESS": "127.0.0.1:1"}
"""Environment of a run that must do without Ray. It fails if it tries to connect."""

_SERVER = "tests.support.fork_server"
"""Text in the title of a process that forks others."""

ROW_KEYS = ["shard_id", "frame_key", "person_index"]


@dataclass(frozen=True)
class Models:
    """Small models, and the options that make a run use them and stay small."""

    weights: Path
    smolvlm: Path
    cache: Path

    def options(self, *, smolvlm: bool = True) -> list[str]:
        return [
            *_set("detector.weights", self.weights),
            *_set("detector.cache_dir", self.cache),
            *_set("detector.image_size", 320),
            # The untrained detector finds 300 persons in a frame. Drawing all took most of a run's time.
            *_set("detector.max_detections", 40),
            *_set("detector.actors", 1),
            *_set("roi.max_persons", 2),
            *(_set("smolvlm.model", self.smolvlm) if smolvlm else _set("smolvlm.enabled", "false")),
        ]


def _set(key: str, value: object) -> list[str]:
    return ["--set", f"{key}={value}"]


def start(
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    own_ray: bool = False,
    terminal: int | None = None,
) -> ForkedProcess:
    """Start `shopframe` in a process group of its own.

    Args:
        arguments: The command and its options.
        environment: Variables to add to the environment of this process.
        own_ray: Whether the run starts a Ray of its own instead of connecting to the session's cluster.
        terminal: The descriptor of the terminal at which it runs, if any.
    """
    variables = _environment(arguments, environment, own_ray)
    uses_ray = _is_run(arguments) and variables.get("RAY_ADDRESS") != NO_RAY["RAY_ADDRESS"]
    program = "tests.support.forking_ray" if own_ray else "jobs.cli"
    return _fork("runs" if uses_ray else "commands", program, arguments, variables, terminal)


def start_program(
    program: str | Path,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    own_ray: bool = False,
) -> ForkedProcess:
    """Start a script or module that uses Ray; the other arguments are those of `start`."""
    return _fork("runs", program, arguments, _environment(arguments, environment, own_ray))


def _fork(
    kind: Kind,
    program: str | Path,
    arguments: Sequence[object],
    variables: Mapping[str, str],
    terminal: int | None = None,
) -> ForkedProcess:
    given = [str(program), *map(str, arguments)]
    return ForkedProcess(fork_server(kind), given, variables, str(REPO_ROOT), terminal)


def start_command(
    command: Sequence[object], environment: Mapping[str, str] | None = None, own_ray: bool = False
) -> subprocess.Popen[str]:
    """Start any command line that runs `shopframe` in a new interpreter, as a user does.

    The other arguments are those of `start`.
    """
    return subprocess.Popen(
        [*map(str, command)],
        cwd=REPO_ROOT,
        env=_environment(command, environment, own_ray),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _is_run(command: Sequence[object]) -> bool:
    return bool({"annotate", "gemini"} & set(map(str, command)))


def _environment(
    command: Sequence[object], environment: Mapping[str, str] | None, own_ray: bool
) -> dict[str, str]:
    variables = dict(environment or {})
    if _is_run(command):
        needs_ray = variables.items() & NO_RAY.items() != NO_RAY.items()
        assert may_use_ray or not needs_ray, "this test starts a run: mark it with pytest.mark.ray"
        if own_ray:
            variables.update(ray_cluster.forking_environment())
        elif "RAY_ADDRESS" not in variables:
            variables["RAY_ADDRESS"] = ray_cluster.address()
    return {**os.environ, **variables}


Process = ForkedProcess | subprocess.Popen[str]


def finish(process: Process) -> subprocess.CompletedProcess[str]:
    stdout, stderr = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def wait_for(condition: Callable[[], Any], process: Process) -> Any:
    """Wait until the condition holds, the process ends or 240 s have passed.

    Returns:
        The last value of the condition.
    """
    deadline = time.monotonic() + 240
    while not (found := condition()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return found or condition()


def ray_workers(title: str) -> set[int]:
    """Return the process ids of all Ray workers of this test process with the given text in their titles.

    The title of a worker names its actor. Workers of an ended run may still be there for a moment, so a test
    leaves out those that were there before its run.
    """
    servers = [fork_server("runs").wait_until_ready(), fork_server("workers").wait_until_ready()]
    titles, parents = _processes()
    started = own_processes(os.getpid(), servers, titles, parents)
    found = {pid for pid in started if "ray::" in titles.get(pid, "") and title in titles[pid]}
    # What a worker starts has the worker's title until it runs its own program.
    return {pid for pid in found if not any(pid in _below(other, parents) for other in found - {pid})}


def own_processes(
    own: int, servers: Sequence[int], titles: Mapping[int, str], parents: Mapping[int, int]
) -> set[int]:
    """Return the processes that a test process has started, without those of other test processes.

    The servers that fork for all test processes descend from whichever of them needed the imports first.

    Args:
        own: The test process.
        servers: Those that fork for it.
        titles: The titles of all processes, by process id.
        parents: The parents of all processes.
    """
    started = _below(own, {pid: parent for pid, parent in parents.items() if _SERVER not in titles[pid]})
    return started.union(*(_below(server, parents) for server in servers))


def descendants(driver: int) -> dict[int, str]:
    """Return the titles of a process and of all its descendants, by process id."""
    titles, parents = _processes()
    return {pid: titles.get(pid, "") for pid in _below(driver, parents)}


def _processes() -> tuple[dict[int, str], dict[int, int]]:
    """Return the titles of all processes and their parents, by process id."""
    titles, parents = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_text().replace("\0", " ")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        titles[int(entry.name)], parents[int(entry.name)] = title, parent
    return titles, parents


def _below(root: int, parents: Mapping[int, int]) -> set[int]:
    """Return a process and all its descendants."""
    found = {root}
    while grown := {child for child, parent in parents.items() if parent in found} - found:
        found |= grown
    return found


def shopframe(
    *arguments: object, environment: Mapping[str, str] | None = None, own_ray: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `shopframe` until it ends; the arguments are those of `start`."""
    return finish(start(*arguments, environment=environment, own_ray=own_ray))


def annotate(
    source: object, output: object, *options: object, expect: int = 0, own_ray: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `shopframe annotate`, which must end with the expected exit code."""
    done = shopframe("annotate", "--input", source, "--output", output, *options, own_ray=own_ray)
    assert done.returncode == expect, done.stdout + done.stderr
    return done


def write_shards(folder: Path, names: str, frames: int = 2, first_seed: int = 0) -> None:
    """Write one tar for each letter of `names`, all with different frames; sidecars name the cameras."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        write_shard(folder / f"{name}.tar", first_seed + 100 * number, frames)


def write_shard(path: Path, seed: int, frames: int = 2) -> None:
    files: dict[str, bytes] = {}
    for index in range(frames):
        files[f"frame-{index:03d}.jpg"] = bad.jpeg(320, 240, seed + index)
        files[f"frame-{index:03d}.json"] = json.dumps({"camera": f"cam-{index % 2}"}).encode()
    path.write_bytes(bad.tar(files))


def records(output: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_bytes()) for path in sorted((output / "commits").glob("*.json"))}


def attempts(output: Path) -> dict[str, str]:
    """Return the attempts that are committed, by shard."""
    return {name: record["attempt_id"] for name, record in records(output).items()}


def bytes_of(output: Path, folder: str) -> dict[str, bytes]:
    """Return the content of every file in a folder of the output except hidden ones, by path."""
    found = sorted(p for p in (output / folder).rglob("[!.]*") if p.is_file())
    return {str(path.relative_to(output)): path.read_bytes() for path in found}


def table(output: Path, kind: str) -> pa.Table:
    """Return the rows of a kind in all objects that commit records name, sorted by their keys."""
    tables = [
        from_parquet((output / entry["path"]).read_bytes())
        for record in records(output).values()
        for entry in record["objects"]
        if entry["kind"] == kind
    ]
    joined = pa.concat_tables(t.unify_dictionaries() for t in tables)
    keys = [key for key in ROW_KEYS if key in joined.column_names]
    return joined.sort_by([(key, "ascending") for key in keys])


def consolidated(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "consolidated").rglob("*.parquet"))
    rows = ds.dataset(files).to_table().to_pylist()
    return sorted(rows, key=lambda row: tuple(row[key] for key in ROW_KEYS))


def progress(output: Path) -> dict[str, Any]:
    return json.loads((output / "progress.json").read_bytes())


def debris(output: Path) -> set[str]:
    """Return the files under the data folders that no commit record names."""
    named = {e["path"] for record in records(output).values() for e in record["objects"]}
    found: set[str] = set()
    for folder in ("frames", "persons", "annotations", "previews"):
        found |= set(bytes_of(output, folder))
    return found - named
