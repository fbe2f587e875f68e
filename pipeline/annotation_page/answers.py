"""The list that is filled in: a file that others may write, too. Each answer is written at once, beside theirs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence

from pipeline.annotation_page.answer_table import Answered, AnswerNames, AnswerTable, Identity, ListedRow
from pipeline.errors import ObjectChanged, RequestError, StorageError
from pipeline.storage import Entry, Storage, absolute_uri
from pipeline.taxonomy.tree import Taxonomy

_MAX_NAME = 60
_MOST_TRIES = 20


class AnswerConflict(Exception):  # noqa: N818 - no error of the program
    """The answer was changed by somebody else.

    Attributes:
        now: What stands there now.
    """

    def __init__(self, now: str) -> None:
        super().__init__(now)
        self.now = now


class AnswerList:
    """A list that is filled in.

    Args:
        place: Path or URI of the CSV.
        class_names: Of the K classes.
        storage: How to reach it.
        taxonomy: Groups that are answers, too; None for none.

    Attributes:
        place: Its path or URI.
        names: Which answers there are.
        rows: Its images when it was opened. Their numbers stay, whatever becomes of the order in the file.

    Raises:
        RequestError: It is missing, or no list.
    """

    def __init__(
        self, place: str, class_names: Sequence[str], storage: Storage, taxonomy: Taxonomy | None = None
    ) -> None:
        self.place = place
        self.names = AnswerNames(class_names, taxonomy)
        self._storage = storage
        self._lock = threading.Lock()
        self._closed = False
        self._data = b""
        self._table: AnswerTable | None = None
        with self._lock:
            self.rows: tuple[ListedRow, ...] = tuple(self._read()[1].rows)

    def annotators(self) -> tuple[str, ...]:
        """Names of those who have a column, in order."""
        with self._lock:
            return self._read()[1].annotators()

    def answers(self, by: str) -> list[str]:
        """An annotator's answer to each image, as it stands in the file.

        Args:
            by: Their name; empty for who labels alone.
        """
        with self._lock:
            table = self._read()[1]
            return [table.answer(row.identity, by) for row in self.rows]

    def put(self, at: int, by: str, answer: str, was: str, *, shown: bool = False) -> None:
        """Write an answer to the file.

        Args:
            at: Number of the image.
            by: Name of the annotator; empty for who labels alone.
            answer: A class or a group by name, ``none``, or empty to take an answer back.
            was: The annotator's answer as it was seen last.
            shown: Whether the annotator saw what the networks predicted, which the list keeps.

        Raises:
            AnswerConflict: The answer in the file is another than ``was``.
            RequestError: The file can no longer be read or written, or the image is no longer in it.
        """
        if answer and self.names.label_of(answer) is None:
            raise RequestError(f"{answer!r} is no class")

        def write(table: AnswerTable) -> None:
            image: Identity = self.rows[at].identity
            if not table.has(image):
                raise RequestError(f"{self.place}: this image is no longer in the list")
            now = table.answer(image, by)
            if now.strip() not in (was.strip(), answer):
                raise AnswerConflict(now)
            table.put(image, by, answer)
            if shown:
                table.mark_shown(image)

        self._change(write)

    def merge(self, other: AnswerList) -> None:
        """Take over the answers by name from another copy of the list; where both have one, this list's stays.

        Raises:
            RequestError: The other list has no answers by name, or no image of this one; or this one cannot be written.
        """
        with other._lock:
            theirs = other._read()[1]
        if not theirs.annotators() or not any(theirs.has(row.identity) for row in self.rows):
            missing = "no image of this list" if theirs.annotators() else "no answers by name"
            raise RequestError(f"--merge {other.place}: has {missing}")
        self._change(lambda table: table.take_over(theirs))

    def check_name(self, by: str) -> str:
        """An annotator's name as it is written.

        Raises:
            RequestError: It cannot be the name of a column, or a name is needed.
        """
        name = " ".join(by.split())
        if len(name) > _MAX_NAME or not name.isprintable():
            raise RequestError(f"a name has at most {_MAX_NAME} letters, and no control characters")
        with self._lock:
            table = self._read()[1]
            if not name and table.annotators():
                raise RequestError("this list has answers by name: " + ", ".join(table.annotators()))
            return table.known_name(name)

    def count(self) -> Answered:
        """How far the list is."""
        with self._lock:
            return self._read()[1].count()

    def has_shown(self) -> bool:
        """Whether some images are answered with the networks' predictions in view, as the list itself says."""
        with self._lock:
            table = self._read()[1]
            return any(table.is_shown(row.identity) for row in table.rows)

    def close(self) -> None:
        """Take no further answers, after the one that is being written."""
        with self._lock:
            self._closed = True

    def _read(self) -> tuple[Entry, AnswerTable]:
        """The file as it is now; it is parsed again where it is another than before."""
        for _ in range(_MOST_TRIES):
            try:
                entry = self._storage.stat(self.place)
                data = self._storage.fetch(entry)
            except ObjectChanged:
                continue
            except StorageError as error:
                raise RequestError(str(error)) from error
            if self._table is None or data != self._data:
                self._table, self._data = AnswerTable(self.place, data, self.names), data
            return entry, self._table
        raise self._busy()

    def _change(self, change: Callable[[AnswerTable], object]) -> None:
        """Change the file, whatever it is by then."""
        with self._lock:
            for _ in range(_MOST_TRIES):
                if self._closed:
                    raise RequestError("the server of this page has ended")
                entry, _ = self._read()
                table = AnswerTable(self.place, self._data, self.names)
                change(table)
                data = table.encode()
                try:
                    if self._storage.replace_if_unchanged(self.place, data, entry):
                        self._table, self._data = table, data
                        return
                except StorageError as error:
                    raise RequestError(f"{self.place}: cannot be written: {error}") from error
        raise self._busy()

    def _busy(self) -> RequestError:
        return RequestError(f"{self.place}: is being written by another program all the time")


def list_place(list_file: str | os.PathLike[str]) -> str:
    """Absolute path or URI of a list; where a link leads, so that a write does not replace the link.

    Raises:
        RequestError: It is no path, or is not the CSV that can be filled in.
    """
    try:
        place = absolute_uri(os.fspath(list_file))
    except StorageError as error:
        raise RequestError(str(error)) from error
    if not place.startswith("s3://"):
        if os.path.isdir(place):
            raise RequestError(f"{place}: is a folder; name the CSV that `sample` wrote")
        place = os.path.realpath(place)
    if place.lower().endswith((".json", ".parquet", ".gz")):
        raise RequestError(f"{place}: `annotate` fills in CSV; draw the list with --format csv, uncompressed")
    return place
