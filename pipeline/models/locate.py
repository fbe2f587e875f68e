"""Locate the weights of a member: search in a fixed order, and check published ones against the hash in their name."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from pipeline.checkpoints.companions import COMPANIONS, CONFIG, FOLDERS_OF_PARTS
from pipeline.config.members import MemberRequest
from pipeline.errors import StorageError, WeightsError
from pipeline.models.download import (
    HUB_FILES,
    DownloadError,
    ProgressCallback,
    check_reachable,
    download_from_hub,
    download_url,
    ignore_progress,
)
from pipeline.storage import Storage, absolute_uri, join

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})$", re.IGNORECASE)
_HASH_IN_PUBLISHED_NAME = re.compile(r"-([0-9a-f]{8,64})$")  # some were published with nine or ten digits
_SUFFIXES = (".safetensors", ".pth")
_FOLDER_WANTED = "hf: takes a folder with model.safetensors and config.json, as save_pretrained writes it"


class Weights(Protocol):
    """Published weights, as far as their file is concerned: of the catalogue, or of the names that ship."""

    @property
    def file_name(self) -> str:
        """Name of the file."""

    @property
    def url(self) -> str | None:
        """Where it is downloaded from."""

    @property
    def hub_id(self) -> str | None:
        """Its repository on the Hugging Face hub."""


class Named(Protocol):
    """An architecture, as far as the files of its weights are concerned."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def short_name(self) -> str:
        """Its name without ``timm/``."""

    def matching(self, file_name: str) -> Weights | None:
        """The published weights whose file has this name."""

    def has_namesake_for(self, file_name: str) -> bool:
        """Whether the file belongs to another library's architecture of the same name."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The content of a checkpoint file.

    Attributes:
        uri: Where it came from.
        data: Its bytes.
        sha256: Hash of the bytes, hex.
        is_named: Whether the request names this file.
        is_published: Whether it is the published one: it comes from a cache, or was downloaded.
        companions: The files beside it that may describe it, by name; of a file that the request names.
    """

    uri: str
    data: bytes
    sha256: str
    is_named: bool = False
    is_published: bool = False
    companions: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Last part of its path."""
        return PurePosixPath(self.uri).name


class AmbiguousWeightsError(WeightsError):
    """More than one file of the weights directory fits an architecture."""


class Locator:
    """Searches the named checkpoint, the weights directory, the local caches and the internet, in that order.

    Args:
        weights_dir: ``--weights-dir``, or None.
        storage: Reads files and S3.
        watch: Called with the progress of downloads.
    """

    def __init__(self, weights_dir: str | None, storage: Storage, watch: ProgressCallback = ignore_progress) -> None:
        self._weights_dir = weights_dir
        self._storage = storage
        self._watch = watch

    def find(self, request: MemberRequest, architecture: Named, wanted: Weights) -> WeightsFile:
        """Read and check the weights of a member; download them if they are not here.

        Raises:
            WeightsError: They are not found, or do not match the hash in their name.
        """
        options = _explain_options(architecture, wanted)
        if request.checkpoint is not None:
            return self._read_named(request.checkpoint, architecture)
        if (path := self._find_beside(architecture, wanted, by_name=request.weights is not None)) is not None:
            return self._read(path, architecture, options)
        try:
            path = _find_cached(wanted)
            if path is None and wanted.hub_id is not None:
                path = str(download_from_hub(wanted.hub_id, architecture.short_name, self._watch))
            if path is not None:
                return replace(self._read(path, architecture, options), is_published=True)
            if wanted.url is not None:
                data = download_url(wanted.url, wanted.file_name, self._watch)
                return replace(self._cache_download(wanted, wanted.url, data, architecture), is_published=True)
        except DownloadError as error:
            raise _not_downloaded(wanted, error, options) from error
        raise WeightsError(f"no weights are published under the name {wanted.file_name}; {options}")

    def check(self, request: MemberRequest, architecture: Named, wanted: Weights) -> None:
        """Make sure that the weights of a member are here, or can be downloaded. Nothing is read.

        Raises:
            WeightsError: They are not.
        """
        options = _explain_options(architecture, wanted)
        if request.checkpoint is not None:
            self._check_own(request.checkpoint)
            return
        if wanted.url is None or self.find_local(architecture, wanted, by_name=request.weights is not None) is not None:
            return
        try:
            check_reachable(wanted.url)
        except DownloadError as error:
            raise _not_downloaded(wanted, error, options) from error

    def check_folder(self, request: MemberRequest) -> None:
        """Make sure that a folder of Hugging Face's is here.

        Raises:
            WeightsError: It is not.
        """
        assert request.checkpoint is not None
        self._check_own(request.checkpoint, f"; {_FOLDER_WANTED}")

    def _check_own(self, path: str, advice: str = "") -> None:
        self._check_weights_dir()
        try:
            self._storage.stat(absolute_uri(self._find_in_folder(path)))
        except StorageError as error:
            raise WeightsError(f"{error}{advice}") from error

    def find_local(self, architecture: Named, wanted: Weights, *, by_name: bool = False) -> str | None:
        """Find the file of weights in the weights directory or the local caches; None if it is in neither.

        Args:
            architecture: The architecture.
            wanted: The weights.
            by_name: Whether the weights were requested by name, so that others of the architecture do not count.

        Raises:
            WeightsError: The weights directory cannot be listed, or holds several that fit.
        """
        return self._find_beside(architecture, wanted, by_name=by_name) or _find_cached(wanted)

    def _find_beside(self, architecture: Named, wanted: Weights, *, by_name: bool) -> str | None:
        """Find the file in the weights directory."""
        if self._weights_dir is not None and (name := self._find_in_weights_dir(architecture, wanted, by_name=by_name)):
            return join(self._weights_dir, name)
        return None

    def _find_in_weights_dir(self, architecture: Named, wanted: Weights, *, by_name: bool) -> str | None:
        """Name of the file in the weights directory that belongs to an architecture; None without one."""
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

    def _check_weights_dir(self) -> None:
        """Make sure that the weights directory can be listed, though no file of it may be needed."""
        if self._weights_dir is not None:
            _ = self._names

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        """Names of the files in the weights directory."""
        try:
            start = join(absolute_uri(self._weights_dir or ""), "")
            uris = [entry.uri.removeprefix(start) for entry in self._storage.list(start, any_order=True)]
        except StorageError as error:
            raise WeightsError(f"--weights-dir {error}") from error
        return frozenset(name for name in uris if "/" not in name)

    def _read(self, path: str, architecture: Named, options: str) -> WeightsFile:
        uri, data = self._read_bytes(path, f"; {options}")
        return _check_hash(WeightsFile(uri, data, hashlib.sha256(data).hexdigest()), architecture)

    def _read_named(self, path: str, architecture: Named) -> WeightsFile:
        """Read a file that the request names. Unless its name is a published one, digits at its end are no hash."""
        file = self.read_own(path, "")
        return _check_hash(file, architecture) if architecture.matching(file.name) else file

    def read_own(self, path: str, advice: str = f"; {_FOLDER_WANTED}") -> WeightsFile:
        """Read a user's own file, or the one in a folder of timm's or Hugging Face's, and what describes it beside it.

        Args:
            path: Path or URI.
            advice: What to do if it is not there, as the end of the message.

        Raises:
            WeightsError: It cannot be read, the folder holds no file of a usual name, or the weights directory is
                missing.
        """
        self._check_weights_dir()
        uri, data = self._read_bytes(path, advice, own=True)
        folder = uri.rpartition("/")[0]
        companions = {name: content for name in COMPANIONS if (content := self._read_small(join(folder, name)))}
        return WeightsFile(uri, data, hashlib.sha256(data).hexdigest(), is_named=True, companions=companions)

    def _find_in_folder(self, path: str) -> str:
        """The file of weights in a folder; what is no folder stays as it is.

        Raises:
            WeightsError: There is none of a usual name, or the path is neither.
        """
        uri = absolute_uri(path)
        if os.path.exists(uri) and not os.path.isfile(uri) and not os.path.isdir(uri):
            raise WeightsError(f"{path}: neither a file nor a folder (a pipe or a device); copy it to a file first")
        is_folder = path.endswith("/") or os.path.isdir(uri)
        if not is_folder and not (uri.startswith("s3://") and self._storage.exists(join(uri, CONFIG))):
            return path
        found = next((name for name in HUB_FILES if self._storage.exists(join(uri, name))), None)
        if found is None:
            known = (what for name, what in FOLDERS_OF_PARTS.items() if self._storage.exists(join(uri, name)))
            what = next(known, f"a folder without {' or '.join(HUB_FILES)}: name the file in it")
            raise WeightsError(f"{path}: {what}")
        return join(uri, found)

    def _read_bytes(self, path: str, advice: str, *, own: bool = False) -> tuple[str, bytes]:
        try:
            uri = absolute_uri(self._find_in_folder(path) if own else path)
            return uri, self._storage.read(uri)
        except StorageError as error:
            raise WeightsError(f"{error}{advice}") from error

    def _read_small(self, uri: str) -> bytes:
        """A file that may be there; empty if it is not, or is out of reach."""
        try:
            return self._storage.read(uri)
        except StorageError:
            return b""

    def _cache_download(self, wanted: Weights, url: str, data: bytes, architecture: Named) -> WeightsFile:
        """Check a download, and write it to torch's cache."""
        target = str(_torch_cache(wanted))
        file = _check_hash(WeightsFile(target, data, hashlib.sha256(data).hexdigest()), architecture)
        try:
            self._storage.replace(target, data)
        except StorageError:
            return WeightsFile(url, data, file.sha256)  # the cache cannot be written: go on without it
        return file


