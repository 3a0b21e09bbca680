"""Documents are files for small inputs and tars for large ones, and an output keeps what it has."""

from __future__ import annotations

import pytest

from actors.read.loose_images import pack_members
from actors.records import Shard
from jobs.run.person_json_mode import choose_person_json
from jobs.run.run_record import PlanCounts, RunRecord
from jobs.settings import Settings


def tar(frames: int) -> Shard:
    return Shard("a", "in/a.tar", "webdataset", "etag", frames * 100_000)


def images(frames: int) -> Shard:
    names = [name for number in range(frames) for name in (f"{number}.jpg", f"{number}.json")]
    return Shard("a", "in/a", "images", "etag", 10, members=pack_members(names))


def after(person_json: str) -> RunRecord:
    config = Settings(output={"person_json": person_json}).as_dict()
    return RunRecord(config=config, plan=PlanCounts(shards=1))


@pytest.mark.parametrize(
    ("shards", "mode", "said"),
    [
        (
            [tar(2000)],
            "files",
            "one document per person in json/ (the input has about 2,000 frames, by its size)",
        ),
        (
            [tar(2001)],
            "tar",
            "one tar of documents per shard in json/ (the input has about 2,001 frames, by its size)",
        ),
        (
            [images(1999), tar(1)],
            "files",
            "one document per person in json/ (the input has about 2,000 frames, by its size)",
        ),
        (
            [images(2001)],
            "tar",
            "one tar of documents per shard in json/ (the input has about 2,001 frames, by its size)",
        ),
    ],
)
def test_the_size_of_the_input_decides_for_a_new_output(shards, mode, said):
    settings, documents = choose_person_json(Settings(), None, shards)
    assert (settings.output.person_json, documents) == (mode, said)


@pytest.mark.parametrize(("before", "mode"), [("files", "files"), ("tar", "tar"), ("none", "tar")])
def test_an_output_with_documents_keeps_their_form(before, mode):
    settings, _ = choose_person_json(Settings(), after(before), [tar(100_000)])
    assert settings.output.person_json == mode


@pytest.mark.parametrize("given", ["files", "tar", "none"])
def test_what_is_configured_is_done_and_needs_no_words(given):
    configured = Settings(output={"person_json": given})
    assert choose_person_json(configured, after("tar"), [tar(9)]) == (configured, None)
