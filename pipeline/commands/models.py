"""Models: list the architectures with their published weights, look at a checkpoint, and copy weights."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.members import MemberRequest, parse_members
from pipeline.config.settings import StorageConfig
from pipeline.errors import InputError, ModelError, RequestError, StorageError
from pipeline.job.class_names import choose_names, given_names
from pipeline.labels import ClassResolver, imagenet_names
from pipeline.models.architecture_names import list_names
from pipeline.models.cards import ArchitectureCard, make_card
from pipeline.models.catalog import find
from pipeline.models.copying import Fetched, copy_weights
from pipeline.models.download import ProgressCallback, ignore_progress
from pipeline.models.known_names import TIMM_PREFIX
from pipeline.models.locate import Locator
from pipeline.models.member_card import MemberCard, make_member_card
from pipeline.models.weights import resolve_with_file
from pipeline.storage import Storage, absolute_uri
from pipeline.trials.known_images import read_known_images
from pipeline.trials.recipes import RecipeTrial, Watch
from pipeline.trials.recipes import try_recipes as run_trial
from pipeline.trust.truth_file import read_truth

_MOST_COUNTED = 40  # counting takes up to a second each; of longer lists only what is published is shown


def list_architectures(
    name: str | None = None,
    *,
    weights_dir: str | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> list[ArchitectureCard]:
    """List architectures with their published weights.

    Args:
        name: An architecture, a family, or a pattern (``resnet*``, ``timm/*xception*``); None for all of
            torchvision and the families that only timm has.
        weights_dir: Where to look for files first, besides the local caches.
        s3_endpoint: S3 endpoint; None for that of AWS's own variables.
        no_sign_request: Read public buckets without credentials.
        request_payer: Pay for requests to buckets whose owner does not.

    Raises:
        ModelError: No architecture has that name.
    """
    locator = Locator(weights_dir, _storage(s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer))
    names = list_names(name)
    counted = sum(found.startswith(TIMM_PREFIX) for found in names) <= _MOST_COUNTED
    return [make_card(find(found), locator, counted=counted) for found in names]


def inspect(
    spec: str,
    *,
    weights_dir: str | None = None,
    labels: str | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
) -> MemberCard:
    """Look at a member without a job: its file, tensors, head, classes and preprocessing, and where each comes from.

    Args:
        spec: One member, as ``-m`` takes it: ``resnet50=FILE``, ``hf:FOLDER``.
        weights_dir: Where to look for files first, besides the local caches.
        labels: File of class names, or ``imagenet``.
        s3_endpoint: S3 endpoint; None for that of AWS's own variables.
        no_sign_request: Read public buckets without credentials.
        request_payer: Pay for requests to buckets whose owner does not.

    Raises:
        ModelError: The member is unknown.
        WeightsError: Its file is missing, damaged, refused, or does not fit.
    """
    storage = _storage(s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    member, file = resolve_with_file(Locator(weights_dir, storage), _one_member(spec))
    names, note = choose_names(member.spec.num_classes, given_names(labels, storage), [member])
    known = "ImageNet's" if names == imagenet_names() else "their indices: nothing names them"
    return make_member_card(member, file, names, _say_names(labels, note) or known)


def _say_names(labels: str | None, note: str) -> str:
    """Where names of classes come from, if that is known."""
    return "; ".join([f"from --labels {labels}"] * bool(labels) + [note] * bool(note))


def try_recipes(
    spec: str,
    inputs: Sequence[str] = (),
    *,
    truth: str | None = None,
    weights_dir: str | None = None,
    labels: str | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
    watch: Watch = lambda *_: None,
) -> RecipeTrial:
    """Try the usual preprocessings of a member on images whose class is known, at most 1,000.

    Args:
        spec: One member, as ``-m`` takes it.
        inputs: INPUTs that hold the images; none for the shards that the truth names.
        truth: Truth file, as for :func:`pipeline.evaluate`; None for the samples' own ``.cls``.
        weights_dir: Where to look for files first, besides the local caches.
        labels: File of class names, or ``imagenet``.
        s3_endpoint: S3 endpoint; None for that of AWS's own variables.
        no_sign_request: Read public buckets without credentials.
        request_payer: Pay for requests to buckets whose owner does not.
        watch: Called before each preprocessing is tried.

    Raises:
        ModelError: The member is unknown.
        WeightsError: Its file is missing, damaged, refused, or does not fit.
        InputError: The truth file is missing or not valid.
        RequestError: There is no image whose class is known.
    """
    storage = _storage(s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    member, _ = resolve_with_file(Locator(weights_dir, storage), _one_member(spec))
    names, _ = choose_names(member.spec.num_classes, given_names(labels, storage), [member])
    given = None if truth is None else read_truth(truth, storage, names)
    images = list(read_known_images(tuple(inputs), given, ClassResolver(names), storage))
    if not images:
        why = "give --truth, or shards with .cls"
        if given is not None:
            why = "; ".join([f"--truth {truth} names none of them by a class of the network", *given.counts.complaints])
        raise RequestError(f"of no image of the INPUT the class is known: {why}")
    return run_trial(member, images, watch)


def _one_member(spec: str) -> MemberRequest:
    """The only member of a SPEC.

    Raises:
        ModelError: There are several.
    """
    requests = parse_members((spec,))
    if len(requests) > 1:
        raise ModelError(f"{spec}: one member is looked at, not {len(requests)}")
    return requests[0]


def fetch(
    specs: Sequence[str],
    to: str,
    *,
    weights_dir: str | None = None,
    s3_endpoint: str | None = None,
    no_sign_request: bool = False,
    request_payer: bool = False,
    watch: ProgressCallback = ignore_progress,
) -> list[Fetched]:
    """Copy the weights of members to a directory or bucket, for machines without internet.

    Each file is found or downloaded as for a job, checked, loaded once, and written whole under the name that
    ``--weights-dir`` looks for. A file that is there already is left alone.

    Args:
        specs: Members, as ``-m`` takes them.
        to: Directory or ``s3://`` prefix.
        weights_dir: Where to look for files first, besides the local caches.
        s3_endpoint: S3 endpoint; None for that of AWS's own variables.
        no_sign_request: Read public buckets without credentials.
        request_payer: Pay for requests to buckets whose owner does not.
        watch: Called with the progress of downloads.

    Raises:
        ModelError: A member is unknown.
        WeightsError: Its file is missing, damaged, refused, or does not fit.
        InputError: ``to`` cannot be written.
    """
    storage = _storage(s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer)
    locator = Locator(weights_dir, storage, watch)
    try:
        target = absolute_uri(to)
    except StorageError as error:
        raise InputError(f"--to {error}") from error
    return [copy_weights(request, target, locator, storage) for request in parse_members(tuple(specs))]


def _storage(s3_endpoint: str | None, *, no_sign_request: bool, request_payer: bool) -> Storage:
    return Storage(StorageConfig(s3_endpoint=s3_endpoint, no_sign_request=no_sign_request, request_payer=request_payer))
