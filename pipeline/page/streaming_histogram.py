"""Histograms that are filled batch by batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_RESOLUTION = 400

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Histogram:
    """Distribution of a value over the images.

    Attributes:
        low, high: Range of the value.
        counts_B: int64, images in 400 bins of equal width over this range.
        total: Sum of the values.
    """

    low: float
    high: float
    counts_B: Array
    total: float

    @property
    def images(self) -> int:
        """Images that have the value."""
        return int(self.counts_B.sum())

    @property
    def mean(self) -> float:
        """Mean of the value over these images."""
        return self.total / max(1, self.images)

    def quantile(self, share: float) -> float:
        """The value that a share (0-1) of the images is below, to within a bin."""
        bin_ = int(np.searchsorted(self.counts_B.cumsum(), share * self.images))
        return self.low + (self.high - self.low) * min(bin_ + 0.5, _RESOLUTION) / _RESOLUTION

    def bins(self, num_bins: int) -> tuple[Array, Array]:
        """Edges (B + 1,) and images (B,) of fewer bins; their number must divide 400."""
        edges = np.linspace(self.low, self.high, num_bins + 1)
        return edges, self.counts_B.reshape(num_bins, -1).sum(axis=1)


class HistogramBuilder:
    """Fills a histogram from 0 to ``high``; values outside, by rounding, count for the bin at the end."""

    def __init__(self, high: float) -> None:
        self._high = high if high > 0 else 1.0
        self._counts_B = np.zeros(_RESOLUTION, np.int64)
        self._total = 0.0

    def add(self, values_B: Array) -> None:
        """Count values, float64 (B,); NaN is left out."""
        known_B = np.clip(values_B[~np.isnan(values_B)], 0, self._high)
        bins_B = np.minimum((known_B / self._high * _RESOLUTION).astype(np.intp), _RESOLUTION - 1)
        self._counts_B += np.bincount(bins_B, minlength=_RESOLUTION)
        self._total += float(known_B.sum())

    def build(self) -> Histogram:
        """The histogram of all values."""
        return Histogram(0.0, self._high, self._counts_B, self._total)
