"""Names of objects under the output URI: pure functions, and the only place that knows them."""

import hashlib
import re

RUN = "run.json"
PROGRESS = "progress.json"
LOG = "processing.log"
COMMITS = "commits"
CONSOLIDATED = "consolidated"
EVALUATION = "evaluation"

_LONGEST_NAME = 120


def object_name(key: str) -> str:
    """A name for `key` that is safe in object stores and file systems.

    A key of at most 120 characters of A-Z, a-z, 0-9, ".", "_" and "-" that doesn't start with "." is
    its own name. Any other has the rest replaced by "_" and 8 hexadecimal digits of its SHA-256
    appended, so that different keys keep different names.
    """
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,119}", key):
        return key
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", key).strip("._")[: _LONGEST_NAME - 9]
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{safe or 'key'}-{digest[:8]}"


def commit_path(shard_id: str) -> str:
    """The commit record of a shard."""
    return f"{COMMITS}/{shard_id}.json"


def shard_id_of(path: str) -> str | None:
    """The shard whose commit record is at `path`, or None if it is something else."""
    match = re.fullmatch(rf"{COMMITS}/([^/.][^/]*)\.json", path)
    return match[1] if match else None


COMMIT_INDEX = f"{COMMITS}/_index.parquet"
"""A copy of all commit records in one object; derived, and checked against the listing."""


def frames_path(shard_id: str, attempt_id: str) -> str:
    """The frames table of an attempt."""
    return f"frames/{shard_id}.{attempt_id}.parquet"


def persons_path(shard_id: str, attempt_id: str) -> str:
    """The persons table of an attempt, crops included."""
    return f"persons/{shard_id}.{attempt_id}.parquet"


def annotations_path(annotator: str, shard_id: str, attempt_id: str) -> str:
    """The answers of one annotator in an attempt."""
    return f"annotations/{annotator}/{shard_id}.{attempt_id}.parquet"


ATTEMPT_FOLDERS = ("frames", "persons", "annotations")
"""Where objects carry their attempt in their names."""


def attempt_of(path: str) -> tuple[str, int] | None:
    """Shard and number of the attempt that wrote an object, or None if its name doesn't say."""
    match = re.fullmatch(r"(?:.*/)?([^/]+)\.(\d{3,})-[0-9a-f]{8}\.parquet", path)
    return (match[1], int(match[2])) if match else None


def json_folder(shard_id: str) -> str:
    """The folder of a shard's documents, one a person."""
    return f"json/{shard_id}"


def json_tar_path(shard_id: str) -> str:
    """All documents of a shard in one tar."""
    return f"json/{shard_id}.tar"


def person_json_name(frame_key: str, person_index: int) -> str:
    """A person's document within the folder or tar of its shard."""
    return f"{object_name(frame_key)}/{person_index}.json"


def preview_path(shard_id: str, frame_key: str) -> str:
    """A frame with its boxes and labels drawn."""
    return f"previews/{shard_id}.{object_name(frame_key)}.jpg"


def dry_run_path(shard_id: str, frame_key: str) -> str:
    """A frame with zones and verdicts drawn, before a run."""
    return f"previews/dry-run/{shard_id}.{object_name(frame_key)}.jpg"


def quota_path(key_id: str, model: str) -> str:
    """The ledger of what was spent with an API key (`key_id` is a hash of it) and a model."""
    return f"quota/{key_id}.{object_name(model.removeprefix('models/'))}.json"


def journal_folder(shard_id: str) -> str:
    """What Gemini has answered about the persons of a shard, an object a request."""
    return f"gemini/journal/{shard_id}"


def journal_path(shard_id: str, request_key: str) -> str:
    """The answers of one request about the persons of a shard."""
    return f"{journal_folder(shard_id)}/{request_key}.json"


def egress_path(day: str, name: str) -> str:
    """Who was sent to Gemini with one request; `day` is that of UTC, as 2026-01-31."""
    return f"gemini/egress/{day}/{name}.json"


BATCHES = "gemini/batches"


def batch_path(name: str) -> str:
    """What was submitted as one job of the Batch API."""
    return f"{BATCHES}/{name}.json"


def claim_path(name: str) -> str:
    """Who works on something, such as a shard of Gemini's backlog."""
    return f"gemini/claims/{object_name(name)}.json"


def holder_path(holder: str) -> str:
    """Changes as long as a holder of claims lives."""
    return f"gemini/holders/{holder}"


def consolidated_path(first_shard_id: str) -> str:
    """The consolidated rows of a run of shards that begins with `first_shard_id`."""
    return f"{CONSOLIDATED}/{first_shard_id}.parquet"


CONSOLIDATED_INDEX = f"{CONSOLIDATED}/_index.json"
"""Which records each consolidated file was made from."""
