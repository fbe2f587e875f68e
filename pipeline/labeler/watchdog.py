"""Watchdog: takes the work from a thread whose call takes longer than it may.

A thread cannot be interrupted inside a library. So the watch takes the work away from it instead: once a
call is overdue, what it was at is handed over, and its own result is dropped should it ever come::

    with watch.over(image) as clock:                      # raises Overtaken at its end if it was too late
        decoded = decode(image, waiting=clock.paused)     # the clock stands still while others are waited for

Time is counted in ticks of a thread that must be running itself, so that a process which is stopped for an
hour, or a machine that sleeps, makes no call late. What keeps the interpreter lock stops all threads, the watchdog
among them: :mod:`pipeline.engines.end_when_stuck` ends such a process.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_TICK_S = 1.0
_MIN_TICKS = 4


class Overtaken(Exception):  # noqa: N818 - an event, not an error
    """The call was overdue, and another thread has gone on with the work: its result must be dropped."""


class Clock(Generic[T]):
    """The time of one call; a context manager around it. See :meth:`Watchdog.over`.

    No lock is taken, because each image has a clock: whoever removes it from the set, the call or the watchdog, has
    decided what becomes of the call, and only one of them can.
    """

    __slots__ = ("_running", "stopped", "task", "thread", "ticks")

    def __init__(self, task: T, running: set[Clock[T]]) -> None:
        self.task = task
        self.thread = threading.current_thread()
        self.ticks = 0
        self.stopped = False
        self._running = running

    def __enter__(self) -> Self:
        self._running.add(self)
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._running.remove(self)
        except KeyError:
            raise Overtaken from None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count what happens in here; begin anew after it."""
        self.stopped = True
        try:
            yield
        finally:
            self.ticks = 0
            self.stopped = False


class Watchdog(Generic[T]):
    """Watches over calls in any number of threads.

    Args:
        limit_s: How long a call may take.
        take_over: Called, in the watch's own thread, with what an overdue call was at and the thread that is in it.
    """

    def __init__(self, limit_s: float, take_over: Callable[[T, threading.Thread], None]) -> None:
        self._tick_s = min(_TICK_S, limit_s / _MIN_TICKS)
        self._limit = round(limit_s / self._tick_s)
        self._take_over = take_over
        self._running: set[Clock[T]] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="watch", daemon=True)
        self._thread.start()

    def over(self, task: T) -> Clock[T]:
        """Watch over what happens in the context that is returned.

        At its end it raises :class:`Overtaken`, in place of whatever else was raised, if the task was handed over.
        """
        return Clock(task, self._running)

    def _loop(self) -> None:
        while not self._closed.wait(self._tick_s):
            for clock in self._overdue():
                self._take_over(clock.task, clock.thread)

    def _overdue(self) -> list[Clock[T]]:
        overdue = []
        for clock in tuple(self._running):
            if clock.stopped:
                continue
            clock.ticks += 1
            if clock.ticks > self._limit:
                with contextlib.suppress(KeyError):  # it has ended just now
                    self._running.remove(clock)
                    overdue.append(clock)
        return overdue

    def close(self) -> None:
        """End the watch; no call is running any more, or none that anyone waits for."""
        self._closed.set()
        self._thread.join()
