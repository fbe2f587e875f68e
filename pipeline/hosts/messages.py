"""What a labeler's process and its host processes say to each other, and the channel between two of them.

::

    labeler -> host    Setup | Work, Stop, Close | Answer
    host -> labeler    Ready | Result, Ended     | Predict | Reading, Gauges | Log

Both ends are processes of one labeler and run the same code, so messages are pickled.
"""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from pipeline.engines.workload import Item
from pipeline.errors import EngineError
from pipeline.metrics import Metric
from pipeline.models.device_queue import BatchResult
from pipeline.models.preprocessing import Geometry

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Setup:
    """What a host process is for; the first message to it.

    Attributes:
        make_worker: Makes its worker.
        metered: Whether its metrics are wanted.
        log_level: Of the log records that are wanted.
    """

    make_worker: Callable[..., Any]
    metered: bool = False
    log_level: int = logging.WARNING


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker is made."""


@dataclass(frozen=True, slots=True)
class Work:
    """An item to work on. Number: a host's own, to tell its items apart."""

    number: int
    item: Item


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop soon, in all items."""


@dataclass(frozen=True, slots=True)
class Close:
    """No item is at work, and none follows."""


@dataclass(frozen=True, slots=True)
class Result:
    """Something that the worker yielded for an item."""

    number: int
    result: Item


@dataclass(frozen=True, slots=True)
class Ended:
    """The worker is through with an item, or failed at it."""

    number: int
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class Predict:
    """A batch of crops is ready.

    Attributes:
        number: The host's own, to tell its batches apart.
        turn: Batches with a lower turn go first.
        batch: Which batch of the crop memory.
        geometries: Of the crops that are in it.
        num_images: How many slots of it hold a picture, from the first on.
        new: Aliases of the members to run, for their full probabilities; None for all, as configured.
    """

    number: int
    turn: int
    batch: int
    geometries: tuple[Geometry, ...]
    num_images: int
    new: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The predictions of a batch, or why there are none."""

    number: int
    result: BatchResult | BaseException


@dataclass(frozen=True, slots=True)
class Reading:
    """A counter's or histogram's reading. Method: ``add`` or ``observe``."""

    method: str
    metric: Metric
    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Gauges:
    """All gauges of a host process, as they stand."""

    values: Mapping[tuple[Metric, Labels], float]


@dataclass(frozen=True, slots=True)
class Log:
    """A record of Python's logging."""

    logger: str
    level: int
    text: str


class Channel:
    """One end of the connection between two processes. Any thread may send; one receives.

    Args:
        connection: The connection; it is closed with the channel.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, message: object) -> None:
        """Send a message.

        Raises:
            OSError: The other process is gone.
        """
        with self._lock:
            self._connection.send(message)

    def receive(self) -> object:
        """Wait for a message.

        Raises:
            EOFError, OSError: The other process is gone.
        """
        return self._connection.recv()

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


def portable(error: BaseException) -> BaseException:
    """An error as it is, if it can be sent to another process; otherwise a plainer one with its text."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - its own
    except Exception:  # noqa: BLE001 - whatever an error's own methods raise
        if isinstance(error, RuntimeError):  # of a device, as a rule: its text tells what it means
            return RuntimeError(str(error))
        return EngineError(f"{type(error).__name__}: {error}")
    return error
