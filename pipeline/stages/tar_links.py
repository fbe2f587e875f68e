"""Hard links in a tar: the member that each one stands for, and its content.

A hard link stores a name only; the bytes are those of an earlier member. A tar without hard links costs nothing here.
At the first one the archive is opened again and walked from its start:

* :class:`SeekableLinks`, for an archive that can be read from any offset, walks up to the link and makes an index of
  names. The content is read again from where it lies.
* :class:`HeldLinks`, for a compressed archive, walks all of it to see which members links stand for. A third walk reads
  their contents into memory: those that links name first, as far as the limit goes.

What is found depends on the bytes alone, so that a unit that is resumed gets the same rows.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pipeline.records import ShardEvent
from pipeline.stages.tar_member import Member

_MAX_NAMES = 1 << 18  # in an index: 60 MB
_MAX_HELD_BYTES = 128 << 20
NOT_FOUND = "which is not among the members before it"
NOT_HELD = f"whose content is beyond the {_MAX_HELD_BYTES >> 20} MiB that are held of a compressed shard"


class Walk(Protocol):
    """Another walk through the archive."""

    def __iter__(self) -> Iterator[Member | ShardEvent]: ...

    def payload(self) -> bytes | None:
        """The content of the current member."""

    def close(self) -> None:
        """Close its stream."""


OpenWalk = Callable[[int, int | None], Walk]
"""Opens the archive again, at the header of a member; what is needed ends at the second offset, None for the end."""


@dataclass(frozen=True, slots=True)
class Target:
    """The member that a hard link stands for.

    Attributes:
        offset: Of its first header.
        stop: Where its last block ends.
        num_bytes: Size of its content.
    """

    offset: int
    stop: int
    num_bytes: int


class Links(Protocol):
    """The hard links of one archive."""

    def note(self, member: Member) -> None:
        """Note a member that the reader walks past."""

    def find(self, link: Member) -> Target | str:
        """Find what a link stands for, or say why its content cannot be read."""

    def read(self, target: Target) -> bytes | None:
        """The content of what a link stands for."""


class _Index:
    """Members by name, the latest of each name; where there are very many, without the oldest."""

    def __init__(self) -> None:
        self._targets: dict[int, Target] = {}

    def add(self, member: Member) -> None:
        if member.link:
            target = self.find(member.link)
        else:
            target = None if member.special else Target(member.offset, member.stop, member.num_bytes)
        if target is None:
            return
        key = _key(member.name)
        self._targets.pop(key, None)
        self._targets[key] = target
        if len(self._targets) > _MAX_NAMES:
            del self._targets[next(iter(self._targets))]

    def find(self, name: str) -> Target | None:
        return self._targets.get(_key(name))


def _key(name: str) -> int:
    """A number for a name, which may be written with ``./`` or ``/`` in front."""
    return hash(posixpath.normpath(name).lstrip("/"))


class SeekableLinks:
    """The hard links of an archive that can be read from any offset.

    Args:
        open_walk: Opens the archive again.
    """

    def __init__(self, open_walk: OpenWalk) -> None:
        self._open_walk = open_walk
        self._index: _Index | None = None

    def note(self, member: Member) -> None:
        """Note a member that the reader walks past."""
        if self._index is not None:
            self._index.add(member)

    def find(self, link: Member) -> Target | str:
        """Find what a link stands for, or say why its content cannot be read."""
        if self._index is None:
            self._index = self._walk_up_to(link.offset)
        return self._index.find(link.link) or NOT_FOUND

    def _walk_up_to(self, offset: int) -> _Index:
        index = _Index()
        walk = self._open_walk(0, None)
        try:
            for item in walk:
                if isinstance(item, Member):
                    if item.offset >= offset:
                        break
                    index.add(item)
        finally:
            walk.close()
        return index

    def read(self, target: Target) -> bytes | None:
        """The content of what a link stands for."""
        walk = self._open_walk(target.offset, target.stop)
        try:
            return walk.payload() if isinstance(next(iter(walk), None), Member) else None
        finally:
            walk.close()


class HeldLinks:
    """The hard links of a compressed archive, which can be read from its start only.

    Args:
        open_walk: Opens the archive again.
    """

    def __init__(self, open_walk: OpenWalk) -> None:
        self._open_walk = open_walk
        self._targets: dict[int, Target] | None = None  # by the offset of the link
        self._wanted: dict[int, None] = {}  # offsets of the targets that are held, in order
        self._contents: dict[int, bytes | None] | None = None

    def note(self, member: Member) -> None:
        """Note a member that the reader walks past."""

    def find(self, link: Member) -> Target | str:
        """Find what a link stands for, or say why its content cannot be read."""
        if self._targets is None:
            self._targets = self._find_all()
        target = self._targets.get(link.offset)
        if target is None:
            return NOT_FOUND
        return target if target.offset in self._wanted else NOT_HELD

    def _find_all(self) -> dict[int, Target]:
        index, targets, left = _Index(), dict[int, Target](), _MAX_HELD_BYTES
        walk = self._open_walk(0, None)
        try:
            for item in walk:
                if isinstance(item, ShardEvent):
                    continue
                if item.link and (target := index.find(item.link)) is not None and len(targets) < _MAX_NAMES:
                    targets[item.offset] = target
                    if target.offset not in self._wanted and target.num_bytes <= left:
                        self._wanted[target.offset] = None
                        left -= target.num_bytes
                index.add(item)
        finally:
            walk.close()
        return targets

    def read(self, target: Target) -> bytes | None:
        """The content of what a link stands for."""
        if self._contents is None:
            self._contents = self._read_all()
        return self._contents.get(target.offset)

    def _read_all(self) -> dict[int, bytes | None]:
        contents: dict[int, bytes | None] = {}
        walk = self._open_walk(0, None)
        try:
            for item in walk:
                if isinstance(item, Member) and item.offset in self._wanted:
                    contents[item.offset] = walk.payload()
                    if len(contents) == len(self._wanted):
                        break
        finally:
            walk.close()
        return contents
