"""Several sources as one stream, which also says when nothing came for a while."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from pipeline.engines.workload import Item

_HEARTBEAT_S = 0.2
_STOP_GRACE_S = 10.0


def merge_streams(
    sources: Sequence[Callable[[Callable[[Item], None]], None]], stop: threading.Event
) -> Iterator[Item | None]:
    """Run functions in threads and yield what they emit; the first error ends it."""
    results: queue.SimpleQueue[Item | BaseException | None] = queue.SimpleQueue()

    def run(source: Callable[[Callable[[Item], None]], None]) -> None:
        try:
            source(results.put)
            results.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the consumer
            results.put(error)

    for source in sources:
        threading.Thread(target=run, args=(source,), name="engine", daemon=True).start()
    running = len(sources)
    deadline: float | None = None
    while running:
        if stop.is_set() and deadline is None:
            deadline = time.monotonic() + _STOP_GRACE_S
        if deadline is not None and time.monotonic() > deadline:
            return
        try:
            result = results.get(timeout=_HEARTBEAT_S)
        except queue.Empty:
            yield None
            continue
        if result is None:
            running -= 1
        elif isinstance(result, BaseException):
            raise result
        else:
            yield result
