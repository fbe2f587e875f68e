"""The end of an export: what its parts say added up, the files that describe the whole, and ``_SUCCESS``."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow.parquet as pq

from pipeline.exporting.card import card
from pipeline.exporting.formats import metadata_schema, tar_kind
from pipeline.exporting.source import Source
from pipeline.exporting.target import CARD, CLASSES, DATA, METADATA, Target
from pipeline.output.ledger import SUCCESS, to_json


@dataclass(frozen=True, slots=True)
class Totals:
    """What is exported.

    Attributes:
        images: How many.
        omitted: Selected images that are not, by reason.
        files: Paths below TO with how many images each holds.
    """

    images: int
    omitted: dict[str, int]
    files: dict[str, int]

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Self:
        """Of the commits of parts."""
        images = 0
        files: dict[str, int] = {}
        omitted: Counter[str] = Counter()
        for record in records:
            images += record["images"]
            files |= record["files"]
            omitted.update(row["reason"] for row in record["omitted"])
        return cls(images, dict(omitted), files)

    @classmethod
    def of_success(cls, success: Mapping[str, Any]) -> Self:
        """Of an export that is finished."""
        return cls(success["images"], success["omitted"], success["files"])

    def kinds(self) -> list[str]:
        """Extensions of the images in tars, the most frequent first."""
        found: Counter[str] = Counter()
        for path, images in self.files.items():
            if (kind := tar_kind(path)) is not None:
                found[kind] += images
        return sorted(found, key=lambda kind: (-found[kind], kind))


def finish(source: Source, target: Target, about: Mapping[str, Any], found: Totals, parts: Sequence[str]) -> None:
    """Write what describes the whole, and ``_SUCCESS`` last.

    Args:
        source: What was exported.
        target: Where to.
        about: What ``export.json`` holds.
        found: What there is.
        parts: Names of all parts, in order.

    Raises:
        StorageError: The place cannot be read or written.
    """
    names = source.class_names
    if about["replaces"]:
        _remove_strays(target, found, parts)
    target.put(CLASSES, "".join(f"{name}\n" for name in names).encode())
    if about["asked"]["format"] == "imagefolder":
        target.put(f"{DATA}/metadata.parquet", _joined(target, parts, names))
    text = card(about, names, found.images, found.kinds())
    target.put(CARD, text.encode("utf-8", "backslashreplace"))
    content = {
        "fingerprint": target.fingerprint,
        "finished_at": int(time.time()),
        "images": found.images,
        "omitted": found.omitted,
        "files": found.files,
    }
    target.put(SUCCESS, to_json(content, None))


def _remove_strays(target: Target, found: Totals, parts: Sequence[str]) -> None:
    """Remove what exporters of the export that was replaced have written since."""
    expected = set(found.files)
    for name in parts if any(path.startswith(f"{METADATA}/") for path in expected) else ():
        column = target.ledger.read_part(METADATA, f"{name}.parquet", ["file_name"])["file_name"]
        expected.update(f"{DATA}/{path}" for path in column.to_pylist())
    for name in target.ledger.names(DATA):
        if f"{DATA}/{name}" not in expected:
            target.take_back(f"{DATA}/{name}")


def _joined(target: Target, parts: Sequence[str], class_names: Sequence[str]) -> bytes:
    """The metadata of all parts as one file beside the images, which is where readers look for it."""
    buffer = io.BytesIO()
    schema = metadata_schema(class_names)
    with pq.ParquetWriter(buffer, schema, compression="zstd") as file:
        for name in parts:
            file.write_table(target.ledger.read_part(METADATA, f"{name}.parquet").cast(schema))
    return buffer.getvalue()
