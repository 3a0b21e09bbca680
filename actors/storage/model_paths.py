"""Paths of the networks that were made for an output, and of the records how they were chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from actors.storage.object_store import ObjectStore

MODELS = "models"
"""Folder of the networks under the output URI."""


def network_path(sha256: str, suffix: str) -> str:
    """Path of the XML (`xml`) or the weights (`bin`) of a network with this digest."""
    return f"{MODELS}/{sha256}/network.{suffix}"


def int8_choice_path(key: str) -> str:
    """Path of the record whether the network with this key is used in int8."""
    return f"{MODELS}/int8-{key}.json"


def tower_choice_path(key: str) -> str:
    """Path of the record whether the vision tower with this key is run by OpenVINO."""
    return f"{MODELS}/vision-{key}.json"


def network_sha256(files: Sequence[bytes]) -> str:
    """Return the digest that identifies a network by its XML and weights."""
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in files)).hexdigest()


def kept_network(output: ObjectStore, network: str) -> list[bytes] | None:
    """Return XML and weights of a network, or None if the output no longer has it as it was made."""
    try:
        files = [output.read(network_path(network, suffix)) for suffix in ("xml", "bin")]
    except FileNotFoundError:
        return None
    return files if network_sha256(files) == network else None
