"""Sample and review: which images people should label, to learn how good labels are, and to mend the doubtful ones.

A sample is drawn at random, and does not show what the consensus says, unless asked to: whoever sees a label tends to
agree with it. It is what precision can be promised on. A review list has the most doubtful images first, with labels;
it is no fair sample, and no truth to evaluate on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.errors import RequestError, StorageError
from pipeline.ledger import Ledger, open_output
from pipeline.originals import Wanted, fetch
from pipeline.storage import Storage, absolute_uri
from pipeline.trust.draw import Drawn, Order, draw
from pipeline.worklist import ListFormat, Worklist

_MOST_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class Listed:
    """A list that was written.

    Attributes:
        out: The output that it was drawn from.
        order: What comes first.
        format: Of the list.
        images: Entries of the list, those without their image included.
        labelled: Labelled images that it was drawn from.
        files: The list, and what belongs to it, but for images.
        without_image: Entries whose image cannot be had any more. A CSV names them without one; other lists leave
            them out.
        problems: Some of the reasons, one line each.
    """

    out: str
    order: Order
    format: ListFormat
    images: int
    labelled: int
    files: tuple[str, ...]
    without_image: int
    problems: tuple[str, ...]


def sample(
    out: str | os.PathLike[str],
    *,
    save: str | os.PathLike[str],
    num: int = 1000,
    format: ListFormat = "csv",
    with_labels: bool = False,
    unique: bool = False,
    seed: int = 0,
    images: bool = True,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
) -> Listed:
    """Draw labelled images at random, without replacement, for people to label.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        save: File that the list is written to, or folder for FiftyOne; local or S3. One that is there is kept.
        num: How many images; all, where there are fewer.
        format: ``csv`` with an empty column ``truth``; ``label-studio`` tasks, with the labelling config beside them;
            a ``fiftyone`` dataset.
        with_labels: Show what the consensus says, which people tend to agree with.
        unique: Draw from distinct images, by their bytes.
        seed: Another seed draws another sample.
        images: Write the images beside the list, unchanged. Only a CSV can do without.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read.
        RequestError: There is nothing to draw from, or the list cannot be written.
    """
    ledger, storage = open_output(out, s3_endpoint, no_sign_request=no_sign_request)
    return _listed(
        ledger, storage, save, format, num, "random", seed, with_labels=with_labels, unique=unique, images=images
    )


def review(
    out: str | os.PathLike[str],
    *,
    save: str | os.PathLike[str],
    num: int = 200,
    order: Order = "disagreement",
    format: ListFormat = "csv",
    unique: bool = False,
    seed: int = 0,
    images: bool = True,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
) -> Listed:
    """List the images that people should look at first, with their labels.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        save: As for :func:`sample`.
        num: How many images.
        order: Largest ``disagreement`` or ``entropy`` first, smallest ``score`` first, or ``random``.
        format: As for :func:`sample`.
        unique: List images with equal bytes once.
        seed: Decides between equal images.
        images: As for :func:`sample`.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.

    Raises:
        OutputError: It is not the output of a job, or cannot be read.
        RequestError: There is nothing to list, or the list cannot be written.
    """
    ledger, storage = open_output(out, s3_endpoint, no_sign_request=no_sign_request)
    return _listed(ledger, storage, save, format, num, order, seed, with_labels=True, unique=unique, images=images)


def _listed(
    ledger: Ledger,
    storage: Storage,
    save: str | os.PathLike[str],
    kind: ListFormat,
    num: int,
    order: Order,
    seed: int,
    *,
    with_labels: bool,
    unique: bool,
    images: bool,
) -> Listed:
    if num < 1:
        raise RequestError(f"-n {num}: at least one image must be asked for")
    if kind != "csv" and not images:
        raise RequestError(f"--format {kind} needs the images; a list without them is --format csv --no-images")
    job = ledger.job()
    try:
        place = absolute_uri(os.fspath(save))
    except StorageError as error:
        raise RequestError(f"--save {error}") from error
    worklist = Worklist(
        place,
        kind,
        job["class_names"],
        storage,
        with_labels=with_labels,
        model_version=f"shardlabel {job['fingerprint'][:8]}",
    )
    rows, labelled = draw(ledger, str(job["fingerprint"]), num, order, seed=seed, unique=unique)
    if not rows:
        raise RequestError(f"{ledger.out}: no image is labelled yet; there is nothing to draw from")
    written, problems = _write_images(worklist, rows, ledger, storage) if images else ({}, [])
    return Listed(
        out=ledger.out,
        order=order,
        format=kind,
        images=len(rows),
        labelled=labelled,
        files=worklist.finish(rows, written),
        without_image=len(problems),
        problems=tuple(problems[:_MOST_PROBLEMS]),
    )


def _write_images(
    worklist: Worklist, rows: list[Drawn], ledger: Ledger, storage: Storage
) -> tuple[dict[int, str], list[str]]:
    """Places of the images by the number of their row, and why others have none."""
    numbers = {_wanted(row): number for number, row in enumerate(rows)}
    written: dict[int, str] = {}
    problems: list[str] = []
    for original in fetch(numbers, ledger, storage):
        number = numbers[original.wanted]
        if original.image is None:
            problems.append(f"{rows[number].shard}: {rows[number].key} {original.problem}")
        else:
            written[number] = worklist.add_image(number, rows[number], original.image)
    return written, problems


def _wanted(row: Drawn) -> Wanted:
    return Wanted(row.unit_id, row.part, row.index, row.key, row.sha256)
