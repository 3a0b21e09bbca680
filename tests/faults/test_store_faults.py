"""A bucket that misbehaves costs nothing but repetitions.

Promise: a fault of the store never fails a shard and never changes a row. Each run goes through a proxy that
injects faults into a share of all requests. The same command is given until it ends with exit code 0, and
once more without faults, as its user would. Then tables, documents and snapshots equal those of an
undisturbed run, `shopframe verify` finds nothing, and nothing is left but what `shopframe clean` removes.

`FAULT_SEED` and `FAULT_ROUNDS` choose other draws and more of them; `make torture` runs many.
"""

from __future__ import annotations

from types import SimpleNamespace

import fsspec
import pytest

from actors.storage.object_store import ObjectStore
from tests.servers.s3_faults import FAULTS, LASTING, Fault, faulty_store
from tests.servers.seaweedfs import S3Server
from tests.support import job, without_ray
from tests.support.fault_rounds import ROUNDS, SEED
from tests.support.job import Models
from tests.support.outcomes import assert_whole, outcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SHARES = {"stale listing": 0.5, "error after success": 0.2, "reset after success": 0.2}
"""The share of requests that get a fault, for those faults that only few requests can have."""

RUNS = 12
"""How often the command is given at most."""


@pytest.fixture(scope="module")
def undisturbed(s3: S3Server, models: Models, tmp_path_factory):
    """The input in a bucket, and what a run on it leaves that nothing disturbs."""
    folder = tmp_path_factory.mktemp("in")
    job.write_shards(folder, "ab")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        bucket = f"s3://{s3.new_bucket()}"
        source = ObjectStore(f"{bucket}/in")
        for path in folder.glob("*.tar"):
            source.write(path.name, path.read_bytes())
        options = [*models.options(), "--set", "output.person_json=files"]
        without_ray.annotate(f"{bucket}/in", f"{bucket}/undisturbed", *options)
        expected = outcome(f"{bucket}/undisturbed")
    assert expected["documents"]
    assert len(expected["consolidated"]) == len(expected["annotations/smolvlm"]) > 0
    return SimpleNamespace(bucket=bucket, options=options, expected=expected)


def cases() -> list[tuple[tuple[Fault, ...], int]]:
    """Return the faults of each run with their seed: several together, and in long rounds also one by one."""
    transient: tuple[Fault, ...] = tuple(f for f in FAULTS if f not in ("stale listing", *LASTING))
    alone: tuple[Fault, ...] = ("stale listing", *LASTING)
    together = [(transient, SEED), *(((fault,), SEED) for fault in alone)]
    return together + [((fault,), SEED + number) for number in range(1, 1 + ROUNDS) for fault in FAULTS]


@pytest.mark.parametrize(
    ("faults", "seed"),
    cases(),
    ids=lambda value: str(value) if isinstance(value, int) else value[0] if len(value) == 1 else "together",
)
def test_faults_of_the_store_change_nothing(
    faults: tuple[Fault, ...], seed: int, undisturbed, s3: S3Server, s3_environment
):
    output = f"{undisturbed.bucket}/{'-'.join(faults).replace(' ', '-')[:40]}-{seed}"
    places = ["annotate", "--input", f"{undisturbed.bucket}/in", "--output", output]
    # A run lists little, so half of the listings are the first ones of their folders. It writes little, too.
    share = SHARES.get(faults[0], 0.05) if len(faults) == 1 else 0.05
    codes: list[int] = []
    with faulty_store(s3, faults, seed, share) as store:
        while codes[-1:] != [0]:
            run = [*places, *undisturbed.options]
            done = without_ray.command(*run, expect=None, environment={"AWS_ENDPOINT_URL_S3": store.url})
            codes.append(done.returncode)
            assert "Traceback" not in done.stderr, done.stderr
            assert codes[-1] in (0, 1, 2), done.stderr
            assert len(codes) <= RUNS, done.stderr
            if set(faults) <= {*LASTING, "stale listing"}:
                # Somebody renews the credentials or makes room, or the listings are up to date at last.
                store.mend()
        injected = store.injected()
        store.mend()
        without_ray.command(*run, environment={"AWS_ENDPOINT_URL_S3": store.url})
    print(f"seed {seed}: injected {dict(injected)}, exit codes {codes}")
    assert len(injected) >= len(faults) // 2, "the faults were not injected"
    assert injected.total() > 0
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    assert_whole(output, undisturbed.expected)
