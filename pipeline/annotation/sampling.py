"""Sampling for annotation: a random sample of the labelled images, or the first ones in some order.

Every row gets a hash of its position and a seed. So each set of n rows is equally likely, and the same seed draws the
same rows. One pass keeps the n rows that come first; a second pass reads them in full. For ``unique`` the hash is of
the content: equal images have equal hashes, and one of them is kept.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.annotation.hashing import GOLDEN_GAMMA, mix64
from pipeline.errors import OutputError, StorageError
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName
from pipeline.trust.draw import Population, hash_images

Order = Literal["random", "disagreement", "entropy", "score"]

_PARTS_AT_ONCE = 16
_COLUMNS = "shard key index sha256 label score labels scores agreement entropy disagreement".split()
_LOWEST_FIRST = ("score",)

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image of the list.

    Attributes:
        unit_id, part: Its unit, and the number of its part.
        shard, key, index, sha256: Which image it is.
        label, score: Of the consensus.
        labels, scores: The stored top k of the consensus, best first.
        agreement, entropy, disagreement: As in the predictions.
    """

    unit_id: str
    part: int
    shard: str
    key: str
    index: int
    sha256: str | None
    label: int
    score: float
    labels: tuple[int, ...]
    scores: tuple[float, ...]
    agreement: float
    entropy: float | None
    disagreement: float | None


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Rows that may be drawn, and what they are sorted by.

    Attributes:
        value_N: float64, smaller comes first.
        hash_N: uint64, order of rows with equal values.
        part_N: int64, number of the part.
        row_N: int64, number of the row in the part.
    """

    value_N: Array
    hash_N: Array
    part_N: Array
    row_N: Array

    @classmethod
    def none(cls) -> _Candidates:
        return cls(np.zeros(0), np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.row_N)

    def take(self, rows: Array) -> _Candidates:
        return _Candidates(self.value_N[rows], self.hash_N[rows], self.part_N[rows], self.row_N[rows])

    def first(self, number: int, *, distinct: bool) -> _Candidates:
        """The rows that come first, in order; with ``distinct``, one for each hash."""
        ordered = self.take(np.lexsort((self.row_N, self.part_N, self.hash_N, self.value_N)))
        if distinct:
            _, firsts = np.unique(ordered.hash_N, return_index=True)
            ordered = ordered.take(np.sort(firsts))
        return ordered.take(np.arange(min(number, len(ordered))))

    def joined(self, other: _Candidates) -> _Candidates:
        return _Candidates(
            np.concatenate([self.value_N, other.value_N]),
            np.concatenate([self.hash_N, other.hash_N]),
            np.concatenate([self.part_N, other.part_N]),
            np.concatenate([self.row_N, other.row_N]),
        )


def sample_images(
    ledger: Ledger, fingerprint: str, number: int, order: Order, *, seed: int, unique: bool
) -> tuple[list[ListedImage], Population]:
    """Choose labelled images.

    Args:
        ledger: Of the output.
        fingerprint: Of its job.
        number: Images at most.
        order: ``random``; or the largest disagreement or entropy, or the smallest score, first.
        seed: Of the random order, and of the order of equal values.
        unique: Choose one of the images with equal bytes.

    Returns:
        The images in order, and the labelled images that they were chosen from.

    Raises:
        OutputError: A part cannot be read.
    """
    parts = ledger.prediction_parts(fingerprint)
    first, population = _Candidates.none(), Population()
    for found, hashes_N in _read_candidates(ledger, parts, order, seed, unique=unique):
        population.add(hashes_N)
        if len(first) == number and number:
            found = found.take(np.flatnonzero(found.value_N <= first.value_N[-1]))
            if order == "random":
                found = found.take(np.flatnonzero(found.hash_N <= first.hash_N[-1]))
        first = first.joined(found).first(number, distinct=unique)
    return _read_rows(ledger, parts, first), population


def _read_candidates(
    ledger: Ledger, parts: Sequence[PartName], order: Order, seed: int, *, unique: bool
) -> Iterator[tuple[_Candidates, Array]]:
    """The rows of each part, and the hashes of their images."""
    columns = ["index", "sha256", *([order] if order != "random" else [])]

    def read_one(numbered: tuple[int, PartName]) -> tuple[_Candidates, Array]:
        number, part = numbered
        table = _read_part(ledger, part, columns)
        if table["sha256"].null_count:
            table = _read_part(ledger, part, [*columns, "shard", "key"])
        rows_N = np.arange(len(table))
        if order == "random":
            value_N = np.zeros(len(table))
        else:
            value_N = table[order].cast(pa.float64()).fill_null(-np.inf).to_numpy()
            value_N = value_N if order in _LOWEST_FIRST else -value_N
        own_N = _hashes(table["index"].to_numpy(), seed, part.unit_id)
        hash_N = _content_hashes(table["sha256"], seed, own_N) if unique else own_N
        return _Candidates(value_N, hash_N, np.full(len(table), number), rows_N), hash_images(table)

    numbered = iter(enumerate(parts))
    with ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="draw") as pool:
        while batch := list(itertools.islice(numbered, _PARTS_AT_ONCE)):
            yield from pool.map(read_one, batch)


def _read_rows(ledger: Ledger, parts: Sequence[PartName], candidates: _Candidates) -> list[ListedImage]:
    found: dict[tuple[int, int], ListedImage] = {}
    for number in np.unique(candidates.part_N).tolist():
        part = parts[number]
        rows_N = candidates.row_N[candidates.part_N == number]
        table = _read_part(ledger, part, _COLUMNS).take(pa.array(rows_N))
        for row, values in zip(rows_N.tolist(), table.to_pylist(), strict=True):
            lists = {name: tuple(values[name]) for name in ("labels", "scores")}
            found[number, row] = ListedImage(part.unit_id, part.part, **values | lists)
    return [found[place] for place in zip(candidates.part_N.tolist(), candidates.row_N.tolist(), strict=True)]


def _read_part(ledger: Ledger, part: PartName, columns: list[str]) -> pa.Table:
    try:
        return ledger.read_part(PREDICTIONS, str(part), columns)
    except StorageError as error:
        raise OutputError(str(error)) from error


def _hashes(index_N: Array, seed: int, unit_id: str) -> Array:
    """A hash of each row's unit and index: uint64 (N,)."""
    return mix64(index_N.astype(np.uint64) * GOLDEN_GAMMA + _hash64(f"{seed}\n{unit_id}"))


def _content_hashes(sha256: pa.ChunkedArray, seed: int, own_N: Array) -> Array:
    """A hash of each row's content: uint64 (N,); ``own_N`` where the content is unknown."""
    known_N = sha256.is_valid().to_numpy()
    digits = pc.utf8_rpad(pc.utf8_slice_codeunits(sha256.combine_chunks().fill_null(""), 0, 16), 16, "0")
    halves = digits.cast(pa.binary()).cast(pa.binary(16))  # each of eight digits
    halves_N2 = np.frombuffer(halves.buffers()[1], np.uint64, 2 * len(halves)).reshape(-1, 2)
    mixed_N = mix64(mix64(halves_N2[:, 0] ^ _hash64(f"{seed}\ncontent")) ^ halves_N2[:, 1])
    return np.where(known_N, mixed_N, own_N)


def _hash64(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
