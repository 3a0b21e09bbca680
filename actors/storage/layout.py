"""Names of the objects under the output URI. No other module builds names, but `model_paths` of networks."""

import hashlib
import re
import time
import uuid
from dataclasses import dataclass

RUN = "run.json"
PROGRESS = "progress.json"
LOG = "processing.log"
"""The log of all runs, where the output is on a disk."""
EARLIER_LOG = "processing.log.1"
LOGS = "logs"
"""Folder of the logs of runs, where the output is in an object store."""
COMMITS = "commits"
CONSOLIDATED = "consolidated"
CONSOLIDATED_FRAMES = "consolidated_frames"
EVALUATION = "evaluation"
ANALYSIS = "analysis"
CALIBRATION = "calibration.json"
"""What gold labels have taught about annotators."""

REPORT = "report.html"
"""The report, where it is not written elsewhere."""

_LONGEST_NAME = 120


def object_name(key: str) -> str:
    """Return a name for `key` that is safe in object stores and file systems.

    A key is returned unchanged if it has at most 120 characters, consists of A-Z, a-z, 0-9, ".", "_" and
    "-", and doesn't start with ".". In any other key, "_" replaces the other characters, and the first 8
    hexadecimal digits of the key's SHA-256 are appended, so that different keys have different names.
    """
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,119}", key):
        return key
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", key).strip("._")[: _LONGEST_NAME - 9]
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{safe or 'key'}-{digest[:8]}"


def commit_path(shard_id: str) -> str:
    """Path of the commit record of a shard."""
    return f"{COMMITS}/{shard_id}.json"


def shard_id_of(path: str) -> str | None:
    """Return the ID of the shard whose commit record is at `path`, or None if it is no commit record."""
    match = re.fullmatch(rf"{COMMITS}/([^/.][^/]*)\.json", path)
    return match[1] if match else None


COMMIT_INDEX = f"{COMMITS}/_index.parquet"
"""A copy of all commit records in one object. It is derived from them, and readers check it against the
listing."""


def rest_id(shard_id: str, first_frame: int) -> str:
    """Return the id of the part of a shard that begins with a frame, where earlier parts were cut off.

    Args:
        shard_id: Id of the shard that was cut, which is also the id of its first part.
        first_frame: Number of frames in all earlier parts.
    """
    return f"{shard_id}.from-{first_frame:08d}" if first_frame else shard_id


def cut_id(shard_id: str) -> str:
    """Return the id of the shard that a part was cut from; the id itself if it is not of such a part."""
    return re.sub(r"\.from-\d{8,11}$", "", shard_id)


def run_id_time(time_s: float) -> str:
    """Return how the ids of runs that started at a time, in seconds since the epoch, begin."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time_s))


def new_run_id() -> str:
    """Return a name for a run that starts now. The names of runs sort by their start."""
    return f"{run_id_time(time.time())}-{uuid.uuid4().hex[:8]}"


def log_folder(run_id: str) -> str:
    """Folder of the log of one run."""
    return f"{LOGS}/{run_id}"


def log_path(run_id: str, number: int) -> str:
    """Path of a part of the log of one run. Parts are numbered from 1, and a part has whole lines."""
    return f"{log_folder(run_id)}/{number:06d}.jsonl"


def run_of_log(path: str) -> str | None:
    """Return the run of a part of a log, or None if the object is no such part."""
    match = re.fullmatch(rf"{LOGS}/(\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}})/\d{{6,}}\.jsonl", path)
    return match[1] if match else None


def probe_folder(name: str) -> str:
    """Return the folder in which one run checks the output, and which it deletes right afterwards."""
    return f".probe-{name}"


def is_probe(path: str) -> bool:
    """Return whether an object was written to check the output. A killed run leaves such objects behind."""
    return re.match(r"\.probe-[0-9a-f]{32}/", path) is not None


def frames_path(shard_id: str, attempt_id: str) -> str:
    """Path of the frames table of an attempt."""
    return f"frames/{shard_id}.{attempt_id}.parquet"


def persons_path(shard_id: str, attempt_id: str) -> str:
    """Path of the persons table of an attempt, which includes the crops."""
    return f"persons/{shard_id}.{attempt_id}.parquet"


def annotations_path(annotator: str, shard_id: str, attempt_id: str) -> str:
    """Path of the table with the answers of one annotator in an attempt."""
    return f"annotations/{annotator}/{shard_id}.{attempt_id}.parquet"


ATTEMPT_FOLDERS = ("frames", "persons", "annotations", "previews")
"""Folders whose objects have their attempt in their names."""


def attempt_of(path: str) -> tuple[str, int] | None:
    """Return the shard and the number of the attempt that wrote a table or a preview.

    Returns None if the name of the object doesn't contain an attempt.
    """
    match = re.fullmatch(r"(?:.*/)?([^/]+)\.(\d{3,})-[0-9a-f]{8}\.(?:parquet|[^/]+\.jpg)", path)
    return (match[1], int(match[2])) if match else None


DOCUMENTS = "json"
"""Folder of the JSON documents of all shards."""


def shard_of_document(path: str) -> str | None:
    """Return the shard of a JSON document or of a tar of documents, or None if the path is of neither."""
    match = re.fullmatch(rf"{DOCUMENTS}/([^/]+)(?:\.tar|/[^/]+/\d+\.json)", path)
    return match[1] if match else None


def json_folder(shard_id: str) -> str:
    """Folder of a shard's JSON documents, one per person."""
    return f"{DOCUMENTS}/{shard_id}"


