"""How many rounds of faults are run, and with which draws; `make torture` sets both."""

from __future__ import annotations

import os

import pytest

SEED = int(os.environ.get("FAULT_SEED", "1"))
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "0"))

ONLY_IN_TORTURE = pytest.mark.skipif(ROUNDS == 0, reason="it takes minutes; make torture runs it")
"""Mark of a test that isn't part of `make test`."""
