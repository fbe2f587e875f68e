"""The exporter: the parts of one unit from predictions to files of a dataset.

The row of a selected image is read from the predictions, and its bytes from the input. The hash of the bytes is
compared with the one in the row, and both are written. When all images of a part are written, the part is committed.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.config.option_types import Images
from pipeline.config.settings import StorageConfig
from pipeline.engines.workload import Item
from pipeline.errors import Interrupted, ObjectChanged, ObjectDamaged, PublishError, StorageError
from pipeline.exporting.destination import Destination, Row
from pipeline.exporting.formats import WRITERS, csv_file
from pipeline.exporting.images import ExpectedImage, Image, read_images
from pipeline.exporting.names import class_folders
from pipeline.exporting.rows import READ_COLUMNS, LabelNames, build_rows
from pipeline.exporting.target import Target
from pipeline.metrics import Meter
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName
from pipeline.records import UNAVAILABLE, UNWRITABLE, Cursor, Receipt, Unit, UnitKind
from pipeline.stages.read import failure_reason
from pipeline.storage import Storage

UNITS_AT_ONCE = 4
_RECEIPT_EVERY_S = 1.0
_GRACE_S = 5.0  # the engine gives ten seconds; the rest is for the last uploads
_PUTS_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class ExporterConfig:
    """Settings of an exporter.

    Attributes:
        out, job_fingerprint: The output, and the fingerprint of its job.
        to, export_fingerprint: Where the dataset goes, and the fingerprint of the export.
        format: Of the dataset.
        aliases: Of the members.
        labels: What labels stand for.
        images: Which images of a sample were labelled: the first, or all.
        storage: How to reach all of it.
    """

    out: str
    job_fingerprint: str
    to: str
    export_fingerprint: str
    format: str
    aliases: tuple[str, ...]
    labels: LabelNames
    storage: StorageConfig
    images: Images = "auto"


@dataclass(slots=True)
class _Record:
    """What the commit of a part says: its shard, files with their images, images by extension, and what is left out."""

    shard: str
    files: dict[str, int] = field(default_factory=dict)
    extensions: Counter[str] = field(default_factory=Counter)
    omitted: list[dict[str, Any]] = field(default_factory=list)

    @property
    def images(self) -> int:
        return sum(self.files.values())

    def to_dict(self) -> dict[str, Any]:
        return {
            "shard": self.shard,
            "files": self.files,
            "images": self.images,
            "extensions": dict(sorted(self.extensions.items())),
            "omitted": self.omitted,
        }


class Exporter:
    """Exports units. Safe to call from several threads."""

    def __init__(self, config: ExporterConfig) -> None:
        self._config = config
        self._storage = Storage(config.storage)
        self._source = Ledger(config.out, self._storage)
        self._target = Target(config.to, self._storage, config.export_fingerprint)
        self._pool = ThreadPoolExecutor(_PUTS_AT_ONCE * UNITS_AT_ONCE, thread_name_prefix="put")

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown()

    def __call__(
        self, unit: Unit, parts: Sequence[PartName], stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[Receipt]:
        """Export some parts of a unit.

        Args:
            unit: The unit.
            parts: Its parts of predictions, in order.
            stopping: Called before each image. Once true, the current part is dropped, unless it is nearly done.

        Yields:
            The receipt after each part and about once a second; each holds everything so far.
        """
        if stopping():
            return
        receipt = Receipt(unit.id, started_at=time.time())
        try:
            for part in parts:
                yield from self._export_part(unit, part, receipt, stopping)
            receipt.finished = True
        except Interrupted:
            pass
        except PublishError as error:
            receipt.failure, receipt.message = UNWRITABLE, str(error)
        except StorageError as error:
            receipt.failure, receipt.message = failure_reason(error) or UNAVAILABLE, str(error)
        yield receipt

    def _export_part(
        self, unit: Unit, part: PartName, receipt: Receipt, stopping: Callable[[], bool]
    ) -> Iterator[Receipt]:
        if stopping():
            raise Interrupted("asked to stop")
        name = self._target.name(part)
        done = receipt.num_samples
        with _target_errors():
            self._target.check_owner()
            selected = self._target.read_selection(name)
        table = self._read_rows(part, selected)
        record = _Record(unit.uri)
        if self._config.format == "csv":
            path, data = csv_file(name, table)
            self._put(path, data)
            record.files[path] = table.num_rows
        else:
            rows = {row["index"]: row for row in table.to_pylist()}
            shared = dict(zip(selected["index"].to_pylist(), selected["shared"].to_pylist(), strict=True))
            yield from self._export_images(unit, part, rows, shared, record, receipt, stopping)
        self._commit(name, record.to_dict())
        receipt.num_samples = receipt.num_published = done + table.num_rows
        receipt.num_labelled += record.images
        lost = Counter(receipt.num_quarantined) + Counter(str(row["reason"]) for row in record.omitted)
        receipt.num_quarantined = dict(lost)
        receipt.parts[name] = [record.images, len(record.omitted)]
        receipt.committed_at = time.time()
        yield receipt

    def _export_images(
        self,
        unit: Unit,
        part: PartName,
        rows: Mapping[int, Row],
        shared: Mapping[int, bool],
        record: _Record,
        receipt: Receipt,
        stopping: Callable[[], bool],
    ) -> Iterator[Receipt]:
        """Write the images of a part with their rows, and record that."""
        loose = unit.kind == UnitKind.SLICE
        keeps_field = self._config.format == "webdataset" and not loose and self._config.images == "auto"
        labels = self._config.labels
        destination = Destination(
            self._target.name(part), self._put, self._pool, loose, keeps_field, labels, class_folders(labels.names)
        )
        writer = WRITERS[self._config.format](destination)
        expected = {index: ExpectedImage(row["key"], row["sha256"]) for index, row in rows.items()}
        begun = reported = time.monotonic()
        cursor = self._cursor(unit, part)
        with contextlib.closing(read_images(unit, self._storage, cursor, expected, self._config.images)) as images:
            for number, found in enumerate(images):
                if stopping() and not _is_nearly_done(number, len(rows), time.monotonic() - begun):
                    raise Interrupted("asked to stop")
                if isinstance(found, Image):
                    record.extensions[destination.extension(found)] += 1
                    writer.add(found, rows[found.index], shared=shared[found.index])
                else:
                    index, reason = found
                    record.omitted.append({"key": rows[index]["key"], "index": index, "reason": reason})
                receipt.num_samples += 1
                if time.monotonic() - reported > _RECEIPT_EVERY_S:
                    reported = time.monotonic()
                    yield receipt
        record.files |= writer.finish()

    def _read_rows(self, part: PartName, selected: pa.Table) -> pa.Table:
        columns = [*READ_COLUMNS, *(f"members.{alias}.energy" for alias in self._config.aliases)]
        predictions = self._source.read_part(PREDICTIONS, str(part), columns)
        try:
            return build_rows(predictions, selected, self._config.aliases, self._config.labels)
        except ObjectDamaged as error:
            raise ObjectDamaged(f"{self._source.uri(PREDICTIONS, str(part))}: {error}") from error

    def _cursor(self, unit: Unit, part: PartName) -> Cursor:
        """The position in the tar at which a part starts, and how the tar is read."""
        if unit.kind == UnitKind.SLICE:
            return Cursor()
        if not part.part:
            return Cursor(unsorted=self._source.footer(PREDICTIONS, str(part)).next.unsorted)
        before = PartName(part.fingerprint, part.unit_id, part.part - 1, last=False)
        return self._source.footer(PREDICTIONS, str(before)).next

    def _put(self, path: str, data: bytes) -> None:
        with _target_errors():
            self._target.put(path, data)

    def _commit(self, name: str, record: Mapping[str, Any]) -> None:
        with _target_errors():
            try:
                self._target.commit(name, record)
            except ObjectChanged:
                for path in record["files"]:  # another export owns the place by now
                    self._target.remove(path)
                raise


@contextlib.contextmanager
def _target_errors() -> Iterator[None]:
    """Turns storage errors into errors of the destination TO."""
    try:
        yield
    except StorageError as error:
        raise PublishError(f"--to cannot be used: {error}") from error


def _is_nearly_done(done: int, total: int, elapsed_s: float) -> bool:
    """Whether the rest of a part will take less than the grace period, at its rate so far."""
    return done > 0 and (total - done) * elapsed_s / done < _GRACE_S


class ExportWorker:
    """An exporter for engines: dicts in, dicts out."""

    def __init__(self, config: ExporterConfig, blobs: Mapping[str, bytes], num_threads: int, _meter: Meter) -> None:
        self._exporter = Exporter(config)
        self._fingerprint = config.job_fingerprint

    def __call__(self, item: Item, stopping: Callable[[], bool]) -> Iterator[Item]:
        """Export the parts of an item."""
        unit = Unit.from_dict(item["unit"])
        parts = [PartName(self._fingerprint, unit.id, number, last) for number, last in item["parts"]]
        for receipt in self._exporter(unit, parts, stopping):
            yield receipt.to_dict()

    def close(self) -> None:
        """Stop the exporter's threads."""
        self._exporter.close()
