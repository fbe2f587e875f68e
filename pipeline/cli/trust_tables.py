"""What evaluate, calibrate and report have to say, for a person."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from pipeline.annotation.listing import AnnotationList
from pipeline.cli.printing import say, show
from pipeline.commands.report import Report
from pipeline.text.safe import printable
from pipeline.trust.calibration import Calibration
from pipeline.trust.evaluation import Accuracy, Evaluation
from pipeline.trust.intervals import Interval
from pipeline.trust.thresholds import AccuracyGroup
from pipeline.trust.truth import TruthCounts

_MOST_SHOWN = 10
_HOW_TO_GO_ON = {
    "csv": "fill in the column truth with class names or indices, and save it as CSV",
    "label-studio": "serve this folder (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT), import the tasks, export as JSON",
    "label-studio on s3": "connect the bucket as cloud storage of the project, import the tasks, export as JSON",
    "fiftyone": "import it as FiftyOneImageClassificationDataset, label, export labels.json into this folder",
}


def print_evaluation(found: Evaluation) -> None:
    """Print accuracy, calibration and what can be kept; classes only where they do worst."""
    for line in found.truth.complaints:
        say(f"truth: {line}")
    if not found.images:
        show(f"{found.out}: {_nothing(found)}, so there is nothing to compare with")
        return
    console = Console()
    source = "" if found.truth.source.endswith(".cls") else f" from {found.truth.source}"
    show(f"{found.out}: {found.images:,} images with known truth{source}; intervals are Wilson's, 95 %")
    _print(console, _predictors(found))
    show(f"  {_gain(found)}")
    show(f"  {_calibration(found)}")
    show("  ECE: mean distance of score and accuracy in 15 bins; floor: what it would be if scores were perfectly true")
    _print(console, _groups("score", found.by_score), _groups("agreement", found.by_agreement))
    _print(console, _kept(found))
    show("  observed on this truth; the threshold was picked on it too, so it is no promise for other images")
    _print(console, _classes(found))
    shown = f"; the {_MOST_SHOWN} worst of {len(found.classes):,}, --json has all"
    show(f"  mean F1 {found.macro_f1:.1%}{shown if len(found.classes) > _MOST_SHOWN else ''}")
    if found.confused:
        _print(console, _confused(found))


def _nothing(found: Evaluation) -> str:
    if found.truth.given:
        return f"none of {found.truth.given:,} truths can be used"
    return "no labelled sample has a .cls" if found.truth.source.endswith(".cls") else "the truth is empty"


def _print(console: Console, *tables: Table) -> None:
    for table in tables:
        console.print()
        console.print(table, soft_wrap=True)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"  {first}", no_wrap=True)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _predictors(found: Evaluation) -> Table:
    table = _table("", "top-1", "95 %", f"top-{min(5, found.top_k)}", "95 %", "ECE", "floor")
    rows: Iterable[tuple[str, Accuracy]] = (*found.members.items(), (f"consensus ({found.combine})", found.consensus))
    for name, accuracy in rows:
        table.add_row(
            f"  {printable(name)}",
            f"{accuracy.top1:.1%}",
            _range(accuracy.top1_interval),
            f"{accuracy.top5:.1%}",
            _range(accuracy.top5_interval),
            f"{accuracy.reliability.ece:.1%}",
            f"{accuracy.reliability.floor:.1%}",
        )
    return table


def _gain(found: Evaluation) -> str:
    gain = found.gain
    if gain is None:
        return "one member: the consensus is its word"
    low, high = gain.interval
    return (
        f"gain over the best member, {printable(gain.over)}: {100 * gain.difference:+.1f} points "
        f"({100 * low:+.1f} to {100 * high:+.1f}, paired); right alone {gain.only_first:,} : {gain.only_other:,} "
        f"times, McNemar p = {gain.p_value:.2g}"
    )


def _calibration(found: Evaluation) -> str:
    if found.temperature is None:
        return "the consensus is uncalibrated: its scores promise nothing"
    if found.weights is not None:
        weights = ", ".join(f"{printable(alias)} {weight:.3g}" for alias, weight in found.weights.items())
        return f"the consensus is calibrated, a log-stack with the weights {weights}"
    return f"the consensus is calibrated, temperature {found.temperature:.3g}"


def _range(interval: Interval) -> str:
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}"


def _groups(name: str, groups: Sequence[AccuracyGroup]) -> Table:
    table = _table(name, "images", "right", "95 %")
    for group in groups:
        shown = f"{group.low:.2f}" if group.low == group.high else f"{group.low:.2f} to {group.high:.2f}"
        table.add_row(f"  {shown}", f"{group.images:,}", f"{group.accuracy:.1%}", _range(group.interval))
    return table


def _kept(found: Evaluation) -> Table:
    table = _table("precision", "score from", "images", "share", "observed", "95 %")
    for kept in found.kept:
        if kept.threshold is None or kept.precision is None:
            table.add_row(f"  {kept.target:.0%}", "-", "0", "0.0%", "not reached", "")
            continue
        row = (f"{kept.threshold:.4f}", f"{kept.images:,}", f"{kept.coverage:.1%}", f"{kept.precision:.1%}")
        table.add_row(f"  {kept.target:.0%}", *row, _range(kept.interval))
    return table


def _classes(found: Evaluation) -> Table:
    table = _table("class", "images", "precision", "recall", "F1")
    for figures in sorted(found.classes, key=lambda figures: (figures.f1, -figures.images))[:_MOST_SHOWN]:
        shares = ("-" if share is None else f"{share:.1%}" for share in (figures.precision, figures.recall))
        table.add_row(f"  {printable(figures.name)}", f"{figures.images:,}", *shares, f"{figures.f1:.1%}")
    return table


def _confused(found: Evaluation) -> Table:
    table = _table("truth", "taken for", "images", "of the class")
    for pair in found.confused[:_MOST_SHOWN]:
        names = (f"  {printable(pair.truth_name)}", printable(pair.label_name))
        table.add_row(*names, f"{pair.images:,}", f"{pair.share:.1%}")
    return table


def print_report(made: Report) -> None:
    """Print where the page is, and what is in it."""
    if made.note:
        say(f"pictures: {made.note}")
    parts = [f"{made.images:,} images", f"{made.quarantined:,} quarantined", f"{made.matched:,} with known truth"]
    show(f"{made.saved}: {', '.join(parts)}, {made.pictures:,} pictures, {made.num_bytes / 1e6:.1f} MB")


def print_calibration(fitted: Calibration, counts: TruthCounts, saved: str) -> None:
    """Print what was fitted and what it does to images that it was not fitted on."""
    for line in counts.complaints:
        say(f"truth: {line}")
    stacked = fitted.method == "stack"
    if stacked:
        weights = ", ".join(f"{printable(member.alias)} {member.weight or 0:.3g}" for member in fitted.members)
        show(f"{fitted.out}: log-stack, weights {weights} (their sum is 1 / temperature {fitted.temperature:.4g})")
    else:
        show(
            f"{fitted.out}: temperature {fitted.temperature:.4g} for the {fitted.rule} of {len(fitted.members)} members"
        )
    table = _table(f"{fitted.truths:,} truths", "NLL", "ECE", "floor")
    held = f"({fitted.folds}-fold)"
    for name, figures in (
        ("before", fitted.before),
        (f"temperature alone {held}", fitted.temperature_alone),
        (f"after {held}", fitted.after),
    ):
        if figures is None:
            continue
        table.add_row(f"  {name}", f"{figures.nll:.3f}", f"{figures.ece:.1%}", f"{figures.ece_floor:.1%}")
    _print(Console(), table)
    if fitted.top1_after is None:
        show(f"  top-1 stays {fitted.top1:.1%}; agreement and disagreement stay those of the pool as it is")
    else:
        show(f"  top-1 {fitted.top1:.1%} before, {fitted.top1_after:.1%} after {held}")
    also = f", or at once: combine {fitted.out} --calibration {saved}" if stacked else ""
    show(f"  saved: {saved}; use it with label --calibration {saved} and the same members{also}")


def print_list(found: AnnotationList) -> None:
    """Print what was listed, and how to go on."""
    for line in found.problems:
        say(line)
    if (more := found.without_image - len(found.problems)) > 0:
        say(f"and {more:,} more")
    drawn = "drawn at random from" if found.order == "random" else f"by {found.order}, of"
    show(f"{found.files[-1]}: {found.images:,} images {drawn} {found.labelled:,} labelled ones")
    if found.without_image:
        show(f"  {found.without_image:,} of them have no image any more")
    for name in found.files[:-1]:
        show(f"  with {name}")
    on_s3 = found.format == "label-studio" and found.files[-1].startswith("s3://")
    show(f"  {_HOW_TO_GO_ON['label-studio on s3' if on_s3 else found.format]}; give that to --truth")
