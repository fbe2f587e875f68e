"""Classes: check a file of classes of one's own, and take a part of WordNet to start one from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.settings import StorageConfig
from pipeline.job.class_names import IMAGENET, given_names
from pipeline.storage import Storage
from pipeline.taxonomy.classes_file import read_classes
from pipeline.taxonomy.nodes import nodes_of
from pipeline.taxonomy.parts import PartOfTree, take_part
from pipeline.taxonomy.tree import NO_GROUP, Taxonomy
from pipeline.taxonomy.wordnet import find_group, imagenet_class_names, wordnet_taxonomy
from pipeline.text.result import Result

DEFAULT_COLUMNS = 2  # of a file to start from


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A group as it is shown.

    Attributes:
        name: ``cat``; of WordNet ``cat.n.01``.
        level: Name of its level; empty in WordNet.
        num_leaves: How many classes are in it.
        classes: Names of those that are in no smaller group.
        groups: The groups right below it.
    """

    name: str
    level: str
    num_leaves: int
    classes: tuple[str, ...]
    groups: tuple[GroupFacts, ...]


@dataclass(frozen=True, slots=True)
class LevelFacts:
    """A level as it is shown.

    Attributes:
        name: Of its column.
        num_groups: How many groups it has.
        num_leaves: How many classes are in one of them.
    """

    name: str
    num_groups: int
    num_leaves: int


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """What a file says of a member with classes of its own.

    Attributes:
        alias: Of the member.
        num_own: How many of its classes are named.
        num_leaves: For how many of the networks' classes.
    """

    alias: str
    num_own: int
    num_leaves: int


@dataclass(frozen=True, slots=True, repr=False)
class ClassTree(Result):
    """A valid file of classes, or WordNet.

    Attributes:
        source: The file, or ``wordnet``.
        num_classes: Classes that there are.
        num_leaves: Of these, those that are in a group.
        num_groups: Groups, of all levels.
        levels: The finest first; none in WordNet.
        members: Those that the file has a column for.
        groups: Those that lie in no other, with all below them.
        ungrouped: Names of the classes that are in no group.
        notes: What may be a mistake.
        content_hash: SHA-256 of what changes results; the same for the same groups in any format and order.
    """

    source: str
    num_classes: int
    num_leaves: int
    num_groups: int
    levels: tuple[LevelFacts, ...]
    members: tuple[MemberFacts, ...]
    groups: tuple[GroupFacts, ...]
    ungrouped: tuple[str, ...]
    notes: tuple[str, ...]
    content_hash: str


def classes(
    source: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> ClassTree:
    """Check a file of classes of one's own, and tell what is in it.

    Args:
        source: The file (CSV, TSV, YAML or JSON), local or S3, or ``wordnet``.
        labels: File with the names of the networks' classes, or ``imagenet``; None for ImageNet's.
        s3_endpoint: S3 endpoint; None for that of AWS's own variables.
        no_sign_request: Read public buckets without credentials.
        request_payer: Pay for requests to buckets whose owner does not.

    Raises:
        InputError: The file is missing or not valid; the message names the row.
    """
    storage = _storage(s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    return _describe(read_classes(os.fspath(source), storage, _names(labels, storage)))


def wordnet_part(
    under: str,
    *,
    levels: int = DEFAULT_COLUMNS,
    labels: str | os.PathLike[str] | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> PartOfTree:
    """Take the part of WordNet below a group, as a file of classes to start from.

    Args:
        under: The group: ``dog.n.01``, ``n02084071``, or ``dog`` where it is the only one.
        levels: How many levels at most, 1 or more.
        labels: File with the names of the networks' classes, all of them ImageNet's; None for all of ImageNet's.
        s3_endpoint: S3 endpoint; None for that of AWS's own variables.
        no_sign_request: Read public buckets without credentials.
        request_payer: Pay for requests to buckets whose owner does not.

    Raises:
        InputError: There is no such group, or a class is none of ImageNet's.
    """
    storage = _storage(s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    taxonomy = wordnet_taxonomy(_names(labels, storage))
    return take_part(taxonomy, find_group(taxonomy, under), levels)


def _names(labels: str | os.PathLike[str] | None, storage: Storage) -> Sequence[str]:
    if labels is None or labels == IMAGENET:
        return imagenet_class_names()
    return given_names(os.fspath(labels), storage) or ()


def _describe(taxonomy: Taxonomy) -> ClassTree:
    return ClassTree(
        source=taxonomy.source,
        num_classes=taxonomy.num_classes,
        num_leaves=len(taxonomy.leaves_L),
        num_groups=len(taxonomy.groups),
        levels=tuple(
            LevelFacts(level.name, len(level.names), int((level.group_of_leaf_K != NO_GROUP).sum()))
            for level in taxonomy.levels
        ),
        members=tuple(
            MemberFacts(column.alias, column.num_own, column.num_leaves) for column in taxonomy.member_columns
        ),
        groups=tuple(_facts(taxonomy, number) for number in taxonomy.roots),
        ungrouped=_leaf_names(taxonomy, NO_GROUP),
        notes=tuple(_doubts(taxonomy)),
        content_hash=taxonomy.content_hash,
    )


def _facts(taxonomy: Taxonomy, number: int) -> GroupFacts:
    group = taxonomy.groups[number]
    return GroupFacts(
        name=group.name,
        level=group.level,
        num_leaves=int(taxonomy.last_N[number] - taxonomy.first_N[number]),
        classes=_leaf_names(taxonomy, number),
        groups=tuple(_facts(taxonomy, below) for below in taxonomy.children[number]),
    )


def _leaf_names(taxonomy: Taxonomy, number: int) -> tuple[str, ...]:
    return tuple(taxonomy.class_names[leaf] for leaf in taxonomy.leaves_right_below(number))


def _doubts(taxonomy: Taxonomy) -> list[str]:
    """Groups whose names differ in nothing but capitals, and so may be meant to be one; and those called as a class."""
    doubts = []
    classes = {name.strip(): leaf for leaf, name in enumerate(taxonomy.class_names)}
    for number, group in enumerate(taxonomy.groups):
        leaf = classes.get(group.name)
        if leaf is not None and taxonomy.leaves_of(number) != [leaf]:
            own = nodes_of(taxonomy).names[taxonomy.num_classes + number]
            doubts.append(
                f"{group.level}: {group.name!r} is also the name of class {leaf}; "
                f"as a truth it is that class, and {own!r} is the group"
            )
    for level in taxonomy.levels:
        times = Counter(name.casefold() for name in level.names)
        for folded in (name for name, number in times.items() if number > 1):
            alike = [repr(name) for name in level.names if name.casefold() == folded]
            doubts.append(f"{level.name}: {' and '.join(alike)} are {len(alike)} groups")
    return doubts


def _storage(s3_endpoint: str | None, *, no_sign_request: bool, request_payer: bool) -> Storage:
    return Storage(StorageConfig(s3_endpoint=s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer))
