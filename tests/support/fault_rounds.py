"""How many rounds of faults are run, and with which draws; `make torture` sets both."""

from __future__ import annotations

import os

SEED = int(os.environ.get("FAULT_SEED", "1"))
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "0"))
