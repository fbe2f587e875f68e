"""How a run is stopped: by a signal, or by a failure budget."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from pipeline.job.progress import Reporter


class Stop:
    """Set by a signal or by a failure budget."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.by_signal = False


@contextlib.contextmanager
def stop_on_signals(reporter: Reporter) -> Iterator[Stop]:
    """SIGINT and SIGTERM request a stop; a second SIGINT leaves at once. A no-op off the main thread."""
    stop = Stop()

    def request(number: int, _frame: object) -> None:
        if stop.by_signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.by_signal = True
        stop.event.set()
        reporter.note("stopping: finishing the parts in flight where that takes less than 10 s (again to leave now)")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    older = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in older.items():
            signal.signal(number, handler)
