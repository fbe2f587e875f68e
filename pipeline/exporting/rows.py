"""The rows of a dataset: the columns of each exported image, the same in every format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ObjectDamaged
from pipeline.exporting.limits import ood_scores

# Columns that are read of a predictions part, beside the members' energies.
READ_COLUMNS = (
    *("shard", "key", "index", "sha256", "width", "height"),
    *("label", "score", "agreement", "entropy", "disagreement"),
)
_SCHEMA = pa.schema(
    [
        ("label", pa.int64()),
        ("class_name", pa.string()),
        ("score", pa.float32()),
        ("agreement", pa.float32()),
        ("entropy", pa.float32()),
        ("disagreement", pa.float32()),
        ("ood_score", pa.float32()),
        ("copies", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("shard", pa.string()),
        ("key", pa.string()),
        ("index", pa.int64()),
    ]
)
_LEVEL = pa.field("level", pa.string())  # behind class_name
IMAGE = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


@dataclass(frozen=True, slots=True)
class LabelNames:
    """What the labels of a dataset stand for: the K classes, or names of own classes.

    Attributes:
        names: Of each label, each once.
        levels: Of each label, the level that its name is of; empty for the K classes, whose rows have no such column.
    """

    names: tuple[str, ...]
    levels: tuple[str, ...] = ()

    @property
    def schema(self) -> pa.Schema:
        """The columns of rows."""
        return _SCHEMA.insert(_SCHEMA.get_field_index("class_name") + 1, _LEVEL) if self.levels else _SCHEMA

    def describe(self, label: int) -> dict[str, Any]:
        """The name of a label, and its level where there are levels."""
        return {"name": self.names[label]} | ({"level": self.levels[label]} if self.levels else {})


def build_rows(predictions: pa.Table, selected: pa.Table, aliases: tuple[str, ...], labels: LabelNames) -> pa.Table:
    """The selected rows of a part, in order, as :attr:`LabelNames.schema`.

    Args:
        predictions: The part, with :data:`READ_COLUMNS` and the members' energies.
        selected: The columns ``index`` and ``copies``; and ``label`` and ``score`` where these are not the part's.
        aliases: Of the members.
        labels: What labels stand for.

    Raises:
        ObjectDamaged: The part lacks rows that were selected.
    """
    found = pc.index_in(selected["index"], value_set=predictions["index"].combine_chunks())
    if found.null_count:
        raise ObjectDamaged(f"{found.null_count} images were selected that the part does not hold")
    table = predictions.take(found)
    schema = labels.schema
    columns = {name: table[name] for name in table.column_names if name in schema.names}
    columns |= {name: selected[name] for name in ("label", "score") if name in selected.column_names}
    label = columns["label"].combine_chunks()
    if labels.levels:
        columns["level"] = pa.array(labels.levels, pa.string()).take(label)
    columns |= {
        "class_name": pa.array(labels.names, pa.string()).take(label),
        "ood_score": pa.array(ood_scores(table, aliases)),
        "copies": selected["copies"],
        "shard": table["shard"].cast(pa.string()),
    }
    return pa.table({name: columns[name] for name in schema.names}).cast(schema)


def shorten_floats(row: dict[str, Any]) -> dict[str, Any]:
    """A row with each float32 value as the shortest decimal number that rounds to it."""
    return {name: float(str(np.float32(value))) if isinstance(value, float) else value for name, value in row.items()}


def huggingface_metadata(labels: LabelNames, *, image: bool) -> dict[bytes, bytes]:
    """Schema metadata for Hugging Face ``datasets``: which column is a class and which an image.

    Args:
        labels: What labels stand for.
        image: Whether there is a column :data:`IMAGE`.
    """
    known: dict[str, Any] = {"image": {"_type": "Image"}} if image else {}
    for field in labels.schema:
        known[field.name] = {"dtype": _dtype(field.type), "_type": "Value"}
    known["label"] = {"names": list(labels.names), "_type": "ClassLabel"}
    return {b"huggingface": json.dumps({"info": {"features": known}}).encode()}


def card_features(labels: LabelNames, *, image: bool) -> list[dict[str, Any]]:
    """The same for the front matter of a dataset card."""
    names = {str(index): name for index, name in enumerate(labels.names)}
    found: list[dict[str, Any]] = [{"name": "image", "dtype": "image"}] if image else []
    found += [{"name": field.name, "dtype": _dtype(field.type)} for field in labels.schema]
    found[int(image)]["dtype"] = {"class_label": {"names": names}}
    return found


def _dtype(kind: pa.DataType) -> str:
    return {pa.float32(): "float32", pa.string(): "string"}.get(kind, str(kind))
