"""The list as a table of answers: each annotator's, and the truth that follows from them.

Who labels alone gives no name, and the answers are the column ``truth`` itself. With names each annotator has a column
of their own, ``truth by NAME``, and ``truth`` is the majority of them, or empty where there is a tie; with a tree it
may be a group that most of them lie in. Answers that stood in ``truth`` before the first name was given are kept as
those of an annotator without name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipeline.annotation_page.csv_text import CsvText
from pipeline.errors import RequestError
from pipeline.labels import ClassResolver, distinct_names
from pipeline.taxonomy.answers import answers_of
from pipeline.taxonomy.tree import Taxonomy
from pipeline.taxonomy.votes import settle
from pipeline.trust.draw import COLUMN, mark_shown

NONE, NONE_LABEL = "none", -1  # the answer that no class fits
NAMELESS = "(no name)"
_TRUTH, _BY = "truth", "truth by "

Identity = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class ListedRow:
    """An image of the list, whose cells are empty where the list lacks the column.

    Attributes:
        shard, key, index: Which image it is.
        image: Path of its file, relative to the list.
        sha256: Of the image.
    """

    shard: str
    key: str
    index: str
    image: str
    sha256: str

    @property
    def identity(self) -> Identity:
        """What tells it from other images."""
        return self.shard, self.key, self.index


@dataclass(frozen=True, slots=True)
class Answered:
    """How far a list is.

    Attributes:
        images: Of the list.
        truths: Images with a truth, ``none`` included.
        none: Images in which no class fits.
        tied: Images without truth because as many annotators say one thing as another.
        by: Answers of each annotator; empty where no names were given.
    """

    images: int
    truths: int
    none: int
    tied: int
    by: dict[str, int]


class AnswerNames:
    """Which answers there are.

    Args:
        class_names: Of the K classes.
        taxonomy: N groups of them that are answers, too; None for none.

    Attributes:
        taxonomy: The groups.
        written: The names that answers are written as: K, and N of groups, empty for a group without one.
        none_is_class: Whether ``none`` is the name of a class, so that nobody can say that no class fits.
    """

    def __init__(self, class_names: Sequence[str], taxonomy: Taxonomy | None = None) -> None:
        self.taxonomy = taxonomy
        self.written = distinct_names(class_names) if taxonomy is None else answers_of(taxonomy).names
        self._resolver = ClassResolver(class_names) if taxonomy is None else answers_of(taxonomy)
        self.none_is_class = self._resolver.resolve(NONE) not in (None, NONE_LABEL)

    def label_of(self, answer: str) -> int | None:
        """What an answer names: a class, 0 to K - 1; a group, from K on; -1 for ``none``; None for anything else."""
        label = self._resolver.resolve(answer) if answer.strip() else None
        return NONE_LABEL if label is None and answer.strip().casefold() == NONE else label

    def majority(self, votes: Iterable[str]) -> str:
        """The answer that follows from votes; empty without votes, and where there is a tie."""
        label = settle([label for label in map(self.label_of, votes) if label is not None], self.taxonomy)
        if label is None:
            return ""
        return NONE if label == NONE_LABEL else self.written[int(label)]


class AnswerTable:
    """The answers in one version of a list.

    Args:
        place: Path of the list, for messages.
        data: Its content.
        names: Which answers there are.

    Attributes:
        rows: Its images, in order, each once.

    Raises:
        RequestError: It is no list, or holds no images.
    """

    def __init__(self, place: str, data: bytes, names: AnswerNames) -> None:
        self._names = names
        self._text = CsvText(place, data)
        self._text.check_encoding(names.written)
        header = [name.strip().casefold() for name in self._text.row(0)] if len(self._text) else []
        missing = [name for name in ("key", _TRUTH) if header.count(name) != 1]
        if missing:
            raise RequestError(
                f"{place}: has no column {' and '.join(missing)}; `annotate` fills in the lists that `sample` and "
                "`review` write as CSV"
            )
        self._truth = header.index(_TRUTH)
        self._drawn = header.index(COLUMN) if COLUMN in header else None
        self._columns = {
            name.strip()[len(_BY) :]: at
            for at, name in enumerate(self._text.row(0))
            if name.strip().casefold().startswith(_BY)
        }
        self.rows: list[ListedRow] = []
        self._numbers_of: dict[Identity, list[int]] = {}
        columns = [header.index(name) if name in header else None for name in ListedRow.__dataclass_fields__]
        for number in range(1, len(self._text)):
            if self._text.width(number) != len(header):
                continue  # no row, for those who read the truth either
            cells = self._text.row(number)
            row = ListedRow(*("" if column is None else cells[column] for column in columns))
            numbers = self._numbers_of.setdefault(row.identity, [])
            if not numbers:
                self.rows.append(row)
            numbers.append(number)
        if not self.rows:
            raise RequestError(f"{place}: has no images; there is nothing to label")

    def encode(self) -> bytes:
        """The file."""
        return self._text.encode()

    def annotators(self) -> tuple[str, ...]:
        """Names of those who have a column, in order."""
        return tuple(self._columns)

    def known_name(self, by: str) -> str:
        """A name as it stands in the list, in whatever case it is given.

        Raises:
            RequestError: The encoding of the list lacks a character of it.
        """
        self._text.check_encoding([by])
        return next((known for known in self._columns if known.casefold() == by.casefold()), by)

    def has(self, image: Identity) -> bool:
        """Whether an image is in the list."""
        return image in self._numbers_of

    def answer(self, image: Identity, by: str) -> str:
        """An annotator's answer as it stands there; empty for none. Without a name: the truth."""
        column = self._columns.get(by) if by else self._truth
        numbers = self._numbers_of.get(image)
        return "" if column is None or not numbers else self._text.cell(numbers[0], column)

    def put(self, image: Identity, by: str, answer: str) -> None:
        """Set an annotator's answer, and what follows for the truth."""
        column = self._column(by) if by else self._truth
        for number in self._numbers_of[image]:
            self._text.change(number, column, answer)
            if by:
                votes = [self._text.cell(number, column) for column in self._columns.values()]
                self._text.change(number, self._truth, self._names.majority(votes))

    def mark_shown(self, image: Identity) -> None:
        """Note that an image is answered with the networks' predictions in view; in a column of its own if need be."""
        if self._drawn is None:
            self._drawn = self._text.add_column(COLUMN)
        for number in self._numbers_of[image]:
            if (marked := mark_shown(text := self._text.cell(number, self._drawn))) != text:
                self._text.change(number, self._drawn, marked)

    def is_shown(self, image: Identity) -> bool:
        """Whether an image was answered with the networks' predictions in view."""
        if self._drawn is None or not (numbers := self._numbers_of.get(image)):
            return False
        text = self._text.cell(numbers[0], self._drawn)
        return mark_shown(text) == text

    def take_over(self, other: AnswerTable) -> int:
        """Take over the answers by name from another list, where there is none here; returns how many."""
        taken = 0
        for theirs in other.annotators():
            by = self.known_name(theirs)
            for row in self.rows:
                answer = other.answer(row.identity, theirs)
                if self._names.label_of(answer) is not None and not self.answer(row.identity, by).strip():
                    self.put(row.identity, by, answer)
                    if other.is_shown(row.identity):
                        self.mark_shown(row.identity)
                    taken += 1
        return taken

    def count(self) -> Answered:
        """How far the list is."""
        answered = self._answered
        labels = [self._names.label_of(self.answer(row.identity, "")) for row in self.rows]
        voted = [any(answered(row, by) for by in self._columns) for row in self.rows]
        by = {name: sum(answered(row, name) for row in self.rows) for name in self._columns}
        tied = sum(label is None and own for label, own in zip(labels, voted, strict=True))
        truths = [label for label in labels if label is not None]
        return Answered(len(labels), len(truths), truths.count(NONE_LABEL), tied, by)

    def _answered(self, row: ListedRow, by: str) -> bool:
        return self._names.label_of(self.answer(row.identity, by)) is not None

    def _column(self, by: str) -> int:
        """The column of an annotator, which is made if there is none."""
        if not self._columns and (named := self._truths()):
            self._columns[NAMELESS] = self._text.add_column(_BY + NAMELESS)
            for number, answer in named.items():
                self._text.change(number, self._columns[NAMELESS], answer)
        if by not in self._columns:
            self._columns[by] = self._text.add_column(_BY + by)
        return self._columns[by]

    def _truths(self) -> Mapping[int, str]:
        """What stands in the column truth, by number of the row."""
        cells = {number: self._text.cell(number, self._truth) for own in self._numbers_of.values() for number in own}
        return {number: cell for number, cell in cells.items() if cell.strip()}
