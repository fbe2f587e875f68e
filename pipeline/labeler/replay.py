"""Replay: a unit published again from what an older output holds of it, without its images.

Parts are those of the older output: the same samples, the same quarantine, the same cursor behind them. What is new
is how the members are combined.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.errors import PublishError, StorageError
from pipeline.labeler.attempts import Attempts
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.finite import insert_in_order, is_of_another_member, split_not_finite
from pipeline.labeler.metering import UnitMeter
from pipeline.labeler.rescored import rescore
from pipeline.labeler.reused import combine_members
from pipeline.labeler.tasks import ChunkResult
from pipeline.labeler.threads import one_torch_thread
from pipeline.metrics import Meter
from pipeline.models.ensemble import Predictions
from pipeline.output.ledger import Ledger, translate_out_errors
from pipeline.output.parts import Progress
from pipeline.output.probabilities import MemberProbs, StoredPart, read_stored_part
from pipeline.records import UNAVAILABLE, UNWRITABLE, Counted, Receipt, Stage, Unit
from pipeline.stages.write import Part, Picture, QuarantineRow, Writer
from pipeline.storage import Storage
from pipeline.taxonomy.nodes import carry_label

_BATCH_IMAGES = 256  # of 1,000 classes and 5 members, 5 MB in float32


class Replayer:
    """Publishes units from stored probabilities. Safe to call from several threads.

    Args:
        config: What to do; every member's probabilities are in ``reused_from``, or none, and then only the temperature
            of the consensus is new.
        meter: Where what is done is counted.
    """

    def __init__(self, config: LabelerConfig, meter: Meter) -> None:
        assert config.reused_from is not None
        self._config = config
        self._meter = meter
        self._source = config.reused_from
        storage = Storage(config.storage)
        self._stored = Ledger(self._source.out, storage)
        aliases = [member.alias for member in config.members]
        self._writer = Writer(
            config.out,
            storage,
            config.fingerprint,
            aliases,
            config.class_names,
            config.keep,
            keep_probs=config.keep_probs,
            with_field=config.with_field,
            groups=config.group_columns,
        )
        self._attempts = Attempts(self._writer.ledger, storage, config.run)
        self._threads = ThreadPoolExecutor(config.num_threads, "pool", initializer=one_torch_thread)

    def __call__(
        self, unit: Unit, parts_done: int, stored: Progress, stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[Receipt]:
        """Publish one unit, as far as the older output holds it.

        Args:
            unit: The unit.
            parts_done: How many of its parts are known to be published; those published since are found.
            stored: How many the older output has.
            stopping: Asked before each part.

        Yields:
            Receipts; the latest covers all that was done.
        """
        if stopping():
            return
        receipt = Receipt(unit.id, started_at=time.time())
        metered = UnitMeter(self._meter, receipt, 0)
        try:
            with translate_out_errors():
                cursor, receipt.finished = self._writer.ledger.find_cursor(unit, self._config.fingerprint, parts_done)
                self._attempts.count_published(receipt, self._config.fingerprint, parts_done, cursor)
            metered = UnitMeter(self._meter, receipt, 0)
            names = list(stored.parts(self._source.fingerprint, unit.id))
            for name in names[cursor.part :]:
                if receipt.finished or stopping():
                    break
                part = read_stored_part(self._stored, self._source, name, len(self._config.class_names))
                if self._config.replayed and (message := self._not_labelled_there(part)):
                    receipt.failure, receipt.message = UNAVAILABLE, message  # the caller can read the images
                    break
                self._publish(unit, part, receipt)
                receipt.finished = name.last
                metered.take(receipt)
                yield receipt
            if not receipt.finished and not receipt.failure and not stored.complete and not stopping():
                receipt.failure = UNAVAILABLE
                receipt.message = (
                    f"{self._source.out} holds {stored.num_parts} parts of it and not yet the rest; finish that job"
                )
        except StorageError as error:
            receipt.failure, receipt.message = UNAVAILABLE, str(error)
        except PublishError as error:
            receipt.failure, receipt.message = UNWRITABLE, str(error)
        metered.end(receipt)
        yield receipt

    def _not_labelled_there(self, part: StoredPart) -> str:
        """Why a part does not hold all that these members give; empty if it does."""
        rows = [] if part.rejected is None else part.rejected.select(["key", "reason", "message"]).to_pylist()
        kept_out = (row for row in rows if is_of_another_member(row["reason"], row["message"], self._source.aliases))
        row = next(kept_out, None)
        return "" if row is None else f"{self._source.out} has no probabilities for {row['key']!r}: {row['message']}"

    def close(self) -> None:
        """Let go of the threads; no unit is being published any more."""
        self._threads.shutdown()

    def _publish(self, unit: Unit, stored: StoredPart, receipt: Receipt) -> None:
        begun = time.perf_counter()
        part = Part(stored.name.part, stored.first_index)
        part.pictures = pictures_of(stored.predictions, self._config.keep)
        lost = self._carry_truths(part)
        part.rejected = [] if stored.rejected is None else [_rejected(row) for row in stored.rejected.to_pylist()]
        part.truths_not_understood = stored.truths_not_understood
        part.truths_not_understood.merge(lost)
        self._predict(part, stored)
        part.omitted = stored.omitted
        result = ChunkResult(
            pictures=part.pictures,
            rejected=part.rejected,
            truths_not_understood=part.truths_not_understood,
            num_samples=part.num_samples,
            omitted=part.omitted,
        )
        result.seconds["classify"] = time.perf_counter() - begun
        with translate_out_errors():
            name = self._writer.publish(unit, part, stored.next, last=stored.name.last)
        result.count_in(receipt)
        receipt.parts[str(name)] = [len(part.pictures), len(part.rejected)]
        receipt.num_published += part.num_samples
        receipt.committed_at = time.time()

    def _carry_truths(self, part: Part) -> Counted:
        """Translate truths that are groups; those that are none here are counted, and left out."""
        carried, num_classes, lost = self._config.carried_groups, len(self._config.class_names), Counted()
        if self._config.taxonomy is None and not carried:  # larger indices stay as they were given
            return lost
        for place, picture in enumerate(part.pictures):
            truth = carry_label(picture.truth, num_classes, carried)
            if truth is None and picture.truth is not None:
                lost.add(f"group {picture.truth - num_classes} of {self._source.out}")
            part.pictures[place] = dataclasses.replace(picture, truth=truth)
        return lost

    def _predict(self, part: Part, stored: StoredPart) -> None:
        """Pool the stored probabilities of a part; older outputs may have some that are not finite."""
        pictures, part.pictures, start = part.pictures, [], 0
        rejected: list[QuarantineRow] = []
        aliases = [member.alias for member in self._config.members]
        for pooled in self._pooled(stored):
            some = pictures[start : start + len(pooled.labels_Bk)]
            start += len(some)
            kept, finite, rows = split_not_finite(some, pooled, aliases)
            part.pictures += kept
            part.predictions += [] if finite is None else [finite]
            rejected += rows
        insert_in_order(part.rejected, rejected)

    def _pooled(self, stored: StoredPart) -> list[Predictions]:
        config = self._config
        if not self._source.aliases:
            return [rescore(config, stored.predictions)] if len(stored.predictions) else []
        members = [stored.member_probs[config.reused[member.alias]] for member in config.members]

        def pooled(start: int) -> Predictions:
            some: list[MemberProbs] = [probs.take(slice(start, start + _BATCH_IMAGES)) for probs in members]
            return combine_members(config, some)

        return list(self._threads.map(pooled, range(0, len(stored.predictions), _BATCH_IMAGES)))


def pictures_of(table: pa.Table, keep: tuple[str, ...]) -> list[Picture]:
    """Rows of predictions without their labels.

    Args:
        table: The rows.
        keep: Which of the kept fields are wanted.
    """
    names = ("index", "key", "sha256", "width", "height", "truth")
    field = ["field"] if "field" in table.column_names else []  # older outputs have no such column
    return [
        Picture(
            **{name: row[name] for name in names},
            kept={name: row[name] for name in keep if row[name] is not None},
            image_field=row.get("field"),
        )
        for row in table.select([*names, *field, *keep]).to_pylist()
    ]


def _rejected(row: Mapping[str, Any]) -> QuarantineRow:
    values = {name: value for name, value in row.items() if name != "shard"}
    return QuarantineRow(**values | {"stage": Stage(row["stage"])})
