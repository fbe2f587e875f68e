"""Copy the weights of members to a directory or bucket, under names that ``--weights-dir`` finds again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.config.members import HUGGING_FACE, MemberRequest
from pipeline.errors import InputError, StorageError
from pipeline.models.catalog import Architecture, PublishedWeights, find
from pipeline.models.locate import Locator, WeightsFile
from pipeline.models.weights import resolve_with_file
from pipeline.storage import Storage, join


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file of weights in its new place.

    Attributes:
        spec: SPEC of the member that uses it, with ``--weights-dir``.
        source: Where it came from.
        uri: Where it is now.
        num_bytes: Its size.
        copied: False if the same file was there before.
    """

    spec: str
    source: str
    uri: str
    num_bytes: int
    copied: bool


def copy_weights(request: MemberRequest, target: str, locator: Locator, storage: Storage) -> Fetched:
    """Find, check and copy the weights of a member; a file that is there already is left alone.

    Raises:
        ModelError: The member is unknown.
        WeightsError: Its file is missing, damaged, refused, or does not fit.
        InputError: ``target`` cannot be written.
    """
    if request.arch == HUGGING_FACE:
        raise InputError(f"hf:{request.checkpoint}: a folder is copied as it is, and named by its new place")
    _, file = resolve_with_file(locator, request)
    architecture = find(request.arch)
    name = _target_name(architecture, architecture.choose(request.weights), file, request)
    uri = join(target, name)
    try:
        there = storage.exists(uri) and storage.read(uri) == file.data
        if not there:
            storage.replace(uri, file.data)
    except StorageError as error:
        raise InputError(f"--to {error}") from error
    spec = request.arch + (f"@{request.weights}" if request.weights else "")
    return Fetched(f"{spec}={uri}" if request.checkpoint else spec, file.uri, uri, len(file.data), copied=not there)


def _target_name(
    architecture: Architecture, wanted: PublishedWeights, file: WeightsFile, request: MemberRequest
) -> str:
    """File name that a weights directory is searched for; on the hub all files have the same name."""
    if request.checkpoint is not None or architecture.matching(file.name) or wanted.hub_id is None:
        return file.name
    suffix = ".safetensors" if PurePosixPath(file.name).suffix == ".safetensors" else ".pth"
    return architecture.short_name + suffix
