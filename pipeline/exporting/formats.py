"""Formats: the images and rows of one part as files of a dataset.

A writer takes images one by one, in order, and puts files whenever one is full, so that no more than one file of each
kind is in memory. The bytes are a function of the images and rows alone.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.exporting.images import Image
from pipeline.exporting.names import file_stem, sample_key, without_extension
from pipeline.exporting.rows import IMAGE, ROWS, features, plain
from pipeline.exporting.target import DATA, METADATA
from pipeline.stages.read import is_image_name

MAX_FILE_BYTES = 256 << 20
_ROWS_PER_GROUP = 100  # of images: what `datasets` reads at once for one row
_PLAIN_FIELD = re.compile(r"[a-z0-9][a-z0-9_.]{0,31}")
_TAR_NAME = re.compile(r".*-([^-/]+)-\d{3,}\.tar")
_UNKNOWN_FIELD = "img"
_WRITES_AT_ONCE = 8

Put = Callable[[str, bytes], None]
Row = dict[str, Any]


class PartWriter(Protocol):
    """Writes what is exported of one part."""

    def add(self, image: Image, row: Row, *, shared: bool) -> None:
        """Take an image and its row.

        Args:
            image: The image.
            row: A row of :data:`ROWS`.
            shared: Whether another image of the export has the same class and key.

        Raises:
            StorageError: A file cannot be written.
        """

    def finish(self) -> dict[str, int]:
        """Put what is left; the files, below TO, and how many images each holds.

        Raises:
            StorageError: A file cannot be written.
        """


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the files of one part go.

    Attributes:
        name: Of the part, without extension.
        put: Writes a file of TO.
        pool: Threads that may call it.
        loose: Whether images were loose: their keys have an extension, and dots before it are part of the key.
        class_names: Of the K classes, each once.
    """

    name: str
    put: Put
    pool: ThreadPoolExecutor
    loose: bool
    class_names: Sequence[str]

    def stem(self, key: str) -> str:
        """A key without the extension that it may have."""
        return without_extension(key) if self.loose else key

    def extension(self, name: str) -> str:
        """An image's extension in lower case; of a member of a tar, as in WebDataset, what follows the first dot.

        Args:
            name: Of the member or file.
        """
        base = name.rpartition("/")[2]
        last = base.rpartition(".")[2].lower() if "." in base else ""
        for field in (last,) if self.loose else (base.partition(".")[2].lower(), last):
            if is_image_name(field) and _PLAIN_FIELD.fullmatch(field):
                return field
        return _UNKNOWN_FIELD


class TarWriter:
    """WebDataset: ``KEY.jpg``, ``KEY.cls`` and ``KEY.json`` of each image, in tars of one kind of image each.

    Readers that infer a dataset's columns from its first samples want the same extensions in all of them; so images
    with different ones go to different files.

    Args:
        to: Where they go.
    """

    def __init__(self, to: Destination) -> None:
        self._to = to
        self._open: dict[str, _Tar] = {}
        self._numbers: dict[str, int] = {}
        self._keys: set[tuple[str, str]] = set()
        self._files: dict[str, int] = {}

    def add(self, image: Image, row: Row, *, shared: bool) -> None:
        """Add a sample to the tar of its kind; a full one is put."""
        field = self._to.extension(image.name)
        key = sample_key(self._to.stem(row["key"]))
        if (field, key) in self._keys:
            key = f"{key}%23{image.index}"
        self._keys.add((field, key))
        tar = self._open.setdefault(field, _Tar())
        text = json.dumps(plain(row), ensure_ascii=False, separators=(",", ":"))
        tar.add(f"{key}.{field}", image.data)
        tar.add(f"{key}.cls", str(row["label"]).encode())
        tar.add(f"{key}.json", text.encode("utf-8", "backslashreplace"))
        tar.num_samples += 1
        if tar.num_bytes >= MAX_FILE_BYTES:
            self._close(field)

    def _close(self, field: str) -> None:
        tar = self._open.pop(field)
        number = self._numbers.get(field, 0)
        self._numbers[field] = number + 1
        path = f"{DATA}/{self._to.name}-{field}-{number:03d}.tar"
        self._to.put(path, tar.whole())
        self._files[path] = tar.num_samples

    def finish(self) -> dict[str, int]:
        """Put the tars that are open."""
        for field in sorted(self._open):
            self._close(field)
        return self._files


def tar_kind(path: str) -> str | None:
    """The extension of the images in a tar, by its name; None for other files."""
    match = _TAR_NAME.fullmatch(path)
    return match[1] if match else None


