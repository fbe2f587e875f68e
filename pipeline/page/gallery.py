"""The gallery: pictures of the rows that a query found, on one page, each enlargeable without a script."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.inputs.originals import Wanted, fetch_originals
from pipeline.output.ledger import Ledger
from pipeline.page.contact_sheets import Card, SheetData, make_card
from pipeline.page.figures import Table
from pipeline.page.query import QueryResult
from pipeline.page.rendering import render
from pipeline.page.rows import LabelledImage, read_labelled
from pipeline.page.thumbnails import SIDE_PX, Thumbnail, describe_missing, scale_down
from pipeline.storage import Storage
from pipeline.taxonomy.nodes import nodes_of
from pipeline.taxonomy.stored import stored_classes
from pipeline.text import fmt

LARGE_PX = 720


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of the gallery.

    Attributes:
        card: What the overview shows.
        large: The enlarged picture; None where there is none.
        shard: Of its row.
        facts: Names and values below the enlarged picture.
        members: The members' predictions; None with a single member.
    """

    card: Card
    large: Thumbnail | None
    shard: str
    facts: tuple[tuple[str, str], ...]
    members: Table | None


@dataclass(frozen=True, slots=True)
class GalleryContent:
    """Everything that a gallery shows.

    Attributes:
        out: The output.
        title: What its images have in common.
        note: How they were chosen.
        pictures: The images, in order.
        problem: Why pictures are missing; empty where none is.
    """

    out: str
    title: str
    note: str
    pictures: tuple[Picture, ...]
    problem: str


def collect_pictures(
    ledger: Ledger, storage: Storage, job: Mapping[str, Any], found: QueryResult
) -> tuple[tuple[Picture, ...], str]:
    """Read the rows and the originals of what a query found; and say why pictures are missing.

    Args:
        ledger: The output.
        storage: How to reach it and its inputs.
        job: Its ``job.json``.
        found: The rows.

    Raises:
        StorageError: A part cannot be read.
    """
    rows = read_labelled(ledger, sorted(found.row_refs))
    rows |= {row_ref: dataclasses.replace(rows[row_ref], truth=truth) for row_ref, truth in found.truths.items()}
    wanted = {Wanted(row.unit_id, row.part, row.index, row.key, row.sha256) for row in rows.values()}
    sizes: dict[tuple[str, int], tuple[Thumbnail, ...]] = {}
    problems: Counter[str] = Counter()
    for original in fetch_originals(wanted, ledger, storage):
        made = () if original.image is None else scale_down(original.image, SIDE_PX, LARGE_PX)
        sizes[original.wanted.unit_id, original.wanted.index] = made
        if not made:
            problems[original.problem or "cannot be decoded"] += 1
    names: Sequence[str] = job["class_names"]
    small = {place: made[0] for place, made in sizes.items() if made}
    taxonomy = stored_classes(job)
    shown = SheetData(names, rows, small, nodes=None if taxonomy is None else nodes_of(taxonomy))
    pictures = []
    for row_ref in found.row_refs:
        row = rows[row_ref]
        made = sizes.get((row.unit_id, row.index), ())
        card = make_card(row, small.get((row.unit_id, row.index)), shown.names, disagreeing=False, nodes=shown.nodes)
        pictures.append(Picture(card, made[1] if made else None, row.shard, _facts(row), _members(row, names)))
    return tuple(pictures), describe_missing(problems, len(rows))


def _facts(row: LabelledImage) -> tuple[tuple[str, str], ...]:
    several = len(row.member_predictions) > 1
    values = [("score", row.score), ("entropy", row.entropy)]
    values += [("agreement", row.agreement), ("disagreement", row.disagreement)] if several else []
    return tuple((name, fmt.score(value)) for name, value in values)


def _members(row: LabelledImage, names: Sequence[str]) -> Table | None:
    if len(row.member_predictions) < 2:
        return None
    rows = tuple((each.member, names[each.label], fmt.score(each.score)) for each in row.member_predictions)
    return Table("Members", ("member", "class", "score"), rows, text_columns=frozenset({1}))


def render_gallery(content: GalleryContent) -> bytes:
    """The page as one HTML file, UTF-8.

    Args:
        content: What it shows.
    """
    values = {each.name: getattr(content, each.name) for each in dataclasses.fields(content)}
    return render("gallery.html.j2", "gallery.js", **values)
