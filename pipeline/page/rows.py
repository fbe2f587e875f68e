"""The rows that the page shows: labelled images, and examples of quarantined samples."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.output.ledger import PREDICTIONS, QUARANTINE, Ledger
from pipeline.output.parts import UNREADABLE_NAME, PartName
from pipeline.page.row_choice import RowRef

EXAMPLES_PER_REASON = 4
_LABELLED = (
    "shard",
    "key",
    "index",
    "sha256",
    "label",
    "class_name",
    "score",
    "entropy",
    "agreement",
    "disagreement",
    "truth",
)
_REJECTED = ("shard", "key", "index", "num_bytes", "sha256", "stage", "reason", "message")


@dataclass(frozen=True, slots=True)
class MemberPrediction:
    """The top-1 class of one member for an image, and its score, 0-1."""

    member: str
    label: int
    score: float


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image that is shown.

    Attributes:
        unit_id, part: Its unit, and the number of its part.
        shard, key, index, sha256, label, class_name, score, entropy, agreement, disagreement, truth: As in its row.
        member_predictions: Of the members, in order.
    """

    unit_id: str
    part: int
    shard: str
    key: str
    index: int
    sha256: str | None
    label: int
    class_name: str
    score: float
    entropy: float | None
    agreement: float | None
    disagreement: float | None
    truth: int | None
    member_predictions: tuple[MemberPrediction, ...]


@dataclass(frozen=True, slots=True, order=True)
class QuarantineExample:
    """A quarantined sample, or damage to a shard, as in its row. Missing text is empty, missing numbers are -1."""

    shard: str
    index: int
    key: str
    num_bytes: int
    sha256: str
    stage: str
    reason: str
    message: str
    unit_id: str
    part: int


@dataclass(frozen=True, slots=True)
class QuarantineSummary:
    """Counts and examples of what could not be labelled.

    Attributes:
        samples: Samples by reason, the most frequent first.
        events: Damage to shards that belongs to no single sample, by reason, the most frequent first.
        examples: A few of each reason.
        unreadable: Units that could not be read at all.
        per_part: Quarantined samples by the name of their part.
    """

    samples: dict[str, int]
    events: dict[str, int]
    examples: dict[str, tuple[QuarantineExample, ...]]
    unreadable: int
    per_part: dict[str, int]


def read_labelled(ledger: Ledger, row_refs: Iterable[RowRef]) -> dict[RowRef, LabelledImage]:
    """Read the rows to show.

    Args:
        ledger: Of the output.
        row_refs: Which rows; those of one part must follow each other.

    Raises:
        StorageError: A part cannot be read.
    """
    found = {}
    for name, of_part in itertools.groupby(row_refs, key=lambda row_ref: row_ref.part):
        refs = list(of_part)
        parsed = PartName.parse(name)
        unit_id, part = (parsed.unit_id, parsed.part) if parsed else ("", 0)
        table = ledger.read_part(PREDICTIONS, name, [*_LABELLED, "members"]).take([row_ref.row for row_ref in refs])
        for row_ref, row in zip(refs, table.to_pylist(), strict=True):
            members = row.pop("members")
            member_predictions = tuple(
                MemberPrediction(alias, own["labels"][0], own["scores"][0]) for alias, own in members.items()
            )
            found[row_ref] = LabelledImage(unit_id=unit_id, part=part, member_predictions=member_predictions, **row)
    return found


def read_quarantine(ledger: Ledger, job: Mapping[str, Any], committed: Mapping[str, int]) -> QuarantineSummary:
    """Count quarantined samples, and keep a few examples of each reason.

    Args:
        ledger: Of the output.
        job: Its ``job.json``.
        committed: Names of the predictions parts. A quarantine part without one is not committed yet.

    Raises:
        StorageError: A part cannot be read.
    """
    samples: Counter[str] = Counter()
    events: Counter[str] = Counter()
    per_part: dict[str, int] = {}
    examples: dict[str, list[QuarantineExample]] = {}
    unreadable = 0
    for name in ledger.names(QUARANTINE):
        note = UNREADABLE_NAME.fullmatch(name)
        if note is not None and note[1] == str(job["fingerprint"])[:8]:
            unreadable += 1
        elif name not in committed:
            continue
        table = ledger.read_part(QUARANTINE, name, list(_REJECTED))
        keys, reasons = table["key"].to_pylist(), table["reason"].to_pylist()
        samples.update(reason for key, reason in zip(keys, reasons, strict=True) if key is not None)
        events.update(reason for key, reason in zip(keys, reasons, strict=True) if key is None)
        per_part[name] = sum(key is not None for key in keys)
        parsed = PartName.parse(name)
        for reason in dict.fromkeys(reasons):
            places = itertools.islice((at for at, own in enumerate(reasons) if own == reason), EXAMPLES_PER_REASON)
            rows = [_rejected(row, parsed) for row in table.take(list(places)).to_pylist()]
            examples[reason] = heapq.nsmallest(EXAMPLES_PER_REASON, [*examples.get(reason, ()), *rows])
    frequent = dict(samples.most_common())
    return QuarantineSummary(
        samples=frequent,
        events=dict(events.most_common()),
        examples={
            reason: tuple(examples[reason]) for reason in dict.fromkeys([*frequent, *dict(events.most_common())])
        },
        unreadable=unreadable,
        per_part=per_part,
    )


def _rejected(row: dict[str, Any], part: PartName | None) -> QuarantineExample:
    unit_id, number = (part.unit_id, part.part) if part else ("", -1)
    values: dict[str, Any] = {name: -1 if row[name] is None else row[name] for name in ("index", "num_bytes")}
    values |= {name: row[name] or "" for name in _REJECTED if name not in values}
    return QuarantineExample(**values, unit_id=unit_id, part=number)
