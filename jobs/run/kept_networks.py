"""Networks that were made for an output, and the records of how they were chosen, in its folder `models/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar

from pydantic import ValidationError

from actors.errors import ConfigError, PreconditionError
from actors.storage.model_paths import network_path
from actors.storage.object_store import ObjectStore


class Choice(Protocol):
    """A record of a trial, which is a pydantic model."""

    @property
    def taken(self) -> bool:
        """Whether the network is used."""

    @property
    def network(self) -> str:
        """Digest of the network."""

    @classmethod
    def model_validate_json(cls, json_data: bytes) -> Self:
        """Parse the record."""

    def model_dump_json(self, *, indent: int) -> str:
        """Return the record as JSON."""


_Choice = TypeVar("_Choice", bound=Choice)


def read_choice(output: ObjectStore, path: str, kind: type[_Choice]) -> _Choice | None:
    """Return the record of a trial, or None if there was none.

    Raises:
        ConfigError: It is not a record of this kind.
    """
    try:
        return kind.model_validate_json(output.read(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ConfigError(
            f"{output.full(path)}: not a valid record of a trial; delete it and run the same command again"
        ) from error


def keep_choice(
    output: ObjectStore,
    path: str,
    choice: _Choice,
    files: Sequence[bytes],
    can_follow: Callable[[_Choice], bool],
) -> _Choice:
    """Write the network if it is taken, and the record of its trial, unless another run was faster.

    Args:
        output: The output.
        path: Path of the record.
        choice: The outcome of this run's trial.
        files: XML and weights of the network.
        can_follow: Whether this run can use what another run has chosen.

    Returns:
        The choice that holds, which is that of the faster run if it can be followed.
    """
    if choice.taken:
        for suffix, content in zip(("xml", "bin"), files, strict=True):
            output.write(network_path(choice.network, suffix), content)
    content = choice.model_dump_json(indent=2).encode()
    try:
        output.create(path, content)
    except PreconditionError:
        # Another run was faster, or there is a choice that this run can't follow.
        other = read_choice(output, path, type(choice))
        if other is not None and can_follow(other):
            return other
        output.write(path, content)
    return choice
