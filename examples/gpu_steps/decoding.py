"""Decoding: what all cores carry, and how near nvJPEG comes to libjpeg."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import TYPE_CHECKING

import torch

from gpu_steps.material import Material
from gpu_steps.photographs import shipped_images
from pipeline.config.members import parse_members
from pipeline.config.settings import StorageConfig
from pipeline.labeler.threads import Workers, one_torch_thread
from pipeline.models.ensemble import Ensemble, EnsembleOptions
from pipeline.models.preprocessing import Geometry, crop
from pipeline.models.weights import resolve
from pipeline.sample_data import sample_data, sample_members
from pipeline.stages.crop import Batch, new_crops
from pipeline.stages.decode import Decoded, decode
from pipeline.stages.nvjpeg import DeviceDecoder, make_checked_decoder, plain_size
from pipeline.storage import Storage

if TYPE_CHECKING:
    from gpu_steps.worker import Tell

_GEOMETRY = Geometry(256, 224)
_PIECE = 16
_START_S = 90.0
_MOST_MEAN = 1.5  # grey levels: chroma that is repeated instead of interpolated moves photographs by up to 0.9


# -- all cores --------------------------------------------------------------------------------------------


def measure_decoding(material: Material, tell: Tell) -> None:
    """Decode, resize and copy into a batch, as a labeler does."""
    images, cores = material.photographs[:256], material.threads
    ways = [("threads", count) for count in sorted({1, -(-cores // 2), cores, 2 * cores})] + [("processes", cores)]
    each_s = min(3.0, tell.seconds_left / (len(ways) + 3))
    best = 0.0
    for title, count in ways:
        rates = (_in_threads if title == "threads" else _in_processes)(images, count, each_s)
        tell.figure(f"{count} {title}", {"images/s": sum(rates), "each": sum(rates) / count})
        best = max(best, sum(rates))
    tell.figure("decoding images/s", best)


def _in_threads(images: list[bytes], count: int, seconds: float) -> list[float]:
    workers = Workers(count, on_start=one_torch_thread)
    futures = [workers.submit(0, _decode_for, images, seconds) for _ in range(count)]
    rates = [future.result() for future in futures]
    workers.close()
    return rates


def _in_processes(images: list[bytes], count: int, seconds: float) -> list[float]:
    """In new interpreters, which begin together."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, mp_context=context, initializer=_enter, initargs=(barrier, images)) as pool:
        return list(pool.map(_decode_own_for, [seconds] * count))


_own_images: list[bytes] = []


def _enter(barrier: Barrier, images: list[bytes]) -> None:
    one_torch_thread()
    _own_images.extend(images)
    _decode_for(_own_images, 0.0)
    barrier.wait(_START_S)


def _decode_own_for(seconds: float) -> float:
    return _decode_for(_own_images, seconds)


def _decode_for(images: list[bytes], seconds: float) -> float:
    """Images per second of this thread."""
    batch, began, done = Batch(new_crops((_GEOMETRY,), _PIECE, pinned=False)), time.perf_counter(), 0
    for data in itertools.cycle(images):
        batch.put(done % _PIECE, decode(data).pixels_CHW)
        done += 1
        if time.perf_counter() - began >= seconds:
            break
    return done / (time.perf_counter() - began)


# -- nvJPEG -----------------------------------------------------------------------------------------------


def check_nvjpeg(material: Material, tell: Tell) -> None:
    """Crops of the photographs that ship, decoded by both; without a GPU libjpeg takes the place of nvJPEG."""
    plain = [data for data in shipped_images() if plain_size(data) is not None]
    instead = None if material.on_gpu else (lambda images: [decode(data).pixels_CHW for data in images])
    decoder = DeviceDecoder(material.device, instead)
    if material.on_gpu:
        logging.getLogger("pipeline.stages.nvjpeg").setLevel(logging.ERROR)  # it is told here
        tell.figure("a labeler would use it", make_checked_decoder(material.device) is not None)
    found: list[Decoded | None] = []
    while len(found) < len(plain):  # it may take fewer at a time than it is given
        found += decoder.decode(plain[len(found) : len(found) + 32])
    pairs = [(picture.pixels_CHW, data) for picture, data in zip(found, plain, strict=True) if picture is not None]
    refused = len(plain) - len(pairs)
    if not pairs:
        tell.check("pixels, in grey levels", False, photographs=len(plain), refused=refused)
        return
    ours_BCHW = torch.stack([crop(pixels, _GEOMETRY).cpu() for pixels, _ in pairs])
    expected_BCHW = torch.stack([crop(decode(data).pixels_CHW, _GEOMETRY) for _, data in pairs])
    levels = (ours_BCHW.float() - expected_BCHW.float()).abs()
    mean = float(levels.mean(dim=(1, 2, 3)).max())
    details = {
        "photographs": len(plain),
        "refused": refused,
        "largest mean": mean,
        "largest": float(levels.max()),
        "share above 8": float((levels > 8).float().mean()),
        "other top-1 by member": _other_top1(ours_BCHW, expected_BCHW),
    }
    tell.check("pixels, in grey levels", refused == 0 and mean <= _MOST_MEAN, **details)
    _measure_decoder(material, tell, decoder)


def _other_top1(ours_BCHW: torch.Tensor, expected_BCHW: torch.Tensor) -> list[int]:
    """How many first classes of the trained sample networks differ, in fp32 on the CPU."""
    names, folder = sample_members()["model"], str(sample_data() / "weights")
    members = [resolve(request, folder, Storage(StorageConfig())) for request in parse_members(tuple(names))]
    blobs = {member.spec.alias: member.blob for member in members}
    ensemble = Ensemble([member.spec for member in members], blobs, EnsembleOptions("cpu", "fp32", "mean", 2))
    ours, expected = (
        ensemble.predict(dict.fromkeys(ensemble.geometries, crops)) for crops in (ours_BCHW, expected_BCHW)
    )
    return [
        int((one.labels_Bk[:, 0] != other.labels_Bk[:, 0]).sum())
        for one, other in zip(ours.members, expected.members, strict=True)
    ]


def _measure_decoder(material: Material, tell: Tell, decoder: DeviceDecoder) -> None:
    """Its rate on photographs of ImageNet's size, decoded alone and cropped as well."""
    images = material.photographs[: 4 * _PIECE]
    pieces = [images[start : start + _PIECE] for start in range(0, len(images), _PIECE)]

    def cropped(piece: list[bytes]) -> None:
        for picture in decoder.decode(piece):
            if picture is not None:
                crop(picture.pixels_CHW, _GEOMETRY).cpu()

    workers = Workers(material.threads, on_start=decoder.use_own_stream)
    for title, call in (("decode", decoder.decode), ("decode and resize", cropped)):
        tell.figure(f"{title} images/s", _rate(workers, call, pieces, min(2.0, tell.seconds_left / 3)))
    workers.close()


def _rate(workers: Workers, call: Callable[[list[bytes]], object], pieces: list[list[bytes]], seconds: float) -> float:
    """Images per second on all workers."""
    done, began = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - began < seconds:
        for future in [workers.submit(0, call, piece) for piece in pieces * 4]:
            future.result()
        done += 4 * sum(map(len, pieces))
    return done / (time.perf_counter() - began)
