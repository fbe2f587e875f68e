"""A list for annotators that is there already, with what people have answered, and how images are added to it.

What stands in the file stays, character by character: new entries come after it. People may have saved it with another
program, so a CSV is read with its own separators, in its own encoding and with its own columns.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.annotation.choices import TAXONOMY_TAG
from pipeline.annotation.sampling import ListedImage
from pipeline.errors import ObjectMissing, RequestError, StorageError
from pipeline.storage import Entry, Storage
from pipeline.text.safe import json_text
from pipeline.trust.draw import COLUMN, parse_draw
from pipeline.trust.truth_table import DELIMITERS, as_utf8, plain_name

_MAX_LINES_BEFORE = 2  # before the header: Excel's sep=;
_NOT_TEXT = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"PAR1", b"\x1f\x8b")
_LABEL_COLUMN = "score"  # of lists that show the labels


@dataclass(frozen=True, slots=True)
class OlderList:
    """A list that is there already.

    Attributes:
        uri: Where it is.
        kind: Its format.
        with_labels: Whether it shows the labels of the consensus.
        version: Of the file that was read.
        text: Its content.
        mark: Whether it is to begin with UTF-8's mark, by which Excel knows the encoding.
        names: For a CSV, the names in its header, plain.
        delimiter: For a CSV, what separates its cells.
        drawn: What its entries say about their draw (:mod:`pipeline.trust.draw`).
        columns: What identifies an image: some of shard, index, sha256 and key.
        identities: Those of its images.
        with_tree: For tasks, whether their labelling configuration offers groups; None where it is not there.
    """

    uri: str
    kind: Literal["csv", "label-studio"]
    with_labels: bool
    version: Entry
    text: str
    mark: bool
    names: tuple[str, ...]
    delimiter: str
    drawn: frozenset[str]
    columns: tuple[str, ...]
    identities: frozenset[tuple[str, ...]]
    with_tree: bool | None = None

    @property
    def images(self) -> int:
        """Number of its images."""
        return len(self.identities)

    def holds(self, row: ListedImage) -> bool:
        """Whether an image is in the list."""
        values = (getattr(row, name) for name in self.columns)
        return tuple("" if value is None else str(value) for value in values) in self.identities

    def add(self, entries: str, drawn: str, storage: Storage) -> tuple[str, ...]:
        """Add entries.

        Args:
            entries: A list of them alone, in the same format.
            drawn: What the new entries say about their draw. The older ones say the same from now on if images have
                been labelled since: together they are a draw from all.
            storage: How to write.

        Returns:
            The files that were written, this one last. Label Studio's tasks are in a file of their own, too: to import
            the others again would double them.

        Raises:
            RequestError: It cannot be written, or was changed meanwhile.
        """
        beside: tuple[str, ...] = ()
        try:
            if self.kind == "csv":
                text = self._with_rows(entries, drawn)
            else:
                own, new = json.loads(self._redrawn(drawn)), json.loads(entries)
                text = "[\n" + ",\n".join(json_text(task) for task in own + new) + "\n]\n"
                beside = (f"{self.uri.removesuffix('.json')}-{len(own) + 1}-{len(own) + len(new)}.json",)
                storage.replace(beside[0], entries.encode())
            data = text.encode("utf-8-sig" if self.mark else "utf-8")
            if not storage.replace_if_unchanged(self.uri, data, self.version):
                raise RequestError(f"--save {self.uri}: was changed while images were added; run the command again")
        except StorageError as error:
            raise RequestError(f"--save {error}") from error
        return (*beside, self.uri)

    def _redrawn(self, drawn: str) -> str:
        """The text, with the new draw for each that was from fewer images."""
        text, new = self.text, parse_draw(drawn)
        for older in self.drawn:
            draw = parse_draw(older)
            if draw is not None and new is not None and draw.population != new.population:
                text = text.replace(older, drawn)
        return text

    def _with_rows(self, entries: str, drawn: str) -> str:
        line_end = "\r\n" if "\r\n" in self.text else "\n"
        file = io.StringIO()
        writer = csv.writer(file, delimiter=self.delimiter, lineterminator=line_end)
        for row in csv.DictReader(io.StringIO(entries, newline="")):
            writer.writerow([row.get(name, "") for name in self.names])
        separated = "" if self.text.endswith(("\n", "\r")) else line_end
        return self._redrawn(drawn) + separated + file.getvalue()


def read_older_list(uri: str, storage: Storage) -> OlderList:
    """Read a list that images are to be added to.

    Raises:
        RequestError: There is none, or none that can be extended.
    """
    try:
        version = storage.stat(uri)
        data = storage.fetch(version)
    except ObjectMissing as error:
        raise RequestError(f"--save {uri}: there is no list to add to (--more); draw one with -n") from error
    except StorageError as error:
        raise RequestError(f"--save {error}; --more adds to a CSV or to Label Studio's JSON") from error
    if data.startswith(_NOT_TEXT):
        raise RequestError(f"--save {uri}: no plain CSV or JSON; save it as such, and add to that")
    utf8 = as_utf8(data)
    text = utf8.decode("utf-8")
    if text.lstrip().startswith("["):
        return _read_tasks(uri, version, text, _is_config_of_tree(uri, storage))
    return _read_csv(uri, version, text, mark=utf8 != data)


def _read_csv(uri: str, version: Entry, text: str, *, mark: bool) -> OlderList:
    for delimiter in DELIMITERS:
        try:
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
        except csv.Error as error:
            raise RequestError(f"--save {uri}: not CSV: {error}") from error
        for number, row in enumerate(rows[: 1 + _MAX_LINES_BEFORE]):
            names = tuple(map(plain_name, row))
            if {"key", "truth"} <= set(names):
                images = [dict(zip(names, cells, strict=False)) for cells in rows[number + 1 :] if any(cells)]
                columns, identities = _identify(uri, images, frozenset(names))
                with_labels, drawn = _LABEL_COLUMN in names, _draws(images)
                return OlderList(
                    uri, "csv", with_labels, version, text, mark, names, delimiter, drawn, columns, identities
                )
    raise RequestError(f"--save {uri}: no list of `shardlabel sample`: it has no columns key and truth")


def _read_tasks(uri: str, version: Entry, text: str, with_tree: bool | None) -> OlderList:
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"--save {uri}: not JSON: {error}") from error
    # JSON-MIN has all fields at the top level
    images = [task.get("data", task) for task in tasks if isinstance(task, dict)]
    if not images or not all(isinstance(image, dict) and "key" in image for image in images):
        raise RequestError(f"--save {uri}: no tasks of `shardlabel sample`: some carry no key of their image")
    columns, identities = _identify(uri, images, frozenset(images[0]))
    with_labels = any(task.get("predictions") for task in tasks)
    return OlderList(
        uri, "label-studio", with_labels, version, text, False, (), "", _draws(images), columns, identities, with_tree
    )


def _is_config_of_tree(uri: str, storage: Storage) -> bool | None:
    """Whether the labelling configuration beside tasks offers groups; None where there is none."""
    try:
        return TAXONOMY_TAG.encode() in storage.read(f"{uri.removesuffix('.json')}.xml")
    except ObjectMissing:
        return None
    except StorageError as error:
        raise RequestError(f"--save {error}") from error


def _draws(images: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    return frozenset(str(image.get(COLUMN) or "") for image in images) - {""}


def _identify(
    uri: str, images: Sequence[Mapping[str, Any]], names: frozenset[str]
) -> tuple[tuple[str, ...], frozenset[tuple[str, ...]]]:
    """What identifies the images, and their identities. A spreadsheet may take zeros from a key, but not from an index.

    Raises:
        RequestError: There are no images.
    """
    # of loose images, each slice begins with index 0
    choices: tuple[tuple[str, ...], ...] = (
        ("shard", "index", "sha256"),
        ("shard", "index"),
        ("shard", "key"),
        ("key",),
    )
    columns = next(columns for columns in choices if names.issuperset(columns))
    identities = frozenset(tuple(str(image.get(name, "")) for name in columns) for image in images)
    if not identities:
        raise RequestError(f"--save {uri}: there are no images in it to add to")
    return columns, identities
