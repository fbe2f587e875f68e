"""The Ray engine: Ray Data schedules an actor pool of workers. This is the one module that imports Ray."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pipeline.engines.end_when_stuck import exit_when_stuck
from pipeline.engines.merge import merge_streams
from pipeline.engines.ray_head import watch_head
from pipeline.engines.ray_meter import RayMeter
from pipeline.engines.ray_resources import WorkerSize, alive_nodes, share_of_cluster, share_of_this_machine, worker_size
from pipeline.engines.ray_start import announce, limits_of_time, set_environment, start_ray, stdout_untouched
from pipeline.engines.supervisor import Supervisor
from pipeline.engines.workload import MAX_DEATHS, DeathLimit, Item, Share, WorkerFactory, Workload
from pipeline.errors import DeviceError, EngineError
from pipeline.machine import num_local_gpus
from pipeline.metrics import LABELER_DEATHS, Kind, Meter

_POLL_S = 0.5
_LAST_WORDS_S = 5.0
_MAX_CONSTRUCTOR_DEATHS = 3
_ONE_ITEM_BLOCKS = 20_000


def ray_runs_here() -> bool:
    """Whether this process has joined or started a Ray already. Ray is not imported for that."""
    ray = sys.modules.get("ray")
    return ray is not None and hasattr(ray, "is_initialized") and bool(ray.is_initialized())


class RayEngine:
    """Ray Data schedules an actor pool of workers over the items.

    Args:
        address: Of a running cluster; None starts Ray on this machine.
        verbose: Whether Ray may print.
        note: Called with a line before a start that takes long.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        verbose: bool = False,
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._address = address
        self._verbose = verbose
        self._note = note
        self._started_here = False
        # While Ray imports requests, which silences this one, the plan's thread imports pandas, which puts the filters
        # of warnings back to what they were. Set before there are threads, it stays.
        warnings.filterwarnings("ignore", message="SOCKS support in urllib3 requires")
        self._until_closed = contextlib.ExitStack()

    def num_gpus(self) -> int:
        """GPUs of the cluster, or of this machine where Ray is still to be started on it.

        Raises:
            RequestError: The cluster cannot be reached.
            EngineError: It went away.
        """
        if self._address is None:
            return num_local_gpus()
        self.start()
        import ray

        with _ray_errors_translated():
            return int(ray.cluster_resources().get("GPU", 0))

    def share(self, *, on_gpu: bool, num_workers: int | None) -> Share:
        """What a worker gets on the smallest machine of the cluster, or on this one.

        Raises:
            RequestError: The cluster cannot be reached, or has nothing that a worker could run on.
            EngineError: It went away.
        """
        if self._address is None:
            return share_of_this_machine(on_gpu=on_gpu, num_workers=num_workers)
        self.start()
        import ray

        with _ray_errors_translated():
            return share_of_cluster(ray, on_gpu=on_gpu, num_workers=num_workers)

    def start(self) -> None:
        """Join the cluster, or start Ray on this machine.

        Raises:
            RequestError: The cluster cannot be reached, or does not take this process.
            EngineError: Ray does not start on this machine.
        """
        if ray_runs_here():
            return
        self._note(announce(self._address))
        set_environment(verbose=self._verbose)
        with limits_of_time(self._address):
            try:
                import ray
            except (ImportError, OSError) as error:  # a library that Ray's core needs, say
                raise EngineError(f"Ray cannot be imported: {error}; --engine inline does without it") from error

            start_ray(ray, self._address, verbose=self._verbose)
        self._started_here = True
        self._until_closed.enter_context(stdout_untouched(ray, verbose=self._verbose))

    def run(self, workload: Workload, stop: threading.Event) -> Iterator[Item | None]:
        """Run a workload on the cluster.

        Raises:
            RequestError: The cluster has nothing that a worker could run on.
            EngineError: It failed for good.
        """
        import ray

        with _ray_errors_translated():
            # what actors fetch when they start must live as long as the job, so the references stay here
            blobs = {name: ray.put(blob) for name, blob in workload.blobs.items()}
            supervisor = self._supervisor()
            dataset = self._dataset(workload, blobs, supervisor)
        death_limit = DeathLimit()
        ended = threading.Event()
        meter = _meter(workload.labels)

        def emit_all(texts: Iterable[str], emit: Callable[[Item], None]) -> None:
            for item in map(json.loads, texts):
                if item is None:  # the worker yielded nothing
                    continue
                if workload.is_progress(item):
                    death_limit.note_progress()
                emit(item)

        def consume_dataset(emit: Callable[[Item], None]) -> None:
            try:
                for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                    emit_all(batch.column("json").to_pylist(), emit)
            finally:
                ended.set()

        def poll_supervisor(emit: Callable[[Item], None]) -> None:
            why = "what kills it is in Ray's logs and the kernel's (too little memory, as a rule)"
            while not ended.wait(_POLL_S):
                if stop.is_set():
                    supervisor.request_stop.remote()
                reports, failures, deaths = ray.get(supervisor.take_reports.remote())
                emit_all(reports, emit)
                for why in failures:
                    self._note(f"a worker ends, and another one takes its place: {why}")
                meter.count_to(LABELER_DEATHS, sum(deaths.values()))
                if death_limit.is_reached(deaths):
                    raise EngineError(f"a worker died {MAX_DEATHS} times with nothing done in between; {why}")

        def watch(_emit: Callable[[Item], None]) -> None:
            watch_head(ray.get_runtime_context().gcs_address, ended, self._note)

        try:
            with _ray_errors_translated():
                yield from merge_streams([consume_dataset, poll_supervisor, watch], stop)
        finally:
            ended.set()

    @staticmethod
    def _supervisor() -> Any:  # noqa: ANN401 - an actor's handle
        """The supervisor, on the driver's own machine where that is part of the cluster: the one that stays."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
        return ray.remote(**options)(Supervisor).remote()

    def _dataset(self, workload: Workload, blobs: Mapping[str, Any], supervisor: Any) -> Any:  # noqa: ANN401 - Ray's types
        import pyarrow as pa
        import ray

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = self._verbose
        context.print_on_execution_start = self._verbose
        context.target_max_block_size = 1  # every receipt leaves as soon as it is there
        context.execution_no_progress_timeout_s = -1  # waiting for spot machines is no failure
        context.max_consecutive_actor_init_deaths = _MAX_CONSTRUCTOR_DEATHS
        context.actor_init_retry_on_errors = True
        if not self._verbose:
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)

        size = worker_size(alive_nodes(ray), on_gpu=workload.on_gpu, num_workers=workload.num_workers)
        rows_per_block = -(-len(workload.items) // _ONE_ITEM_BLOCKS)
        texts = [json.dumps(item) for item in workload.items]
        blocks = [pa.table({"json": texts[at : at + rows_per_block]}) for at in range(0, len(texts), rows_per_block)]
        threads = workload.num_threads or size.num_cpus
        return ray.data.from_blocks(blocks).map_batches(
            _RayWorker,
            fn_constructor_args=(workload.factory, blobs, supervisor, threads, dict(workload.labels)),
            batch_size=1,
            batch_format="pyarrow",
            compute=self._pool(workload, size),
            num_cpus=size.num_cpus,
            num_gpus=size.num_gpus,
        )

    def _pool(self, workload: Workload, size: WorkerSize) -> Any:  # noqa: ANN401 - Ray's own type
        from ray.data import ActorPoolStrategy

        options: dict[str, Any] = {
            "max_tasks_in_flight_per_actor": workload.items_at_once,
            "max_concurrent_calls_per_actor": workload.items_at_once,
            "enable_true_multi_threading": True,
        }
        most = max(1, len(workload.items))
        num_actors = min(workload.num_workers or size.max_workers, most)
        if workload.num_workers is None and self._address is not None:
            # machines that join later are used; those that leave are waited for or replaced
            return ActorPoolStrategy(min_size=num_actors, max_size=most, initial_size=num_actors, **options)
        return ActorPoolStrategy(size=num_actors, **options)

    def meter(self, workload: Workload) -> Meter:
        """The metrics of this process, which Ray's agent on this machine collects."""
        return _meter(workload.labels)

    def close(self) -> None:
        """Leave the cluster, or stop the Ray that was started here."""
        if self._started_here:
            import ray

            ray.shutdown()
            self._until_closed.close()
            self._started_here = False


