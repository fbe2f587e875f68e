"""Classes of one's own as ``job.json`` holds them, and lists for annotators, so that neither needs their file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import InputError, OutputError
from pipeline.labels import ClassResolver
from pipeline.taxonomy.answers import answers_of
from pipeline.taxonomy.choosing import group_columns
from pipeline.taxonomy.tree import Taxonomy, taxonomy_of_levels
from pipeline.taxonomy.wordnet import wordnet_taxonomy

CLASSES = "classes"  # in job.json, and in its results, by which the fingerprint goes


def classes_in_results(taxonomy: Taxonomy | None) -> dict[str, Any]:
    """What ``results`` of ``job.json`` holds of them: nothing without any, as in older outputs."""
    return {} if taxonomy is None else {CLASSES: {"sha256": taxonomy.content_hash}}


def classes_in_job(taxonomy: Taxonomy | None) -> dict[str, Any]:
    """What ``job.json`` says of them besides: the columns, with their groups, and the group of each class."""
    if taxonomy is None:
        return {}
    about = describe_groups(taxonomy)
    if taxonomy.member_columns:
        about["groups_sha256"] = taxonomy.groups_hash
        about["members"] = {
            column.alias: {"own": column.num_own, "known": column.num_leaves} for column in taxonomy.member_columns
        }
    return {CLASSES: about}


def describe_groups(taxonomy: Taxonomy) -> dict[str, Any]:
    """Classes of one's own as data: their columns, with the groups of each, and the group of each class."""
    about: dict[str, Any] = {
        "source": taxonomy.source,
        "columns": {column.name: list(column.groups) for column in group_columns(taxonomy)},
    }
    if taxonomy.levels:  # of WordNet the tree ships
        about["group_of_class"] = {level.name: level.group_of_leaf_K.tolist() for level in taxonomy.levels}
    return about


def described_groups(about: Mapping[str, Any], class_names: Sequence[str]) -> Taxonomy:
    """The inverse of :func:`describe_groups`.

    Raises:
        ValueError, LookupError, TypeError, InputError: It is damaged, or about other classes.
    """
    if "group_of_class" not in about:  # a level of a file may be called `wordnet`, too
        return wordnet_taxonomy(class_names)
    return taxonomy_of_levels(str(about["source"]), class_names, about["columns"], about["group_of_class"])


def stored_classes(job: Mapping[str, Any]) -> Taxonomy | None:
    """The classes of one's own that an output was labelled with; None without.

    Args:
        job: Its ``job.json``.

    Raises:
        OutputError: It is damaged.
    """
    if CLASSES not in job:
        return None
    names = job["class_names"]
    try:
        found = described_groups(job[CLASSES], names)
        if found.levels and found.groups_hash != stored_groups_hash(job):
            raise ValueError("the groups are not those of the fingerprint")
    except (ValueError, LookupError, TypeError, InputError) as error:
        raise OutputError(f"job.json: its own classes are damaged: {error}") from error
    return found


def stored_groups_hash(job: Mapping[str, Any]) -> str | None:
    """``Taxonomy.groups_hash`` of the classes of one's own that an output was labelled with; None without.

    Args:
        job: Its ``job.json``.
    """
    if CLASSES not in job:
        return None
    found = job[CLASSES].get("groups_sha256") or job["results"][CLASSES]["sha256"]
    return str(found)


def cls_resolver(job: Mapping[str, Any]) -> ClassResolver:
    """What reads a ``.cls`` as the job of an output does.

    Raises:
        OutputError: ``job.json`` is damaged.
    """
    taxonomy = stored_classes(job)
    return ClassResolver(job["class_names"]) if taxonomy is None else answers_of(taxonomy)
