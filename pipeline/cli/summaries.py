"""What commands that run a job print at their end."""

from __future__ import annotations

import logging
from typing import Any

from pipeline.cli.printing import format_counts, format_examples, print_line, print_rows, print_stderr
from pipeline.text.omissions import omitted_rows


def configure_logging(*, verbose: bool) -> None:
    """Set the log level: messages of libraries, or only their errors."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")


def print_summary(summary: Any) -> None:  # noqa: ANN401 - job.LabelSummary, which costs seconds to import
    """Print the summary of a run."""
    if not summary.images and not summary.events and summary.units_done == summary.units_total:
        print_line(f"nothing left to do: all {summary.units_total:,} units are in {summary.out}")
        return
    rows = [
        ("images", f"{summary.images:,} in {summary.seconds:,.1f} s, {summary.images_per_s:,.1f} images/s"),
        ("labelled", f"{summary.labelled:,}"),
        ("quarantined", format_counts(summary.quarantined_by_reason)),
    ]
    if summary.events:
        rows.append(("shard damage", format_counts(summary.events)))
    if summary.truths_not_understood:
        shown = format_examples(summary.truths_not_understood, summary.truth_examples)
        rows.append(("truths", f".cls that names no class of this job: {shown}"))
    rows += omitted_rows(summary)
    rows.append(("units", f"{summary.units_done:,} of {summary.units_total:,} done"))
    rows.append(("predictions", f"{summary.out}/predictions/*.parquet"))
    print_rows("", rows)


def print_failures(summary: Any) -> None:  # noqa: ANN401 - likewise
    """Print on stderr what went wrong in a run."""
    for failed in (*summary.failures, *summary.unread):
        print_stderr(f"not read: {failed.uri}: {failed.message}")
    if summary.bad_rate_exceeded:
        print_stderr("shardlabel: stopped: too many samples are quarantined (--max-bad-rate); see OUT/quarantine")
    elif summary.failed_units_exceeded:
        print_stderr(
            f"shardlabel: stopped: {summary.failed_units} units could not be read, more than --max-failed-units "
            "allows; when the cause is fixed, the same command goes on from here"
        )
    elif summary.interrupted:
        print_stderr("shardlabel: stopped; run the same command again to go on from here")
    elif summary.unread:
        print_stderr(
            "shardlabel: nothing could be read of any input; see OUT/quarantine. The same command tries them again"
        )
    elif summary.failed_units:
        print_stderr(
            f"shardlabel: {summary.failed_units} units could not be read; run the same command to try them again"
        )
