"""Records of a job: what moves between its parts.

All of them are plain data. A :class:`Unit` goes into a labeler and :class:`Receipt` objects come out. In between, a
unit is read into :class:`Sample` and :class:`ShardEvent` objects. Units and receipts travel between processes as JSON,
so they hold strings and numbers only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from pipeline.text.safe import printable

# Names that count as images; the decoder looks at the content only.
IMAGE_EXTENSIONS = frozenset(
    "jpg jpeg jpe jfif jif jfi mpo png apng gif webp avif avifs heic heif hif bmp dib tif tiff jp2 j2k j2c jpc jpf jpx "
    "ppm pgm pbm pnm pfm ico icns cur tga vda dds psd pcx sgi qoi xbm xpm jxl dng cr2 nef arw".split()
)
_MAX_EXAMPLES = 3
_MAX_EXAMPLE_CHARS = 60


class Stage(StrEnum):
    """Stage at which a sample was quarantined."""

    READ = "read"
    DECODE = "decode"
    CLASSIFY = "classify"


class Reason(StrEnum):
    """Why a sample, or a damaged range of a shard, could not be labelled."""

    NO_IMAGE = "no_image"
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    CORRUPT_IMAGE = "corrupt_image"
    TRUNCATED_IMAGE = "truncated_image"
    TOO_LARGE = "too_large"
    DECODER_CRASHED = "decoder_crashed"
    NOT_FINITE = "not_finite"
    SHARD_TRUNCATED = "shard_truncated"
    SHARD_CORRUPT = "shard_corrupt"
    SHARD_MISSING = "shard_missing"
    SHARD_FORBIDDEN = "shard_forbidden"
    SHARD_ARCHIVED = "shard_archived"


REASON_MEANINGS: Mapping[Reason, str] = {
    Reason.NO_IMAGE: "the sample holds no image, or only a link that is not followed",
    Reason.EMPTY: "the image has no bytes",
    Reason.NOT_AN_IMAGE: "its first bytes match no image format",
    Reason.UNSUPPORTED_FORMAT: "an image format that is not supported",
    Reason.CORRUPT_IMAGE: "its decoder rejected it",
    Reason.TRUNCATED_IMAGE: "it ends before its last pixel",
    Reason.TOO_LARGE: "more pixels or bytes than the limit",
    Reason.DECODER_CRASHED: "the process that decoded it died or hung",
    Reason.NOT_FINITE: "a network gave no finite numbers for it, in fp32 either",
    Reason.SHARD_TRUNCATED: "the tar is cut short, or its end marker is missing",
    Reason.SHARD_CORRUPT: "a range of the tar is damaged; reading goes on behind it",
    Reason.SHARD_MISSING: "the shard, or the loose image, is gone; the next run tries it again",
    Reason.SHARD_FORBIDDEN: "the shard, or the loose image, may not be read; the next run tries it again",
    Reason.SHARD_ARCHIVED: "it lies in an archive class: restore it first; the next run tries it again",
}

# The shard or the loose image may be sound, but could not be read; the next run tries it again.
UNREAD_REASONS = frozenset({Reason.SHARD_MISSING, Reason.SHARD_FORBIDDEN, Reason.SHARD_ARCHIVED})

# Failures of a unit that quarantine nothing:
UNAVAILABLE = "unavailable"  # the store did not answer, or the object changed meanwhile
UNWRITABLE = "unwritable"  # OUT could not be written
CRASHING = "crashing"  # it killed several labelers, even with its images decoded in another process


class UnitKind(StrEnum):
    """What a unit is made of."""

    TAR = "tar"
    SLICE = "slice"


class _Json:
    """Mixin for dataclasses: to a dict that JSON can hold, and back."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]  # mixed into dataclasses only

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Unit(_Json):
    """What is scheduled, retried and committed as one: a tar, or a slice of a listing of loose images.

    Attributes:
        id: 16 hex digits, a pure function of the fields that decide its samples.
        kind: ``tar`` or ``slice``.
        uri: URI of the tar, or of the prefix that the keys of a slice are relative to.
        size_bytes: Size of the tar, or the sum over the slice.
        etag: Version of the tar (ETag on S3, modification time on disk), empty for a slice.
        keys_uri: Parquet file with the keys of a slice; None for a tar.
        num_samples: Number of samples; None where the plan does not know it.
        max_samples: Stop after this many samples (``--limit``); None for all.
        rows_per_part: Samples in a part of it at most, chosen when it was planned; None for the job's.
    """

    id: str
    kind: str
    uri: str
    size_bytes: int
    etag: str = ""
    keys_uri: str | None = None
    num_samples: int | None = None
    max_samples: int | None = None
    rows_per_part: int | None = None


@dataclass(frozen=True, slots=True)
class Cursor(_Json):
    """Position in a unit at which a part starts.

    Attributes:
        part: Number of the next part.
        index: Index of its first sample.
        offset: Byte offset in the (uncompressed) tar of the first header of the members that it is read with; for a
            slice, unused.
        compressed: Whether the tar is compressed, so that a ranged read cannot reach the offset.
        skip: Number of samples made of these members that come before it, with ``--images all``.
        unsorted: Whether the tar is read with an index of its headers, because members of a sample lie apart;
            None where that is to be found out.
    """

    part: int = 0
    index: int = 0
    offset: int = 0
    compressed: bool = False
    skip: int = 0
    unsorted: bool | None = None


