"""One measured step of `benchmarks.scale`, in a process of its own: the CPU time and peak memory are its own.

    python -m benchmarks.scale_steps STEP [ARGUMENT ...]

The last line of its output is the step's result as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import botocore.session
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import write_deltalake

from actors.read.listing import list_shards
from actors.records import Shard
from actors.shard_block import ShardTask
from actors.storage.commit_record import read_record
from actors.storage.object_store import ObjectStore
from benchmarks.scale_outputs import Maker, s3_filesystem
from jobs.run.prepare import CheckedInput, prepare_run
from jobs.run.resolve import resolve
from jobs.settings import Settings, load_settings
from tests.servers.seaweedfs import count_requests

METRICS = "SEAWEEDFS_METRICS_URL"
"""Variable with the URL at which a SeaweedFS server counts its requests; it is unset for local outputs."""

_TABLES = ("frames", "persons", "annotations/smolvlm")


def plan(*overrides: str) -> dict[str, Any]:
    """Plan a run: list the input, find the models, read the records, compare."""
    settings = _settings(overrides)
    output = ObjectStore(str(settings.output.uri), settings.storage)
    shards = list(list_shards(settings.input, settings.storage))
    found = CheckedInput(settings, None, shards, resolve(settings), ())
    planned = prepare_run(found, output, "missing", None, keep_index=True).plan
    return {"to_do": len(planned.tasks), "skipped": planned.skipped}


def listing(*uris: str) -> dict[str, Any]:
    """List everything under some folders and prefixes, without the code of the project."""
    objects = 0
    for uri in uris:
        objects += sum(1 for _ in (_keys(uri) if uri.startswith("s3://") else _files(uri)))
    return {"objects": objects}


def _keys(uri: str) -> Iterator[str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = botocore.session.Session().create_client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        yield from (found["Key"] for found in page.get("Contents", ()))


def _files(folder: str) -> Iterator[os.stat_result]:
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _files(entry.path)
        else:
            yield entry.stat()


def rows(uri: str, to: str) -> dict[str, Any]:
    """Read every table of an output with pyarrow, and write the rows to Delta Lake tables with deltalake."""
    filesystem, root = pafs.FileSystem.from_uri(uri) if "://" not in uri else (None, uri[5:])
    if filesystem is None:
        filesystem = s3_filesystem(dict(os.environ))
    found = 0
    for kind in _TABLES:
        selector = pafs.FileSelector(f"{root}/{kind}")
        paths = sorted(info.path for info in filesystem.get_file_info(selector))
        dataset = ds.dataset(paths, filesystem=filesystem, format="parquet")
        write_deltalake(f"{to}/{kind.replace('/', '-')}", dataset.scanner().to_reader())
        found += dataset.count_rows()
    return {"rows": found}


def change(shard: str, *overrides: str) -> dict[str, Any]:
    """Commit the shard at this position of the input once more."""
    settings = _settings(overrides)
    maker = Maker.of(settings)
    wanted = list(list_shards(settings.input, settings.storage))[int(shard)]
    found = read_record(maker.store, wanted.shard_id)
    if found is None:
        raise SystemExit(f"{wanted.shard_id} is not committed")
    maker.commit([ShardTask(wanted, "detect", found[0].attempt_id, found[0].attempt + 1)])
    return {}


def commits(one: str, many: str, count: str, person_json: str, *overrides: str) -> dict[str, Any]:
    """Commit new shards to two outputs in turn, and write the same objects without the committer.

    Returns:
        For each output, and for the plain writing to the first, the seconds of the fastest; and the requests
        of a commit where the outputs are on S3.
    """
    settings = _settings(overrides)
    maker = Maker.of(settings)
    makers = {
        name: replace(maker, store=ObjectStore(uri), person_json=person_json)
        for name, uri in (("one", one), ("many", many))
    }
    seconds: dict[str, list[float]] = {"one": [], "many": [], "plain": []}
    requests: dict[str, dict[str, int]] = {}
    for turn in range(int(count) + 1):
        for name, each in makers.items():
            shard = Shard(
                f"new-{os.getpid()}-{turn}", f"elsewhere/{os.getpid()}-{turn}.tar", "webdataset", "e", 1
            )
            before = _requests() if turn else None
            started = time.perf_counter()
            each.commit([ShardTask(shard, "detect")])
            seconds[name].append(time.perf_counter() - started)
            if before is not None:
                requests[name] = dict(_requests() - before)
        made = _objects(makers["one"].store, f"new-{os.getpid()}-{turn}")
        started = time.perf_counter()
        makers["one"].store.write_many((f"plain/{turn}/{name}", content) for name, content in made)
        seconds["plain"].append(time.perf_counter() - started)
    # Other processes can only slow a commit down.
    best = {name: min(taken) for name, taken in seconds.items()}
    return {"commit_s": best, "commit_requests": requests, "objects": len(made)}


def _objects(store: ObjectStore, shard_id: str) -> list[tuple[str, bytes]]:
    found = read_record(store, shard_id)
    if found is None:
        raise SystemExit(f"{shard_id} is not committed")
    record = found[0]
    paths = [o.path for o in store.list(f"json/{shard_id}")] or [
        o.path for o in record.objects if o.kind == "json"
    ]
    paths += [entry.path for entry in record.objects if entry.kind != "json"]
    written = [(path, store.read(path)) for path in paths]
    return [*written, ("record", record.model_dump_json(indent=1).encode())]


def _requests() -> Counter[str]:
    url = os.environ.get(METRICS)
    return Counter() if url is None else count_requests(url)


def _settings(overrides: tuple[str, ...]) -> Settings:
    return load_settings((), list(overrides)).settings


_STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    step.__name__: step for step in (plan, listing, rows, change, commits)
}


def main() -> None:
    """Run the step that the command line names."""
    step, *arguments = sys.argv[1:]
    print(json.dumps(_STEPS[step](*arguments)))


if __name__ == "__main__":
    main()
