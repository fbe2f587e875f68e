"""A hash of 64-bit numbers, by which rows are drawn at random and the same way in every run."""

from __future__ import annotations

import numpy as np

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)  # the increment of SplitMix64: neighbouring numbers become unlike

Array = np.ndarray


def mix64(numbers_N: Array) -> Array:
    """Mix the bits of uint64 numbers, one to one: each bit of the result depends on all bits of a number.

    Source: the output function of SplitMix64; Steele, Lea & Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014.
    """
    mixed_N: Array = (numbers_N ^ (numbers_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed_N = (mixed_N ^ (mixed_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_N ^= mixed_N >> np.uint64(31)
    return mixed_N
