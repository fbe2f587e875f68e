"""Whole jobs, from tars to Parquet: how near they come to their limits, and where their time goes."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch
from torch.profiler import ProfilerActivity, profile

from gpu_steps.material import Material
from gpu_steps.timing import wait
from pipeline.config.settings import StorageConfig
from pipeline.engines.workload import Item
from pipeline.hosts.worker import LabelingWorker, make_labeler_worker
from pipeline.inputs.find import find_inputs
from pipeline.inputs.units import tar_unit
from pipeline.metrics import NoMeter
from pipeline.models.weights import ResolvedMember
from pipeline.records import Receipt
from pipeline.speed.bottleneck import BOTTLENECKS, find_bottleneck
from pipeline.speed.host_ceiling import Sleeps, make_host_labeler
from pipeline.speed.measure import measure
from pipeline.storage import Storage

if TYPE_CHECKING:
    from gpu_steps.worker import Tell

_TOP_KERNELS = 8
_GPU_USE = ("utilization.gpu", "memory.used", "clocks.sm", "power.draw")  # in %, MiB, MHz, W
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")  # what their names begin with
_COPIES = ("cudaMemcpyAsync", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize")


# -- rates ------------------------------------------------------------------------------------------------


def measure_all(material: Material, tell: Tell) -> None:
    """All members."""
    _measure(material, tell, material.members)


def measure_first(material: Material, tell: Tell) -> None:
    """The first member alone."""
    _measure(material, tell, material.members[:1])


def _measure(material: Material, tell: Tell, members: Sequence[ResolvedMember]) -> None:
    """Each stage alone and the whole labeler, in rounds, as ``shardlabel bench`` does."""
    sample = material.job_sample
    began = time.monotonic()
    blobs = {member.spec.alias: member.blob for member in members}
    # half of the time goes into loading the members, several times, and into the first round
    rates = measure(
        material.labeler(members, f"job-{len(members)}"),
        blobs,
        sample,
        seconds=max(1.0, 0.5 * tell.seconds_left),
        alternatives=False,
        on_step=lambda *_: None,
    )
    found = find_bottleneck(rates)
    for stage in rates.stages:
        title = " ".join(word for word in (stage.stage, stage.member, stage.what) if word)
        tell.figure(title, {"images/s": stage.images_per_s, "spread": stage.spread})
    tell.figure("limit of the job", {"images/s": found.limit_images_per_s, "by": found.limit_by})
    tell.figure("bottleneck", BOTTLENECKS[found.bottleneck])
    tell.figure("job images/s", rates.one("job").images_per_s)
    tell.figure("device images/s", rates.one("ensemble").images_per_s)
    tell.figure("took_s", round(time.monotonic() - began, 1))


# -- where the time goes ----------------------------------------------------------------------------------


def measure_where(material: Material, tell: Tell) -> None:
    """Seconds of a job's stages, launches of a batch, and a labeler whose decoder and members cost nothing."""
    for title, names in (("all members", material.names), (material.names[0], material.names[:1])):
        members = [material.member(name) for name in names]
        blobs = {member.spec.alias: member.blob for member in members}
        config = material.labeler(members, f"where-{len(members)}")
        labeler = make_labeler_worker(config, blobs, NoMeter())
        tell.figure(title, _run_for(material, labeler, tell.seconds_left / 6))
        labeler.close()
        tell.figure(f"{title}: one batch on the device", _profile(material, names))
    host = dataclasses.replace(config, out=str(material.scratch / "where-host"))
    labeler = make_host_labeler(host, Sleeps(), feeds_device=material.on_gpu)
    tell.figure("decoder and members cost nothing", _run_for(material, labeler, tell.seconds_left / 3))
    labeler.close()


