"""Where the weights of a member are: found in a fixed order, and checked against the hash in their name."""

from __future__ import annotations

import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from pipeline.config.members import MemberRequest
from pipeline.errors import StorageError, WeightsError
from pipeline.models.catalog import Architecture, Published
from pipeline.models.download import HUB_FILES, DownloadError, Watch, from_hub, from_url, ignore
from pipeline.storage import Storage, absolute_uri, join

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})$", re.IGNORECASE)
_HASH_IN_PUBLISHED_NAME = re.compile(r"-([0-9a-f]{8,64})$")  # some were published with nine or ten digits
_SUFFIXES = (".safetensors", ".pth")


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


class AmbiguousWeightsError(WeightsError):
    """More than one file of the weights directory fits an architecture."""


class Locator:
    """Looks in the checkpoint named, the weights directory, the local caches and the internet, in that order.

    Args:
        weights_dir: ``--weights-dir``, or None.
        storage: Reads files and S3.
        watch: Told how far downloads are.
    """

    def __init__(self, weights_dir: str | None, storage: Storage, watch: Watch = ignore) -> None:
        self._weights_dir = weights_dir
        self._storage = storage
        self._watch = watch

    def find(self, request: MemberRequest, architecture: Architecture, wanted: Published) -> WeightsFile:
        """The weights of a member, read and checked; downloaded where they are not here.

        Raises:
            WeightsError: They are nowhere, or are not what their name promises.
        """
        ways = _three_ways(architecture, wanted)
        if request.checkpoint is not None:
            return self._read(request.checkpoint, architecture, ways)
        if (place := self.place(architecture, wanted, by_name=request.weights is not None)) is not None:
            return self._read(place, architecture, ways)
        try:
            if wanted.hub_id is not None:
                return self._read(
                    str(from_hub(wanted.hub_id, architecture.short_name, self._watch)), architecture, ways
                )
            if wanted.url is not None:
                data = from_url(wanted.url, wanted.file_name, self._watch)
                return self._keep(wanted, wanted.url, data, architecture)
        except DownloadError as error:
            name = wanted.file_name if wanted.hub_id is None else wanted.hub_id
            raise WeightsError(f"{name} is not here and could not be downloaded ({error}); {ways}") from error
        raise WeightsError(f"nobody published weights under the name {wanted.file_name}; {ways}")

    def place(self, architecture: Architecture, wanted: Published, *, by_name: bool = False) -> str | None:
        """Where the weights of an architecture lie on this machine or in the weights directory; None if nowhere.

        Args:
            architecture: Whose.
            wanted: Which.
            by_name: They were asked for by name, so others of the same architecture do not replace them.

        Raises:
            WeightsError: The weights directory cannot be listed, or holds several that fit.
        """
        if self._weights_dir is not None and (name := self._pick(architecture, wanted, by_name=by_name)):
            return join(self._weights_dir, name)
        return next((str(path) for path in _cached(wanted) if path.is_file()), None)

    def _pick(self, architecture: Architecture, wanted: Published, *, by_name: bool) -> str | None:
        """The file of the weights directory that belongs to an architecture."""
        names = self._names
        for exact in (wanted.file_name, *(architecture.short_name + suffix for suffix in _SUFFIXES)):
            if exact in names:
                return exact
        for suffix in _SUFFIXES:
            found = [
                name
                for name in names
                if name.startswith(f"{architecture.short_name}-")
                and name.endswith(suffix)
                and (not by_name or architecture.matching(name) in {None, wanted})
                and not architecture.has_namesake_for(name)
            ]
            if len(found) > 1:
                listed = ", ".join(sorted(found))
                raise AmbiguousWeightsError(
                    f"--weights-dir {self._weights_dir}: several files fit {architecture.name}: {listed}; "
                    f"name one with {architecture.name}=PATH"
                )
            if found:
                return found[0]
        return None

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        """Names of the files in the weights directory."""
        try:
            start = absolute_uri(self._weights_dir or "").rstrip("/") + "/"
            uris = [entry.uri.removeprefix(start) for entry in self._storage.list(start)]
        except StorageError as error:
            raise WeightsError(f"--weights-dir {error}") from error
        return frozenset(name for name in uris if "/" not in name)

    def _read(self, path: str, architecture: Architecture, ways: str) -> WeightsFile:
        try:
            uri = absolute_uri(path)
            data = self._storage.read(uri)
        except StorageError as error:
            raise WeightsError(f"{error}; {ways}") from error
        return _checked(uri, data, architecture)

    def _keep(self, wanted: Published, url: str, data: bytes, architecture: Architecture) -> WeightsFile:
        """Keep what was downloaded in torch's cache, once it is known to be whole."""
        target = str(_torch_cache(wanted))
        file = _checked(target, data, architecture)
        try:
            self._storage.replace(target, data)
        except StorageError:
            return WeightsFile(url, data, file.sha256)  # a cache that cannot be written is no reason to stop
        return file


def _three_ways(architecture: Architecture, wanted: Published) -> str:
    names = dict.fromkeys([wanted.file_name, f"{architecture.short_name}.safetensors"])
    return (
        f"supply it as {architecture.name}=PATH, or as {' or '.join(names)} in --weights-dir, "
        "or run once where it can be downloaded"
    )


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


def _cached(wanted: Published) -> list[Path]:
    """Where torch and the Hugging Face hub keep what they downloaded."""
    paths = [_torch_cache(wanted)]
    if wanted.hub_id:
        from huggingface_hub import try_to_load_from_cache

        found = (try_to_load_from_cache(wanted.hub_id, name) for name in HUB_FILES)
        paths += [Path(path) for path in found if isinstance(path, str)]
    return paths


def _torch_cache(wanted: Published) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / wanted.file_name
