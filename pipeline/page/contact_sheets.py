"""Contact sheets: images side by side with their labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.labels import NO_CLASS, NO_CLASS_TEXTS
from pipeline.page.row_choice import RowRef
from pipeline.page.rows import LabelledImage, QuarantineExample
from pipeline.page.statistics import Statistics
from pipeline.page.thumbnails import Thumbnail
from pipeline.taxonomy.nodes import Nodes
from pipeline.text import fmt


@dataclass(frozen=True, slots=True)
class SheetData:
    """The images that sheets may show.

    Attributes:
        names: Of the K classes.
        rows: The images.
        pictures: Thumbnails, by unit and index; not all images have one.
        nodes: Of own classes, whose groups may be truths; None without any.
    """

    names: Sequence[str]
    rows: Mapping[RowRef, LabelledImage]
    pictures: Mapping[tuple[str, int], Thumbnail]
    nodes: Nodes | None = None


@dataclass(frozen=True, slots=True)
class Card:
    """One image of a sheet.

    Attributes:
        picture: Its thumbnail; None where there is none.
        alt: Its label as text, for readers without pictures.
        title: Its class.
        facts: Lines below the title.
        key: Its key.
        mark: ``right`` or ``wrong`` where its truth is known; empty elsewhere.
    """

    picture: Thumbnail | None
    alt: str
    title: str
    facts: tuple[str, ...]
    key: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Images side by side.

    Attributes:
        name: Anchor for links.
        title: What they have in common.
        note: How they were chosen.
        cards: The images.
    """

    name: str
    title: str
    note: str
    cards: tuple[Card, ...]


def make_sheets(images: SheetData, stats: Statistics, *, several: bool) -> list[Sheet]:
    """Sheets of the most and least certain images; with several members, of the largest disagreement too.

    Args:
        images: The images.
        stats: Which of them each sheet shows.
        several: Whether there are several members.
    """
    sheets = [
        ("certain", "Most certain", "The highest scores; among equal ones a random choice.", stats.most_certain),
        ("uncertain", "Least certain", "The lowest scores: first to be looked at by a person.", stats.least_certain),
    ]
    if several:
        note = "The largest disagreement of the members: each may be sure of another class."
        sheets.append(("disagreeing", "Most disagreeing", note, stats.most_disagreeing))
    return [
        Sheet(name, title, note, _make_cards(images, row_refs, disagreeing=name == "disagreeing"))
        for name, title, note, row_refs in sheets
        if row_refs
    ]


def make_class_sheets(images: SheetData, stats: Statistics) -> list[Sheet]:
    """A sheet for each of the most frequent classes."""
    names, counts_K = images.names, stats.counts_K
    return [
        Sheet(
            f"class-{label}",
            names[label],
            fmt.plural(int(counts_K[label]), "image", "images"),
            _make_cards(images, row_refs),
        )
        for label, row_refs in stats.of_classes.items()
    ]


def _make_cards(images: SheetData, row_refs: Iterable[RowRef], *, disagreeing: bool = False) -> tuple[Card, ...]:
    return tuple(
        make_card(
            row,
            images.pictures.get((row.unit_id, row.index)),
            images.names,
            disagreeing=disagreeing,
            nodes=images.nodes,
        )
        for row in (images.rows[row_ref] for row_ref in row_refs)
    )


def make_card(
    row: LabelledImage,
    picture: Thumbnail | None,
    names: Sequence[str],
    *,
    disagreeing: bool,
    nodes: Nodes | None = None,
) -> Card:
    """The card of one image.

    Args:
        row: Its row.
        picture: Its thumbnail; None where there is none.
        names: Of the K classes.
        disagreeing: Whether to show the members' predictions and their disagreement, instead of the score.
        nodes: Of own classes: a label below a truth that is a group is right; None without any.
    """
    facts = [f"score {fmt.score(row.score)}"]
    if disagreeing:
        facts = [f"{each.member}: {names[each.label]} {fmt.score(each.score)}" for each in row.member_predictions]
        facts.append(f"disagreement {fmt.score(row.disagreement)}")
    mark = ""
    if row.truth is not None and NO_CLASS <= row.truth < len(names):
        mark = "right" if row.truth == row.label else "wrong"  # two classes may share a name
        if mark == "wrong":
            facts.append(f"truth: {NO_CLASS_TEXTS[0] if row.truth == NO_CLASS else names[row.truth]}")
    elif row.truth is not None and nodes is not None and len(names) <= row.truth < len(nodes):
        is_right = nodes.is_at_or_below(np.array(row.label), np.array(row.truth))
        mark = "right" if is_right else "wrong"
        facts.append(f"truth: {nodes.names[row.truth]}")
    alt = f"Image labelled {row.class_name}, score {fmt.score(row.score)}"
    return Card(picture, alt, row.class_name, tuple(facts), row.key, mark)


def pair_with_thumbnails(
    examples: Iterable[QuarantineExample], pictures: Mapping[tuple[str, int], Thumbnail]
) -> list[tuple[QuarantineExample, Thumbnail | None]]:
    """Examples of quarantined samples, with their thumbnails; None where there is none."""
    return [(example, pictures.get((example.unit_id, example.index))) for example in examples]
