"""What is left out of the inputs: files that are neither shards nor images by their names, counted by extension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

_LONGEST_EXTENSION = 16
_MOST_EXTENSIONS = 100  # told apart; files that end in numbers would be as many
OTHERS = "others"
_MOST_SHOWN = 5


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
    return f"{total:,} {'file' if total == 1 else 'files'}, for their names ({', '.join(shown)})"


def _by_frequency(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
