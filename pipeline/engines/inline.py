"""The inline engine: one worker in this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from pipeline.engines.merge import merge_streams
from pipeline.engines.workload import Item, Share, Workload
from pipeline.errors import DeviceError
from pipeline.machine import available_memory_bytes, num_local_cpus, num_local_gpus
from pipeline.metrics import Meter, NoMeter

_GO_ON = "what is published stays, and the same command goes on from there"


class InlineEngine:
    """One worker in this process, called from a few threads."""

    def num_gpus(self) -> int:
        """GPUs of this machine."""
        return num_local_gpus()

    def share(self, *, on_gpu: bool, num_workers: int | None) -> Share:
        """What is free on this machine, or on the GPU that torch takes by itself."""
        return Share(num_local_cpus(), _free_gpu_bytes() if on_gpu else available_memory_bytes(), own_process=False)

    def start(self) -> None:
        """Nothing to get ready."""

    def run(self, workload: Workload, stop: threading.Event) -> Iterator[Item | None]:
        """Run a workload here."""
        worker = workload.factory(workload.blobs, workload.num_threads or num_local_cpus(), NoMeter())
        waiting = iter(workload.items)
        lock = threading.Lock()

        def work(emit: Callable[[Item], None]) -> None:
            while not stop.is_set():
                with lock:
                    item = next(waiting, None)
                if item is None:
                    return
                try:
                    for result in worker(item, stop.is_set):
                        emit(result)
                except DeviceError as error:
                    raise DeviceError(f"{error}; {_GO_ON}") from error

        try:
            yield from merge_streams([work] * min(workload.items_at_once, len(workload.items)), stop)
        finally:
            worker.close()

    def meter(self, workload: Workload) -> Meter:
        """Nobody collects metrics of a process that is gone when its job is done."""
        return NoMeter()

    def close(self) -> None:
        """Nothing to let go of."""


def _free_gpu_bytes() -> int:
    import torch

    return int(torch.cuda.mem_get_info(0)[0])
