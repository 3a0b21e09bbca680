"""Bad configurations, answers of models, corrections and files of review tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from actors.records import Annotation
from actors.smolvlm.server_engine import ServerEngine
from actors.smolvlm.settings import SmolVLMSettings, resolve_smolvlm
from actors.storage.object_store import ObjectStore
from jobs.exchange.tools import TOOLS
from jobs.settings import Settings
from tests.corpus.answers import ANSWERS, SCHEMA
from tests.corpus.configurations import CANARY, CONFIGURATIONS
from tests.corpus.decisions import DECISIONS
from tests.corpus.exchanges import kinds_of
from tests.corpus.kinds import BadText
from tests.support import bad_inputs as bad
from tests.support.committed import FRAME_HEIGHT_PX, FRAME_WIDTH_PX, Found, said, write_output
from tests.support.exchange import submitted
from tests.support.gemini_asking import asking, jpeg, single
from tests.support.in_process import run_in_process

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command that must end with an exit code, and return what it said."""

    def ran(*arguments: object, expect: int = 0) -> str:
        code = run_in_process(monkeypatch, *arguments)
        printed = capsys.readouterr()
        assert code == expect, printed.err
        return printed.out + printed.err

    return ran


def each(kinds: tuple[BadText, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, ids=[kind.name for kind in kinds])


@each(CONFIGURATIONS)
def test_a_bad_configuration_is_refused_with_its_place_and_runs_no_code(kind, run, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_bytes(kind.content)
    printed = run("config", "--config", path, expect=0 if kind.says is None else 2)
    assert kind.says is None or kind.says in printed
    assert kind.says is None or "bad.yaml" in printed
    assert not CANARY.exists()


# --- answers of models ---


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """Yield the URL of a server that answers every request with the same body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def gemini_says(text: bytes) -> Annotation:
    request = single()
    (image_id,) = request.ids
    # An answer that is an object gets the id of the crop, as a model is told to echo it.
    said = text.decode()
    if said.startswith("{") and said.endswith("}"):
        said = f'{{"image_id": "{image_id}", {said[1:]}'
        said = f'{{"persons": [{said}]}}'
    body = {"candidates": [{"content": {"parts": [{"text": said}]}, "finishReason": "STOP"}]}
    with answering(json.dumps(body).encode()) as url:
        found = asking(url, "a-key", lambda client: client.ask(request))
    (annotation,) = found.annotations.values()
    return annotation


def server_says(text: bytes) -> Annotation:
    message = {"role": "assistant", "content": text.decode()}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    with answering(json.dumps(body).encode()) as url:
        server = {"base_url": f"{url}/v1", "retries": 1, "outage_s": 0.5}
        settings = SmolVLMSettings.model_validate({"engine": "server", "model": "m", "server": server})
        engine = ServerEngine(settings, resolve_smolvlm(settings, SCHEMA), SCHEMA)
        (annotation,) = engine.annotate([jpeg(0)])
    return annotation


@each(ANSWERS)
@pytest.mark.parametrize("ask", [gemini_says, server_says])
def test_no_answer_changes_its_shape(kind, ask, monkeypatch):
    monkeypatch.delenv("SMOLVLM_API_KEY", raising=False)
    found = ask(kind.content)
    if kind.says is None:
        assert found.status == "ok"
        assert set(found.values) == set(SCHEMA.names)
        assert all(found.values[a.name] in (*a.values, None) for a in SCHEMA)
        assert len(found.reasoning or "") <= 300
    else:
        assert (found.status, found.values) == ("invalid", {})
        assert kind.says.removeprefix("not JSON") in found.reason
        assert len(found.reason) < 1000


@pytest.mark.parametrize(
    "body", [b"", b"[" * 100_000, b"9" * 5000, b"<html>", b"\xff", b"[]", b'{"candidates": 3}']
)
def test_a_response_that_is_none_is_an_error_of_the_server(body):
    from actors.errors import GeminiUnavailableError

    with answering(body) as url:
        try:
            found = asking(url, "a-key", lambda client: client.ask(single()))
        except GeminiUnavailableError:
            return
    assert {one.status for one in found.annotations.values()} == {"error"}


# --- corrections and files of review tools ---

PERSON = Found((0.1, 0.1, 0.2, 0.5), answers={"smolvlm": said({"gender": 0.25}, gender="male")})


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """A folder with an input and an output of one frame."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "in").mkdir()
    (folder / "in" / "a.tar").write_bytes(bad.tar({"f.jpg": bad.jpeg(FRAME_WIDTH_PX, FRAME_HEIGHT_PX)}))
    settings = Settings.model_validate(
        {"input": {"uri": str(folder / "in")}, "output": {"uri": str(folder / "out")}}
    )
    write_output(ObjectStore(str(folder / "out")), {"a": {"f": [PERSON]}}, settings)
    with pytest.MonkeyPatch.context() as patch:
        assert run_in_process(patch, "consolidate", "--output", folder / "out") == 0
    return folder


@each(DECISIONS)
def test_a_bad_decision_is_refused_with_its_line_or_left_out(kind, run, written):
    path = written / "out" / "corrections" / "20260307T100000Z-00000000.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(kind.content)
    try:
        printed = run("consolidate", "--output", written / "out", expect=0 if kind.says is None else 2)
    finally:
        path.unlink()
    assert kind.says is None or (kind.says in printed and path.name in printed)


@pytest.mark.parametrize("tool", TOOLS)
def test_bad_files_of_a_tool_are_refused_by_name_and_decide_nothing(tool, run, written, tmp_path):
    output = ("--output", written / "out")
    run("review", "export", "--format", tool, "--to", tmp_path, *output)
    name = {
        "via": "via-0001.json",
        "labelstudio": "labelstudio-0001.json",
        "cvat": "cvat-0001.xml",
        "coco": "coco.json",
    }[tool]
    good = (tmp_path / name).read_bytes()
    for kind in kinds_of(tool, submitted(good) if tool == "labelstudio" else good):
        (tmp_path / name).write_bytes(kind.content)
        printed = run("review", "import", "--from", tmp_path, "--reviewer", "ann", *output, expect=2)
        assert kind.says in printed, (kind.name, printed[-300:])
        assert name in printed
        assert not list((written / "out" / "corrections").glob("*"))


def _exported(folder: Path, **changes: Any) -> bytes:
    content = json.loads((folder / "exported.json").read_bytes())
    content["frames"][0] |= {k: v for k, v in changes.items() if k in ("width", "height", "persons")}
    return json.dumps(content | {k: v for k, v in changes.items() if k == "attributes"}).encode()


@pytest.mark.parametrize(
    "changes",
    [{"width": 0}, {"attributes": "[[1]]"}, {"attributes": "[" * 9999}, {"persons": [{"person_id": "x"}]}],
)
def test_an_export_that_was_changed_is_refused(changes, run, written, tmp_path):
    output = ("--output", written / "out")
    run("review", "export", "--format", "via", "--to", tmp_path, *output)
    (tmp_path / "exported.json").write_bytes(_exported(tmp_path, **changes))
    said = run("review", "import", "--from", tmp_path, "--reviewer", "ann", *output, expect=2)
    assert "exported.json" in said
    assert "export again" in said
