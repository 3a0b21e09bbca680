"""Usage errors are reported before any work, with exit code 2 and the remedy."""

from __future__ import annotations

import json
from unittest.mock import ANY

import pytest

from actors.storage.object_store import ObjectStore
from jobs import cli, command
from tests.support import job
from tests.support.committed import Found, write_output
from tests.support.job import Models


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usage") / "in"
    job.write_shards(folder, "a")
    return folder


def refused(capsys, monkeypatch, *arguments: object) -> str:
    """Run a command in this process, check that it exits with code 2, and return what it writes to stderr."""
    codes: list[int] = []
    monkeypatch.setattr(command.os, "_exit", codes.append)
    cli.main([str(argument) for argument in arguments])
    assert codes == [2]
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--retry-failed", "--force"], "exclude each other"),
        (["--force", "--retry-annotator", "smolvlm"], "exclude each other"),
        (["--no-such-option"], "no-such-option"),
        (["--set", "smolvlm.modle=x"], "did you mean model?"),
        (["--set", "smolvlm"], "write it as key.path=value"),
        (["--set", "roi.dynamic.ratio=wide"], "--set roi.dynamic.ratio"),
        (["--config", "no-such.yaml"], "no such file"),
        (["--config", "wrong/dir/demo.yaml"], "--config wrong/dir/demo.yaml: no such file"),
        (["--retry-annotator", "nobody"], "not an enabled annotator"),
        (["--set", f"detector.sha256={'0' * 64}"], "sha256"),
        (["--set", "detector.weights=/nowhere/x.pt"], "/nowhere/x.pt"),
        (["--set", "smolvlm.model=/nowhere/model", "--set", "smolvlm.enabled=true"], "/nowhere/model"),
        (["--input", "/nowhere/at/all"], "check input.uri"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_work(
    source, tmp_path, models: Models, capsys, monkeypatch, arguments, said
):
    output = tmp_path / "out"
    given = ["--input", source, "--output", output, *models.options(smolvlm=False), *arguments]
    assert said in refused(capsys, monkeypatch, "annotate", *given)
    assert not output.exists()


def test_a_folder_that_is_no_model_is_refused(source, tmp_path, models: Models, capsys, monkeypatch):
    options = [*models.options(), "--set", f"smolvlm.model={source}"]
    said = refused(capsys, monkeypatch, "annotate", "--input", source, "--output", tmp_path / "out", *options)
    assert str(source) in said


@pytest.mark.parametrize("option", [[], ["--dry-run"]])
def test_a_refused_run_leaves_an_output_as_it_found_it(tmp_path, capsys, monkeypatch, option):
    (tmp_path / "here").mkdir()
    for output in (tmp_path / "new" / "deep" / "out", tmp_path / "here", tmp_path / "here" / "out"):
        given = ["--input", tmp_path / "no-input", "--output", output, *option]
        assert "check input.uri" in refused(capsys, monkeypatch, "annotate", *given)
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert job.bytes_of(tmp_path / "here", ".").keys() == {"processing.log"}


def test_an_output_that_cannot_be_written_is_refused(source, tmp_path, models: Models, capsys, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    output = tmp_path / "file" / "out"
    options = models.options(smolvlm=False)
    said = refused(capsys, monkeypatch, "annotate", "--input", source, "--output", output, *options)
    assert "can't write to" in said


@pytest.fixture
def annotated(tmp_path):
    """An output whose only shard has the name of the source's shard, but other content and settings."""
    write_output(ObjectStore(str(tmp_path / "out")), {"a": {"f": [Found((0, 0, 1, 1))]}})
    return tmp_path / "out"


def test_an_input_must_not_take_the_place_of_another(source, annotated, models: Models, capsys, monkeypatch):
    before = job.bytes_of(annotated, ".")
    given = ["--input", source, "--output", annotated, *models.options(smolvlm=False)]
    said = refused(capsys, monkeypatch, "annotate", *given)
    assert "holds a shard a of another input, in/a.tar" in said
    assert "use one output per input" in said
    assert job.bytes_of(annotated, ".") == before | {"processing.log": ANY}


def test_a_retry_wants_the_settings_of_the_run_before(source, annotated, models: Models, capsys, monkeypatch):
    record = json.loads((annotated / "commits/a.json").read_bytes())
    record["input"]["uri"] = str(source / "a.tar")
    (annotated / "commits/a.json").write_text(json.dumps(record))
    more = ["--set", "schema.attributes.hood=null", "--retry-failed"]
    given = ["--input", source, "--output", annotated, *models.options(smolvlm=False), *more]
    said = refused(capsys, monkeypatch, "annotate", *given)
    assert "differ from those of the last run and change detect, person_json, schema" in said
    assert "schema.attributes.hood" in said


@pytest.mark.ray
def test_the_process_itself_ends_with_exit_code_2(source, tmp_path):
    done = job.shopframe("annotate", "--input", source, "--output", source)
    assert done.returncode == 2
    assert "choose an output outside the input" in done.stderr


@pytest.mark.parametrize("command", ["status", "consolidate"])
def test_commands_about_an_output_want_one_with_a_run(tmp_path, capsys, monkeypatch, command):
    assert "no run.json here" in refused(capsys, monkeypatch, command, "--output", tmp_path)