def json_tar_path(shard_id: str) -> str:
    """Path of the tar that holds all JSON documents of a shard."""
    return f"{DOCUMENTS}/{shard_id}.tar"


def person_json_name(frame_key: str, person_index: int) -> str:
    """Name of a person's JSON document within the folder or tar of its shard."""
    return f"{object_name(frame_key)}/{person_index}.json"


PREVIEWS = "previews"
"""Folder of drawn frames."""

DRY_RUN = f"{PREVIEWS}/dry-run"
"""Folder of the frames that were drawn without a run."""


def preview_path(shard_id: str, attempt_id: str, frame_key: str) -> str:
    """Path of the preview that an attempt drew of a frame, with its boxes and labels."""
    return f"{PREVIEWS}/{shard_id}.{attempt_id}.{object_name(frame_key)}.jpg"


def dry_run_path(shard_id: str, frame_key: str) -> str:
    """Path of the preview that a dry run draws of a frame, with its zones and verdicts."""
    return f"{DRY_RUN}/{shard_id}.{object_name(frame_key)}.jpg"


QUOTA = "quota"


def quota_path(project: str, model: str) -> str:
    """Path of the ledger of a Gemini project and a model."""
    return f"{QUOTA}/{object_name(project)}.{object_name(model.removeprefix('models/'))}.json"


def is_quota_of_key(path: str, model: str) -> bool:
    """Return whether a path is of the ledger of an API key and this model, as version 0.1 kept it."""
    name = re.escape(object_name(model.removeprefix("models/")))
    return re.fullmatch(rf"{QUOTA}/[0-9a-f]{{16}}\.{name}\.json", path) is not None


JOURNAL = "gemini/journal"


def journal_folder(shard_id: str) -> str:
    """Folder of the journal of a shard: Gemini's answers about its persons, one object per request."""
    return f"{JOURNAL}/{shard_id}"


def journal_path(shard_id: str, request_key: str) -> str:
    """Path of the answers to one request about the persons of a shard."""
    return f"{journal_folder(shard_id)}/{request_key}.json"


ANSWERS = "answers"
"""Folder of the answers of all annotators by crop."""

ANSWERS_FILED = f"{ANSWERS}/filed.parquet"
"""The list of commit records whose answers are in the index."""

ANSWERS_IN_FLIGHT = f"{ANSWERS}/in-flight"
"""Folder of the answers of shards that are not committed yet."""

_ROOT_SEGMENT = "all"


def shard_of_journal(path: str) -> str | None:
    """Return the shard of an object of Gemini's journal, or None if the path is of something else."""
    match = re.fullmatch(rf"{JOURNAL}/([^/]+)/[^/]+\.json", path)
    return match[1] if match else None


def answer_index_folder(annotator: str, fingerprint: str) -> str:
    """Folder of the index of an annotator's answers to the question with this fingerprint."""
    return f"{ANSWERS}/{annotator}/{fingerprint[:32]}"


def new_segment(folder: str, prefix: str) -> str:
    """Return a new path for a segment of an index of answers.

    Args:
        folder: Folder of the index.
        prefix: Hexadecimal digits with which the digests of all of its crops begin.
    """
    return f"{folder}/{prefix or _ROOT_SEGMENT}.{uuid.uuid4().hex}.parquet"


def prefix_of_segment(path: str) -> str | None:
    """Return the prefix of a segment of an index of answers, or None if the object is something else."""
    match = re.fullmatch(rf"(?:.*/)?({_ROOT_SEGMENT}|[0-9a-f]+)\.[0-9a-f]{{32}}\.parquet", path)
    if match is None:
        return None
    return "" if match[1] == _ROOT_SEGMENT else match[1]


@dataclass(frozen=True, slots=True)
class InFlightName:
    """Annotator, shard and beginning of the fingerprint that the path of answers in flight contains."""

    annotator: str
    shard_id: str
    fingerprint: str


def in_flight_folder(annotator: str, shard_id: str) -> str:
    """Folder of an annotator's answers about a shard that is not committed yet."""
    return f"{ANSWERS_IN_FLIGHT}/{annotator}/{shard_id}"


def new_in_flight(annotator: str, shard_id: str, fingerprint: str) -> str:
    """Return a new path for answers of a shard that is not committed yet."""
    return f"{in_flight_folder(annotator, shard_id)}/{fingerprint[:32]}.{uuid.uuid4().hex}.jsonl"


