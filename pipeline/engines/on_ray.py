"""The Ray engine: Ray Data schedules an actor pool of workers. This is the one module that imports Ray."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engines.ray_meter import RayMeter
from pipeline.engines.stream import streamed
from pipeline.engines.stuck import die_when_stuck
from pipeline.engines.supervisor import Supervisor
from pipeline.engines.workload import MAX_DEATHS, Item, Patience, Share, WorkerFactory, Workload
from pipeline.errors import EngineError, RequestError
from pipeline.machine import available_memory_bytes, num_local_cpus, num_local_gpus, smallest_gpu_bytes
from pipeline.metrics import LABELER_DEATHS, Kind, Meter

_POLL_S = 0.5
_MAX_CONSTRUCTOR_DEATHS = 3
_ONE_ITEM_BLOCKS = 20_000
_GPU_PROBE_S = 60.0


def _total_gpu_bytes() -> int:
    import torch

    return int(torch.cuda.mem_get_info(0)[1])


@contextlib.contextmanager
def _native_stderr_silenced() -> Iterator[None]:
    """Send file descriptor 2 nowhere for a while: Ray's core announces its log level there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have a Ray that is started here listen on 127.0.0.1 alone: nobody is to join it.

    It does so by itself where it supports no clusters (macOS, Windows), and has no option for it: an address of
    127.0.0.1 that it is given becomes the machine's own. Anyone who gets in can run code; what keeps the other users of
    this machine out is Ray's token.
    """
    from ray._private import ray_constants

    kept, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = kept


@contextlib.contextmanager
def _stdout_left_alone(*, verbose: bool) -> Iterator[None]:
    """Have Ray print nothing, or to stderr: it tells of deaths on stdout, may it or not, in between lines of JSON."""
    from ray._private import worker

    talk = worker.print_to_stdstream

    def elsewhere(data: Mapping[str, Any], *options: Any, **named: Any) -> None:  # noqa: ANN401 - Ray's own
        if verbose:
            talk({**data, "is_err": True}, *options, **named)

    worker.print_to_stdstream = elsewhere
    try:
        yield
    finally:
        worker.print_to_stdstream = talk


def _keep_token_private() -> None:
    """Let nobody else read the token that opens a Ray started here; Ray leaves that to the umask."""
    folder = Path.home() / ".ray"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "auth_token").chmod(0o600)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What one worker takes, and how many fit."""

    num_cpus: int
    num_gpus: int
    num_fitting: int


