"""Find inputs: the tars and the loose images that INPUT arguments stand for."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pipeline.errors import InputError, ObjectForbidden, ObjectMissing, StorageError
from pipeline.inputs.given_names import expand_braces, read_list
from pipeline.inputs.left_out import describe_left_out, total_left_out
from pipeline.inputs.listings import Listing, Scan, is_matched, is_output, is_tar_name, place_below
from pipeline.inputs.same_places import find_same_places
from pipeline.stages.formats import SNIFFED_BYTES, begins_like_image
from pipeline.stages.member_names import is_image_name
from pipeline.storage import LISTED, Entry, Storage, absolute_uri, is_closed, is_hidden, look_at
from pipeline.text import fmt

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
        refusal: Why one of these cannot be read, with its URI; empty if all can, as far as is known.
        out: Where the job writes, which is no input; empty where nothing is written.
    """

    tars: dict[str, Entry] = field(default_factory=dict)
    loose: list[tuple[str, Iterable[Entry]]] = field(default_factory=list)
    any_readable: bool = False
    left_out: Counter[str] = field(default_factory=Counter)
    left_out_of: dict[str, Counter[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    refusal: str = ""
    out: str = ""

    def leave_out(self, *outputs: str) -> None:
        """Note what is left out because it was written here, or will be."""
        for folder in outputs:
            what = "is where this job writes" if folder == self.out else "was written by shardlabel"
            if (line := f"left out: {folder} {what}") not in self.notes:
                self.notes.append(line)


def find_inputs(names: Sequence[str], storage: Storage, *, prune: bool = False, out: str = "") -> Inputs:
    """Find the tars and loose images of all INPUTs.

    Args:
        names: INPUT arguments: paths, directories, patterns, brace ranges, prefixes, ``@`` lists.
        storage: How to reach them.
        prune: Whether INPUTs that are missing are left out, as long as there are others.
        out: Where the job writes, absolute. Nothing there tells so before the first run, which leaves it out as well.

    Raises:
        InputError: An INPUT is malformed, missing, forbidden, or holds nothing to label.
    """
    inputs, passed_over = Inputs(out=out), find_same_places(names)
    for name in names:
        if name in passed_over:
            where = "the same place as" if _is_same(name, passed_over[name]) else "in"
            inputs.notes.append(f"passed over: INPUT {name} is {where} INPUT {passed_over[name]}, by a link")
            continue
        found = Inputs(out=out)
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
        inputs.refusal = inputs.refusal or found.refusal
        inputs.left_out_of[_spelled_once(name)] = found.left_out
        inputs.notes += found.notes
    if prune and not inputs.tars and not inputs.loose:
        raise InputError("; ".join(["--prune: no INPUT is left that holds images", *inputs.notes]))
    inputs.left_out = Counter(total_left_out(inputs.left_out_of))
    if names and not inputs.any_readable:
        unread = itertools.chain(inputs.tars, (entry.uri for _, listing in inputs.loose for entry in listing))
        shown = fmt.few(list(unread))
        lines = [f"none of the inputs can be read: {shown}{_describe_refusal(inputs, shown)}", *inputs.notes]
        raise InputError("; ".join(lines))
    return inputs


def _is_same(name: str, other: str) -> bool:
    return os.path.samefile(absolute_uri(name), absolute_uri(other))


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
    files = [uri for uri in uris if not (_is_pattern(uri) or uri.endswith("/") or _is_local_folder(uri))]
    loose: dict[str, list[Entry]] = {}
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        found = list(pool.map(lambda uri: _look_up(uri, storage), files))
    entries = {uri: entry for uri, (entry, _) in zip(files, found, strict=True)}
    inputs.refusal = inputs.refusal or next((refusal for _, refusal in found if refusal), "")
    for uri in uris:
        if uri not in entries or (entries[uri].size_bytes < 0 and _is_s3_prefix(uri, storage)):
            _find_one(uri, storage, inputs)
        elif is_tar_name(uri):
            _add_tars(inputs, [entries[uri]])
        else:  # an image, whatever its name: a list is taken at its word
            loose.setdefault(_bucket_of(uri), []).append(entries[uri])
    images = [entry for listing in loose.values() for entry in listing]
    if images and not inputs.tars and not inputs.loose and all(entry.size_bytes < 0 for entry in images):
        unread = fmt.few([entry.uri for entry in images])
        inputs.notes.append(f"missing or forbidden: {unread}{_describe_refusal(inputs, unread)}")
        return
    for listing in loose.values():
        _add_loose(inputs, listing)


def _look_up(uri: str, storage: Storage) -> tuple[Entry, str]:
    """The entry of a name that was given, of size -1 if it is missing or forbidden, and why it is so."""
    try:
        return storage.stat(uri), ""
    except (ObjectMissing, ObjectForbidden) as error:
        return Entry(uri, -1, ""), str(error)


def _describe_refusal(inputs: Inputs, unread: str) -> str:
    """Why inputs cannot be read, as the end of a line that names them."""
    name, _, cause = inputs.refusal.partition(": ")
    return f" ({cause if unread == name else inputs.refusal})" if inputs.refusal else ""


def _is_local_folder(uri: str) -> bool:
    return not uri.startswith("s3://") and os.path.isdir(uri)


def _is_s3_prefix(uri: str, storage: Storage) -> bool:
    """Whether a name that is no object's is a prefix of some; names of shards and images are not tried."""
    if not uri.startswith("s3://") or is_tar_name(uri) or is_image_name(uri):
        return False
    try:
        return next(iter(storage.list(_as_prefix(uri), any_order=True)), None) is not None
    except StorageError:
        return False


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
        if not is_image_name(uri) and not _begins_like_image(entry, storage):
            raise InputError(f"INPUT {uri}: neither a tar nor an image by its name; a list of URIs is given as @{uri}")
        _add_loose(inputs, [entry])


def _begins_like_image(entry: Entry, storage: Storage) -> bool:
    with contextlib.closing(storage.open(entry)) as stream:
        return begins_like_image(stream.read(SNIFFED_BYTES))


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
    listing = Listing(fixed, storage, uri, (inputs.out,) if is_matched(inputs.out, uri) else ())
    found = listing.scan()
    inputs.leave_out(*listing.outputs)
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
    linked = find_same_places(sorted(name for name in names if os.path.isdir(name)))
    inputs.notes += [f"passed over: {path} leads to {other} or into it, by a link" for path, other in linked.items()]
    for path in sorted(names - linked.keys(), key=lambda name: (not os.path.isdir(name), name)):
        if any(str(parent) in folders for parent in PurePosixPath(path).parents):
            continue  # inside a directory that matches as well
        if os.path.isdir(path) and not is_closed(path):
            folders[path] = None
            if path == inputs.out or is_output(path, storage):
                inputs.leave_out(path)
            else:
                _find_in_directory(path + "/", storage, inputs)
        elif not os.path.isdir(path) and (entry := look_at(path)) is not None:
            files.append(entry)
    if is_matched(inputs.out, uri) and not os.path.isdir(inputs.out):  # this run makes it
        inputs.leave_out(inputs.out)
    found = Scan()
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
    """Find the shards and the loose images of a directory or prefix."""
    out = place_below(folder, inputs.out)
    listing = Listing(folder, storage, outputs=(out,) if out else ())
    found = listing.scan()
    inputs.leave_out(*(inputs.out if output == out else output for output in listing.outputs))
    inputs.left_out += found.count_left_out()
    _add_tars(inputs, [*found.tars, *found.unreadable])
    if found.num_images:
        inputs.loose.append((folder, listing))
        inputs.any_readable |= found.any_readable_image
        if found.tars:
            tars = fmt.plural(len(found.tars), "tar", "tars")
            images = fmt.plural(found.num_images, "loose image", "loose images")
            inputs.notes.append(f"{folder} holds {tars} and {images}: both are labelled")
    elif not found.tars and not found.unreadable:
        inputs.notes.append(f"{folder} holds neither tars nor image files")
