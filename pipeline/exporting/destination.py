"""Where the files of a part go, and the interface of what writes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.exporting.extensions import image_extension
from pipeline.exporting.images import Image
from pipeline.exporting.names import without_extension
from pipeline.exporting.rows import LabelNames

MAX_FILE_BYTES = 256 << 20

Put = Callable[[str, bytes], None]
Row = dict[str, Any]


class PartWriter(Protocol):
    """Writes the exported images of one part."""

    def add(self, image: Image, row: Row, *, shared: bool) -> None:
        """Add an image and its row.

        Args:
            image: The image.
            row: A row with the columns of :attr:`Destination.labels`.
            shared: Whether another image of the export has the same class and key.

        Raises:
            StorageError: A file cannot be written.
        """

    def finish(self) -> dict[str, int]:
        """Write what is left; returns the number of images of each file, by path below TO.

        Raises:
            StorageError: A file cannot be written.
        """


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the files of one part go.

    Attributes:
        name: Of the part, without extension.
        put: Writes a file: path below TO, bytes.
        pool: Threads that may call ``put``.
        loose: Whether the images are loose: their keys have an extension.
        keeps_field: Whether extensions keep the name of the image's field (``left.jpg``), which is not in the key.
        labels: What labels stand for.
        class_folders: Names of their folders, distinct on every file system.
    """

    name: str
    put: Put
    pool: ThreadPoolExecutor
    loose: bool
    keeps_field: bool
    labels: LabelNames
    class_folders: Sequence[str]

    def stem(self, key: str) -> str:
        """A key without the extension of a loose image."""
        return without_extension(key) if self.loose else key

    def extension(self, image: Image) -> str:
        """The extension that an image is written with, in lower case."""
        return image_extension(image.name, image.data, keeps_field=self.keeps_field)
