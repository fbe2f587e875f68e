"""Members that were trained on other classes than the job's: which they are, and which of their classes are which."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.config.settings import LabelConfig
from pipeline.errors import InputError, ModelError
from pipeline.storage import Storage
from pipeline.taxonomy.classes_file import member_aliases
from pipeline.taxonomy.member_columns import MEMBER_COLUMN, NOT_KNOWN, MemberColumn, find_own_classes
from pipeline.taxonomy.tree import Taxonomy

if TYPE_CHECKING:  # torch takes seconds to load, and columns are checked before
    from pipeline.models.weights import MemberSpec, ResolvedMember


def check_member_columns(config: LabelConfig, storage: Storage) -> tuple[str, ...]:
    """Check the columns of members in ``--classes`` as far as it can be done without their weights.

    Args:
        config: The options.
        storage: Reads the file.

    Returns:
        Aliases of the members that have one.

    Raises:
        InputError: A column is no member's, every member has one, or an option does not go with them.
    """
    columns, place = _columns(config, storage), f"--classes {config.classes}"
    if not columns:
        return ()
    aliases = [member.alias for member in config.members]
    if unknown := [alias for alias in columns if alias not in aliases]:
        raise InputError(f"{place}: {MEMBER_COLUMN}{unknown[0]} is no member of this job; it has {', '.join(aliases)}")
    if len(columns) == len(aliases):
        raise InputError(
            f"{place}: has a column for every member; one at least must have the classes that its rows name, and no "
            "column"
        )
    if option := "--keep-probs" if config.keep_probs else f"--reuse {config.reuse}" if config.reuse else "":
        raise InputError(
            f"{option}: not with {MEMBER_COLUMN}{columns[0]} in {place}: what is stored of a member with other classes "
            "would depend on the other members"
        )
    return columns


def members_of_job_classes(
    config: LabelConfig, members: Sequence[ResolvedMember], storage: Storage
) -> list[ResolvedMember]:
    """The members that have the job's classes: those that ``--classes`` has no column for.

    Args:
        config: The options; :func:`check_member_columns` has found nothing against them.
        members: All of them.
        storage: Reads the file.

    Raises:
        ModelError: They have not all the same number of classes.
    """
    from pipeline.models.weights import check_one_label_space  # only now: what is above does without torch

    columns = _columns(config, storage)
    usual = [member for member in members if not (member.spec.alias in columns or member.spec.own_classes)]
    check_one_label_space([member.spec for member in usual])
    return usual


def _columns(config: LabelConfig, storage: Storage) -> tuple[str, ...]:
    return () if config.classes is None else member_aliases(config.classes, storage)


def find_other_classes(
    taxonomy: Taxonomy | None, members: Sequence[ResolvedMember]
) -> tuple[Taxonomy | None, list[MemberSpec]]:
    """Find what the columns of members name.

    Args:
        taxonomy: Of ``--classes``.
        members: All of them.

    Returns:
        The same tree with indices in its columns, so that it does not matter how the file names a class; and the
        members with their classes.

    Raises:
        InputError: A cell names no class of its member; the message names the row.
        ModelError: A member has the job's classes, and needs no column.
    """
    specs = [member.spec for member in members]
    if taxonomy is None or not taxonomy.member_columns:
        return taxonomy, specs
    by_alias = {member.spec.alias: member for member in members}
    found = {}
    for column in taxonomy.member_columns:
        member = by_alias[column.alias]
        names = member.origin.class_names if len(member.origin.class_names) == member.spec.num_classes else ()
        if member.spec.num_classes == taxonomy.num_classes and names in {(), taxonomy.class_names}:
            raise ModelError(
                f"--classes {taxonomy.source}: {MEMBER_COLUMN}{column.alias}: it has the job's "
                f"{taxonomy.num_classes:,} classes itself, and takes no column. If they are others, its file must name "
                "them"
            )
        found[column.alias] = find_own_classes(taxonomy.source, column, member.spec.num_classes, names)
    columns = tuple(_with_indices(column, found[column.alias]) for column in taxonomy.member_columns)
    lifted = [dataclasses.replace(spec, own_classes=found.get(spec.alias, ())) for spec in specs]
    return dataclasses.replace(taxonomy, member_columns=columns), lifted


def _with_indices(column: MemberColumn, own_classes: Sequence[int]) -> MemberColumn:
    cells = tuple(str(own) if cell else "" for cell, own in zip(column.cells, own_classes, strict=True))
    return dataclasses.replace(column, cells=cells)


def note_other_classes(specs: Sequence[MemberSpec]) -> list[str]:
    """A line on each member with other classes: how many of them count."""
    return [
        f"{spec.alias}: {len({*spec.own_classes} - {NOT_KNOWN}):,} of its {spec.num_classes:,} classes are "
        f"{sum(own != NOT_KNOWN for own in spec.own_classes):,} of the job's {len(spec.own_classes):,}; of the others "
        "it says nothing"
        for spec in specs
        if spec.own_classes
    ]
