"""Original images: read the encoded images of some rows from the inputs again.

Units are read in parallel, each from the part that holds its first wanted row to its last wanted row. Images in between
are skipped: on disk they are not read, and on S3 ranges that hold nothing else are not requested. A compressed tar must
be inflated from its start.
"""

from __future__ import annotations

import hashlib
import itertools
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.config.option_types import Images
from pipeline.errors import StorageError
from pipeline.inputs.units import read_units
from pipeline.output.ledger import Ledger
from pipeline.output.starts import part_start
from pipeline.records import Item, Sample, Unit, UnitKind
from pipeline.stages.read import UnitReader
from pipeline.storage import Storage
from pipeline.text.safe import printable

_UNITS_AT_ONCE = 8
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, order=True)
class Wanted:
    """A row of predictions whose image is wanted.

    Attributes:
        unit_id, part: Unit and number of the part that holds the row.
        index, key: As in the row.
        sha256: As in the row; None to accept any image.
    """

    unit_id: str
    part: int
    index: int
    key: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Original:
    """An encoded image, or why there is none.

    Attributes:
        wanted: The row.
        image: The bytes, unchanged; None if they cannot be read.
        problem: Why not, in one line; empty if there is an image.
    """

    wanted: Wanted
    image: bytes | None
    problem: str = ""


def fetch_originals(wanted: Iterable[Wanted], ledger: Ledger, storage: Storage) -> Iterator[Original]:
    """Read the images of some rows: one :class:`Original` each, in order of unit, part and index.

    At most 16 images are in memory.

    Args:
        wanted: The rows, in any order.
        ledger: The output that holds them.
        storage: How to reach the output and its inputs.

    Raises:
        OutputError: The plan of the output cannot be read.
    """
    rows_of = {
        unit_id: list(rows) for unit_id, rows in itertools.groupby(sorted(set(wanted)), key=lambda row: row.unit_id)
    }
    units = {unit.id: unit for unit in read_units(ledger, storage) if unit.id in rows_of} if rows_of else {}
    reader = _ImageReader(ledger, storage)
    queues: deque[_UnitQueue] = deque()
    stopped = threading.Event()
    pool = ThreadPoolExecutor(_UNITS_AT_ONCE, thread_name_prefix="originals")
    try:
        for unit_id, rows in rows_of.items():
            queues.append(_UnitQueue(stopped))
            pool.submit(queues[-1].put_all, reader.read(units.get(unit_id), rows))
            if len(queues) == _UNITS_AT_ONCE:
                yield from queues.popleft().get_all()
        while queues:
            yield from queues.popleft().get_all()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


class _UnitQueue:
    """Passes the images of one unit from the thread that reads them to the consumer, one at a time."""

    def __init__(self, stopped: threading.Event) -> None:
        self._queue: queue.Queue[Original | BaseException | None] = queue.Queue(1)
        self._stopped = stopped

    def put_all(self, originals: Iterator[Original]) -> None:
        try:
            for original in originals:
                if not self._put(original):
                    return
            self._put(None)
        except BaseException as error:  # noqa: BLE001 - handed over to the consumer
            self._put(error)

    def _put(self, item: Original | BaseException | None) -> bool:
        """Put an item; False if the consumer has stopped."""
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def get_all(self) -> Iterator[Original]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item


class _ImageReader:
    """Reads the images of some rows, unit by unit."""

    def __init__(self, ledger: Ledger, storage: Storage) -> None:
        job = ledger.job()
        self._ledger = ledger
        self._storage = storage
        self._fingerprint = str(job["fingerprint"])
        self._images: Images = job["results"].get("images", "auto")

    def read(self, unit: Unit | None, rows: Sequence[Wanted]) -> Iterator[Original]:
        """Read the images of rows of one unit; the rows must be in order."""
        left = {row.index: row for row in rows}
        problem = "is no longer there"
        if unit is None:
            problem = "its unit is not in the plan of the output"
        else:
            try:
                for sample in self._samples(unit, rows):
                    if (row := left.pop(sample.index, None)) is not None:
                        yield _check(row, sample)
            except StorageError as error:
                problem = printable(error)
        for row in left.values():
            yield Original(row, None, problem)

    def _samples(self, unit: Unit, rows: Sequence[Wanted]) -> Iterator[Sample]:
        """Read the samples of some rows, and those between them."""
        indices = frozenset(row.index for row in rows)
        reader: UnitReader | None = None
        items: Iterator[Item] = iter(())
        reached = -1
        for number, own in itertools.groupby(rows, key=lambda row: row.part):
            last = max(row.index for row in own)
            forward = reader is not None and (
                reader.compressed or reader.unsorted or unit.kind == UnitKind.SLICE or number == reached + 1
            )
            if not forward:
                start = part_start(self._ledger, self._fingerprint, unit.id, number)
                reader = UnitReader(unit, self._storage, start, images=self._images, only=indices)
                items = iter(reader)
            for item in items:
                if isinstance(item, Sample):
                    yield item
                    if item.index >= last:
                        break
            reached = number


def _check(row: Wanted, sample: Sample) -> Original:
    """Take a sample's image if it is the one that was labelled."""
    if sample.key != row.key:
        return Original(row, None, f"is not the image that was labelled: {printable(sample.key)} is in its place")
    if sample.image is None:
        return Original(row, None, f"has no image: {printable(sample.message)}")
    if row.sha256 is not None and hashlib.sha256(sample.image).hexdigest() != row.sha256:
        return Original(row, None, "is not the image that was labelled: its sha256 is another")
    return Original(row, sample.image)
