"""Choose images for annotators, and write the list with the images beside it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.annotation.choices import ListChoices
from pipeline.annotation.list_source import ListSource, write_source
from pipeline.annotation.list_writer import ListFormat, ListWriter
from pipeline.annotation.older_list import OlderList, read_older_list
from pipeline.annotation.sampling import ListedImage, Order, sample_images
from pipeline.errors import RequestError, StorageError
from pipeline.inputs.originals import Wanted, fetch_originals
from pipeline.output.ledger import Ledger
from pipeline.storage import Storage, absolute_uri
from pipeline.taxonomy.tree import Taxonomy
from pipeline.text.result import Result
from pipeline.trust.draw import Draw, parse_draw

_MOST_PROBLEMS = 5


@dataclass(frozen=True, slots=True, repr=False)
class AnnotationList(Result):
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
        added: Of the images, those that were added to an older list; None for a new list.
        groups: Groups of classes that people may answer, too.
    """

    out: str
    order: Order
    format: ListFormat
    images: int
    labelled: int
    files: tuple[str, ...]
    without_image: int
    problems: tuple[str, ...]
    added: int | None = None
    groups: int = 0


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
        more: Add so many images to the list that is there, instead of writing a new one of ``num``.
        taxonomy: Groups that people may answer, too; None for classes alone.
        is_own: Whether they are those that the output was labelled with.
    """

    save: str | os.PathLike[str]
    format: ListFormat
    num: int
    order: Order
    seed: int
    with_labels: bool
    unique: bool
    images: bool
    more: int | None = None
    taxonomy: Taxonomy | None = None
    is_own: bool = False


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
    option, number = ("-n", request.num) if request.more is None else ("--more", request.more)
    if number < 1:
        raise RequestError(f"{option} {number}: must be at least 1")
    if request.format != "csv" and not request.images:
        raise RequestError(
            f"--format {request.format} needs the images; a list without them is --format csv --no-images"
        )
    job = ledger.job()
    try:
        place = absolute_uri(os.fspath(request.save))
    except StorageError as error:
        raise RequestError(f"--save {error}") from error
    older = None if request.more is None else read_older_list(place, storage)
    list_writer = ListWriter(
        place,
        request.format if older is None else older.kind,
        ListChoices(job["class_names"], _offered_tree(older, request)),
        storage,
        with_labels=request.with_labels or (older is not None and older.with_labels),
        model_version=f"shardlabel {job['fingerprint'][:8]}",
        extends=older is not None,
    )
    if older is not None:
        return _extend(older, list_writer, ledger, storage, request)
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
    written, problems = _write_images(list_writer, 0, rows, ledger, storage) if request.images else ({}, [])
    source = ListSource(ledger.out, request.order, tuple(job["class_names"]), request.taxonomy, request.is_own)
    beside = (write_source(place, source, storage),) if request.format == "csv" else ()
    return AnnotationList(
        out=ledger.out,
        order=request.order,
        format=request.format,
        images=len(rows),
        labelled=population.labelled,
        files=(*beside, *list_writer.finish(rows, written)),
        without_image=len(problems),
        problems=tuple(problems[:_MOST_PROBLEMS]),
        groups=list_writer.num_groups,
    )


def _offered_tree(older: OlderList | None, request: ListRequest) -> Taxonomy | None:
    """The groups that are answers of the list: an older one keeps the control that its project has.

    Raises:
        RequestError: It is that of a tree, and no tree is known.
    """
    if older is None or older.with_tree is None:
        return request.taxonomy
    if older.with_tree and request.taxonomy is None:
        raise RequestError(f"--save {older.uri}: was drawn with groups of classes; give the same --classes again")
    return request.taxonomy if older.with_tree else None


def _extend(
    older: OlderList, list_writer: ListWriter, ledger: Ledger, storage: Storage, request: ListRequest
) -> AnnotationList:
    """Add images to an older list: the next ones of the same random order.

    Raises:
        RequestError: The older list is not the beginning of this order, or there are no further images.
    """
    assert request.more is not None
    rows, draw = _draw_more(older, ledger, request)
    if not rows:
        distinct = " distinct" if draw.unique else ""
        raise RequestError(f"--more {request.more}: all{distinct} images of {ledger.out} are in the list already")
    written, problems = _write_images(list_writer, older.images, rows, ledger, storage) if request.images else ({}, [])
    list_writer.drawn = str(draw)
    files = older.add(list_writer.entries(rows, written), list_writer.drawn, storage)
    return AnnotationList(
        out=ledger.out,
        order="random",
        format=older.kind,
        images=older.images + len(rows),
        labelled=draw.labelled,
        files=files,
        without_image=len(problems),
        problems=tuple(problems[:_MOST_PROBLEMS]),
        added=len(rows),
        groups=list_writer.num_groups,
    )


def _draw_more(older: OlderList, ledger: Ledger, request: ListRequest) -> tuple[list[ListedImage], Draw]:
    """The images to add, and how all images of the list were drawn.

    The older images and these are together the first ones of a random order, so they are a uniform sample, whatever the
    older ones were chosen by. That holds only if all of the older ones are among the first.
    """
    fingerprint, number = str(ledger.job()["fingerprint"]), older.images + (request.more or 0)
    draws = [draw for draw in map(parse_draw, older.drawn) if draw is not None]
    if not all(draw.is_random for draw in draws):
        raise RequestError(f"--save {older.uri}: is a list of `review`; --more adds to those of `sample` only")
    told = {(draw.seed, draw.unique) for draw in draws}
    asked = [(request.seed, request.unique), (request.seed, not request.unique)]  # people forget an option
    missing = 0
    for seed, unique in sorted(told) or asked:
        rows, population = sample_images(ledger, fingerprint, number, "random", seed=seed, unique=unique)
        new = [row for row in rows if not older.holds(row)]
        if len(rows) - len(new) == older.images:
            shown = request.with_labels or older.with_labels or any(draw.labels_shown for draw in draws)
            of = (population.labelled, str(population))
            return new, Draw("random", seed, len(rows), *of, unique=unique, labels_shown=shown)
        missing = missing or older.images - (len(rows) - len(new))
    raise RequestError(
        f"--save {older.uri}: {missing:,} of its {older.images:,} images are not among the first {number:,} that "
        f"--seed {seed} draws from {ledger.out}. Pass the --seed that drew the list; or, if images have been "
        "labelled since, a larger --more, so that the sample stays uniform"
    )


def _write_images(
    list_writer: ListWriter, first: int, rows: list[ListedImage], ledger: Ledger, storage: Storage
) -> tuple[dict[int, str], list[str]]:
    """Paths of the written images by the place of their row, and one line for each other image.

    Args:
        list_writer: Writes them.
        first: Number of the first row in the list.
        rows: Their rows.
        ledger: Of the output.
        storage: How to reach the originals.
    """
    numbers = {_wanted(row): number for number, row in enumerate(rows)}
    written: dict[int, str] = {}
    problems: list[str] = []
    for original in fetch_originals(numbers, ledger, storage):
        number = numbers[original.wanted]
        if original.image is None:
            problems.append(f"{rows[number].shard}: {rows[number].key} {original.problem}")
        else:
            written[number] = list_writer.add_image(first + number, rows[number], original.image)
    return written, problems


def _wanted(row: ListedImage) -> Wanted:
    return Wanted(row.unit_id, row.part, row.index, row.key, row.sha256)
