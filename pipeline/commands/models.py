"""Models: list the architectures with their published weights, and copy weights for machines without internet."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.config.members import parse_members
from pipeline.config.settings import StorageConfig
from pipeline.errors import InputError, StorageError
from pipeline.models.architecture_names import list_names
from pipeline.models.cards import ArchitectureCard, make_card
from pipeline.models.catalog import find
from pipeline.models.copying import Fetched, copy_weights
from pipeline.models.download import ProgressCallback, ignore_progress
from pipeline.models.known_names import TIMM_PREFIX
from pipeline.models.locate import Locator
from pipeline.storage import Storage, absolute_uri

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
