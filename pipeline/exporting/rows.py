"""The rows of a dataset: the columns of each exported image, the same in every format."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
ROW_SCHEMA = pa.schema(
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
IMAGE = pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def build_rows(
    predictions: pa.Table, selected: pa.Table, aliases: tuple[str, ...], class_names: Sequence[str]
) -> pa.Table:
    """The selected rows of a part, in order, as :data:`ROW_SCHEMA`.

    Args:
        predictions: The part, with :data:`READ_COLUMNS` and the members' energies.
        selected: The columns ``index`` and ``copies``.
        aliases: Of the members.
        class_names: Of the K classes, each once.

    Raises:
        ObjectDamaged: The part lacks rows that were selected.
    """
    found = pc.index_in(selected["index"], value_set=predictions["index"].combine_chunks())
    if found.null_count:
        raise ObjectDamaged(f"{found.null_count} images were selected that the part does not hold")
    table = predictions.take(found)
    names = pa.array(class_names, pa.string())
    columns = {name: table[name] for name in table.column_names if name in ROW_SCHEMA.names}
    columns |= {
        "label": table["label"].cast(pa.int64()),
        "class_name": names.take(table["label"].combine_chunks()),
        "ood_score": pa.array(ood_scores(table, aliases)),
        "copies": selected["copies"],
        "shard": table["shard"].cast(pa.string()),
    }
    return pa.table({name: columns[name] for name in ROW_SCHEMA.names}).cast(ROW_SCHEMA)


def shorten_floats(row: dict[str, Any]) -> dict[str, Any]:
    """A row with each float32 value as the shortest decimal number that rounds to it."""
    return {name: float(str(np.float32(value))) if isinstance(value, float) else value for name, value in row.items()}


def huggingface_metadata(class_names: Sequence[str], *, image: bool) -> dict[bytes, bytes]:
    """Schema metadata for Hugging Face ``datasets``: which column is a class and which an image.

    Args:
        class_names: Of the K classes, each once.
        image: Whether there is a column :data:`IMAGE`.
    """
    known: dict[str, Any] = {"image": {"_type": "Image"}} if image else {}
    for field in ROW_SCHEMA:
        known[field.name] = {"dtype": _dtype(field.type), "_type": "Value"}
    known["label"] = {"names": list(class_names), "_type": "ClassLabel"}
    return {b"huggingface": json.dumps({"info": {"features": known}}).encode()}


def card_features(class_names: Sequence[str], *, image: bool) -> list[dict[str, Any]]:
    """The same for the front matter of a dataset card."""
    names = {str(index): name for index, name in enumerate(class_names)}
    found: list[dict[str, Any]] = [{"name": "image", "dtype": "image"}] if image else []
    found += [{"name": field.name, "dtype": _dtype(field.type)} for field in ROW_SCHEMA]
    found[int(image)]["dtype"] = {"class_label": {"names": names}}
    return found


def _dtype(kind: pa.DataType) -> str:
    return {pa.float32(): "float32", pa.string(): "string"}.get(kind, str(kind))
