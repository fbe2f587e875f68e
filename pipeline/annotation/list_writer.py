"""Lists of images for annotators as files: CSV, Label Studio, FiftyOne. ``--truth`` reads all of them back.

Every entry has shard and key, by which truth is matched. A name that several classes share has the index added. What
stands for an image in which no class fits is a choice, too, and so are groups where there are own classes.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from pipeline.annotation.choices import ListChoices
from pipeline.annotation.sampling import ListedImage
from pipeline.errors import RequestError, StorageError
from pipeline.storage import Storage, join
from pipeline.text.safe import json_text
from pipeline.trust.annotations import IMAGE_LIST
from pipeline.trust.draw import COLUMN

ListFormat = Literal["csv", "label-studio", "fiftyone"]

_FIFTYONE_LABELS = "labels.json"
_SERVED_FROM = "/data/local-files/?d="  # Label Studio's own server of files below its document root
_SIGNATURES = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tif"),
    (b"MM\x00*", "tif"),
)


class ListWriter:
    """Writes one list to a file, or for FiftyOne to a folder. Images are written as they come, the list last.

    Args:
        place: Absolute path or URI of the list.
        kind: Its format.
        choices: What people may answer.
        with_labels: Whether the list shows the labels of the consensus.
        model_version: Name of the consensus in Label Studio.
        storage: How to write.
        extends: Whether a list is there that gets further entries.

    Attributes:
        drawn: How the list was drawn, for each of its rows; empty where nobody says.

    Raises:
        RequestError: There is a file already, which may hold annotations, and is not to be extended.
    """

    def __init__(
        self,
        place: str,
        kind: ListFormat,
        choices: ListChoices,
        storage: Storage,
        *,
        with_labels: bool,
        model_version: str,
        extends: bool = False,
    ) -> None:
        self._kind = kind
        self._choices = choices
        self._names = choices.names
        self._with_labels = with_labels
        self._model_version = model_version
        self._storage = storage
        self.drawn = ""
        if kind == "fiftyone":
            self._folder, self._images = place.rstrip("/"), "data"
            self.file = join(place, _FIFTYONE_LABELS)
        else:
            self._folder, _, name = place.rpartition("/")
            self._images = f"{name.removesuffix('.csv').removesuffix('.json')}-images"
            self.file = place
            if not name or os.path.isdir(place):
                raise RequestError(f"--save {place}: is a folder; name a file in it, or use --format fiftyone")
        if not extends and self._exists(self.file):
            raise RequestError(
                f"--save {self.file}: is there already, and may hold annotations; add to it with --more N, move it "
                "away, or name another"
            )

    @property
    def num_groups(self) -> int:
        """Groups of classes that people may answer, too."""
        return len(self._choices.groups)

    def _exists(self, uri: str) -> bool:
        try:
            return self._storage.exists(uri)
        except StorageError as error:
            raise RequestError(f"--save {error}") from error

    def add_image(self, number: int, row: ListedImage, image: bytes) -> str:
        """Write the image of an entry; returns its path, relative to the list.

        Raises:
            RequestError: It cannot be written.
        """
        content = (row.sha256 or "")[:12]
        name = f"{self._images}/{number:06d}-{content}.{_extension(image)}"
        try:
            self._storage.replace(join(self._folder, name), image)
        except StorageError as error:
            raise RequestError(f"--save {error}") from error
        return name

    def finish(self, rows: Sequence[ListedImage], images: Mapping[int, str]) -> tuple[str, ...]:
        """Write the list.

        Args:
            rows: Its entries, in order.
            images: Paths of their images, by number.

        Returns:
            The files of the list, without the images.

        Raises:
            RequestError: It cannot be written.
        """
        numbered = [(row, images.get(number)) for number, row in enumerate(rows)]
        if self._kind == "csv":
            files = {self.file: self._csv(numbered)}
        elif self._kind == "label-studio":
            stem = self.file.removesuffix(".json")
            files = {f"{stem}.xml": self._choices.studio_config(), self.file: self._studio_tasks(numbered)}
        else:
            files = {join(self._folder, IMAGE_LIST): self._csv(numbered), self.file: self._fiftyone(numbered)}
        try:
            for uri, text in files.items():
                self._storage.replace(uri, text.encode())
        except StorageError as error:
            raise RequestError(f"--save {error}") from error
        return tuple(files)

    def entries(self, rows: Sequence[ListedImage], images: Mapping[int, str]) -> str:
        """The text of a list of these entries: CSV with its header, or the JSON of tasks; not for FiftyOne.

        Args:
            rows: Entries, in order.
            images: Paths of their images, by their place in ``rows``.
        """
        numbered = [(row, images.get(number)) for number, row in enumerate(rows)]
        return self._csv(numbered) if self._kind == "csv" else self._studio_tasks(numbered)

    def _csv(self, rows: Sequence[tuple[ListedImage, str | None]]) -> str:
        columns = "label class_name score agreement entropy disagreement top".split() if self._with_labels else []
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["shard", "key", "index", "sha256", *columns, "image", COLUMN, "truth"])
        for row, image in rows:
            prediction = [row.label, self._names[row.label], *map(_number, (row.score, row.agreement))]
            prediction += [_number(row.entropy), _number(row.disagreement), self._top(row)]
            cells = prediction if self._with_labels else []
            writer.writerow([row.shard, row.key, row.index, row.sha256, *cells, image or "", self.drawn, ""])
        return file.getvalue()

    def _top(self, row: ListedImage) -> str:
        pairs = zip(row.labels, row.scores, strict=True)
        return "; ".join(f"{self._names[label]} {score:.3f}" for label, score in pairs)

    def _studio_tasks(self, rows: Sequence[tuple[ListedImage, str | None]]) -> str:
        tasks = []
        for row, image in rows:
            if image is None:
                continue
            served = join(self._folder, image) if self._folder.startswith("s3://") else _SERVED_FROM + quote(image)
            data = {"image": served, "shard": row.shard, "key": row.key, "index": row.index, "sha256": row.sha256}
            data[COLUMN] = self.drawn
            task: dict[str, Any] = {"data": data}
            if self._with_labels:
                result = self._choices.studio_result(row.label)
                task["predictions"] = [
                    {"model_version": self._model_version, "score": _rounded(row.score), "result": [result]}
                ]
            tasks.append(task)
        return "[\n" + ",\n".join(json_text(task) for task in tasks) + "\n]\n"

    def _fiftyone(self, rows: Sequence[tuple[ListedImage, str | None]]) -> str:
        labels: dict[str, Any] = {}
        for row, image in rows:
            if image is None:
                continue
            stem = image.rpartition("/")[2].rpartition(".")[0]
            attributes = {
                "shard": row.shard,
                "key": row.key,
                "agreement": _rounded(row.agreement),
                "entropy": _rounded(row.entropy),
                "disagreement": _rounded(row.disagreement),
                COLUMN: self.drawn,
            }
            prediction = {"label": row.label, "confidence": _rounded(row.score), "attributes": attributes}
            labels[stem] = prediction if self._with_labels else None
        classes = [*self._names, *self._choices.groups, self._choices.none]  # classes first: labels are indices
        return json_text({"classes": classes, "labels": labels}, indent=1) + "\n"


def _extension(image: bytes) -> str:
    """The file extension for this image, by its first bytes; ``img`` for an unknown format."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return next((extension for start, extension in _SIGNATURES if image.startswith(start)), "img")


def _number(value: float | None) -> str:
    return "" if value is None else json.dumps(_rounded(value))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
