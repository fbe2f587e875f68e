"""Inputs whose version changed, compared with what was labelled of them: here, or by workers if it is much."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.engines.workload import Engine, Workload
from pipeline.errors import EngineError
from pipeline.inputs.same_content import UNITS_AT_ONCE, Compared, ContentCheck, Touched, compare_in_threads
from pipeline.labeler.content_worker import ContentWorker

_BYTES_WORTH_WORKERS = 16 << 30  # which take half a minute to start


@dataclass(frozen=True, slots=True)
class EngineCompare:
    """Compares units, on the workers of an engine where it is worth it.

    Attributes:
        engine: The engine.
        started: Set once it is started, where that is another thread's business.
        num_workers: As for labelling.
        least_bytes: Less than this is compared in threads of this process.
    """

    engine: Engine
    started: threading.Event
    num_workers: int | None
    least_bytes: int = _BYTES_WORTH_WORKERS

    def __call__(self, check: ContentCheck, touched: Sequence[Touched]) -> Iterable[Compared]:
        """Compare units, and yield the results in order."""
        if sum(item.size_bytes for item in touched) < self.least_bytes:
            return compare_in_threads(check, touched)
        return self._on_workers(check, touched)

    def _on_workers(self, check: ContentCheck, touched: Sequence[Touched]) -> Iterator[Compared]:
        if threading.current_thread() is threading.main_thread():
            self.engine.start()
        else:
            self.started.wait()
        workload = Workload(
            factory=functools.partial(ContentWorker, check),
            blobs={},
            items=[item.to_dict() for item in touched],
            items_at_once=UNITS_AT_ONCE,
            on_gpu=False,
            num_workers=self.num_workers,
            num_threads=None,
        )
        found: dict[str, Compared] = {}
        left = iter(touched)
        following = next(left, None)
        for item in self.engine.run(workload, threading.Event()):
            if item is not None:
                found[item["unit"]] = Compared(frozenset(item["same"]), item["problem"])
            while following is not None and following.unit.id in found:
                yield found.pop(following.unit.id)
                following = next(left, None)
        if following is not None:
            raise EngineError("workers did not compare all inputs; the same command tries it again")
