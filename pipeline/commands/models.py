"""The zoo: what can be used, what is published of it, where its files are, and how to carry them elsewhere."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from pipeline.config.members import MemberRequest, parse_members
from pipeline.config.settings import StorageConfig
from pipeline.errors import InputError, ModelError, StorageError
from pipeline.models.catalog import TIMM_PREFIX, Architecture, Figures, Published, find, torchvision_names
from pipeline.models.cost import measure
from pipeline.models.download import Watch, ignore
from pipeline.models.families import families, family_of
from pipeline.models.locate import AmbiguousWeightsError, Locator, WeightsFile
from pipeline.models.weights import resolve_with
from pipeline.storage import Storage, absolute_uri, join

_HUB_PAGE = "https://huggingface.co/"
_IMAGENET_CLASSES = 1000
_MOST_COUNTED = 40  # counting takes up to a second each; of longer lists only what is published is shown


@dataclass(frozen=True, slots=True)
class WeightsCard:
    """Published weights, as ``shardlabel models`` shows them; None where nobody says it.

    Attributes:
        weights: Its name, as in ``ARCH@WEIGHTS``.
        num_params, gmacs, top1, top5, file_mb, licence: See :class:`pipeline.models.catalog.Figures`.
        input_px: Side of the square that the network sees.
        resize_px: Length of the shorter side before the crop (of both sides, with ``fit`` squash).
        interpolation: Of the resize.
        fit: ``short`` keeps the aspect ratio, ``squash`` does not.
        mean, std: Per channel, RGB, on the range 0-1.
        weights_file: Name of its file.
        url: Where it is published.
        found: Where it lies here, or None.
    """

    weights: str
    num_params: int | None
    gmacs: float | None
    top1: float | None
    top5: float | None
    file_mb: float | None
    licence: str | None
    input_px: int
    resize_px: int
    interpolation: str
    fit: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights_file: str
    url: str | None
    found: str | None


@dataclass(frozen=True, slots=True)
class ArchitectureCard:
    """An architecture and all that is published for it, the default first."""

    name: str
    library: Literal["torchvision", "timm"]
    family: str | None
    year: int | None
    paper: str | None
    paper_url: str | None
    published: tuple[WeightsCard, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what belongs to the default weights stands beside the name as well."""
        values = dataclasses.asdict(self)
        return {**values, **values["published"][0], "published": values["published"]}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file of weights that ``fetch`` took care of.

    Attributes:
        spec: The member that will find it, with ``--weights-dir``.
        source: Where it came from.
        uri: Where it is now.
        num_bytes: Its size.
        copied: False where the same file was there before.
    """

    spec: str
    source: str
    uri: str
    num_bytes: int
    copied: bool


# -- looking ----------------------------------------------------------------------------------------------


def list_architectures(
    name: str | None = None,
    *,
    weights_dir: str | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
) -> list[ArchitectureCard]:
    """What there is.

    Args:
        name: An architecture, a family, or a pattern (``resnet*``, ``timm/*xception*``); None is torchvision's
            whole stock and the families that only timm has.
        weights_dir: Where to look for files first, beside the local caches.
        s3_endpoint: S3 endpoint, where AWS's own variables do not say.
        no_sign_request: Read public buckets without credentials.

    Raises:
        ModelError: Nothing has that name.
    """
    locator = Locator(weights_dir, _storage(s3_endpoint, no_sign_request=no_sign_request))
    names = _names(name)
    counted = sum(found.startswith(TIMM_PREFIX) for found in names) <= _MOST_COUNTED
    return [_card(find(found), locator, counted=counted) for found in names]


def _names(name: str | None) -> list[str]:
    stock = [arch for family in families() for arch in family.architectures]
    stock += [arch for arch in torchvision_names() if arch not in stock]  # newer than the list of families
    if name is None:
        return stock
    if any(sign in name for sign in "*?["):
        names = _timm_names() if name.startswith(TIMM_PREFIX) else stock
        if not (found := fnmatch.filter(names, name)):
            raise ModelError(f"no model is called like {name!r}; patterns for timm begin with {TIMM_PREFIX}")
        return [arch for arch in found if _is_usable(arch)]
    family = next((family for family in families() if family.name.casefold() == name.casefold()), None)
    if name not in stock and family is not None:
        return list(family.architectures)
    return [name]


def _timm_names() -> list[str]:
    """All of timm's architectures with each of their published weights, which are part of the name there."""
    import timm

    return [TIMM_PREFIX + arch for arch in timm.list_models(pretrained=True)]


def _is_usable(arch: str) -> bool:
    """Whether a name out of timm's list can be used; some have inputs or crops that are not supported."""
    try:
        find(arch)
    except ModelError:
        return False
    return True


def _card(architecture: Architecture, locator: Locator, *, counted: bool) -> ArchitectureCard:
    family = family_of(architecture.name)
    return ArchitectureCard(
        name=architecture.name,
        library="timm" if architecture.name.startswith(TIMM_PREFIX) else "torchvision",
        family=family.name if family else None,
        year=family.year if family else None,
        paper=family.paper if family else None,
        paper_url=family.url if family else None,
        published=tuple(
            _weights_card(architecture, entry, locator, counted=counted) for entry in architecture.published
        ),
    )


def _weights_card(architecture: Architecture, entry: Published, locator: Locator, *, counted: bool) -> WeightsCard:
    geometry = entry.recipe.geometry
    figures = _counted(architecture, entry) if counted else entry.figures
    return WeightsCard(
        weights=entry.name,
        **dataclasses.asdict(figures),
        input_px=geometry.crop_px,
        resize_px=geometry.resize_px,
        interpolation=geometry.interpolation,
        fit=geometry.fit,
        mean=entry.recipe.mean,
        std=entry.recipe.std,
        weights_file=entry.file_name,
        url=_HUB_PAGE + entry.hub_id if entry.hub_id else entry.url,
        found=_whereabouts(architecture, entry, locator),
    )


def _counted(architecture: Architecture, entry: Published) -> Figures:
    """What is published; parameters and operations are counted where nobody published them."""
    figures = entry.figures
    if figures.num_params is not None:
        return figures
    try:
        cost = measure(architecture, _IMAGENET_CLASSES, entry.recipe.geometry.crop_px)
    except ModelError:
        return figures
    return dataclasses.replace(figures, num_params=cost.num_params, gmacs=cost.macs / 1e9)


def _whereabouts(architecture: Architecture, entry: Published, locator: Locator) -> str | None:
    """Where these very weights lie: others of the same architecture do not count, nor do several that might be them."""
    try:
        return locator.place(architecture, entry, by_name=True)
    except AmbiguousWeightsError:
        return None


# -- carrying ---------------------------------------------------------------------------------------------


def fetch(
    specs: Sequence[str],
    to: str,
    *,
    weights_dir: str | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    watch: Watch = ignore,
) -> list[Fetched]:
    """Put the weights of members into a directory or bucket, for machines without internet.

    Each file is found or downloaded as a job would, checked, loaded once, and written whole under the name by
    which ``--weights-dir`` finds it again. One that is there already is left alone.

    Args:
        specs: Members, as ``-m`` takes them.
        to: Directory or ``s3://`` prefix.
        weights_dir: Where to look first.
        s3_endpoint: S3 endpoint, where AWS's own variables do not say.
        no_sign_request: Read public buckets without credentials.
        watch: Told how far downloads are.

    Raises:
        ModelError: A member is unknown.
        WeightsError: Its file is missing, damaged, refused, or does not fit.
        InputError: ``to`` cannot be written.
    """
    storage = Storage(StorageConfig(s3_endpoint=s3_endpoint, no_sign_request=no_sign_request))
    locator = Locator(weights_dir, storage, watch)
    try:
        place = absolute_uri(to)
    except StorageError as error:
        raise InputError(f"--to {error}") from error
    return [_carry(request, place, locator, storage) for request in parse_members(tuple(specs))]


def _carry(request: MemberRequest, place: str, locator: Locator, storage: Storage) -> Fetched:
    _, file = resolve_with(locator, request)
    architecture = find(request.arch)
    name = _name_to_keep(architecture, architecture.choose(request.weights), file, request)
    uri = join(place, name)
    try:
        there = storage.exists(uri) and storage.read(uri) == file.data
        if not there:
            storage.replace(uri, file.data)
    except StorageError as error:
        raise InputError(f"--to {error}") from error
    spec = request.arch + (f"@{request.weights}" if request.weights else "")
    return Fetched(f"{spec}={uri}" if request.checkpoint else spec, file.uri, uri, len(file.data), copied=not there)


def _name_to_keep(architecture: Architecture, wanted: Published, file: WeightsFile, request: MemberRequest) -> str:
    """The name by which a weights directory is searched; the hub calls every file the same."""
    if request.checkpoint is not None or architecture.matching(file.name) or wanted.hub_id is None:
        return file.name
    suffix = ".safetensors" if PurePosixPath(file.name).suffix == ".safetensors" else ".pth"
    return architecture.short_name + suffix


def _storage(s3_endpoint: str | None, *, no_sign_request: bool) -> Storage:
    return Storage(StorageConfig(s3_endpoint=s3_endpoint, no_sign_request=no_sign_request))
