"""Reconcile units in parallel: in threads, or in several processes."""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from pipeline.errors import EngineError
from pipeline.records import Unit, UnitKind
from pipeline.verifying.reconciler import Reconciler, Reconciliation
from pipeline.verifying.unit_files import UnitFiles

_UNITS_AT_ONCE = 8  # in one process: while one waits for bytes, another is compared
_BATCHES_AHEAD = 2  # for each process
_BYTES_WORTH_A_PROCESS = 4 << 30  # one takes seconds to start

Work = TypeVar("Work")
Found = TypeVar("Found")


def useful_workers(units: Sequence[Unit], *, deep: bool) -> int:
    """Number of processes that pay off. Of loose images only the list is read, unless ``deep``."""
    num_bytes = sum(max(0, unit.size_bytes) for unit in units if deep or unit.kind == UnitKind.TAR)
    return max(1, min(num_bytes // _BYTES_WORTH_A_PROCESS, len(units) // _UNITS_AT_ONCE))


def reconcile_all(
    unit_files: Iterable[UnitFiles], reconciler: Reconciler, num_workers: int
) -> Iterator[Reconciliation]:
    """Reconcile units, in this process or in several, and yield the results in order.

    Raises:
        EngineError: A process died.
    """
    if num_workers == 1:
        with ThreadPoolExecutor(_UNITS_AT_ONCE) as pool:
            yield from _in_order(pool, reconciler, unit_files, _UNITS_AT_ONCE)
        return
    # a fork server with the modules loaded forks the workers, because a fork of this process might inherit a held lock
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([Reconciler.__module__, "webdataset.tariterators"])
    iterator = iter(unit_files)
    batches = iter(lambda: list(itertools.islice(iterator, _UNITS_AT_ONCE)), [])
    with ProcessPoolExecutor(num_workers, context) as pool:
        try:
            for found in _in_order(pool, _Batch(reconciler), batches, _BATCHES_AHEAD * num_workers):
                yield from found
        except BrokenProcessPool as error:
            raise EngineError("a worker of verify died, of too little memory as a rule; try fewer --workers") from error


class _Batch:
    """Reconciles some units in threads, in the process that it is sent to."""

    def __init__(self, reconciler: Reconciler) -> None:
        self._reconciler = reconciler

    def __call__(self, unit_files: list[UnitFiles]) -> list[Reconciliation]:
        """Reconcile them."""
        with ThreadPoolExecutor(_UNITS_AT_ONCE) as pool:
            return list(pool.map(self._reconciler, unit_files))


def _in_order(
    pool: Executor, function: Callable[[Work], Found], items: Iterable[Work], num_ahead: int
) -> Iterator[Found]:
    """Call a function in a pool, a few items ahead, and yield the results in order."""
    ahead: deque[Future[Found]] = deque()
    for item in items:
        ahead.append(pool.submit(function, item))
        if len(ahead) > num_ahead:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
