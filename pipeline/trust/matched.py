"""Predictions of the labelled images with known truth, as NumPy columns.

Parts are read one by one. About 10 bytes per image and predictor stay in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName
from pipeline.trust.draw import hash_images
from pipeline.trust.group_reader import GroupReader
from pipeline.trust.truth import NOT_KNOWN, Truth, TruthCounts, TruthMatcher

_COLUMNS = ["shard", "key", "sha256", "labels", "scores", "agreement", "entropy", "members"]
# A lookup costs time in proportion to the truth file, so a long file is looked up for many images at once.
_TRUTHS_PER_ROW = 16
_MAX_ROWS = 200_000

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class MatchedImages:
    """N images with known truth. Predictor 0 of P is the consensus; the members follow in order.

    Attributes:
        counts: How much of the truth could be used.
        truth_N: int32, true class, 0 to K - 1, or ``NO_CLASS`` where none fits: then every label is wrong; or a group,
            from K on (:mod:`pipeline.taxonomy.nodes`).
        label_N: int32, label of the consensus, 0 to K - 1.
        agreement_N: float32, 0-1.
        ranks_PN: int32, rank of the true class among the predictor's labels, from 0; -1 where it is not among them.
        scores_PN: float32, the predictor's largest score, 0-1.
        hashes_N: uint64, of the images (:func:`pipeline.trust.draw.hash_images`).
        entropy_N: float32, of the consensus, nats; NaN where it is not stored.
        groups_LN: int32, the group at each level; -1 for none. L is 0 without levels.
        group_scores_LN: float32, its sum of probabilities, 0-1.
        top_scores_Nk: float32, the stored scores of the consensus, best first; k is 0 unless ``with_scores``.
    """

    counts: TruthCounts
    truth_N: Array
    label_N: Array
    agreement_N: Array
    ranks_PN: Array
    scores_PN: Array
    hashes_N: Array
    entropy_N: Array
    groups_LN: Array
    group_scores_LN: Array
    top_scores_Nk: Array

    def __len__(self) -> int:
        return len(self.truth_N)

    def take(self, rows_N: Array) -> MatchedImages:
        """The images for which this mask is true; the counts stay."""
        return MatchedImages(
            self.counts,
            self.truth_N[rows_N],
            self.label_N[rows_N],
            self.agreement_N[rows_N],
            self.ranks_PN[:, rows_N],
            self.scores_PN[:, rows_N],
            self.hashes_N[rows_N],
            self.entropy_N[rows_N],
            self.groups_LN[:, rows_N],
            self.group_scores_LN[:, rows_N],
            self.top_scores_Nk[rows_N],
        )


def read_matched_images(
    ledger: Ledger,
    job: Mapping[str, Any],
    truth: Truth | None,
    *,
    with_scores: bool = False,
    groups: GroupReader | None = None,
    carried_groups: Sequence[int] = (),
) -> MatchedImages:
    """Read the predictions of the images with known truth.

    Args:
        ledger: Of the output.
        job: Its ``job.json``.
        truth: Of a file; None for the ``.cls`` of the samples.
        with_scores: Whether to read all stored scores of the consensus.
        groups: Reads the groups of images; None for no levels.
        carried_groups: As for :class:`pipeline.trust.truth.TruthMatcher`.

    Raises:
        InputError: The truth file is about none of the images.
        StorageError: A part cannot be read.
    """
    aliases = [member["alias"] for member in job["results"]["members"]]
    matcher = TruthMatcher(truth, len(job["class_names"]), carried_groups=carried_groups)
    num_levels = 0 if groups is None else len(groups.group_columns)
    batches, rows = [_empty_batch(len(aliases), num_levels)], [np.zeros(0, np.int8)]
    wanted = [*_COLUMNS, *matcher.columns, *(() if groups is None else groups.columns)]
    for table, parts in _read_tables(ledger, str(job["fingerprint"]), truth, list(dict.fromkeys(wanted))):
        labels_B, rows_B = matcher.match(table)
        known_B = labels_B > NOT_KNOWN
        if known_B.any():
            rows.append(rows_B[known_B])
            own_groups = _read_groups(groups, table, parts, known_B)
            known = table.filter(pa.array(known_B))
            batches.append(_read_batch(known, labels_B[known_B], aliases, own_groups, with_scores=with_scores))
    columns = [np.concatenate(parts, axis=-1) for parts in zip(*(batch[:-1] for batch in batches), strict=True)]
    scores = [batch[-1] for batch in batches[1:]]
    columns.append(np.concatenate(scores) if scores else np.zeros((0, 0), np.float32))
    matcher.check_found()
    if truth is not None:
        unique_N = matcher.is_unique(np.concatenate(rows))
        columns = [column[..., unique_N] for column in columns[:-1]] + [columns[-1][unique_N]]
    return MatchedImages(matcher.counts(), *columns)


_Parts = list[tuple[PartName, int]]  # names and rows of the parts that a table is made of


def _read_tables(
    ledger: Ledger, fingerprint: str, truth: Truth | None, columns: list[str]
) -> Iterator[tuple[pa.Table, _Parts]]:
    """The job's predictions, some parts at a time."""
    min_rows = 0 if truth is None else min(len(truth.labels_T) // _TRUTHS_PER_ROW, _MAX_ROWS)
    held: list[pa.Table] = []
    parts: _Parts = []
    for part in ledger.prediction_parts(fingerprint):
        table = ledger.read_part(PREDICTIONS, str(part), columns)
        if truth is None:
            yield table, [(part, len(table))]
            continue
        held.append(table.replace_schema_metadata())
        parts.append((part, len(table)))
        if sum(len(table) for table in held) >= min_rows:
            yield pa.concat_tables(held), parts
            held, parts = [], []
    if held:
        yield pa.concat_tables(held), parts


def _read_groups(groups: GroupReader | None, table: pa.Table, parts: _Parts, known_B: Array) -> list[Array]:
    """Groups and their scores of the rows with known truth, (L, B) each."""
    if groups is None:
        shape = (0, int(known_B.sum()))
        return [np.zeros(shape, np.int32), np.zeros(shape, np.float32)]
    found, start = [], 0
    for name, num_rows in parts:
        rows = table.slice(start, num_rows).filter(pa.array(known_B[start : start + num_rows]))
        start += num_rows
        if len(rows):
            found.append(groups.read(name, rows))
    return [np.concatenate(arrays, axis=1) for arrays in zip(*found, strict=True)]


def _read_batch(
    table: pa.Table, truth_B: Array, aliases: Sequence[str], groups: Sequence[Array], *, with_scores: bool
) -> list[Array]:
    members = table["members"].combine_chunks()
    predictors = [(table["labels"].combine_chunks(), table["scores"].combine_chunks())]
    predictors += [(members.field(alias).field("labels"), members.field(alias).field("scores")) for alias in aliases]
    labels_PBk = [_as_matrix(labels, len(table)) for labels, _ in predictors]
    scores_PBk = [_as_matrix(scores, len(table)) for _, scores in predictors]
    return [
        truth_B.astype(np.int32),
        labels_PBk[0][:, 0].copy(),
        table["agreement"].to_numpy(),
        np.stack([_truth_ranks(labels_Bk, truth_B) for labels_Bk in labels_PBk]),
        np.stack([scores_Bk[:, 0] for scores_Bk in scores_PBk]),
        hash_images(table),
        table["entropy"].cast(pa.float32()).fill_null(np.nan).to_numpy(),
        *groups,
        scores_PBk[0] if with_scores else np.zeros((len(table), 0), np.float32),
    ]


def _empty_batch(num_members: int, num_levels: int) -> list[Array]:
    """A batch without images, which gives the arrays their types where no image has a truth."""
    integers, floats = np.zeros(0, np.int32), np.zeros(0, np.float32)
    shape = (1 + num_members, 0)
    return [
        integers,
        integers,
        floats,
        integers.reshape(shape),
        floats.reshape(shape),
        np.zeros(0, np.uint64),
        floats,
        integers.reshape(num_levels, 0),
        floats.reshape(num_levels, 0),
        floats.reshape(0, 0),
    ]


def _as_matrix(lists: pa.ListArray, num_rows: int) -> Array:
    """Lists of equal length k as an array (B, k)."""
    values: Array = lists.flatten().to_numpy()
    return values.reshape(num_rows, -1)


def _truth_ranks(labels_Bk: Array, truth_B: Array) -> Array:
    same_Bk = labels_Bk == truth_B[:, None]
    return np.where(same_Bk.any(axis=1), same_Bk.argmax(axis=1), -1).astype(np.int32)
