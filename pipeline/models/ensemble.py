"""All members on one device, and their word on a batch."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - the name the field uses

from pipeline.models.classifier import Classifier, Precision
from pipeline.models.consensus import Rule, best_first, combine
from pipeline.models.recipe import Geometry
from pipeline.models.tuning import Tuning
from pipeline.models.weights import MemberSpec

Array = np.ndarray

LEAST_STORED = 2.0**-24  # the smallest float16 above 0: a logarithm of what is stored stays a number


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
    """What is written of a batch, as NumPy arrays; see :class:`pipeline.models.consensus.Consensus`.

    Attributes:
        probs_MBK: float16, (M, B, K), the members' full probabilities as they are stored, none below
            :data:`LEAST_STORED`; None where they are not asked for.
    """

    labels_Bk: Array
    scores_Bk: Array
    agreement_B: Array
    entropy_B: Array
    disagreement_B: Array
    members: tuple[MemberPredictions, ...]
    probs_MBK: Array | None = None


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
        keep_probs: Whether predictions hold the members' full probabilities.
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
        keep_probs: bool = False,
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
        self._keep_probs = keep_probs

    def part(self, aliases: Collection[str]) -> Ensemble:
        """Some of the members, as an ensemble of its own that keeps their full probabilities. They stay one in memory.

        Args:
            aliases: At least one of the members'.
        """
        found = copy.copy(self)
        places = [place for place, member in enumerate(self._members) if member.spec.alias in aliases]
        found._members = [self._members[place] for place in places]
        found._factors = self._factors[places]
        found._rule, found._temperature, found._keep_probs = "mean", 1.0, True
        return found

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
        packed = [_bits(values) for values in columns]
        if self._keep_probs:
            packed += [_half_bits(probs_BK) for probs_BK in probs_MBK]
        return torch.cat(packed, dim=1)

    def unpack(self, packed: Array) -> Predictions:
        """What :meth:`second_pass` gave, in host memory, as arrays.

        Args:
            packed: int32, (B, columns).
        """
        num_members = len(self._members)
        probs_MBK = None
        if self._keep_probs:
            num_classes = self._members[0].spec.num_classes
            width = -(-num_classes // 2)
            packed, halves = np.split(packed, [packed.shape[1] - num_members * width], axis=1)
            stored_BMK = halves.copy().view(np.float16).reshape(len(halves), num_members, 2 * width)
            probs_MBK = np.ascontiguousarray(stored_BMK[:, :, :num_classes].swapaxes(0, 1))
        k = (packed.shape[1] - 3 - num_members) // (2 + 2 * num_members)
        widths = [k, k, 1, 1, 1, *([k, k, 1] * num_members)]
        columns = np.split(packed, np.cumsum(widths)[:-1], axis=1)
        labels_Bk, scores_Bk, *figures = columns[:5]
        agreement_B, entropy_B, disagreement_B = (_floats(values)[:, 0] for values in figures)
        members = tuple(
            MemberPredictions(columns[at].copy(), _floats(columns[at + 1]), _floats(columns[at + 2])[:, 0])
            for at in range(5, len(columns), 3)
        )
        consensus = (labels_Bk.copy(), _floats(scores_Bk), agreement_B, entropy_B, disagreement_B)
        return Predictions(*consensus, members, probs_MBK)


def _bits(values: torch.Tensor) -> torch.Tensor:
    """Whole numbers as int32; the bits of float32 as if they were int32."""
    return values.view(torch.int32) if values.dtype == torch.float32 else values.to(torch.int32)


def _half_bits(probs_BK: torch.Tensor) -> torch.Tensor:
    """Probabilities as they are stored, two of them in an int32; of an odd number the last is followed by nothing."""
    stored_BK = probs_BK.clamp_min(LEAST_STORED).half()
    if stored_BK.shape[1] % 2:
        stored_BK = F.pad(stored_BK, (0, 1))
    return stored_BK.contiguous().view(torch.int32)


def _floats(bits: Array) -> Array:
    return bits.copy().view(np.float32)
