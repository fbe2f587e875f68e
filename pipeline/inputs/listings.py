"""What lies below a prefix, or matches a pattern: shards, loose images, and what is left out."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.errors import StorageError
from pipeline.inputs.left_out import LeftOut, extension_of
from pipeline.stages.member_names import is_image_name
from pipeline.storage import Entry, Storage, is_hidden, join

_MARKS = ("job.json", "export.json")  # of an output, and of a dataset
_LIST_MARK = "-classes.json"  # beside a list for annotators, whose images are in a folder beside it
_KEYS = ({"shardlabel", "fingerprint"}, {"drawn_from", "class_names"})  # of one, and of the other
_TAR_SUFFIXES = tuple(
    ".tar .tar.gz .tgz .taz .tar.bz2 .tbz2 .tbz .tb2 .tz2 .tar.xz .txz .tar.zst .tar.zstd .tzst".split()
)  # what is inside is told by its content


def is_output(folder: str, storage: Storage) -> bool:
    """Whether a folder or prefix is an output of this project: that of a job, or a dataset."""
    return any(_is_ours(join(folder, name), storage) for name in _MARKS)


def _is_ours(file: str, storage: Storage) -> bool:
    """Whether a file is one by which outputs, datasets and the images of a list are known."""
    try:
        content = json.loads(storage.read(file))
    except (StorageError, ValueError):
        return False
    return isinstance(content, dict) and any(keys <= content.keys() for keys in _KEYS)


def _marked_folder(uri: str) -> str:
    """The folder that a file marks as one of ours, if it is one of ours itself; empty for other files."""
    folder, _, name = uri.rpartition("/")
    if name in _MARKS:
        return folder
    return f"{uri.removesuffix(_LIST_MARK)}-images" if name.endswith(_LIST_MARK) else ""


def place_below(folder: str, out: str) -> str:
    """Where a listing of a folder or prefix, which ends with a slash, comes upon OUT; empty if it does not."""
    if out.startswith(folder) or not out or folder.startswith("s3://") or out.startswith("s3://"):
        return out if out.startswith(folder) else ""
    real, real_folder = os.path.realpath(out), os.path.join(os.path.realpath(folder), "")
    return folder + real.removeprefix(real_folder) if real.startswith(real_folder) else ""


def is_matched(out: str, pattern: str) -> bool:
    """Whether a pattern takes in what lies in OUT because it matches its name, or that of a folder above it."""
    if pattern.startswith("s3://"):
        return fnmatch.fnmatchcase(join(out, _MARKS[0]), pattern)
    steps, names = pattern.split("/"), out.split("/")
    return len(steps) <= len(names) and all(map(fnmatch.fnmatchcase, names, steps))


def is_tar_name(name: str) -> bool:
    """Whether a file name is a shard's."""
    return name.lower().endswith(_TAR_SUFFIXES)


@dataclass(slots=True)
class Scan:
    """What a listing holds.

    Attributes:
        tars: Entries with the name of a shard.
        unreadable: Folders that nobody may open, and links that lead nowhere and have no extension.
        num_images: Number of entries with the name of an image.
        any_readable_image: Whether one of these can be read, as far as is known.
        left_out: Other files, those that nobody may open included.
    """

    tars: list[Entry] = field(default_factory=list)
    unreadable: list[Entry] = field(default_factory=list)
    num_images: int = 0
    any_readable_image: bool = False
    left_out: LeftOut = field(default_factory=LeftOut)

    def add(self, entry: Entry) -> None:
        """Count an entry."""
        uri = entry.uri
        if is_tar_name(uri):
            self.tars.append(entry)
        elif is_image_name(uri):
            self.num_images += 1
            self.any_readable_image |= entry.size_bytes >= 0
        elif entry.size_bytes < 0 and (uri.endswith("/") or not extension_of(uri)) and not os.path.isfile(uri):
            self.unreadable.append(entry)
        else:
            self.left_out.add(uri)

    def count_left_out(self) -> Counter[str]:
        """Number of other files, by extension, without what tools put beside the shards."""
        return self.left_out.without_companions(tar.uri for tar in self.tars)


@dataclass(slots=True)
class Listing:
    """The images below a prefix, or those that match a pattern; each iteration lists them again.

    What shardlabel itself wrote further down is left out: outputs, datasets, and the images of lists for annotators.
    Labelled, those would be there twice.

    Attributes:
        prefix: What is listed.
        storage: How to reach it.
        pattern: Names must match it; None for all.
        outputs: Outputs to leave out, without a slash at their ends: those given, and those that a scan finds.
    """

    prefix: str
    storage: Storage
    pattern: str | None = None
    outputs: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry in self._entries(any_order=False) if is_image_name(entry.uri))

    def _entries(self, *, any_order: bool) -> Iterator[Entry]:
        entries = self.storage.list(self.prefix, unreadable=True, any_order=any_order)
        if self.prefix.startswith("s3://"):  # local listings leave hidden files out
            entries = (entry for entry in entries if not self._is_hidden(entry.uri))
        if self.outputs:
            outputs = tuple(f"{output}/" for output in self.outputs)
            entries = (entry for entry in entries if not entry.uri.startswith(outputs))
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

    def scan(self) -> Scan:
        """List all: once, and once more where outputs are to be left out."""
        found, marks = Scan(), dict[str, str]()
        for entry in self._entries(any_order=True):
            found.add(entry)
            if (folder := _marked_folder(entry.uri)) and folder != self.prefix.rstrip("/"):
                marks.setdefault(folder, entry.uri)
        outputs = tuple(
            folder
            for folder, file in sorted(marks.items())
            if folder not in self.outputs and _is_ours(file, self.storage)
        )
        if not outputs:
            return found
        self.outputs += outputs
        return self.scan()
