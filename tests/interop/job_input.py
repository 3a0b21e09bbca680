"""Make shards and a small detector in the project's own environment, and print the options of a run.

python -m tests.interop.job_input FOLDER COUNT
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support import job
from tests.support.random_checkpoint import save_random_checkpoint

if __name__ == "__main__":
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    job.write_shards(folder, "abcdefgh"[:count])
    weights = folder.parent / "random.pt"
    save_random_checkpoint(weights)
    print(*job.Models(weights, weights, folder.parent / "cache").options(smolvlm=False), sep="\n")
