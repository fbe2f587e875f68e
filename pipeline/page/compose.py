"""The page put together: everything that is known of an output, in the order in which it is read.

Names, keys and messages come from inputs. Whatever the template shows goes through :func:`_shown`: control characters
and marks of writing direction become escapes there, and Jinja escapes what HTML would obey. Besides, the page forbids
itself scripts and every request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from pipeline.page import accuracy, figures
from pipeline.page.contact_sheets import Shown, class_sheets, examples_of, sheets_of
from pipeline.page.rows import Labelled, Quarantine
from pipeline.page.statistics import Pick, Statistics
from pipeline.page.thumbnails import Thumbnail
from pipeline.page.timeline import Timeline
from pipeline.text import fmt
from pipeline.text.safe import printable
from pipeline.trust.evaluation import Evaluation
from pipeline.trust.matched import MatchedImages

_SHOWN_INPUTS = 12
_BEHIND_SIGNS = re.compile(r"(?<=[_/.-])(?=[^_/.0-9-])")


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the page tells.

    Attributes:
        out: The output.
        job: Its ``job.json``.
        units_done, units_total: Complete units, and units in the plan; 0 where there is none.
        finished: Whether everything planned is done.
        stats: What is counted of the images.
        rows: The images that are shown.
        quarantine: What could not be labelled.
        timeline: When it was done.
        evaluation, matched: What is right, where the truth is known to any image; None elsewhere.
        truth_notes: What a person should know of the truth.
        pictures: Thumbnails of what is shown, by unit and index.
        picture_note: Why there are none, or not all; empty where there are.
    """

    out: str
    job: Mapping[str, Any]
    units_done: int
    units_total: int
    finished: bool
    stats: Statistics
    rows: Mapping[Pick, Labelled]
    quarantine: Quarantine
    timeline: Timeline
    evaluation: Evaluation | None
    matched: MatchedImages | None
    truth_notes: tuple[str, ...]
    pictures: Mapping[tuple[str, int], Thumbnail]
    picture_note: str


def compose(found: Findings) -> bytes:
    """The page as one HTML file.

    Args:
        found: What it tells.
    """
    folder = files("pipeline.page")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: folder.joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["soft"] = _soft
    style = Markup(folder.joinpath("style.css").read_text("utf-8"))  # noqa: S704 - ships with this module
    page = environment.get_template("page.html.j2").render(style=style, **_content(found))
    return page.encode("utf-8")


