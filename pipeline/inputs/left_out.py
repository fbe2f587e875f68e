"""What is left out of the inputs: files that are neither shards nor images by their names, counted by extension."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_LONGEST_EXTENSION = 16
_MOST_EXTENSIONS = 100  # told apart; files that end in numbers would be as many
OTHERS = "others"
_MOST_SHOWN = 5
# What img2dataset (.parquet, _stats.json), DALI and Energon (.idx) and NeMo Curator (all three) put beside each shard.
_BESIDE_SHARD = re.compile(r"(?:\.idx|\.parquet|_stats\.json)$")
_FIRST_DOT = re.compile(r"(?<=[^/])\.[^/]*$")  # where wds2idx cuts a shard's name


def extension_of(name: str) -> str:
    """The last extension of a name, in lower case and with its dot; with ``.tar``, where that comes before it.

    Empty if there is none: no dot but the first character, or something behind it that is no extension.
    """
    stem, dot, last = name.rpartition("/")[2].rpartition(".")
    if not stem or not 0 < len(last) <= _LONGEST_EXTENSION or not last.isascii() or " " in last:
        return ""
    archive = ".tar" if stem.lower().endswith(".tar") else ""
    return archive + dot + last.lower()


def count_left_out(counts: Counter[str], name: str) -> None:
    """Count a file that is left out."""
    extension = extension_of(name)
    counts[extension if extension in counts or len(counts) < _MOST_EXTENSIONS else OTHERS] += 1


@dataclass(slots=True)
class LeftOut:
    """Counts what a listing holds besides shards and images, in any order.

    Attributes:
        counts: Number of files by extension, without those that tools put beside shards.
        maybe_beside: Files that one of these tools may have put beside a shard, by their names.
    """

    counts: Counter[str] = field(default_factory=Counter)
    maybe_beside: list[str] = field(default_factory=list)

    def add(self, uri: str) -> None:
        """Count a file."""
        if _BESIDE_SHARD.search(uri):
            self.maybe_beside.append(uri)
        else:
            count_left_out(self.counts, uri)

    def without_companions(self, shards: Iterable[str]) -> Counter[str]:
        """Numbers by extension, without the indices, tables and statistics of these shards: nobody misses those."""
        names = set(shards) if self.maybe_beside else set()
        stems = {stem for uri in names for stem in (uri, uri[: uri.lower().rfind(".t")], _FIRST_DOT.sub("", uri))}
        total = self.counts.copy()
        for uri in self.maybe_beside:
            if _BESIDE_SHARD.sub("", uri) not in stems:
                count_left_out(total, uri)
        return total


def total_left_out(by_input: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Add up what is left out of each INPUT: numbers of files by extension, the most frequent first."""
    total: Counter[str] = Counter()
    for counts in by_input.values():
        total.update(counts)
    return dict(_by_frequency(total))


def describe_left_out(counts: Mapping[str, int]) -> str:
    """One line: ``4 files, for their names (3 .txt, 1 without extension)``."""
    total, in_order = sum(counts.values()), _by_frequency(counts)
    shown = [f"{count:,} {extension or 'without extension'}" for extension, count in in_order[:_MOST_SHOWN]]
    if rest := sum(count for _, count in in_order[_MOST_SHOWN:]):
        shown.append(f"{rest:,} others")
    return f"{total:,} {'file, for its name' if total == 1 else 'files, for their names'} ({', '.join(shown)})"


def _by_frequency(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
