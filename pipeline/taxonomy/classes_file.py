"""``--classes FILE``: which class is in which groups, checked.

The first column, ``class``, names a class of the job: an index, a WordNet id or a name. A group of WordNet
(``dog.n.01``) stands for all classes in it that have no row of their own, or of a smaller group. Each further column is
a level, the finest first, and its header the level's name. An empty cell is no group at this level; a class that is not
listed is in none. Columns that are called ``member:ALIAS`` are no levels (``member_columns``).
"""

from __future__ import annotations

import dataclasses
import functools
import keyword
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from pipeline.columns import GROUP_SCORE_SUFFIX, RESERVED_COLUMNS
from pipeline.config.members import is_alias
from pipeline.errors import InputError, StorageError
from pipeline.labels import ClassResolver, nearest_names
from pipeline.storage import Storage, absolute_uri
from pipeline.taxonomy.member_columns import MEMBER_COLUMN, MemberColumn, member_alias
from pipeline.taxonomy.table import CLASS, Row, Table, parse_table
from pipeline.taxonomy.tree import NO_GROUP, Group, Taxonomy, make_taxonomy
from pipeline.taxonomy.wordnet import WORDNET, find_group, wordnet_taxonomy
from pipeline.text import fmt
from pipeline.text.safe import printable

_COLUMN_OF_EXPORT = "level"
_GROUP_OF_WORDNET = re.compile(r"\S+\.n\.[0-9]{2}|[nN][0-9]{8}")


def read_classes(source: str, storage: Storage, class_names: Sequence[str]) -> Taxonomy:
    """Read what ``--classes`` names.

    Args:
        source: A file, local or S3, or ``wordnet``.
        storage: Reads it.
        class_names: Of the K classes of the job.

    Raises:
        InputError: It is missing or not valid; the message names the row.
    """
    if source == WORDNET:
        return wordnet_taxonomy(class_names)
    return parse_classes(source, _read(source, storage), class_names)


def level_names(source: str, storage: Storage) -> tuple[str, ...]:
    """The levels of a file, finest first; its rows are not looked at.

    Raises:
        InputError: It is missing or no table, or a level's name cannot be one.
    """
    return _check_header(parse_table(source, _read(source, storage))).levels


def member_aliases(source: str, storage: Storage) -> tuple[str, ...]:
    """The members that a file has a column for; its rows are not looked at.

    Raises:
        InputError: As of :func:`level_names`.
    """
    return () if source == WORDNET else _check_header(parse_table(source, _read(source, storage))).aliases


def _read(source: str, storage: Storage) -> bytes:
    try:
        return storage.read(absolute_uri(source))
    except StorageError as error:
        raise InputError(str(error)) from error


def parse_classes(path: str, data: bytes, class_names: Sequence[str]) -> Taxonomy:
    """Read the content of a file.

    Raises:
        InputError: It is not valid; the message names the row.
    """
    table = parse_table(path, data)
    header = _check_header(table)
    rows = _find_leaves(path, table, class_names)
    members = tuple(_member_column(table, alias, rows, len(class_names)) for alias in sorted(header.aliases))
    places = [0, *(table.header.index(level) for level in header.levels)]
    rows = {leaf: Row(row.where, tuple(row.cells[at] for at in places)) for leaf, row in rows.items()}
    for at, level in enumerate(header.levels, 1):
        if not any(row.cells[at] for row in rows.values()):
            raise InputError(f"{table.place}: the level {level!r} has no group in it")
    return dataclasses.replace(_make_tree(path, header.levels, rows, class_names), member_columns=members)


def _member_column(table: Table, alias: str, rows: Mapping[int, Row], num_classes: int) -> MemberColumn:
    """The column of a member.

    Raises:
        InputError: There is nothing in it.
    """
    at = next(place for place, name in enumerate(table.header) if member_alias(name) == alias)
    cells, places = [""] * num_classes, [""] * num_classes
    for leaf, row in rows.items():
        cells[leaf], places[leaf] = row.cells[at], row.where
    if not any(cells):
        raise InputError(f"{table.place}: {MEMBER_COLUMN}{alias} has no class in it")
    return MemberColumn(alias, tuple(cells), tuple(places))


def _make_tree(path: str, levels: Sequence[str], rows: Mapping[int, Row], class_names: Sequence[str]) -> Taxonomy:
    """The groups of the rows, each within the next larger one.

    Raises:
        InputError: A group is not nested in a level behind its own.
    """
    groups: list[Group] = []
    numbers: dict[tuple[int, str], int] = {}
    first: dict[int, tuple[Row, tuple[str, ...]]] = {}
    parent_of_leaf = [NO_GROUP] * len(class_names)
    for leaf, row in rows.items():
        names = tuple(_group_name(path, row, cell) for cell in row.cells[1:])
        number = NO_GROUP
        for at in reversed(range(len(levels))):  # from above
            if not names[at]:
                continue
            found = numbers.setdefault((at, names[at]), len(groups))
            if found == len(groups):
                groups.append(Group(names[at], names[at], levels[at], number))
                first[found] = row, names
            elif first[found][1][at:] != names[at:]:
                raise _not_nested(path, levels, at, (row, names), first[found], rows.values())
            number = found
        parent_of_leaf[leaf] = number
    return make_taxonomy(path, class_names, groups, parent_of_leaf, levels)


