"""Throughput over time, from the times at which parts were published.

The start and the end of a run are not on disk. So the first part, and the first after a pause, count for the total but
not for the rate: how long they took is unknown. Copying an output resets all times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.output.ledger import PREDICTIONS, Ledger

# A gap is a pause when it is longer than both: labelers publish in bursts, and large parts take minutes.
_PAUSE_S = 60.0
_PAUSE_FACTOR = 10.0
_MIN_PARTS, _MIN_S = 3, 1.0  # for a rate
_PARTS_PER_BIN, _MIN_BINS, _MAX_BINS = 8, 4, 48

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Timeline:
    """Images done over time.

    Attributes:
        first_s, last_s: First and last publication, Unix seconds; 0 without parts.
        seconds_T: float64, time of each publication in seconds since the first one, ascending.
        images_T: int64, images done by then, cumulative.
        pauses: Start and end of each pause in seconds since the first publication.
        images_per_s: From first to last publication without pauses; None for too few parts.
        bins: Start and end (seconds) and images per second of intervals of equal length; empty for too few parts.
    """

    first_s: float
    last_s: float
    seconds_T: Array
    images_T: Array
    pauses: tuple[tuple[float, float], ...]
    images_per_s: float | None
    bins: tuple[tuple[float, float, float], ...]


def read_timeline(ledger: Ledger, images: Mapping[str, int]) -> Timeline:
    """When the parts of an output were published.

    Args:
        ledger: Of the output.
        images: Samples of each part, labelled and quarantined, by the part's name.
    """
    listed = [(entry.modified_s, images[name]) for name, entry in ledger.listing(PREDICTIONS) if name in images]
    return timeline(np.array([when for when, _ in listed], np.float64), np.array([many for _, many in listed]))


def timeline(times_T: Array, counts_T: Array) -> Timeline:
    """Sort publications, and find pauses and rates.

    Args:
        times_T: float64, Unix seconds, in any order.
        counts_T: int64, images of each.
    """
    if not len(times_T):
        return Timeline(0.0, 0.0, np.zeros(0), np.zeros(0, np.int64), (), None, ())
    order = np.argsort(times_T, kind="stable")
    seconds_T, counts_T = times_T[order] - times_T[order[0]], counts_T[order].astype(np.int64)
    gaps = np.diff(seconds_T)
    paused = gaps > max(_PAUSE_S, _PAUSE_FACTOR * float(np.median(gaps))) if len(gaps) else gaps > 0
    at_work_s = float(gaps[~paused].sum())
    rate = None
    if len(seconds_T) >= _MIN_PARTS and at_work_s >= _MIN_S:
        rate = float(counts_T[1:][~paused].sum()) / at_work_s
    return Timeline(
        first_s=float(times_T[order[0]]),
        last_s=float(times_T[order[-1]]),
        seconds_T=seconds_T,
        images_T=counts_T.cumsum(),
        pauses=tuple((float(seconds_T[at]), float(seconds_T[at + 1])) for at in np.flatnonzero(paused)),
        images_per_s=rate,
        bins=_bins(seconds_T[1:], counts_T[1:]) if rate is not None else (),
    )


def _bins(seconds_T: Array, counts_T: Array) -> tuple[tuple[float, float, float], ...]:
    num_bins = min(_MAX_BINS, len(seconds_T) // _PARTS_PER_BIN)
    if num_bins < _MIN_BINS:
        return ()
    edges = np.linspace(0, seconds_T[-1], num_bins + 1)
    bins_T = np.clip(np.searchsorted(edges, seconds_T, side="left") - 1, 0, num_bins - 1)
    images = np.bincount(bins_T, weights=counts_T, minlength=num_bins)
    width = float(edges[1])
    return tuple(
        (float(low), float(high), float(many) / width)
        for low, high, many in zip(edges[:-1], edges[1:], images, strict=True)
    )
