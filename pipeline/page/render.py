"""The report as HTML: the values of its template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.page import accuracy, figures, own_classes
from pipeline.page.contact_sheets import SheetData, make_class_sheets, make_sheets, pair_with_thumbnails
from pipeline.page.group_truths import GroupTruths
from pipeline.page.rendering import render
from pipeline.page.row_choice import RowRef
from pipeline.page.rows import LabelledImage, QuarantineSummary
from pipeline.page.statistics import Statistics
from pipeline.page.thumbnails import Thumbnail
from pipeline.page.timeline import Timeline
from pipeline.records import Omitted
from pipeline.taxonomy.nodes import Nodes
from pipeline.text import fmt
from pipeline.text.omissions import omitted_rows
from pipeline.trust.evaluation import Evaluation
from pipeline.trust.matched import MatchedImages

_MAX_INPUTS = 12


@dataclass(frozen=True, slots=True)
class ReportContent:
    """Everything that the page shows.

    Attributes:
        out: The output.
        job: Its ``job.json``.
        units_done, units_total: Complete units, and units in the plan; 0 where there is none.
        finished: Whether everything planned is done.
        stats: Statistics of the labelled images.
        rows: The images that are shown.
        quarantine: The samples that could not be labelled.
        omitted: What lies in the inputs and has no row.
        timeline: Throughput over time.
        evaluation, matched: Accuracy, and the images behind it; None where no image has a known truth.
        truth_notes: Truth that could not be used, and what the figures do not judge, one line for each cause.
        pictures: Thumbnails, by unit and index.
        picture_note: Why thumbnails are missing; empty where none is.
        group_truths: Images with known truth, by group; None where none is known, or without own classes.
        nodes: Of own classes; None without any.
    """

    out: str
    job: Mapping[str, Any]
    units_done: int
    units_total: int
    finished: bool
    stats: Statistics
    rows: Mapping[RowRef, LabelledImage]
    quarantine: QuarantineSummary
    omitted: Omitted
    timeline: Timeline
    evaluation: Evaluation | None
    matched: MatchedImages | None
    truth_notes: tuple[str, ...]
    pictures: Mapping[tuple[str, int], Thumbnail]
    picture_note: str
    group_truths: GroupTruths | None = None
    nodes: Nodes | None = None


def render_page(content: ReportContent) -> bytes:
    """The page as one HTML file, UTF-8.

    Args:
        content: What it shows.
    """
    return render("page.html.j2", **_template_values(content))


def _template_values(content: ReportContent) -> dict[str, Any]:
    job, stats = content.job, content.stats
    results, names = job["results"], job["class_names"]
    aliases = [member["alias"] for member in results["members"]]
    several = len(aliases) > 1
    shown = SheetData(names, content.rows, content.pictures, content.nodes)
    evaluation = content.evaluation if content.evaluation is not None and content.evaluation.images else None
    num_seen = int((stats.counts_K > 0).sum())
    return {
        "out": content.out,
        "version": job.get("shardlabel", ""),
        "notices": _notices(content),
        "tiles": _tiles(content, num_seen),
        "facts": _facts(content),
        "members": _member_table(job),
        "images": stats.images,
        "throughput": figures.plot_throughput(content.timeline),
        "rate_text": _rate_text(content.timeline),
        "classes_text": _classes_text(stats, num_seen, len(names)),
        "classes": figures.tabulate_common_classes(stats, names) if stats.images else None,
        "ranks": figures.plot_class_ranks(stats),
        "certainty": figures.plot_certainty(stats, len(aliases)) if stats.images else (),
        "several": several,
        "top1_agreement": figures.compare_top1(stats, aliases) if several and stats.images else None,
        "own": own_classes.describe(stats.groups, stats.counts_K, content.group_truths, content.evaluation)
        if stats.groups and stats.images
        else None,
        "evaluation": evaluation,
        "num_group_truths": content.evaluation.group_truths if content.evaluation else 0,
        "truth_notes": content.truth_notes,
        "gain": accuracy.describe_gain(evaluation) if evaluation else "",
        "accuracy_tables": accuracy.tabulate_accuracy(evaluation) if evaluation else (),
        "predictors": accuracy.tabulate_predictors(evaluation) if evaluation else None,
        "kept": accuracy.tabulate_operating_points(evaluation) if evaluation else None,
        "diagrams": accuracy.plot_reliability(evaluation) if evaluation else (),
        "selection": accuracy.plot_precision_by_coverage(evaluation, content.matched)
        if evaluation and content.matched
        else None,
        "picture_note": content.picture_note,
        "sheets": make_sheets(shown, stats, several=several),
        "of_classes": make_class_sheets(shown, stats),
        "quarantine": content.quarantine,
        "num_quarantined": sum(content.quarantine.samples.values()),
        "reasons": figures.tabulate_reasons(content.quarantine.samples, content.quarantine.events),
        "quarantine_examples": {
            reason: pair_with_thumbnails(own, content.pictures) for reason, own in content.quarantine.examples.items()
        },
        "fmt": fmt,
    }


def _notices(content: ReportContent) -> list[str]:
    notices = []
    left = content.units_total - content.units_done
    if not content.finished:
        of_units = f": {fmt.plural(left, 'unit is', 'units are')} left of {fmt.count(content.units_total)}" * bool(left)
        notices.append(f"This job is not finished{of_units}. Everything below is about the images labelled so far.")
    if content.quarantine.unreadable:
        many = fmt.plural(content.quarantine.unreadable, "unit", "units")
        notices.append(f"{many} could not be read at all; running the same command again tries them again.")
    if not content.stats.images:
        notices.append("No image is labelled yet.")
    elif not content.job.get("calibrated"):
        notices.append(
            "The consensus is not calibrated: its scores rank images, but are no probabilities of being right. "
            "“shardlabel calibrate” fits it where truth is known."
        )
    return notices


def _tiles(content: ReportContent, seen: int) -> list[tuple[str, str, str]]:
    """Name, figure and note of each tile."""
    stats, rejected = content.stats, sum(content.quarantine.samples.values())
    samples = stats.images + rejected
    tiles = [
        ("labelled", fmt.count(stats.images), f"of {fmt.plural(samples, 'sample', 'samples')}"),
        ("quarantined", fmt.count(rejected), fmt.percent(rejected / samples, 2) if samples else ""),
        ("classes seen", fmt.count(seen), f"of {fmt.count(len(content.job['class_names']))}"),
    ]
    if stats.images:
        tiles.append(("median score", fmt.score(stats.score.quantile(0.5)), "of the consensus"))
    if stats.images and len(content.job["results"]["members"]) > 1:
        full = stats.agreement.get(1.0, 0) / stats.images
        tiles.append(("all agree", fmt.percent(full), "of the images"))
    if content.evaluation is not None and content.evaluation.images:
        low, high = content.evaluation.consensus.top1_interval
        tiles.append(
            ("top-1", fmt.percent(content.evaluation.consensus.top1), f"95 %: {100 * low:.1f} to {100 * high:.1f}")
        )
    if content.timeline.images_per_s is not None:
        tiles.append(("images/s", fmt.rate(content.timeline.images_per_s), "pauses left out"))
    return tiles


def _facts(content: ReportContent) -> list[tuple[str, list[str]]]:
    """Name and lines of each fact about the run."""
    job = content.job
    results = job["results"]
    inputs = [str(uri) for uri in job.get("inputs", ())]
    more = [f"and {fmt.count(len(inputs) - _MAX_INPUTS)} more"] if len(inputs) > _MAX_INPUTS else []
    calibration = results.get("calibration")
    versions = ", ".join(f"{name} {version}" for name, version in job.get("versions", {}).items() if version)
    top_k = min(results["top_k"], len(job["class_names"]))
    facts = [
        ("Output", [content.out]),
        ("Inputs", [*inputs[:_MAX_INPUTS], *more]),
        ("Units", [f"{fmt.count(content.units_done)} of {fmt.count(content.units_total)} done"]),
        *((name.capitalize(), [line]) for name, line in omitted_rows(content.omitted)),
        (
            "Consensus",
            [f"{results['combine']} of {fmt.plural(len(results['members']), 'member', 'members')}, top {top_k}"],
        ),
        (
            "Calibration",
            [
                f"temperature {calibration['temperature']:.4g}, file {calibration['sha256'][:12]}"
                if calibration
                else "none"
            ],
        ),
        ("Precision", [", ".join(filter(None, (results.get("precision", ""), job.get("device", ""))))]),
        ("Decoding", [results.get("decode", "")]),
        ("Kept fields", [", ".join(results.get("keep", ()))]),
        (
            "Published",
            [f"{fmt.moment(content.timeline.first_s)} to {fmt.moment(content.timeline.last_s)}"]
            if content.timeline.first_s
            else [],
        ),
        ("Fingerprint", [job["fingerprint"]]),
        ("Versions", [versions and f"shardlabel {job.get('shardlabel', '')}, {versions}"]),
    ]
    return [(name, lines) for name, lines in facts if any(lines)]


def _member_table(job: Mapping[str, Any]) -> figures.Table:
    members = job["results"]["members"]
    total = sum(member["factor"] for member in members)
    named = any(member["alias"] != member["arch"].removeprefix("timm/") for member in members)
    rows = tuple(
        (
            member["alias"],
            *((member["arch"],) if named else ()),
            fmt.percent(member["factor"] / total),
            _recipe_text(member.get("recipe")),
            str(job.get("weights_files", {}).get(member["alias"], "")),
            member["weights_sha256"][:12],
        )
        for member in members
    )
    header = ("member", *(("architecture",) if named else ()), "weight", "preprocessing", "weights file", "sha256")
    in_words = frozenset(at for at, head in enumerate(header) if head != "weight")
    return figures.Table("Members of the ensemble", header, rows, text_columns=in_words)


def _recipe_text(recipe: Mapping[str, Any] | None) -> str:
    if not recipe:
        return ""
    geometry = recipe.get("geometry", {})
    return f"resize {geometry.get('resize_px')}, crop {geometry.get('crop_px')}, {geometry.get('interpolation')}"


def _rate_text(content: Timeline) -> str:
    if not len(content.seconds_T):
        return "Nothing has been published yet."
    span_s = float(content.seconds_T[-1])
    parts = fmt.plural(len(content.seconds_T), "part", "parts")
    if content.images_per_s is None:
        return f"{parts} published within {fmt.duration(span_s)}: too few, or too fast, to tell a rate from."
    paused_s = sum(end - start for start, end in content.pauses)
    pauses = f", {fmt.duration(paused_s)} of it in {fmt.plural(len(content.pauses), 'pause', 'pauses')} left out"
    return (
        f"{fmt.rate(content.images_per_s)} images/s: {parts} published within {fmt.duration(span_s)}"
        f"{pauses if content.pauses else ''}."
    )


def _classes_text(stats: Statistics, seen: int, num_classes: int) -> str:
    none = num_classes - seen
    if not none:
        return f"Every one of the {fmt.count(num_classes)} classes has images."
    return f"{fmt.count(none)} of {fmt.count(num_classes)} classes have no image."
