"""All members on one device, and their word on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.models.classifier import Classifier, Precision
from pipeline.models.consensus import Rule, best_first, combine
from pipeline.models.recipe import Geometry
from pipeline.models.tuning import Tuning
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
class FirstPass:
    """What is known of a batch after every member has seen it once.

    Attributes:
        crops: The batch, on the device.
        logits_MBK: Of each member, float32, (B, K), on the device.
        again_MB: Which images each member should see again in fp32, bool, on the device; None if it never does.
    """

    crops: Mapping[Geometry, torch.Tensor]
    logits_MBK: list[torch.Tensor]
    again_MB: torch.Tensor | None


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
        temperature: Of the pool; see :func:`pipeline.models.consensus.combine`.
        compiled: Whether to run members through torch.compile.
        at_once: Images in one forward pass at most; None for what suits each member.
        tuning: What is known, and may be tried, about that on a CPU.
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
        temperature: float = 1.0,
        compiled: bool = False,
        at_once: int | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self.device = torch.device(device)
        if self.device.type == "cuda":
            # cuDNN's own default, TF32, rounds as coarsely as fp16: a near tie would be settled by chance again
            torch.backends.cudnn.allow_tf32 = False
        self._members = [
            Classifier(
                spec, blobs[spec.alias], self.device, precision, compiled=compiled, at_once=at_once, tuning=tuning
            )
            for spec in specs
        ]
        self._factors = torch.tensor([spec.factor for spec in specs], dtype=torch.float64, device=self.device)
        self._rule = rule
        self._top_k = top_k
        self._temperature = temperature

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
        first = self.first_pass({geometry: batch.to(self.device) for geometry, batch in crops.items()})
        where = [] if first.again_MB is None else [again_B.nonzero()[:, 0] for again_B in first.again_MB]
        return self.unpack(self.second_pass(first, where).cpu().numpy())

    # The same in three steps, none of which waits for a device: so that it need not wait either.

    @torch.inference_mode()
    def first_pass(self, crops: Mapping[Geometry, torch.Tensor]) -> FirstPass:
        """Let every member see a batch.

        Args:
            crops: For each of :attr:`geometries`, uint8 crops (B, 3, S, S) on the device.
        """
        passes = [member.first_pass(crops[member.spec.recipe.geometry]) for member in self._members]
        logits_MBK, flags_MB = [logits_BK for logits_BK, _ in passes], [again_B for _, again_B in passes]
        if all(again_B is None for again_B in flags_MB):
            return FirstPass(crops, logits_MBK, None)
        never_B = torch.zeros(len(logits_MBK[0]), dtype=torch.bool, device=self.device)
        again_MB = torch.stack([never_B if again_B is None else again_B for again_B in flags_MB])
        return FirstPass(crops, logits_MBK, again_MB)

    @torch.inference_mode()
    def second_pass(self, first: FirstPass, where: Sequence[torch.Tensor]) -> torch.Tensor:
        """Let members see some images again, and pool what they say.

        Args:
            first: What the first pass said; its logits are changed.
            where: For each member, which images it should see again, int64, on the device; empty if there is
                no second pass.

        Returns:
            int32, (B, columns), on the device: everything that is reported, as :meth:`unpack` takes it. One
            tensor, because each copy to the host costs as much as a large one.
        """
        for place, where_b in enumerate(where):
            if len(where_b):
                member = self._members[place]
                member.second_pass(first.logits_MBK[place], first.crops[member.spec.recipe.geometry], where_b)
        probs_MBK = torch.stack([logits_BK.softmax(dim=1) for logits_BK in first.logits_MBK])
        pool = combine(probs_MBK, self._factors, self._rule, self._top_k, self._temperature)
        k = pool.labels_Bk.shape[1]
        columns = [pool.labels_Bk, pool.scores_Bk]
        columns += [values_B[:, None] for values_B in (pool.agreement_B, pool.entropy_B, pool.disagreement_B)]
        for probs_BK, logits_BK in zip(probs_MBK, first.logits_MBK, strict=True):
            scores_Bk, labels_Bk = best_first(probs_BK, k)
            columns += [labels_Bk, scores_Bk, logits_BK.logsumexp(dim=1, keepdim=True)]
        return torch.cat([_bits(values) for values in columns], dim=1)

    def unpack(self, packed: Array) -> Predictions:
        """What :meth:`second_pass` gave, in host memory, as arrays.

        Args:
            packed: int32, (B, columns).
        """
        num_members = len(self._members)
        k = (packed.shape[1] - 3 - num_members) // (2 + 2 * num_members)
        widths = [k, k, 1, 1, 1, *([k, k, 1] * num_members)]
        columns = np.split(packed, np.cumsum(widths)[:-1], axis=1)
        labels_Bk, scores_Bk, *figures = columns[:5]
        agreement_B, entropy_B, disagreement_B = (_floats(values)[:, 0] for values in figures)
        members = tuple(
            MemberPredictions(columns[at].copy(), _floats(columns[at + 1]), _floats(columns[at + 2])[:, 0])
            for at in range(5, len(columns), 3)
        )
        return Predictions(labels_Bk.copy(), _floats(scores_Bk), agreement_B, entropy_B, disagreement_B, members)


def _bits(values: torch.Tensor) -> torch.Tensor:
    """Whole numbers as int32; the bits of float32 as if they were int32."""
    return values.view(torch.int32) if values.dtype == torch.float32 else values.to(torch.int32)


def _floats(bits: Array) -> Array:
    return bits.copy().view(np.float32)
