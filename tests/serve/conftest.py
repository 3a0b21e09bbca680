"""An output, and a client of the server that shows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve.served import Client, Output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Output]:
    with pytest.MonkeyPatch.context() as patch:
        yield Output(tmp_path_factory.mktemp("serve"), patch)


@pytest.fixture
def output(made: Output) -> Iterator[Output]:
    yield made
    made.restore()


@pytest.fixture
def client(output: Output) -> Iterator[Client]:
    with output.served() as client:
        yield client
