"""The plan of a run: which shards it does, and from which stage, for every state and scope."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.records import Shard
from actors.storage.commit_record import CommitRecord, InputIdentity
from jobs.run.plan import Committed, make_plan

PRINTS = {"detect": "d", "person_json": "p", "smolvlm": "s"}
DONE = Committed(
    "004-x", "done", 1, "in/a.tar", "etag", "key of a", "webdataset", PRINTS, {"smolvlm": {"ok": 2}}
)
FAILED = replace(DONE, state="failed", annotators={})
OWING = replace(DONE, annotators={"smolvlm": {"ok": 2, "error": 1}})
INVALID = replace(DONE, annotators={"smolvlm": {"ok": 2, "invalid": 1}})


def shard(name: str = "a", etag: str = "etag") -> Shard:
    return Shard(name, f"in/{name}.tar", "webdataset", etag, 10)


def work(record: Committed | None, prints=PRINTS, given: Shard | None = None, **scope):
    """Return the first stage and the outcomes to retry of a single shard, or None if it is skipped."""
    committed = {} if record is None else {"a": record}
    plan = make_plan([given or shard()], committed, prints, **scope)
    assert plan.shards == 1 == len(plan.tasks) + plan.skipped
    return (plan.tasks[0].work, plan.tasks[0].retry_outcomes) if plan.tasks else None


@pytest.mark.parametrize(
    ("record", "prints", "expected"),
    [
        (None, PRINTS, ("detect", None)),
        (DONE, PRINTS, None),
        (FAILED, PRINTS, ("detect", None)),
        (DONE, PRINTS | {"detect": "x"}, ("detect", None)),
        (DONE, PRINTS | {"smolvlm": "x"}, ("annotate", None)),
        (DONE, PRINTS | {"person_json": "x"}, ("write", None)),
        (DONE, PRINTS | {"person_json": "x", "smolvlm": "x"}, ("annotate", None)),
        (DONE, PRINTS | {"detect": "x", "smolvlm": "x"}, ("detect", None)),
        (DONE, {"detect": "d", "person_json": "p"}, None),
        (replace(DONE, fingerprints={"detect": "d", "person_json": "p"}), PRINTS, ("annotate", None)),
        (OWING, PRINTS, ("annotate", ("error", "pending"))),
        (OWING, PRINTS | {"smolvlm": "x"}, ("annotate", None)),
        (INVALID, PRINTS, None),
    ],
)
def test_a_plain_run_begins_at_the_first_stage_that_is_out_of_date(record, prints, expected):
    assert work(record, prints) == expected


def test_an_input_that_changed_is_detected_again():
    assert work(DONE, given=shard(etag="new")) == ("detect", None)


@pytest.mark.parametrize(
    ("record", "expected"),
    [(None, None), (DONE, None), (OWING, None), (FAILED, ("detect", None))],
)
def test_retrying_failed_shards_touches_no_others(record, expected):
    assert work(record, PRINTS | {"detect": "x"}, scope="failed") == (expected)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (None, None),
        (FAILED, None),
        (DONE, None),
        (OWING, ("annotate", ("error",))),
        (INVALID, ("annotate", ("invalid",))),
    ],
)
def test_retrying_an_annotator_asks_for_all_that_was_not_answered_well(record, expected):
    assert work(record, scope="annotator", annotator="smolvlm") == expected


def test_retrying_an_annotator_with_a_new_prompt_never_mixes_two_prompts_in_a_shard():
    prints = PRINTS | {"smolvlm": "x"}
    assert work(OWING, prints, scope="annotator", annotator="smolvlm") == ("annotate", None)


@pytest.mark.parametrize("record", [None, DONE, FAILED, OWING])
def test_force_begins_every_shard_anew(record):
    assert work(record, scope="force") == ("detect", None)


def test_a_task_replaces_the_record_it_was_planned_from_and_counts_on():
    plan = make_plan([shard("a"), shard("b")], {"a": replace(FAILED, attempt=4)}, PRINTS)
    assert [(t.shard.shard_id, t.replaces, t.attempt) for t in plan.tasks] == [
        ("a", "004-x", 5),
        ("b", None, 1),
    ]


def test_records_of_other_parts_of_a_planned_input_are_superseded_and_removed_inputs_kept():
    committed = {
        "a": DONE,
        "a.part-00000": DONE,
        "gone": replace(DONE, input_uri="in/gone.tar"),
    }
    for scope in ("missing", "force"):
        assert make_plan([shard()], committed, PRINTS, scope).superseded == {"a.part-00000": ("a",)}
    for scope in ("failed", "annotator"):
        assert make_plan([shard()], committed, PRINTS, scope, "smolvlm").superseded == {}


@pytest.mark.parametrize(
    ("uri", "etag", "is_foreign"),
    [("in/a.tar", "changed", False), ("moved/a.tar", "etag", False), ("other/a.tar", "changed", True)],
)
def test_a_shard_of_another_input_under_the_same_name_is_told(uri, etag, is_foreign):
    given = replace(shard(), uri=uri, etag=etag)
    foreign = [(given, DONE.input_uri)] if is_foreign else []
    assert make_plan([given], {"a": DONE}, PRINTS).foreign == foreign


@pytest.mark.parametrize(("shards", "previews"), [(100, 12), (5, 12), (1, 3), (4, 0), (7, 7), (3, 2)])
def test_previews_add_up_to_what_was_asked_for(shards, previews):
    plan = make_plan([shard(f"s{i}") for i in range(shards)], {}, PRINTS, previews=previews)
    assert sum(task.previews for task in plan.tasks) == previews


def test_previews_are_drawn_only_of_shards_that_are_detected():
    committed = {"a": replace(DONE, fingerprints=PRINTS | {"smolvlm": "old"})}
    plan = make_plan([shard("a"), shard("b")], committed, PRINTS, previews=4)
    assert [(t.work, t.previews) for t in plan.tasks] == [("annotate", 0), ("detect", 4)]


def test_a_part_of_the_input_keeps_the_name_under_which_it_was_committed():
    # The same tar is "a" when its folder is the input, and "day-a" when the folder above is.
    source = InputIdentity(
        uri="in/a.tar", format="webdataset", etag="etag", size_bytes=10, start=0, stop=None
    )
    record = CommitRecord(
        shard_id="day-a", state="done", attempt=1, attempt_id="001-x", fingerprints=PRINTS, input=source
    )
    committed = {"day-a": Committed.of(record)}
    plan = make_plan([shard()], committed, PRINTS)
    assert (plan.skipped, plan.superseded) == (1, {})
    plan = make_plan([replace(shard(), etag="new")], committed, PRINTS)
    assert [(t.shard.shard_id, t.replaces) for t in plan.tasks] == [("day-a", "001-x")]
    plan = make_plan([replace(shard(), start=5)], committed, PRINTS)
    assert [t.shard.shard_id for t in plan.tasks] == ["a"]
