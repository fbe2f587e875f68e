"""The configuration of a labeler: everything but the tensors. Plain data that can be sent to another machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.config.option_types import Decoding, Images
from pipeline.config.settings import StorageConfig
from pipeline.machine import cache_folder
from pipeline.models.consensus import Rule
from pipeline.models.number_formats import Precision
from pipeline.models.tuning import Tuning
from pipeline.models.weights import MemberSpec
from pipeline.output.probabilities import StoredProbs
from pipeline.taxonomy.choosing import GroupColumn, group_columns
from pipeline.taxonomy.tree import Taxonomy


@dataclass(frozen=True, slots=True)
class LabelerConfig:
    """Everything a labeler needs but the tensors.

    Attributes:
        out: Where to publish.
        fingerprint: Of the job.
        run: Unique name of this run of the job.
        members: The ensemble, in order.
        class_names: Names of the classes.
        rule, top_k, precision, compiled: See :class:`pipeline.models.ensemble.Ensemble`.
        device: ``cpu`` or ``cuda``.
        batch_size: Images in one forward pass at most; None for the best of each member.
        may_tune: Whether batch sizes that are not cached may be measured, on a CPU.
        decode: ``exact``; ``fast``: large JPEGs may be decoded at a reduced scale; ``gpu``: plain JPEGs on the device,
            where its pixels were seen to be near the CPU's.
        rows_per_part: Samples in a part at most, for units without a size of their own.
        keep: Fields copied through.
        images: Which images of a sample are labelled: the first, or all.
        with_field: Whether the predictions have the column ``field``.
        num_threads: Worker threads.
        storage: How to reach S3.
        temperature: Of the consensus; 1 where it is uncalibrated.
        keep_probs: Whether the members' full probabilities are published, too.
        reused: Aliases of the members whose probabilities may be taken from an older output, each with its alias there.
        reused_from: That output.
        replayed: Whether a unit that is complete there can be published without reading its input.
        taxonomy: Groups of classes, which have columns of their own; None for none.
        carried_groups: For each group that a truth of the older output may be, the class or the group that it is here
            (:func:`pipeline.taxonomy.nodes.carry_groups`).
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
    may_tune: bool
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
    images: Images = "auto"
    with_field: bool = True
    taxonomy: Taxonomy | None = None
    carried_groups: tuple[int, ...] = ()

    @property
    def group_columns(self) -> tuple[GroupColumn, ...]:
        """The columns of groups."""
        return () if self.taxonomy is None else group_columns(self.taxonomy)

    @property
    def tuning(self) -> Tuning:
        """What this machine's labelers know, and may try, about how many images suit a member."""
        return Tuning(self.num_threads, self.may_tune, cache_folder() / "forward_sizes.json")
