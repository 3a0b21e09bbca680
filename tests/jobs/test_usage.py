"""Usage errors are reported before any work, with exit code 2 and the remedy."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from unittest.mock import ANY

import pytest

from actors.errors import ConfigError, ShardError, ShardUnavailableError, StoreError
from actors.log_lines import JsonLines
from actors.storage.object_store import ObjectStore
from jobs import cli, command
from jobs.run.left_as_found import _has_only_a_log, left_as_found
from jobs.run.log_files import LogFile
from jobs.run.run_log import log, run_log
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


def begin_and_end(output: Path, error: type[Exception], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Begin a run that logs a line and makes folders, and end it with an error."""
    with left_as_found(str(output)) as run_id:
        with run_log(ObjectStore(str(output)), run_id):
            log.info("first")
            (output / "some" / "folder").mkdir(parents=True)
        meanwhile()
        raise error


@pytest.mark.parametrize(
    "error", [ConfigError, ShardError, ShardUnavailableError, StoreError, PermissionError, ValueError]
)
def test_an_error_that_ends_a_run_before_it_has_written_leaves_no_folder(tmp_path, error):
    with pytest.raises(error):
        begin_and_end(tmp_path / "new" / "out", error)
    # An error that nobody foresaw leaves its log.
    assert (tmp_path / "new").exists() == (error is ValueError)


def test_a_refused_run_deletes_no_line_of_another_one(tmp_path):
    output = tmp_path / "out"

    def run_another() -> None:
        with run_log(ObjectStore(str(output))):
            log.info("second")

    with pytest.raises(ConfigError):
        begin_and_end(output, ConfigError, run_another)
    assert {"first", "second"} <= messages(output)


def test_a_run_that_has_opened_its_log_beside_a_refused_one_keeps_it(tmp_path):
    output = tmp_path / "out"
    opened: list[LogFile] = []
    with pytest.raises(ConfigError):
        begin_and_end(output, ConfigError, lambda: opened.append(LogFile(ObjectStore(str(output)))))
    assert not output.exists()
    (second,) = opened
    second.setFormatter(JsonLines("second"))
    second.handle(logging.makeLogRecord({"msg": "second"}))
    second.close()
    assert messages(output) == {"second"}


def test_what_another_run_writes_at_the_last_moment_stays(tmp_path, monkeypatch):
    output = tmp_path / "out"

    def look_and_be_late(folder: Path) -> bool:
        found = _has_only_a_log(folder)
        (folder / "commits").mkdir()
        (folder / "commits" / "a.json").write_bytes(b"{}")
        return found

    monkeypatch.setattr("jobs.run.left_as_found._has_only_a_log", look_and_be_late)
    with pytest.raises(ConfigError):
        begin_and_end(output, ConfigError)
    assert job.bytes_of(output, ".") == {"commits/a.json": b"{}"}


def messages(output: Path) -> set[str]:
    lines = (output / "processing.log").read_text().splitlines()
    return {json.loads(line)["message"] for line in lines}


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
