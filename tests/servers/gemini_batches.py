"""The files and batch jobs of the Gemini server."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web

from tests.servers.gemini_answers import BadRequestError, Request, given_for, read_request
from tests.servers.gemini_faults import ERRORS, Fault, error, rate_limited

if TYPE_CHECKING:
    from tests.servers.gemini_server import GeminiServer

_TERMINAL = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")


@dataclass
class StoredFile:
    """A file that was uploaded or that a job wrote."""

    name: str
    mime_type: str
    display_name: str
    size: int
    content: bytearray = field(default_factory=bytearray)
    generated: bool = False
    complete: bool = False

    def described(self) -> dict[str, Any]:
        described = {
            "name": self.name,
            "displayName": self.display_name,
            "mimeType": self.mime_type,
            "sizeBytes": str(len(self.content)),
            "sha256Hash": hashlib.sha256(self.content).hexdigest(),
            "state": "ACTIVE",
            "source": "GENERATED" if self.generated else "UPLOADED",
        }
        if self.generated:
            described["downloadUri"] = f"https://loopback/{self.name}:download?alt=media"
        return described


@dataclass
class Job:
    """A batch job."""

    name: str
    model: str
    key: str
    display_name: str
    created_at: float
    lines: list[tuple[str, Request]]
    state: str = "PENDING"
    ended_at: float | None = None
    responses_file: str | None = None
    stuck: bool = False
    looks_until_cancelled: int = 0

    @property
    def tokens(self) -> int:
        return sum(request.input_tokens for _, request in self.lines)

    def operation(self) -> dict[str, Any]:
        """Describe the job as a long-running operation, which is how the API shows it."""
        metadata: dict[str, Any] = {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch",
            "name": self.name,
            "model": f"models/{self.model}",
            "displayName": self.display_name,
            "state": f"BATCH_STATE_{'RUNNING' if self.state == 'CANCELLING' else self.state}",
            "createTime": _time(self.created_at),
            "batchStats": {"requestCount": str(len(self.lines))},
        }
        if self.ended_at is not None:
            metadata["endTime"] = _time(self.ended_at)
        if self.responses_file:
            metadata["output"] = {"responsesFile": self.responses_file}
        shown = {"name": self.name, "metadata": metadata, "done": self.state in _TERMINAL}
        if self.state == "FAILED":
            shown["error"] = {"code": 13, "message": "An internal error has occurred."}
        return shown


class ServerBatches:
    """Routes and state of files and batch jobs."""

    def __init__(self, server: GeminiServer, delay_s: float) -> None:
        self._server = server
        self._delay_s = delay_s
        self._numbers = itertools.count(1)
        self._files: dict[str, StoredFile] = {}
        self._jobs: dict[str, Job] = {}
        self.enqueued_token_limit: int | None = None
        self.answered_when_ended_early = 0
        """Number of lines of a job that are answered when it is cancelled or expires."""
        self.looks_until_cancelled = 0
        """How often a job that is being cancelled is looked at before it has ended."""

    @property
    def files(self) -> list[str]:
        """Names of the files that have not been deleted."""
        return list(self._files)

    @property
    def jobs(self) -> list[Job]:
        """All jobs, in the order in which they were created."""
        return list(self._jobs.values())

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/upload/{version}/files", self._start_upload)
        app.router.add_post("/upload/{version}/files/{file}", self._upload)
        app.router.add_get("/{version}/files/{file}:download", self._download)
        app.router.add_get("/{version}/files/{file}", self._get_file)
        app.router.add_get("/{version}/files", self._list_files)
        app.router.add_delete("/{version}/files/{file}", self._delete_file)
        app.router.add_post("/{version}/models/{model}:batchGenerateContent", self._create)
        app.router.add_get("/{version}/batches", self._list)
        app.router.add_post("/{version}/batches/{batch}:cancel", self._cancel)
        app.router.add_get("/{version}/batches/{batch}", self._get)

    async def _start_upload(self, http: web.Request) -> web.StreamResponse:
        started = http.headers.get("X-Goog-Upload-Command") == "start"
        if not started or http.headers.get("X-Goog-Upload-Protocol") != "resumable":
            raise BadRequestError("only resumable uploads are supported", "upload")
        fault = self._fault("files")
        if fault:
            return self._strike(http, fault)
        described = (await http.json()).get("file") or {}
        name = described.get("name") or f"files/upload-{next(self._numbers)}"
        stored = StoredFile(
            name,
            http.headers["X-Goog-Upload-Header-Content-Type"],
            described.get("displayName") or described.get("display_name") or "",
            int(http.headers["X-Goog-Upload-Header-Content-Length"]),
        )
        self._files[name] = stored
        url = f"{self._server.base_url}/upload/v1beta/{name}?upload_id={next(self._numbers)}"
        return web.json_response({}, headers={"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"})

    async def _upload(self, http: web.Request) -> web.StreamResponse:
        stored = self._files[f"files/{http.match_info['file']}"]
        if int(http.headers["X-Goog-Upload-Offset"]) != len(stored.content):
            raise BadRequestError(f"the upload must continue at byte {len(stored.content)}", "upload")
        stored.content += await http.read()
        if "finalize" not in http.headers["X-Goog-Upload-Command"]:
            return web.json_response({}, headers={"X-Goog-Upload-Status": "active"})
        if len(stored.content) != stored.size:
            raise BadRequestError(f"{len(stored.content)} of {stored.size} bytes were received", "upload")
        stored.complete = True
        return web.json_response({"file": stored.described()}, headers={"X-Goog-Upload-Status": "final"})

    async def _get_file(self, http: web.Request) -> web.StreamResponse:
        return web.json_response(self._file(http).described())

    async def _list_files(self, http: web.Request) -> web.StreamResponse:
        size, start = int(http.query.get("pageSize", 10)), int(http.query.get("pageToken") or 0)
        complete = [stored for stored in self._files.values() if stored.complete]
        page: dict[str, Any] = {"files": [f.described() for f in complete[start : start + size]]}
        if start + size < len(complete):
            page["nextPageToken"] = str(start + size)
        return web.json_response(page)

    async def _delete_file(self, http: web.Request) -> web.StreamResponse:
        del self._files[self._file(http).name]
        return web.json_response({})

    async def _download(self, http: web.Request) -> web.StreamResponse:
        stored = self._file(http)
        fault = self._fault("files")
        if fault:
            return self._strike(http, fault)
        if not stored.generated:
            raise BadRequestError("only files that were written by a job can be downloaded", "file")
        return web.Response(body=bytes(stored.content), content_type="application/jsonl")

    async def _create(self, http: web.Request) -> web.StreamResponse:
        batch = (await http.json())["batch"]
        config = batch.get("inputConfig") or batch.get("input_config")
        fault = self._fault("batches")
        if fault and fault.kind != "drop":
            return self._strike(http, fault)
        stored = self._files.get(config.get("fileName") or config.get("file_name") or "")
        if stored is None or not stored.complete:
            return error(404, "NOT_FOUND", "the file does not exist").http()
        lines = [json.loads(line) for line in stored.content.decode().splitlines()]
        job = Job(
            f"batches/job-{next(self._numbers)}",
            http.match_info["model"],
            http.headers["x-goog-api-key"],
            batch.get("displayName") or batch.get("display_name") or "",
            self._server.clock.now(),
            [(line["key"], read_request(line["request"], http.match_info["model"])) for line in lines],
        )
        unfinished = sum(other.tokens for other in self.jobs if other.state not in _TERMINAL)
        limit = self.enqueued_token_limit
        if limit is not None and unfinished + job.tokens > limit:
            quota_id = "BatchEnqueuedTokensPerModel"
            violation = {"quotaMetric": "enqueued_tokens", "quotaId": quota_id, "quotaValue": str(limit)}
            return rate_limited([violation], None).http()
        self._jobs[job.name] = job
        if fault:
            # The job exists, but the client never learns of it.
            return self._strike(http, fault)
        return web.json_response(job.operation())

    async def _list(self, http: web.Request) -> web.StreamResponse:
        size = int(http.query.get("pageSize", 50))
        start = int(http.query.get("pageToken") or 0)
        for job in self.jobs:
            self._advance(job)
        newest_first = self.jobs[::-1]
        page: dict[str, Any] = {"operations": [j.operation() for j in newest_first[start : start + size]]}
        if start + size < len(newest_first):
            page["nextPageToken"] = str(start + size)
        return web.json_response(page)

    async def _get(self, http: web.Request) -> web.StreamResponse:
        job = self._job(http)
        fault = self._fault("batches")
        if fault:
            return self._strike(http, fault)
        self._advance(job)
        return web.json_response(job.operation())

    async def _cancel(self, http: web.Request) -> web.StreamResponse:
        job = self._job(http)
        self._advance(job)
        if job.state not in _TERMINAL:
            job.state, job.looks_until_cancelled = "CANCELLING", self.looks_until_cancelled
            self._advance(job)
        return web.json_response({})

    def _advance(self, job: Job) -> None:
        """Bring the state of a job up to date."""
        now = self._server.clock.now()
        if job.state == "CANCELLING":
            job.looks_until_cancelled -= 1
            if job.looks_until_cancelled < 0:
                job.state, job.ended_at = "CANCELLED", now
                self._write_answers(job, job.lines[: self.answered_when_ended_early])
            return
        if job.state in _TERMINAL or job.stuck or now < job.created_at + self._delay_s:
            return
        ended = next((f for f in ("job_failed", "job_expired", "job_stuck") if self._take(f)), None)
        if ended == "job_stuck":
            job.state, job.stuck = "RUNNING", True
            return
        job.ended_at = now
        if ended:
            job.state = ended.removeprefix("job_").upper()
            if job.state == "EXPIRED":
                self._write_answers(job, job.lines[: self.answered_when_ended_early])
            return
        job.state = "SUCCEEDED"
        self._write_answers(job, job.lines)

    def _write_answers(self, job: Job, answered: list[tuple[str, Request]]) -> None:
        if not answered:
            return
        name = f"files/{job.name.removeprefix('batches/')}-output"
        lines = [self._line(job, key, request) for key, request in answered]
        # The order is reversed, so clients must match answers by their keys.
        content = b"".join(line + b"\n" for line in lines[::-1] if line)
        stored = StoredFile(name, "application/jsonl", "", len(content), generated=True, complete=True)
        stored.content += content
        self._files[name] = stored
        job.responses_file = name

    def _line(self, job: Job, key: str, request: Request) -> bytes | None:
        fault = self._server.script.next(request, "batch")
        status = 0 if fault and fault.kind == "line_missing" else 200
        line: dict[str, Any] | None = None
        if fault and fault.kind == "line_error":
            line = {"key": key, "error": {"code": 13, "message": "An internal error has occurred."}}
        elif not fault or fault.kind != "line_missing":
            reply = self._server.reply_to(request, job.model, job.key, fault)
            status = reply.status
            if reply.status == 200:
                line = {"key": key, "response": reply.body}
            else:
                line = {"key": key, "error": reply.body["error"]}
        now = self._server.clock.now()
        self._server.note(now, "batch", job.key, job.model, request, status, fault, counted=False)
        whole, body = given_for(request, self._server.lines), given_for(request, self._server.bodies)
        if whole is not None:
            return whole.replace(b"@KEY@", key.encode())
        if body is not None:
            return b'{"key": %b, "response": %b}' % (json.dumps(key).encode(), body)
        return json.dumps(line).encode() if line else None

    def _fault(self, where: str) -> Fault | None:
        return self._server.script.next(None, where)

    def _take(self, kind: str) -> bool:
        """Use up a fault of this kind, if the script has one, and return whether it had one."""
        for fault in self._server.script.faults:
            if fault.kind == kind and fault.times != 0:
                fault.times = None if fault.times is None else fault.times - 1
                return True
        return False

    def _strike(self, http: web.Request, fault: Fault) -> web.Response:
        if fault.kind == "drop":
            if http.transport:
                http.transport.abort()
            return web.Response()
        return ERRORS[fault.kind](fault, http.headers.get("x-goog-api-key", "")).http()

    def _file(self, http: web.Request) -> StoredFile:
        name = f"files/{http.match_info['file']}"
        if name not in self._files:
            raise _not_found(name)
        return self._files[name]

    def _job(self, http: web.Request) -> Job:
        name = f"batches/{http.match_info['batch']}"
        if name not in self._jobs:
            raise _not_found(name)
        return self._jobs[name]


def _not_found(name: str) -> web.HTTPNotFound:
    body = error(404, "NOT_FOUND", f"{name} does not exist").body
    return web.HTTPNotFound(text=json.dumps(body), content_type="application/json")


def _time(at: float) -> str:
    shown = datetime.fromtimestamp(at, UTC).isoformat()
    return re.sub(r"\+00:00$", "Z", shown)
