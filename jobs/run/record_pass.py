"""One pass over the commit records, for everything that a run wants to know from all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from actors.gemini.backlog.denied import Denied, with_denied
from actors.gemini.backlog.listing import outcomes_by_model, waiting_of
from actors.gemini.camera_settings import GeminiCameras
from actors.gemini.question import Question
from actors.storage.commit_record import CommitRecord
from actors.storage.object_store import ObjectStore
from actors.storage.record_index import ListingDigest, read_records
from jobs.run.cameras import SeenCameras
from jobs.run.cut_shards import CutShards
from jobs.run.totals import Totals

_WITH_FAILED_FRAMES = 5
_UNKNOWN_MODEL = "a model that was not recorded"


class RecordPass:
    """What the commit records say, as far as the sweep and the status want to know it.

    Reading all records takes most of the time of a run with nothing to do, so the pass that plans it counts
    too. At its end a listing tells whether these counts still hold.

    Args:
        question: The question that Gemini is asked.
        permitted: The cameras whose crops Gemini may see.
        remembers_objects: Whether to fill `objects`, which takes some 100 bytes per object.

    Attributes:
        totals: Sums over the records.
        parts: The parts of cut shards.
        cameras: The cameras of the frames.
        waiting: Number of persons that wait for Gemini.
        answers: Number of Gemini's `ok` answers by model.
        with_failed_frames: The records of the first shards that have failed frames.
        previews: Number of previews.
        objects: Hashes of the paths of all objects that the records name.
    """

    def __init__(
        self, question: Question, permitted: GeminiCameras, *, remembers_objects: bool = True
    ) -> None:
        self.totals = Totals()
        self.parts = CutShards()
        self.cameras = SeenCameras()
        self.waiting = 0
        self.answers: Counter[str] = Counter()
        self.with_failed_frames: list[CommitRecord] = []
        self.previews = 0
        self.objects: set[int] = set()
        self._question = question
        self._permitted = permitted
        self._remembers_objects = remembers_objects
        self._digest = ListingDigest()
        self._is_complete = False

    def read(self, store: ObjectStore, keep_index: bool = False) -> Iterator[tuple[CommitRecord, Denied]]:
        """Yield each record with the persons that were not sent to Gemini because of their camera.

        Args:
            store: The output.
            keep_index: Passed to `read_records`.

        Raises:
            OutputError: This version can't read one of the records.
            OSError: The store can't be read.
        """
        records = (record for record, _ in read_records(store, keep_index, self._digest))
        for record, denied in with_denied(store, records, self._permitted):
            self._add(record, denied)
            yield record, denied
        self._is_complete = True

    def finish(self, store: ObjectStore, keep_index: bool = False) -> None:
        """Read all records. The arguments and errors are those of `read`."""
        for _ in self.read(store, keep_index):
            pass

    def _add(self, record: CommitRecord, denied: Denied) -> None:
        self.totals.add(record)
        self.parts.add(record)
        self.cameras.add(record.counts)
        if record.state == "done" and record.counts.frames_failed:
            first = len(self.with_failed_frames) < _WITH_FAILED_FRAMES
            self.with_failed_frames += [record] if first else []
        self.previews += sum(entry.kind == "preview" for entry in record.objects)
        self.waiting += waiting_of(record, self._question, denied=denied).total()
        for model, outcomes in outcomes_by_model(record, self._question).items():
            self.answers[model or _UNKNOWN_MODEL] += outcomes.get("ok", 0)
        if self._remembers_objects:
            self.objects.update(hash(entry.path) for entry in record.objects)

    def answers_for(self, question: Question, permitted: GeminiCameras) -> bool:
        """Return whether the persons that wait were counted for this question and these cameras."""
        return (self._question, self._permitted) == (question, permitted)

    def is_current(self, store: ObjectStore) -> bool:
        """Return whether all records were read, and none was written or deleted since. This lists them."""
        return self._is_complete and ListingDigest.now(store).value == self._digest.value
