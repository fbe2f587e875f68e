"""The file beside a CSV list that says which classes there are and what the list was drawn from.

So the list, its images and this file can be taken to another machine and filled in there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pipeline.annotation.sampling import Order
from pipeline.errors import InputError, ObjectMissing, RequestError, StorageError
from pipeline.storage import Storage
from pipeline.taxonomy.stored import describe_groups, described_groups
from pipeline.taxonomy.tree import Taxonomy
from pipeline.text.safe import json_text

_ENDING = "-classes.json"


@dataclass(frozen=True, slots=True)
class ListSource:
    """What a list was drawn from.

    Attributes:
        out: The output; empty if unknown.
        order: Which images came first; only ``random`` ones can be truths.
        class_names: Of the K classes.
        taxonomy: Groups that people may answer, too; None for none.
        is_own: Whether the output was labelled with these groups.
    """

    out: str
    order: Order
    class_names: tuple[str, ...]
    taxonomy: Taxonomy | None = None
    is_own: bool = False


def source_file(place: str) -> str:
    """Path or URI of the file that belongs to a list."""
    stem = place[:-4] if place.lower().endswith(".csv") else place
    return stem + _ENDING


def write_source(place: str, source: ListSource, storage: Storage) -> str:
    """Write the file beside a list; returns its path or URI.

    Raises:
        RequestError: It cannot be written.
    """
    content: dict[str, Any] = {"drawn_from": source.out, "order": source.order, "class_names": list(source.class_names)}
    if source.taxonomy is not None:
        content["classes"] = describe_groups(source.taxonomy) | {"of_output": source.is_own}
    try:
        storage.replace(file := source_file(place), json_text(content, indent=1).encode() + b"\n")
    except StorageError as error:
        raise RequestError(f"--save {error}") from error
    return file


def read_source(place: str, storage: Storage) -> ListSource | None:
    """Read the file beside a list; None if there is none.

    Raises:
        RequestError: It cannot be read, or is not what ``sample`` writes.
    """
    file = source_file(place)
    try:
        content = json.loads(storage.read(file))
    except ObjectMissing:
        return None
    except StorageError as error:
        raise RequestError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{file}: is not JSON: {error}") from error
    if isinstance(content, dict):
        out, order, names = (content.get(name) for name in ("drawn_from", "order", "class_names"))
        if isinstance(out, str) and isinstance(names, list) and names and all(isinstance(name, str) for name in names):
            classes = content.get("classes")
            try:
                taxonomy = None if classes is None else described_groups(classes, names)
            except (ValueError, LookupError, TypeError, AttributeError, InputError) as error:
                raise RequestError(f"{file}: its groups of classes are damaged: {error}; give --classes") from error
            return ListSource(
                out,
                order if order in _ORDERS else "random",
                tuple(names),
                taxonomy,
                bool(classes and classes.get("of_output")),
            )
    raise RequestError(f"{file}: is not what `sample` writes beside a list; move it away, and name OUT")


_ORDERS = ("random", "disagreement", "entropy", "score")
