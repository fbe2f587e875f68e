"""Whether members of one sample lie apart in a shard: a guess from its beginning and its end, and then an index.

A shard that is sorted, which nearly all are, is not read twice, and needs no index. Signs that it is not are: a key
that comes again, and members of a key without an image, among the first samples or the last members. Directory order,
all images before all labels, labels that were appended: each leaves one.

A shard may be unsorted in its middle only, and of a compressed one the end is not seen. So a reader without an index
notes the keys that it has met. One that comes again while nothing of the unit is published means that the shard is
begun again, with an index (:class:`pipeline.errors.MembersApart`). That is so before the sample at which the first
part ends, which is a function of the shard and the job, whatever was killed in between; the footers of the parts say
how they were read, and whoever reads the shard for their sake does the same. Later than that, what was published stays
exact: an image is a sample with a key that the shard has twice, which is counted and shown, and other members are a
sample without an image, whose message says how to sort the shard.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.errors import MembersApart
from pipeline.records import Cursor, Reason, ShardEvent
from pipeline.stages.grouping import Grouping, SampleGrouper
from pipeline.stages.joining import Joins, Run
from pipeline.stages.member_names import is_image_name, key_and_field, kind_of_image
from pipeline.stages.tar import BLOCK_BYTES, TarReader
from pipeline.storage import Entry, Storage

_HEAD_RUNS, _HEAD_BYTES = 8, 32 << 20
_TAIL_BYTES, _TAIL_HEADERS = 32 << 10, 5
_EXTENSIONS = b"xgLK"  # headers that a member's own header follows
_MAX_KEYS = 1 << 20  # that a reader notes, some 70 bytes each; what comes behind so many is not noticed
_MAGIC, _MAGIC_AT, _KIND_AT, _NAME_BYTES = b"ustar", 257, 156, 100


class Signs:
    """Signs that members of a sample lie apart, in the runs that it is fed.

    Attributes:
        found: Whether there is one.
        enough: Whether these are all runs that are looked at.
        kinds: The kinds of images in them.
    """

    def __init__(self) -> None:
        self.found = self.enough = False
        self.kinds: set[str] = set()
        self._keys: set[str] = set()
        self._num_runs = self._num_bytes = 0

    def take(self, run: Run) -> None:
        """Look at a run."""
        if self.enough:
            return
        self._num_runs += 1
        self._num_bytes += run.num_bytes
        self.kinds.update(map(kind_of_image, run.image_fields))
        if not run.alone:
            self.found |= run.key in self._keys or not run.num_images
            self._keys.add(run.key)
        self.enough = self.found or self._num_runs >= _HEAD_RUNS or self._num_bytes >= _HEAD_BYTES


class Watch:
    """Notes the keys of a shard while it is read, and tells where one comes again. Feed it each run.

    Args:
        every_image: Whether each image is a sample of its own.

    Attributes:
        signs: What the first runs show.
        begin_again_before: Before which sample a key that comes again means that the shard is to be read with an index.
    """

    def __init__(self, *, every_image: bool) -> None:
        self.signs = Signs()
        self.begin_again_before = 0
        self._every_image = every_image
        self._run_keys: set[int] = set()  # hashes of 64 bits: they take less than the keys
        self._sample_keys: set[int] = set() if every_image else self._run_keys

    def note(self, keys: Iterable[str]) -> None:
        """Note keys of samples that come before what is read."""
        for key in keys:
            self._add(self._sample_keys, hash(key))

    def take(self, run: Run) -> None:
        """Look at a run, and count its samples whose keys came before.

        Raises:
            MembersApart: The shard is to be read with an index.
        """
        if not self.signs.enough:
            self.signs.take(run)
        if run.index is None:
            return
        key, keys = hash(run.key), self._run_keys
        if key not in keys:
            if len(keys) < _MAX_KEYS:
                keys.add(key)
        elif run.index < self.begin_again_before and not run.alone:
            raise MembersApart(f"{run.key}: members of this sample lie apart in the shard")
        elif not self._every_image:
            run.num_repeated += 1
        if self._every_image:
            for sample_key in map(hash, run.sample_keys or (run.key,)):
                run.num_repeated += sample_key in self._sample_keys
                self._add(self._sample_keys, sample_key)

    @staticmethod
    def _add(keys: set[int], key: int) -> None:
        if len(keys) < _MAX_KEYS:
            keys.add(key)


def tail_has_signs(entry: Entry, storage: Storage, head: Signs) -> bool:
    """Whether the last members of a shard that is not compressed show signs; it is read with one small request.

    Images of other kinds than the first ones are a sign, too.
    """
    start = max(0, entry.size_bytes - _TAIL_BYTES) // BLOCK_BYTES * BLOCK_BYTES
    stream = storage.open(entry, start)
    try:
        data = stream.read(entry.size_bytes - start)
    finally:
        stream.close()
    headers = _header_places(data)
    if not _may_have_signs([data[at : at + _NAME_BYTES] for at in headers[-_TAIL_HEADERS:]], head.kinds):
        return False
    walk = TarReader(_Bytes(data, headers[-_TAIL_HEADERS:][0]), sniff=False, resumed=True)
    runs: list[Run] = []
    items = SampleGrouper(walk, Grouping(), Cursor(), (), on_run=runs.append)
    if any(isinstance(item, ShardEvent) and item.reason == Reason.SHARD_CORRUPT for item in items):
        return False
    signs = Signs()
    for run in runs[1:]:  # of the first one the beginning may be missing
        signs.take(run)
    kinds = signs.kinds.union(*(map(kind_of_image, run.image_fields) for run in runs[:1]))
    return signs.found or (bool(kinds) and kinds.isdisjoint(head.kinds))


def index_shard(walk: TarReader, grouping: Grouping) -> Joins | None:
    """Read the headers of a whole shard, and the contents of small fields; None if that is too much to hold."""
    joins = Joins(every_image=grouping.every_image)
    for _ in SampleGrouper(walk, grouping, Cursor(), (), on_run=joins.take, collects=True):
        if joins.overflown:
            return None
    joins.close()
    return joins


def _may_have_signs(names: list[bytes], kinds: set[str]) -> bool:
    """Whether names as they stand in headers allow for signs: a quick look, which mostly spares the exact one."""
    keys: dict[str, bool] = {}  # in order; whether there is an image
    found = set()
    for name in names:
        text = name.partition(b"\0")[0].decode("utf-8", "replace")
        key, field = key_and_field(text)
        if is_image := is_image_name(field):
            found.add(kind_of_image(field))
        keys[key or text] = keys.get(key or text, key is None) or is_image
    if found and found.isdisjoint(kinds):
        return True
    return not all(list(keys.values())[1:]) or len(keys) == 1 < len(names)


def _header_places(data: bytes) -> list[int]:
    """Where blocks begin that look like a member's header."""
    places = []
    found = data.find(_MAGIC, _MAGIC_AT)
    while found >= 0:
        at = found - _MAGIC_AT
        if at % BLOCK_BYTES == 0 and data[at + _KIND_AT] not in _EXTENSIONS:
            places.append(at)
        found = data.find(_MAGIC, found + 1)
    return places


class _Bytes:
    """Bytes in memory as a stream."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    def read(self, num_bytes: int) -> bytes:
        data = self._data[self.position : self.position + num_bytes]
        self.position += len(data)
        return data

    def skip(self, num_bytes: int) -> int:
        skipped = min(num_bytes, len(self._data) - self.position)
        self.position += skipped
        return skipped

    def close(self) -> None:
        """Nothing is open."""
