"""Parts: their names and their footers.

A name holds the job's fingerprint, the unit, the part number, and whether it is the unit's last part; so a listing of
names shows what is done. The Parquet footer of a part holds the same, and where the next part starts.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ObjectDamaged
from pipeline.records import Counted, Cursor, Omitted

METADATA_KEY = b"shardlabel"
UNREADABLE = "unreadable"

PART_NAME = re.compile(r"part-([0-9a-f]{8})-([0-9a-f]{16})-(\d{5,})(-last)?\.parquet")
UNREADABLE_NAME = re.compile(rf"part-([0-9a-f]{{8}})-([0-9a-f]{{16}})-{UNREADABLE}\.parquet")
# What pyarrow and json raise for bytes that are not a valid file.
PARSE_ERRORS = (pa.ArrowException, OSError, ValueError, LookupError, TypeError, RecursionError)


@dataclass(frozen=True, slots=True)
class PartName:
    """The fields of a part's name."""

    fingerprint: str
    unit_id: str
    part: int
    last: bool

    def __str__(self) -> str:
        return f"part-{self.fingerprint[:8]}-{self.unit_id}-{self.part:05d}{'-last' if self.last else ''}.parquet"

    @classmethod
    def parse(cls, name: str) -> PartName | None:
        """Parse a file name; None if it is not the name of a part."""
        match = PART_NAME.fullmatch(name)
        return cls(match[1], match[2], int(match[3]), match[4] is not None) if match else None


@dataclass(frozen=True, slots=True)
class PartFooter:
    """The footer of a part.

    Attributes:
        num_rows: Number of rows.
        unit_id, fingerprint, part, last: As in its name.
        first_index: Index of its first sample.
        next: Where the next part starts.
        truths_not_understood: Of its labelled samples, those whose ``.cls`` names no class.
        omitted: What lies among its samples in the input and has no row.
    """

    num_rows: int
    unit_id: str
    fingerprint: str
    part: int
    last: bool
    first_index: int
    next: Cursor
    truths_not_understood: Counted = field(default_factory=Counted)
    omitted: Omitted = field(default_factory=Omitted)


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of one unit is published.

    Attributes:
        num_parts: Number of its predictions parts, from the first up to the first gap.
        complete: Whether these include the unit's last part.
    """

    num_parts: int = 0
    complete: bool = False

    def parts(self, fingerprint: str, unit_id: str) -> Iterator[PartName]:
        """Names of these parts, in order."""
        for part in range(self.num_parts):
            yield PartName(fingerprint, unit_id, part, self.complete and part == self.num_parts - 1)

    def names(self, fingerprint: str, unit_id: str) -> Iterator[str]:
        """File names of these parts, in order."""
        return map(str, self.parts(fingerprint, unit_id))


def unreadable_name(fingerprint: str, unit_id: str) -> str:
    """Name of the quarantine part of a unit that could not be read at all."""
    return f"part-{fingerprint[:8]}-{unit_id}-{UNREADABLE}.parquet"


def unit_of(name: str) -> str | None:
    """Id of the unit that a file in ``predictions`` or ``quarantine`` belongs to; None if it is no part."""
    if (parsed := PartName.parse(name)) is not None:
        return parsed.unit_id
    match = UNREADABLE_NAME.fullmatch(name)
    return match[2] if match else None


def truths_not_understood(table: pa.Table) -> Counted:
    """Labelled samples whose ``.cls`` names no class, of a part that was read with its metadata."""
    try:
        own = json.loads((table.schema.metadata or {})[METADATA_KEY])
        return Counted.from_dict(own["truths_not_understood"])
    except PARSE_ERRORS:  # there are none, or the footer is no part's
        return Counted()


def num_no_class(table: pa.Table) -> int:
    """Labelled samples whose ``.cls`` says that no class fits, of a part that was read with its metadata.

    Where there are none, -1 in the column ``truth`` is a number of the ``.cls``, as earlier versions wrote it.
    """
    try:
        return int(json.loads((table.schema.metadata or {})[METADATA_KEY])["truths_no_class"])
    except PARSE_ERRORS:
        return 0


def parts_by_unit(names: Iterable[str], fingerprint: str) -> Iterator[tuple[str, dict[int, bool]]]:
    """Parts of a job that are neighbours in a listing, by unit: their numbers, and whether each is its last one."""
    matches = (PART_NAME.fullmatch(name) for name in names)
    own = (match for match in matches if match and match[1] == fingerprint[:8])
    for unit_id, parts in itertools.groupby(own, key=lambda match: match[2]):
        yield unit_id, {int(match[3]): match[4] is not None for match in parts}


def read_footer(tail: bytes, uri: str) -> PartFooter:
    """Parse the footer of a part.

    Args:
        tail: The end of the file, with the whole Parquet footer.
        uri: URI of the part, for the message.

    Raises:
        ObjectDamaged: It is no part of shardlabel.
    """
    try:
        metadata = pq.read_metadata(io.BytesIO(tail))
        own = json.loads((metadata.metadata or {})[METADATA_KEY])
        footer = PartFooter(
            num_rows=metadata.num_rows,
            unit_id=own["unit"],
            fingerprint=own["fingerprint"],
            part=own["part"],
            last=own["last"],
            first_index=own["first_index"],
            next=Cursor.from_dict(own["next"]),
            truths_not_understood=Counted.from_dict(own.get("truths_not_understood", {})),
            omitted=Omitted.from_dict(own.get("omitted", {})),
        )
        _check_numbers(footer)
    except PARSE_ERRORS as error:
        raise ObjectDamaged(f"{uri}: not a part of shardlabel: {error}") from error
    return footer


def _check_numbers(footer: PartFooter) -> None:
    """Check that the next part starts behind this one, so that resuming goes forward.

    Raises:
        TypeError, ValueError: It does not.
    """
    following, omitted = footer.next, footer.omitted
    numbers = (
        *(footer.part, footer.first_index, following.part, following.index, following.offset, following.skip),
        *(omitted.other_images, omitted.separate_images, omitted.passed_over, omitted.repeated_keys),
        footer.truths_not_understood.count,
    )
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError(f"no numbers: {numbers}")
    names = (omitted.other_images_example, omitted.passed_over_example, omitted.repeated_keys_example)
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"no names: {omitted}")
    if following.part != footer.part + 1:
        raise ValueError(f"part {following.part} follows part {footer.part}")


def progress_of(parts: dict[int, bool]) -> Progress:
    """Find how much of a unit is published, from its parts: their numbers, and whether each is the last one."""
    number = 0
    while number in parts:
        number += 1
    return Progress(number, number > 0 and parts[number - 1])
