"""Annotations from other tools: Label Studio's JSON export, and FiftyOne's ``labels.json``.

Each annotator has one vote per image: the latest annotation, or none where it was skipped. The majority of the votes is
the truth; a tie leaves it open, unless a tree is given and most lie in one group (:mod:`pipeline.taxonomy.votes`).
That no class fits is an answer like any other. Predictions are not truth: Label Studio keeps them in a list of their
own, and in FiftyOne they have a confidence.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.errors import InputError, ObjectMissing
from pipeline.storage import Storage
from pipeline.taxonomy.answers import AnswerResolver, groups_around
from pipeline.taxonomy.votes import settle
from pipeline.trust.draw import COLUMN

# Beside FiftyOne's labels.json: shard and key of each image file, for labels that have lost their attributes.
IMAGE_LIST = "images.csv"

_SCHEMA = pa.schema([(name, pa.string()) for name in ("shard", "key", "label", COLUMN)])


@dataclass(frozen=True, slots=True)
class Annotations:
    """Annotations of images, one row an image.

    Attributes:
        table: shard, key, label and drawn, all text; the label is null where nobody has voted. Without shards there is
            no column shard.
        contested: Images whose votes are tied, in the same form, without the column label; they are not in the table.
    """

    table: pa.Table
    contested: pa.Table


class _Vote(NamedTuple):
    """One annotation: its time, its position in the file, and the label; None where it was skipped."""

    updated_at: str
    position: int
    label: str | None


@dataclass(slots=True)
class _Votes:
    """The latest vote of each annotator on one image."""

    by_annotator: dict[str, _Vote] = field(default_factory=dict)

    def add(self, annotator: str, vote: _Vote) -> None:
        older = self.by_annotator.get(annotator)
        if older is None or vote[:2] >= older[:2]:
            self.by_annotator[annotator] = vote

    def majority(self, resolver: AnswerResolver | None) -> tuple[str | None, bool]:
        """The label that follows from the votes, and whether there is a tie."""
        labels = [vote.label for vote in self.by_annotator.values() if vote.label is not None]
        if resolver is None:
            truth = settle(labels)
            return None if truth is None else str(truth), truth is None and bool(labels)
        nodes = [resolver.resolve(label) for label in labels]
        votes = [label if node is None else node for label, node in zip(labels, nodes, strict=True)]
        if (truth := settle(votes, resolver.taxonomy)) is None:
            return None, bool(votes)
        as_written = dict(zip(votes, labels, strict=True))
        return as_written[truth] if truth in as_written else resolver.names[int(truth)], False


def read_annotations(
    path: str, content: object, storage: Storage, resolver: AnswerResolver | None = None
) -> Annotations:
    """Read an export of either tool.

    Args:
        path: Of the export, for messages and for the files beside it.
        content: What it holds.
        storage: How to read the files beside it.
        resolver: Knows what answers name; None where there are classes alone.

    Raises:
        InputError: It is an export of neither tool.
    """
    if isinstance(content, dict) and isinstance(content.get("labels"), dict):
        return _table(path, _fiftyone_rows(path, content, storage), _fiftyone_draws(path, content, storage))
    if isinstance(content, list) and all(isinstance(task, dict) for task in content):
        votes: dict[tuple[str, str], _Votes] = {}
        for image, annotator, vote in _label_studio_votes(path, content, resolver):
            votes.setdefault(image, _Votes())
            if vote is not None:
                votes[image].add(annotator, vote)
        rows = ((shard, key, *found.majority(resolver)) for (shard, key), found in votes.items())
        return _table(path, rows, _label_studio_draws(content))
    raise InputError(
        f"--truth {path}: neither a JSON export of Label Studio (a list of tasks) nor FiftyOne's labels.json (labels), "
        "nor a table of key and label"
    )


def _table(
    path: str, rows: Iterator[tuple[str, str, str | None, bool]], drawn: Mapping[tuple[str, str], str]
) -> Annotations:
    kept: list[dict[str, str | None]] = []
    tied: list[dict[str, str | None]] = []
    for shard, key, label, tie in rows:
        row = {"shard": shard, "key": key, "label": label, COLUMN: drawn.get((shard, key), "")}
        (tied if tie else kept).append(row)
    try:
        table, contested = (pa.Table.from_pylist(some, _SCHEMA) for some in (kept, tied))
    except UnicodeEncodeError as error:
        raise InputError(f"--truth {path}: holds half a surrogate pair, which is no text: {error}") from error
    unneeded = [] if any(row["shard"] for row in kept + tied) else ["shard"]
    return Annotations(table.drop_columns(unneeded), contested.drop_columns(["label", *unneeded]))


# -- Label Studio -----------------------------------------------------------------------------------------


def _label_studio_votes(
    path: str, tasks: list[dict[str, Any]], resolver: AnswerResolver | None
) -> Iterator[tuple[tuple[str, str], str, _Vote | None]]:
    """For each task (shard, key) without a vote, and then once more with annotator and vote for each annotation."""
    position, keyed = 0, False
    for task in tasks:
        data = task.get("data", task)  # JSON-MIN has all fields at the top level
        if not isinstance(data, dict) or not isinstance(data.get("key"), str):
            continue
        keyed = True
        image = (_as_text(data.get("shard")), data["key"])
        yield image, "", None
        annotations = task.get("annotations", [_from_json_min(task)] if "data" not in task else [])
        for annotation in annotations if isinstance(annotations, list) else ():
            if isinstance(annotation, dict):
                updated_at = _as_text(annotation.get("updated_at") or annotation.get("created_at"))
                label = None if annotation.get("was_cancelled") else _choice(annotation.get("result"), resolver)
                yield image, _annotator(annotation.get("completed_by")), _Vote(updated_at, position, label)
                position += 1
    if tasks and not keyed:
        raise InputError(
            f"--truth {path}: no task carries the key of its image; import the tasks that `shardlabel sample` writes"
        )


def _label_studio_draws(tasks: list[dict[str, Any]]) -> dict[tuple[str, str], str]:
    """How each image was drawn, by shard and key."""
    fields = (task.get("data", task) for task in tasks)
    return {
        (_as_text(data.get("shard")), data["key"]): _as_text(data.get(COLUMN))
        for data in fields
        if isinstance(data, dict) and isinstance(data.get("key"), str)
    }


def _from_json_min(task: dict[str, Any]) -> dict[str, Any]:
    """The one annotation of a JSON-MIN entry, in the form of the full JSON export."""
    choice = task.get("choice")  # a name, {"choices": [...]}, or, for a Taxonomy, [{"taxonomy": [[...]]}]
    values = [one if isinstance(one, dict) else {"choices": [one]} for one in _listed(choice) or [choice] if one]
    return {**task, "completed_by": task.get("annotator"), "result": [{"value": value} for value in values]}


def _annotator(completed_by: object) -> str:
    return json.dumps(completed_by.get("id", completed_by) if isinstance(completed_by, dict) else completed_by)


def _choice(result: object, resolver: AnswerResolver | None) -> str | None:
    """The chosen class or group, of one in another the inner one; several joined by ``;``, which is no name."""
    chosen: dict[tuple[str, ...], None] = {}
    for region in _listed(result):
        value = region.get("value") if isinstance(region, dict) else None
        if isinstance(value, dict):
            chosen |= {(str(name),): None for name in _listed(value.get("choices"))}
            nested = [path for path in _listed(value.get("taxonomy")) if isinstance(path, list) and path]
            chosen |= {tuple(map(str, path)): None for path in nested}
    # who chooses a class in a tree may choose its groups, too
    paths = [path for path in chosen if not any(other[: len(path)] == path for other in chosen if other != path)]
    names = dict.fromkeys(path[-1] for path in paths)
    if resolver is not None and paths:
        nodes = [resolver.resolve_path(path) for path in paths]
        if (inner := _innermost(nodes, resolver)) is not None:
            names = {resolver.names[inner] or paths[nodes.index(inner)][-1]: None}
    return "; ".join(names) or None


def _innermost(nodes: Sequence[int | None], resolver: AnswerResolver) -> int | None:
    """Of nodes one of which is in all the others that one; None elsewhere, and where not all are nodes."""
    known = [node for node in nodes if node is not None and node >= 0]
    if len(known) < len(nodes):
        return None
    return next((node for node in known if {*groups_around(resolver.taxonomy, node)}.issuperset(known)), None)


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _as_text(value: object) -> str:
    return "" if value is None else str(value)


# -- FiftyOne ---------------------------------------------------------------------------------------------


def _fiftyone_rows(path: str, content: dict[str, Any], storage: Storage) -> Iterator[tuple[str, str, str | None, bool]]:
    classes = content.get("classes")
    listed: dict[str, tuple[str, str]] | None = None
    for stem, target in content["labels"].items():
        annotation = target if isinstance(target, dict) else {"label": target}
        attributes = annotation.get("attributes")
        if isinstance(attributes, dict) and isinstance(attributes.get("key"), str):
            shard, key = _as_text(attributes.get("shard")), attributes["key"]
        else:
            listed = _image_list(path, storage) if listed is None else listed
            shard, key = listed.get(stem.rpartition("/")[2], ("", stem))
        # a label with a confidence is a model's prediction that no annotator has confirmed
        label = annotation.get("label") if annotation.get("confidence") is None else None
        yield shard, key, _class_name(label, classes), False


def _fiftyone_draws(path: str, content: dict[str, Any], storage: Storage) -> dict[tuple[str, str], str]:
    """How each image was drawn, by shard and key: from the list beside the labels, and from the labels' attributes."""
    found = {
        (row.get("shard") or "", row.get("key") or ""): row.get(COLUMN) or "" for row in _image_rows(path, storage)
    }
    for target in content["labels"].values():
        attributes = target.get("attributes") if isinstance(target, dict) else None
        if isinstance(attributes, dict) and isinstance(attributes.get("key"), str) and COLUMN in attributes:
            found[_as_text(attributes.get("shard")), attributes["key"]] = _as_text(attributes[COLUMN])
    return found


def _class_name(label: object, classes: object) -> str | None:
    """The name of a class. A number is an index into the file's own list of classes, where it has one."""
    if isinstance(label, int) and isinstance(classes, list):
        return str(classes[label]) if 0 <= label < len(classes) else f"{label} of {len(classes)} classes"
    return None if label is None else str(label)


def _image_list(path: str, storage: Storage) -> dict[str, tuple[str, str]]:
    """Shard and key by file name, from the list beside the labels; empty where there is no list."""
    return {
        _stem(row.get("image")): (row.get("shard") or "", row.get("key") or "") for row in _image_rows(path, storage)
    }


def _image_rows(path: str, storage: Storage) -> list[dict[str, str | None]]:
    folder, slash, _ = path.rpartition("/")
    try:
        text = storage.read(folder + slash + IMAGE_LIST).decode("utf-8", "replace")
    except ObjectMissing:
        return []
    try:
        return list(csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise InputError(f"--truth {path}: the list beside it, {IMAGE_LIST}, is no CSV: {error}") from error


def _stem(image: str | None) -> str:
    return (image or "").rpartition("/")[2].rpartition(".")[0]
