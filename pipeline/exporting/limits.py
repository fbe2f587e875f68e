"""Limits on each image of an export: score, agreement, entropy, disagreement, and out-of-distribution score."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from pipeline.exporting.settings import ExportConfig

TARGET_PRECISION = "target_precision"

Array = np.ndarray


def rejected_by_limits(config: ExportConfig, table: pa.Table, aliases: tuple[str, ...]) -> Iterator[tuple[str, Array]]:
    """Each limit that is set, and the images that it rejects. All limits reject NaN.

    Args:
        config: The limits.
        table: Predictions of B images, with the columns that the limits are about.
        aliases: Of the members.

    Yields:
        The name of the option, and bool (B,).
    """
    for name, column, at_least in (
        ("min_score", "score", config.min_score),
        ("min_agreement", "agreement", config.min_agreement),
    ):
        if at_least is not None:
            yield name, ~(table[column].to_numpy() >= np.float32(at_least))
    for name, column, at_most in (
        ("max_entropy", "entropy", config.max_entropy),
        ("max_disagreement", "disagreement", config.max_disagreement),
    ):
        if at_most is not None:
            yield name, ~(table[column].to_numpy() <= np.float32(at_most))
    if config.max_ood_score is not None:
        yield "max_ood_score", ~(ood_scores(table, aliases) <= np.float32(config.max_ood_score))
    if config.target_precision is not None and (nan_B := np.isnan(table["score"].to_numpy())).any():
        yield TARGET_PRECISION, nan_B  # DuckDB takes NaN for larger than any threshold


def ood_scores(table: pa.Table, aliases: tuple[str, ...]) -> Array:
    """Out-of-distribution score of each row: minus the mean over members of logsumexp of its logits.

    Larger means further out of distribution.

    Source: Liu, Wang, Owens & Li, "Energy-based out-of-distribution detection", arXiv 2010.03759; for ensembles arXiv
    2207.07517.

    Args:
        table: Predictions with ``members.*.energy``.
        aliases: Of the members.

    Returns:
        float32 (B,), of any sign.
    """
    members = table["members"].combine_chunks()
    energies_MB = [members.field(alias).field("energy").to_numpy(zero_copy_only=False) for alias in aliases]
    scores: Array = -np.mean(np.stack(energies_MB).astype(np.float64), axis=0)
    return scores.astype(np.float32)
