"""Stored probabilities: what a job with ``--keep-probs`` publishes beside each part, and how it is read again.

::

    probabilities/MEMBER/part-FFFFFFFF-UUUUUUUUUUUUUUUU-00003.parquet      of the part of this name in predictions

The rows are those of the predictions part, in its order. One file a member, so that any of them can be used alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ObjectDamaged, ObjectMissing, RequestError
from pipeline.output.ledger import JOB, PREDICTIONS, PROBABILITIES, QUARANTINE, Ledger
from pipeline.output.parts import DAMAGE, METADATA_KEY, PartName
from pipeline.output.shapes import WholeJobShape, check_shape
from pipeline.records import QUARANTINE_SCHEMA, Cursor

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Source:
    """An output whose probabilities are used again. Inert, so that it travels.

    Attributes:
        out: Where it is.
        fingerprint: Of its job.
        aliases: Of the members that are used, as they are called there.
    """

    out: str
    fingerprint: str
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberProbs:
    """What one member said of B images, as it is stored.

    Attributes:
        labels_Bk: int32, its own top k, best first.
        scores_Bk: float32, their probabilities.
        energy_B: float32, logsumexp of its logits.
        probs_BK: float16, all probabilities.
    """

    labels_Bk: Array
    scores_Bk: Array
    energy_B: Array
    probs_BK: Array

    def take(self, rows: slice | Array) -> MemberProbs:
        """Some of the images."""
        return MemberProbs(self.labels_Bk[rows], self.scores_Bk[rows], self.energy_B[rows], self.probs_BK[rows])


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part that is published, read back.

    Attributes:
        name: Its name.
        first_index: Index of its first sample.
        next: Where the part after it starts.
        predictions: What was said of the labelled samples.
        rejected: Its rows of the quarantine; None where there are none.
        words: What each member said of the labelled samples, by alias.
    """

    name: PartName
    first_index: int
    next: Cursor
    predictions: pa.Table
    rejected: pa.Table | None
    words: dict[str, MemberProbs]


def aliases_kept(job: Mapping[str, Any]) -> tuple[str, ...]:
    """Aliases of the members whose probabilities an output holds.

    Args:
        job: Its ``job.json``.
    """
    results = job.get("results", {})
    return tuple(member["alias"] for member in results["members"]) if results.get("keep_probs") else ()


def source_of(ledger: Ledger, job: Mapping[str, Any]) -> Source:
    """What is stored of an output.

    Args:
        ledger: Of the output.
        job: Its ``job.json``.

    Raises:
        RequestError: Nothing is, or ``job.json`` does not tell how it was made.
    """
    aliases = aliases_kept(job)
    if not aliases:
        raise RequestError(f"{ledger.out}: holds no probabilities; they are stored by `label` with --keep-probs")
    check_shape(WholeJobShape, ledger.uri(JOB), job)
    return Source(ledger.out, str(job["fingerprint"]), aliases)


def probabilities_table(index_N: Array, probs_NK: Array) -> pa.Table:
    """A member's probabilities as they are written.

    Args:
        index_N: int64, of the samples.
        probs_NK: float16.
    """
    lists = pa.FixedSizeListArray.from_arrays(pa.array(probs_NK.reshape(-1)), probs_NK.shape[1])
    return pa.table({"index": pa.array(index_N, pa.int64()), "probs": lists})


def read_probabilities(ledger: Ledger, alias: str, name: PartName, num_classes: int, index_N: Array) -> Array:
    """A member's probabilities for the rows of a predictions part.

    Args:
        ledger: Of the output.
        alias: Of the member there.
        name: Of the part.
        num_classes: K.
        index_N: The column ``index`` of the predictions part.

    Returns:
        float16, (N, K).

    Raises:
        ObjectMissing: There is no such file.
        ObjectDamaged: It is not what was published, or belongs to something else.
        StorageError: It cannot be read.
    """
    folder = f"{PROBABILITIES}/{alias}"
    uri = ledger.uri(folder, str(name))
    table = ledger.read_part(folder, str(name))
    try:
        about = json.loads((table.schema.metadata or {})[METADATA_KEY])
        said = (about["member"], str(about["fingerprint"])[:8], about["unit"], about["part"], about["last"])
        lists = table["probs"].combine_chunks()
        kind, own_N = lists.type, table["index"].to_numpy()
        probs_NK: Array = lists.flatten().to_numpy().reshape(len(table), kind.list_size)
    except DAMAGE as error:
        raise ObjectDamaged(f"{uri}: no probabilities of shardlabel: {error!r}") from error
    if said != (alias, name.fingerprint[:8], name.unit_id, name.part, name.last):
        raise ObjectDamaged(f"{uri}: holds another part's or member's probabilities under this name")
    if probs_NK.dtype != np.float16 or probs_NK.shape[1] != num_classes:
        raise ObjectDamaged(f"{uri}: holds {kind}, not float16 for each of {num_classes} classes")
    if not np.array_equal(own_N, index_N):
        raise ObjectDamaged(f"{uri}: its {len(own_N)} rows are not the {len(index_N)} of {PREDICTIONS}/{name}")
    return probs_NK


def read_stored(ledger: Ledger, source: Source, name: PartName, num_classes: int) -> StoredPart:
    """A part with all that its members said.

    Args:
        ledger: Of the output.
        source: What is used of it.
        name: Of the part.
        num_classes: K.

    Raises:
        StorageError: A file of it is missing, damaged, or cannot be read.
    """
    footer = ledger.footer(PREDICTIONS, str(name))
    table = ledger.read_part(PREDICTIONS, str(name)).replace_schema_metadata()
    rejected = None
    with contextlib.suppress(ObjectMissing):
        rejected = ledger.read_part(QUARANTINE, str(name), QUARANTINE_SCHEMA.names)
    index_N = table["index"].to_numpy()
    words = {}
    try:
        members = table["members"].combine_chunks()
        for alias in source.aliases:
            own = members.field(alias)
            labels_Nk, scores_Nk = (lists_of(own.field(column), len(table)) for column in ("labels", "scores"))
            energy_N = own.field("energy").to_numpy()
            probs_NK = read_probabilities(ledger, alias, name, num_classes, index_N)
            words[alias] = MemberProbs(labels_Nk, scores_Nk, energy_N, probs_NK)
    except DAMAGE as error:
        raise ObjectDamaged(f"{ledger.uri(PREDICTIONS, str(name))}: damaged: {error!r}") from error
    return StoredPart(name, footer.first_index, footer.next, table, rejected, words)


def lists_of(lists: pa.ListArray, num_rows: int) -> Array:
    """Lists of one length as (N, k)."""
    values: Array = lists.flatten().to_numpy()
    return values.reshape(num_rows, -1) if num_rows else values.reshape(0, 1)