class _Units:
    """The tars, again and again, each time as another unit. Safe to ask from several threads."""

    def __init__(self, material: Material) -> None:
        self._tars = list(find_inputs((str(material.job_tars),), Storage(StorageConfig())).tars.values())
        self._numbers = itertools.count()

    def next(self) -> Item:
        """One that was not labelled yet, as an engine calls a labeler with it."""
        number = next(self._numbers)
        unit = dataclasses.replace(tar_unit(self._tars[number % len(self._tars)]), id=f"{number:016x}")
        return {"unit": unit.to_dict(), "parts_done": 0}


def _never() -> bool:
    return False


def _run_for(material: Material, labeler: LabelingWorker, seconds: float) -> dict[str, object]:
    """Label tars for about so long: the rate, and per image the milliseconds of each stage and each wait."""
    units = _Units(material)
    list(labeler(units.next(), _never))  # does not count
    with _GpuUse(material) as use, ThreadPoolExecutor(labeler.units_at_once) as pool:
        began, cpu = time.perf_counter(), labeler.cpu_s()

        def label_some(_: int) -> list[Receipt]:
            done: list[Receipt] = []
            while not done or time.perf_counter() - began < seconds:
                done.append(Receipt.from_dict(list(labeler(units.next(), _never))[-1]))
            return done

        receipts = [receipt for some in pool.map(label_some, range(labeler.units_at_once)) for receipt in some]
        wall_s, cpu_s = time.perf_counter() - began, labeler.cpu_s() - cpu
    images = sum(receipt.num_samples for receipt in receipts)
    stages: Counter[str] = Counter()
    for receipt in receipts:
        stages.update(receipt.stage_s)
        stages.update({f"waiting for {source}": taken for source, taken in receipt.wait_s.items()})
    return {
        "images/s": images / wall_s,
        "CPU ms an image": 1e3 * cpu_s / images,
        "ms an image": {name: 1e3 * taken / images for name, taken in stages.most_common()},
        **use.found,
    }


class _GpuUse:
    """What nvidia-smi says of the GPU meanwhile."""

    def __init__(self, material: Material) -> None:
        self._wanted = material.on_gpu and shutil.which("nvidia-smi") is not None
        self.found: dict[str, object] = {}

    def __enter__(self) -> _GpuUse:
        if self._wanted:
            query = f"--query-gpu={','.join(_GPU_USE)}"
            self._process = subprocess.Popen(
                ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "250"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self

    def __exit__(self, *exception: object) -> None:
        if self._wanted:
            self._process.terminate()
            lines = self._process.communicate()[0].splitlines()
            rows = [line.split(",") for line in lines if line.count(",") == len(_GPU_USE) - 1]
            for name, column in zip(_GPU_USE, zip(*rows, strict=True), strict=False):
                numbers = [float(cell) for cell in column if cell.strip().replace(".", "", 1).isdigit()]
                self.found[name] = statistics.fmean(numbers) if numbers else None


@torch.inference_mode()
def _profile(material: Material, names: Sequence[str]) -> dict[str, object]:
    """What one batch of a job launches on the device, or on a CPU which operations it runs."""
    size = 2 * material.sizes.batch
    ensemble = material.ensemble(names)
    crops = {spec.recipe.geometry: material.crops(spec.arch, size) for spec in ensemble.specs}
    ensemble.predict(crops)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if material.on_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        ensemble.predict(crops)
        wait(material.device)
    events = profiler.key_averages()
    calls = Counter({event.key: event.count for event in events})
    on_device = [(event.key, event.self_device_time_total) for event in events if event.self_device_time_total > 0]
    on_host = [(event.key, event.self_cpu_time_total) for event in events]
    longest = sorted(on_device or on_host, key=lambda pair: -pair[1])
    return {
        "images": size,
        "launches": sum(count for name, count in calls.items() if name.startswith(_LAUNCHES)),
        "of recordings": calls["cudaGraphLaunch"],
        "copies and waits": {name: calls[name] for name in _COPIES if calls[name]},
        "operations": sum(count for name, count in calls.items() if name.startswith("aten::")),
        "ms in all": sum(taken for _, taken in longest) / 1e3,
        "longest, ms": {name[:60]: round(taken / 1e3, 2) for name, taken in longest[:_TOP_KERNELS]},
    }
