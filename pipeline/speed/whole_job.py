"""The stages ``read`` and ``job`` of a measurement: reading alone, and a real labeler from storage to storage."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pipeline.errors import InputError
from pipeline.hosts.worker import LabelingWorker
from pipeline.output.ledger import PREDICTIONS, QUARANTINE
from pipeline.records import Sample, Unit
from pipeline.speed.input_sample import InputSample
from pipeline.stages.read import UnitReader
from pipeline.storage import Storage


class WholeJob:
    """Reads or labels units that hold the samples, again and again.

    Args:
        labeler: As an engine calls it.
        out: Its OUT, a scratch directory.
        sample: The samples.
        storage: How to reach them.
        chunk: Samples that it processes at a time.
    """

    def __init__(self, labeler: LabelingWorker, out: str, sample: InputSample, storage: Storage, chunk: int) -> None:
        self._out = out
        self._sample = sample
        self._storage = storage
        self._chunk = chunk
        self._stopping = threading.Event()
        self._copies = itertools.count()
        self._labeler = labeler

    def stop(self) -> None:
        """Ask running units to stop soon."""
        self._stopping.set()

    def close(self) -> None:
        """Close the labeler."""
        self._labeler.close()

    def _units(self, number: int) -> list[Unit]:
        """Units of at least so many samples in all, each with a new id, because done units are not labelled again."""
        units = self._sample.units(number, self._chunk, self._out, self._storage)
        sizes = [unit.num_samples or unit.max_samples or 1 for unit in units]
        found: list[Unit] = []
        held = 0
        for unit, size in itertools.cycle(zip(units, sizes, strict=True)):
            if held >= number:
                return found
            found.append(dataclasses.replace(unit, id=f"{next(self._copies):016x}"))
            held += size
        raise InputError("nothing to read was found in the inputs")

    def _over_units(self, number: int, call: Callable[[Unit], int]) -> int:
        """Call a function for units, several at once as an engine does; returns the number of samples."""
        with ThreadPoolExecutor(self._labeler.units_at_once, thread_name_prefix="unit") as pool:
            try:
                return sum(pool.map(call, self._units(number)))
            except BaseException:
                self._stopping.set()
                raise

    def read(self, number: int) -> int:
        """Read units of at least so many samples; returns how many."""

        def call(unit: Unit) -> int:
            return 0 if self._stopping.is_set() else sum(isinstance(i, Sample) for i in UnitReader(unit, self._storage))

        return self._over_units(number, call)

    def label(self, number: int) -> int:
        """Label units of at least so many samples, and remove the published parts; returns how many samples."""

        def call(unit: Unit) -> int:
            receipts = list(self._labeler({"unit": unit.to_dict(), "parts_done": 0}, self._stopping.is_set))
            if receipts and receipts[-1]["failure"]:
                raise InputError(f"{unit.uri}: {receipts[-1]['message']}")
            return int(receipts[-1]["num_samples"]) if receipts else 0

        done = self._over_units(number, call)
        for folder in (PREDICTIONS, QUARANTINE):
            shutil.rmtree(os.path.join(self._out, folder), ignore_errors=True)
        return done
