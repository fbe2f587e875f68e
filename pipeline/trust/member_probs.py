"""What members said of the images whose truth is known, read from stored probabilities.

Two passes: the first finds the images, part by part, and holds 20 bytes for each; the second reads the probabilities
of as many as are used, drawn at random where there are more.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.models.stored_probs import restore_probs
from pipeline.output.ledger import PREDICTIONS, Ledger
from pipeline.output.parts import PartName
from pipeline.output.probabilities import find_stored_probs, read_stored_part
from pipeline.trust.matched import OWN_TRUTH
from pipeline.trust.stack import MemberLogProbs
from pipeline.trust.truth import Truth, TruthCounts

MOST_TRUTHS = 5_000  # 5 members and 1,000 classes take 100 MB
_EXAMPLES = 3
_SEED = 0

Array = np.ndarray


def read_member_log_probs(
    ledger: Ledger, job: Mapping[str, Any], truth: Truth | None
) -> tuple[MemberLogProbs, TruthCounts]:
    """Bring stored probabilities and truth together.

    Args:
        ledger: Of the output.
        job: Its ``job.json``.
        truth: Of a file; None for what the samples say themselves.

    Returns:
        What the members, in their order, said of the images; and what became of the truth. Where more than
        :data:`MOST_TRUTHS` are known, so many are drawn and count as used.

    Raises:
        RequestError: No probabilities are stored.
        StorageError: A part cannot be read.
    """
    source = find_stored_probs(ledger, job)
    num_classes = len(job["class_names"])
    names = [name for name in map(PartName.parse, ledger.names(PREDICTIONS)) if name is not None]
    names = [name for name in names if name.fingerprint == source.fingerprint[:8]]
    where_3N, counts = _find(ledger, names, truth, num_classes)
    chosen = np.arange(where_3N.shape[1])
    if len(chosen) > MOST_TRUTHS:
        chosen = np.sort(np.random.default_rng(_SEED).choice(len(chosen), MOST_TRUTHS, replace=False))
    where_3N = where_3N[:, chosen]
    logs = [torch.zeros(0, len(source.aliases), num_classes)]
    for number, places in itertools.groupby(range(len(chosen)), key=lambda place: where_3N[0, place]):
        part = read_stored_part(ledger, source, names[number], num_classes)
        rows = where_3N[1, list(places)]
        probs_MBK = [restore_probs(part.member_probs[alias].take(rows)) for alias in source.aliases]
        logs.append(torch.stack(probs_MBK, dim=1).clamp_min(torch.finfo(torch.float32).tiny).log())
    log_probs = MemberLogProbs(torch.cat(logs), torch.from_numpy(where_3N[2]))
    return log_probs, dataclasses.replace(counts, used=len(chosen))


def _find(ledger: Ledger, names: list[PartName], truth: Truth | None, num_classes: int) -> tuple[Array, TruthCounts]:
    """Part number, row and true class of each image whose truth is known, int64, (3, N)."""
    found, rows_of_truth, given, unknown = [np.zeros((3, 0), np.int64)], [np.zeros(0, np.int64)], 0, 0
    for number, name in enumerate(names):
        table = ledger.read_part(PREDICTIONS, str(name), ["truth"] if truth is None else ["shard", "key"])
        if truth is None:
            known_B, labels_B = table["truth"].is_valid().to_numpy(), table["truth"].fill_null(-1).to_numpy()
            sound_B = (labels_B >= 0) & (labels_B < num_classes)
            given, unknown = given + int(known_B.sum()), unknown + int((known_B & ~sound_B).sum())
        else:
            found_B = truth.find(table["shard"], table["key"])
            sound_B = found_B >= 0
            labels_B = truth.labels_T[found_B] if len(truth.labels_T) else found_B
            rows_of_truth.append(found_B[sound_B].astype(np.int64))
        rows_B = np.flatnonzero(sound_B)
        found.append(np.stack([np.full(len(rows_B), number), rows_B, labels_B[rows_B]]).astype(np.int64))
    where_3N = np.concatenate(found, axis=1)
    if truth is None:
        return where_3N, TruthCounts(OWN_TRUTH, given=given, unknown_labels=unknown)
    times_T = np.bincount(np.concatenate(rows_of_truth), minlength=len(truth.labels_T))
    lost = np.flatnonzero(times_T == 0)
    counts = dataclasses.replace(
        truth.counts,
        unknown_keys=len(lost),
        unknown_key_examples=tuple(truth.keys.take(pa.array(lost[:_EXAMPLES])).to_pylist()),
        ambiguous_keys=int((times_T > 1).sum()),
    )
    return where_3N[:, times_T[np.concatenate(rows_of_truth)] == 1], counts
