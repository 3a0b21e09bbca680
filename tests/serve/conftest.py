"""An output, and a client of the server that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.serve.served import Client, Output

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


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


@pytest.fixture
def page(browser: Browser, client: Client) -> Iterator[Page]:
    """The page at the width of a desk. The test fails if the browser's console has an error."""
    from tests.serve.browsing import opened

    page = opened(browser, client)
    yield page
    assert page.errors == []
    page.context.close()
