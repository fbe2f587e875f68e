"""The end of an export: totals over its parts, the files that describe the whole, and ``_SUCCESS``."""

from __future__ import annotations

import dataclasses
import io
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow.parquet as pq

from pipeline.exporting.card import make_card
from pipeline.exporting.default_readers import labels_with_images
from pipeline.exporting.folder_writer import metadata_schema
from pipeline.exporting.names import class_folders
from pipeline.exporting.rows import LabelNames
from pipeline.exporting.source import Source
from pipeline.exporting.target import CARD, CLASSES, DATA, METADATA, Target
from pipeline.output.ledger import SUCCESS, to_json


@dataclass(frozen=True, slots=True)
class Totals:
    """Totals over all exported parts.

    Attributes:
        images: Exported images.
        omitted: Selected images that could not be exported, by reason.
        files: Number of images of each file, by path below TO.
        extensions: Number of images of each extension; empty where no images are written.
        unread_classes: Folders of classes in which torchvision's ``ImageFolder`` finds no image; known at the end.
    """

    images: int
    omitted: dict[str, int]
    files: dict[str, int]
    extensions: dict[str, int]
    unread_classes: tuple[str, ...] = ()

    @classmethod
    def from_commits(cls, records: Iterable[Mapping[str, Any]]) -> Self:
        """From the commits of parts."""
        images = 0
        files: dict[str, int] = {}
        omitted: Counter[str] = Counter()
        extensions: Counter[str] = Counter()
        for record in records:
            images += record["images"]
            files |= record["files"]
            omitted.update(row["reason"] for row in record["omitted"])
            extensions.update(record.get("extensions", {}))
        return cls(images, dict(omitted), files, dict(extensions))

    @classmethod
    def from_success(cls, success: Mapping[str, Any]) -> Self:
        """From the ``_SUCCESS`` of a finished export."""
        return cls(
            success["images"],
            success["omitted"],
            success["files"],
            success.get("extensions", {}),
            tuple(success.get("unread_classes", ())),
        )


def finish_export(
    source: Source, target: Target, description: Mapping[str, Any], totals: Totals, parts: Sequence[str]
) -> Totals:
    """Write the files that describe the whole, and ``_SUCCESS`` last.

    Args:
        source: The output.
        target: Where it is exported to.
        description: Contents of ``export.json``.
        totals: Over all parts.
        parts: Names of all parts, in order.

    Returns:
        The totals, complete.

    Raises:
        StorageError: The place cannot be read or written.
    """
    labels = source.labels
    if description["replaces"]:
        _remove_unexpected(target, totals, parts)
    target.put(CLASSES, "".join(f"{name}\n" for name in labels.names).encode())
    if description["asked"]["format"] == "imagefolder":
        metadata, unread = _join_metadata(target, parts, labels)
        target.put(f"{DATA}/metadata.parquet", metadata)
        totals = dataclasses.replace(totals, unread_classes=unread)
    text = make_card(description, labels, totals.images, totals.extensions, totals.unread_classes)
    target.put(CARD, text.encode("utf-8", "backslashreplace"))
    content = {
        "fingerprint": target.fingerprint,
        "finished_at": int(time.time()),
        "images": totals.images,
        "omitted": totals.omitted,
        "files": totals.files,
        "extensions": totals.extensions,
        "unread_classes": totals.unread_classes,
    }
    target.put(SUCCESS, to_json(content, None))
    return totals


def _remove_unexpected(target: Target, totals: Totals, parts: Sequence[str]) -> None:
    """Remove files that late exporters of a replaced export have written."""
    expected = set(totals.files)
    for name in parts if any(path.startswith(f"{METADATA}/") for path in expected) else ():
        column = target.ledger.read_part(METADATA, f"{name}.parquet", ["file_name"])["file_name"]
        expected.update(f"{DATA}/{path}" for path in column.to_pylist())
    for name in target.ledger.names(DATA):
        if f"{DATA}/{name}" not in expected:
            target.remove(f"{DATA}/{name}")
    target.prune(DATA)


def _join_metadata(target: Target, parts: Sequence[str], labels: LabelNames) -> tuple[bytes, tuple[str, ...]]:
    """The metadata of all parts as one Parquet file, which readers look for beside the images.

    Returns:
        The file, and the folders of classes in which torchvision's ``ImageFolder`` finds no image.
    """
    buffer = io.BytesIO()
    schema = metadata_schema(labels)
    given: set[int] = set()
    found: set[int] = set()
    with pq.ParquetWriter(buffer, schema, compression="zstd") as file:
        for name in parts:
            table = target.ledger.read_part(METADATA, f"{name}.parquet").cast(schema)
            file.write_table(table)
            given, found = (old | new for old, new in zip((given, found), labels_with_images(table), strict=True))
    folders = class_folders(labels.names)
    return buffer.getvalue(), tuple(folders[label] for label in sorted(given - found))
