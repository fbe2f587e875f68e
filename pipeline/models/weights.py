"""Weights of members: from a request to checked tensors, and from tensors to a network.

The driver searches for files in the requested checkpoint, ``--weights-dir``, the local caches of torch and the
Hugging Face hub, and the internet, in this order (:mod:`pipeline.models.locate`). Workers get the tensors from the
driver as safetensors bytes. So they need neither the files nor the internet, and unpickle nothing
(:mod:`pipeline.checkpoints`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from pipeline.checkpoints.choosing import choose_state
from pipeline.checkpoints.reading import read_checkpoint
from pipeline.config.members import MemberOptions, MemberRequest
from pipeline.errors import ModelError
from pipeline.models.catalog import Architecture, find
from pipeline.models.download import ProgressCallback, ignore_progress
from pipeline.models.fitting import fit_network, tell_fit
from pipeline.models.locate import Locator, WeightsFile
from pipeline.models.networks import NetworkOptions, NetworkShape, from_blob, load_network, to_blob
from pipeline.models.preprocessing import Recipe
from pipeline.storage import Storage

_USUAL = NetworkOptions()


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """One member of an ensemble, without its tensors. Plain data.

    Attributes:
        alias: Name of its column.
        arch: Name of its architecture.
        factor: Weight in the consensus, as requested.
        num_classes: Number of its classes.
        recipe: Its preprocessing.
        weights_sha256: Hash of the file of its weights, hex.
        weights_file: Name of that file.
        network: How its network differs from the usual one of its architecture.
    """

    alias: str
    arch: str
    factor: float
    num_classes: int
    recipe: Recipe
    weights_sha256: str
    weights_file: str
    network: NetworkOptions = _USUAL

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of ``dataclasses.asdict``; what is usual of a network may be missing."""
        parts = {"recipe": Recipe.from_dict(values["recipe"]), "network": NetworkOptions(**values.get("network", {}))}
        return cls(**{**values, **parts})

    @property
    def shape(self) -> NetworkShape:
        """What is needed to build its network."""
        return NetworkShape(find(self.arch), self.num_classes, self.recipe.geometry.crop_px, self.network)


@dataclass(frozen=True, slots=True)
class MemberOrigin:
    """Where the parts of a member come from: for ``job.json``, for notes, for ``shardlabel models ARCH=FILE``.

    Attributes:
        key: Where its tensors lie in the file: ``state_dict``, ``model_ema``; empty for the whole file.
        recipe: Where its preprocessing comes from.
        class_names: The names that its file gives to its classes; None if it has none.
        notes: What a user should know, one line each.
    """

    key: str = ""
    recipe: str = ""
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResolvedMember:
    """A member and its tensors.

    Attributes:
        spec: The member.
        blob: Its tensors, as safetensors bytes.
        origin: Where its parts come from.
    """

    spec: MemberSpec
    blob: bytes
    origin: MemberOrigin = MemberOrigin()


def resolve(
    request: MemberRequest, weights_dir: str | None, storage: Storage, watch: ProgressCallback = ignore_progress
) -> ResolvedMember:
    """Find, check and load the weights of one member.

    Args:
        request: The requested member.
        weights_dir: ``--weights-dir``, or None.
        storage: Reads files and S3.
        watch: Called with the progress of a download.

    Raises:
        ModelError: The architecture or the name of the weights is unknown.
        WeightsError: The file is missing, damaged, refused, or does not fit.
    """
    return resolve_with_file(Locator(weights_dir, storage, watch), request)[0]


def resolve_with_file(locator: Locator, request: MemberRequest) -> tuple[ResolvedMember, WeightsFile]:
    """Do the same, and return the file of the weights as well."""
    architecture = find(request.arch)
    wanted = architecture.choose(request.weights)
    file = locator.find(request, architecture, wanted)
    published = wanted if request.weights else architecture.matching(file.name) or wanted
    opened = open_weights(architecture, published.recipe.geometry.crop_px, file, request.options)
    spec = MemberSpec(
        alias=request.alias,
        arch=request.arch,
        factor=request.factor,
        num_classes=opened.shape.num_classes,
        recipe=published.recipe,
        weights_sha256=file.sha256,
        weights_file=file.name,
        network=opened.shape.options,
    )
    origin = MemberOrigin(key=opened.key, notes=opened.notes)
    return ResolvedMember(spec, opened.blob, origin), file


@dataclass(frozen=True, slots=True)
class OpenedWeights:
    """A file of weights, opened and loaded.

    Attributes:
        shape: Of its network.
        blob: Its tensors, as safetensors bytes.
        key: Where its tensors lie in the file.
        notes: What a user should know about it.
    """

    shape: NetworkShape
    blob: bytes
    key: str
    notes: tuple[str, ...]


def open_weights(
    architecture: Architecture, input_px: int, file: WeightsFile, requested: MemberOptions
) -> OpenedWeights:
    """Read a file of weights, and load them into the network that they fit.

    Raises:
        WeightsError: The file is damaged, refused, or does not fit.
    """
    checkpoint = read_checkpoint(file.uri, file.data)
    fits = tell_fit(architecture, input_px)
    chosen = choose_state(checkpoint, fits, key=requested.key, ema=requested.ema)
    fitted = fit_network(architecture, input_px, chosen.state, requested, file.uri)
    return OpenedWeights(fitted.shape, to_blob(fitted.network), chosen.key, (*chosen.notes, *fitted.notes))


def check_one_label_space(members: list[MemberSpec]) -> int:
    """Check that all members have the same number of classes, and return it.

    Raises:
        ModelError: The numbers differ; the message lists them.
    """
    if len({member.num_classes for member in members}) > 1:
        counts = ", ".join(f"{member.alias} has {member.num_classes}" for member in members)
        raise ModelError(f"the members do not share one set of classes: {counts}")
    return members[0].num_classes


def build_network(spec: MemberSpec, blob: bytes) -> nn.Module:
    """Build a member's network from the safetensors bytes of :func:`resolve`."""
    return load_network(spec.shape, from_blob(blob), spec.weights_file)
