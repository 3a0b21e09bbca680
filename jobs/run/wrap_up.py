"""The end of a run: delete leftovers, bring derived data up to date, and write `progress.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from actors.attributes import AttributeSchema
from actors.commit.settings import OutputSettings
from actors.corrections.settings import ConsensusSettings
from actors.errors import OutputError
from actors.gemini.egress_log import merge_egress
from actors.gemini.settings import GeminiSettings
from actors.storage import layout
from actors.storage.object_store import ObjectStore
from jobs.run.answer_filing import file_answers, file_uncommitted
from jobs.run.consolidation import consolidate_output
from jobs.run.output_status import output_status
from jobs.run.record_pass import RecordPass
from jobs.run.run_log import log
from jobs.run.run_record import read_run
from jobs.run.superseded import remove_superseded
from jobs.run.sweep import sweep


def wrap_up(
    output: ObjectStore,
    schema: AttributeSchema,
    settings: OutputSettings,
    consensus: ConsensusSettings,
    run: dict[str, Any],
    postponed: Sequence[dict[str, str]],
    superseded: Mapping[str, tuple[str, ...]] | None = None,
    seen: RecordPass | None = None,
) -> dict[str, Any]:
    """End a run and return the state of the output.

    Args:
        output: The output.
        schema: The attribute schema.
        settings: The `output` settings.
        consensus: The `consensus` settings.
        run: The counts of this run, to which the number of replaced shards and warnings about objects that
            can't be used are added.
        postponed: The shards that this run has postponed, with the reasons; the first ones if there are many.
        superseded: Ids of the shards that replace a shard, by its id.
        seen: A pass over the records from the beginning of the run, if it has committed nothing.

    Raises:
        OSError: If the store can't be read or written.
    """
    run["shards_replaced"] = remove_superseded(output, superseded or {})
    warnings = []
    merge_egress(output)
    if settings.answer_index:
        try:
            file_uncommitted(output)
            if run["shards_done"]:
                file_answers(output)
        except OutputError as error:
            warnings.append(str(error))
    if seen is None:
        last = read_run(output)
        seen = RecordPass(last.question, last.section("gemini", GeminiSettings).cameras)
        seen.finish(output, keep_index=True)
    sweep(output, seen.objects)
    if settings.consolidate:
        warnings += consolidate_output(output, schema, consensus, settings.keep_versions_days).warnings()
    for warning in warnings:
        log.warning(warning)
    run["warnings"] = warnings
    status = output_status(output, keep_index=True, postponed=postponed, seen=seen)
    output.write(layout.PROGRESS, json.dumps({**status, "run": run}, indent=2).encode())
    for warning in status["warnings"]:
        log.warning(warning)
    log.info("end", extra={"run": run, "shards": status["shards"]})
    return status
