"""Where the weights of a member are: found in a fixed order, and checked against the hash in their name."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from pipeline.config import MemberRequest
from pipeline.errors import StorageError, WeightsError
from pipeline.models.catalog import Architecture, Published
from pipeline.storage import Storage, absolute_uri, join

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})$", re.IGNORECASE)
_HASH_IN_PUBLISHED_NAME = re.compile(r"-([0-9a-f]{8,64})$")  # some were published with nine or ten digits
_SUFFIXES = (".safetensors", ".pth")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A checkpoint, whole.

    Attributes:
        uri: Where it came from.
        data: Its bytes.
        sha256: Their hash, hex.
    """

    uri: str
    data: bytes
    sha256: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(self.uri).name


def find_file(
    request: MemberRequest, architecture: Architecture, wanted: Published, weights_dir: str | None, storage: Storage
) -> WeightsFile:
    """Look in the checkpoint named, the weights directory, the local caches and the internet, in that order.

    Raises:
        WeightsError: It is nowhere, or is not what its name promises.
    """
    ways = _three_ways(architecture, wanted)
    if request.checkpoint is not None:
        return _read(request.checkpoint, architecture, storage, ways)
    if weights_dir is not None and (name := _pick(request, architecture, wanted, weights_dir, storage)):
        return _read(join(weights_dir, name), architecture, storage, ways)
    for path in _cached(wanted):
        if path.is_file():
            return _read(str(path), architecture, storage, ways)
    if wanted.hub_id is not None:
        return _read(str(_download_from_hub(wanted.hub_id, ways)), architecture, storage, ways)
    if wanted.url is not None:
        return _download(wanted, wanted.url, architecture, storage, ways)
    raise WeightsError(f"nobody published weights under the name {wanted.file_name}; {ways}")


def _three_ways(architecture: Architecture, wanted: Published) -> str:
    names = dict.fromkeys([wanted.file_name, f"{architecture.short_name}.safetensors"])
    return (
        f"supply it as {architecture.name}=PATH, or as {' or '.join(names)} in --weights-dir, "
        "or run once where it can be downloaded"
    )


def _read(path: str, architecture: Architecture, storage: Storage, ways: str) -> WeightsFile:
    try:
        uri = absolute_uri(path)
        data = storage.read(uri)
    except StorageError as error:
        raise WeightsError(f"{error}; {ways}") from error
    return _checked(uri, data, architecture)


def _checked(uri: str, data: bytes, architecture: Architecture) -> WeightsFile:
    file = WeightsFile(uri, data, hashlib.sha256(data).hexdigest())
    pattern = _HASH_IN_PUBLISHED_NAME if architecture.matching(file.name) else _HASH_IN_NAME
    match = pattern.search(PurePosixPath(file.name).stem)
    if match and not file.sha256.startswith(match.group(1).lower()):
        raise WeightsError(
            f"{uri}: its name promises a sha256 that starts with {match.group(1)}, but it is {file.sha256[:10]}...; "
            "the file is damaged or has the wrong name"
        )
    return file


def _pick(
    request: MemberRequest, architecture: Architecture, wanted: Published, weights_dir: str, storage: Storage
) -> str | None:
    """The file of a weights directory that belongs to an architecture."""
    names = _names_in(weights_dir, storage)
    for exact in (wanted.file_name, *(architecture.short_name + suffix for suffix in _SUFFIXES)):
        if exact in names:
            return exact
    for suffix in _SUFFIXES:
        found = [
            name
            for name in names
            if name.startswith(f"{architecture.short_name}-")
            and name.endswith(suffix)
            # asked for by name, weights are not replaced by others of the same architecture
            and (request.weights is None or architecture.matching(name) in {None, wanted})
            and not architecture.has_namesake_for(name)
        ]
        if len(found) > 1:
            listed = ", ".join(sorted(found))
            raise WeightsError(
                f"--weights-dir {weights_dir}: several files fit {architecture.name}: {listed}; "
                f"name one with {architecture.name}=PATH"
            )
        if found:
            return found[0]
    return None


def _names_in(folder: str, storage: Storage) -> list[str]:
    try:
        start = absolute_uri(folder).rstrip("/") + "/"
        uris = [entry.uri.removeprefix(start) for entry in storage.list(start)]
    except StorageError as error:
        raise WeightsError(f"--weights-dir {error}") from error
    return [name for name in uris if "/" not in name]


def _cached(wanted: Published) -> list[Path]:
    """Where torch and the Hugging Face hub keep what they downloaded."""
    paths = [_torch_cache(wanted)]
    if wanted.hub_id:
        from huggingface_hub import try_to_load_from_cache

        found = (try_to_load_from_cache(wanted.hub_id, name) for name in _HUB_FILES)
        paths += [Path(path) for path in found if isinstance(path, str)]
    return paths


def _torch_cache(wanted: Published) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / wanted.file_name


def _download(wanted: Published, url: str, architecture: Architecture, storage: Storage, ways: str) -> WeightsFile:
    """Fetch published weights, and keep them in torch's cache once they are known to be whole."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:  # noqa: S310 - an https URL of the catalogue
            data = response.read()  # all at once: that is what notices an answer cut short
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(f"{wanted.file_name} is not here and could not be downloaded ({reason}); {ways}") from error
    target = str(_torch_cache(wanted))
    file = _checked(target, data, architecture)
    try:
        storage.replace(target, data)
    except StorageError:
        return WeightsFile(url, data, file.sha256)  # a cache that cannot be written is no reason to stop
    return file


def _download_from_hub(hub_id: str, ways: str) -> Path:
    from huggingface_hub import constants, hf_hub_download, hf_hub_url

    try:
        if not constants.HF_HUB_OFFLINE:
            _reach(hf_hub_url(hub_id, _HUB_FILES[0]))
        return Path(hf_hub_download(hub_id, _HUB_FILES[0]))
    except Exception as error:  # the hub client's errors are of a dozen families
        reason = getattr(error, "reason", type(error).__name__)
        raise WeightsError(f"{hub_id} is not here and could not be downloaded ({reason}); {ways}") from error


def _reach(url: str) -> None:
    """Fail at once where there is no network: the hub's client tries for half a minute first."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_S):  # noqa: S310 - https
            pass
    except urllib.error.HTTPError:
        pass  # it answered; what it says is the client's business
