"""The truths that something was fitted on, in the file that holds the fit: a hash and the class of each image.

What was fitted on a truth cannot be judged by it. So a promise uses other truths. Of those that were fitted on it takes
what it knows: whether the label of these very images is right.

12 bytes an image, as base64: 16 kB for 1,000 truths, 1.6 MB for 100,000.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.errors import RequestError

JOB_KEY = "fitted_on"  # in job.json, beside the results: it does not change what the labels are
NOT_FITTED = -2  # below every class, and below the -1 of "no class fits"
_RECORD = np.dtype([("hash", ">u8"), ("label", ">i4")])

Array = np.ndarray


class FittedTruths:
    """Truths that something was fitted on.

    Args:
        hashes_T: uint64, of the images (:func:`pipeline.trust.draw.hash_images`), in any order.
        labels_T: int, their true classes.
    """

    def __init__(self, hashes_T: Array, labels_T: Array) -> None:
        self._hashes_T, first_T = np.unique(hashes_T.astype(np.uint64), return_index=True)
        self._labels_T = labels_T[first_T].astype(np.int32)

    def __len__(self) -> int:
        return len(self._hashes_T)

    def find(self, hashes_B: Array) -> Array:
        """The class that was fitted on, of each image: int32 (B,), :data:`NOT_FITTED` where there is none."""
        if not len(self):
            return np.full(len(hashes_B), NOT_FITTED, np.int32)
        places_B = np.minimum(np.searchsorted(self._hashes_T, hashes_B), len(self) - 1)
        found: Array = np.where(self._hashes_T[places_B] == hashes_B, self._labels_T[places_B], NOT_FITTED)
        return found.astype(np.int32)

    def encode(self) -> str:
        """As text."""
        records = np.empty(len(self), _RECORD)
        records["hash"], records["label"] = self._hashes_T, self._labels_T
        return base64.b64encode(records.tobytes()).decode()

    @classmethod
    def decode(cls, text: str, source: str) -> FittedTruths:
        """Read what :meth:`encode` wrote.

        Args:
            text: That.
            source: Where it was read from.

        Raises:
            RequestError: It is something else.
        """
        try:
            records = np.frombuffer(base64.b64decode(text, validate=True), _RECORD)
        except (ValueError, binascii.Error) as error:
            raise RequestError(
                f"{source}: what it says about the truths it was fitted on is damaged: {error}"
            ) from None
        return cls(records["hash"].astype(np.uint64), records["label"].astype(np.int32))


NOTHING_FITTED = FittedTruths(np.zeros(0, np.uint64), np.zeros(0, np.int32))


def fitted_truths(job: Mapping[str, Any], source: str) -> FittedTruths | None:
    """The truths that the labels of an output depend on.

    Args:
        job: ``job.json`` of the output.
        source: The output.

    Returns:
        None if something was fitted that does not tell on what: a calibration of an earlier version.

    Raises:
        RequestError: ``job.json`` is damaged.
    """
    if JOB_KEY in job:
        return FittedTruths.decode(str(job[JOB_KEY]), source)
    return None if job.get("calibrated") else NOTHING_FITTED


def held_out_mask(hashes_N: Array, share: float) -> Array:
    """Which images to hold out of a fit: bool (N,), about this share of them, the same ones in every run.

    Args:
        hashes_N: uint64, of the images.
        share: 0-1.
    """
    return np.fromiter((_is_held_out(number, share) for number in hashes_N.tolist()), bool, len(hashes_N))


def _is_held_out(number: int, share: float) -> bool:
    digest = hashlib.blake2b(number.to_bytes(8, "big"), digest_size=8, person=b"hold-out").digest()
    return int.from_bytes(digest, "big") < share * 2.0**64
