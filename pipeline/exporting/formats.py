"""The formats of a dataset: what writes the images and rows of one part as files.

A writer takes images one by one, in order, and writes a file whenever memory holds as much as one file may. The bytes
are a function of the images and rows alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import pyarrow as pa
import pyarrow.csv

from pipeline.exporting.destination import Destination, PartWriter
from pipeline.exporting.folder_writer import FolderWriter
from pipeline.exporting.parquet_writer import ParquetWriter
from pipeline.exporting.tar_writer import TarWriter
from pipeline.exporting.target import DATA

WRITERS: Mapping[str, Callable[[Destination], PartWriter]] = {
    "webdataset": TarWriter,
    "parquet": ParquetWriter,
    "imagefolder": FolderWriter,
}


def csv_file(name: str, table: pa.Table) -> tuple[str, bytes]:
    """Rows as a CSV file, and its path below TO. It needs no image."""
    columns = ["shard", "key", *(column for column in table.column_names if column not in {"shard", "key"})]
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(table.select(columns), buffer)
    return f"{DATA}/{name}.csv", buffer.getvalue()
