"""Find inputs: the tars and the loose images that INPUT arguments stand for."""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.errors import InputError, ObjectForbidden, ObjectMissing, StorageError
from pipeline.inputs.given_names import expand_braces, read_list
from pipeline.inputs.left_out import LeftOut, count_left_out, describe_left_out, extension_of, total_left_out
from pipeline.stages.member_names import is_image_name
from pipeline.storage import LISTED, Entry, Storage, absolute_uri, is_closed, is_hidden, look_at

_TAR_SUFFIXES = tuple(
    ".tar .tar.gz .tgz .taz .tar.bz2 .tbz2 .tbz .tb2 .tz2 .tar.xz .txz .tar.zst .tar.zstd .tzst".split()
)  # what is inside is told by its content
_WILDCARDS = frozenset("*?[")
_PARALLEL_READS = 32


@dataclass(slots=True)
class Inputs:
    """The inputs that were found.

    Attributes:
        tars: Tars by URI, in order, each once. A size of -1 means that it is missing or forbidden. So does that of a
            folder that nobody may open, and of a link that leads nowhere: either may hold anything.
        loose: Prefixes of loose images, each with its listing in order of URI. Sizes of -1 likewise.
        any_readable: Whether any of these can be read, as far as is known.
        left_out: Number of files that are left out for their names, by extension.
        left_out_of: The same of each INPUT.
        notes: Messages for the user, one line each.
    """

    tars: dict[str, Entry] = field(default_factory=dict)
    loose: list[tuple[str, Iterable[Entry]]] = field(default_factory=list)
    any_readable: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_of: dict[str, Counter[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def is_tar_name(name: str) -> bool:
    """Whether a file name is a shard's."""
    return name.lower().endswith(_TAR_SUFFIXES)


def find_inputs(names: Sequence[str], storage: Storage, *, prune: bool = False) -> Inputs:
    """Find the tars and loose images of all INPUTs.

    Args:
        names: INPUT arguments: paths, directories, patterns, brace ranges, prefixes, ``@`` lists.
        storage: How to reach them.
        prune: Whether INPUTs that are missing are left out, as long as there are others.

    Raises:
        InputError: An INPUT is malformed, missing, forbidden, or holds nothing to label.
    """
    inputs = Inputs()
    for name in names:
        found = Inputs()
        try:
            _find(name, storage, found)
        except StorageError as error:
            if prune and isinstance(error, ObjectMissing):
                inputs.notes.append(f"left out, because missing: INPUT {name}")
                continue
            raise InputError(f"INPUT {error}") from error
        if prune:
            found.tars = {uri: entry for uri, entry in found.tars.items() if not _is_missing(entry, storage)}
            if not found.tars and not found.loose:
                inputs.notes += found.notes or [f"left out, because nothing is there: INPUT {name}"]
                continue
        if not found.tars and not found.loose:
            left_out = [f"left out: {describe_left_out(found.left_out)}"] if found.left_out else []
            raise InputError("; ".join([f"INPUT {name}: no images found", *found.notes, *left_out]))
        _check_names(found)
        inputs.tars |= found.tars
        inputs.loose += found.loose
        inputs.any_readable |= found.any_readable
        inputs.left_out_of[_spelled_once(name)] = found.left_out
        inputs.notes += found.notes
    if prune and not inputs.tars and not inputs.loose:
        raise InputError("; ".join(["--prune: no INPUT is left that holds images", *inputs.notes]))
    inputs.left_out = Counter(total_left_out(inputs.left_out_of))
    if names and not inputs.any_readable:
        unread = itertools.chain(inputs.tars, (entry.uri for _, listing in inputs.loose for entry in listing))
        lines = [f"none of the inputs can be read: {_shorten(list(unread))}", *inputs.notes]
        raise InputError("; ".join(lines))
    return inputs


def _spelled_once(name: str) -> str:
    """An INPUT by one spelling, so that what it leaves out is counted once."""
    uri = name if name.startswith("@") else absolute_uri(name)
    return uri if uri.startswith("s3://") else uri.rstrip("/") or "/"


def _is_missing(entry: Entry, storage: Storage) -> bool:
    """Whether a shard is gone, and not only out of reach."""
    if entry.size_bytes >= 0 or entry.etag == LISTED:
        return False
    try:
        return not storage.exists(entry.uri)
    except StorageError:
        return False


def _check_names(inputs: Inputs) -> None:
    """Refuse URIs of shards and prefixes that are not UTF-8: they go into text columns. Keys may hold any bytes."""
    for uri in (*inputs.tars, *(prefix for prefix, _ in inputs.loose)):
        try:
            uri.encode()
        except UnicodeEncodeError as error:
            shown = os.fsencode(uri).decode("utf-8", "backslashreplace")
            raise InputError(
                f"INPUT {shown}: the path is not UTF-8; rename it, or label its parent directory"
            ) from error


def _find(name: str, storage: Storage, inputs: Inputs) -> None:
    if name.startswith("@"):
        _find_listed(read_list(name[1:], storage), storage, inputs)
    elif len(names := expand_braces(name)) > 1:
        _find_listed(names, storage, inputs)
    else:
        _find_one(absolute_uri(names[0]), storage, inputs)


def _find_listed(names: list[str], storage: Storage, inputs: Inputs) -> None:
    """Find the names of a list or a range. A missing shard is noted as an event later; it is no wrong request."""
    uris = [absolute_uri(name) for name in names]
    files = [uri for uri in uris if (is_tar_name(uri) or is_image_name(uri)) and not _is_pattern(uri)]
    loose: dict[str, list[Entry]] = {}
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        entries = dict(zip(files, pool.map(lambda uri: _look_up(uri, storage), files), strict=True))
    for uri in uris:
        if uri not in entries or os.path.isdir(uri):
            _find_one(uri, storage, inputs)
        elif is_tar_name(uri):
            _add_tars(inputs, [entries[uri]])
        else:
            loose.setdefault(_bucket_of(uri), []).append(entries[uri])
    images = [entry for found in loose.values() for entry in found]
    if images and not inputs.tars and not inputs.loose and all(entry.size_bytes < 0 for entry in images):
        inputs.notes.append(f"missing or forbidden: {_shorten([entry.uri for entry in images])}")
        return
    for found in loose.values():
        _add_loose(inputs, found)


def _look_up(uri: str, storage: Storage) -> Entry:
    """The entry of a name that was given; of size -1 if it is missing or forbidden."""
    try:
        return storage.stat(uri)
    except (ObjectMissing, ObjectForbidden):
        return Entry(uri, -1, "")


def _add_tars(inputs: Inputs, entries: Iterable[Entry]) -> None:
    """Add shards, each once, and what may be shards or hold them."""
    for entry in entries:
        inputs.tars.setdefault(entry.uri, entry)
        inputs.any_readable |= entry.size_bytes >= 0


def _add_loose(inputs: Inputs, entries: Iterable[Entry]) -> None:
    """Add loose images that were found one by one, each once, in order."""
    unique = sorted({entry.uri: entry for entry in entries}.values(), key=lambda entry: entry.uri)
    inputs.loose.append((_common_prefix([entry.uri for entry in unique]), unique))
    inputs.any_readable |= any(entry.size_bytes >= 0 for entry in unique)


def _bucket_of(uri: str) -> str:
    """The bucket of an S3 URI; ``/`` for a path."""
    return uri.split("/", 3)[2] if uri.startswith("s3://") else "/"


def _common_prefix(uris: Sequence[str]) -> str:
    """The deepest directory that holds all of some sorted URIs, with its slash."""
    first, last = uris[0], uris[-1]
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return first[: first.rindex("/", 0, same) + 1]


def _is_pattern(uri: str) -> bool:
    return not _WILDCARDS.isdisjoint(uri) and (uri.startswith("s3://") or not os.path.exists(uri))


def _find_one(uri: str, storage: Storage, inputs: Inputs) -> None:
    """Find one path, directory, prefix or pattern, which must exist."""
    if uri.startswith("s3://") and not _WILDCARDS.isdisjoint(uri.split("/")[2]):
        raise InputError(f"INPUT {uri}: the name of a bucket holds no wildcards")
    if _is_pattern(uri) and not (uri.startswith("s3://") and storage.exists(uri)):
        _find_pattern(uri, storage, inputs)
    elif _is_directory(uri, storage):
        _find_in_directory(_as_prefix(uri), storage, inputs)
    elif is_tar_name(uri):
        _add_tars(inputs, [storage.stat(uri)])
    else:
        entry = storage.stat(uri)
        if not is_image_name(uri):
            raise InputError(f"INPUT {uri}: neither a tar nor an image by its name; a list of URIs is given as @{uri}")
        _add_loose(inputs, [entry])


def _as_prefix(uri: str) -> str:
    """A directory with the slash at its end. An S3 prefix that has one, or several, is exactly what was asked for."""
    return uri if uri.endswith("/") else uri + "/"


def _is_directory(uri: str, storage: Storage) -> bool:
    if not uri.startswith("s3://"):
        return os.path.isdir(uri)
    if is_tar_name(uri) or is_image_name(uri):
        return False
    return next(iter(storage.list(_as_prefix(uri), any_order=True)), None) is not None or not storage.exists(uri)


def _find_pattern(uri: str, storage: Storage, inputs: Inputs) -> None:
    if not uri.startswith("s3://"):
        _find_local_pattern(uri, storage, inputs)
        return
    fixed = uri[: min(uri.index(char) for char in _WILDCARDS if char in uri)]
    listing = _Listing(fixed, storage, uri)
    found = listing.scan()
    inputs.left_out += found.count_left_out()
    _add_tars(inputs, found.tars)
    if found.num_images:
        inputs.loose.append((fixed[: fixed.rindex("/") + 1], listing))
        inputs.any_readable = True
    elif not found.tars:
        inputs.notes.append(f"{uri}: nothing matches")


def _find_local_pattern(uri: str, storage: Storage, inputs: Inputs) -> None:
    folders: dict[str, None] = {}
    files: list[Entry] = []
    steps = uri.split("/")  # glob leaves out what begins with a dot, unless the pattern does
    names = {
        name.rstrip("/")
        for name in glob.glob(uri, recursive=True)
        if not any(is_hidden(step) and step[0] != "." and step not in steps for step in name.split("/"))
    }
    for path in sorted(names, key=lambda name: (not os.path.isdir(name), name)):
        if any(str(parent) in folders for parent in PurePosixPath(path).parents):
            continue  # inside a directory that matches as well
        if os.path.isdir(path) and not is_closed(path):
            folders[path] = None
            _find_in_directory(path + "/", storage, inputs)
        elif not os.path.isdir(path) and (entry := look_at(path)) is not None:
            files.append(entry)
    found = _Scan()
    for entry in files:
        found.add(entry)
    closed = [Entry(f"{path}/", -1, LISTED) for path in _closed_folders(uri)]
    inputs.left_out += found.count_left_out()
    _add_tars(inputs, [*found.tars, *found.unreadable, *closed])
    if images := [entry for entry in files if is_image_name(entry.uri)]:
        _add_loose(inputs, images)
    if not (folders or files or closed):
        inputs.notes.append(f"{uri}: nothing matches")


def _closed_folders(pattern: str) -> list[str]:
    """Folders that a local pattern goes into, or names, and that nobody may open: ``glob`` passes them over."""
    steps = pattern.split("/")
    depths = [depth for depth in range(1, len(steps) + 1) if not _WILDCARDS.isdisjoint("/".join(steps[:depth]))]
    folders = itertools.chain.from_iterable(
        glob.iglob("/".join([*steps[:depth], ""]), recursive=True) for depth in depths
    )
    parents = glob.iglob("/".join(steps[: depths[0] - 1]) + "/")  # of the first wildcard
    return sorted({folder.rstrip("/") for folder in itertools.chain(parents, folders) if is_closed(folder)})


def _find_in_directory(folder: str, storage: Storage, inputs: Inputs) -> None:
    """Find the shards of a directory or prefix; if it holds no tars, its loose images."""
    listing = _Listing(folder, storage)
    found = listing.scan()
    inputs.left_out += found.count_left_out()
    _add_tars(inputs, [*found.tars, *found.unreadable])
    if not found.tars and not found.num_images:
        if not found.unreadable:
            inputs.notes.append(f"{folder} holds neither tars nor image files")
    elif not found.tars:
        inputs.loose.append((folder, listing))
        inputs.any_readable |= found.any_readable_image
    elif found.num_images:
        inputs.left_out += found.images
        inputs.notes.append(f"{folder} holds tars: its {found.num_images} loose images are left out")


@dataclass(slots=True)
class _Scan:
    """What a listing holds.

    Attributes:
        tars: Entries with the name of a shard.
        unreadable: Folders that nobody may open, and links that lead nowhere and have no extension.
        images: Number of entries with the name of an image, by extension.
        any_readable_image: Whether one of these can be read, as far as is known.
        left_out: Other files, those that nobody may open included.
    """

    tars: list[Entry] = field(default_factory=list)
    unreadable: list[Entry] = field(default_factory=list)
    images: Counter[str] = field(default_factory=Counter)
    any_readable_image: bool = False
    left_out: LeftOut = field(default_factory=LeftOut)

    @property
    def num_images(self) -> int:
        """Number of entries with the name of an image."""
        return self.images.total()

    def add(self, entry: Entry) -> None:
        """Count an entry."""
        uri = entry.uri
        if is_tar_name(uri):
            self.tars.append(entry)
        elif is_image_name(uri):
            count_left_out(self.images, uri)
            self.any_readable_image |= entry.size_bytes >= 0
        elif entry.size_bytes < 0 and (uri.endswith("/") or not extension_of(uri)) and not os.path.isfile(uri):
            self.unreadable.append(entry)
        else:
            self.left_out.add(uri)

    def count_left_out(self) -> Counter[str]:
        """Number of other files, by extension, without what tools put beside the shards."""
        return self.left_out.without_companions(tar.uri for tar in self.tars)


@dataclass(frozen=True, slots=True)
class _Listing:
    """The images below a prefix, or those that match a pattern; each iteration lists them again."""

    prefix: str
    storage: Storage
    pattern: str | None = None

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry in self._entries(any_order=False) if is_image_name(entry.uri))

    def _entries(self, *, any_order: bool) -> Iterator[Entry]:
        entries = self.storage.list(self.prefix, unreadable=True, any_order=any_order)
        if self.prefix.startswith("s3://"):  # local listings leave hidden files out
            entries = (entry for entry in entries if not self._is_hidden(entry.uri))
        if self.pattern is None:
            return entries
        matches = re.compile(fnmatch.translate(self.pattern)).match
        return (entry for entry in entries if matches(entry.uri))

    def _is_hidden(self, uri: str) -> bool:
        """Whether a key has a hidden name below the prefix; not if the pattern asks for hidden names."""
        start = len(self.prefix)
        if self.pattern is not None and "/." in self.pattern[start:]:
            return False
        first, *others = uri[start:].split("/")
        return any(map(is_hidden, others)) or (self.prefix.endswith("/") and is_hidden(first))

    def scan(self) -> _Scan:
        """List all, once."""
        found = _Scan()
        for entry in self._entries(any_order=True):
            found.add(entry)
        return found


def _shorten(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
