"""What commands that run a job print at their end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pipeline.cli.printing import format_counts, format_examples, print_line, print_rows, print_stderr
from pipeline.inputs.left_out import describe_left_out
from pipeline.text import fmt
from pipeline.text.omissions import omitted_rows
from pipeline.text.retrying import retry_rows, unread_rows


def configure_logging(*, verbose: bool) -> None:
    """Set the log level: messages of libraries, or only their errors."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")


def print_summary(summary: Any) -> None:  # noqa: ANN401 - job.LabelSummary, which costs seconds to import
    """Print the summary of a run."""
    nothing_done = not summary.images and not summary.events and not getattr(summary, "unread", ())
    if nothing_done and summary.units_done == summary.units_total:
        all_units = "its unit is" if summary.units_total == 1 else f"all {summary.units_total:,} units are"
        print_line(f"nothing left to do: {all_units} in {summary.out}")
        if left_out := left_out_row(summary.left_out):
            print_rows("", left_out)
        return
    rows = [
        ("images", _images_row(summary)),
        ("labelled", f"{summary.labelled:,}"),
        ("quarantined", format_counts(summary.quarantined_by_reason)),
    ]
    rows += unread_rows(summary.quarantined_by_reason) + retry_rows(summary.quarantined_by_reason)
    if summary.events:
        rows.append(("shard damage", format_counts(summary.events)))
    if summary.truths_not_understood:
        shown = format_examples(summary.truths_not_understood, summary.truth_examples)
        rows.append(("truths", f".cls that names no class of this job: {shown}"))
    rows += omitted_rows(summary)
    in_out = summary.labelled_in_out
    if in_out is not None and (in_out, summary.quarantined_in_out) != (summary.labelled, summary.quarantined):
        total = in_out + summary.quarantined_in_out
        rows.append(
            ("in OUT", f"{fmt.plural(total, 'image')}: {in_out:,} labelled, {summary.quarantined_in_out:,} quarantined")
        )
    rows.append(("units", f"{summary.units_done:,} of {summary.units_total:,} done"))
    rows += left_out_row(summary.left_out)
    if summary.images or in_out:
        rows.append(("predictions", f"{summary.out}/predictions/*.parquet"))
    print_rows("", rows)


def _images_row(summary: Any) -> str:  # noqa: ANN401 - likewise
    """What a run published in which time: from the start of the command, and from the first image."""
    times = f"{summary.wall_s:,.1f} s, {summary.starting_s:,.1f} s of them starting"
    rate = f"; {summary.images_per_s:,.1f} images/s" if summary.images else ""
    return f"{summary.images:,} in {times}{rate}"


def left_out_row(left_out: Mapping[str, int]) -> list[tuple[str, str]]:
    """The row about files that are left out for their names; none where there are none."""
    return [("left out", describe_left_out(left_out))] if left_out else []


def print_failures(summary: Any) -> None:  # noqa: ANN401 - likewise
    """Print on stderr what went wrong in a run."""
    unread = getattr(summary, "unread_examples", ())  # of labelling alone
    for failed in (*summary.failures, *getattr(summary, "unread", ()), *unread):
        named = failed.message.startswith(failed.uri)
        print_stderr(f"not read: {failed.message if named else f'{failed.uri}: {failed.message}'}")
    num_unread = getattr(summary, "unread_images", 0)
    if num_unread > len(unread):
        print_stderr(f"not read: {num_unread - len(unread):,} more images; see OUT/quarantine")
    if summary.bad_rate_exceeded:
        print_stderr("shardlabel: stopped: too many samples are quarantined (--max-bad-rate); see OUT/quarantine")
    elif summary.failed_units_exceeded:
        print_stderr(
            f"shardlabel: stopped: {fmt.plural(summary.failed_units, 'unit')} could not be read, more than "
            "--max-failed-units "
            "allows; when the cause is fixed, the same command goes on from here"
        )
    elif summary.interrupted:
        print_stderr("shardlabel: stopped; run the same command again to go on from here")
    elif getattr(summary, "unread", ()):
        print_stderr(
            "shardlabel: no sample could be read from any input; see OUT/quarantine. The same command tries them again"
        )
    elif summary.failed_units or num_unread:
        counts = ((summary.failed_units, "unit"), (num_unread, "image"))
        what = " and ".join(fmt.plural(count, kind) for count, kind in counts if count)
        print_stderr(f"shardlabel: {what} could not be read; run the same command to try them again")