def _not_downloaded(wanted: Weights, error: DownloadError, options: str) -> WeightsError:
    name = wanted.file_name if wanted.hub_id is None else wanted.hub_id
    return WeightsError(f"{name} is not here and could not be downloaded ({error}); {options}")


def _explain_options(architecture: Named, wanted: Weights) -> str:
    """Message that explains how to supply weights."""
    names = dict.fromkeys([wanted.file_name, f"{architecture.short_name}.safetensors"])
    return (
        f"supply it as {architecture.name}=PATH, or as {' or '.join(names)} in --weights-dir, "
        "or run once where it can be downloaded"
    )


def _check_hash(file: WeightsFile, architecture: Named) -> WeightsFile:
    pattern = _HASH_IN_PUBLISHED_NAME if architecture.matching(file.name) else _HASH_IN_NAME
    match = pattern.search(PurePosixPath(file.name).stem)
    if match and not file.sha256.startswith(match.group(1).lower()):
        raise WeightsError(
            f"{file.uri}: its name promises a sha256 that starts with {match.group(1)}, "
            f"but it is {file.sha256[:10]}...; the file is damaged or has the wrong name"
        )
    return file


def has_hash_of(sha256: str, published_name: str) -> bool:
    """Whether a file is the published one of this name, by the hash in the name."""
    match = _HASH_IN_PUBLISHED_NAME.search(PurePosixPath(published_name).stem)
    return match is not None and sha256.startswith(match[1].lower())


def _find_cached(wanted: Weights) -> str | None:
    """Path of weights in the caches of torch and the Hugging Face hub; None if they are in neither."""
    paths = [_torch_cache(wanted)]
    if wanted.hub_id:
        from huggingface_hub import try_to_load_from_cache

        found = (try_to_load_from_cache(wanted.hub_id, name) for name in HUB_FILES)
        paths += [Path(path) for path in found if isinstance(path, str)]
    return next((str(path) for path in paths if path.is_file()), None)


def _torch_cache(wanted: Weights) -> Path:
    return _hub_folder() / "checkpoints" / wanted.file_name


def _hub_folder() -> Path:
    """The folder of torch.hub. Where torch is not loaded, or not yet, it is found as ``torch.hub.get_dir`` does."""
    find = getattr(getattr(sys.modules.get("torch"), "hub", None), "get_dir", None)
    if find is not None:
        return Path(find())
    home = os.environ.get("TORCH_HOME", os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch"))
    return Path(os.path.expanduser(home)) / "hub"
