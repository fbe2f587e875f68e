"""Contact sheets: images beside each other, with what labels say of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.page.rows import Labelled, Rejected
from pipeline.page.statistics import Pick, Statistics
from pipeline.page.thumbnails import Thumbnail
from pipeline.text import fmt


@dataclass(frozen=True, slots=True)
class Shown:
    """What is known of the images that are shown.

    Attributes:
        names: Of the classes.
        rows: Of the images.
        pictures: Thumbnails, by unit and index; not all have one.
    """

    names: Sequence[str]
    rows: Mapping[Pick, Labelled]
    pictures: Mapping[tuple[str, int], Thumbnail]


@dataclass(frozen=True, slots=True)
class Card:
    """One image of a sheet.

    Attributes:
        picture: Its thumbnail; None where there is none.
        alt: What it shows, as far as labels tell.
        title: Its class.
        facts: Figures below it.
        key: Its key.
        mark: ``right`` or ``wrong`` where its own truth is known.
    """

    picture: Thumbnail | None
    alt: str
    title: str
    facts: tuple[str, ...]
    key: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Images beside each other.

    Attributes:
        name: For links.
        title: What they have in common.
        note: How they were chosen.
        cards: The images.
    """

    name: str
    title: str
    note: str
    cards: tuple[Card, ...]


def sheets_of(found: Shown, stats: Statistics, *, several: bool) -> list[Sheet]:
    """The most and least certain images, and those that members differ about, where there are several.

    Args:
        found: What is known of the images.
        stats: Which of them are shown.
        several: Whether there are several members.
    """
    sheets = [
        ("certain", "Most certain", "The highest scores; among equal ones a random choice.", stats.most_certain),
        ("uncertain", "Least certain", "The lowest scores: first to be looked at by a person.", stats.least_certain),
    ]
    if several:
        note = "The largest disagreement of members, which each may be sure of something else."
        sheets.append(("disagreeing", "Most disagreeing", note, stats.most_disagreeing))
    return [
        Sheet(name, title, note, _cards(found, picks, disagreeing=name == "disagreeing"))
        for name, title, note, picks in sheets
        if picks
    ]


def class_sheets(found: Shown, stats: Statistics) -> list[Sheet]:
    """Some images of each of the commonest classes."""
    names, counts_K = found.names, stats.counts_K
    return [
        Sheet(
            f"class-{label}",
            names[label],
            fmt.plural(int(counts_K[label]), "image", "images"),
            _cards(found, picks),
        )
        for label, picks in stats.of_classes.items()
    ]


def _cards(found: Shown, picks: Iterable[Pick], *, disagreeing: bool = False) -> tuple[Card, ...]:
    return tuple(
        _card(row, found.pictures.get((row.unit_id, row.index)), found.names, disagreeing=disagreeing)
        for row in (found.rows[pick] for pick in picks)
    )


def _card(row: Labelled, picture: Thumbnail | None, names: Sequence[str], *, disagreeing: bool) -> Card:
    facts = [f"score {fmt.score(row.score)}"]
    if disagreeing:
        facts = [f"{own.member}: {names[own.label]} {fmt.score(own.score)}" for own in row.opinions]
        facts.append(f"disagreement {fmt.score(row.disagreement)}")
    mark = ""
    if row.truth is not None and 0 <= row.truth < len(names):
        mark = "right" if row.truth == row.label else "wrong"  # two classes may share a name
        if mark == "wrong":
            facts.append(f"truth: {names[row.truth]}")
    alt = f"Image labelled {row.class_name}, score {fmt.score(row.score)}"
    return Card(picture, alt, row.class_name, tuple(facts), row.key, mark)


def examples_of(
    examples: Iterable[Rejected], pictures: Mapping[tuple[str, int], Thumbnail]
) -> list[tuple[Rejected, Thumbnail | None]]:
    """Examples of what is in quarantine, with what can be seen of them."""
    return [(example, pictures.get((example.unit_id, example.index))) for example in examples]
