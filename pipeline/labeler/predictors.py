"""Predictors: the forward step in the calling thread, and on a device that has a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from pipeline.labeler.tasks import ChunkResult, ChunkTask
from pipeline.models.device_queue import BatchResult, Crops
from pipeline.models.ensemble import Ensemble


class InPlacePredictor:
    """Runs the members in the thread that has prepared the chunk: the fastest on a CPU.

    Args:
        ensemble: The members.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble

    def predict(self, task: ChunkTask, result: ChunkResult) -> None:
        """Predict."""
        with result.timed("classify"):
            result.predictions = self._ensemble.predict(task.batch().packed(result.slots))
        task.release()

    def finish(self, result: ChunkResult) -> None:
        """Nothing is left to do."""


class DevicePredictor:
    """Queues the crops for a device.

    Args:
        submit: Queues a batch; batches of a lower turn go first.
    """

    def __init__(self, submit: Callable[[int, Crops], Future[BatchResult]]) -> None:
        self._submit = submit

    def predict(self, task: ChunkTask, result: ChunkResult) -> None:
        """Queue the crops of a chunk; its batch is given back when the device has read it."""
        result.answer = self._submit(task.priority, task.batch().packed(result.slots))
        result.answer.add_done_callback(task.release)

    def finish(self, result: ChunkResult) -> None:
        """Wait for the device."""
        if result.answer is not None:
            answer = result.answer.result()
            result.predictions = answer.predictions
            result.seconds["classify"] += answer.seconds
