"""The commands that make sense after a command, with its own arguments: each can be pasted and runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.cli.printing import print_line
from pipeline.text.commands import command_line, free_name

if TYPE_CHECKING:  # they take seconds to import
    from pipeline.annotation.listing import AnnotationList
    from pipeline.commands.status import Status
    from pipeline.exporting.summary import ExportSummary
    from pipeline.job.summary import LabelSummary
    from pipeline.trust.calibration import Calibration
    from pipeline.trust.evaluation import Evaluation

_TRUTH, _CALIBRATION, _DATASET = "truth.csv", "cal.json", "dataset"  # names for files to come

Words = list[str]


def print_next(*commands: Sequence[str], store: Sequence[str] = ()) -> None:
    """Print commands to run next, a line each.

    Args:
        *commands: Their words, without ``shardlabel``.
        store: Options that name the store and how to reach it, for each of them.
    """
    for words in commands:
        print_line(f"next: {command_line(*words, *store)}")


def after_label(summary: LabelSummary, *, may_store: bool) -> list[Words]:
    """After a job that came to its end.

    Args:
        summary: Of the job.
        may_store: Whether the members' probabilities could have been stored, to be combined anew, and were not.
    """
    if summary.exit_code or summary.units_done < summary.units_total:
        return []
    if may_store:
        print_line(
            "without --keep-probs: a temperature can be fitted, but other weights of the members, and --reuse, need "
            "another run"
        )
    return [["verify", summary.out], *_draw_sample(summary.out)]


def _draw_sample(out: str) -> list[Words]:
    return [["sample", out, "--unique", "--save", free_name(_TRUTH)]]


def after_status(found: Status) -> list[Words]:
    """After the status of a job."""
    if not found.finished:
        if not found.command:
            print_line("the same `shardlabel label` command goes on where it stopped")
            return []
        print_line("the same command, from the same folder, goes on where it stopped")
        return [list(found.command)]
    return [["verify", found.out], ["report", found.out]]


def after_evaluate(found: Evaluation, truth: str | None) -> list[Words]:
    """After an evaluation.

    Args:
        found: The evaluation.
        truth: The truth file; None for the samples' own.
    """
    from pipeline.trust.more_truths import FEWEST_FOR_TARGET, SUGGESTED_TARGET, suggest_hold_out
    from pipeline.trust.temperature import MIN_TRUTHS

    given = [] if truth is None else ["--truth", truth]
    steps: list[Words] = []
    num_fit = found.images - found.truth.no_class
    has_weights = found.can_combine and len(found.members) > 1  # votes cannot be calibrated, but weights be fitted
    if found.truth.reviewed:  # no fair truths: nothing can be fitted to them, or promised on them
        steps += _draw_sample(found.out)
    elif found.temperature is not None or (found.combine == "vote" and not has_weights):
        if found.images - (found.fitted or 0) >= FEWEST_FOR_TARGET:
            kind = ["--to", free_name(_DATASET), "--format", "parquet"]
            steps.append(["export", found.out, *kind, "--target-precision", str(SUGGESTED_TARGET), *given])
        elif found.fitted:
            print_line("a promise needs truths that nothing was fitted on: `calibrate --hold-out` keeps some back")
    elif num_fit >= MIN_TRUTHS:
        share = suggest_hold_out(num_fit)
        held = [] if share is None else ["--hold-out", f"{share:g}"]
        steps.append(["calibrate", found.out, *given, *held, "--save", free_name(_CALIBRATION)])
    if (worst := _worst_member(found)) is not None and (source := found.probabilities_in):
        kept = ",".join(alias for alias in found.members if alias != worst)
        steps.append(["combine", source, "-m", kept, "--out", free_name(f"{found.out.rstrip('/')}-combined")])
    if found.consensus.top1 < 1:
        steps.append(["gallery", found.out, *given, "--where", "truth <> label", "--order", "score desc"])
    return steps


def _worst_member(found: Evaluation) -> str | None:
    """The member to leave out where the consensus is no better than its best one; None elsewhere."""
    if found.gain is None or found.gain.difference >= 0:
        return None
    return min(found.members, key=lambda alias: found.members[alias].top1)


def advise_members(found: Evaluation) -> list[str]:
    """What would help where the consensus is worse than its best member; nothing elsewhere."""
    worst = _worst_member(found)
    if worst is None or found.gain is None:
        return []
    how = "is worse than" if found.gain.interval[1] < 0 else "is no better than"
    first = f"the consensus {how} {found.gain.over} alone, on these images"
    if source := found.probabilities_in:
        stack = command_line("calibrate", source, "--method", "stack")
        return [first, f"weights fitted to truth may help (`{stack}`), or to leave {worst} out"]
    return [first, f"to weigh the members by truth, or to leave {worst} out, label with --keep-probs first"]


def after_calibrate(fitted: Calibration, saved: str) -> list[Words]:
    """After a calibration: apply it to the output that it was fitted on."""
    return [["combine", fitted.out, "--out", free_name(f"{fitted.out.rstrip('/')}-calibrated"), "--calibration", saved]]


def after_list(found: AnnotationList) -> list[Words]:
    """After a list for annotators was written, or grew."""
    return [["annotate", found.files[-1]]] if found.format == "csv" else []


def after_export(summary: ExportSummary, out: str, options: Mapping[str, Any]) -> list[Words]:
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
        return _draw_sample(out)
    given = [(f"--{name}", str(options[name])) for name in ("truth", "classes") if options.get(name) is not None]
    return [["report", out, *itertools.chain.from_iterable(given)]]


def after_combine(summary: LabelSummary) -> list[Words]:
    """After another consensus."""
    if summary.exit_code or summary.units_done < summary.units_total:
        return []
    return [["verify", summary.out], ["report", summary.out]]
