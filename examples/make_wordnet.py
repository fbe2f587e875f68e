"""Make ``pipeline/taxonomy/wordnet.tsv``: the tree of WordNet 3.0 above ImageNet's 1,000 classes.

It reads WordNet's own database, which Debian and Ubuntu have as a package:

    apt install wordnet-base && python examples/make_wordnet.py

A class is a synset of nouns, and its id (``n02085620``) is where that stands in ``data.noun``. From each class it
climbs to ``entity.n.01``. Of several hypernyms WordNet's first is taken, so that the result is a tree: 75 of the 1,860
synsets above and among the classes have several. The first is what every reader of WordNet gives first, and mostly what
a thing is, before what it is used for: a dog is a canine before it is a domestic animal, and stays with the wolves. The
shortest path would part them; the hypernym with most classes would take a spoon out of the cutlery, as a container.

Each row is a node: its id, its name (``dog.n.01``: the first lemma and the number of its sense), its parent's name, and
a readable name. Groups come first, parents before children; then the classes in order of their index, with the names
that torchvision has for them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.labels import imagenet_meanings, imagenet_names

TARGET = Path(__file__).parent.parent / "pipeline" / "taxonomy"
LICENCE_LINES = 29  # at the head of each of WordNet's files


@dataclass(frozen=True)
class Synset:
    """A line of ``data.noun``: where it stands (bytes), its first lemma, and where its hypernyms stand."""

    offset: int
    lemma: str
    hypernyms: tuple[int, ...]

    @property
    def id(self) -> str:
        """As ImageNet writes it."""
        return f"n{self.offset:08d}"


def main() -> None:
    """Read WordNet, write the tree and the licence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), help="folder with data.noun")
    parser.add_argument("--to", type=Path, default=TARGET, help="folder to write to")
    options = parser.parse_args()
    names = imagenet_names()
    offsets = [int(wordnet_id[1:]) for wordnet_id, _ in imagenet_meanings(names)]
    data = (options.wordnet / "data.noun").read_bytes()
    synsets = read_closure(data, offsets)
    senses = read_senses(options.wordnet / "index.noun", {synset.lemma.lower() for synset in synsets.values()})
    called = {offset: name_of(synset, senses) for offset, synset in synsets.items()}
    groups = list(walk_groups(synsets, offsets))
    titles = {offset: synsets[offset].lemma.replace("_", " ") for offset in groups} | dict(
        zip(offsets, names, strict=True)
    )
    rows = ["id\tname\tparent\ttitle"]
    for offset in (*groups, *offsets):
        parent = called[synsets[offset].hypernyms[0]] if synsets[offset].hypernyms else ""
        rows.append(f"{synsets[offset].id}\t{called[offset]}\t{parent}\t{titles[offset]}")
    (options.to / "wordnet.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    licence = [line[4:].rstrip() for line in data.decode("latin-1").splitlines()[:LICENCE_LINES]]
    (options.to / "LICENSE.wordnet").write_text("\n".join(licence) + "\n", encoding="utf-8")
    print(f"{len(groups)} groups above {len(offsets)} classes, of {len(synsets) - len(offsets)} that lie on any path")


def read_closure(data: bytes, offsets: Iterable[int]) -> dict[int, Synset]:
    """The synsets that stand there, and all that lie above them by any path."""
    found: dict[int, Synset] = {}
    waiting = list(offsets)
    while waiting:
        offset = waiting.pop()
        if offset not in found:
            found[offset] = read_synset(data, offset)
            waiting += found[offset].hypernyms
    return found


def read_synset(data: bytes, offset: int) -> Synset:
    """Parse a line: ``offset file n words word id ... pointers symbol offset n 0000 ... | gloss``. See wndb(5)."""
    words = data[offset : data.index(b"|", offset)].decode("ascii").split()
    assert int(words[0]) == offset
    at = 4 + 2 * int(words[3], 16)
    pointers = [words[at + 1 + 4 * n : at + 5 + 4 * n] for n in range(int(words[at]))]
    return Synset(offset, words[4], tuple(int(pointer[1]) for pointer in pointers if pointer[0] in {"@", "@i"}))


def read_senses(path: Path, lemmas: set[str]) -> dict[str, list[int]]:
    """Where the senses of lemmas stand, the first sense first: ``lemma n senses pointers symbol ... senses tagged``."""
    found = {}
    for line in path.read_text("ascii").splitlines():
        lemma, *words = line.split()
        if not line.startswith(" ") and lemma in lemmas:
            found[lemma] = [int(offset) for offset in words[-int(words[1]) :]]
    return found


def name_of(synset: Synset, senses: dict[str, list[int]]) -> str:
    """``dog.n.01``, as in NLTK."""
    lemma = synset.lemma.lower()
    return f"{lemma}.n.{senses[lemma].index(synset.offset) + 1:02d}"


def walk_groups(synsets: dict[int, Synset], offsets: Iterable[int]) -> Iterator[int]:
    """What lies above the classes by first hypernyms, parents before children, by their first class."""
    seen = set()
    for offset in offsets:
        path = []
        while synsets[offset].hypernyms:
            offset = synsets[offset].hypernyms[0]
            path.append(offset)
        for group in reversed(path):
            if group not in seen:
                seen.add(group)
                yield group


if __name__ == "__main__":
    main()
