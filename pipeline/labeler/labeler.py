"""The labeler: units become published parts, with one resident ensemble.

::

    reader thread          worker threads (one per core)          device thread       caller's thread   upload thread
    UnitReader --chunks--> hash, decode, crop into a batch --+--> [forward on a  --+--> gather a part --> publish it,
               (bounded)   [forward on a CPU] ---------------|     GPU] -----------+    (in order)        whole

What happens to an image is in :mod:`pipeline.labeler.image_path`. On a CPU every core carries a chunk from bytes to
probabilities, each with one torch thread, because stages that share cores slow each other down. For a GPU the cores
prepare a chunk piece by piece, and put the crops where the device fetches them. A labeler may be called for two units
at once: the second fills the cores and the device where the end of the first leaves them idle.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping

from pipeline import metrics
from pipeline.errors import DeviceError, MembersApart, NotAsStored, PublishError, StorageError
from pipeline.labeler.attempts import DEATHS_BEFORE_ISOLATION, Attempts
from pipeline.labeler.backends import InProcessBackend
from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.earlier_keys import keys_before
from pipeline.labeler.image_path import UnitRun, label_unit
from pipeline.labeler.metering import UnitMeter, sample_memory
from pipeline.labeler.patching import PartPatcher
from pipeline.labeler.publisher import PartPublisher, Uploads
from pipeline.labeler.retrying import PartRetry, Retried
from pipeline.labeler.step_factory import MakeSteps, StepFactory, UnitSteps
from pipeline.labeler.stored_reader import StoredReader
from pipeline.metrics import Meter, NoMeter
from pipeline.models.device_errors import is_device_failure
from pipeline.output.ledger import Ledger, translate_out_errors
from pipeline.output.parts import Progress
from pipeline.records import CRASHING, UNAVAILABLE, UNWRITABLE, Cursor, Receipt, Unit, UnitKind
from pipeline.stages.read import UnitReader, failure_reason
from pipeline.stages.write import Writer
from pipeline.storage import Storage

UNITS_AT_ONCE = 2  # one in full swing, one that fills the gaps at its end

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class _Request:
    """What a labeler is called with: see :meth:`Labeler.__call__`."""

    unit: Unit
    parts_done: int
    stopping: Callable[[], bool]
    stored: Progress | None
    retried: Retried = dataclasses.field(default_factory=dict)
    complete: bool = False
    unsorted: bool = False  # found to be so after it was begun without an index


class Labeler:
    """Labels units with one resident ensemble. Safe to call from several threads.

    Args:
        config: What to do.
        blobs: The members' tensors by alias, as safetensors bytes.
        device_thread: Whether forward passes run in a thread of their own, as a GPU needs it, or in the threads
            that decode, as is fastest on a CPU; None for what suits the device.
        meter: Where its metrics go; None for nowhere.
        make_steps: Makes the steps of its units; None for the usual ones, with the ensemble in this process.
    """

    def __init__(
        self,
        config: LabelerConfig,
        blobs: Mapping[str, bytes],
        *,
        device_thread: bool | None = None,
        meter: Meter | None = None,
        make_steps: MakeSteps | None = None,
    ) -> None:
        self._config = config
        self._storage = Storage(config.storage)
        self._factory: UnitSteps
        if make_steps is None:
            self._factory = StepFactory(config, InProcessBackend(config, blobs, device_thread=device_thread))
        else:
            self._factory = make_steps(config)
        self._writer = Writer(
            config.out,
            self._storage,
            config.fingerprint,
            [member.alias for member in config.members],
            config.class_names,
            config.keep,
            keep_probs=config.keep_probs,
            with_field=config.with_field,
            groups=config.group_columns,
        )
        self._attempts = Attempts(self._writer.ledger, self._storage, config.run)
        self._uploads = Uploads(self._writer, UNITS_AT_ONCE)
        self._retry = PartRetry(
            self._writer.ledger,
            self._storage,
            PartPatcher(self._writer, self._storage),
            self._factory.executor,
            config.keep,
            config.images,
        )
        self._meter = meter or NoMeter()
        self._factory.sample_gauges(self._meter)
        self._meter.sample(metrics.QUEUE_DEPTH, lambda: self._uploads.depth, queue="publish")
        sample_memory(self._meter, on_gpu=config.device == "cuda")

    def __call__(
        self,
        unit: Unit,
        parts_done: int = 0,
        stopping: Callable[[], bool] = lambda: False,
        stored: Progress | None = None,
        retried: Retried | None = None,
        *,
        complete: bool = False,
    ) -> Iterator[Receipt]:
        """Label one unit.

        Args:
            unit: What to label.
            parts_done: How many of its parts are known to be published; those published since are found.
            stopping: Asked after each chunk; once true, the part in flight is finished if that takes
                less than ten seconds, and nothing after it is begun.
            stored: The unit's parts in the older output that is used, if it is complete there.
            retried: Samples of published parts that are tried again first, by part.
            complete: Whether all of its parts are known to be published.

        Yields:
            Receipts, after each part and about once a second; the latest covers all that was done.
        """
        request = _Request(unit, parts_done, stopping, stored, retried or {}, complete)
        while True:
            try:
                yield from self._label(request)
            except NotAsStored as error:
                _log.warning("%s: run in full: %s", unit.uri, error)
                request = dataclasses.replace(request, stored=None)
            except MembersApart as error:
                _log.warning("%s: begun again, with an index of its members: %s", unit.uri, error)
                request = dataclasses.replace(request, unsorted=True)
            else:
                return

    def _label(self, request: _Request) -> Iterator[Receipt]:
        """Label a unit from its first unpublished part on; failures go into the receipt."""
        if request.stopping():
            return
        unit, fingerprint = request.unit, self._config.fingerprint
        receipt = Receipt(unit.id, started_at=time.time())
        metered = UnitMeter(self._meter, receipt, 0)
        try:
            cursor = Cursor()
            if request.complete:
                receipt.finished = not request.retried
            else:
                with translate_out_errors():
                    cursor, receipt.finished = self._writer.ledger.find_cursor(unit, fingerprint, request.parts_done)
                    self._attempts.count_published(receipt, fingerprint, request.parts_done, cursor)
            if request.unsorted and cursor.unsorted is None:
                cursor = dataclasses.replace(cursor, unsorted=True)
            metered = UnitMeter(self._meter, receipt, 0 if cursor.compressed else cursor.offset)
            request = dataclasses.replace(request, complete=request.complete or receipt.finished)
            receipt.finished &= not request.retried
            if not receipt.finished:
                with contextlib.closing(self._attempt(request, cursor, receipt)) as attempt:
                    for so_far in attempt:
                        metered.take(so_far)
                        yield so_far
        except StorageError as error:
            self._note_failure(unit, receipt, error)
        except PublishError as error:
            receipt.failure, receipt.message = UNWRITABLE, str(error)
        metered.end(receipt)
        yield receipt

    def _attempt(self, request: _Request, cursor: Cursor, receipt: Receipt) -> Generator[Receipt, None, None]:
        """Run a unit; after deaths of earlier labelers in isolation, and after many of them not at all."""
        unit = request.unit
        with translate_out_errors():
            deaths = self._attempts.begin(unit.id)
            hopeless = self._attempts.is_hopeless(unit.id, deaths)
        died = False
        try:
            if hopeless:
                receipt.failure = CRASHING
                receipt.message = f"{unit.uri}: {deaths} labelers died while they labelled it, and not of its images"
                return
            isolated = deaths >= DEATHS_BEFORE_ISOLATION
            if isolated:
                _log.warning(
                    "%s: %d labelers died while they labelled it; its images are decoded in a child process",
                    unit.uri,
                    deaths,
                )
            for name in sorted(request.retried):
                if request.stopping():
                    return
                steps = self._factory.steps(isolated=isolated, stored=None)
                self._retry.run(unit, name, request.retried[name], steps, receipt)
                yield receipt
            if request.complete:
                receipt.finished = True
                return
            run = self._prepare_run(request, cursor, receipt, isolated=isolated)
            publisher = PartPublisher(unit, receipt, self._uploads)
            rows_per_part = unit.rows_per_part or self._config.rows_per_part
            yield from label_unit(run, rows_per_part, self._factory.executor, publisher)
        except RuntimeError as error:
            if not is_device_failure(error):
                raise
            died = True  # as far as the device goes; the mark tells the next attempt, for an image may have done it
            raise _device_error(error) from error
        finally:
            if not died:
                self._attempts.end(unit.id, deaths)

    def _prepare_run(self, request: _Request, cursor: Cursor, receipt: Receipt, *, isolated: bool) -> UnitRun:
        reader = UnitReader(
            request.unit,
            self._storage,
            cursor,
            self._config.keep,
            images=self._config.images,
            begin_again_before=request.unit.rows_per_part or self._config.rows_per_part,
        )
        if request.unit.kind == UnitKind.TAR and cursor.part:
            reader.note_keys(keys_before(cursor, request.unit, self._config.fingerprint, self._writer.ledger))
        stored = None if request.stored is None else self._stored_reader(reader, request.unit, cursor, request.stored)
        steps = self._factory.steps(isolated=isolated, stored=stored)
        return UnitRun(request.unit, cursor, receipt, reader, stored or reader, steps, request.stopping)

    def _stored_reader(self, reader: UnitReader, unit: Unit, cursor: Cursor, stored: Progress) -> StoredReader:
        source = self._config.reused_from
        assert source is not None
        names = list(stored.parts(source.fingerprint, unit.id))
        older = Ledger(source.out, self._storage)
        return StoredReader(reader, cursor.index, older, source, names, len(self._config.class_names))

    def _note_failure(self, unit: Unit, receipt: Receipt, error: StorageError) -> None:
        reason = failure_reason(error)
        receipt.failure = reason or UNAVAILABLE
        receipt.message = str(error)
        if reason is not None:
            with translate_out_errors():
                self._writer.note_unreadable(unit, reason, str(error))

    def close(self) -> None:
        """Wait for the threads to end; no unit is being labelled any more."""
        self._factory.close()
        self._uploads.close()


def _device_error(error: RuntimeError) -> DeviceError:
    found = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return DeviceError(f"the GPU failed, and this process cannot use it any more: {found}")
