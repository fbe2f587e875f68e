"""Whether an input is still the one that was labelled, although its version or its place is another.

A version (modification time, ETag) tells that something may have changed, not that it did: data sets are copied,
touched, and uploaded again in other pieces. The rows in OUT tell what was labelled, down to a SHA-256 of each image. So
the input is read once more, and compared with them; nothing is decoded, and no network runs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ObjectDamaged, ObjectMissing, StorageError
from pipeline.labels import ClassResolver
from pipeline.output.ledger import PREDICTIONS, QUARANTINE, Ledger
from pipeline.output.parts import PartFooter, PartName, Progress
from pipeline.records import Cursor, Reason, Sample, ShardEvent, Unit, UnitKind
from pipeline.stages.read import UnitReader
from pipeline.storage import Entry, Storage
from pipeline.taxonomy.stored import cls_resolver
from pipeline.text import fmt

UNITS_AT_ONCE = 8
_PARALLEL_READS = 32
_NOTE_EVERY_S = 30.0
_DECIDED_BY_SIZE = (Reason.EMPTY, Reason.TOO_LARGE)  # read no further, so that equal sizes give equal rows


@dataclass(frozen=True, slots=True)
class Touched:
    """A unit whose input is not the planned version, but may have the same bytes.

    Attributes:
        unit: As planned.
        entries: Its objects as they are now: of a tar, under 0; of a slice, those with another version or place, by
            index.
        progress: Which of its parts are published.
    """

    unit: Unit
    entries: Mapping[int, Entry]
    progress: Progress

    @property
    def size_bytes(self) -> int:
        """Size of the objects."""
        return sum(entry.size_bytes for entry in self.entries.values())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        entries = [[index, entry.uri, entry.size_bytes, entry.etag] for index, entry in self.entries.items()]
        return {"unit": self.unit.to_dict(), "entries": entries, "progress": dataclasses.asdict(self.progress)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Touched:
        """Make one from its JSON-able form."""
        entries = {index: Entry(*entry) for index, *entry in values["entries"]}
        return cls(Unit.from_dict(values["unit"]), entries, Progress(**values["progress"]))


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison has shown.

    Attributes:
        same: Indices of the entries that hold what was labelled.
        problem: Why it could not be told; empty if it could.
    """

    same: frozenset[int] = frozenset()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Row:
    """What a row tells of its sample; ``reason`` is None in predictions."""

    key: str
    sha256: str | None
    reason: str | None
    offset: int | None = None
    num_bytes: int | None = None
    truth: int | None = None
    kept: Mapping[str, str | None] = field(default_factory=dict)

    def agrees(self, sample: Sample, classes: ClassResolver) -> bool:
        """Whether labelling the sample would give this row."""
        if self.key != sample.key:
            return False
        if self.reason is None:
            same_fields = all(sample.kept.get(name) == text for name, text in self.kept.items())
            same_fields = same_fields and self.truth == classes.resolve_cls(sample.cls).label
            return same_fields and self.sha256 == _hash(sample)
        if (self.offset, self.num_bytes) != (sample.offset, sample.num_bytes) or self.sha256 != _hash(sample):
            return False
        return sample.reason == self.reason if self.sha256 is None else True


def _hash(sample: Sample) -> str | None:
    return None if sample.image is None else hashlib.sha256(sample.image).hexdigest()


class _NotProved(Exception):  # noqa: N818 - the input may be right or not: the rows that would tell are damaged
    pass


