"""The commands that make sense after a command, with its own arguments."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.cli.printing import print_line

if TYPE_CHECKING:  # they take seconds to import
    from pipeline.commands.status import Status
    from pipeline.exporting.summary import ExportSummary
    from pipeline.job.summary import LabelSummary
    from pipeline.trust.evaluation import Evaluation

_TARGET = 0.95
_FOR_A_TEMPERATURE = 100  # truths


def print_next(*commands: str) -> None:
    """Print commands to run next, a line each."""
    for command in commands:
        print_line(f"next: shardlabel {command}")


def after_label(summary: LabelSummary, *, keep_probs: bool, num_members: int) -> list[str]:
    """After a job that came to its end.

    Args:
        summary: Of the job.
        keep_probs: Whether the members' probabilities were stored.
        num_members: How many members there are.
    """
    if summary.exit_code or summary.units_done < summary.units_total:
        return []
    out = shlex.quote(summary.out)
    if num_members > 1 and not keep_probs:
        print_line(
            "without --keep-probs: a temperature can be fitted, but other weights of the members, and --reuse, need "
            "another run"
        )
    return [f"verify {out}", f"sample {out} --unique --save truth.csv"]


def after_status(found: Status) -> list[str]:
    """After the status of a job."""
    if not found.finished:
        print_line("the same `shardlabel label` command goes on where it stopped")
        return []
    out = shlex.quote(found.out)
    return [f"verify {out}", f"report {out}"]


def after_evaluate(found: Evaluation, truth: str | None) -> list[str]:
    """After an evaluation.

    Args:
        found: The evaluation.
        truth: The truth file; None for the samples' own.
    """
    out, given = shlex.quote(found.out), "" if truth is None else f" --truth {shlex.quote(truth)}"
    wrong = f'gallery {out}{given} --where "truth <> label" --order "score desc"'
    if found.temperature is None and not found.truth.reviewed:
        return [f"calibrate {out}{given}{_hold_out(found.images)} --save cal.json", wrong]
    return [f"export {out} --to dataset --format parquet --target-precision {_TARGET}{given}", wrong]


def _hold_out(num_truths: int) -> str:
    """The option that keeps as many truths for a promise as a temperature can spare."""
    share = next((share for share in (0.8, 0.5) if num_truths * (1 - share) >= _FOR_A_TEMPERATURE), None)
    return "" if share is None else f" --hold-out {share}"


def advise_members(found: Evaluation) -> list[str]:
    """What would help where the consensus is worse than its best member; nothing elsewhere."""
    if found.gain is None or found.gain.difference >= 0:
        return []
    out = shlex.quote(found.out)
    source = found.truth.source
    given = "" if source.endswith(".cls") else f" --truth {shlex.quote(source)}"
    low = found.gain.interval[1] < 0
    how = "is worse than" if low else "is no better than"
    worst = min(found.members, key=lambda alias: found.members[alias].top1)
    kept = ",".join(alias for alias in found.members if alias != worst)
    lines = [f"the consensus {how} {found.gain.over} alone, on these images"]
    if found.can_combine:
        lines.append(
            f"weights fitted to truth may help: shardlabel calibrate {out}{given} --method stack --save cal.json; or "
            f"leave {worst} out: shardlabel combine {out} -m {shlex.quote(kept)} --out OUT2"
        )
    else:
        lines.append(f"to weigh the members by truth, or to leave {worst} out, label with --keep-probs first")
    return lines


def after_export(summary: ExportSummary, out: str, options: Mapping[str, Any]) -> list[str]:
    """After an export.

    Args:
        summary: The summary.
        out: The output that was exported.
        options: The options of the command.
    """
    if summary.exit_code:
        return []
    print_line(f"{summary.to}/README.md says how to load it")
    if summary.promise is None and not options.get("target_precision"):
        return [f"sample {shlex.quote(out)} --unique --save truth.csv"]
    return []
