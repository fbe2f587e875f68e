"""Stored probabilities: what a job with ``--keep-probs`` publishes beside each part, and how to read it.

::

    probabilities/MEMBER/part-FFFFFFFF-UUUUUUUUUUUUUUUU-00003.parquet      for the part of this name in predictions

The rows are those of the predictions part, in its order. Each member has its own file, so that it can be used alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.columns import QUARANTINE_SCHEMA
from pipeline.errors import ObjectDamaged, ObjectMissing, RequestError
from pipeline.output.ledger import JOB, PREDICTIONS, PROBABILITIES, QUARANTINE, Ledger
from pipeline.output.parts import METADATA_KEY, PARSE_ERRORS, PartName
from pipeline.output.schemas import WholeJobShape, check_shape
from pipeline.records import Counted, Cursor, Omitted

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class StoredProbs:
    """The stored probabilities of an output. Plain data, so that it can be sent to workers.

    Attributes:
        out: Directory or ``s3://`` prefix of the output.
        fingerprint: Fingerprint of its job.
        aliases: Aliases, in that output, of the members to use; none to use the stored top k alone.
    """

    out: str
    fingerprint: str
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemberProbs:
    """The stored predictions of one member for B images.

    Attributes:
        labels_Bk: int32, (B, k), its top-k classes, best first.
        scores_Bk: float32, (B, k), their probabilities, 0-1.
        energy_B: float32, (B,), logsumexp of its logits.
        probs_BK: float16, (B, K), the probabilities of all classes, 0-1.
    """

    labels_Bk: Array
    scores_Bk: Array
    energy_B: Array
    probs_BK: Array

    def take(self, rows: slice | Array) -> MemberProbs:
        """Select some of the images."""
        return MemberProbs(self.labels_Bk[rows], self.scores_Bk[rows], self.energy_B[rows], self.probs_BK[rows])


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A published part, read back.

    Attributes:
        name: Name of the part.
        first_index: Index of its first sample.
        next: Where the part after it starts.
        predictions: Its rows in predictions.
        rejected: Its rows in quarantine; None if there are none.
        member_probs: The predictions of each member for the labelled samples, by alias.
        truths_not_understood: Of the labelled samples, those whose ``.cls`` names no class.
        omitted: What lies among its samples in the input and has no row.
    """

    name: PartName
    first_index: int
    next: Cursor
    predictions: pa.Table
    rejected: pa.Table | None
    member_probs: dict[str, MemberProbs]
    truths_not_understood: Counted
    omitted: Omitted


def stored_aliases(job: Mapping[str, Any]) -> tuple[str, ...]:
    """Aliases of the members whose probabilities an output holds; empty if it holds none.

    Args:
        job: ``job.json`` of the output.
    """
    results = job.get("results", {})
    return tuple(member["alias"] for member in results["members"]) if results.get("keep_probs") else ()


def find_stored_top_k(ledger: Ledger, job: Mapping[str, Any]) -> StoredProbs:
    """The output as a source of its top k alone, which every output has.

    Args:
        ledger: The output.
        job: Its ``job.json``.

    Raises:
        OutputError: ``job.json`` does not tell how it was made.
    """
    check_shape(WholeJobShape, ledger.uri(JOB), job)
    return StoredProbs(ledger.out, str(job["fingerprint"]), ())


def combined_from(job: Mapping[str, Any]) -> str:
    """The output with probabilities that an output was combined from, by its ``job.json``; empty for others."""
    source = job.get("combined_from")
    found = source.get("out") if isinstance(source, dict) and len(job["results"]["members"]) > 1 else None
    return found if isinstance(found, str) else ""


def find_stored_probs(ledger: Ledger, job: Mapping[str, Any]) -> StoredProbs:
    """Find the stored probabilities of an output.

    Args:
        ledger: The output.
        job: Its ``job.json``.

    Raises:
        RequestError: It holds none, or ``job.json`` does not tell how it was made.
    """
    aliases = stored_aliases(job)
    if not aliases:
        raise RequestError(f"{ledger.out}: holds no probabilities; they are stored by `label` with --keep-probs")
    check_shape(WholeJobShape, ledger.uri(JOB), job)
    return StoredProbs(ledger.out, str(job["fingerprint"]), aliases)


