"""`shopframe evaluate`: measure the committed output against a ground-truth table."""

from __future__ import annotations

import json

from actors.attribute_settings import SchemaSettings
from actors.attributes import AttributeSchema
from actors.errors import InputError, OutputError
from actors.storage.object_store import ObjectStore
from actors.storage.store_errors import STORAGE_ERRORS, storage_error_text
from jobs.evaluation.comparison import Evaluation, compare
from jobs.evaluation.plots import draw_plots
from jobs.evaluation.predictions import first_frame, read_predictions
from jobs.evaluation.truth import Truth, read_truth
from jobs.run.run_record import read_run


def measure(
    output: ObjectStore, truth_uri: str, report: ObjectStore, complete: bool
) -> tuple[Evaluation, list[str]]:
    """Measure the output against the ground truth, and write `evaluation.json` and the plots.

    Args:
        output: The output of a run.
        truth_uri: Ground-truth table in Parquet, see `read_truth`.
        report: Where the files are written.
        complete: Whether frames of the output that the ground truth doesn't name are taken as empty.
            Otherwise they are left out, because nothing is known about them.

    Returns:
        The measures, and the URIs of the files.

    Raises:
        ConfigError: If the output has no run.
        InputError: If the ground truth can't be used, or has no frame in common with the output.
        OutputError: If the files can't be written.
    """
    schema = AttributeSchema(read_run(output).section("schema", SchemaSettings))
    truth = read_truth(truth_uri, output.settings, schema)
    predictions = read_predictions(output, schema, truth.frames, complete)
    if not any(position < len(truth.frames) for position in predictions.heights_px):
        raise InputError(_nothing_in_common(output, truth, len(predictions.failed)))
    evaluation = compare(output.uri, truth, predictions)
    files = {"evaluation.json": json.dumps(evaluation.as_dict(), indent=1).encode(), **draw_plots(evaluation)}
    try:
        for name, content in files.items():
            report.write(name, content)
    except STORAGE_ERRORS as error:
        raise OutputError(
            f"{report.uri}: can't write the evaluation: {storage_error_text(error)}; choose another place "
            "with --report"
        ) from error
    return evaluation, [report.uri_of(name) for name in files]


def _nothing_in_common(output: ObjectStore, truth: Truth, failed: int) -> str:
    if not truth.frames:
        return f"{truth.uri}: holds no rows; pass --truth with a table that has one row per person"
    if failed:
        return (
            f"{output.uri}: all {failed:,} frames named by the ground truth failed here; see shopframe status"
        )
    shard_id, frame_key = truth.frames[0]
    theirs = f"frame_key {frame_key}" + (f" in shard_id {shard_id}" if shard_id else "")
    ours = first_frame(output)
    if ours is None:
        return f"{output.uri}: no shard is committed here; run shopframe annotate first"
    return (
        f"{truth.uri}: none of its {len(truth.frames):,} frames is in {output.uri}: its first is {theirs}, "
        f"the output's first is frame_key {ours[1]} in shard_id {ours[0]}; write both as in the output "
        "(without a column shard_id, only frame_key is compared)"
    )
