"""The list as a table of answers: each annotator's, and the truth that follows from them.

Who labels alone gives no name, and the answers are the column ``truth`` itself. With names each annotator has a column
of their own, ``truth by NAME``, and ``truth`` is the majority of them, or empty where there is a tie. Answers that
stood in ``truth`` before the first name was given are kept as those of an annotator without name.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.annotating.csv_text import CsvText
from pipeline.errors import ObjectChanged, RequestError, StorageError
from pipeline.labels import ClassResolver, distinct_names
from pipeline.storage import Entry, Storage, absolute_uri

NONE, NONE_LABEL = "none", -1  # the answer that no class fits
NAMELESS = "(no name)"
_TRUTH, _BY = "truth", "truth by "
_IDENTITY = ("shard", "key", "index")
_OTHERS = ("image", "sha256", "label")
_MAX_NAME = 60
_MOST_TRIES = 20


@dataclass(frozen=True, slots=True)
class ListedRow:
    """An image of the list, whose cells are empty where the list lacks the column.

    Attributes:
        shard, key, index: Which image it is.
        image: Path of its file, relative to the list.
        sha256: Of the image.
        label: Of the consensus.
    """

    shard: str
    key: str
    index: str
    image: str
    sha256: str
    label: str


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


class AnswerConflict(Exception):  # noqa: N818 - no error of the program
    """The cell was changed by somebody else.

    Attributes:
        now: What stands there now.
    """

    def __init__(self, now: str) -> None:
        super().__init__(now)
        self.now = now


class AnswerList:
    """A list that is filled in. Each answer is written at once, into whatever the file holds by then.

    Args:
        place: Path or URI of the CSV.
        class_names: Of the K classes.
        storage: How to reach it.

    Attributes:
        place: Its absolute path or URI.
        names: The names that answers are written as, K.

    Raises:
        RequestError: It is missing, or no list.
    """

    def __init__(self, place: str, class_names: Sequence[str], storage: Storage) -> None:
        self.place = place
        self.names = distinct_names(class_names)
        self._resolver = ClassResolver(class_names)
        self._storage = storage
        self._lock = threading.Lock()
        self._data: bytes | None = None
        self._entry: Entry | None = None
        self._rows: list[ListedRow] = []  # only grows, so that numbers of rows stay what they are
        self._at: dict[tuple[str, ...], int] = {}
        self._read()
        self._text.check_encoding(self.names)
        self.none_is_class = self._resolver.resolve(NONE) not in (None, NONE_LABEL)

    @property
    def rows(self) -> tuple[ListedRow, ...]:
        """The images, in the order of the list; those that are added to the file later come last."""
        return tuple(self._rows)

    def annotators(self) -> tuple[str, ...]:
        """Names of those who have a column, in order."""
        with self._lock:
            return tuple(self._columns_by())

    def answers(self, by: str) -> list[str]:
        """An annotator's answer to each image, as it stands in the file.

        Args:
            by: Their name; empty for who labels alone.
        """
        with self._lock:
            self._read()
            column = self._column_of(by)
            return [self._cell(numbers, column) for numbers in self._numbers()]

    def label_of(self, answer: str) -> int | None:
        """The class that an answer names, 0 to K - 1; -1 for ``none``; None for no answer and for what is no class."""
        label = self._resolver.resolve(answer) if answer.strip() else None
        if label is None and answer.strip().casefold() == NONE:
            return NONE_LABEL
        return label

    def put(self, at: int, by: str, answer: str, was: str) -> None:
        """Write an answer to the file.

        Args:
            at: Number of the image.
            by: Name of the annotator; empty for who labels alone.
            answer: One of :attr:`names`, ``none``, or empty to take an answer back.
            was: The annotator's answer as it was seen last.

        Raises:
            AnswerConflict: The answer in the file is another than ``was``.
            RequestError: The file can no longer be read or written, or the image is no longer in it.
        """
        if answer and self.label_of(answer) is None:
            raise RequestError(f"{answer!r} is no class")
        with self._lock:
            for _ in range(_MOST_TRIES):
                self._read()
                if self._write(at, by, answer, was):
                    return
        raise RequestError(f"{self.place}: is being written by another program all the time")

    def check_name(self, by: str) -> str:
        """An annotator's name as it is written.

        Raises:
            RequestError: It cannot be the name of a column, or a name is needed.
        """
        name = " ".join(by.split())
        if len(name) > _MAX_NAME or not name.isprintable():
            raise RequestError(f"a name has at most {_MAX_NAME} letters, and no control characters")
        with self._lock:
            columns = self._columns_by()
            if not name and columns:
                raise RequestError("this list has answers by name: " + ", ".join(columns))
            self._text.check_encoding([name])
            return next((known for known in columns if known.casefold() == name.casefold()), name)

    def count(self) -> Answered:
        """How far the list is."""
        with self._lock:
            self._read()
            truth, columns = self._column(_TRUTH), self._columns_by()
            assert truth is not None
            labels = [self.label_of(self._cell(numbers, truth)) for numbers in self._numbers()]
            by = {
                name: sum(self.label_of(self._cell(numbers, column)) is not None for numbers in self._numbers())
                for name, column in columns.items()
            }
            voted = [any(self._cell(numbers, column) for column in columns.values()) for numbers in self._numbers()]
            tied = sum(label is None and own for label, own in zip(labels, voted, strict=True))
            known = [label for label in labels if label is not None]
            return Answered(len(labels), len(known), known.count(NONE_LABEL), tied, by)

    def _read(self) -> None:
        """Read the file where it is another than before."""
        try:
            entry = self._storage.stat(self.place)
            data = self._storage.fetch(entry)
        except ObjectChanged:
            return self._read()
        except StorageError as error:
            raise RequestError(str(error)) from error
        self._entry = entry
        if data != self._data:
            text = CsvText(self.place, data)
            self._set_rows(text)
            self._text, self._data = text, data
        return None

    def _set_rows(self, text: CsvText) -> None:
        header = [name.strip().casefold() for name in text.row(0)] if len(text) else []
        missing = [name for name in ("key", _TRUTH) if header.count(name) != 1]
        if missing:
            raise RequestError(
                f"{self.place}: has no column {' and '.join(missing)}; `annotate` fills in the lists that `sample` and "
                "`review` write as CSV"
            )
        columns = [header.index(name) if name in header else None for name in (*_IDENTITY, *_OTHERS)]
        numbers: dict[int, list[int]] = {}
        for number in range(1, len(text)):
            if text.width(number) != len(header):
                continue  # no row, for those who read the truth either
            cells = text.row(number)
            values = ["" if column is None else cells[column] for column in columns]
            at = self._at.setdefault(tuple(values[: len(_IDENTITY)]), len(self._rows))
            if at == len(self._rows):
                shard, key, index, image, sha256, label = values
                self._rows.append(ListedRow(shard, key, index, image, sha256, label))
            numbers.setdefault(at, []).append(number)
        if not self._rows:
            raise RequestError(f"{self.place}: has no images; there is nothing to label")
        self._header, self._numbers_of = header, numbers

    def _numbers(self) -> list[list[int]]:
        """For each image the rows of the file that name it."""
        return [self._numbers_of.get(at, []) for at in range(len(self._rows))]

    def _cell(self, numbers: Sequence[int], column: int | None) -> str:
        return "" if column is None or not numbers else self._text.cell(numbers[0], column)

    def _column(self, name: str) -> int | None:
        return self._header.index(name) if name in self._header else None

    def _columns_by(self) -> dict[str, int]:
        """The column of each annotator."""
        cells = enumerate(self._text.row(0))
        return {name.strip()[len(_BY) :]: at for at, name in cells if name.strip().casefold().startswith(_BY)}

    def _column_of(self, by: str) -> int | None:
        return self._columns_by().get(by) if by else self._column(_TRUTH)

    def _write(self, at: int, by: str, answer: str, was: str) -> bool:
        """Write an answer; False if the file changed meanwhile."""
        numbers = self._numbers_of.get(at)
        if not numbers:
            raise RequestError(f"{self.place}: this image is no longer in the list")
        now = self._cell(numbers, self._column_of(by))
        if now.strip() != was.strip() and now != answer:
            raise AnswerConflict(now)
        truth = self._column(_TRUTH)
        assert truth is not None
        assert self._data is not None
        assert self._entry is not None
        changed = CsvText(self.place, self._data)
        if by:
            columns = self._with_column(changed, by, truth)
            for number in numbers:
                changed.change(number, columns[by], answer)
                votes = [changed.cell(number, column) for column in columns.values()]
                changed.change(number, truth, self._majority(votes))
        else:
            for number in numbers:
                changed.change(number, truth, answer)
        data = changed.encode()
        try:
            if not self._storage.replace_if_unchanged(self.place, data, self._entry):
                return False
        except StorageError as error:
            raise RequestError(f"{self.place}: cannot be written: {error}") from error
        self._set_rows(changed)
        self._text, self._data = changed, data
        return True

    def _with_column(self, text: CsvText, by: str, truth: int) -> dict[str, int]:
        """The column of each annotator, with one for this name."""
        columns = self._columns_by()
        if not columns and any(text.cell(number, truth).strip() for rows in self._numbers() for number in rows):
            columns[NAMELESS] = text.add_column(_BY + NAMELESS)
            for rows in self._numbers():
                for number in rows:
                    text.change(number, columns[NAMELESS], text.cell(number, truth))
        if by not in columns:
            columns[by] = text.add_column(_BY + by)
        return columns

    def _majority(self, votes: Sequence[str]) -> str:
        """The answer with the most votes; empty without votes, and where there is a tie."""
        counts = Counter(label for label in map(self.label_of, votes) if label is not None).most_common(2)
        if not counts or (len(counts) > 1 and counts[0][1] == counts[1][1]):
            return ""
        label = counts[0][0]
        return NONE if label == NONE_LABEL else self.names[label]


def list_place(list_: str | os.PathLike[str]) -> str:
    """Absolute path or URI of a list; where a link leads, so that a write does not replace the link.

    Raises:
        RequestError: It is no path, or is not the CSV that can be filled in.
    """
    try:
        place = absolute_uri(os.fspath(list_))
    except StorageError as error:
        raise RequestError(str(error)) from error
    if not place.startswith("s3://"):
        if os.path.isdir(place):
            raise RequestError(f"{place}: is a folder; name the CSV that `sample` wrote")
        place = os.path.realpath(place)
    if place.lower().endswith((".json", ".parquet", ".gz")):
        raise RequestError(f"{place}: `annotate` fills in CSV; draw the list with --format csv, uncompressed")
    return place
