"""The vocabulary of a job on one page: what moves between the parts, and the columns on disk.

Everything here is inert data. A :class:`Unit` goes into a labeler and :class:`Receipt` objects come
out; in between a unit is read into :class:`Sample` and :class:`ShardEvent` objects. Units and
receipts travel between processes as JSON, so they hold nothing but strings and numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

import pyarrow as pa


class Stage(StrEnum):
    """Where a sample dropped out."""

    READ = "read"
    DECODE = "decode"
    CLASSIFY = "classify"


class Reason(StrEnum):
    """Why a sample, or a stretch of a shard, could not be labelled."""

    NO_IMAGE = "no_image"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    CORRUPT_IMAGE = "corrupt_image"
    TRUNCATED_IMAGE = "truncated_image"
    TOO_LARGE = "too_large"
    DECODER_CRASHED = "decoder_crashed"
    SHARD_TRUNCATED = "shard_truncated"
    SHARD_CORRUPT = "shard_corrupt"
    SHARD_MISSING = "shard_missing"
    SHARD_FORBIDDEN = "shard_forbidden"


# Failures of a unit that are no reason for quarantine:
UNAVAILABLE = "unavailable"  # its store did not answer, or it changed meanwhile
UNWRITABLE = "unwritable"  # OUT could not be written
CRASHING = "crashing"  # it killed one labeler after the other, even with its images decoded apart


class UnitKind(StrEnum):
    """What a unit is made of."""

    TAR = "tar"
    SLICE = "slice"


class _Json:
    """A dataclass that goes to a JSON-able dict and back."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]  # mixed into dataclasses only

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Unit(_Json):
    """The grain of work, retry and commit: one tar, or one slice of a listing of loose images.

    Attributes:
        id: 16 hex digits, a pure function of all the other fields that decide its samples.
        kind: ``tar`` or ``slice``.
        uri: URI of the tar, or of the prefix that the keys of a slice are relative to.
        size_bytes: Size of the tar, or the sum over the slice.
        etag: Version of the tar (ETag on S3, modification time on disk), empty for a slice.
        keys_uri: For a slice, the Parquet file with its keys.
        num_samples: Number of samples where the plan knows it.
        max_samples: Stop after so many samples (``--limit``).
    """

    id: str
    kind: str
    uri: str
    size_bytes: int
    etag: str = ""
    keys_uri: str | None = None
    num_samples: int | None = None
    max_samples: int | None = None


@dataclass(frozen=True, slots=True)
class Cursor(_Json):
    """Where a part ended and the next one starts.

    Attributes:
        part: Number of the next part.
        index: Index of its first sample.
        offset: Byte offset of that sample's first header in the (uncompressed) tar; for a slice, unused.
        compressed: Whether the tar is compressed, so that the offset cannot be reached by a ranged read.
    """

    part: int = 0
    index: int = 0
    offset: int = 0
    compressed: bool = False


@dataclass(slots=True)
class Sample:
    """One sample as read.

    Attributes:
        index: Position in its shard or slice, from 0.
        key: Key in the tar, or path below the prefix.
        offset: Byte offset of its first header in the tar; None for loose images.
        num_bytes: Size of the encoded image, or of everything the sample holds where there is no image.
        image: The encoded image; None when ``reason`` is set.
        image_name: Name of the member that holds it; None for loose images, whose key it is.
        truth: Class index from ``.cls``, where there is one.
        kept: The fields asked for with ``--keep``, decoded as UTF-8.
        reason: Set when the sample cannot be decoded at all (no image, cut off, ...).
        message: What was found, in one line.
    """

    index: int
    key: str
    offset: int | None
    num_bytes: int = 0
    image: bytes | None = None
    image_name: str | None = None
    truth: int | None = None
    kept: dict[str, str] = field(default_factory=dict)
    reason: Reason | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class ShardEvent:
    """Damage to a shard that belongs to no single sample."""

    reason: Reason
    message: str
    offset: int
    num_bytes: int


@dataclass(slots=True)
class Receipt(_Json):
    """What a labeler has done on a unit so far. Counts are cumulative, so the latest one is enough.

    Attributes:
        unit_id: The unit.
        num_samples: Samples done, labelled or quarantined, parts of earlier runs left out.
        num_labelled: Of these, labelled.
        num_quarantined: Quarantined samples by reason.
        num_events: Shard-level events by reason.
        num_bytes: Bytes of the unit passed over.
        parts: Published part names with their (predictions, quarantine) row counts.
        finished: The unit is complete.
        failure: Set when the unit could not be read at all: the reason.
        message: What went wrong, in one line.
        stage_s: Seconds spent per stage, summed over threads.
        started_at, committed_at: Unix seconds of the first read and of the last commit.
    """

    unit_id: str
    num_samples: int = 0
    num_labelled: int = 0
    num_quarantined: dict[str, int] = field(default_factory=dict)
    num_events: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0
    parts: dict[str, list[int]] = field(default_factory=dict)
    finished: bool = False
    failure: str | None = None
    message: str = ""
    stage_s: dict[str, float] = field(default_factory=dict)
    started_at: float = 0.0
    committed_at: float = 0.0


def predictions_schema(members: Sequence[str], keep: Sequence[str] = ()) -> pa.Schema:
    """Columns of ``predictions/part-*.parquet``.

    Args:
        members: Aliases of the ensemble's members, in order.
        keep: Names of the sample fields copied through.
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
            *(pa.field(name, pa.string()) for name in keep),
        ]
    )


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
