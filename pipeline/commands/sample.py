"""Sample: labelled images drawn at random for annotators, to learn how good the labels are.

A sample hides the consensus by default, because people who see a label tend to agree with it. A precision can be
promised only on the truth of such a sample.
"""

from __future__ import annotations

import os

from pipeline.annotation.list_writer import ListFormat
from pipeline.annotation.listing import AnnotationList, ListRequest, list_images
from pipeline.job.own_classes import classes_of_output
from pipeline.output.opening import open_ledger


def sample(
    out: str | os.PathLike[str],
    *,
    save: str | os.PathLike[str],
    num: int = 1000,
    more: int | None = None,
    format: ListFormat = "csv",
    with_labels: bool = False,
    unique: bool = False,
    seed: int = 0,
    images: bool = True,
    classes: str | os.PathLike[str] | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> AnnotationList:
    """Draw labelled images at random, without replacement, for people to label.

    Args:
        out: Directory or ``s3://`` prefix of a job's output.
        save: File of the list, or folder for FiftyOne; local or S3. An existing one is never overwritten.
        num: Number of images; all, if there are fewer.
        more: Add so many images to the list at ``save``, a CSV or Label Studio's JSON: the next ones that the same seed
            draws. What is in the list stays. ``num`` and ``format`` are not used then.
        format: ``csv`` with an empty column ``truth``; ``label-studio`` tasks, with the labelling config beside them;
            a ``fiftyone`` dataset.
        with_labels: Show the consensus, with which people tend to agree.
        unique: Draw from distinct images, by their bytes.
        seed: Another seed draws another sample.
        images: Write the images beside the list, unchanged. Only a CSV may be without images.
        classes: Own classes, as for ``label``, whose groups people may answer, too; None for those of the output, if it
            has some.
        s3_endpoint: As for ``label``.
        no_sign_request: As for ``label``.
        request_payer: As for ``label``.

    Raises:
        InputError: The file of own classes is missing or not valid.
        OutputError: It is not the output of a job, or cannot be read.
        RequestError: There is nothing to draw from, or the list cannot be written or extended.
    """
    ledger, storage = open_ledger(out, s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    taxonomy = classes_of_output(ledger.job(), None if classes is None else os.fspath(classes), storage)
    request = ListRequest(
        save,
        format,
        num,
        "random",
        seed,
        with_labels=with_labels,
        unique=unique,
        images=images,
        more=more,
        taxonomy=taxonomy,
        is_own=classes is None,
    )
    return list_images(ledger, storage, request)
