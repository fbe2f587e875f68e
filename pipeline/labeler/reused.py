"""Reused predictions: members that an older output has are not run again, and images not decoded without need."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pipeline.labeler.config import LabelerConfig
from pipeline.labeler.stored_reader import StoredReader, StoredRow
from pipeline.labeler.tasks import ChunkResult, ChunkTask, EncodedImage, Predictor
from pipeline.models.ensemble import Predictions
from pipeline.models.stored_probs import combine_stored
from pipeline.output.probabilities import MemberProbs
from pipeline.records import Stage


class StoredLookup:
    """Looks up each image of a unit in an older output.

    Args:
        reader: Of the unit, with the rows of the older output.
        runs_new: Whether there are members that the older output does not have.
    """

    def __init__(self, reader: StoredReader, *, runs_new: bool) -> None:
        self._reader = reader
        self._runs_new = runs_new

    def needs_pixels(self, image: EncodedImage) -> bool:
        """Whether the image is to be decoded. If not, its row is already in the result.

        Raises:
            NotAsStored: The older output has no row of the image.
        """
        result, row = image.piece.result, self._reader.take(image.sample, image.sha256)
        if row.row is None:
            image.reject(row.reason, row.message, Stage(row.stage))
            return False
        result.stored.append(row)
        if not self._runs_new:
            result.pictures.append(image.picture(row.width, row.height))
        return self._runs_new


class ReusingPredictor:
    """Pools the stored predictions of some members with those of the others.

    Args:
        config: Which members are stored, and how all are combined.
        new: Predicts the others; None if there are none.
    """

    def __init__(self, config: LabelerConfig, new: Predictor | None) -> None:
        self._config = config
        self._new = new

    def predict(self, task: ChunkTask, result: ChunkResult) -> None:
        """Begin with the new members; without a device the consensus is computed here, too."""
        if self._new is not None:
            self._new.predict(task, result)
        if result.answer is None:
            with result.timed("classify"):
                result.predictions = self._pooled(result)

    def finish(self, result: ChunkResult) -> None:
        """Wait for a device, and pool."""
        if self._new is not None and result.answer is not None:
            self._new.finish(result)
            result.predictions = self._pooled(result)

    def _pooled(self, result: ChunkResult) -> Predictions:
        config, fresh = self._config, result.predictions
        members, new = [], iter(range(len(config.members)))
        for member in config.members:
            if member.alias in config.reused:
                members.append(stored_probs(result.stored, config.reused[member.alias]))
            else:
                assert fresh is not None
                assert fresh.probs_MBK is not None
                place = next(new)
                own = fresh.members[place]
                members.append(MemberProbs(own.labels_Bk, own.scores_Bk, own.energy_B, fresh.probs_MBK[place]))
        return combine_members(config, members)


def stored_probs(rows: Sequence[StoredRow], alias: str) -> MemberProbs:
    """The stored probabilities of one member for some images.

    Args:
        rows: Of labelled samples, at least one.
        alias: Of the member in the older output.
    """
    found = []
    for _, group in itertools.groupby(rows, key=lambda row: id(row.part)):
        some = list(group)
        found.append(some[0].part.member_probs[alias].take(np.array([row.row for row in some])))
    names = ("labels_Bk", "scores_Bk", "energy_B", "probs_BK")
    return MemberProbs(*(np.concatenate([getattr(probs, name) for probs in found]) for name in names))


def combine_members(config: LabelerConfig, members: Sequence[MemberProbs]) -> Predictions:
    """The consensus of stored probabilities, as a labeler is configured.

    Args:
        config: How members are combined.
        members: Probabilities of the same images, in the order of ``config.members``.
    """
    factors = [member.factor for member in config.members]
    return combine_stored(
        members,
        factors,
        config.rule,
        config.top_k,
        config.temperature,
        keep_probs=config.keep_probs,
        taxonomy=config.taxonomy,
    )
