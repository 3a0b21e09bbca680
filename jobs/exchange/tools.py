"""The tools that persons are exchanged with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from actors.corrections.decision import Box
from jobs.exchange import coco, cvat, labelstudio, via
from jobs.exchange.exported import Exported, ExportedFrame
from jobs.exchange.regions import inside
from jobs.exchange.seen import SeenFrame


def _unrounded(box: Box, frame: ExportedFrame) -> Box:  # noqa: ARG001
    return inside(box)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool, or a format that several tools have.

    Attributes:
        name: Its name for people.
        suffix: How the names of the files that it saves end.
        files: Yields the name and content of each file for it. Given are the export and the URL of the
            frames, or None for the folder beside the files.
        read: Yields the frames of a saved file. Given are its name and content, and the export.
        advice: What a person does with the files, up to the import.
        shown_box: Returns a box of a frame as it comes back if nobody has moved it.
    """

    name: str
    suffix: str
    files: Callable[[Exported, str | None], Iterator[tuple[str, bytes]]]
    read: Callable[[str, bytes, Exported], Iterator[SeenFrame]]
    advice: str
    shown_box: Callable[[Box, ExportedFrame], Box] = _unrounded


TOOLS: Mapping[str, Tool] = {
    "via": Tool(
        "VIA",
        ".json",
        via.projects,
        via.read_project,
        "put VIA's via.html into this folder and open it, load a project (via3-0001.json in VIA 3), correct "
        "it, and save it there",
        via.shown_box,
    ),
    "labelstudio": Tool(
        "Label Studio",
        ".json",
        labelstudio.files,
        labelstudio.read_tasks,
        f"make a project with the labeling interface of {labelstudio.CONFIGURATION}, import the tasks, "
        "submit them, and save Export, JSON in this folder",
    ),
    "cvat": Tool(
        "CVAT",
        ".xml",
        cvat.files,
        cvat.read_annotations,
        f"make a task of the frames with the labels of {cvat.LABELS} (Raw), upload the annotations as CVAT "
        "1.1, correct them, export them as CVAT for images 1.1, and unpack annotations.xml into this folder",
    ),
    "coco": Tool(
        "COCO",
        ".json",
        coco.files,
        coco.read_instances,
        f"load {coco.INSTANCES} with the frames into a tool that keeps attributes, and save COCO in this "
        "folder",
    ),
}
"""By the name of the format."""
