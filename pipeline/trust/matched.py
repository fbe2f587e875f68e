"""The labelled images whose truth is known: what was said of each, as NumPy columns.

Parts are read one after the other and only what is needed stays: some 10 bytes an image and predictor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName
from pipeline.trust.promise import certifying
from pipeline.trust.truth import Truth, TruthCounts

OWN_TRUTH = "the samples' .cls"
_EXAMPLES = 3
_COLUMNS = ["shard", "key", "labels", "scores", "agreement", "members"]
# A lookup costs as much as the truth is long, so a long one is looked up for many images at once.
_TRUTHS_PER_ROW = 16
_MOST_ROWS = 200_000

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Matched:
    """N images whose truth is known. Predictor 0 of P is the consensus, then come the members in order.

    Attributes:
        counts: What became of the truth.
        truth_N: int32, 0 to K - 1.
        label_N: int32, of the consensus.
        agreement_N: float32, 0-1.
        places_PN: int32, where the truth is among the predictor's labels, from 0; -1 where it is not.
        scores_PN: float32, the predictor's largest score, 0-1.
        certifies_N: bool, whether its truth is in the half that certifies a promise, and must not be fitted to.
        top_scores_Nk: float32, all scores of the consensus that are stored, best first; k is 0 if not asked for.
    """

    counts: TruthCounts
    truth_N: Array
    label_N: Array
    agreement_N: Array
    places_PN: Array
    scores_PN: Array
    certifies_N: Array
    top_scores_Nk: Array

    def __len__(self) -> int:
        return len(self.truth_N)


def read_matched(ledger: Ledger, job: Mapping[str, Any], truth: Truth | None, *, with_scores: bool = False) -> Matched:
    """Bring predictions and truth together.

    Args:
        ledger: Of the output.
        job: Its ``job.json``.
        truth: Of a file; None for what the samples say themselves.
        with_scores: Whether all scores of the consensus are wanted.

    Raises:
        StorageError: A part cannot be read.
    """
    aliases = [member["alias"] for member in job["results"]["members"]]
    batches, rows_of_truth, given, unknown = [_empty(len(aliases))], [], 0, 0
    for table in _tables(ledger, str(job["fingerprint"]), truth):
        if truth is None:
            known = table["truth"].is_valid().to_numpy()
            labels_B = table["truth"].fill_null(-1).to_numpy()
            sound = (labels_B >= 0) & (labels_B < len(job["class_names"]))
            given, unknown = given + int(known.sum()), unknown + int((known & ~sound).sum())
        else:
            found_B = truth.find(table["shard"], table["key"])
            sound = found_B >= 0
            labels_B = truth.labels_T[found_B] if len(truth.labels_T) else found_B
            rows_of_truth.append(found_B[sound])
        if sound.any():
            batches.append(_batch(table.filter(pa.array(sound)), labels_B[sound], aliases, with_scores=with_scores))
    columns = [np.concatenate(parts, axis=-1) for parts in zip(*(batch[:6] for batch in batches), strict=True)]
    scores = [batch[6] for batch in batches[1:]]
    columns.append(np.concatenate(scores) if scores else np.zeros((0, 0), np.float32))
    if truth is None:
        counts = TruthCounts(OWN_TRUTH, given=given, unknown_labels=unknown, used=len(columns[0]))
        return Matched(counts, *columns)
    return _unambiguous(columns, np.concatenate(rows_of_truth or [np.zeros(0, np.int64)]), truth)


def _unambiguous(columns: Sequence[Array], rows: Array, truth: Truth) -> Matched:
    """Leave out images that share their key with others, and count what was not found."""
    times_T = np.bincount(rows, minlength=len(truth.labels_T))
    single = times_T[rows] == 1
    kept = [column[..., single] for column in columns[:6]] + [columns[6][single]]
    lost = np.flatnonzero(times_T == 0)
    counts = dataclasses.replace(
        truth.counts,
        used=int(single.sum()),
        unknown_keys=len(lost),
        unknown_key_examples=tuple(truth.keys.take(pa.array(lost[:_EXAMPLES])).to_pylist()),
        ambiguous_keys=int((times_T > 1).sum()),
    )
    return Matched(counts, *kept)


def _tables(ledger: Ledger, fingerprint: str, truth: Truth | None) -> Iterator[pa.Table]:
    """The job's predictions, some parts at a time."""
    columns = [*_COLUMNS, *(["truth"] if truth is None else [])]
    wanted = 0 if truth is None else min(len(truth.labels_T) // _TRUTHS_PER_ROW, _MOST_ROWS)
    held: list[pa.Table] = []
    for name in ledger.names(PREDICTIONS):
        part = PartName.parse(name)
        if part is None or part.fingerprint != fingerprint[:8]:
            continue
        held.append(ledger.read_part(PREDICTIONS, name, columns).replace_schema_metadata())
        if sum(table.num_rows for table in held) >= wanted:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


def _batch(table: pa.Table, truth_B: Array, aliases: Sequence[str], *, with_scores: bool) -> tuple[Array, ...]:
    members = table["members"].combine_chunks()
    predictors = [(table["labels"].combine_chunks(), table["scores"].combine_chunks())]
    predictors += [(members.field(alias).field("labels"), members.field(alias).field("scores")) for alias in aliases]
    labels_PBk = [_rows(labels, len(table)) for labels, _ in predictors]
    scores_PBk = [_rows(scores, len(table)) for _, scores in predictors]
    return (
        truth_B.astype(np.int32),
        labels_PBk[0][:, 0].copy(),
        table["agreement"].to_numpy(),
        np.stack([_places(labels_Bk, truth_B) for labels_Bk in labels_PBk]),
        np.stack([scores_Bk[:, 0] for scores_Bk in scores_PBk]),
        certifying(table["shard"].to_pylist(), table["key"].to_pylist()),
        scores_PBk[0] if with_scores else np.zeros((len(table), 0), np.float32),
    )


def _empty(num_members: int) -> tuple[Array, ...]:
    """A batch of no images, so that there is always one to take the types from."""
    integers, floats = np.zeros(0, np.int32), np.zeros(0, np.float32)
    shape = (1 + num_members, 0)
    return (
        integers,
        integers,
        floats,
        integers.reshape(shape),
        floats.reshape(shape),
        np.zeros(0, bool),
        floats.reshape(0, 0),
    )


def _rows(lists: pa.ListArray, num_rows: int) -> Array:
    """Lists of one length as (B, k)."""
    values: Array = lists.flatten().to_numpy()
    return values.reshape(num_rows, -1)


def _places(labels_Bk: Array, truth_B: Array) -> Array:
    same_Bk = labels_Bk == truth_B[:, None]
    return np.where(same_Bk.any(axis=1), same_Bk.argmax(axis=1), -1).astype(np.int32)