class _Tar:
    """A tar in memory, its bytes a function of what is added."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - by whole()
        self.num_samples = 0

    @property
    def num_bytes(self) -> int:
        """So far."""
        return self._buffer.tell()

    def add(self, name: str, data: bytes) -> None:
        """Add a member, of no time and nobody's."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))

    def whole(self) -> bytes:
        """Its bytes; nothing can be added any more."""
        self._tar.close()
        return self._buffer.getvalue()


class ParquetWriter:
    """Parquet as Hugging Face ``datasets`` loads it: ``image`` with bytes and path, ``label``, and the other columns.

    Args:
        to: Where the files go.
    """

    def __init__(self, to: Destination) -> None:
        self._to = to
        self._schema = pa.schema([IMAGE, *ROWS], metadata=features(to.class_names, image=True))
        self._group: list[Row] = []
        self._buffer = io.BytesIO()
        self._file: pq.ParquetWriter | None = None
        self._num_rows = 0
        self._files: dict[str, int] = {}

    def add(self, image: Image, row: Row, *, shared: bool) -> None:
        """Add a row; a full file is put."""
        path = image.name.rpartition("/")[2]
        self._group.append({"image": {"bytes": image.data, "path": path}, **row})
        if len(self._group) == _ROWS_PER_GROUP:
            self._flush()
            if self._buffer.tell() >= MAX_FILE_BYTES:
                self._close()

    def _flush(self) -> None:
        if self._file is None:
            # images are compressed already
            self._file = pq.ParquetWriter(
                self._buffer,
                self._schema,
                compression={name: "none" if name.startswith("image") else "zstd" for name in self._columns()},
                use_dictionary=[name for name in ROWS.names if name not in {"sha256", "key", "index"}],
                write_page_checksum=True,
            )
        self._file.write_table(pa.Table.from_pylist(self._group, self._schema))
        self._num_rows += len(self._group)
        self._group = []

    @staticmethod
    def _columns() -> list[str]:
        return ["image.bytes", "image.path", *ROWS.names]

    def _close(self) -> None:
        assert self._file is not None
        self._file.close()
        path = f"{DATA}/{self._to.name}-{len(self._files):03d}.parquet"
        self._to.put(path, self._buffer.getvalue())
        self._files[path] = self._num_rows
        self._buffer, self._file, self._num_rows = io.BytesIO(), None, 0

    def finish(self) -> dict[str, int]:
        """Put the file that is open."""
        if self._group:
            self._flush()
        if self._file is not None:
            self._close()
        return self._files


class FolderWriter:
    """Loose files, ``data/CLASS/KEY.EXT``, and what is known of them in ``metadata/PART.parquet``.

    Args:
        to: Where the files go.
    """

    def __init__(self, to: Destination) -> None:
        self._to = to
        self._rows: list[Row] = []
        self._writing: list[Future[None]] = []

    def add(self, image: Image, row: Row, *, shared: bool) -> None:
        """Write an image."""
        stem = file_stem(self._to.stem(row["key"]))
        if shared:
            unit_id = self._to.name.split("-")[2]
            stem = f"{stem}%23{unit_id}-{image.index}"
        field = self._to.extension(image.name).rpartition(".")[2]
        path = f"{file_stem(row['class_name'])}/{stem}.{field}"
        if len(self._writing) == _WRITES_AT_ONCE:
            self._wait()
        self._writing.append(self._to.pool.submit(self._to.put, f"{DATA}/{path}", image.data))
        self._rows.append({"file_name": path, **row})

    def _wait(self) -> None:
        writing, self._writing = self._writing, []
        for future in writing:
            future.result()

    def finish(self) -> dict[str, int]:
        """Wait for the images, and write what is known of them."""
        self._wait()
        path = f"{METADATA}/{self._to.name}.parquet"
        self._to.put(path, parquet_bytes(pa.Table.from_pylist(self._rows, metadata_schema(self._to.class_names))))
        return {path: len(self._rows)}


def metadata_schema(class_names: Sequence[str]) -> pa.Schema:
    """Columns of the metadata of loose files: ``file_name`` below ``data``, and the rows."""
    known = features(class_names, image=False)
    content = json.loads(known[b"huggingface"])
    content["info"]["features"] = {"file_name": {"dtype": "string", "_type": "Value"}, **content["info"]["features"]}
    return pa.schema([("file_name", pa.string()), *ROWS], metadata={b"huggingface": json.dumps(content)})


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def csv_file(name: str, table: pa.Table) -> tuple[str, bytes]:
    """Rows as a CSV file, and its path below TO. It needs no image."""
    columns = ["shard", "key", *(column for column in ROWS.names if column not in {"shard", "key"})]
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table.select(columns), buffer)
    return f"{DATA}/{name}.csv", buffer.getvalue()


WRITERS: Mapping[str, Callable[[Destination], PartWriter]] = {
    "webdataset": TarWriter,
    "parquet": ParquetWriter,
    "imagefolder": FolderWriter,
}
