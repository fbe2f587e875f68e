"""Tables of ``evaluate`` and ``calibrate``, and the lines of ``sample``, ``review`` and ``report``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from pipeline.annotation.listing import AnnotationList
from pipeline.cli.level_tables import print_levels
from pipeline.cli.next_steps import advise_members
from pipeline.cli.printing import print_line, print_stderr
from pipeline.cli.tables import new_table, print_tables, show_interval
from pipeline.commands.gallery import Gallery
from pipeline.commands.report import Report
from pipeline.text import fmt
from pipeline.text.safe import printable
from pipeline.trust.calibration import Calibration
from pipeline.trust.evaluation import Accuracy, Evaluation
from pipeline.trust.more_truths import suggest_hold_out
from pipeline.trust.thresholds import AccuracyGroup
from pipeline.trust.truth import TruthCounts

_MAX_SHOWN = 10
_NEXT_STEPS = {
    "csv": "in a browser, or by hand: fill in the column truth with class names or indices (none where no class fits), "
    "and save it as CSV",
    "label-studio": "serve this folder (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT), import the tasks, export as JSON",
    "label-studio on s3": "connect the bucket as cloud storage of the project, import the tasks, export as JSON",
    "fiftyone": "import it as FiftyOneImageClassificationDataset, label, export labels.json into this folder",
}


def print_evaluation(found: Evaluation) -> None:
    """Print accuracy, calibration, operating points, and the classes with the lowest F1."""
    for line in found.truth.complaints:
        print_stderr(f"truth: {line}")
    source = "" if found.truth.source.endswith(".cls") else f" from {found.truth.source}"
    images = fmt.plural(found.images, "image")
    print_line(f"{found.out}: {images} with known truth{source}; intervals are Wilson's, 95 %")
    if found.truth.no_class:
        print_line(
            f"  in {found.truth.no_class:,} of them, {found.truth.no_class / found.images:.1%}, no class fits (none): "
            "every label is wrong there"
        )
    if found.group_truths:
        more = fmt.plural(found.group_truths, "more image", "more images")
        print_line(f"  {more} whose truth is a group: see the levels")
    for line in found.caveats:
        print_line(f"  note: {line}")
    if not found.images:  # every truth is a group
        print_levels(found)
        return
    print_tables(_predictor_table(found))
    print_line(f"  {_describe_gain(found)}")
    for line in advise_members(found):
        print_line(f"  {line}")
    print_line(f"  {_describe_calibration(found)}")
    print_line("  ECE: mean distance of score and accuracy in 15 bins; floor: what chance alone would give")
    print_levels(found)
    print_tables(_group_table("score", found.by_score), _group_table("agreement", found.by_agreement))
    print_tables(_operating_point_table(found))
    print_line("  observed on this truth; the threshold was picked on it too, so it is no promise for other images")
    print_tables(_class_table(found))
    shown = f"; the {_MAX_SHOWN} worst of {len(found.classes):,}, --json has all"
    print_line(f"  mean F1 {found.macro_f1:.1%}{shown if len(found.classes) > _MAX_SHOWN else ''}")
    if found.confused:
        print_tables(_confusion_table(found))


def _predictor_table(found: Evaluation) -> Table:
    table = new_table("", "top-1", "95 %", f"top-{min(5, found.top_k)}", "95 %", "ECE", "floor")
    rows: Iterable[tuple[str, Accuracy]] = (*found.members.items(), (f"consensus ({found.combine})", found.consensus))
    for name, accuracy in rows:
        table.add_row(
            f"  {printable(name)}",
            f"{accuracy.top1:.1%}",
            show_interval(accuracy.top1_interval),
            f"{accuracy.top5:.1%}",
            show_interval(accuracy.top5_interval),
            f"{accuracy.reliability.ece:.1%}",
            f"{accuracy.reliability.floor:.1%}",
        )
    return table


def _describe_gain(found: Evaluation) -> str:
    gain = found.gain
    if gain is None:
        return "one member: the consensus is its prediction"
    low, high = gain.interval
    return (
        f"gain over the best member, {printable(gain.over)}: {100 * gain.difference:+.1f} points "
        f"({100 * low:+.1f} to {100 * high:+.1f}, paired); right alone {gain.only_first:,} : {gain.only_other:,} "
        f"times, McNemar p = {gain.p_value:.2g}"
    )


def _describe_calibration(found: Evaluation) -> str:
    if found.temperature is None:
        return "the consensus is uncalibrated: its scores are no probabilities of being right"
    if found.weights is not None:
        weights = ", ".join(f"{printable(alias)} {weight:.3g}" for alias, weight in found.weights.items())
        return f"the consensus is calibrated, a log-stack with the weights {weights}"
    return f"the consensus is calibrated, temperature {found.temperature:.3g}"


def _group_table(name: str, groups: Sequence[AccuracyGroup]) -> Table:
    table = new_table(name, "images", "right", "95 %")
    for group in groups:
        shown = f"{group.low:.2f}" if group.low == group.high else f"{group.low:.2f} to {group.high:.2f}"
        table.add_row(f"  {shown}", f"{group.images:,}", f"{group.accuracy:.1%}", show_interval(group.interval))
    return table


def _operating_point_table(found: Evaluation) -> Table:
    table = new_table("precision", "score from", "images", "share", "observed", "95 %")
    for kept in found.kept:
        if kept.threshold is None or kept.precision is None:
            table.add_row(f"  {kept.target:.0%}", "-", "0", "0.0%", "not reached", "")
            continue
        row = (f"{kept.threshold:.4f}", f"{kept.images:,}", f"{kept.coverage:.1%}", f"{kept.precision:.1%}")
        table.add_row(f"  {kept.target:.0%}", *row, show_interval(kept.interval))
    return table


def _class_table(found: Evaluation) -> Table:
    table = new_table("class", "images", "precision", "recall", "F1")
    for figures in sorted(found.classes, key=lambda figures: (figures.f1, -figures.images))[:_MAX_SHOWN]:
        shares = ("-" if share is None else f"{share:.1%}" for share in (figures.precision, figures.recall))
        table.add_row(f"  {printable(figures.name)}", f"{figures.images:,}", *shares, f"{figures.f1:.1%}")
    return table


def _confusion_table(found: Evaluation) -> Table:
    table = new_table("truth", "taken for", "images", "of the class")
    table.columns[1].justify = "left"
    for pair in found.confused[:_MAX_SHOWN]:
        names = (f"  {printable(pair.truth_name)}", printable(pair.label_name))
        table.add_row(*names, f"{pair.images:,}", f"{pair.share:.1%}")
    return table


def print_report(made: Report) -> None:
    """Print where the page is, and its counts."""
    if made.note:
        print_stderr(f"pictures: {made.note}")
    images, pictures = fmt.plural(made.images, "image"), fmt.plural(made.pictures, "picture")
    parts = [images, f"{made.quarantined:,} quarantined", f"{made.matched:,} with known truth", pictures]
    print_line(f"{made.saved}: {', '.join(parts)}, {made.num_bytes / 1e6:.1f} MB")


def print_gallery(made: Gallery) -> None:
    """Print where the page is, and its counts."""
    if made.note:
        print_stderr(f"pictures: {made.note}")
    matching = fmt.plural(made.matching, "image matches", "images match")
    parts = [matching, f"{made.shown:,} shown", f"{made.num_bytes / 1e6:.1f} MB"]
    print_line(f"{made.saved}: {', '.join(parts)}")


def print_calibration(fitted: Calibration, counts: TruthCounts, saved: str) -> None:
    """Print what was fitted, and its metrics on held-out images."""
    for line in counts.complaints:
        print_stderr(f"truth: {line}")
    stacked = fitted.method == "stack"
    if stacked:
        weights = ", ".join(f"{printable(member.alias)} {member.weight or 0:.3g}" for member in fitted.members)
        print_line(
            f"{fitted.out}: log-stack, weights {weights} (their sum is 1 / temperature {fitted.temperature:.4g})"
        )
    else:
        print_line(
            f"{fitted.out}: temperature {fitted.temperature:.4g} for the {fitted.rule} of "
            f"{fmt.plural(len(fitted.members), 'member')}"
        )
    table = new_table(fmt.plural(fitted.truths, "truth"), "NLL", "ECE", "floor")
    held = f"({fitted.folds}-fold)"
    for name, figures in (
        ("before", fitted.before),
        (f"temperature alone {held}", fitted.temperature_alone),
        (f"after {held}", fitted.after),
    ):
        if figures is None:
            continue
        table.add_row(f"  {name}", f"{figures.nll:.3f}", f"{figures.ece:.1%}", f"{figures.ece_floor:.1%}")
    print_tables(table)
    if fitted.no_class:
        print_line(
            f"  in {fitted.no_class:,} of them no class fits (none): every label is wrong there, for the fit as well"
        )
    if fitted.top1_after is None:
        print_line(f"  top-1 stays {fitted.top1:.1%}; agreement and disagreement do not change")
    else:
        print_line(f"  top-1 {fitted.top1:.1%} before, {fitted.top1_after:.1%} after {held}")
    if fitted.held_out:
        held_out = fmt.plural(fitted.held_out, "truth is", "truths are")
        print_line(f"  {held_out} held out: a promise on the calibrated output can use them")
    else:
        share = suggest_hold_out(fitted.truths - fitted.no_class)
        here = "" if share is None else f", or --hold-out {share:g} here"
        print_line(f"  all truths were fitted on: a promise on the calibrated output needs others{here}")
    print_line(f"  saved: {saved}; for other images give it to `label` as --calibration, with the same members")


def print_annotation_list(found: AnnotationList) -> None:
    """Print the list's files and counts, and the next step."""
    for line in found.problems:
        print_stderr(line)
    if (more := found.without_image - len(found.problems)) > 0:
        print_stderr(f"and {more:,} more")
    drawn = "drawn at random from" if found.order == "random" else f"by {found.order}, of"
    number = fmt.plural(found.images, "image")
    if found.added is not None:
        number = f"{fmt.plural(found.added, 'further image')}, so {number} in all,"
    print_line(f"{found.files[-1]}: {number} {drawn} {found.labelled:,} labelled ones")
    if found.without_image:
        print_line(f"  {fmt.plural(found.without_image, 'of them has', 'of them have')} no image any more")
    for name in found.files[:-1]:
        print_line(f"  with {name}")
    on_s3 = found.format == "label-studio" and found.files[-1].startswith("s3://")
    print_line(f"  {_NEXT_STEPS['label-studio on s3' if on_s3 else found.format]}; give that to --truth")
    if found.groups:
        groups = fmt.plural(found.groups, "group of classes is an answer", "groups of classes are answers")
        print_line(f"  {groups}, too; evaluate takes the same --classes")
    if found.order != "random":
        print_line("  its truth is about doubtful images: for `export --target-precision`, label a list of `sample`")
