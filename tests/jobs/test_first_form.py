"""Tables of annotations of the first form lack distributions and violations, and stay readable."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from actors.corrections.settings import ConsensusSettings
from actors.storage import layout
from actors.storage.answer_index import AnswerIndex
from actors.storage.object_store import ObjectStore
from actors.storage.tables import from_parquet, to_parquet
from jobs.run.answer_filing import file_answers
from jobs.run.consolidation import consolidate_output
from tests.support import job
from tests.support.committed import SCHEMA, Found, said, write_output
from tests.support.in_process import run_in_process

BOX = (0.1, 0.1, 0.3, 0.9)
GENDERS = (("female", 0.75), ("male", 0.25), ("unknown", 0.0))
CROP = b"crop"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output of two equal shards, of which the first one is of the first form."""
    answer = said({"gender": 0.75}, {"gender": GENDERS}, gender="female")
    frames = {"f": [Found(BOX, crop=CROP, answers={"smolvlm": answer})]}
    write_output(ObjectStore(str(tmp_path / "out")), {"a": frames, "b": frames})
    _make_first_form(tmp_path / "out", "a")
    return tmp_path / "out"


def _make_first_form(output: Path, shard_id: str) -> None:
    path = output / layout.commit_path(shard_id)
    record = json.loads(path.read_bytes())
    (entry,) = (e for e in record["objects"] if e["kind"] == "annotations/smolvlm")
    table = from_parquet((output / entry["path"]).read_bytes())
    added = [name for name in table.column_names if name.startswith("distribution_")]
    table = table.drop_columns([*added, "violations"])
    metadata = {key: value for key, value in table.schema.metadata.items() if key != b"form"}
    content = to_parquet(table.replace_schema_metadata(metadata))
    (output / entry["path"]).write_bytes(content)
    entry |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(record))


def test_the_table_has_the_probability_of_every_value(output):
    (path,) = output.glob("annotations/smolvlm/b.*.parquet")
    (shares,) = from_parquet(path.read_bytes())["distribution_gender"].to_pylist()
    assert [(share["value"], share["probability"]) for share in shares] == list(GENDERS)


def test_both_forms_are_verified_and_consolidated_side_by_side(output, monkeypatch, capsys):
    store = ObjectStore(str(output))
    assert consolidate_output(store, SCHEMA, ConsensusSettings(), 0).incomplete == {}
    first, second = job.consolidated(output)
    assert not [name for name in first if "distribution" in name]
    # All attributes have their first value, so the person wears a hood and a headscarf.
    assert second.pop("smolvlm_violations") == ["at most one of hood, headscarf"]
    assert first.pop("smolvlm_violations") is None
    assert {**first, "shard_id": "b"} == second
    assert first["smolvlm_gender"] == "female"
    assert first["smolvlm_confidence_gender"] == 0.75
    assert run_in_process(monkeypatch, "verify", "--output", output, "--json") == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_answers_of_both_forms_are_found_by_their_crops(output):
    store = ObjectStore(str(output))
    digest = hashlib.sha256(CROP).hexdigest()
    for shard_id, distribution in (("a", {}), ("b", {"gender": GENDERS})):
        file_answers(store, [shard_id])
        found = AnswerIndex(store, "smolvlm", "s", listed_for_s=0).find([digest])[digest].annotation
        assert (found.status, found.values["gender"]) == ("ok", "female")
        assert found.distribution == distribution
        for info in list(store.list(layout.answer_index_folder("smolvlm", "s"))):
            store.delete([info.path])
