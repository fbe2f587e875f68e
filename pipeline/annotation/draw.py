"""Which images people are asked about: a random sample, or those that come first in some order.

Every row gets a hash of its place and a seed, so that each set of n rows is as likely as any other, and a second draw
with the seed gives the same ones. One pass keeps the n rows that come first; a second one reads those in full. With
hashes of the content in place of the row's, equal images have one hash, and one of them is kept.
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

from pipeline.errors import OutputError, StorageError
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName

Order = Literal["random", "disagreement", "entropy", "score"]

_PARTS_AT_ONCE = 16
_COLUMNS = "shard key index sha256 label score labels scores agreement entropy disagreement".split()
_LOWEST_FIRST = ("score",)

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Drawn:
    """A row that was drawn.

    Attributes:
        unit_id, part: Of the part that holds it.
        shard, key, index, sha256: Which image it is.
        label, score: Of the consensus.
        labels, scores: The stored top of the consensus, best first.
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
class _Places:
    """Where some rows are, and what they are ordered by.

    Attributes:
        value_N: float64, smaller comes first.
        hash_N: uint64, decides between equal values.
        part_N: int64, which of the parts.
        row_N: int64, which row of the part.
    """

    value_N: Array
    hash_N: Array
    part_N: Array
    row_N: Array

    @classmethod
    def none(cls) -> _Places:
        return cls(np.zeros(0), np.zeros(0, np.uint64), np.zeros(0, np.int64), np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.row_N)

    def take(self, rows: Array) -> _Places:
        return _Places(self.value_N[rows], self.hash_N[rows], self.part_N[rows], self.row_N[rows])

    def first(self, number: int, *, distinct: bool) -> _Places:
        """The rows that come first, in order; with distinct, one for each hash."""
        ordered = self.take(np.lexsort((self.row_N, self.part_N, self.hash_N, self.value_N)))
        if distinct:
            _, firsts = np.unique(ordered.hash_N, return_index=True)
            ordered = ordered.take(np.sort(firsts))
        return ordered.take(np.arange(min(number, len(ordered))))

    def joined(self, other: _Places) -> _Places:
        return _Places(
            np.concatenate([self.value_N, other.value_N]),
            np.concatenate([self.hash_N, other.hash_N]),
            np.concatenate([self.part_N, other.part_N]),
            np.concatenate([self.row_N, other.row_N]),
        )


def draw(
    ledger: Ledger, fingerprint: str, number: int, order: Order, *, seed: int, unique: bool
) -> tuple[list[Drawn], int]:
    """Draw labelled images.

    Args:
        ledger: Of the output.
        fingerprint: Of its job.
        number: How many, at most.
        order: ``random``; or the ones with the largest disagreement or entropy, or with the smallest score.
        seed: Other seeds draw other rows, and order equal ones differently.
        unique: Of images with equal bytes, only one.

    Returns:
        The rows in order, and how many labelled images there are.

    Raises:
        OutputError: A part cannot be read.
    """
    parts = _parts(ledger, fingerprint)
    first, population = _Places.none(), 0
    for found in _read(ledger, parts, order, seed, unique=unique):
        population += len(found)
        if len(first) == number and number:
            found = found.take(np.flatnonzero(found.value_N <= first.value_N[-1]))
            if order == "random":
                found = found.take(np.flatnonzero(found.hash_N <= first.hash_N[-1]))
        first = first.joined(found).first(number, distinct=unique)
    return _in_full(ledger, parts, first), population


def _parts(ledger: Ledger, fingerprint: str) -> list[str]:
    """Names of the job's predictions parts, sorted."""
    parsed = ((name, PartName.parse(name)) for name in ledger.names(PREDICTIONS))
    return sorted(name for name, part in parsed if part is not None and part.fingerprint == fingerprint[:8])


def _read(ledger: Ledger, parts: Sequence[str], order: Order, seed: int, *, unique: bool) -> Iterator[_Places]:
    columns = ["index", *(["sha256"] if unique else []), *([order] if order != "random" else [])]

    def places(numbered: tuple[int, str]) -> _Places:
        number, name = numbered
        table = _table(ledger, name, columns)
        rows_N = np.arange(len(table))
        if order == "random":
            value_N = np.zeros(len(table))
        else:
            value_N = table[order].cast(pa.float64()).fill_null(-np.inf).to_numpy()
            value_N = value_N if order in _LOWEST_FIRST else -value_N
        own_N = _hashes(table["index"].to_numpy(), seed, _unit(name))
        hash_N = _content_hashes(table["sha256"], seed, own_N) if unique else own_N
        return _Places(value_N, hash_N, np.full(len(table), number), rows_N)

    numbered = iter(enumerate(parts))
    with ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="draw") as pool:
        while batch := list(itertools.islice(numbered, _PARTS_AT_ONCE)):
            yield from pool.map(places, batch)


def _in_full(ledger: Ledger, parts: Sequence[str], places: _Places) -> list[Drawn]:
    found: dict[tuple[int, int], Drawn] = {}
    for number in np.unique(places.part_N).tolist():
        parsed = PartName.parse(parts[number])
        assert parsed is not None
        rows_N = places.row_N[places.part_N == number]
        table = _table(ledger, parts[number], _COLUMNS).take(pa.array(rows_N))
        for row, values in zip(rows_N.tolist(), table.to_pylist(), strict=True):
            lists = {name: tuple(values[name]) for name in ("labels", "scores")}
            found[number, row] = Drawn(parsed.unit_id, parsed.part, **values | lists)
    return [found[place] for place in zip(places.part_N.tolist(), places.row_N.tolist(), strict=True)]


def _table(ledger: Ledger, name: str, columns: list[str]) -> pa.Table:
    try:
        return ledger.read_part(PREDICTIONS, name, columns)
    except StorageError as error:
        raise OutputError(str(error)) from error


def _unit(name: str) -> str:
    parsed = PartName.parse(name)
    assert parsed is not None
    return parsed.unit_id


def _hashes(index_N: Array, seed: int, unit_id: str) -> Array:
    """A hash of each row's place: its unit and its index in it."""
    return _mixed(index_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _word(f"{seed}\n{unit_id}"))


def _content_hashes(sha256: pa.ChunkedArray, seed: int, own_N: Array) -> Array:
    """A hash of each row's content; of its place where the content is not known."""
    known_N = sha256.is_valid().to_numpy()
    digits = pc.utf8_rpad(pc.utf8_slice_codeunits(sha256.combine_chunks().fill_null(""), 0, 16), 16, "0")
    halves = digits.cast(pa.binary()).cast(pa.binary(16))  # each of eight digits
    halves_N2 = np.frombuffer(halves.buffers()[1], np.uint64, 2 * len(halves)).reshape(-1, 2)
    mixed_N = _mixed(_mixed(halves_N2[:, 0] ^ _word(f"{seed}\ncontent")) ^ halves_N2[:, 1])
    return np.where(known_N, mixed_N, own_N)


def _word(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


def _mixed(words_N: Array) -> Array:
    """Each bit of the result depends on all bits of a word, one to one.

    Source: the output function of SplitMix64; Steele, Lea & Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014.
    """
    words_N = (words_N ^ (words_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words_N = (words_N ^ (words_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_N: Array = words_N ^ (words_N >> np.uint64(31))
    return mixed_N
