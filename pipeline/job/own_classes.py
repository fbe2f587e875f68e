"""Classes of one's own in a job: read, and checked against its other columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.columns import GROUP_SCORE_SUFFIX
from pipeline.errors import InputError
from pipeline.output.ledger import Ledger
from pipeline.output.probabilities import StoredProbs
from pipeline.storage import Storage
from pipeline.taxonomy.choosing import group_columns
from pipeline.taxonomy.classes_file import level_names, read_classes
from pipeline.taxonomy.nodes import carry_groups
from pipeline.taxonomy.stored import stored_classes
from pipeline.taxonomy.tree import Taxonomy
from pipeline.taxonomy.wordnet import WORDNET


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


def classes_of_output(job: Mapping[str, Any], source: str | None, storage: Storage) -> Taxonomy | None:
    """The classes of one's own that a command on an output is about: those that it names, else those of the job.

    Args:
        job: ``job.json`` of the output.
        source: Value of ``--classes``; None without it.
        storage: Reads the file.

    Raises:
        InputError: The file is missing or not valid.
        OutputError: ``job.json`` is damaged.
    """
    return stored_classes(job) if source is None else read_classes(source, storage, job["class_names"])


def carried_groups(source: StoredProbs, taxonomy: Taxonomy | None, storage: Storage) -> tuple[int, ...]:
    """The groups of an older output's own classes as those of another job: see :func:`carry_groups`.

    Args:
        source: The older output.
        taxonomy: Own classes of the job; None without.
        storage: Reads ``job.json``.
    """
    return carry_groups(classes_of_output(Ledger(source.out, storage).job(), None, storage), taxonomy)


def _check_columns(source: str, names: Sequence[str], keep: Sequence[str]) -> None:
    kept = {name.casefold(): name for name in keep}  # DuckDB's columns have no case
    for name in names:
        for column in (name, name + GROUP_SCORE_SUFFIX):
            if (clash := kept.get(column.casefold())) is not None:
                raise InputError(f"--classes {source}: {name!r} cannot be a level: --keep makes a column {clash!r}")