class RayEngine:
    """Ray Data schedules an actor pool of workers over the items.

    Args:
        address: Of a running cluster; None starts Ray on this machine.
        verbose: Whether Ray may talk.
    """

    def __init__(self, address: str | None = None, *, verbose: bool = False) -> None:
        self._address = address
        self._verbose = verbose
        self._started_here = False
        self._until_closed = contextlib.ExitStack()

    def num_gpus(self) -> int:
        """GPUs of the cluster, or of this machine where Ray is still to be started on it."""
        if self._address is None:
            return num_local_gpus()
        self.start()
        import ray

        return int(ray.cluster_resources().get("GPU", 0))

    def share(self, *, on_gpu: bool, num_workers: int | None) -> Share:
        """What a worker gets on the smallest machine of the cluster, or on this one.

        Raises:
            RequestError: The cluster cannot be reached, or has nothing that a worker could run on.
        """
        if self._address is None:
            return _share_of_this_machine(on_gpu=on_gpu, num_workers=num_workers)
        self.start()
        import ray

        shape = self._shape(on_gpu, num_workers)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if on_gpu:
            return Share(shape.num_cpus, _smallest_gpu_of(nodes), own_process=True)
        shares = [
            # what Ray found on the machine, before it set a part aside for its object store
            int(node["memory"] + node.get("object_store_memory", 0))
            // max(1, min(int(node["CPU"]) // shape.num_cpus, num_workers or sys.maxsize))
            for node in nodes
            if node.get("CPU", 0) >= 1 and "memory" in node
        ]
        return Share(shape.num_cpus, min(shares, default=None), own_process=True)

    def start(self) -> None:
        """Join the cluster, or start Ray on this machine.

        Raises:
            RequestError: The cluster cannot be reached.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        if not self._verbose:
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        import ray

        if ray.is_initialized():
            return
        on_sigterm = signal.getsignal(signal.SIGTERM)
        if self._address is None:
            _keep_token_private()
        level = logging.INFO if self._verbose else logging.ERROR
        options: dict[str, Any] = {} if self._address else {"include_dashboard": False, "num_cpus": num_local_cpus()}
        try:
            with (
                contextlib.nullcontext() if self._verbose else _native_stderr_silenced(),
                contextlib.nullcontext() if self._address else _on_loopback(),
            ):
                ray.init(address=self._address or "local", log_to_driver=self._verbose, logging_level=level, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"the Ray cluster at {self._address}" if self._address else "Ray on this machine"
            raise RequestError(f"{where} cannot be reached: {' '.join(str(error).split())[:300]}") from error
        if self._address is None:
            _keep_token_private()  # it may be a new one
        self._started_here = True
        self._until_closed.enter_context(_stdout_left_alone(verbose=self._verbose))
        if on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own there

    def run(self, workload: Workload, stop: threading.Event) -> Iterator[Item | None]:
        """Run a workload on the cluster.

        Raises:
            RequestError: The cluster has nothing that a worker could run on.
            EngineError: It failed for good.
        """
        import ray

        # what actors fetch when they start must live as long as the job, so the references stay here
        blobs = {name: ray.put(blob) for name, blob in workload.blobs.items()}
        supervisor = self._supervisor()
        dataset = self._dataset(workload, blobs, supervisor)
        patience = Patience()
        ended = threading.Event()
        meter = _meter(workload.labels)

        def pass_on(texts: Iterable[str], emit: Callable[[Item], None]) -> None:
            for item in map(json.loads, texts):
                if item is None:  # the worker had nothing to say
                    continue
                if workload.is_progress(item):
                    patience.progress()
                emit(item)

        def work(emit: Callable[[Item], None]) -> None:
            try:
                for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                    pass_on(batch.column("json").to_pylist(), emit)
            finally:
                ended.set()

        def watch(emit: Callable[[Item], None]) -> None:
            while not ended.wait(_POLL_S):
                if stop.is_set():
                    supervisor.stop.remote()
                reports, deaths = ray.get(supervisor.news.remote())
                pass_on(reports, emit)
                meter.count_to(LABELER_DEATHS, sum(deaths.values()))
                if patience.ends(deaths):
                    raise EngineError(
                        f"a worker died {MAX_DEATHS} times with nothing done in between; what kills it is in "
                        "Ray's logs and the kernel's (too little memory, as a rule)"
                    )

        try:
            yield from streamed([work, watch], stop)
        except ray.exceptions.RayError as error:
            raise EngineError(f"Ray gave up: {' '.join(str(error).split())[-600:]}") from error
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

        shape = self._shape(workload.on_gpu, workload.num_workers)
        rows_per_block = -(-len(workload.items) // _ONE_ITEM_BLOCKS)
        texts = [json.dumps(item) for item in workload.items]
        blocks = [pa.table({"json": texts[at : at + rows_per_block]}) for at in range(0, len(texts), rows_per_block)]
        threads = workload.num_threads or shape.num_cpus
        return ray.data.from_blocks(blocks).map_batches(
            _RayWorker,
            fn_constructor_args=(workload.factory, blobs, supervisor, threads, dict(workload.labels)),
            batch_size=1,
            batch_format="pyarrow",
            compute=self._pool(workload, shape),
            num_cpus=shape.num_cpus,
            num_gpus=shape.num_gpus,
        )

    @staticmethod
    def _shape(on_gpu: bool, num_workers: int | None) -> _Shape:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if on_gpu:
            nodes = [node for node in nodes if node.get("GPU", 0) >= 1]
            fitting = int(sum(node["GPU"] for node in nodes))
            cpus = min((int(node.get("CPU", 1) // node["GPU"]) for node in nodes), default=0)
        else:
            nodes = [node for node in nodes if node.get("CPU", 0) >= 1]
            cpus = min((int(node["CPU"]) for node in nodes), default=0)
            fitting = sum(int(node["CPU"]) // cpus for node in nodes)
        if not nodes:
            raise RequestError(f"the Ray cluster has no {'GPU' if on_gpu else 'CPU'} to label on")
        if num_workers is not None and not on_gpu and num_workers > fitting:
            # more workers than machines: each takes its share of one
            cpus = max(1, sum(int(node["CPU"]) for node in nodes) // num_workers)
        return _Shape(max(1, cpus), 1 if on_gpu else 0, max(1, fitting))

    def _pool(self, workload: Workload, shape: _Shape) -> Any:  # noqa: ANN401 - Ray's own type
        from ray.data import ActorPoolStrategy

        options: dict[str, Any] = {
            "max_tasks_in_flight_per_actor": workload.items_at_once,
            "max_concurrent_calls_per_actor": workload.items_at_once,
            "enable_true_multi_threading": True,
        }
        most = max(1, len(workload.items))
        size = min(workload.num_workers or shape.num_fitting, most)
        if workload.num_workers is None and self._address is not None:
            # machines that join later are used; those that leave are waited for or replaced
            return ActorPoolStrategy(min_size=size, max_size=most, initial_size=size, **options)
        return ActorPoolStrategy(size=size, **options)

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


def _share_of_this_machine(*, on_gpu: bool, num_workers: int | None) -> Share:
    """What a worker will get from a Ray that is not started yet."""
    num_cpus = num_local_cpus()
    if on_gpu:
        return Share(max(1, num_cpus // num_local_gpus()), smallest_gpu_bytes(), own_process=True)
    sharing = min(num_workers or 1, num_cpus)
    available = available_memory_bytes()
    return Share(num_cpus // sharing, None if available is None else available // sharing, own_process=True)


def _smallest_gpu_of(nodes: Sequence[Mapping[str, Any]]) -> int | None:
    """Bytes of the smallest kind of GPU in a cluster; None where none is free to be asked for a while."""
    import ray

    kinds = {name for node in nodes if node.get("GPU", 0) >= 1 for name in node if name.startswith("accelerator_type:")}
    probe = ray.remote(num_cpus=0, num_gpus=1, max_retries=0)(_total_gpu_bytes)
    wanted = [{kind: 0.001} for kind in kinds] or [{}]
    asked = [probe.options(resources=resources).remote() for resources in wanted]
    answered, waiting = ray.wait(asked, num_returns=len(asked), timeout=_GPU_PROBE_S)
    for reference in waiting:
        ray.cancel(reference, force=True)
    with contextlib.suppress(ray.exceptions.RayError):
        return min(ray.get(answered), default=None)
    return None


def _meter(labels: Mapping[str, str]) -> RayMeter:
    from ray.util import metrics

    makers = {Kind.COUNTER: metrics.Counter, Kind.GAUGE: metrics.Gauge, Kind.HISTOGRAM: metrics.Histogram}
    return RayMeter(makers, labels)


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
        about = ray.get_runtime_context()
        # known to have begun before anything of its own runs, which may be what kills it
        ray.get(supervisor.begin.remote(about.get_actor_id(), about.get_worker_id()))
        self._meter = _meter(labels)
        fetched = {name: ray.get(reference) for name, reference in blobs.items()}
        self._worker = factory(fetched, num_threads, self._meter)
        threading.Thread(target=self._watch, name="stop", daemon=True).start()
        threading.Thread(target=self._meter.keep_reading, name="meter", daemon=True).start()
        die_when_stuck()

    def _watch(self) -> None:
        import ray

        while not self._stop.wait(_POLL_S):
            try:
                if ray.get(self._supervisor.is_stopping.remote()):
                    self._stop.set()
            except ray.exceptions.RayError:
                return  # the driver is gone, and this process is about to be

    def __call__(self, batch: Any) -> Iterator[Any]:  # noqa: ANN401 - pyarrow tables
        import pyarrow as pa

        # Ray drops what a task yields again after a death, by number: one result for each item, come what may,
        # or the last ones of a second try that has less to do are lost; what comes before takes another way.
        for text in batch.column("json").to_pylist():
            last = None
            for result in self._worker(json.loads(text), self._stop.is_set):
                if last is not None:
                    self._supervisor.report.remote(json.dumps(last))
                last = result
            yield pa.table({"json": [json.dumps(last)]})
