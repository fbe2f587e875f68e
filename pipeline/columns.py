"""The columns of predictions and quarantine, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

GROUP_SCORE_SUFFIX = "_score"  # of a level's second column, which holds the sum


def predictions_schema(
    members: Sequence[str], keep: Sequence[str] = (), *, with_field: bool = True, levels: Sequence[str] = ()
) -> pa.Schema:
    """Columns of ``predictions/part-*.parquet``.

    Args:
        members: Aliases of the ensemble's members, in order.
        keep: Names of the sample fields that ``--keep`` copies.
        with_field: Whether there is the column ``field``; outputs that were begun before it was introduced go on
            without it.
        levels: Names of the columns of groups that ``--classes`` adds, each with a second one for the score.
    """
    own_top_k = pa.struct(
        [
            pa.field("labels", pa.list_(pa.int32())),
            pa.field("scores", pa.list_(pa.float32())),
            pa.field("energy", pa.float32()),
        ]
    )
    names = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            pa.field("shard", names),
            pa.field("key", pa.string()),
            pa.field("index", pa.int64()),
            pa.field("sha256", pa.string()),
            pa.field("width", pa.int32()),
            pa.field("height", pa.int32()),
            pa.field("label", pa.int32()),
            pa.field("class_name", names),
            pa.field("score", pa.float32()),
            pa.field("labels", pa.list_(pa.int32())),
            pa.field("scores", pa.list_(pa.float32())),
            pa.field("agreement", pa.float32()),
            pa.field("entropy", pa.float32()),
            pa.field("disagreement", pa.float32()),
            pa.field("members", pa.struct([pa.field(name, own_top_k) for name in members])),
            pa.field("truth", pa.int32()),
            *([pa.field("field", names)] if with_field else []),
            *(
                column
                for name in levels
                for column in (pa.field(name, names), pa.field(name + GROUP_SCORE_SUFFIX, pa.float32()))
            ),
            *(pa.field(name, pa.string()) for name in keep),
        ]
    )


COLUMN_MEANINGS: Mapping[str, str] = {
    "shard": "URI of the tar, or of the prefix of loose images",
    "key": "key in the tar, or path below the prefix; null for damage to the shard itself",
    "index": "position in the shard or slice, from 0",
    "sha256": "of the encoded image, hexadecimal",
    "width": "of the picture, pixels",
    "height": "of the picture, pixels",
    "label": "the consensus: index of its first class",
    "class_name": "name of that class",
    "score": "its probability in the pool, 0 to 1",
    "labels": "the pool's top-k classes, best first",
    "scores": "their probabilities",
    "agreement": "weighted share of members whose first class is the consensus, 0 to 1",
    "entropy": "of the pool's distribution, nats",
    "disagreement": "mutual information of the members, nats; 0 where they predict the same",
    "members": "each member by its alias: its own top-k, and its energy, the logsumexp of its logits",
    "truth": "class index from the sample's `.cls`; -1 where it says that no class fits, null where there is none; "
    "with `--classes` it may be a group: the number of classes, plus the group's place in the tree",
    "field": "which field of the sample was labelled (`jpg`, `left.png`), null for loose images",
    "offset": "byte offset in the uncompressed tar, null for loose images",
    "num_bytes": "size of the encoded image, or of the damaged range",
    "stage": "stage at which it was quarantined",
    "reason": "why: one of the reasons below",
    "message": "what was found, in one line",
}

RESERVED_COLUMNS = frozenset(predictions_schema(["m"]).names)

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.dictionary(pa.int32(), pa.string())),
        pa.field("key", pa.string()),
        pa.field("index", pa.int64()),
        pa.field("offset", pa.int64()),
        pa.field("num_bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
    ]
)