def _not_nested(
    path: str,
    levels: Sequence[str],
    at: int,
    here: tuple[Row, tuple[str, ...]],
    there: tuple[Row, tuple[str, ...]],
    rows: Iterable[Row],
) -> InputError:
    (row, names), (first_row, first_names) = here, there
    other = next(behind for behind in range(at + 1, len(levels)) if names[behind] != first_names[behind])
    inside, first_inside = (
        f"in {levels[other]} {name!r}" if name else f"in no {levels[other]}"
        for name in (names[other], first_names[other])
    )
    pairs = {(each.cells[1 + at], each.cells[1 + other]) for each in rows}
    is_turned = len({outer for _, outer in pairs}) == len(pairs) > 2  # the other way round they are nested
    return InputError(
        f"{path}, {row.where}: {levels[at]} {names[at]!r} is {inside}, but {first_inside} in {first_row.where}"
        + "; the finest level must come first" * is_turned
    )


def _find_leaves(path: str, table: Table, class_names: Sequence[str]) -> dict[int, Row]:
    """The row of each class that is listed, by itself or as one of a group of WordNet.

    Of several rows that of the smallest group counts, and before all that of the class itself.

    Raises:
        InputError: A row names no class, or what an earlier row names.
    """
    find = _Finder(class_names)
    rows: dict[int, Row] = {}
    sizes: dict[int, int] = {}
    for row in table.rows:
        place, text = f"{path}, {row.where}", row.cells[0]
        leaves, size = find(place, text)
        for leaf in leaves:
            if size == sizes.get(leaf):
                same = f"class {leaf} ({class_names[leaf]})" if size == 0 else "the same group"
                raise InputError(f"{place}: {text!r} is {same}, as in {rows[leaf].where}")
            if size < sizes.get(leaf, len(class_names) + 1):
                rows[leaf], sizes[leaf] = row, size
    if not rows:
        raise InputError(f"{table.place}: no row behind the header")
    return rows


class _Finder:
    """Finds the classes that the first cell of a row names.

    Args:
        class_names: Of the K classes.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self._names = class_names
        self._classes = ClassResolver(class_names)

    def __call__(self, place: str, text: str) -> tuple[list[int], int]:
        """One class and 0, or all classes of a group of WordNet and their number.

        Raises:
            InputError: It names neither.
        """
        if not text:
            raise InputError(f"{place}: no class in it")
        leaf = self._classes.resolve(text)
        if leaf is not None and leaf >= 0:
            return [leaf], 0
        if _GROUP_OF_WORDNET.fullmatch(text):
            try:
                leaves = self._wordnet.leaves_of(find_group(self._wordnet, text))
            except InputError as error:
                raise InputError(f"{place}: {error}") from error
            return leaves, len(leaves)
        near = nearest_names(text, self._names)
        meant = f"; did you mean {' or '.join(map(repr, near))}" if near else ""
        raise InputError(f"{place}: {text!r} is none of the {fmt.count(len(self._names))} classes{meant}")

    @functools.cached_property
    def _wordnet(self) -> Taxonomy:
        return wordnet_taxonomy(self._names)


def _group_name(path: str, row: Row, cell: str) -> str:
    """A cell as a name: one form of Unicode, single spaces.

    Raises:
        InputError: It holds what cannot be printed.
    """
    name = " ".join(unicodedata.normalize("NFC", cell).split())
    if printable(name) != name:
        raise InputError(f"{path}, {row.where}: {name!r} holds a character that cannot be printed")
    return name


@dataclasses.dataclass(frozen=True, slots=True)
class _Header:
    """What the columns are: names of levels, and aliases of members."""

    levels: tuple[str, ...]
    aliases: tuple[str, ...]


def _check_header(table: Table) -> _Header:
    """Tell levels from members, and check their names."""
    first, *names = table.header
    if first != CLASS:
        raise InputError(f"{table.place}: the first column must be {CLASS!r}, not {first!r}")
    aliases = [alias for name in names if (alias := member_alias(name)) is not None]
    levels = [name for name in names if member_alias(name) is None]
    if not levels:
        raise InputError(f"{table.place}: no levels; it takes a column for each, behind {CLASS!r}, the finest first")
    for place, alias in enumerate(aliases):
        if not is_alias(alias):
            raise InputError(f"{table.place}: {MEMBER_COLUMN}{alias} names no member: it takes the alias of one")
        if alias in aliases[:place]:
            raise InputError(f"{table.place}: {MEMBER_COLUMN}{alias} is a column already")
    _check_levels(table, levels)
    return _Header(tuple(levels), tuple(aliases))


def _check_levels(table: Table, levels: Sequence[str]) -> None:
    """Check that levels have names that columns of predictions can have beside the others."""
    taken: dict[str, str] = {name.casefold(): "a column of predictions" for name in RESERVED_COLUMNS}
    taken[_COLUMN_OF_EXPORT] = "a column of exports"
    for level in levels:
        if not level.isidentifier() or keyword.iskeyword(level):
            raise InputError(
                f"{table.place}: {level!r} cannot be the name of a level: letters, digits and _ only, no digit first"
                + (", and no word of Python" if keyword.iskeyword(level) else "")
            )
        for column in (level, level + GROUP_SCORE_SUFFIX):
            folded = unicodedata.normalize("NFKC", column).casefold()  # DuckDB's columns have no case
            if folded in taken:
                raise InputError(f"{table.place}: {level!r} cannot be a level: {column!r} is {taken[folded]}")
            taken[folded] = "a column already"
