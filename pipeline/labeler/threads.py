"""Two small machines for threads: workers that take older work first, and a bounded read-ahead."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")

_FIRST = -1
_CLOSE_S = 10.0


class Workers:
    """Threads that take work in order of its turn: what belongs to an earlier unit goes first.

    A thread cannot be ended from outside. One that hangs is replaced, and ends if it ever comes back.
    """

    def __init__(self, num_threads: int, on_start: Callable[[], object]) -> None:
        """Start the threads; each calls ``on_start`` once, first."""
        self._on_start = on_start
        self._queue: queue.PriorityQueue[tuple[int, int, Future[Any] | None, Callable[..., Any], tuple[Any, ...]]]
        self._queue = queue.PriorityQueue()
        self._order = itertools.count()
        self._lost: list[threading.Thread] = []
        self._threads = [self._begin(f"worker-{number}") for number in range(num_threads)]

    def _begin(self, name: str) -> threading.Thread:
        thread = threading.Thread(target=self._loop, name=name, daemon=True)
        thread.start()
        return thread

    def replace(self, thread: threading.Thread) -> None:
        """Go on without a thread that does not come back from its call; another one takes its place."""
        self._lost.append(thread)
        self._threads[self._threads.index(thread)] = self._begin(thread.name)

    @property
    def num_lost(self) -> int:
        """Threads that were replaced and have not come back since."""
        return sum(thread.is_alive() for thread in self._lost) if self._lost else 0

    @property
    def depth(self) -> int:
        """Calls that wait for a thread."""
        return self._queue.qsize()

    def submit(self, turn: int, call: Callable[..., T], *args: Any) -> Future[T]:  # noqa: ANN401 - the call's own
        """Run a call on one of the threads."""
        future: Future[T] = Future()
        self._queue.put((turn, next(self._order), future, call, args))
        return future

    def _loop(self) -> None:
        self._on_start()
        while True:
            _, _, future, call, args = self._queue.get()
            if future is None:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call(*args))
            except BaseException as error:  # noqa: BLE001 - it is the caller's, who sees it in result()
                future.set_exception(error)
            del future, args
            if threading.current_thread() in self._lost:
                return

    def close(self) -> None:
        """End the threads, each after the call it is at; one that hangs is left behind. What waits is not run."""
        for _ in self._threads:
            self._queue.put((_FIRST, next(self._order), None, int, ()))
        deadline = time.monotonic() + _CLOSE_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def one_torch_thread() -> None:
    """Keep torch on the calling thread: each core carries its own chunk."""
    torch.set_num_threads(1)  # it counts for the thread that calls it


class ReadAhead(Generic[T]):
    """Runs an iterator in a thread, a bounded number of items ahead. A context manager that iterates."""

    def __init__(self, source: Iterator[T], depth: int) -> None:
        self._source = source
        self._items: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._pump, name="read", daemon=True)

    @property
    def depth(self) -> int:
        """Items that wait to be taken."""
        return self._items.qsize()

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._drain()

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._items.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def _pump(self) -> None:
        try:
            for item in self._source:
                if self._closed.is_set():
                    break
                self._items.put((item, None, False))
            self._items.put((None, None, True))
        except BaseException as error:  # noqa: BLE001 - handed over to the consumer
            self._items.put((None, error, True))
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()

    def _drain(self) -> Iterator[T]:
        while True:
            item, error, ended = self._items.get()
            if error is not None:
                raise error
            if ended:
                return
            yield item  # type: ignore[misc]  # None comes with ended only
