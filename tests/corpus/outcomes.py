"""All kinds of bad input with their outcomes, as the table of docs/reliability.md has them.

Run `python -m tests.corpus.outcomes` to print the table.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.corpus.answers import ANSWERS
from tests.corpus.configurations import CONFIGURATIONS
from tests.corpus.decisions import DECISIONS
from tests.corpus.exchanges import BOXES, OUTCOME, RAW, XML, XML_BOXES
from tests.corpus.images import IMAGES
from tests.corpus.lying_parquets import LYING_PARQUETS
from tests.corpus.parquets import PARQUETS
from tests.corpus.responses import BATCH_LINES, CHAT_COMPLETIONS, GEMINI_ERRORS, GEMINI_RESPONSES
from tests.corpus.sidecars import SIDECARS
from tests.corpus.tars import TARS
from tests.corpus.weights import WEIGHTS
from tests.corpus.zips import ZIPS


def outcomes() -> Iterator[tuple[str, str]]:
    """Yield the name and the outcome of each kind."""
    for group in (TARS, ZIPS, PARQUETS, LYING_PARQUETS, IMAGES, SIDECARS, CONFIGURATIONS, ANSWERS, DECISIONS):
        for kind in group:
            yield kind.name, kind.outcome
    for response in (*GEMINI_RESPONSES, *GEMINI_ERRORS, *BATCH_LINES, *CHAT_COMPLETIONS):
        yield response.name, response.outcome
    for name, *_ in (*RAW, *BOXES):
        yield f"VIA 2 and 3, Label Studio, COCO: {name}", OUTCOME
    for name, *_ in (*XML, *XML_BOXES):
        yield f"CVAT: {name}", OUTCOME
    for weights in WEIGHTS:
        yield weights.name, weights.outcome


def table() -> str:
    """Return the table in Markdown."""
    rows = [f"| {name} | {outcome} |".replace("<", "&lt;") for name, outcome in outcomes()]
    return "\n".join(["| kind | outcome |", "|---|---|", *rows])


if __name__ == "__main__":
    print(table())
