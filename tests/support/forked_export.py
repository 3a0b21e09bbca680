"""The script that tests run in place of `export_checkpoint.py`: it forks that one, with ultralytics imported.

The import takes most of the time in which a network is exported. A checkpoint that may run code is left to
the program itself, because ultralytics reads that setting when it is imported.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

EXPORT_SCRIPT = Path(__file__)

SOCKET_VARIABLE = "SHOPFRAME_TEST_EXPORT_SOCKET"
"""The variable with the path at which programs are forked that have imported ultralytics."""

_PROGRAM = str(Path(__file__).resolve().parents[2] / "actors/detect/export_checkpoint.py")


if __name__ == "__main__":
    if sys.argv[1] != "export" or "ULTRALYTICS_SAFE_LOAD" in os.environ:
        os.execv(sys.executable, [sys.executable, _PROGRAM, *sys.argv[1:]])
    # The folder of a script is where its imports are looked for first.
    from forked_program import run_forked

    sys.exit(run_forked(os.environ[SOCKET_VARIABLE], [_PROGRAM, *sys.argv[1:]]))
