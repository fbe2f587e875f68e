"""The format ``parquet``: images and rows as Hugging Face ``datasets`` loads them."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exporting.destination import MAX_FILE_BYTES, Destination, Row
from pipeline.exporting.images import Image
from pipeline.exporting.rows import IMAGE, huggingface_metadata
from pipeline.exporting.target import DATA

_ROWS_PER_GROUP = 100  # of images: what `datasets` reads at once for one row


class ParquetWriter:
    """Parquet for Hugging Face ``datasets``: ``image`` with bytes and path, ``label``, and the other columns.

    Args:
        to: Where the files go.
    """

    def __init__(self, to: Destination) -> None:
        self._to = to
        self._row_columns = to.labels.schema.names
        self._schema = pa.schema([IMAGE, *to.labels.schema], metadata=huggingface_metadata(to.labels, image=True))
        self._group: list[Row] = []
        self._buffer = io.BytesIO()
        self._file: pq.ParquetWriter | None = None
        self._num_rows = 0
        self._files: dict[str, int] = {}

    def add(self, image: Image, row: Row, *, shared: bool) -> None:
        """Add a row; a full file is written."""
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
                use_dictionary=[name for name in self._row_columns if name not in {"sha256", "key", "index"}],
                write_page_checksum=True,
            )
        self._file.write_table(pa.Table.from_pylist(self._group, self._schema))
        self._num_rows += len(self._group)
        self._group = []

    def _columns(self) -> list[str]:
        return ["image.bytes", "image.path", *self._row_columns]

    def _close(self) -> None:
        assert self._file is not None
        self._file.close()
        path = f"{DATA}/{self._to.name}-{len(self._files):03d}.parquet"
        self._to.put(path, self._buffer.getvalue())
        self._files[path] = self._num_rows
        self._buffer, self._file, self._num_rows = io.BytesIO(), None, 0

    def finish(self) -> dict[str, int]:
        """Write the open file."""
        if self._group:
            self._flush()
        if self._file is not None:
            self._close()
        return self._files
