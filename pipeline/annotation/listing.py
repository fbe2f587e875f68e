"""Choose images for annotators, and write the list with the images beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.annotation.list_writer import ListFormat, ListWriter
from pipeline.annotation.sampling import ListedImage, Order, sample_images
from pipeline.errors import RequestError, StorageError
from pipeline.inputs.originals import Wanted, fetch_originals
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage, absolute_uri
from pipeline.trust.draw import Draw

_MOST_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class AnnotationList:
    """A written list of images for annotators.

    Attributes:
        out: The output that the images were chosen from.
        order: Which images come first.
        format: Of the list.
        images: Chosen images, with and without an image file.
        labelled: Labelled images that they were chosen from.
        files: The files of the list, without images; the list itself is last.
        without_image: Chosen images whose file cannot be read any more. A CSV names them without one; other lists
            leave them out.
        problems: Some of the causes, one line each.
    """

    out: str
    order: Order
    format: ListFormat
    images: int
    labelled: int
    files: tuple[str, ...]
    without_image: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ListRequest:
    """Options of a list.

    Attributes:
        save: File for the list, or folder for FiftyOne; local or S3.
        format: Of the list.
        num: Images, at least 1.
        order: Which images come first.
        seed: Of the random order.
        with_labels: Show the labels of the consensus.
        unique: List images with equal bytes once.
        images: Write the images beside the list.
    """

    save: str | os.PathLike[str]
    format: ListFormat
    num: int
    order: Order
    seed: int
    with_labels: bool
    unique: bool
    images: bool


def list_images(ledger: Ledger, storage: Storage, request: ListRequest) -> AnnotationList:
    """Choose labelled images and write a list of them.

    Args:
        ledger: Of the output that they are chosen from.
        storage: How to reach output, inputs and list.
        request: Options of the list.

    Raises:
        RequestError: There is nothing to list, or the list cannot be written.
        StorageError: The output cannot be read.
    """
    if request.num < 1:
        raise RequestError(f"-n {request.num}: must be at least 1")
    if request.format != "csv" and not request.images:
        raise RequestError(
            f"--format {request.format} needs the images; a list without them is --format csv --no-images"
        )
    job = ledger.job()
    try:
        place = absolute_uri(os.fspath(request.save))
    except StorageError as error:
        raise RequestError(f"--save {error}") from error
    list_writer = ListWriter(
        place,
        request.format,
        job["class_names"],
        storage,
        with_labels=request.with_labels,
        model_version=f"shardlabel {job['fingerprint'][:8]}",
    )
    rows, population = sample_images(
        ledger, str(job["fingerprint"]), request.num, request.order, seed=request.seed, unique=request.unique
    )
    if not rows:
        raise RequestError(f"{ledger.out}: no image is labelled yet; there is nothing to draw from")
    list_writer.drawn = str(
        Draw(
            order=request.order,
            seed=request.seed,
            num=len(rows),
            labelled=population.labelled,
            population=str(population),
            unique=request.unique,
            labels_shown=request.with_labels,
        )
    )
    written, problems = _write_images(list_writer, rows, ledger, storage) if request.images else ({}, [])
    return AnnotationList(
        out=ledger.out,
        order=request.order,
        format=request.format,
        images=len(rows),
        labelled=population.labelled,
        files=list_writer.finish(rows, written),
        without_image=len(problems),
        problems=tuple(problems[:_MOST_PROBLEMS]),
    )


def _write_images(
    list_writer: ListWriter, rows: list[ListedImage], ledger: Ledger, storage: Storage
) -> tuple[dict[int, str], list[str]]:
    """Paths of the written images by the number of their row, and one line for each other image."""
    numbers = {_wanted(row): number for number, row in enumerate(rows)}
    written: dict[int, str] = {}
    problems: list[str] = []
    for original in fetch_originals(numbers, ledger, storage):
        number = numbers[original.wanted]
        if original.image is None:
            problems.append(f"{rows[number].shard}: {rows[number].key} {original.problem}")
        else:
            written[number] = list_writer.add_image(number, rows[number], original.image)
    return written, problems


def _wanted(row: ListedImage) -> Wanted:
    return Wanted(row.unit_id, row.part, row.index, row.key, row.sha256)
