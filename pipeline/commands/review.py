"""Review: the most doubtful images first, with their labels, for annotators to correct.

It is no random sample, and its truth must not be used to evaluate: see :mod:`pipeline.commands.sample`.
"""

from __future__ import annotations

import os

from pipeline.annotation.list_writer import ListFormat
from pipeline.annotation.listing import AnnotationList, ListRequest, list_images
from pipeline.annotation.sampling import Order
from pipeline.job.own_classes import classes_of_output
from pipeline.output.opening import open_ledger


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
    classes: str | os.PathLike[str] | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> AnnotationList:
    """List the images that people should look at first, with their labels.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        save: As for :func:`sample`.
        num: Number of images.
        order: Largest ``disagreement`` or ``entropy`` first, smallest ``score`` first, or ``random``.
        format: As for :func:`sample`.
        unique: List images with equal bytes once.
        seed: Decides between equal images.
        images: As for :func:`sample`.
        classes: As for :func:`sample`.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.
        request_payer: As for ``label``.

    Raises:
        InputError: The file of own classes is missing or not valid.
        OutputError: It is not the output of a job, or cannot be read.
        RequestError: There is nothing to list, or the list cannot be written.
    """
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    taxonomy = classes_of_output(ledger.job(), None if classes is None else os.fspath(classes), storage)
    request = ListRequest(
        save,
        format,
        num,
        order,
        seed,
        with_labels=True,
        unique=unique,
        images=images,
        taxonomy=taxonomy,
        is_own=classes is None,
    )
    return list_images(ledger, storage, request)