class ContentCheck:
    """Compares inputs with the rows that were made of them. Safe to call from several threads, and to pickle.

    Args:
        ledger: The output.
        storage: How to reach it and the inputs.
        job: Its ``job.json``.
    """

    def __init__(self, ledger: Ledger, storage: Storage, job: Mapping[str, Any]) -> None:
        self._ledger = ledger
        self._storage = storage
        self._fingerprint = str(job["fingerprint"])
        results = job.get("results", {})
        self._keep = tuple(results.get("keep", ()))
        self._images = results.get("images", "auto")
        self._classes = cls_resolver(job)

    def __call__(self, touched: Touched) -> Compared:
        """Compare the objects of a unit with its rows. What is not labelled yet counts as the same."""
        try:
            if touched.unit.kind == UnitKind.SLICE:
                return Compared(frozenset(self._same_images(touched)))
            return Compared(frozenset({0} if self._is_same_tar(touched) else ()))
        except _NotProved:
            return Compared()
        except StorageError as error:
            return Compared(problem=str(error))

    # -- shards -------------------------------------------------------------------------------------------

    def _is_same_tar(self, touched: Touched) -> bool:
        """Whether every sample that is accounted for is there under its index, with the same fields and bytes."""
        unit, entry = touched.unit, touched.entries[0]
        if entry.size_bytes != unit.size_bytes:
            return False
        now = dataclasses.replace(unit, uri=entry.uri, etag=entry.etag)
        samples: _Samples | None = None
        noted: Counter[tuple[str | None, int | None, int | None]] = Counter()
        footer: PartFooter | None = None
        for part in self._parts(touched):
            footer, rows = self._read_part(part)
            for row in rows.pop(None, ()):
                noted[row.reason, row.offset, row.num_bytes] += 1
            stop = None if footer.last else footer.next.index
            if samples is None:
                start = Cursor(unsorted=footer.next.unsorted)
                samples = _Samples(UnitReader(now, self._storage, start, self._keep, images=self._images))
            for sample in samples.up_to(stop):
                own = rows.pop(sample.index, [])
                if len(own) != 1 or not own[0].agrees(sample, self._classes):
                    return False
            if rows:
                return False
            if stop is not None and samples.next_start() != (stop, footer.next.offset, footer.next.skip):
                return False
        if footer is None or samples is None:  # nothing is labelled yet
            return True
        return noted == samples.events if footer.last else noted <= samples.events

    # -- loose images -------------------------------------------------------------------------------------

    def _same_images(self, touched: Touched) -> Iterator[int]:
        """Indices of the loose images that are what was labelled."""
        rows: dict[int | None, list[_Row]] = {}
        end = 0
        for part in self._parts(touched):
            footer, own = self._read_part(part)
            rows |= own
            end = sys.maxsize if footer.last else footer.next.index
        left = {index: entry for index, entry in touched.entries.items() if index < end}
        yield from touched.entries.keys() - left.keys()
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            found = pool.map(lambda item: self._is_same_image(item[1], rows.get(item[0], ())), left.items())
            yield from (index for index, same in zip(left, found, strict=True) if same)

    def _is_same_image(self, entry: Entry, rows: Sequence[_Row]) -> bool:
        if len(rows) != 1 or (rows[0].num_bytes is not None and rows[0].num_bytes != entry.size_bytes):
            return False
        if rows[0].sha256 is None:
            return rows[0].reason in _DECIDED_BY_SIZE
        try:
            return hashlib.sha256(self._storage.fetch(entry)).hexdigest() == rows[0].sha256
        except ObjectMissing:
            return False

    # -- rows ---------------------------------------------------------------------------------------------

    def _parts(self, touched: Touched) -> Iterator[PartName]:
        return touched.progress.parts(self._fingerprint, touched.unit.id)

    def _read_part(self, part: PartName) -> tuple[PartFooter, dict[int | None, list[_Row]]]:
        """The rows of a part by index, those of damage to the shard under None.

        Raises:
            _NotProved: It is missing or damaged.
        """
        rows: dict[int | None, list[_Row]] = {}
        try:
            footer = self._ledger.footer(PREDICTIONS, str(part))
            columns = ["index", "key", "sha256", "truth", *self._keep]
            for values in self._ledger.read_part(PREDICTIONS, str(part), columns).to_pylist():
                kept = {name: values[name] for name in self._keep}
                row = _Row(values["key"], values["sha256"], None, truth=values["truth"], kept=kept)
                rows.setdefault(values["index"], []).append(row)
        except (ObjectMissing, ObjectDamaged) as error:
            raise _NotProved from error
        try:
            columns = ["index", "key", "sha256", "reason", "offset", "num_bytes"]
            for values in self._ledger.read_part(QUARANTINE, str(part), columns).to_pylist():
                index = values.pop("index")
                rows.setdefault(None if values["key"] is None else index, []).append(_Row(**values))
        except ObjectMissing:
            pass
        except ObjectDamaged as error:
            raise _NotProved from error
        return footer, rows


class _Samples:
    """The samples of a shard in order, up to one index after the other, and the damage that was met."""

    def __init__(self, reader: UnitReader) -> None:
        self.events: Counter[tuple[str | None, int | None, int | None]] = Counter()
        self._reader = reader
        self._items = iter(reader)
        self._held: Sample | None = None

    def up_to(self, stop: int | None) -> Iterator[Sample]:
        """The next samples before an index; all that are left if it is None."""
        while (sample := self._next()) is not None:
            if stop is not None and sample.index >= stop:
                self._held = sample
                return
            yield sample

    def next_start(self) -> tuple[int, int, int] | None:
        """Index, offset and skip of a cursor at the sample that follows; None at the end."""
        self._held = self._next()
        if self._held is None:
            return None
        cursor = self._reader.cursor_at(0, self._held)
        return cursor.index, cursor.offset, cursor.skip

    def _next(self) -> Sample | None:
        if self._held is not None:
            sample, self._held = self._held, None
            return sample
        for item in self._items:
            if isinstance(item, Sample):
                return item
            if isinstance(item, ShardEvent):
                self.events[item.reason, item.offset, item.num_bytes] += 1
        return None


Compare = Callable[[ContentCheck, Sequence[Touched]], Iterable[Compared]]


def compare_in_threads(check: ContentCheck, touched: Sequence[Touched]) -> Iterator[Compared]:
    """Compare units in threads of this process, and yield the results in order."""
    with ThreadPoolExecutor(UNITS_AT_ONCE, thread_name_prefix="compare") as pool:
        yield from pool.map(check, touched)


class Comparer:
    """Compares units, each once, however often it is asked.

    Args:
        check: Compares one.
        run: Compares several, and yields the results in order.
        note: Called with lines for the user.
    """

    def __init__(self, check: ContentCheck, run: Compare, note: Callable[[str], object]) -> None:
        self._check = check
        self._run = run
        self._note = note
        self._known: dict[tuple[str, tuple[tuple[int, Entry], ...]], Compared] = {}

    def compare(self, touched: Sequence[Touched]) -> list[Compared]:
        """Compare units with their rows."""
        keys = [(item.unit.id, tuple(item.entries.items())) for item in touched]
        new = {key: item for key, item in zip(keys, touched, strict=True) if key not in self._known}
        if new:
            total = sum(item.size_bytes for item in new.values())
            self._note(f"reading {fmt.size(total)} of inputs, to compare them with what was labelled")
            done, said = 0, time.monotonic()
            for (key, item), compared in zip(new.items(), self._run(self._check, list(new.values())), strict=True):
                self._known[key] = compared
                done += item.size_bytes
                if time.monotonic() - said > _NOTE_EVERY_S:
                    said = time.monotonic()
                    self._note(f"compared {fmt.size(done)} of {fmt.size(total)}")
        return [self._known[key] for key in keys]
