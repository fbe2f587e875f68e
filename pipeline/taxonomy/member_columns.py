"""The columns ``member:ALIAS`` of a ``--classes`` file: which class of a member is which classes of the job.

A member that was trained on other classes has indices of its own, and names where its checkpoint names them. A cell
says which of its classes those of the row are for it. Its class may be coarser: several rows name it then. An empty
cell: it knows nothing of these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import InputError
from pipeline.labels import ClassResolver, nearest_names
from pipeline.text import fmt

MEMBER_COLUMN = "member:"  # what the header of such a column begins with; no level can be called so
OWN_CLASSES = "own_classes_sha256"  # of such a member in job.json
NOT_KNOWN = -1  # a class of the job that a member knows nothing of


@dataclass(frozen=True, slots=True)
class MemberColumn:
    """What the file says of one member.

    Attributes:
        alias: Of the member.
        cells: For each of the K classes which of its own the member has for it, as it is written; empty for none.
        rows: For each of the K classes the row that says so, for messages; empty without one.
    """

    alias: str
    cells: tuple[str, ...]
    rows: tuple[str, ...]

    @property
    def num_leaves(self) -> int:
        """How many of the K classes it knows."""
        return sum(map(bool, self.cells))

    @property
    def num_own(self) -> int:
        """How many of the member's classes the cells name."""
        return len({*self.cells} - {""})


def member_alias(header: str) -> str | None:
    """The alias in the header of a column; None where it is a level's."""
    return header.removeprefix(MEMBER_COLUMN).strip() if header.startswith(MEMBER_COLUMN) else None


def find_own_classes(source: str, column: MemberColumn, num_own: int, own_names: Sequence[str] = ()) -> tuple[int, ...]:
    """Find the member's classes that the cells name.

    Args:
        source: The file, for messages.
        column: Of the member.
        num_own: C, classes that it has.
        own_names: Their names; empty where its checkpoint gives none.

    Returns:
        For each of the K classes an index of the member's, 0 to C - 1; :data:`NOT_KNOWN` where it knows nothing of it.

    Raises:
        InputError: A cell names none of them; the message names the row.
    """
    classes = ClassResolver(own_names or [""] * num_own)
    resolve = classes.resolve if own_names else classes.resolve_index
    found: dict[str, int] = {"": NOT_KNOWN}
    for cell, row in zip(column.cells, column.rows, strict=True):
        if cell in found:
            continue
        own = resolve(cell)
        if own is None or own < 0:
            near = nearest_names(cell, own_names)
            meant = f"; did you mean {' or '.join(map(repr, near))}" if near else ""
            unnamed = "" if own_names else f", which its file does not name: an index, 0 to {num_own - 1}, does"
            raise InputError(
                f"{source}, {row}: {MEMBER_COLUMN}{column.alias}: {cell!r} is none of its "
                f"{fmt.plural(num_own, 'class', 'classes')}{unnamed}{meant}"
            )
        found[cell] = own
    return tuple(found[cell] for cell in column.cells)


def own_classes_sha256(own_classes: Sequence[int]) -> str:
    """SHA-256 of what :func:`find_own_classes` has found, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(list(own_classes)).encode()).hexdigest()