def _shown(value: object) -> object:
    """Text from anywhere, as it may be shown; what was made for the page stays as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _soft(text: str) -> Markup:
    """Text that may go on in the next line behind the signs that hold names together."""
    return Markup("<wbr>").join(printable(piece) for piece in _BEHIND_SIGNS.split(text))


def _content(found: Findings) -> dict[str, Any]:
    job, stats = found.job, found.stats
    results, names = job["results"], job["class_names"]
    aliases = [member["alias"] for member in results["members"]]
    several = len(aliases) > 1
    shown = Shown(names, found.rows, found.pictures)
    evaluation = found.evaluation if found.evaluation is not None and found.evaluation.images else None
    seen = int((stats.counts_K > 0).sum())
    return {
        "out": found.out,
        "version": job.get("shardlabel", ""),
        "notices": _notices(found),
        "tiles": _tiles(found, seen),
        "facts": _facts(found),
        "members": _members(job),
        "images": stats.images,
        "throughput": figures.throughput(found.timeline),
        "rate_words": _rate_words(found.timeline),
        "classes_words": _classes_words(stats, seen, len(names)),
        "classes": figures.common_classes(stats, names) if stats.images else None,
        "ranks": figures.class_ranks(stats),
        "certainty": figures.certainty(stats, len(aliases)) if stats.images else (),
        "several": several,
        "same_first": figures.same_first(stats, aliases) if several and stats.images else None,
        "evaluation": evaluation,
        "truth_notes": found.truth_notes,
        "gain": accuracy.gain_words(evaluation) if evaluation else "",
        "accuracy_tables": accuracy.tables(evaluation) if evaluation else (),
        "predictors": accuracy.predictors(evaluation) if evaluation else None,
        "kept": accuracy.kept(evaluation) if evaluation else None,
        "diagrams": accuracy.reliability_diagrams(evaluation) if evaluation else (),
        "selection": accuracy.selection(evaluation, found.matched) if evaluation and found.matched else None,
        "picture_note": found.picture_note,
        "sheets": sheets_of(shown, stats, several=several),
        "of_classes": class_sheets(shown, stats),
        "quarantine": found.quarantine,
        "num_rejected": sum(found.quarantine.samples.values()),
        "reasons": figures.reasons(found.quarantine.samples, found.quarantine.events),
        "rejected": {reason: examples_of(own, found.pictures) for reason, own in found.quarantine.examples.items()},
        "fmt": fmt,
    }


def _notices(found: Findings) -> list[str]:
    notices = []
    left = found.units_total - found.units_done
    if not found.finished:
        of_units = f": {fmt.plural(left, 'unit is', 'units are')} left of {fmt.count(found.units_total)}" * bool(left)
        notices.append(f"This job is not finished{of_units}. Everything below is about what is there so far.")
    if found.quarantine.unreadable:
        many = fmt.plural(found.quarantine.unreadable, "unit", "units")
        notices.append(f"{many} could not be read at all; running the same command again tries them again.")
    if not found.stats.images:
        notices.append("No image is labelled, so there is nothing to count.")
    elif not found.job.get("calibrated"):
        notices.append(
            "The consensus is not calibrated: its scores put images in order, and promise nothing. "
            "“shardlabel calibrate” fits it where truth is known."
        )
    return notices


def _tiles(found: Findings, seen: int) -> list[tuple[str, str, str]]:
    """Name, figure, and what to add to it."""
    stats, rejected = found.stats, sum(found.quarantine.samples.values())
    samples = stats.images + rejected
    tiles = [
        ("labelled", fmt.count(stats.images), f"of {fmt.plural(samples, 'sample', 'samples')}"),
        ("quarantined", fmt.count(rejected), fmt.percent(rejected / samples, 2) if samples else ""),
        ("classes seen", fmt.count(seen), f"of {fmt.count(len(found.job['class_names']))}"),
    ]
    if stats.images:
        tiles.append(("median score", fmt.score(stats.score.quantile(0.5)), "of the consensus"))
    if stats.images and len(found.job["results"]["members"]) > 1:
        full = stats.agreement.get(1.0, 0) / stats.images
        tiles.append(("all agree", fmt.percent(full), "of the images"))
    if found.evaluation is not None and found.evaluation.images:
        low, high = found.evaluation.consensus.top1_interval
        tiles.append(
            ("top-1", fmt.percent(found.evaluation.consensus.top1), f"95 %: {100 * low:.1f} to {100 * high:.1f}")
        )
    if found.timeline.images_per_s is not None:
        tiles.append(("images/s", fmt.rate(found.timeline.images_per_s), "pauses left out"))
    return tiles


def _facts(found: Findings) -> list[tuple[str, list[str]]]:
    """Name and lines."""
    job = found.job
    results = job["results"]
    inputs = [str(uri) for uri in job.get("inputs", ())]
    more = [f"and {fmt.count(len(inputs) - _SHOWN_INPUTS)} more"] if len(inputs) > _SHOWN_INPUTS else []
    calibration = results.get("calibration")
    versions = ", ".join(f"{name} {version}" for name, version in job.get("versions", {}).items() if version)
    top_k = min(results["top_k"], len(job["class_names"]))
    facts = [
        ("Output", [found.out]),
        ("Inputs", [*inputs[:_SHOWN_INPUTS], *more]),
        ("Units", [f"{fmt.count(found.units_done)} of {fmt.count(found.units_total)} done"]),
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
            [f"{fmt.moment(found.timeline.first_s)} to {fmt.moment(found.timeline.last_s)}"]
            if found.timeline.first_s
            else [],
        ),
        ("Fingerprint", [job["fingerprint"]]),
        ("Versions", [versions and f"shardlabel {job.get('shardlabel', '')}, {versions}"]),
    ]
    return [(name, lines) for name, lines in facts if any(lines)]


def _members(job: Mapping[str, Any]) -> figures.Table:
    members = job["results"]["members"]
    total = sum(member["factor"] for member in members)
    named = any(member["alias"] != member["arch"].removeprefix("timm/") for member in members)
    rows = tuple(
        (
            member["alias"],
            *((member["arch"],) if named else ()),
            fmt.percent(member["factor"] / total),
            _recipe(member.get("recipe")),
            str(job.get("weights_files", {}).get(member["alias"], "")),
            member["weights_sha256"][:12],
        )
        for member in members
    )
    heads = ("member", *(("architecture",) if named else ()), "weight", "preprocessing", "weights file", "sha256")
    in_words = frozenset(at for at, head in enumerate(heads) if head != "weight")
    return figures.Table("Members of the ensemble", heads, rows, words_in=in_words)


def _recipe(recipe: Mapping[str, Any] | None) -> str:
    if not recipe:
        return ""
    geometry = recipe.get("geometry", {})
    return f"resize {geometry.get('resize_px')}, crop {geometry.get('crop_px')}, {geometry.get('interpolation')}"


def _rate_words(found: Timeline) -> str:
    if not len(found.seconds_T):
        return "Nothing has been published yet."
    span_s = float(found.seconds_T[-1])
    parts = fmt.plural(len(found.seconds_T), "part", "parts")
    if found.images_per_s is None:
        return f"{parts} published within {fmt.duration(span_s)}: too few, or too fast, to tell a rate from."
    paused_s = sum(end - start for start, end in found.pauses)
    pauses = f", {fmt.duration(paused_s)} of it in {fmt.plural(len(found.pauses), 'pause', 'pauses')} left out"
    return (
        f"{fmt.rate(found.images_per_s)} images/s: {parts} published within {fmt.duration(span_s)}"
        f"{pauses if found.pauses else ''}."
    )


def _classes_words(stats: Statistics, seen: int, num_classes: int) -> str:
    none = num_classes - seen
    if not none:
        return f"Every one of the {fmt.count(num_classes)} classes has images."
    return f"{fmt.count(none)} of {fmt.count(num_classes)} classes have no image."
