"""Rescored predictions: the consensus at a temperature, from what every output stores of it, without probabilities.

A temperature changes no label, no agreement and no disagreement: only the scores of the top k, and the entropy. Both
are computed from the stored top k and the stored entropy (:class:`pipeline.trust.temperature.PooledProbs`). What lies
below the top k is only known by its sum and its entropy, so that scores differ a little from those of ``label
--calibration``; if all classes are stored, they do not.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from pipeline.labeler.config import LabelerConfig
from pipeline.models.ensemble import MemberPredictions, Predictions
from pipeline.output.probabilities import to_matrix
from pipeline.trust.temperature import PooledProbs


def rescore(config: LabelerConfig, table: pa.Table) -> Predictions:
    """The predictions of some images at the configured temperature.

    Args:
        config: Temperature, members and class names.
        table: Their rows, labelled without a temperature.
    """
    num_images = len(table)
    members = table["members"].combine_chunks()
    scores_Bk = to_matrix(table["scores"].combine_chunks(), num_images)
    pooled = PooledProbs.from_top_k(
        scores_Bk, np.zeros(num_images, np.int64), len(config.class_names), table["entropy"].to_numpy()
    )
    warm_Bk, entropy_B = pooled.top_k(config.temperature)
    return Predictions(
        labels_Bk=to_matrix(table["labels"].combine_chunks(), num_images),
        scores_Bk=warm_Bk.astype(np.float32),
        agreement_B=table["agreement"].to_numpy(),
        entropy_B=np.maximum(entropy_B, 0).astype(np.float32),
        disagreement_B=table["disagreement"].to_numpy(),
        members=tuple(_member(members.field(member.alias), num_images) for member in config.members),
    )


def _member(top_k: pa.StructArray, num_images: int) -> MemberPredictions:
    return MemberPredictions(
        to_matrix(top_k.field("labels"), num_images),
        to_matrix(top_k.field("scores"), num_images),
        top_k.field("energy").to_numpy(),
    )
