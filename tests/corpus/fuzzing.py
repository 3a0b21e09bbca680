"""Coverage-guided fuzzing of the readers by atheris.

    python -m tests.corpus.fuzzing TARGET FOLDER -max_total_time=60

FOLDER keeps the inputs that reach new code; it is begun with the corpus. The options are those of libFuzzer,
which ends with an error, and writes the input, at the first exception that a reader doesn't state, at a
time-out and at 2 GiB of memory.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["actors.read", "jobs.yaml_text", "tarfile", "zipfile", "yaml"]):
    from actors.errors import FrameError, ShardError
    from actors.read.frame_decoder import decode_frame
    from actors.read.settings import InputSettings
    from actors.read.sidecars import parse_sidecar
    from actors.read.tar_frames import read_tar
    from actors.read.zip_frames import read_zip
    from actors.records import Shard
    from jobs.yaml_text import InvalidYamlError, parse_yaml

from tests.corpus.configurations import CONFIGURATIONS
from tests.corpus.images import IMAGES
from tests.corpus.sidecars import SIDECARS
from tests.corpus.tars import TARS
from tests.corpus.zips import ZIPS

_LIMITS = InputSettings(max_image_bytes=2**20, max_image_pixels=1_000_000)
_MOST_SEED_BYTES = 2**16


def fuzz_tar(content: bytes) -> None:
    """Read a tar."""
    shard = Shard("a", "a.tar", "webdataset", "e", len(content))
    try:
        list(read_tar(io.BytesIO(content), shard, _LIMITS))
    except ShardError:
        return


def fuzz_zip(content: bytes) -> None:
    """Read a zip."""
    try:
        list(read_zip(io.BytesIO(content), Shard("a", "a.zip", "zip", "e", len(content)), _LIMITS))
    except ShardError:
        return


def fuzz_image(content: bytes) -> None:
    """Decode an image."""
    try:
        decode_frame(content, _LIMITS.max_image_pixels)
    except FrameError:
        return


def fuzz_sidecar(content: bytes) -> None:
    """Parse a sidecar."""
    parse_sidecar("a.json", content, _LIMITS)


def fuzz_configuration(content: bytes) -> None:
    """Parse the YAML of a configuration."""
    try:
        parse_yaml(content.decode("utf-8", "replace"))
    except InvalidYamlError:
        return


TARGETS: dict[str, tuple[Callable[[bytes], None], list[Callable[[], bytes]]]] = {
    "tar": (fuzz_tar, [kind.make for kind in TARS if kind.suffix == ".tar"]),
    "zip": (fuzz_zip, [kind.make for kind in ZIPS if "bomb" not in kind.name]),
    "image": (fuzz_image, [kind.make for kind in IMAGES]),
    "sidecar": (fuzz_sidecar, [lambda kind=kind: kind.content for kind in SIDECARS]),
    "configuration": (fuzz_configuration, [lambda kind=kind: kind.content for kind in CONFIGURATIONS]),
}


def main(target: str, folder: Path, *options: str) -> None:
    """Fuzz one target."""
    one_input, seeds = TARGETS[target]
    folder.mkdir(parents=True, exist_ok=True)
    for number, make in enumerate(seeds):
        content = make()
        if len(content) <= _MOST_SEED_BYTES:
            (folder / f"seed-{number:03d}").write_bytes(content)
    limits = (
        "-timeout=60",
        "-rss_limit_mb=2048",
        f"-max_len={_MOST_SEED_BYTES}",
        f"-artifact_prefix={folder}.",
    )
    atheris.Setup([sys.argv[0], str(folder), *limits, *options], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
