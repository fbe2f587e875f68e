"""Where the files of a part go, and the interface of what writes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.exporting.images import Image
from pipeline.exporting.names import without_extension
from pipeline.stages.member_names import is_image_name

MAX_FILE_BYTES = 256 << 20
_PLAIN_FIELD = re.compile(r"[a-z0-9][a-z0-9_.]{0,31}")
_UNKNOWN_FIELD = "img"

Put = Callable[[str, bytes], None]
Row = dict[str, Any]


class PartWriter(Protocol):
    """Writes the exported images of one part."""

    def add(self, image: Image, row: Row, *, shared: bool) -> None:
        """Add an image and its row.

        Args:
            image: The image.
            row: A row of :data:`ROW_SCHEMA`.
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
        loose: Whether the images are loose: their keys have an extension, and dots before it are part of the key.
        class_names: Of the K classes, each once.
    """

    name: str
    put: Put
    pool: ThreadPoolExecutor
    loose: bool
    class_names: Sequence[str]

    def stem(self, key: str) -> str:
        """A key without the extension of a loose image."""
        return without_extension(key) if self.loose else key

    def extension(self, name: str) -> str:
        """The extension of an image in lower case; in a tar, as in WebDataset, all that follows the first dot.

        Args:
            name: Of the member or file.
        """
        base = name.rpartition("/")[2]
        last = base.rpartition(".")[2].lower() if "." in base else ""
        for field in (last,) if self.loose else (base.partition(".")[2].lower(), last):
            if is_image_name(field) and _PLAIN_FIELD.fullmatch(field):
                return field
        return _UNKNOWN_FIELD
