"""All members on one device, and their word on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.models.classifier import Classifier, Precision
from pipeline.models.consensus import Rule, best_first, combine
from pipeline.models.recipe import Geometry
from pipeline.models.weights import MemberSpec

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class MemberPredictions:
    """One member's own top-k.

    Attributes:
        labels_Bk: int32, (B, k), best first.
        scores_Bk: float32, (B, k), softmax probabilities.
        energy_B: float32, logsumexp of the logits.
    """

    labels_Bk: Array
    scores_Bk: Array
    energy_B: Array


@dataclass(frozen=True, slots=True)
class Predictions:
    """What is written of a batch, as NumPy arrays; see :class:`pipeline.models.consensus.Consensus`."""

    labels_Bk: Array
    scores_Bk: Array
    agreement_B: Array
    entropy_B: Array
    disagreement_B: Array
    members: tuple[MemberPredictions, ...]


class Ensemble:
    """The members of a job, resident on one device.

    Args:
        specs: The members, in order.
        blobs: Their tensors by alias, as safetensors bytes.
        device: ``cpu`` or ``cuda``.
        precision: See :class:`pipeline.models.classifier.Classifier`.
        rule: How to combine.
        top_k: How many classes to report.
        compiled: Whether to run members through torch.compile.
        at_once: Images in one forward pass at most; None for what suits the device and precision.
    """

    def __init__(
        self,
        specs: Sequence[MemberSpec],
        blobs: Mapping[str, bytes],
        *,
        device: str,
        precision: Precision,
        rule: Rule,
        top_k: int,
        compiled: bool = False,
        at_once: int | None = None,
    ) -> None:
        self.device = torch.device(device)
        self._members = [
            Classifier(spec, blobs[spec.alias], self.device, precision, compiled=compiled, at_once=at_once)
            for spec in specs
        ]
        self._factors = torch.tensor([spec.factor for spec in specs], dtype=torch.float64, device=self.device)
        self._rule = rule
        self._top_k = top_k

    @property
    def geometries(self) -> tuple[Geometry, ...]:
        """The distinct crops that the members want."""
        return tuple(dict.fromkeys(member.spec.recipe.geometry for member in self._members))

    @torch.inference_mode()
    def predict(self, crops: Mapping[Geometry, torch.Tensor]) -> Predictions:
        """Classify a batch.

        Args:
            crops: For each of :attr:`geometries`, uint8 crops (B, 3, S, S) in host memory.
        """
        on_device = {
            geometry: batch.to(self.device, non_blocking=True) if self.device.type == "cuda" else batch
            for geometry, batch in crops.items()
        }
        logits = [member.logits(on_device[member.spec.recipe.geometry]) for member in self._members]
        probs_MBK = torch.stack([batch.softmax(dim=1) for batch in logits])
        consensus = combine(probs_MBK, self._factors, self._rule, self._top_k)
        k = consensus.labels_Bk.shape[1]
        members = []
        for probs, batch in zip(probs_MBK, logits, strict=True):
            scores, labels = best_first(probs, k)
            members.append(MemberPredictions(_int32(labels), _array(scores), _array(batch.logsumexp(dim=1))))
        return Predictions(
            _int32(consensus.labels_Bk),
            _array(consensus.scores_Bk),
            _array(consensus.agreement_B),
            _array(consensus.entropy_B),
            _array(consensus.disagreement_B),
            tuple(members),
        )


def _array(values: torch.Tensor) -> Array:
    return values.cpu().numpy()


def _int32(values: torch.Tensor) -> Array:
    return values.to(torch.int32).cpu().numpy()
