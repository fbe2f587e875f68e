"""The ensemble: all members on one device, and their consensus for a batch."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - the name the field uses

from pipeline.models.classifier import Classifier
from pipeline.models.consensus import Rule, combine, stable_topk
from pipeline.models.full_fp32 import FULL_FP32
from pipeline.models.lifting import Lifting
from pipeline.models.number_formats import Precision
from pipeline.models.preprocessing import Geometry
from pipeline.models.tuning import Tuning
from pipeline.models.weights import MemberSpec
from pipeline.taxonomy.choosing import GroupChooser, group_columns
from pipeline.taxonomy.tree import Taxonomy

Array = np.ndarray

MIN_STORED_PROB = 2.0**-24  # the smallest float16 above 0, so that the logarithm of a stored probability is finite


@dataclass(frozen=True, slots=True)
class MemberPredictions:
    """The top-k of one member.

    Attributes:
        labels_Bk: int32, (B, k), best first.
        scores_Bk: float32, (B, k), softmax probabilities, 0-1; of a member with other classes lifted ones
            (:mod:`pipeline.models.lifting`).
        energy_B: float32, (B,), logsumexp of the logits; not finite where any of them is not.
    """

    labels_Bk: Array
    scores_Bk: Array
    energy_B: Array

    def take(self, rows: Array) -> MemberPredictions:
        """Those of some images: int64 indices, or a bool mask, (B,)."""
        return MemberPredictions(self.labels_Bk[rows], self.scores_Bk[rows], self.energy_B[rows])


@dataclass(frozen=True, slots=True)
class GroupPredictions:
    """The groups of one column of :func:`pipeline.taxonomy.choosing.group_columns`.

    Attributes:
        groups_B: int32, (B,), places among the column's groups; -1 for none.
        scores_B: float32, (B,), sum of the group's probabilities, 0-1; 0 for none.
    """

    groups_B: Array
    scores_B: Array

    def take(self, rows: Array) -> GroupPredictions:
        """Those of some images: int64 indices, or a bool mask, (B,)."""
        return GroupPredictions(self.groups_B[rows], self.scores_B[rows])


@dataclass(frozen=True, slots=True)
class FirstPass:
    """The logits of all members after the first pass.

    Attributes:
        crops: The batch, on the device.
        logits_MBK: Logits of each member, float32, (B, K), on the device; (B, C) of one with C other classes.
        recompute_MB: Images that each member must compute again in fp32, bool, (M, B), on the device; or None.
    """

    crops: Mapping[Geometry, torch.Tensor]
    logits_MBK: list[torch.Tensor]
    recompute_MB: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class Predictions:
    """The predictions for a batch, as NumPy arrays; see :class:`pipeline.models.consensus.Consensus`.

    Attributes:
        probs_MBK: float16, (M, B, K), the members' full probabilities as they are stored, at least
            :data:`MIN_STORED_PROB`; None unless they are kept.
        groups: Of each column of groups; none without a tree.
    """

    labels_Bk: Array
    scores_Bk: Array
    agreement_B: Array
    entropy_B: Array
    disagreement_B: Array
    members: tuple[MemberPredictions, ...]
    probs_MBK: Array | None = None
    groups: tuple[GroupPredictions, ...] = ()

    @property
    def is_finite(self) -> Array:
        """Images that all members have finite logits for, bool, (B,)."""
        energy_MB: Array = np.stack([member.energy_B for member in self.members])
        return np.asarray(np.isfinite(energy_MB).all(axis=0))

    def take(self, rows: Array) -> Predictions:
        """Those of some images: int64 indices, or a bool mask, (B,)."""
        return Predictions(
            self.labels_Bk[rows],
            self.scores_Bk[rows],
            self.agreement_B[rows],
            self.entropy_B[rows],
            self.disagreement_B[rows],
            tuple(member.take(rows) for member in self.members),
            None if self.probs_MBK is None else self.probs_MBK[:, rows],
            tuple(column.take(rows) for column in self.groups),
        )


@dataclass(frozen=True, slots=True)
class EnsembleOptions:
    """How an ensemble runs, and how its members are combined.

    Attributes:
        device: ``cpu`` or ``cuda``.
        precision: See :class:`pipeline.models.classifier.Classifier`.
        rule: Rule of the consensus.
        top_k: Number of classes to return.
        temperature: Temperature of the pool; see :func:`pipeline.models.consensus.combine`.
        compiled: Whether to run members through torch.compile.
        batch_size: Images in one forward pass at most; None for what suits each member.
        tuning: Finds batch sizes on a CPU.
        keep_probs: Whether to return the members' full probabilities.
        taxonomy: Groups of classes, of which each image gets some; None for no groups.
    """

    device: str
    precision: Precision
    rule: Rule
    top_k: int
    temperature: float = 1.0
    compiled: bool = False
    batch_size: int | None = None
    tuning: Tuning | None = None
    keep_probs: bool = False
    taxonomy: Taxonomy | None = None


class Ensemble:
    """The members of a job, resident on one device.

    Args:
        specs: The members, in order.
        blobs: Their tensors by alias, as safetensors bytes.
        options: How they run, and how they are combined.
    """

    def __init__(self, specs: Sequence[MemberSpec], blobs: Mapping[str, bytes], options: EnsembleOptions) -> None:
        self.device = torch.device(options.device)
        if self.device.type == "cuda":
            FULL_FP32.hold()
        self._members = [
            Classifier(
                spec,
                blobs[spec.alias],
                self.device,
                options.precision,
                compiled=options.compiled,
                batch_size=options.batch_size,
                tuning=options.tuning,
            )
            for spec in specs
        ]
        self._factors = torch.tensor([spec.factor for spec in specs], dtype=torch.float64, device=self.device)
        self._lifting = Lifting(specs, self._factors, options.rule)
        self._rule = options.rule
        self._top_k = options.top_k
        self._temperature = options.temperature
        self._keep_probs = options.keep_probs
        tree = options.taxonomy
        self._chooser = None if tree is None else GroupChooser(tree, self._factors)
        self._num_group_columns = 0 if tree is None else len(group_columns(tree))

    def warm_up(self) -> None:
        """On a GPU, prepare the members in the thread that will compute; see :meth:`Classifier.warm_up`.

        Raises:
            RuntimeError: The device has failed.
        """
        if self.device.type == "cuda":
            for member in self._members:
                member.warm_up()

    def close(self) -> None:
        """Give the process its setting of TF32 back; the ensemble, and no subset of it, is used any more."""
        if self.device.type == "cuda":
            FULL_FP32.release()

    def subset(self, aliases: Collection[str]) -> Ensemble:
        """Make an ensemble of some of the members, in shared memory, that returns their full probabilities.

        Args:
            aliases: Aliases of at least one member.
        """
        found = copy.copy(self)
        places = [place for place, member in enumerate(self._members) if member.spec.alias in aliases]
        found._members = [self._members[place] for place in places]
        found._factors = self._factors[places]
        found._lifting = Lifting(found.specs, found._factors, "mean")
        found._rule, found._temperature, found._keep_probs = "mean", 1.0, True
        found._chooser, found._num_group_columns = None, 0
        return found

    @property
    def specs(self) -> tuple[MemberSpec, ...]:
        """Its members, in order."""
        return tuple(member.spec for member in self._members)

    @property
    def geometries(self) -> tuple[Geometry, ...]:
        """The distinct crops that the members need."""
        return tuple(dict.fromkeys(member.spec.recipe.geometry for member in self._members))

    @torch.inference_mode()
    def predict(self, crops: Mapping[Geometry, torch.Tensor]) -> Predictions:
        """Classify a batch.

        Args:
            crops: For each of :attr:`geometries`, uint8, (B, 3, S, S), 0-255, RGB, in host memory.
        """
        first = self.first_pass({geometry: batch.to(self.device) for geometry, batch in crops.items()})
        where = (
            [] if first.recompute_MB is None else [recompute_B.nonzero()[:, 0] for recompute_B in first.recompute_MB]
        )
        return self.unpack(self.second_pass(first, where).cpu().numpy())

    # predict() in three steps, none of which waits for the device, so that the device is kept busy

    @torch.inference_mode()
    def first_pass(self, crops: Mapping[Geometry, torch.Tensor]) -> FirstPass:
        """Compute a batch with every member.

        Args:
            crops: For each of :attr:`geometries`, uint8, (B, 3, S, S), 0-255, RGB, on the device.
        """
        passes = [member.first_pass(crops[member.spec.recipe.geometry]) for member in self._members]
        logits_MBK, flags_MB = [logits_BK for logits_BK, _ in passes], [recompute_B for _, recompute_B in passes]
        if all(recompute_B is None for recompute_B in flags_MB):
            return FirstPass(crops, logits_MBK, None)
        never_B = torch.zeros(len(logits_MBK[0]), dtype=torch.bool, device=self.device)
        recompute_MB = torch.stack([never_B if recompute_B is None else recompute_B for recompute_B in flags_MB])
        return FirstPass(crops, logits_MBK, recompute_MB)

    @torch.inference_mode()
    def second_pass(self, first: FirstPass, where: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute some images again in fp32, and combine the members.

        Args:
            first: The result of the first pass; its logits are changed.
            where: For each member the indices of these images, int64, on the device; empty for no second pass.

        Returns:
            int32, (B, columns), on the device: all results, packed for :meth:`unpack`. They are one tensor, because
            many small copies to the host cost more than a large one.
        """
        for place, where_b in enumerate(where):
            if len(where_b):
                member = self._members[place]
                member.second_pass(first.logits_MBK[place], first.crops[member.spec.recipe.geometry], where_b)
        probs_MBK = self._lifting.stack([logits_BK.softmax(dim=1) for logits_BK in first.logits_MBK])
        pool = combine(probs_MBK, self._factors, self._rule, self._top_k, self._temperature)
        k = pool.labels_Bk.shape[1]
        columns = [pool.labels_Bk, pool.scores_Bk]
        columns += [values_B[:, None] for values_B in (pool.agreement_B, pool.entropy_B, pool.disagreement_B)]
        for probs_BK, logits_BK in zip(probs_MBK, first.logits_MBK, strict=True):
            scores_Bk, labels_Bk = stable_topk(probs_BK, k)
            columns += [labels_Bk, scores_Bk, _energy(logits_BK)]
        for chosen in () if self._chooser is None else self._chooser.choose(pool.pooled_BK):
            columns += [chosen.groups_B[:, None], chosen.scores_B[:, None]]
        packed = [_as_int32(values) for values in columns]
        if self._keep_probs:
            packed += [_pack_halves(probs_BK) for probs_BK in probs_MBK]
        return torch.cat(packed, dim=1)

    def unpack(self, packed: Array) -> Predictions:
        """Unpack the result of :meth:`second_pass`.

        Args:
            packed: int32, (B, columns), in host memory.
        """
        num_members = len(self._members)
        probs_MBK = None
        if self._keep_probs:
            num_classes = self._members[0].spec.num_classes
            width = -(-num_classes // 2)
            packed, halves = np.split(packed, [packed.shape[1] - num_members * width], axis=1)
            stored_BMK = halves.copy().view(np.float16).reshape(len(halves), num_members, 2 * width)
            probs_MBK = np.ascontiguousarray(stored_BMK[:, :, :num_classes].swapaxes(0, 1))
        packed, chosen = np.split(packed, [packed.shape[1] - 2 * self._num_group_columns], axis=1)
        groups = tuple(
            GroupPredictions(chosen[:, at].copy(), _as_float32(chosen[:, at + 1]))
            for at in range(0, chosen.shape[1], 2)
        )
        k = (packed.shape[1] - 3 - num_members) // (2 + 2 * num_members)
        widths = [k, k, 1, 1, 1, *([k, k, 1] * num_members)]
        columns = np.split(packed, np.cumsum(widths)[:-1], axis=1)
        labels_Bk, scores_Bk, *statistics = columns[:5]
        agreement_B, entropy_B, disagreement_B = (_as_float32(values)[:, 0] for values in statistics)
        members = tuple(
            MemberPredictions(columns[at].copy(), _as_float32(columns[at + 1]), _as_float32(columns[at + 2])[:, 0])
            for at in range(5, len(columns), 3)
        )
        consensus = (labels_Bk.copy(), _as_float32(scores_Bk), agreement_B, entropy_B, disagreement_B)
        return Predictions(*consensus, members, probs_MBK, groups)


def _energy(logits_BK: torch.Tensor) -> torch.Tensor:
    """Logsumexp of the logits, float32, (B, 1); NaN where any of them is not finite, be it -inf."""
    finite_B1 = logits_BK.isfinite().all(dim=1, keepdim=True)
    return logits_BK.logsumexp(dim=1, keepdim=True).where(finite_B1, torch.nan)


def _as_int32(values: torch.Tensor) -> torch.Tensor:
    """Convert integers to int32, and view float32 as int32."""
    return values.view(torch.int32) if values.dtype == torch.float32 else values.to(torch.int32)


def _pack_halves(probs_BK: torch.Tensor) -> torch.Tensor:
    """Convert probabilities to float16, and pack two in an int32; an odd number is padded with 0."""
    stored_BK = probs_BK.clamp_min(MIN_STORED_PROB).half()
    if stored_BK.shape[1] % 2:
        stored_BK = F.pad(stored_BK, (0, 1))
    return stored_BK.contiguous().view(torch.int32)


def _as_float32(bits: Array) -> Array:
    return bits.copy().view(np.float32)