@contextlib.contextmanager
def _ray_errors_translated() -> Iterator[None]:
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray gave up: {' '.join(str(error).split())[-600:]}") from error


def _meter(labels: Mapping[str, str]) -> RayMeter:
    from ray.util import metrics

    makers = {Kind.COUNTER: metrics.Counter, Kind.GAUGE: metrics.Gauge, Kind.HISTOGRAM: metrics.Histogram}
    return RayMeter(makers, labels)


@contextlib.contextmanager
def _ended_by_device_errors(supervisor: Any) -> Iterator[None]:  # noqa: ANN401 - an actor's handle
    """End this process if its GPU fails: an error would end the job, a death only costs a new process."""
    import ray

    try:
        yield
    except DeviceError as error:
        print(f"this worker ends: {error}", file=sys.stderr, flush=True)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(supervisor.note_failure.remote(str(error)), timeout=_LAST_WORDS_S)
        os._exit(1)


class _RayWorker:
    """A worker inside an actor of Ray Data's pool."""

    def __init__(
        self,
        factory: WorkerFactory,
        blobs: Mapping[str, Any],
        supervisor: Any,  # noqa: ANN401 - an actor's handle
        num_threads: int,
        labels: Mapping[str, str],
    ) -> None:
        import ray

        self._stop = threading.Event()
        self._supervisor = supervisor
        context = ray.get_runtime_context()
        # known to have started before anything of its own runs, which may be what kills it
        ray.get(supervisor.register.remote(context.get_actor_id(), context.get_worker_id()))
        self._meter = _meter(labels)
        fetched = {name: ray.get(reference) for name, reference in blobs.items()}
        self._worker = factory(fetched, num_threads, self._meter)
        threading.Thread(target=self._poll_stop, name="stop", daemon=True).start()
        threading.Thread(target=self._meter.keep_reading, name="meter", daemon=True).start()
        exit_when_stuck()

    def _poll_stop(self) -> None:
        import ray

        while not self._stop.wait(_POLL_S):
            try:
                if ray.get(self._supervisor.stop_requested.remote()):
                    self._stop.set()
            except ray.exceptions.RayError:
                return  # the driver is gone, and this process is about to be

    def __call__(self, batch: Any) -> Iterator[Any]:  # noqa: ANN401 - pyarrow tables
        import pyarrow as pa

        # Ray drops what a task yields again after a death, by number (findings/ray-retry-drops-rows): one result for
        # each item, or the last ones of a second try that has less to do are lost. What comes before takes another way.
        for text in batch.column("json").to_pylist():
            last = None
            with _ended_by_device_errors(self._supervisor):
                for result in self._worker(json.loads(text), self._stop.is_set):
                    if last is not None:
                        self._supervisor.report.remote(json.dumps(last))
                    last = result
            yield pa.table({"json": [json.dumps(last)]})
