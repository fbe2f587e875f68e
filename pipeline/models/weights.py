"""Weights of members: from a request to checked tensors, and from tensors to a network.

The driver searches for files in the requested checkpoint, ``--weights-dir``, the local caches of torch and the
Hugging Face hub, and the internet, in this order (:mod:`pipeline.models.locate`). Workers get the tensors from the
driver as safetensors bytes. So they need neither the files nor the internet, and unpickle nothing
(:mod:`pipeline.checkpoints`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import nn

from pipeline.checkpoints.choosing import choose_state
from pipeline.checkpoints.reading import read_checkpoint
from pipeline.checkpoints.self_description import SelfDescription, describe_itself
from pipeline.config.member_options import MemberOptions
from pipeline.config.members import HUGGING_FACE, MemberRequest
from pipeline.errors import ModelError, WeightsError
from pipeline.labels import IMAGENET_CLASSES
from pipeline.models.catalog import Architecture, PublishedWeights, find, is_architecture, torchvision_names
from pipeline.models.download import ProgressCallback, ignore_progress
from pipeline.models.fitting import WantedNetwork, fit_network, tell_fit
from pipeline.models.known_names import TIMM_PREFIX
from pipeline.models.locate import Locator, WeightsFile, has_hash_of
from pipeline.models.networks import NetworkOptions, NetworkShape, as_classifier, from_blob, load_network, to_blob
from pipeline.models.preprocessing import Recipe
from pipeline.models.recipes import choose_recipe
from pipeline.models.surroundings import (
    add_normalisation,
    check_beside,
    has_normalisation,
    normalisation_beside,
    tell_join,
)
from pipeline.storage import Storage
from pipeline.taxonomy.member_columns import MEMBER_COLUMN, OWN_CLASSES
from pipeline.text import fmt

_USUAL = NetworkOptions()
# Arguments of timm's constructors that a file names: those that change how a network computes, and those that do not or
# that its tensors tell.
_BUILT_WITH = {
    "global_pool": str,
    "act_layer": str,
    "window_size": int,
    "class_token": bool,
    "no_embed_class": bool,
    "fc_norm": bool,
}
_TOLD_OTHERWISE = ("num_classes", "in_chans", "img_size", "drop_rate", "drop_path_rate", "drop_block_rate")
_IMAGENET_IN_NAME = re.compile(r"(?<![a-z])(imagenet|in1k)", re.IGNORECASE)  # what a file's name may say of its classes


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
        tensors: Where its tensors lie in that file, if others there fit as well; empty if there is no choice.
        network: How its network differs from the usual one of its architecture.
        own_classes: For a member that was trained on other classes than the job's: for each of the K classes of the
            job which of its own it is, :data:`pipeline.taxonomy.member_columns.NOT_KNOWN` for none. Empty for others.
    """

    alias: str
    arch: str
    factor: float
    num_classes: int
    recipe: Recipe
    weights_sha256: str
    weights_file: str
    tensors: str = ""
    network: NetworkOptions = _USUAL
    own_classes: tuple[int, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From a member of ``job.json``, of whose own classes there is a hash alone; what is usual may be missing."""
        parts = {
            "recipe": Recipe.from_dict(values["recipe"]),
            "network": NetworkOptions.from_dict(values.get("network", {})),
        }
        return cls(**{name: value for name, value in values.items() if name != OWN_CLASSES} | parts)

    @property
    def num_job_classes(self) -> int:
        """K: how many classes a job has with it."""
        return len(self.own_classes) or self.num_classes

    @property
    def shape(self) -> NetworkShape:
        """What is needed to build its network."""
        return NetworkShape(find(self.arch), self.num_classes, self.recipe.geometry.crop_px, self.network)


@dataclass(frozen=True, slots=True)
class MemberOrigin:
    """Where the parts of a member come from: for ``job.json``, for notes, for ``shardlabel models ARCH=FILE``.

    Attributes:
        key: Where its tensors lie in the file: ``state_dict``, ``model_ema``; empty for the whole file.
        recipe: Where its preprocessing comes from, in words for people.
        class_names: The names that its file gives to its classes; empty if it gives none.
        is_imagenet: Whether its 1,000 classes, if it has so many, are known to be ImageNet's.
        notes: What a user should know, one line each.
    """

    key: str = ""
    recipe: str = ""
    class_names: tuple[str, ...] = ()
    is_imagenet: bool = True
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Make a dict for ``job.json``, which has the names of all classes elsewhere."""
        return {"tensors": self.key or "the whole file", "recipe": self.recipe, "notes": list(self.notes)}


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
    if request.arch == HUGGING_FACE:
        assert request.checkpoint is not None
        file = locator.read_own(request.checkpoint)
        architecture = find(_architecture_in(file))
        wanted = architecture.published[0]
    else:
        architecture = find(request.arch)
        wanted = architecture.choose(request.weights)
        file = locator.find(request, architecture, wanted)
    known = wanted if request.weights or file.is_published else identify(architecture, file)
    opened = open_weights(architecture, known, file, request.options)
    spec = MemberSpec(
        alias=request.alias,
        arch=architecture.name,
        factor=request.factor,
        num_classes=opened.shape.num_classes,
        recipe=opened.recipe,
        weights_sha256=file.sha256,
        weights_file=file.name,
        tensors=opened.tensors,
        network=opened.shape.options,
    )
    return ResolvedMember(spec, opened.blob, opened.origin), file


@dataclass(frozen=True, slots=True)
class OpenedWeights:
    """A file of weights, opened and loaded.

    Attributes:
        shape: Of its network.
        recipe: Its preprocessing.
        blob: Its tensors, as safetensors bytes.
        origin: Where these come from.
        tensors: As in :class:`MemberSpec`.
    """

    shape: NetworkShape
    recipe: Recipe
    blob: bytes
    origin: MemberOrigin
    tensors: str


def identify(architecture: Architecture, file: WeightsFile) -> PublishedWeights | None:
    """The published weights that a file is: by the hash of its content, or by its name; None if nothing tells.

    A name that says so may be that of a file of ``--weights-dir`` or of a cache, whose hash was checked.
    """
    return _published_as(architecture, file) or architecture.matching(file.name)


def _published_as(architecture: Architecture, file: WeightsFile) -> PublishedWeights | None:
    """The published weights that a file is, by the hash of its content."""
    return next((entry for entry in architecture.published if has_hash_of(file.sha256, entry.file_name)), None)


def open_weights(
    architecture: Architecture, known: PublishedWeights | None, file: WeightsFile, requested: MemberOptions
) -> OpenedWeights:
    """Read a file of weights, and load them into the network that they fit.

    Args:
        architecture: The requested one.
        known: The published weights that it is, or that the request says that it is; None for others.
        file: The file.
        requested: What else the request says of it.

    Raises:
        WeightsError: The file is damaged, refused, does not fit, or is of another architecture.
    """
    checkpoint = read_checkpoint(file.uri, file.data)
    itself = describe_itself(file.companions, checkpoint.metadata, checkpoint.tree)
    _check_architecture(architecture, itself, file)
    if itself.hub_network is not None:
        checkpoint = checkpoint.renamed(itself.hub_network.rename)
    # what lies in --weights-dir under an architecture's name stands for its published weights
    is_guess = (
        known is None
        and not itself.recipe.source
        and (file.is_named or len({entry.recipe for entry in architecture.published}) > 1)
    )
    published = known or _trained_like(architecture, itself)
    wanted = WantedNetwork(
        architecture,
        requested.crop or itself.recipe.crop_px or published.recipe.geometry.crop_px,
        px_is_said=requested.crop is not None or itself.recipe.crop_px is not None,
        is_published=known is not None,
        options=requested,
        built=_built_with(architecture, itself.model_args, file),
    )
    chosen = choose_state(checkpoint, tell_fit(wanted), key=requested.key, ema=requested.ema, join=tell_join(wanted))
    fitted = fit_network(wanted, chosen.state, file.uri)
    if requested.key != chosen.key:
        check_beside(wanted.anatomy, fitted.outputs, chosen.beside, chosen.key, file.uri)
    facts = itself.recipe
    if requested.mean is None:
        facts = add_normalisation(normalisation_beside(chosen.beside, file.uri), facts, file.uri)
    input_px = fitted.shape.input_px
    recipe = choose_recipe(requested, facts, published, input_px=input_px, is_guess=is_guess, where=file.uri)
    says_imagenet = itself.is_imagenet or _IMAGENET_IN_NAME.search(file.name) is not None
    notes = [*chosen.notes, *fitted.notes, *([recipe.note] if recipe.note else [])]
    if requested.mean is not None and has_normalisation(chosen.beside):
        notes.append("a layer in it normalises the input; it is left out, because a mean is requested")
    if known is None:
        notes += _notes_on_classes(fitted.shape.num_classes, itself, file, says_imagenet=says_imagenet)
    origin = MemberOrigin(
        key=chosen.key,
        recipe=recipe.source,
        class_names=itself.class_names,
        is_imagenet=known is not None or not file.is_named or says_imagenet,
        notes=tuple(notes),
    )
    tensors = chosen.key if chosen.is_one_of_several else ""
    return OpenedWeights(fitted.shape, recipe.recipe, to_blob(fitted.network), origin, tensors)


def _notes_on_classes(
    num_classes: int, itself: SelfDescription, file: WeightsFile, *, says_imagenet: bool
) -> Iterator[str]:
    """What a user should know of where the names of a network's classes come from."""
    if itself.class_names and len(itself.class_names) != num_classes:
        there = fmt.plural(len(itself.class_names), "class", "classes")
        yield f"its file names {there}, and it has {num_classes:,}: these names are not used"
    elif num_classes == IMAGENET_CLASSES and not itself.class_names:
        if not file.is_named and not says_imagenet:
            yield f"{file.name} is taken for published weights, with ImageNet's classes; --labels FILE names others"
        elif file.is_named and says_imagenet:
            why = "its tag" if itself.is_imagenet else "the name of its file"
            yield f"its 1,000 classes are taken for ImageNet's, because {why} says so; --labels FILE names others"


def _trained_like(architecture: Architecture, itself: SelfDescription) -> PublishedWeights:
    """The weights whose recipe fills what is left open: those that the trainer names, or the architecture's default."""
    try:
        return find(itself.recipe_of).published[0] if itself.recipe_of else architecture.published[0]
    except ModelError:
        return architecture.published[0]


def _architecture_in(file: WeightsFile) -> str:
    """Name of the architecture that a folder of timm's or Hugging Face's says.

    Raises:
        WeightsError: It says none, or one that nothing here computes.
    """
    itself = describe_itself(file.companions)
    if itself.architecture:
        return itself.architecture
    if itself.model_type:
        raise WeightsError(
            f"{file.uri}: a network of transformers of a kind or size ({itself.model_type}) that is not read; "
            "resnet, vit, convnext, convnextv2 and swin of the published sizes are, and timm's own"
        )
    raise WeightsError(f"{file.uri}: no config.json beside it says what it is: -m ARCH={file.uri}")


def _check_architecture(architecture: Architecture, itself: SelfDescription, file: WeightsFile) -> None:
    """Refuse a file that says that it is of another architecture: keys that fit do not make it the same network.

    Raises:
        WeightsError: It is.
    """
    namesake = architecture.namesake
    if itself.refusal:
        raise WeightsError(f"{file.uri}: {itself.refusal}")
    if namesake is not None and not architecture.is_port and (entry := _published_as(namesake, file)) is not None:
        raise WeightsError(
            f"{file.uri}: is torchvision's {namesake.name}@{entry.name}, not timm's network of that name, which has "
            f"another preprocessing: -m {namesake.name}=FILE"
        )
    asked, said = (
        name.removeprefix(TIMM_PREFIX).partition(".")[0] for name in (architecture.name, itself.architecture)
    )
    if said and said != asked and (not itself.is_own_name or is_architecture(said)):
        prefix = "" if said in torchvision_names() and architecture.name == asked else TIMM_PREFIX
        raise WeightsError(f"{file.uri}: {itself.named_in} says that it is {said}, not {asked}: -m {prefix}{said}=FILE")


def _built_with(architecture: Architecture, model_args: Mapping[str, Any], file: WeightsFile) -> NetworkOptions:
    """How a network of timm was built, by the arguments that its ``config.json`` or its trainer kept.

    Raises:
        WeightsError: One of them is not known here, or cannot be.
    """
    told = {name: value for name, value in model_args.items() if name not in _TOLD_OTHERWISE}
    odd = [name for name, value in told.items() if type(value) is not _BUILT_WITH.get(name)]
    if odd or (told and not architecture.name.startswith(TIMM_PREFIX)):
        what = ", ".join(odd or told)
        raise WeightsError(f"{file.uri}: its network was built with arguments that are not known here: {what}")
    return NetworkOptions(**told)


def check_one_label_space(members: Sequence[MemberSpec]) -> int:
    """Check that all members have the same number of classes, and return it.

    Raises:
        ModelError: The numbers differ; the message lists them.
    """
    counts = Counter(member.num_classes for member in members)
    if len(counts) > 1:
        each = ", ".join(f"{member.alias} has {member.num_classes}" for member in members)
        usual = max(counts, key=lambda number: (counts[number], number))
        odd = next(member.alias for member in members if member.num_classes != usual)
        raise ModelError(
            f"the members do not share one set of classes: {each}. Where {odd} was trained on other classes, a column "
            f"{MEMBER_COLUMN}{odd} in --classes FILE says which of them are which"
        )
    return members[0].num_classes


def build_network(spec: MemberSpec, blob: bytes) -> nn.Module:
    """Build a member's network from the safetensors bytes of :func:`resolve`."""
    return as_classifier(load_network(spec.shape, from_blob(blob), spec.weights_file), spec.network)
