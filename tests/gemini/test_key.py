"""The API key comes from one environment variable and doesn't appear in errors, logs or tracebacks."""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback

import pytest

from actors.errors import ConfigError, GeminiRefusedError, GeminiUnavailableError
from actors.gemini.api.client import GeminiClient, read_api_key
from actors.gemini.settings import resolve_gemini
from tests.servers.gemini_faults import Fault
from tests.servers.gemini_server import KEY, gemini_server
from tests.support import gemini_job, without_ray
from tests.support.gemini_asking import SCHEMA, asking, settings_for, single


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        ("ask", None),
        ("ask", "hang"),
        ("ask", "bad_gateway"),
        ("count_tokens", None),
        ("count_tokens", "internal"),
        ("check", None),
    ],
)
def test_the_key_appears_nowhere(call, fault, caplog):
    """Without a fault, the server doesn't know the key and repeats it in its answer."""
    secret = "AIza-a-secret-that-nobody-may-see"
    argument = () if call == "check" else (single(),)
    faults = [Fault(fault, where="count" if call == "count_tokens" else "any")] if fault else []
    keys = (secret,) if fault else ("AIza-another",)
    with caplog.at_level(logging.DEBUG), gemini_server(faults=faults, keys=keys) as server:
        with pytest.raises((GeminiRefusedError, GeminiUnavailableError)) as raised:
            asking(server.base_url, secret, lambda c: getattr(c, call)(*argument), timeout_s=0.5)
        assert len(server.journal) == (fault is not None)
    error = raised.value
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    # The stack frames of this test hold the secret, so only those of the client are checked.
    frames = "".join(str(f.locals) for f in shown.stack if "/actors/" in f.filename)
    assert "GeminiClient" in frames
    assert error.__context__ is None
    assert error.__cause__ is None
    for text in (str(error), repr(error), frames, repr(pickle.dumps(error)), caplog.text):
        assert secret not in text


def test_without_a_key_nothing_starts(monkeypatch):
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    # google-genai would use this variable.
    monkeypatch.setenv("GOOGLE_API_KEY", "another")
    settings = settings_for("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="GEMINI_API_KEY: not set"):
        GeminiClient(settings, resolve_gemini(settings, SCHEMA), SCHEMA)


def test_a_key_that_can_be_none_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("GEMINI_API_KEY", "two words\n")
    with pytest.raises(ConfigError) as raised:
        read_api_key()
    assert "two" not in str(raised.value)


def test_the_key_comes_from_its_variable_whatever_google_variables_say(monkeypatch):
    with gemini_server() as server:
        monkeypatch.setenv("GEMINI_API_KEY", f" {server.key}\n")
        monkeypatch.setenv("GOOGLE_API_KEY", "another")
        monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "another")
        monkeypatch.setenv("GOOGLE_GENAI_API_VERSION", "v9")
        settings = settings_for(server.base_url)

        async def run():
            opened = GeminiClient(settings, resolve_gemini(settings, SCHEMA), SCHEMA)
            try:
                return await opened.ask(single())
            finally:
                await opened.close()

        (annotation,) = asyncio.run(run()).annotations.values()
    assert annotation.status == "ok"


@pytest.mark.parametrize(
    "answer",
    ["gateway_unauthorized", "gateway_not_found", "json_true", "json_number", "json_list", "internal"],
)
def test_a_run_begins_where_the_model_is_not_described(tmp_path, answer):
    """A gateway may permit requests about persons only, and say so in its own words or in none."""
    output = tmp_path / "out"
    gemini_job.write_backlog(output, shards=1, persons=2)
    with gemini_server(faults=[Fault(answer, None, where="model")]) as server:
        without_ray.gemini(output, server.base_url)
    assert gemini_job.outcomes(output) == {"ok": 2}
    assert "key and model were not checked: " in (output / "processing.log").read_text()


@pytest.mark.parametrize("answer", ["invalid_key", "unauthorized", "forbidden"])
def test_a_run_ends_where_the_key_is_refused_in_the_words_of_google(tmp_path, answer):
    output = tmp_path / "out"
    gemini_job.write_backlog(output, shards=1, persons=2)
    with gemini_server(faults=[Fault(answer, None, where="model")]) as server:
        done = without_ray.gemini(output, server.base_url, expect=2)
        assert server.journal == []
    assert "GEMINI_API_KEY" in done.stderr
    assert "persons for Gemini" not in done.stdout + done.stderr


def test_a_run_ends_where_google_does_not_have_the_model_and_says_which_it_has(tmp_path):
    output = tmp_path / "out"
    gemini_job.write_backlog(output, shards=1, persons=2)
    with gemini_server(models=("gemini-2.5-flash", "gemini-2.5-pro")) as server:
        done = without_ray.gemini(output, server.base_url, expect=2, model="gemini-2.5-flahs")
        another = without_ray.gemini(output, server.base_url, expect=2, model="another")
        assert server.journal == []
    said = " ".join(done.stderr.split())
    assert "check gemini.model" in said
    assert said.endswith("did you mean gemini-2.5-flash?")
    assert "did you mean" not in another.stderr
    assert "persons for Gemini" not in done.stdout + done.stderr


async def fail(_: GeminiClient) -> None:
    """Raise an error that is not Shopframe's, and tells the key."""
    raise RuntimeError(f"the session of {KEY} is closed")


def test_a_model_is_refused_for_its_own_reason_whatever_is_wrong_with_the_list_of_models(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(GeminiClient, "model_names", fail)
    output = tmp_path / "out"
    gemini_job.write_backlog(output, shards=1, persons=2)
    with gemini_server() as server:
        done = without_ray.gemini(output, server.base_url, expect=2, model="another")
    assert "check gemini.model" in done.stderr
    assert KEY not in done.stderr


def test_a_run_begins_where_a_model_has_no_description_of_its_own(tmp_path):
    output = tmp_path / "out"
    gemini_job.write_backlog(output, shards=1, persons=2)
    with gemini_server(faults=[Fault("unknown_model", None, where="model")]) as server:
        without_ray.gemini(output, server.base_url)
    assert gemini_job.outcomes(output) == {"ok": 2}


def test_an_error_that_no_one_foresaw_does_not_keep_a_run_from_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(GeminiClient, "check", fail)
    output = tmp_path / "out"
    gemini_job.write_backlog(output, shards=1, persons=2)
    with gemini_server() as server:
        without_ray.gemini(output, server.base_url)
    assert gemini_job.outcomes(output) == {"ok": 2}
    said = (output / "processing.log").read_text()
    assert "key and model were not checked: RuntimeError" in said
    assert KEY not in said