@dataclass(slots=True)
class Sample:
    """One sample as read.

    Attributes:
        index: Position in its shard or slice, from 0.
        key: Key in the tar, or path below the prefix.
        offset: Byte offset of its first header in the tar; None for loose images. With ``--images all`` of the image.
        num_bytes: Size of the encoded image; without an image, of all fields of the sample.
        image: The encoded image; None when ``reason`` is set.
        image_name: Name of the tar member that holds it; None for loose images, where it is the key.
        image_field: Its field in the sample (``jpg``, ``left.png``), empty for a member that has none; None for loose
            images.
        cls: Start of the content of ``.cls``, which names the true class somehow; None without one.
        kept: Fields that ``--keep`` names, decoded as UTF-8.
        reason: Why the sample cannot be decoded (no image, cut off, ...); None if it may be.
        message: What is wrong, in one line.
        start: Byte offset of the first header of the members that it is read with, and the number of samples made of
            them that come before it; None for ``(offset, 0)``.
    """

    index: int
    key: str
    offset: int | None
    num_bytes: int = 0
    image: bytes | None = None
    image_name: str | None = None
    image_field: str | None = None
    cls: bytes | None = None
    kept: dict[str, str] = field(default_factory=dict)
    reason: Reason | None = None
    message: str = ""
    start: tuple[int, int] | None = None


@dataclass(slots=True)
class Counted(_Json):
    """How often something was seen that cannot be used, with the first examples.

    Attributes:
        count: How often.
        examples: Some of the texts, printable, each once.
    """

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Count a text."""
        self.merge(
            Counted(1, [printable(text if len(text) <= _MAX_EXAMPLE_CHARS else text[:_MAX_EXAMPLE_CHARS] + "...")])
        )

    def merge(self, more: Counted) -> None:
        """Count what was seen elsewhere."""
        self.count += more.count
        self.examples = list(dict.fromkeys([*self.examples, *more.examples]))[:_MAX_EXAMPLES]


@dataclass(frozen=True, slots=True)
class ShardEvent:
    """Damage to a shard that belongs to no single sample."""

    reason: Reason
    message: str
    offset: int
    num_bytes: int


@dataclass(slots=True)
class Omitted(_Json):
    """What lies in the inputs and has no row, or not one of its own: counted, each kind with one example.

    Attributes:
        other_images: Images of samples of which another image is labelled (``--images auto``).
        other_images_example: Name of one of them.
        separate_images: Of these, the images whose names look as if each were a sample of its own.
        passed_over: Members that belong to no sample: a Mac's companion files, ``Thumbs.db``, files without a dot that
            hold no image, ...
        passed_over_example: Name of one of them.
        repeated_keys: Samples whose key an earlier sample of the shard has, too.
        repeated_keys_example: The key of one of them.
    """

    other_images: int = 0
    other_images_example: str = ""
    separate_images: int = 0
    passed_over: int = 0
    passed_over_example: str = ""
    repeated_keys: int = 0
    repeated_keys_example: str = ""

    def __bool__(self) -> bool:
        return bool(self.other_images or self.passed_over or self.repeated_keys)

    def add(self, more: Omitted) -> None:
        """Count more; the first example stays."""
        self.other_images += more.other_images
        self.other_images_example = self.other_images_example or more.other_images_example
        self.separate_images += more.separate_images
        self.passed_over += more.passed_over
        self.passed_over_example = self.passed_over_example or more.passed_over_example
        self.repeated_keys += more.repeated_keys
        self.repeated_keys_example = self.repeated_keys_example or more.repeated_keys_example


Item = Sample | ShardEvent | Omitted  # what a reader yields


@dataclass(slots=True)
class Receipt(_Json):
    """Progress of a labeler on one unit. Counts are cumulative: the latest receipt is enough.

    Attributes:
        unit_id: The unit.
        num_samples: Samples labelled or quarantined in this run.
        num_labelled: Samples labelled in this run.
        num_quarantined: Quarantined samples by reason.
        num_events: Shard-level events by reason.
        truths_not_understood: Of the labelled samples, those whose ``.cls`` names no class.
        num_bytes: Bytes of the unit that were read or skipped.
        parts: Published part names with their (predictions, quarantine) row counts.
        num_published: Of the samples, those in published parts. The others are lost if the labeler stops now.
        finished: The unit is complete.
        failure: Why the unit failed; None if it did not.
        message: What went wrong, in one line.
        stage_s: Seconds spent per stage, summed over threads.
        wait_s: Seconds that the unit waited, by source: see :data:`pipeline.metrics.WAIT_SECONDS`.
        omitted: What of the unit has no row, as far as it was read in this run.
        started_at, committed_at: Unix seconds of the first read and of the last commit.
        num_decoded_on_gpu: Of the labelled samples, those that a GPU has decoded.
    """

    unit_id: str
    num_samples: int = 0
    num_labelled: int = 0
    num_quarantined: dict[str, int] = field(default_factory=dict)
    num_events: dict[str, int] = field(default_factory=dict)
    truths_not_understood: Counted = field(default_factory=Counted)
    num_bytes: int = 0
    parts: dict[str, list[int]] = field(default_factory=dict)
    num_published: int = 0
    finished: bool = False
    failure: str | None = None
    message: str = ""
    stage_s: dict[str, float] = field(default_factory=dict)
    wait_s: dict[str, float] = field(default_factory=dict)
    started_at: float = 0.0
    committed_at: float = 0.0
    omitted: Omitted = field(default_factory=Omitted)
    num_decoded_on_gpu: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        nested = {
            "omitted": Omitted.from_dict(values.get("omitted", {})),
            "truths_not_understood": Counted.from_dict(values.get("truths_not_understood", {})),
        }
        return cls(**{**values, **nested})
