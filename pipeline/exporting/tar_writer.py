"""The format ``webdataset``: tars of images with their labels and rows."""

from __future__ import annotations

import io
import json
import tarfile

from pipeline.exporting.destination import MAX_FILE_BYTES, Destination, Row
from pipeline.exporting.images import Image
from pipeline.exporting.names import sample_key
from pipeline.exporting.rows import shorten_floats
from pipeline.exporting.target import DATA


class TarWriter:
    """WebDataset: ``KEY.jpg``, ``KEY.cls`` and ``KEY.json`` of each image, one image extension per tar.

    Readers that infer the columns from the first samples need the same extensions in all samples of a tar
    (``findings/datasets-webdataset-columns.sh``).

    Args:
        to: Where the files go.
    """

    def __init__(self, to: Destination) -> None:
        self._to = to
        self._open: dict[str, _Tar] = {}
        self._numbers: dict[str, int] = {}
        self._keys: set[tuple[str, str]] = set()
        self._files: dict[str, int] = {}

    def add(self, image: Image, row: Row, *, shared: bool) -> None:
        """Add a sample to the tar of its extension; the largest tar is written once memory is full."""
        field = self._to.extension(image)
        key = sample_key(self._to.stem(row["key"]))
        if (field, key) in self._keys:
            key = f"{key}%23{image.index}"
        self._keys.add((field, key))
        tar = self._open.setdefault(field, _Tar())
        text = json.dumps(shorten_floats(row), ensure_ascii=False, separators=(",", ":"))
        tar.add(f"{key}.{field}", image.data)
        tar.add(f"{key}.cls", str(row["label"]).encode())
        tar.add(f"{key}.json", text.encode("utf-8", "backslashreplace"))
        tar.num_samples += 1
        if sum(each.num_bytes for each in self._open.values()) >= MAX_FILE_BYTES:
            self._close(max(sorted(self._open), key=lambda kind: self._open[kind].num_bytes))

    def _close(self, field: str) -> None:
        tar = self._open.pop(field)
        number = self._numbers.get(field, 0)
        self._numbers[field] = number + 1
        path = f"{DATA}/{self._to.name}-{field}-{number:03d}.tar"
        self._to.put(path, tar.whole())
        self._files[path] = tar.num_samples

    def finish(self) -> dict[str, int]:
        """Write the open tars."""
        for field in sorted(self._open):
            self._close(field)
        return self._files


class _Tar:
    """A tar in memory; its bytes depend on its members alone."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - by whole()
        self.num_samples = 0

    @property
    def num_bytes(self) -> int:
        """Size so far."""
        return self._buffer.tell()

    def add(self, name: str, data: bytes) -> None:
        """Add a member with time and owner 0."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data))

    def whole(self) -> bytes:
        """Close the tar and return its bytes."""
        self._tar.close()
        return self._buffer.getvalue()
