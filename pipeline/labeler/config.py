"""What a labeler is told: everything but the tensors. Inert, so that it travels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.config.fields import Decoding
from pipeline.config.settings import StorageConfig
from pipeline.machine import cache_folder
from pipeline.models.classifier import Precision
from pipeline.models.consensus import Rule
from pipeline.models.tuning import Tuning
from pipeline.models.weights import MemberSpec
from pipeline.output.probabilities import StoredProbs


@dataclass(frozen=True, slots=True)
class LabelerConfig:
    """Everything a labeler needs beside the tensors. Inert, so that it travels.

    Attributes:
        out: Where to publish.
        fingerprint: Of the job.
        run: Name of this run of the job, which no other has.
        members: The ensemble, in order.
        class_names: Names of the classes.
        rule, top_k, precision, compiled: See :class:`pipeline.models.ensemble.Ensemble`.
        device: ``cpu`` or ``cuda``.
        batch_size: Images in one forward pass at most; None for what suits each member.
        trying: Whether it pays to try, on a CPU, what suits them where that is not remembered.
        decode: ``exact``; ``fast``: large JPEGs may be decoded at a reduced scale; ``gpu``: plain JPEGs on the device,
            where that was seen to give the CPU's pixels.
        rows_per_part: Samples in a part at most.
        keep: Fields copied through.
        num_threads: Worker threads.
        storage: How to reach S3.
        temperature: Of the consensus; 1 where it is uncalibrated.
        keep_probs: Whether the members' full probabilities are published, too.
        reused: Aliases of the members whose probabilities may be taken from an older output, each with its alias there.
        reused_from: That output.
        replayed: Whether all that is needed of a unit that is complete there can be taken from there.
    """

    out: str
    fingerprint: str
    run: str
    members: tuple[MemberSpec, ...]
    class_names: tuple[str, ...]
    rule: Rule
    top_k: int
    precision: Precision
    compiled: bool
    device: str
    batch_size: int | None
    trying: bool
    decode: Decoding
    rows_per_part: int
    keep: tuple[str, ...]
    num_threads: int
    storage: StorageConfig
    temperature: float = 1.0
    keep_probs: bool = False
    reused: Mapping[str, str] = field(default_factory=dict)
    reused_from: StoredProbs | None = None
    replayed: bool = False

    @property
    def tuning(self) -> Tuning:
        """What this machine's labelers know, and may try, about how many images suit a member."""
        return Tuning(self.num_threads, self.trying, cache_folder() / "forward_sizes.json")
