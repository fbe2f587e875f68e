"""What an export gives to images as labels: their classes, groups of a level of own classes, or the finest names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.errors import RequestError
from pipeline.exporting.rows import LabelNames
from pipeline.exporting.settings import ExportConfig
from pipeline.exporting.source import Source
from pipeline.job.own_classes import classes_of_output
from pipeline.labels import distinct_names
from pipeline.output.parts import PartName
from pipeline.storage import Storage
from pipeline.taxonomy.choosing import group_columns
from pipeline.taxonomy.name_paths import NO_NAME, NamePaths, PathFinder
from pipeline.taxonomy.nodes import nodes_of
from pipeline.taxonomy.stored import stored_classes
from pipeline.taxonomy.tree import NO_GROUP, Taxonomy
from pipeline.text import fmt
from pipeline.trust.distributions import Distributions
from pipeline.trust.group_reader import GroupReader

NAMES, SUMS = "names", "sums"  # columns of the names that an image may get

Array = np.ndarray


class Naming(Protocol):
    """Gives images their labels.

    Attributes:
        labels: What labels stand for.
        columns: Columns of the predictions that are read for it, beside ``label`` and ``score``.
        taxonomy: Own classes; None where labels are the K classes.
        truth_classes: Own classes whose groups a truth may be; None for no groups.
    """

    labels: LabelNames
    columns: tuple[str, ...]
    taxonomy: Taxonomy | None
    truth_classes: Taxonomy | None

    def rename(self, name: PartName, table: pa.Table) -> pa.Table:
        """Some rows of a part with their labels and scores; a label is -1 where there is none.

        Args:
            name: Of the predictions part.
            table: Rows of it with ``label``, ``score`` and :attr:`columns`.

        Raises:
            StorageError: Probabilities cannot be read.
        """

    def is_right(self, truth_B: Array, labels_B: Array) -> Array:
        """Whether labels are right: bool (B,).

        Args:
            truth_B: int, classes, groups from K on (:mod:`pipeline.taxonomy.nodes`), or anything negative for none.
            labels_B: int, labels.
        """

    def about(self) -> dict[str, Any]:
        """What is told of it in ``export.json``; empty where labels are the K classes."""


class ClassNaming:
    """The label is the class.

    Args:
        labels: Names of the K classes.
        truth_classes: Own classes whose groups a truth may be; None for no groups.
    """

    columns: tuple[str, ...] = ()
    taxonomy: Taxonomy | None = None

    def __init__(self, labels: LabelNames, truth_classes: Taxonomy | None = None) -> None:
        self.labels = labels
        self.truth_classes = truth_classes

    def rename(self, name: PartName, table: pa.Table) -> pa.Table:
        """The rows as they are."""
        return table

    def is_right(self, truth_B: Array, labels_B: Array) -> Array:
        """Whether a label is the true class: a truth that is a group does not tell."""
        right_B: Array = truth_B == labels_B
        return right_B

    def about(self) -> dict[str, Any]:
        """Nothing."""
        return {}


class LevelNaming:
    """The label is a group of one level, or the finest one of WordNet.

    Args:
        taxonomy: Own classes.
        level: Name of the level; ``wordnet``.
        reader: Reads groups of the same tree.
    """

    def __init__(self, taxonomy: Taxonomy, level: str, reader: GroupReader) -> None:
        self.taxonomy: Taxonomy | None = taxonomy
        self.truth_classes: Taxonomy | None = taxonomy
        self._nodes = nodes_of(taxonomy)
        self._place = [column.name for column in group_columns(taxonomy)].index(level)
        groups = group_columns(taxonomy)[self._place].groups
        self.labels = LabelNames(distinct_names(groups), (level,) * len(groups))
        self._group_of_V = self._nodes.at_level(taxonomy.levels[self._place]) if taxonomy.levels else None
        self._reader = reader
        self.columns = reader.columns
        self._level = level

    def rename(self, name: PartName, table: pa.Table) -> pa.Table:
        """The rows with groups as labels."""
        groups_LB, scores_LB = self._reader.read(name, table)
        return _relabel(table, groups_LB[self._place], scores_LB[self._place])

    def is_right(self, truth_B: Array, labels_B: Array) -> Array:
        """Whether the truth lies in the group: one that does not tell its group at this level is wrong."""
        if self._group_of_V is None:
            num_classes = self._nodes.taxonomy.num_classes
            return self._nodes.is_at_or_below(truth_B, np.where(labels_B == NO_GROUP, -1, labels_B + num_classes))
        is_known_B = truth_B >= 0
        right_B: Array = is_known_B & (labels_B >= 0)
        right_B &= self._group_of_V[np.where(is_known_B, truth_B, 0)] == labels_B
        return right_B

    def about(self) -> dict[str, Any]:
        """The file, the level, and where groups come from."""
        return _about(self._nodes.taxonomy, self._reader.source) | {"level": self._level}


class BackOffNaming:
    """The label is the finest name, class or group, that a promise allows, which is known once all rows are read.

    Until then it is the coarsest name that an image may get, and the score the most that any of its names has.

    Args:
        taxonomy: Own classes.
        distributions: Reads the consensus' distributions.
    """

    def __init__(self, taxonomy: Taxonomy, distributions: Distributions) -> None:
        self.taxonomy: Taxonomy | None = taxonomy
        self.truth_classes: Taxonomy | None = taxonomy
        self.nodes = nodes_of(taxonomy)
        self.labels = LabelNames(self.nodes.names, self.nodes.levels)
        self.columns: tuple[str, ...] = distributions.columns
        self._distributions = distributions
        self._finder = PathFinder(self.nodes)

    def rename(self, name: PartName, table: pa.Table) -> pa.Table:
        """The rows with :data:`NAMES` and :data:`SUMS`: all names that they may get, finest first."""
        found = [self._finder.find(probs_BK) for probs_BK in self._distributions.read(name, table)]
        paths = NamePaths.join(found or [self._finder.find(np.zeros((0, self.nodes.taxonomy.num_classes)))])
        is_name_BD = paths.nodes_BD != NO_NAME
        lengths_B = is_name_BD.sum(axis=1)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths_B)]).astype(np.int32))
        last_B1 = np.maximum(lengths_B - 1, 0)[:, None]
        table = _relabel(
            table, np.take_along_axis(paths.nodes_BD, last_B1, 1)[:, 0], paths.sums_BD.max(axis=1, initial=0)
        )
        table = table.append_column(NAMES, pa.ListArray.from_arrays(offsets, pa.array(paths.nodes_BD[is_name_BD])))
        return table.append_column(SUMS, pa.ListArray.from_arrays(offsets, pa.array(paths.sums_BD[is_name_BD])))

    def is_right(self, truth_B: Array, labels_B: Array) -> Array:
        """Whether the truth lies at or below the name."""
        return self.nodes.is_at_or_below(truth_B, labels_B)

    def about(self) -> dict[str, Any]:
        """The file, and where the distribution comes from."""
        return _about(self.nodes.taxonomy, self._distributions.source) | {"back_off": True}


def choose_naming(config: ExportConfig, source: Source, storage: Storage) -> Naming:
    """What an export's labels are.

    Raises:
        RequestError: There is no such level, or no own classes.
    """
    if config.classes is None and config.level is None and not config.back_off:
        return ClassNaming(source.labels, stored_classes(source.job))
    taxonomy = classes_of_output(source.job, config.classes, storage)
    if taxonomy is None:
        raise RequestError(f"{source.ledger.out} was labelled without own classes: --classes FILE gives them")
    if config.back_off:
        return BackOffNaming(taxonomy, Distributions(source.ledger, source.job, storage))
    levels = [column.name for column in group_columns(taxonomy)]
    level = config.level or (levels[0] if len(levels) == 1 else None)
    if level is None:
        raise RequestError(f"--classes {config.classes}: --level says which to export: {fmt.few(levels, len(levels))}")
    if level not in levels:
        raise RequestError(f"--level {level}: the levels are {fmt.few(levels, len(levels))}")
    return LevelNaming(taxonomy, level, GroupReader(source.ledger, source.job, storage, taxonomy))


def with_own_labels(source: Source, naming: Naming) -> Source:
    """An output whose labels are those of a naming."""
    return dataclasses.replace(source, own_labels=naming.labels)


def naming_choices(naming: Naming) -> Mapping[str, Any]:
    """What the fingerprint of an export sees of its naming; nothing where labels are the K classes."""
    about = naming.about()
    if not about:
        return {}
    return {name: about[name] for name in ("level", "back_off", "groups_from") if name in about} | {
        "classes_sha256": about["sha256"]
    }


def _about(taxonomy: Taxonomy, groups_from: str) -> dict[str, Any]:
    return {"source": taxonomy.source, "sha256": taxonomy.groups_hash, "groups_from": groups_from}


def _relabel(table: pa.Table, labels_B: Array, scores_B: Array) -> pa.Table:
    for name, values in (("label", pa.array(labels_B, pa.int32())), ("score", pa.array(scores_B, pa.float32()))):
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table
