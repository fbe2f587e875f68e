"""Keys of a truth file, and the images of an output that they name.

People write keys otherwise than the output has them: Windows puts backslashes for slashes, listings put ``./`` before
them, and loose images keep the extension that keys in shards do not have. So a key is looked up as it is; then with
slashes for backslashes and without a leading ``./``, on both sides; then without the extension of an image, on one
side. Which of these found an image is its level. Of all images that a key finds, those of the lowest level count: a key
that is there as it is names nothing else.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.records import IMAGE_EXTENSIONS

NUM_LEVELS = 3
_SEPARATOR = "\n"  # between shard and key: neither holds one
_BEFORE = rf"(^|{_SEPARATOR})(?:\./)+"
_EXTENSION = rf"(?i)([^/{_SEPARATOR}])\.(?:{'|'.join(sorted(IMAGE_EXTENSIONS))})$"

Array = np.ndarray


class KeyIndex:
    r"""Finds the row of a truth file that an image's key names, in memory proportional to the file alone.

    Args:
        keys: Of the T rows, each once; ``SHARD\nKEY`` where there are shards.
        labels_T: int, their labels: rows that become the same by another spelling must agree.
    """

    def __init__(self, keys: pa.Array, labels_T: Array) -> None:
        self._keys = keys
        rows = np.arange(len(keys))
        plain = _plain(keys)
        self._plain = (keys, rows) if plain.equals(keys) else _distinct(plain, rows, labels_T)
        stems = _without_extension(plain)
        shortened = pc.not_equal(stems, plain).to_numpy(zero_copy_only=False)
        self._stems = _distinct(stems.filter(pa.array(shortened)), rows[shortened], labels_T)
        self._some_without_extension = not shortened.all()

    def find(self, images: pa.Array) -> tuple[Array, Array]:
        """The row of each of B images, int64 (B,), -1 where there is none; and its level, int64 (B,).

        Args:
            images: Keys in the form of the truth's.
        """
        rows_B = _index_in(images, self._keys)
        levels_B = np.zeros(len(images), np.int64)
        left = np.flatnonzero(rows_B < 0)
        if len(left) and len(self._keys):
            plain = _plain(images.take(pa.array(left)))
            self._add(rows_B, levels_B, left, plain, self._plain, 1)
            self._add(rows_B, levels_B, left, plain, self._stems, 2)
            if self._some_without_extension:  # not so for a list of loose images, as a rule
                self._add(rows_B, levels_B, left, _without_extension(plain), self._plain, 2)
        return rows_B, levels_B

    @staticmethod
    def _add(
        rows_B: Array, levels_B: Array, left: Array, spelled: pa.Array, known: tuple[pa.Array, Array], level: int
    ) -> None:
        """Add what the images that are left find under another spelling, unless they have found a row meanwhile."""
        at = _index_in(spelled, known[0])
        found = (at >= 0) & (rows_B[left] < 0)
        rows_B[left[found]] = known[1][at[found]]
        levels_B[left[found]] = level


def _index_in(values: pa.Array, known: pa.Array) -> Array:
    found: Array = pc.index_in(values, value_set=known).fill_null(-1).to_numpy()
    return found.astype(np.int64)


def _plain(keys: pa.Array) -> pa.Array:
    for sign in ("\\", "./"):  # rare, and much faster to find than to replace
        if pc.any(pc.match_substring(keys, sign)).as_py():
            return pc.replace_substring_regex(pc.replace_substring(keys, "\\", "/"), _BEFORE, r"\1")
    return keys


def _without_extension(keys: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(keys, _EXTENSION, r"\1")


def _distinct(spelled: pa.Array, rows: Array, labels_T: Array) -> tuple[pa.Array, Array]:
    """Each spelling once, and the first of its rows; spellings whose rows have different labels are left out."""
    if not len(spelled):
        return pa.array([], pa.string()), np.zeros(0, np.int64)
    encoded = spelled.dictionary_encode()
    codes = encoded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    labels = labels_T[rows][order]
    agreed = np.minimum.reduceat(labels, starts) == np.maximum.reduceat(labels, starts)
    return encoded.dictionary.filter(pa.array(agreed)), rows[order][starts][agreed]
