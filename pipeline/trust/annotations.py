"""What people have said in other tools: Label Studio's JSON export, and FiftyOne's ``labels.json``.

Of each person the latest annotation of an image counts, skipped ones as no opinion; where several persons have labelled
an image, the majority. Where that is a tie, nothing is known. Predictions are no truth: in Label Studio they are kept
apart, and in FiftyOne they have a confidence.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.errors import InputError, ObjectMissing
from pipeline.storage import Storage

# Beside FiftyOne's labels.json: which image its files are, for labels that have lost their attributes.
IMAGE_LIST = "images.csv"

_SCHEMA = pa.schema([("shard", pa.string()), ("key", pa.string()), ("label", pa.string())])


@dataclass(frozen=True, slots=True)
class Annotations:
    """Annotations of images, one row an image.

    Attributes:
        table: shard, key and label, all text; the label is null where nobody has said anything. Without shards there is
            no column shard.
        contested: Images that are left out of it, because as many persons say one thing as another.
    """

    table: pa.Table
    contested: int


@dataclass(slots=True)
class _Opinions:
    """Annotations of one image: of each person when, in which place of the file, and what; None: no opinion."""

    of: dict[str, tuple[str, int, str | None]] = field(default_factory=dict)

    def add(self, person: str, when: str, place: int, said: str | None) -> None:
        older = self.of.get(person)
        if older is None or (when, place) >= older[:2]:
            self.of[person] = (when, place, said)

    def verdict(self) -> tuple[str | None, bool]:
        """What the majority says, and whether that is a tie."""
        votes = Counter(said for _, _, said in self.of.values() if said is not None).most_common(2)
        if len(votes) > 1 and votes[0][1] == votes[1][1]:
            return None, True
        return (votes[0][0] if votes else None), False


def read_annotations(path: str, data: bytes, storage: Storage) -> Annotations:
    """Read an export of either tool.

    Args:
        path: Of the export.
        data: Its content.
        storage: Reads what lies beside it.

    Raises:
        InputError: It is no such export.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"--truth {path}: not JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("labels"), dict):
        return _table(path, _fiftyone(path, content, storage))
    if isinstance(content, list) and all(isinstance(task, dict) for task in content):
        opinions: dict[tuple[str, str], _Opinions] = {}
        for shard, key, *opinion in _studio(path, content):
            opinions.setdefault((shard, key), _Opinions())
            if opinion:
                opinions[shard, key].add(*opinion)
        return _table(path, ((shard, key, *found.verdict()) for (shard, key), found in opinions.items()))
    raise InputError(
        f"--truth {path}: neither a JSON export of Label Studio (a list of tasks) nor FiftyOne's labels.json (labels)"
    )


def _table(path: str, rows: Iterator[tuple[str, str, str | None, bool]]) -> Annotations:
    kept, contested = [], 0
    for shard, key, label, tie in rows:
        contested += tie
        if not tie:
            kept.append({"shard": shard, "key": key, "label": label})
    try:
        table = pa.Table.from_pylist(kept, _SCHEMA)
    except UnicodeEncodeError as error:
        raise InputError(f"--truth {path}: holds half a surrogate pair, which is no text: {error}") from error
    return Annotations(table if any(row["shard"] for row in kept) else table.drop_columns("shard"), contested)


# -- Label Studio -----------------------------------------------------------------------------------------


def _studio(path: str, tasks: list[dict[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """Shard and key of each task; and once more, with person, time, place and choice, for each of its annotations."""
    place, keyed = 0, False
    for task in tasks:
        data = task.get("data", task)  # JSON-MIN has everything at the top
        if not isinstance(data, dict) or not isinstance(data.get("key"), str):
            continue
        keyed = True
        image = (_text(data.get("shard")), data["key"])
        yield image
        annotations = task.get("annotations", [_from_minimum(task)] if "data" not in task else [])
        for annotation in annotations if isinstance(annotations, list) else ():
            if isinstance(annotation, dict):
                when = _text(annotation.get("updated_at") or annotation.get("created_at"))
                said = None if annotation.get("was_cancelled") else _choice(annotation.get("result"))
                yield (*image, _person(annotation.get("completed_by")), when, place, said)
                place += 1
    if tasks and not keyed:
        raise InputError(
            f"--truth {path}: no task carries the key of its image; import the tasks that `shardlabel sample` writes"
        )


def _from_minimum(task: dict[str, Any]) -> dict[str, Any]:
    """An annotation of the JSON-MIN export, which has one for each entry, as JSON has it."""
    choice = task.get("choice")
    choices = choice.get("choices") if isinstance(choice, dict) else [choice] if choice else None
    return {**task, "completed_by": task.get("annotator"), "result": [{"value": {"choices": choices}}]}


def _person(completed_by: object) -> str:
    return json.dumps(completed_by.get("id", completed_by) if isinstance(completed_by, dict) else completed_by)


def _choice(result: object) -> str | None:
    """What was chosen; several words where several things were, which is the name of no class."""
    chosen: list[str] = []
    for region in result if isinstance(result, list) else ():
        value = region.get("value") if isinstance(region, dict) else None
        if isinstance(value, dict):
            chosen += [str(name) for name in _listed(value.get("choices"))]
            chosen += [str(names[-1]) for names in _listed(value.get("taxonomy")) if isinstance(names, list) and names]
    return "; ".join(dict.fromkeys(chosen)) or None


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return "" if value is None else str(value)


# -- FiftyOne ---------------------------------------------------------------------------------------------


def _fiftyone(path: str, content: dict[str, Any], storage: Storage) -> Iterator[tuple[str, str, str | None, bool]]:
    classes = content.get("classes")
    listed: dict[str, tuple[str, str]] | None = None
    for stem, target in content["labels"].items():
        said = target if isinstance(target, dict) else {"label": target}
        attributes = said.get("attributes")
        if isinstance(attributes, dict) and isinstance(attributes.get("key"), str):
            shard, key = _text(attributes.get("shard")), attributes["key"]
        else:
            listed = _image_list(path, storage) if listed is None else listed
            shard, key = listed.get(stem.rpartition("/")[2], ("", stem))
        # only models are unsure: a label with a confidence is a prediction that nobody has looked at
        label = said.get("label") if said.get("confidence") is None else None
        yield shard, key, _class(label, classes), False


def _class(label: object, classes: object) -> str | None:
    """The name of a class; a number is the place of one in the file's own list, where it has one."""
    if isinstance(label, int) and isinstance(classes, list):
        return str(classes[label]) if 0 <= label < len(classes) else f"{label} of {len(classes)} classes"
    return None if label is None else str(label)


def _image_list(path: str, storage: Storage) -> dict[str, tuple[str, str]]:
    """Shard and key by the name of the file, from the list beside the labels; nothing where there is none."""
    folder, slash, _ = path.rpartition("/")
    try:
        text = storage.read(folder + slash + IMAGE_LIST).decode("utf-8", "replace")
    except ObjectMissing:
        return {}
    rows = csv.DictReader(io.StringIO(text))
    return {
        (row.get("image") or "").rpartition("/")[2].rpartition(".")[0]: (row.get("shard") or "", row.get("key") or "")
        for row in rows
    }