def parse_in_flight(path: str) -> InFlightName | None:
    """Return what a path from `new_in_flight` contains, or None if it is another object's."""
    match = re.fullmatch(rf"{ANSWERS_IN_FLIGHT}/([^/]+)/([^/]+)/([0-9a-f]+)\.[0-9a-f]{{32}}\.jsonl", path)
    return InFlightName(*match.groups()) if match else None


EGRESS = "gemini/egress"
"""Folder of the records of what was sent to Gemini."""


def egress_path(day: str, name: str) -> str:
    """Path of the list of persons sent to Gemini in one request. `day` is a UTC date such as 2026-01-31."""
    return f"{EGRESS}/{day}/{name}.jsonl"


def new_egress_segment(day: str) -> str:
    """Return a new path for the records of many requests of a day, one per line."""
    return f"{EGRESS}/{day}/{uuid.uuid4().hex}.jsonl"


def day_of_egress(path: str) -> str | None:
    """Return the day of the record of a single request, or None if the path is of something else."""
    match = re.fullmatch(rf"{EGRESS}/([\d-]+)/[^/.]+\.[0-9a-f]+\.jsonl?", path)
    return match[1] if match else None


def report_pictures(name: str) -> str:
    """Folder of the pictures of a report, beside its file. `name` is that of the file."""
    return f"{name.removesuffix('.html')}_pictures"


def report_picture(folder: str, number: int) -> str:
    """Path of one of a report's pictures."""
    return f"{folder}/{number:06d}.jpg"


def is_report_picture(path: str) -> bool:
    """Return whether a path is of one of a report's pictures."""
    return re.fullmatch(r"(?:.*/)?[^/]+_pictures/\d{6,}\.jpg", path) is not None


CORRECTIONS = "corrections"
"""Folder of what people decided."""


def new_decisions() -> str:
    """Return a new path for some decisions. Paths sort by time."""
    return f"{CORRECTIONS}/{new_run_id()}.jsonl"


def is_decisions(path: str) -> bool:
    """Return whether an object holds decisions."""
    return re.fullmatch(rf"{CORRECTIONS}/\d{{8}}T\d{{6}}Z-[0-9a-f]{{8}}\.jsonl", path) is not None


def detection_of(persons_path: str) -> str | None:
    """Return the attempt that wrote a table of persons, or None if the path is another object's."""
    match = re.fullmatch(r"persons/[^/]+\.(\d{3,}-[0-9a-f]{8})\.parquet", persons_path)
    return match[1] if match else None


ERASURES = "erasures"
"""Folder of what was erased: that it was, and how to recognise it, but not who it was."""

ERASURE_SALT = f"{ERASURES}/salt"
"""A random text, with which everything that is remembered of erased persons is hashed."""

ERASED_BEFORE = f"{ERASURES}/before"
"""Folder of the times before which all persons are erased, which are in the names of its objects."""


def erasure_path(erasure_id: str, step: str) -> str:
    """Path of the record that an erasure has begun or is done. The names of erasures sort by their start."""
    return f"{ERASURES}/{erasure_id}.{step}.json"


def left_out_folder(digest: str) -> str:
    """Folder of what detection leaves out of one file or folder of the input, by the digest of its name."""
    return f"{ERASURES}/left-out/{digest}"


def new_left_out(digest: str) -> str:
    """Return a new path for frames and boxes that detection leaves out."""
    return f"{left_out_folder(digest)}/{uuid.uuid4().hex}.jsonl"


BATCHES = "gemini/batches"


def batch_path(name: str) -> str:
    """Path of the record of what was submitted as one job of the Batch API."""
    return f"{BATCHES}/{name}.json"


CLAIMS = "gemini/claims"
HOLDERS = "gemini/holders"


def claim_path(name: str) -> str:
    """Path of the claim on something, such as a shard of Gemini's backlog. It names the holder."""
    return f"{CLAIMS}/{object_name(name)}.json"


def holder_path(holder: str) -> str:
    """Path of the heartbeat of a holder of claims, which changes as long as the holder is alive."""
    return f"{HOLDERS}/{holder}"


@dataclass(frozen=True, slots=True)
class SnapshotFileName:
    """What a consolidated file's name says: digest of what it was made from, and version it was begun at."""

    digest: str
    base_version: int


def snapshot_file(first_shard_id: str, digest: str, base_version: int) -> str:
    """A new name for a consolidated file, within its table's folder; names sort as their first shards do.

    Args:
        first_shard_id: The first of its shards.
        digest: 16 hexadecimal digits that stand for what the rows were made from.
        base_version: Version of the table that the file's transaction began at.
    """
    return f"{first_shard_id}.{digest}.{base_version:06d}-{uuid.uuid4().hex[:8]}.parquet"


def parse_snapshot_file(name: str) -> SnapshotFileName | None:
    """What a name from `snapshot_file` says, or None if it is another file's."""
    match = re.fullmatch(r"[^/]+\.([0-9a-f]{16})\.(\d{6,})-[0-9a-f]{8}\.parquet", name)
    return SnapshotFileName(match[1], int(match[2])) if match else None
