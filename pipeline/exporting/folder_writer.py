"""The format ``imagefolder``: a folder of image files for each class, and their rows as Parquet."""

from __future__ import annotations

import io
import json
from concurrent.futures import Future

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.exporting.destination import Destination, Row
from pipeline.exporting.images import Image
from pipeline.exporting.names import file_stem
from pipeline.exporting.rows import LabelNames, huggingface_metadata
from pipeline.exporting.target import DATA, METADATA

_WRITES_AT_ONCE = 8


class FolderWriter:
    """Loose files ``data/CLASS/KEY.EXT``, and their rows in ``metadata/PART.parquet``.

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
        path = f"{self._to.class_folders[row['label']]}/{stem}.{self._to.extension(image)}"
        if len(self._writing) == _WRITES_AT_ONCE:
            self._wait()
        self._writing.append(self._to.pool.submit(self._to.put, f"{DATA}/{path}", image.data))
        self._rows.append({"file_name": path, **row})

    def _wait(self) -> None:
        writing, self._writing = self._writing, []
        for future in writing:
            future.result()

    def finish(self) -> dict[str, int]:
        """Wait for the images, and write their rows."""
        self._wait()
        path = f"{METADATA}/{self._to.name}.parquet"
        self._to.put(path, parquet_bytes(pa.Table.from_pylist(self._rows, metadata_schema(self._to.labels))))
        return {path: len(self._rows)}


def metadata_schema(labels: LabelNames) -> pa.Schema:
    """Columns of the metadata: ``file_name``, a path below ``data``, and those of the rows."""
    known = huggingface_metadata(labels, image=False)
    content = json.loads(known[b"huggingface"])
    content["info"]["features"] = {"file_name": {"dtype": "string", "_type": "Value"}, **content["info"]["features"]}
    return pa.schema([("file_name", pa.string()), *labels.schema], metadata={b"huggingface": json.dumps(content)})


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()
