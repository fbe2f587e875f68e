"""Images whose true class is known, from inputs: by a truth file, or by their own ``.cls``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import torch

from pipeline.errors import ImageError, RequestError, StorageError
from pipeline.inputs.find import find_inputs
from pipeline.inputs.plan import Plan
from pipeline.labels import ClassResolver
from pipeline.output.ledger import Ledger
from pipeline.records import Sample, Unit
from pipeline.stages.decode import decode
from pipeline.stages.read import UnitReader
from pipeline.storage import Storage
from pipeline.trust.truth import Truth

MOST_IMAGES = 1000
_BATCH = 4096


@dataclass(frozen=True, slots=True)
class KnownImage:
    """A decoded image and its class.

    Attributes:
        pixels_CHW: uint8, (3, H, W), 0-255, RGB, upright.
        label: Index of its class.
    """

    pixels_CHW: torch.Tensor
    label: int


def read_known_images(
    inputs: tuple[str, ...], truth: Truth | None, classes: ClassResolver, storage: Storage
) -> Iterator[KnownImage]:
    """Read the images whose class is known, at most :data:`MOST_IMAGES`; those that cannot be decoded are left out.

    Args:
        inputs: INPUTs; none for the shards that the truth file names.
        truth: Of a file; None for the ``.cls`` of the samples.
        classes: What a ``.cls`` may name.
        storage: How to reach them.

    Raises:
        RequestError: There are no inputs, or none of them can be read.
    """
    if not inputs and truth is not None and truth.with_shards:
        inputs = tuple(dict.fromkeys(text.partition("\n")[0] for text in truth.keys.to_pylist()))
    if not inputs:
        raise RequestError("no images: name the INPUT that the truths are about")
    found = 0
    with tempfile.TemporaryDirectory() as scratch:
        plan = Plan(Ledger(scratch, storage), storage)
        plan.add(find_inputs(inputs, storage))
        for unit in plan.units:
            for sample, label in _known_samples(unit, truth, classes, storage):
                try:
                    yield KnownImage(decode(sample.image or b"").pixels_CHW, label)
                except ImageError:
                    continue
                found += 1
                if found == MOST_IMAGES:
                    return


def _known_samples(
    unit: Unit, truth: Truth | None, classes: ClassResolver, storage: Storage
) -> Iterator[tuple[Sample, int]]:
    """The samples of a unit whose class is known, with their images."""
    try:
        labels = None if truth is None else _labels_by_index(unit, truth, storage)
        if labels is not None and not labels:
            return
        for sample in UnitReader(unit, storage, only=labels):
            if isinstance(sample, Sample) and sample.image is not None:
                label = classes.resolve_cls(sample.cls).label if labels is None else labels.get(sample.index)
                if label is not None and label >= 0:
                    yield sample, label
    except StorageError as error:
        raise RequestError(str(error)) from error


def _labels_by_index(unit: Unit, truth: Truth, storage: Storage) -> dict[int, int]:
    """The classes of a unit's samples in a truth file, by index; no image is read for it."""
    samples = [item for item in UnitReader(unit, storage, payloads=False) if isinstance(item, Sample)]
    found: dict[int, int] = {}
    for at in range(0, len(samples), _BATCH):
        some = samples[at : at + _BATCH]
        shards = pa.chunked_array([pa.array([unit.uri] * len(some), pa.string())])
        keys = pa.chunked_array([pa.array([sample.key for sample in some], pa.string())])
        labels = truth.labels_of(shards, keys)
        found |= {sample.index: label for sample, label in zip(some, labels, strict=True) if label is not None}
    return found
