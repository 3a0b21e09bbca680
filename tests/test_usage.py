"""What can't work is said before any work, with exit code 2 and the remedy."""

from __future__ import annotations

import pytest

from jobs import cli
from tests import job
from tests.job import Models


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("usage") / "in"
    job.write_shards(folder, "a")
    return folder


def refused(capsys, monkeypatch, *arguments: object) -> str:
    """Run the command in this process up to its exit; returns what it says."""
    codes: list[int] = []
    monkeypatch.setattr(cli.os, "_exit", codes.append)
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
    assert not (output / "commits").exists()


def test_a_folder_that_is_no_model_is_refused(source, tmp_path, models: Models, capsys, monkeypatch):
    options = [*models.options(), "--set", f"smolvlm.model={source}"]
    said = refused(capsys, monkeypatch, "annotate", "--input", source, "--output", tmp_path / "out", *options)
    assert str(source) in said


def test_an_output_that_cannot_be_written_is_refused(source, tmp_path, models: Models, capsys, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    output = tmp_path / "file" / "out"
    options = models.options(smolvlm=False)
    said = refused(capsys, monkeypatch, "annotate", "--input", source, "--output", output, *options)
    assert "can't write to" in said


def test_the_process_itself_ends_with_exit_code_2(source, tmp_path):
    done = job.shopframe("annotate", "--input", source, "--output", source)
    assert done.returncode == 2
    assert "give the output its own place" in done.stderr


@pytest.mark.parametrize("command", ["status", "consolidate"])
def test_commands_about_an_output_want_one_with_a_run(tmp_path, capsys, monkeypatch, command):
    assert "no run.json here" in refused(capsys, monkeypatch, command, "--output", tmp_path)
