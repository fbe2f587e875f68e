"""Stored probabilities of the members for the images with known truth.

Two passes. The first finds the images, part by part, and holds about 20 bytes for each. The second reads the
probabilities, of a random sample where there are many images.
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
from pipeline.trust.draw import hash_images
from pipeline.trust.fitted import FittedTruths, held_out_mask
from pipeline.trust.stack import MemberLogProbs
from pipeline.trust.truth import NOT_KNOWN, Truth, TruthCounts, TruthMatcher

MAX_TRUTHS = 5_000  # 5 members and 1,000 classes take 100 MB
_SEED = 0

Array = np.ndarray


def read_member_log_probs(
    ledger: Ledger, job: Mapping[str, Any], truth: Truth | None, hold_out: float = 0.0
) -> tuple[MemberLogProbs, FittedTruths, TruthCounts]:
    """Read the members' probabilities of the images with known truth.

    Args:
        ledger: Of the output.
        job: Its ``job.json``.
        truth: Of a file; None for the ``.cls`` of the samples.
        hold_out: Share of these images to leave out, 0-1.

    Returns:
        Log-probabilities of the members, in the job's order; the truths of these images; and how much of the truth was
        used: for the fit at most :data:`MAX_TRUTHS` images, a random sample of them where there are more.

    Raises:
        RequestError: No probabilities are stored, or the truth file is about none of the images.
        StorageError: A part cannot be read.
    """
    source = find_stored_probs(ledger, job)
    num_classes = len(job["class_names"])
    parts = ledger.prediction_parts(source.fingerprint)
    locations_3N, hashes_N, counts = _locate_truths(ledger, parts, truth, num_classes)
    held_out_N = held_out_mask(hashes_N, hold_out)
    chosen, num_held_out = np.flatnonzero(~held_out_N), int(held_out_N.sum())
    if len(chosen) > MAX_TRUTHS:
        chosen = np.sort(np.random.default_rng(_SEED).choice(chosen, MAX_TRUTHS, replace=False))
    locations_3N = locations_3N[:, chosen]
    logs = [torch.zeros(0, len(source.aliases), num_classes)]
    for number, indices in itertools.groupby(range(len(chosen)), key=lambda index: locations_3N[0, index]):
        stored = read_stored_part(ledger, source, parts[number], num_classes)
        rows = locations_3N[1, list(indices)]
        probs_MBK = [restore_probs(stored.member_probs[alias].take(rows)) for alias in source.aliases]
        logs.append(torch.stack(probs_MBK, dim=1).clamp_min(torch.finfo(torch.float32).tiny).log())
    log_probs = MemberLogProbs(torch.cat(logs), torch.from_numpy(locations_3N[2]))
    fitted = FittedTruths(hashes_N[chosen], locations_3N[2])
    return log_probs, fitted, dataclasses.replace(counts, used=len(chosen) + num_held_out)


def _locate_truths(
    ledger: Ledger, parts: list[PartName], truth: Truth | None, num_classes: int
) -> tuple[Array, Array, TruthCounts]:
    """Part number, row and true class of each image with known truth, int64 (3, N), and its hash, uint64 (N,)."""
    matcher = TruthMatcher(truth, num_classes)
    found, rows, hashes = [np.zeros((3, 0), np.int64)], [np.zeros(0, np.int8)], [np.zeros(0, np.uint64)]
    columns = list(dict.fromkeys(["shard", "key", "sha256", *matcher.columns]))
    for number, part in enumerate(parts):
        table = ledger.read_part(PREDICTIONS, str(part), columns)
        labels_B, rows_B = matcher.match(table)
        known = np.flatnonzero(labels_B > NOT_KNOWN)
        rows.append(rows_B[known])
        hashes.append(hash_images(table.take(pa.array(known))))
        found.append(np.stack([np.full(len(known), number), known, labels_B[known]]).astype(np.int64))
    matcher.check_found()
    locations_3N, hashes_N = np.concatenate(found, axis=1), np.concatenate(hashes)
    if truth is not None:
        unique_N = matcher.is_unique(np.concatenate(rows))
        locations_3N, hashes_N = locations_3N[:, unique_N], hashes_N[unique_N]
    return locations_3N, hashes_N, matcher.counts()
