"""The size of a job before it is planned, roughly."""

from __future__ import annotations

import itertools

from pipeline.engines.choice import SMALL_JOB_IMAGES
from pipeline.inputs.find import Inputs

USUAL_IMAGE_BYTES = 100_000


def is_small_job(inputs: Inputs, limit: int | None) -> bool:
    """Whether a job is done before Ray would have started. At most a few thousand images are listed for it.

    Args:
        inputs: What was found.
        limit: Samples to label at most; None for all.
    """
    if limit is not None and limit <= SMALL_JOB_IMAGES:
        return True
    in_tars = sum(max(0, tar.size_bytes) for tar in inputs.tars.values()) // USUAL_IMAGE_BYTES
    listed = itertools.chain.from_iterable(listing for _, listing in inputs.loose)
    return in_tars + sum(1 for _ in itertools.islice(listed, SMALL_JOB_IMAGES + 1)) <= SMALL_JOB_IMAGES