def probabilities_table(index_N: Array, probs_NK: Array) -> pa.Table:
    """Make the table of a member's probabilities, as it is written.

    Args:
        index_N: int64, (N,), the samples' indices.
        probs_NK: float16, (N, K), 0-1.
    """
    lists = pa.FixedSizeListArray.from_arrays(pa.array(probs_NK.reshape(-1)), probs_NK.shape[1])
    return pa.table({"index": pa.array(index_N, pa.int64()), "probs": lists})


def read_probabilities(ledger: Ledger, alias: str, name: PartName, num_classes: int, index_N: Array) -> Array:
    """Read a member's probabilities for the rows of a predictions part.

    Args:
        ledger: The output.
        alias: Alias of the member there.
        name: Name of the part.
        num_classes: Number of classes, K.
        index_N: int64, the column ``index`` of the predictions part.

    Returns:
        float16, (N, K), 0-1.

    Raises:
        ObjectMissing: There is no such file.
        ObjectDamaged: It is not what was published, or belongs to another part or member.
        StorageError: It cannot be read.
    """
    folder = f"{PROBABILITIES}/{alias}"
    uri = ledger.uri(folder, str(name))
    table = ledger.read_part(folder, str(name))
    try:
        meta = json.loads((table.schema.metadata or {})[METADATA_KEY])
        found = (meta["member"], str(meta["fingerprint"])[:8], meta["unit"], meta["part"], meta["last"])
        lists = table["probs"].combine_chunks()
        kind, found_index_N = lists.type, table["index"].to_numpy()
        probs_NK: Array = lists.flatten().to_numpy().reshape(len(table), kind.list_size)
    except PARSE_ERRORS as error:
        raise ObjectDamaged(f"{uri}: no probabilities of shardlabel: {error!r}") from error
    if found != (alias, name.fingerprint[:8], name.unit_id, name.part, name.last):
        raise ObjectDamaged(f"{uri}: holds another part's or member's probabilities under this name")
    if probs_NK.dtype != np.float16 or probs_NK.shape[1] != num_classes:
        raise ObjectDamaged(f"{uri}: holds {kind}, not float16 for each of {num_classes} classes")
    if not np.array_equal(found_index_N, index_N):
        raise ObjectDamaged(f"{uri}: its {len(found_index_N)} rows are not the {len(index_N)} of {PREDICTIONS}/{name}")
    return probs_NK


def read_stored_part(ledger: Ledger, source: StoredProbs, name: PartName, num_classes: int) -> StoredPart:
    """Read a part with the probabilities of its members.

    Args:
        ledger: The output.
        source: Which members to read.
        name: Name of the part.
        num_classes: Number of classes, K.

    Raises:
        StorageError: A file of it is missing, damaged, or cannot be read.
    """
    footer = ledger.footer(PREDICTIONS, str(name))
    table = ledger.read_part(PREDICTIONS, str(name)).replace_schema_metadata()
    rejected = None
    with contextlib.suppress(ObjectMissing):
        rejected = ledger.read_part(QUARANTINE, str(name), QUARANTINE_SCHEMA.names)
    index_N = table["index"].to_numpy()
    member_probs = {}
    try:
        members = table["members"].combine_chunks()
        for alias in source.aliases:
            top_k = members.field(alias)
            labels_Nk, scores_Nk = (to_matrix(top_k.field(column), len(table)) for column in ("labels", "scores"))
            energy_N = top_k.field("energy").to_numpy()
            probs_NK = read_probabilities(ledger, alias, name, num_classes, index_N)
            member_probs[alias] = MemberProbs(labels_Nk, scores_Nk, energy_N, probs_NK)
    except PARSE_ERRORS as error:
        raise ObjectDamaged(f"{ledger.uri(PREDICTIONS, str(name))}: damaged: {error!r}") from error
    return StoredPart(
        name,
        footer.first_index,
        footer.next,
        table,
        rejected,
        member_probs,
        footer.truths_not_understood,
        footer.omitted,
    )


def to_matrix(lists: pa.ListArray, num_rows: int) -> Array:
    """Turn a column of lists of one length k into an array, (N, k)."""
    values: Array = lists.flatten().to_numpy()
    return values.reshape(num_rows, -1) if num_rows else values.reshape(0, 1)
