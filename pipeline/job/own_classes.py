"""Classes of one's own in a job: read, checked against its other columns, and described in ``job.json``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.errors import InputError
from pipeline.records import GROUP_SCORE_SUFFIX
from pipeline.storage import Storage
from pipeline.taxonomy.choosing import group_columns
from pipeline.taxonomy.classes_file import level_names, read_classes
from pipeline.taxonomy.tree import Taxonomy
from pipeline.taxonomy.wordnet import WORDNET

CLASSES = "classes"  # in job.json, and in its results, by which the fingerprint goes


def check_own_classes(source: str | None, storage: Storage, keep: Sequence[str]) -> None:
    """Check what can be checked before the classes of the networks are known.

    Args:
        source: Value of ``--classes``; None without it.
        storage: Reads the file.
        keep: Fields that are kept as columns.

    Raises:
        InputError: The file is missing or no table, or a level is called as another column.
    """
    if source is not None:
        _check_columns(source, level_names(source, storage) if source != WORDNET else (WORDNET,), keep)


def read_own_classes(
    source: str | None, storage: Storage, class_names: Sequence[str], keep: Sequence[str]
) -> Taxonomy | None:
    """Read what ``--classes`` names; None without it.

    Args:
        source: Its value.
        storage: Reads the file.
        class_names: Of the job's classes.
        keep: Fields that are kept as columns.

    Raises:
        InputError: It is missing or not valid, or a level is called as another column.
    """
    if source is None:
        return None
    taxonomy = read_classes(source, storage, class_names)
    _check_columns(source, [column.name for column in group_columns(taxonomy)], keep)
    return taxonomy


def classes_in_results(taxonomy: Taxonomy | None) -> dict[str, Any]:
    """What ``results`` of ``job.json`` holds of them: nothing without any, as in older outputs."""
    return {} if taxonomy is None else {CLASSES: {"sha256": taxonomy.content_hash}}


def classes_in_job(taxonomy: Taxonomy | None) -> dict[str, Any]:
    """What ``job.json`` says of them besides, for people and other commands: the columns, with their groups."""
    if taxonomy is None:
        return {}
    columns = {column.name: list(column.groups) for column in group_columns(taxonomy)}
    members = {column.alias: {"own": column.num_own, "known": column.num_leaves} for column in taxonomy.member_columns}
    return {CLASSES: {"source": taxonomy.source, "columns": columns} | ({"members": members} if members else {})}


def _check_columns(source: str, names: Sequence[str], keep: Sequence[str]) -> None:
    kept = {name.casefold(): name for name in keep}  # DuckDB's columns have no case
    for name in names:
        for column in (name, name + GROUP_SCORE_SUFFIX):
            if (clash := kept.get(column.casefold())) is not None:
                raise InputError(f"--classes {source}: {name!r} cannot be a level: --keep makes a column {clash!r}")
